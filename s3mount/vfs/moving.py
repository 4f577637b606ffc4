"""The move of a directory: all keys below it, by server-side copy and delete.

They are copied several at a time, flags first, and deleted once every copy exists, flags last, so that nobody sees
special attributes in a directory without its flag. When a copy fails, the copies made are removed again and the source
is whole. What is open moves through its File, which sends later uploads to the new key. What programs change below the
directory while it is copied is copied again, so that nothing acknowledged stays behind. Knows neither where the
directory may go nor what was there: `rename` has seen to both.
"""

import logging
from functools import partial
from typing import NamedTuple

import trio

from s3mount.data.file import File
from s3mount.data.version import Version
from s3mount.errors import (
    BadReply,
    Busy,
    LostReply,
    NotFound,
    NotSupported,
    PreconditionFailed,
    S3MountError,
    StoreError,
)
from s3mount.store.base import Condition, Listed
from s3mount.vfs.flags import FLAG
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import DIRECTORY_HEADERS, check_key, escaped
from s3mount.vfs.tree import Tree
from s3mount.vfs.versions import as_listed, move_version

log = logging.getLogger(__name__)

COPIES_MAX = 16
PASSES_MAX = 16
"""How often a directory that is being changed is looked at again before its move is given up."""


class Copy(NamedTuple):
    """One copy made for a directory that moves."""

    source: Listed
    target: str
    etag: str


async def move_directory(tree: Tree, inode: Inode, prefix: str) -> None:
    """Move all keys below, open files and files that are not in the bucket yet included."""
    former = inode.contents.prefix
    move = DirectoryMove(tree, inode, former, prefix)
    tree.moving[former] = 0
    try:
        await move.copy_all()
        # No checkpoint since the last look: from here on programs find everything at its new key.
        _repoint(tree, inode, prefix, move.copies)
    except S3MountError:
        await move.undo()
        raise
    finally:
        del tree.moving[former]
    await _delete(tree, [(key, copy.source.etag) for key, copy in move.copies.items()])
    tree.listings.prefix_removed(former, trio.current_time())


class DirectoryMove:
    """The copies of one directory's move. Programs go on changing what is below its former prefix meanwhile.

    The state: `copies` by the former key, the inodes `moved` through their File with former and new key, and the
    marker written for a directory that had no key.
    """

    def __init__(self, tree: Tree, inode: Inode, former: str, prefix: str) -> None:
        self._tree = tree
        self._inode = inode
        self._former = former
        self._prefix = prefix
        self.copies: dict[str, Copy] = {}
        self._moved: list[tuple[Inode, str, str]] = []
        self._marker: list[tuple[str, str]] = []

    async def copy_all(self) -> None:
        """Copy until nothing was changed since the listing. Raises Busy when that goes on for ever."""
        tree, former, prefix = self._tree, self._former, self._prefix
        for _ in range(PASSES_MAX):
            before = tree.moving[former]
            found = await _all_below(tree, former)
            for listed in found:
                check_key(self._target(listed.key))
            await self._forget_gone({listed.key for listed in found})
            await self._copy(found)
            if not found and not self._moved and not self._marker:
                stored = await tree.store.put(prefix, (), DIRECTORY_HEADERS)
                self._marker.append((prefix, stored.etag))
            await self._move_opened()
            # A file that was open when the others were copied may have been closed before its turn came.
            settled = self.copies.keys() | {old for _, old, _ in self._moved}
            if tree.moving[former] == before and all(listed.key in settled for listed in found):
                return
        raise Busy(f"{self._inode.path} is changed again and again while it is moved")

    def _target(self, key: str) -> str:
        return self._prefix + key[len(self._former) :]

    def _in_place(self) -> set[str]:
        """The former keys of files that are at their new key; what the former has now is another client's."""
        return {old for child, old, key in self._moved if child.linked and child.key == key}

    async def _forget_gone(self, keys: set[str]) -> None:
        """Delete the copies of what was deleted meanwhile."""
        gone = [key for key in self.copies if key not in keys]
        await _delete(self._tree, [(copy.target, copy.etag) for copy in map(self.copies.pop, gone)])

    async def _copy(self, found: list[Listed]) -> None:
        tree = self._tree
        others = {file.key for _, file in _files_below(self._inode)} | self._in_place()
        failures: list[S3MountError] = []
        limit = trio.Semaphore(COPIES_MAX)

        async def copy(listed: Listed) -> None:
            async with limit:
                if failures:
                    return
                target = self._target(listed.key)
                try:
                    if listed.key.endswith("/") and not listed.size:
                        # Written anew: SeaweedFS copies no marker (NoSuchKey, and an entry is left at the target).
                        stored = await tree.store.put(target, (), DIRECTORY_HEADERS)
                    else:
                        stored = await tree.store.copy(listed.key, target, source_etag=listed.etag)
                except (NotFound, PreconditionFailed):
                    tree.moving[self._former] += 1  # changed since it was listed: look again
                except S3MountError as error:
                    failures.append(error)
                    if isinstance(error, LostReply):
                        # It may be there, and most likely with the etag of its source.
                        self.copies[listed.key] = Copy(listed, target, listed.etag)
                else:
                    self.copies[listed.key] = Copy(listed, target, stored.etag)

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
                await copy(listed)
        # A flag is there before what it speaks of.
        for flags in (True, False):
            async with trio.open_nursery() as nursery:
                for listed in wanted:
                    if not listed.key.endswith("/") and listed.key.endswith("/" + FLAG) is flags:
                        nursery.start_soon(copy, listed)
        if failures:
            raise failures[0]

    async def _move_opened(self) -> None:
        """Move what is open through its File, those too that were opened while the others were copied."""
        tree, former = self._tree, self._former
        while opened := [(child, file) for child, file in _files_below(self._inode) if file.key.startswith(former)]:
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
                child.own.unsure = True
                self._moved.append((child, old, key))

    async def undo(self) -> None:
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
        await _delete(tree, [(copy.target, copy.etag) for copy in self.copies.values()] + self._marker)


