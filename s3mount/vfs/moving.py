"""The move of a directory: all keys below it, several at a time. Where the store renames, each key is renamed; else it
is copied, and the former keys are deleted once every copy exists.

The order, and what a crash leaves: an intent is written first, so the next start goes on; then each object is at one of
its keys at least, always. A move that fails is undone: the source is whole again. So is one that another client
took objects from meanwhile, for it may be moving the same directory. Copies, and former objects, that the
store would not delete stay with their intent and are deleted by tries in the background, then by the next start; the
move itself has succeeded once every object is at its new key, and answers 0. What was renamed and cannot be renamed
back stays there, and the log says so: to move it later would undo what programs have done meanwhile. A store that
forbids deleting would leave everything twice, so it is asked to delete a key that nobody has before anything is copied.

What is open moves through its File, which sends later uploads to the new key. What programs change below the directory
while it is copied is copied again, so that nothing acknowledged stays behind. Knows neither where the directory may go
nor what was there: `rename` has seen to both.
"""

import logging
from contextlib import nullcontext
from functools import partial

import trio

from s3mount.config import RESERVED
from s3mount.data.intents import Intent, Source, seconds_of
from s3mount.data.parallel import each
from s3mount.data.removal import remove, remove_ghosts, speaks_of_others
from s3mount.data.version import Version
from s3mount.errors import (
    Busy,
    LostReply,
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    S3MountError,
)
from s3mount.store.base import ABSENT, Condition, Listed, Undeleted
from s3mount.vfs.below import Copy, files_below, forget, repoint
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import DIRECTORY_HEADERS, check_key, escaped
from s3mount.vfs.known_below import list_below
from s3mount.vfs.transits import Progress
from s3mount.vfs.tree import Tree
from s3mount.vfs.versions import as_listed, move_version

log = logging.getLogger(__name__)

MOVES_MAX = 16
PASSES_MAX = 16
"""How often a directory that is being changed is looked at again before its move is given up."""
INTENT_OBJECTS_MIN = 2
"""One object is at one of its keys at least without an intent."""
UNRECORDED_MAX = 64
UNRECORDED_SHARE = 16
"""Copies of objects that were uploaded by parts have other etags; so many of them, or one in so many, may be left twice
by a crash. Each record tells of all objects anew, and takes as long as there are many."""
NOBODYS = f"{RESERVED}-moved"
"""A name below the directory that no client gives to anything."""


async def move_directory(tree: Tree, inode: Inode, prefix: str, *, replaces: bool) -> None:
    """Move all keys below, open files and files that are not in the bucket yet included. `replaces`: onto an empty
    directory, which stays should the move fail."""
    # Between its end and `tree.moving`, which lets nothing be deferred any more, there is no checkpoint.
    await tree.deleting.settle_below(inode.contents.prefix)
    former = inode.contents.prefix
    progress = Progress(former, prefix)
    move = DirectoryMove(tree, inode, former, prefix, progress)
    with tree.transits.shown(progress), tree.transits.of(former) if tree.store.renames else nullcontext():
        tree.moving[former] = 0
        try:
            await move.bring_all()
            # No checkpoint since the last look: from here on programs find everything at its new key.
            repoint(tree, inode, prefix, move.copies)
            for place in (former, prefix):
                tree.told.forget_directories(place)
        except S3MountError:
            await move.undo(replaces=replaces)
            raise
        finally:
            del tree.moving[former]
    await move.leave_former()
    tree.listings.prefix_removed(former, trio.current_time())


