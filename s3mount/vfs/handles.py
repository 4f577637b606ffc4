"""Open files: open as the first read, reads and writes through handles, which close stores what.

The state is the table of handles; what is known of an inode's file is in its `State`. Rules: every open of a clean
file validates; a path that is held (`State.held`) is joined as it is. FLUSH of a handle opened for reading never
syncs. The last RELEASE of any kind stores what is dirty (see `closing`). A conflict gives the path to the other
client's object: the inode is an orphan from then on, and nobody joins it any more.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import trio

from s3mount.data.file import File
from s3mount.data.version import Changed, Version
from s3mount.errors import (
    BadHandle,
    FileSystemError,
    IsADirectory,
    S3MountError,
    Stale,
    Unavailable,
)
from s3mount.store.base import Buffer, Headers, Listed, Stored
from s3mount.vfs.attributes import PRIVILEGED, Caller, Fh
from s3mount.vfs.carrying import carry, ready, stored, written
from s3mount.vfs.closing import Closing, named, unstored
from s3mount.vfs.inodes import Inode, State
from s3mount.vfs.keys import escaped
from s3mount.vfs.neighbours import Neighbours
from s3mount.vfs.tree import Tree

log = logging.getLogger(__name__)

SYNCS_MAX = 32
"""Files stored at the same time when the mount stops."""


class Handle(NamedTuple):
    """One open file description."""

    inode: Inode
    writable: bool
    caller: Caller
    """Who opened it."""


class Handles:
    """The open files of a mount."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._handles: dict[int, Handle] = {}
        self._serial = 0
        self.closing = Closing(tree)
        self._neighbours = Neighbours(tree)

    def __len__(self) -> int:
        return len(self._handles)

    def number(self) -> Fh:
        """The next handle number, also for directories."""
        self._serial += 1
        return Fh(self._serial)

    def get(self, fh: int) -> Handle:
        """Raises BadHandle."""
        handle = self._handles.get(fh)
        if handle is None:
            raise BadHandle(f"no handle {fh}")
        return handle

    async def open(self, inode: Inode, flags: int, caller: Caller = PRIVILEGED) -> Fh:
        """Open a file: the first read of it. Raises Stale when the object is another version, once the new one is
        remembered."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if inode.children is not None:
            raise IsADirectory(inode.path)
        await self._tree.transits.passed(inode.key)
        former = None if inode.state is None else inode.state.file
        readable = flags & os.O_ACCMODE != os.O_WRONLY
        gone = not inode.linked and (former is None or former.parted or (readable and former.forgone))
        # The path is another inode's by now, or nobody's, and the kernel has not looked it up since. Who was sent round
        # for this version reads it all the same, for he would not be sent round a second time; who was not is sent
        # round once he has found what he will open.
        if gone and (writable or former is not None or inode.known is None):
            raise Stale(f"{inode.path}: the file is another one now")
        gone = gone and not self._comes_again(inode, caller)
        if writable or flags & os.O_TRUNC:
            self._tree.check_writable()
        state = inode.own
        if state.failing and not writable:
            raise Unavailable(f"{inode.path}: its bytes wait to be stored")
        state.handles += 1
        carried, linked = state.carried, inode.linked
        try:
            file = state.file
            if file is None:
                file = state.file = self._make_file(inode, state)
            if flags & os.O_TRUNC:
                await self._truncate(inode, state, file, caller)
            elif not state.held and not self._just_fetched(inode, state, caller, writable=writable):
                if writable:
                    await file.validate_for_writing()
                else:
                    self._neighbours.opened(inode)
                    await file.validate_for_reading()
        except Changed as changed:
            # A writer may have come meanwhile: its path keeps the inode.
            if not state.held:
                self._drop_handle(inode, state)
                raise self._tree.remember(inode, changed.info, opener=caller.pid) from changed
        except BaseException:
            self._drop_handle(inode, state)
            raise
        fh = self._add(inode, state, flags, caller)
        file = self._file(self.get(fh))
        if gone or file.parted or (readable and file.forgone) or (writable and linked and not inode.linked):
            # While we asked. Whoever closed it meanwhile has left the last release to us.
            self._tree.background(self.release, fh)
            raise Stale(f"{inode.path}: the file is another one now")
        if writable:
            if state.carried is not None and state.carried is not carried:
                file.headers = state.carried[1]  # they were stored while we asked
                if file.dirty:
                    written(self._tree, inode, file)
            carry(self._tree, inode, file)
            if flags & os.O_APPEND:
                file.fetch_base()
        return fh

    @asynccontextmanager
    async def borrowed(self, inode: Inode) -> AsyncIterator[File]:
        """The file of an inode, open or not, inside the block; nothing is validated."""
        state = inode.own
        state.handles += 1
        if state.file is None:
            state.file = self._make_file(inode, state)
        try:
            yield state.file
        finally:
            state.handles -= 1
            if not state.handles and not state.closing:
                await self.closing.close(inode, state)

    def writers(self, inode: Inode) -> list[Caller]:
        """Who has the file open for writing."""
        return [handle.caller for handle in self._handles.values() if handle.writable and handle.inode is inode]

    def add_created(self, inode: Inode, flags: int, caller: Caller) -> Fh:
        """The first handle of a file that was created here."""
        inode.own.handles += 1
        return self._add(inode, inode.own, flags, caller)

    def make_created(self, inode: Inode, key: str, headers: Headers) -> File:
        """Give a new inode its file, which is not in the bucket yet."""
        file = inode.own.file = self._file_of(inode, key, None, headers)
        return file

    def make_stored(self, inode: Inode, listed: Listed, headers: Headers) -> None:
        """Give a new inode its file, which was just created in the bucket."""
        state = inode.own
        state.file = self._file_of(inode, listed.key, Version(listed.key, listed.etag, listed.size), headers)
        inode.known = listed
        stored(self._tree, inode, state.file)
        self._tree.stored_here(inode)

    async def read(self, fh: int, offset: int, size: int) -> Buffer:
        return await self._file(self.get(fh)).read(offset, size)

    async def write(self, fh: int, offset: int, data: Buffer) -> int:
        tree = self._tree
        handle = self.get(fh)
        if not handle.writable:
            raise BadHandle(f"{handle.inode.path}: not open for writing")
        if tree.refuses_writes:
            # The kernel drops the page: what is stored without it would be a mix.
            tree.refused_paths.add(handle.inode.path)
            raise self._file(handle).refuse(FileSystemError("the mount is being stopped"))
        tree.last_write_seconds = trio.current_time()
        file = self._file(handle)
        written(tree, handle.inode, file)
        count = await file.write(offset, data)
        state = handle.inode.own
        state.mtime_ns = state.ctime_ns = tree.wall_ns()
        return count

    async def truncate(self, inode: Inode, size: int, fh: int | None) -> None:
        """ftruncate(2), or truncate(2) by path, which stores the result unless that would send more than a part."""
        if fh is not None:
            file = self._file(self.get(fh))
            written(self._tree, inode, file)
            await file.truncate(size)
        else:
            fh = await self.open(inode, os.O_WRONLY)
            state, file = inode.own, self._file(self.get(fh))
            try:
                await self._truncate_stored(inode, file, size)
            finally:
                # What failed is dropped now, without a wait: a second try must not join it and be dropped too.
                if file.dirty and not state.told:
                    self._tree.background(self.release, fh)
                else:
                    await self.release(fh)
        inode.own.mtime_ns = inode.own.ctime_ns = self._tree.wall_ns()

    async def _truncate_stored(self, inode: Inode, file: File, size: int) -> None:
        state = inode.own
        if size == file.size:
            return
        written(self._tree, inode, file)
        if size:
            await file.truncate(size)
        else:
            await file.overwrite()
        # Who has the file open for writing stores it; what he wrote so far is not for us to publish.
        if state.writers == 1 and size <= self._tree.config.part_size_bytes:
            await self._sync(state, file)

    async def flush(self, fh: int) -> None:
        """FLUSH, one per close(2) of a duplicate: stores what is dirty, by the rules of File, when the handle can
        write."""
        handle = self.get(fh)
        if not handle.writable:
            return
        state = handle.inode.own
        try:
            await self._file(handle).flush()
        except S3MountError:
            state.told = True
            raise

    async def fsync(self, fh: int) -> None:
        handle = self.get(fh)
        await self._sync(handle.inode.own, self._file(handle))

    async def release(self, fh: int) -> None:
        """The last close of a handle. The kernel waits for no answer; the inode is held until its bytes are stored."""
        handle = self._handles.pop(fh, None)
        if handle is None:
            raise BadHandle(f"no handle {fh}")
        inode, state = handle.inode, handle.inode.own
        state.handles -= 1
        if handle.writable:
            state.writers -= 1
        if not state.handles and not state.closing:
            await self.closing.close(inode, state)

    # for the mount's life

    def paths_open_for_writing(self) -> list[str]:
        """Relative paths of named files that a handle can write, or that hold what is not stored."""
        return sorted(
            inode.path
            for inode in self._tree.inodes
            if inode.state is not None and named(inode) and (inode.state.writers or unstored(inode.state))
        )

    def paths_not_stored(self) -> list[str]:
        """Relative paths of named files that hold what is not stored, and of those to which a write was refused."""
        paths = {
            inode.path
            for inode in self._tree.inodes
            if inode.state is not None and named(inode) and unstored(inode.state)
        }
        return sorted(paths | self._tree.refused_paths)

    async def sync_all(self) -> list[str]:
        """Store every dirty file; the paths of those that failed."""
        failed: list[str] = []
        limit = trio.Semaphore(SYNCS_MAX)

        async def store(inode: Inode, state: State, file: File) -> None:
            async with limit:
                try:
                    await file.sync()
                except S3MountError as error:
                    state.told = True
                    if file.parted and not file.dirty:
                        return  # a conflict's copy has the content
                    failed.append(inode.path)
                    log.error("file not stored path=%s reason=%s", escaped(inode.path), error)

        async with trio.open_nursery() as nursery:
            for inode in self._tree.inodes:
                state = inode.state
                if state is not None and state.file is not None and named(inode) and unstored(state):
                    nursery.start_soon(store, inode, state, state.file)
        return sorted(failed)

    # inside

    def _make_file(self, inode: Inode, state: State) -> File:
        known = inode.known
        assert known is not None, inode
        base = Version(known.key, known.etag, known.size)
        return self._file_of(inode, known.key, base, state.headers)

    def _file_of(self, inode: Inode, key: str, base: Version | None, headers: Headers) -> File:
        self._tree.with_files[inode] = None
        return File(
            self._tree.storage,
            key,
            base,
            headers,
            on_stored=partial(self._stored, inode),
            on_conflict=partial(self._part, inode),
            before_sending=partial(ready, self._tree, inode),
        )

    async def _truncate(self, inode: Inode, state: State, file: File, caller: Caller) -> None:
        """O_TRUNC: whatever version is there is replaced, but its headers survive."""
        if not state.held and not self._just_fetched(inode, state, caller, writable=True):
            await file.validate_for_replacing(self._tree.headers_of_new(inode.name))
            if file.parted:
                return  # the open is refused
        written(self._tree, inode, file)
        await file.overwrite()
        state.mtime_ns = state.ctime_ns = self._tree.wall_ns()

    def _add(self, inode: Inode, state: State, flags: int, caller: Caller) -> Fh:
        handle = Handle(inode, flags & os.O_ACCMODE != os.O_RDONLY, caller)
        state.writers += handle.writable
        if flags & os.O_ACCMODE != os.O_WRONLY:
            self._file(handle).expect_returns()
        fh = self.number()
        self._handles[fh] = handle
        return fh

    def _drop_handle(self, inode: Inode, state: State) -> None:
        """Take back the handle of an open that failed."""
        state.handles -= 1
        if not state.handles and not state.held:
            self.closing.drop_file(inode, state)

    def _file(self, handle: Handle) -> File:
        file = handle.inode.own.file
        assert file is not None, handle
        return file

    async def _sync(self, state: State, file: File) -> None:
        try:
            await file.sync()
        except S3MountError:
            state.told = True
            raise
        state.told = False

    def _stored(self, inode: Inode, file: File, answer: Stored) -> None:
        """The file's bytes are in the bucket: a new version of ours, the same inode."""
        assert file.base is not None
        state = inode.own
        state.told = state.failing = False
        listed = Listed(file.key, file.base.size, answer.etag, answer.last_modified_ns)
        inode.known = listed
        stored(self._tree, inode, file)
        self._tree.stored_here(inode)
        inode.fresh_until = trio.current_time() + self._tree.config.metadata_ttl_seconds
        if inode.linked and inode.parent is not None:
            self._tree.note(inode.parent, inode.name, listed)

    def _part(self, inode: Inode, _file: File) -> None:
        """A conflict: the path is another client's object, which whoever opens it next shall see."""
        if inode.linked and inode.parent is not None:
            self._tree.distrust(inode.parent, inode.name)
            self._tree.inodes.detach(inode)

    def _just_fetched(self, inode: Inode, state: State, caller: Caller, *, writable: bool) -> bool:
        """Whether this is the open that an ESTALE sent round again: what was fetched then serves it, and no other
        open."""
        if not self._comes_again(inode, caller):
            return False
        assert inode.parent is not None
        self._tree.repeats.take((inode.parent.ino, inode.name), caller.pid, trio.current_time())
        return not (writable and state.lacks_tags)

    def _comes_again(self, inode: Inode, caller: Caller) -> bool:
        state, now = inode.state, trio.current_time()
        if state is None or state.validated_until <= now or inode.parent is None:
            return False
        return self._tree.repeats.owes((inode.parent.ino, inode.name), caller.pid, now)