async def _all_below(tree: Tree, prefix: str) -> list[Listed]:
    found: list[Listed] = []
    token: str | None = None
    while True:
        page = await tree.store.list_page(prefix, token=token)
        found.extend(page.objects)
        if page.token is not None and page.token == token:
            raise BadReply(f"LIST of {escaped(prefix)} repeats its continuation token")
        token = page.token
        if token is None:
            return found
        if len(found) > tree.config.names_max:
            raise NotSupported(f"more than {tree.config.names_max} objects below {escaped(prefix)}")


async def _delete(tree: Tree, versions: list[tuple[str, str]]) -> None:
    """Delete these versions; what is another version by now stays, and what the store refuses to delete: the log names
    it."""
    limit = trio.Semaphore(COPIES_MAX)

    async def delete(key: str, etag: str) -> None:
        async with limit:
            try:
                await tree.store.delete(key, Condition(etag=etag))
            except StoreError as error:
                log.warning("rename left an object key=%s reason=%s", escaped(key), error)

    for flags in (False, True):
        async with trio.open_nursery() as nursery:
            for key, etag in versions:
                if not key.endswith("/") and key.endswith("/" + FLAG) is flags:
                    nursery.start_soon(delete, key, etag)
    # SeaweedFS keeps a marker, and says nothing, while keys lie below it: the deepest first, when they are gone.
    for key, etag in sorted(versions, reverse=True):
        if key.endswith("/"):
            await delete(key, etag)


def _files_below(inode: Inode) -> list[tuple[Inode, File]]:
    found = []
    for child in inode.dentries.values():
        if child.children is not None:
            found.extend(_files_below(child))
        elif child.state is not None and child.state.file is not None:
            found.append((child, child.state.file))
    return found


def _repoint(tree: Tree, inode: Inode, prefix: str, copies: dict[str, Copy]) -> None:
    """Point the inodes below to their new keys; listings of the old ones go."""
    directory = inode.contents
    directory.forget_all()
    directory.prefix = prefix
    tree.exists(prefix)
    for name, child in list(inode.dentries.items()):
        if child.children is not None:
            _repoint(tree, child, f"{prefix}{name}/", copies)
        elif child.state is None or child.state.file is None:
            copied = copies.get(child.key)
            if copied is None and child.key == prefix + name:
                continue  # moved while it was open
            if copied is None:
                tree.inodes.detach(child)
                continue
            listed, key, etag = copied
            state = child.own
            if state.mtime_ns is None:
                state.mtime_ns = tree.shown(child).mtime_ns
            state.unsure = True
            child.known = Listed(key, listed.size, etag, listed.last_modified_ns)