class DirectoryMove:
    """The copies of one directory's move. Programs go on changing what is below its former prefix meanwhile.

    The state: `copies` by the former key, the inodes `moved` through their File with former and new key, the marker
    written for a directory that had no key, the intent and what it says of each object, how many copies with an etag of
    their own it does not tell yet, what was listed and then gone, whether programs wait for what is on its way.
    """

    def __init__(self, tree: Tree, inode: Inode, former: str, prefix: str, progress: Progress) -> None:
        self._tree = tree
        self._inode = inode
        self._former = former
        self._prefix = prefix
        self._progress = progress
        self.copies: dict[str, Copy] = {}
        self._moved: list[tuple[Inode, str, str]] = []
        self._marker: list[tuple[str, str]] = []
        self._intent: Intent | None = None
        self._sources: dict[str, Source] = {}
        self._unrecorded = 0
        self._lost: set[str] = set()
        self._in_transit = tree.store.renames

    @property
    def _renames(self) -> bool:
        """Whether keys are renamed: never when programs were not told to wait, whatever was found out since."""
        return self._in_transit and self._tree.store.renames

    async def bring_all(self) -> None:
        """Bring everything to its new key, until nothing was changed since the listing. Raises Busy when that goes on
        for ever, TooMany."""
        tree, former, prefix = self._tree, self._former, self._prefix
        for _ in range(PASSES_MAX):
            before = tree.moving[former]
            found = await list_below(tree, self._inode)
            for listed in found:
                check_key(self._target(listed.key))
            self._lost.difference_update(listed.key for listed in found)
            await self._intend(found)
            await self._forget_gone({listed.key for listed in found})
            await self._bring(found)
            if not found and not self._moved and not self._marker and not self.copies:
                stored = await tree.store.put(prefix, (), DIRECTORY_HEADERS)
                self._marker.append((prefix, stored.etag))
            await self._move_opened()
            # A file that was open when the others were copied may have been closed before its turn came.
            settled = self.copies.keys() | {old for _, old, _ in self._moved}
            if tree.moving[former] == before and all(listed.key in settled for listed in found):
                self._check_whole()
                return
        raise Busy(f"{self._inode.path} is changed again and again while it is moved")

    def _check_whole(self) -> None:
        """Raises Busy when another client took away what was to be moved: it may be moving the same directory, and each
        would have a part of it. What is here goes back then, so that one of them finds the rest where it was."""
        lost = self._tree.transits.missed(self._progress, self._lost)
        if lost:
            log.error(
                "directory was not moved, another client took objects out of it meanwhile from=%s to=%s count=%d of=%d",
                escaped(self._former), escaped(self._prefix), len(lost), len(self._sources),
            )  # fmt: skip
            raise Busy(f"another client took {len(lost)} objects out of {self._inode.path} while it was moved")

    async def _intend(self, found: list[Listed]) -> None:
        """Write down what is about to be moved, before it is; more of it when programs have changed something."""
        tree = self._tree
        new = {
            listed.key[len(self._former) :]: Source(listed.etag, listed.size, seconds_of(listed)) for listed in found
        }
        if self._sources | new == self._sources:
            return
        self._sources |= new
        self._progress.total = len(self._sources)
        if self._intent is not None:
            self._intent = await tree.undertakings.record(self._intent, self._known(), "moving")
        elif len(self._sources) >= INTENT_OBJECTS_MIN:
            if not self._renames:
                await tree.store.delete(self._former + NOBODYS)  # may we?
            self._intent = await tree.undertakings.begin(self._former, self._prefix, self._sources)

    def _target(self, key: str) -> str:
        return self._prefix + key[len(self._former) :]

    def _in_place(self) -> set[str]:
        """The former keys of files that are at their new key; what the former has now is another client's."""
        return {old for child, old, key in self._moved if child.linked and child.key == key}

    async def _forget_gone(self, keys: set[str]) -> None:
        """Delete the copies of what was deleted meanwhile."""
        gone = [key for key, copy in self.copies.items() if key not in keys and not copy.renamed]
        _log_left(await remove(self._tree.store, [(copy.target, copy.etag) for copy in map(self.copies.pop, gone)]))

    async def _bring(self, found: list[Listed]) -> None:
        others = {file.key for _, file in files_below(self._inode)} | self._in_place()

        async def bring(listed: Listed) -> None:
            try:
                await self._bring_one(listed)
                self._progress.done += 1
            except (NotFound, PreconditionFailed) as error:
                if isinstance(error, NotFound) and not speaks_of_others(listed.key):
                    self._lost.add(listed.key)
                self._tree.moving[self._former] += 1  # changed since it was listed: look again

        wanted = [
            listed
            for listed in found
            if listed.key not in others
            and ((copied := self.copies.get(listed.key)) is None or copied.source.etag != listed.etag)
        ]
        # Markers one after another, from the top, before what is below them: SeaweedFS loses one that is written while
        # it makes the directory for a key below (measured).
        for listed in wanted:
            if listed.key.endswith("/"):
                await bring(listed)
        # A flag is there before what it speaks of.
        for flags in (True, False):
            files = [
                listed for listed in wanted if not listed.key.endswith("/") and speaks_of_others(listed.key) is flags
            ]
            await each(files, bring, at_once=MOVES_MAX)

    async def _bring_one(self, listed: Listed) -> None:
        store, target = self._tree.store, self._target(listed.key)
        before = self.copies.get(listed.key)
        try:
            if listed.key.endswith("/") and not listed.size:
                # Written anew: SeaweedFS copies no marker (NoSuchKey, and leaves an entry at the target), renames none.
                stored = await store.put(target, (), DIRECTORY_HEADERS)
                self.copies[listed.key] = Copy(listed, target, stored.etag)
                return
            # A flag is copied: the one at the former key goes last.
            if self._renames and not speaks_of_others(listed.key):
                condition = ABSENT if before is None else Condition(etag=before.etag)
                try:
                    await store.rename(
                        listed.key, target, source_etag=listed.etag, source_size=listed.size, condition=condition
                    )
                except NotImplementedByStore:
                    pass  # copied, from now on
                else:
                    self.copies[listed.key] = Copy(listed, target, listed.etag, renamed=True)
                    return
            stored = await store.copy(listed.key, target, source_etag=listed.etag, source_size=listed.size)
            self.copies[listed.key] = Copy(listed, target, stored.etag)
            if stored.etag != listed.etag:
                await self._record_copy()
        except LostReply:
            # It may be there, and most likely with the etag of its source.
            renamed = self._renames and not speaks_of_others(listed.key)
            self.copies[listed.key] = Copy(listed, target, listed.etag, renamed=renamed)
            raise

    async def _record_copy(self) -> None:
        """One more copy that cannot be told by its source's etag: who finishes this would leave both."""
        self._unrecorded += 1
        many = max(UNRECORDED_MAX, len(self.copies) // UNRECORDED_SHARE)
        if self._intent is not None and self._unrecorded >= many:
            self._unrecorded = 0
            try:
                await self._tree.undertakings.record(self._intent, self._known(), "moving")
            except S3MountError as error:
                log.info("copies of a rename were not recorded key=%s reason=%s", escaped(self._intent.key), error)

    async def _move_opened(self) -> None:
        """Move what is open through its File, those too that were opened while the others were copied."""
        tree, former = self._tree, self._former
        while opened := [(child, file) for child, file in files_below(self._inode) if file.key.startswith(former)]:
            for child, file in opened:
                old = file.key
                key = self._target(old)
                try:
                    await file.rename(key, partial(move_version, tree, key))
                except NotFound:
                    if child.linked:
                        raise
                    continue  # unlinked meanwhile
                self.copies.pop(old, None)
                child.known = None if file.base is None else as_listed(tree, file.base)
                tree.stored_here(child)
                self._moved.append((child, old, key))
                self._progress.done += 1

    async def leave_former(self) -> None:
        """Delete what was copied; everything is at its new key."""
        tree, intent = self._tree, self._intent
        copied = {key: copy for key, copy in self.copies.items() if not copy.renamed}
        if intent is not None and any(not speaks_of_others(key) for key in copied):
            try:
                intent = await tree.undertakings.record(intent, self._recorded(), "deleting")
            except S3MountError as error:
                log.info("phase of a rename was not recorded key=%s reason=%s", escaped(intent.key), error)
        left = await remove(tree.store, [(key, copy.source.etag) for key, copy in copied.items()])
        _log_left(left)
        moved = [*self.copies, *(old for _, old, _ in self._moved)]
        await remove_ghosts(tree.store, moved, self._former, but=[one.key for one in left])
        if intent is None:
            return
        if any(not isinstance(one.error, PreconditionFailed) for one in left):
            tree.undertakings.leave(intent, self._recorded(), "deleting")
        else:
            await tree.undertakings.end(intent)

    def _known(self) -> dict[str, Source]:
        """All that is to be moved, with the etags of the copies that are made of it as it is now."""
        recorded = self._recorded()
        return {
            name: recorded[name] if name in recorded and recorded[name].etag == source.etag else source
            for name, source in self._sources.items()
        }

    def _recorded(self) -> dict[str, Source]:
        """What is at its new key, and the etag it has there."""
        cut = len(self._former)
        return {
            key[cut:]: Source(
                copy.source.etag,
                copy.source.size,
                seconds_of(copy.source),
                "" if copy.etag == copy.source.etag else copy.etag,
            )
            for key, copy in self.copies.items()
        }

    async def undo(self, *, replaces: bool) -> None:
        """Give what was moved its former key again, and delete the copies."""
        tree = self._tree
        for child, old, key in self._moved:
            if not child.linked or child.key != key:
                continue
            file, known = child.own.file, child.known
            try:
                if file is not None:
                    await file.rename(old, partial(move_version, tree, old))
                    child.known = None if file.base is None else as_listed(tree, file.base)
                elif known is not None:
                    child.known = as_listed(
                        tree, await move_version(tree, old, Version(known.key, known.etag, known.size))
                    )
            except S3MountError as error:
                log.error("rename left a file at its new name key=%s reason=%s", escaped(key), error)
        astray = await self._give_back()
        copied = [(copy.target, copy.etag) for copy in self.copies.values() if not copy.renamed]
        left = await remove(tree.store, copied + self._marker)
        _log_left(left)
        if self.copies or self._moved:
            brought = [*(copy.target for copy in self.copies.values()), *(key for _, _, key in self._moved)]
            kept = [one.key for one in left] + [self._prefix] * replaces
            await remove_ghosts(tree.store, brought, self._prefix, but=kept)
        stuck = {one.key for one in left if not isinstance(one.error, NotFound | PreconditionFailed)}
        if self.copies or self._moved or not tree.store.away:
            forget(self._inode)  # else nothing was touched, and in an outage nothing could be learnt again
        if astray:
            log.error(
                "rename could not be undone, files are at their new names from=%s to=%s count=%d",
                escaped(self._former), escaped(self._prefix), astray,
            )  # fmt: skip
        if self._intent is None:
            return
        if stuck:
            sources = {name: source for name, source in self._recorded().items() if self._prefix + name in stuck}
            tree.undertakings.leave(self._intent, sources, "undoing")
        else:
            await tree.undertakings.end(self._intent)

    async def _give_back(self) -> int:
        """Rename to the former keys what was renamed; how many could not be."""
        tree = self._tree
        astray = 0

        async def give_back(copy: Copy) -> None:
            nonlocal astray
            try:
                await move_version(tree, copy.source.key, Version(copy.target, copy.etag, copy.source.size))
            except (NotFound, PreconditionFailed):
                return  # it was not renamed, or is another one now
            except S3MountError as error:
                astray += 1
                log.warning("rename left a file at its new name key=%s reason=%s", escaped(copy.target), error)

        await each([copy for copy in self.copies.values() if copy.renamed], give_back, at_once=MOVES_MAX)
        return astray


def _log_left(left: list[Undeleted]) -> None:
    """What is another version by now stays, and what the store refuses to delete."""
    for one in left:
        log.warning("rename left an object key=%s reason=%s", escaped(one.key), one.error)
