"""Rename over server-side copy and delete.

A file: copy of exactly the version we know, then delete on condition of it. A crash or failure between leaves both
names, never none; a failed copy leaves the source alone. A directory: all keys below are copied, several at a time,
and deleted once every copy exists; when a copy fails, the copies made are removed again and the source is whole. What
is open moves through its File, which sends later uploads to the new key. What programs change below a directory while
it is copied is copied again, so that nothing acknowledged stays behind.
"""

import logging
from functools import partial
from typing import NamedTuple

import trio

from s3mount.data.file import File
from s3mount.data.version import HalfMoved, Version
from s3mount.errors import (
    BadReply,
    Busy,
    Exists,
    Invalid,
    IsADirectory,
    LostReply,
    NotADirectory,
    NotFound,
    NotSupported,
    PreconditionFailed,
    S3MountError,
    Stale,
    StoreError,
)
from s3mount.store.base import Condition, Listed
from s3mount.vfs import keys
from s3mount.vfs.entries import check_empty, keep_directory
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import DIRECTORY, DIRECTORY_HEADERS, LOCAL, check_key, escaped
from s3mount.vfs.lookup import ask_store, require, resolve
from s3mount.vfs.tree import Tree

log = logging.getLogger(__name__)

COPIES_MAX = 16
PASSES_MAX = 16
"""How often a directory that is being changed is looked at again before its move is given up."""


class Copy(NamedTuple):
    """One copy made for a directory that moves."""

    source: Listed
    target: str
    etag: str


async def rename(
    tree: Tree, old_parent: Inode, old_name: bytes, new_parent: Inode, new_name: bytes, *, no_replace: bool
) -> None:
    """rename(2). Raises Stale when the source is another version than the kernel knows: Linux then looks it up
    again."""
    tree.check_writable()
    old, new = keys.old_name(old_name), keys.new_name(new_name)
    inode = await require(tree, old_parent, old)
    key = tree.check_new(new_parent, new, "/" if inode.children is not None else "")
    target, _ = await resolve(tree, new_parent, new)
    if target is inode:
        return
    if target is not None and no_replace:
        raise Exists(target.path)
    if no_replace and (await ask_store(tree, key.rstrip("/"))).exists:
        # What a listing told may be older than another client's file of that name.
        new_parent.contents.forget_all()
        raise Exists(f"{new_parent.path}/{new}")
    await _check_target(tree, inode, target, new_parent)
    if new_parent is not old_parent:
        await keep_directory(tree, old_parent, old)
    if inode.children is None:
        await _move_file(tree, inode, target, key)
        entry = LOCAL if inode.known is None else inode.known
    else:
        await _move_directory(tree, inode, key)
        entry = DIRECTORY
    if target is not None and target.directory is not None:
        target.directory.removed = True
    inode.own.ctime_ns = tree.wall_ns()
    tree.inodes.move(inode, new_parent, new)
    tree.note(old_parent, old, None)
    tree.note(new_parent, new, entry)
    tree.touched(old_parent)
    tree.touched(new_parent)


async def _check_target(tree: Tree, inode: Inode, target: Inode | None, new_parent: Inode) -> None:
    above: Inode | None = new_parent
    while above is not None:
        if above is inode:
            raise Invalid("a directory cannot be moved below itself")
        above = above.parent
    if target is None:
        return
    if target.children is None:
        if inode.children is not None:
            raise NotADirectory(target.path)
    elif inode.children is None:
        raise IsADirectory(target.path)
    else:
        await check_empty(tree, target)


async def _move_file(tree: Tree, inode: Inode, target: Inode | None, key: str) -> None:
    """Copy and delete. The inode keeps its number and its times: the kernel keeps them anyway."""
    state = inode.own
    known = inode.known
    if state.mtime_ns is None and known is not None:
        state.mtime_ns = tree.shown(inode).mtime_ns
    replaced = _opened_meanwhile(target, None)
    if replaced is None:
        await _move_bytes(tree, inode, target, key)
        return
    if replaced.busy:
        # An upload that ends after the copy would undo the rename. Whoever asked for it hears of its failure.
        try:
            await replaced.sync()
        except S3MountError as error:
            log.info("upload before a rename onto it failed key=%s reason=%s", escaped(key), error)
    # No upload of the replaced file starts until the new one is in its place.
    assert target is not None
    await replaced.replaced(partial(_move_bytes, tree, inode, target, key), read_on=target.own.handles > 0)


async def _move_bytes(tree: Tree, inode: Inode, target: Inode | None, key: str) -> None:
    state = inode.own
    known = inode.known
    forsaken = _opened_meanwhile(target, None)
    moves: dict[str, Version] = {}

    async def move(version: Version) -> Version:
        nonlocal forsaken
        if version.etag in moves:
            return moves[version.etag]
        if version.key == key:
            return version  # an earlier try had done it all
        stored = await tree.store.copy(version.key, key, source_etag=version.etag)
        while (late := _opened_meanwhile(target, forsaken)) is not None:
            # What was stored through it may have replaced the copy; the source is still there.
            forsaken = late
            await late.superseded()
            stored = await tree.store.copy(version.key, key, source_etag=version.etag)
        moved = Version(key, stored.etag, version.size, stored.version_id)
        await _delete_moved(tree, version, moved)
        moves[version.etag] = moved
        return moved

    file, base = state.file, None
    if file is not None:
        await file.rename(key, move)
        base = file.base
    else:
        assert known is not None
        try:
            base = await move(Version(known.key, known.etag, known.size))
        except (NotFound, PreconditionFailed) as error:
            _distrust(tree, inode)
            raise Stale(f"{inode.path}: the object is another version now") from error
        except HalfMoved as half:
            raise half.reason from half
    while state.file is not None and state.file is not file:
        # The last handle went meanwhile, or there was none, and another came: it knows the version by its old key.
        file = state.file
        await file.rename(key, move)
        base = file.base
    inode.known = None if base is None else _moved(tree, base)
    state.unsure = True
    inode.fresh_until = trio.current_time() + tree.config.metadata_ttl_seconds
    while (late := _opened_meanwhile(target, forsaken)) is not None:
        forsaken = late
        await late.superseded()


def _moved(tree: Tree, version: Version) -> Listed:
    return Listed(version.key, version.size, version.etag, tree.wall_ns())


def _opened_meanwhile(target: Inode | None, forsaken: File | None) -> File | None:
    """The file of who has opened the target since its file was forsaken."""
    file = target.state.file if target is not None and target.state is not None else None
    return None if file is forsaken else file


def _distrust(tree: Tree, inode: Inode) -> None:
    parent = inode.parent
    if parent is not None:
        parent.contents.forget_all()
        tree.inodes.detach(inode)


async def _move_version(tree: Tree, key: str, version: Version) -> Version:
    """Copy one version to another key and delete it. Raises NotFound and PreconditionFailed before anything changed,
    HalfMoved."""
    if version.key == key:
        return version  # an earlier try had done it all
    stored = await tree.store.copy(version.key, key, source_etag=version.etag)
    moved = Version(key, stored.etag, version.size, stored.version_id)
    await _delete_moved(tree, version, moved)
    return moved


async def _delete_moved(tree: Tree, version: Version, moved: Version) -> None:
    try:
        await tree.store.delete(version.key, Condition(etag=version.etag))
    except LostReply as error:
        raise HalfMoved(moved, error) from error
    except PreconditionFailed:
        log.warning("rename left a newer object at its old name key=%s", escaped(version.key))


async def _move_directory(tree: Tree, inode: Inode, prefix: str) -> None:
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
        async with trio.open_nursery() as nursery:
            for listed in wanted:
                if not listed.key.endswith("/"):
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
                    await file.rename(key, partial(_move_version, tree, key))
                except NotFound:
                    if child.linked:
                        raise
                    continue  # unlinked meanwhile
                self.copies.pop(old, None)
                child.known = None if file.base is None else _moved(tree, file.base)
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
                    await file.rename(old, partial(_move_version, tree, old))
                    child.known = None if file.base is None else _moved(tree, file.base)
                elif known is not None:
                    child.known = _moved(
                        tree, await _move_version(tree, old, Version(known.key, known.etag, known.size))
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

    async with trio.open_nursery() as nursery:
        for key, etag in versions:
            if not key.endswith("/"):
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
