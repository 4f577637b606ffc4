"""What becomes of a file after its last release: stored, kept for another try, or dropped.

The state is what is kept, by number, and how many bytes that are. Rules: the last RELEASE of any kind stores what is
dirty. A failure that a call returned is told: the last RELEASE then discards. One that nobody was told keeps the bytes,
within `KEPT_BYTES_MAX`, half of the staging log and `KEPT_FILES_MAX`, and tries again in the background. The copy of a
conflict gets one more try, and is dropped after it.
"""

import logging

from s3mount.config import GIB
from s3mount.data.file import File
from s3mount.errors import (
    FileSystemError,
    KeyTooLong,
    NoSuchBucket,
    NotImplementedByStore,
    PreconditionFailed,
    S3MountError,
    StoreError,
)
from s3mount.vfs.carrying import undo
from s3mount.vfs.inodes import NO_HEADERS, Inode, State
from s3mount.vfs.kept import Kept, Outcome
from s3mount.vfs.keys import escaped
from s3mount.vfs.tree import Tree

log = logging.getLogger(__name__)

KEPT_BYTES_MAX = 1 * GIB
KEPT_FILES_MAX = 10_000
"""Empty ones are no bytes, and each has a task."""
RETRY_FIRST_SECONDS = 1.0
RETRY_MAX_SECONDS = 60.0
HOPELESS = (PreconditionFailed, KeyTooLong, NotImplementedByStore, NoSuchBucket, FileSystemError)
"""Failures of a sync that no repetition heals."""


def unstored(state: State) -> bool:
    """Whether the file has what the bucket lacks."""
    file = state.file
    # What a refused write was to change is in no staging, but the kernel has a size and pages for it.
    return file is not None and (file.dirty or file.busy or file.base is None or file.poisoned is not None)


def named(inode: Inode) -> bool:
    """Whether the file's content belongs in the bucket: under its path, or as a conflict's copy."""
    return inode.linked or (inode.state is not None and inode.state.file is not None and inode.state.file.parted)


class Closing:
    """The files that nobody has open any more."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._kept: dict[int, Kept] = {}
        self._kept_bytes = 0
        self._serial = 0

    async def close(self, inode: Inode, state: State) -> None:
        """The last handle is gone. The inode is held until this is done."""
        file = state.file
        assert file is not None
        state.closing = True
        try:
            # A handle may come and go while we store.
            while not state.handles and named(inode) and unstored(state):
                if file.parted:
                    await self._store_copy(inode, file)
                    break
                if state.told or file.poisoned is not None:
                    self._discard(inode, state, "a call had returned the failure")
                    break
                try:
                    await file.sync()
                except StoreError as error:
                    self._keep(inode, state, file, error)
                    break
                except S3MountError as error:
                    if not file.parted:
                        self._discard(inode, state, str(error))
                        break
        finally:
            state.closing = False
        if not state.handles and not state.failing:
            self.drop_file(inode, state)

    async def _store_copy(self, inode: Inode, file: File) -> None:
        """Nobody is left who could hear of a failure, but for the log."""
        lost = file.poisoned is not None
        try:
            await file.sync()
        except S3MountError as error:
            if file.dirty and not lost:
                path = escaped(inode.path)
                log.error("file content dropped after a conflict path=%s bytes=%d reason=%s", path, file.size, error)

    def drop_file(self, inode: Inode, state: State) -> None:
        """Let go of the file, and of the inode if nobody needs it."""
        if state.file is not None:
            state.file.close()
            state.file = None
            self._tree.with_files.pop(inode, None)
        state.told = False
        state.headers = NO_HEADERS
        if state.pending is not None and not state.changing:
            if inode.linked:
                log.error("attributes not stored path=%s", escaped(inode.path))
            undo(self._tree, inode)
        self._tree.inodes.release(inode)

    def _discard(self, inode: Inode, state: State, reason: str) -> None:
        """Drop what could not be stored; the path gets a new inode, with the object that is there. Who has opened the
        file meanwhile keeps it as it is: his close tries again, and is told."""
        file = state.file
        assert file is not None
        state.failing = False
        if state.handles:
            return
        log.error("file content dropped path=%s bytes=%d reason=%s", escaped(inode.path), file.size, reason)
        file.discard()
        parent = inode.parent
        if inode.linked and parent is not None:
            if file.base is None:
                self._tree.note(parent, inode.name, None)
            parent.contents.doubt(inode.name)
            self._tree.inodes.detach(inode)

    @property
    def kept(self) -> list[Kept]:
        """The files whose bytes wait for another try, the oldest first."""
        return [kept for kept in self._kept.values() if kept.live]

    @property
    def kept_bytes_max(self) -> int:
        """Writers must find the rest of the log free of them."""
        return min(KEPT_BYTES_MAX, self._tree.storage.budget.limit_bytes // 2)

    def _keep(self, inode: Inode, state: State, file: File, error: StoreError) -> None:
        """Nobody was told of this failure: keep the bytes and try again, if that can help and the limit allows."""
        if state.failing:
            return  # a task tries already
        full = len(self._kept) >= KEPT_FILES_MAX or self._kept_bytes + file.unsent_bytes > self.kept_bytes_max
        if full or isinstance(error, HOPELESS):
            self._discard(inode, state, str(error))
            return
        log.error("file not stored, trying again path=%s reason=%s", escaped(inode.path), error)
        state.failing = True
        self._serial += 1
        kept = self._kept[self._serial] = Kept(self._serial, inode, file, error=error, since_ns=self._tree.wall_ns())
        self._kept_bytes += kept.staged_bytes
        self._tree.background(self._retry, kept)

    async def _retry(self, kept: Kept) -> None:
        outcome: Outcome = "gone"
        try:
            outcome = await self._store_kept(kept)
        finally:
            self._kept_bytes -= kept.staged_bytes
            del self._kept[kept.number]
            kept.end(outcome)
        inode, state = kept.inode, kept.state
        # The inode may have another file by now, with another task that tries.
        if state.file is kept.file:
            state.failing = False
            if not state.handles and not state.closing:
                self.drop_file(inode, state)

    async def _store_kept(self, kept: Kept) -> Outcome:
        """Try until the file is stored, hopeless, unwanted, or somebody else's to store."""
        delay = RETRY_FIRST_SECONDS
        while True:
            await kept.rest(delay)
            if not kept.live:
                return "gone" if unstored(kept.state) or not kept.inode.linked else "stored"
            if kept.unwanted:
                kept.unwanted = False
                if not kept.state.handles:
                    self._discard(kept.inode, kept.state, "dropped by `s3mount failed drop`")
                    return "dropped"
            try:
                await kept.file.sync()
            except HOPELESS as error:
                kept.error = error
                if kept.file.parted:
                    await self._store_copy(kept.inode, kept.file)
                    return "conflict"
                if kept.state.file is not kept.file:
                    return "gone"
                taken_over = kept.state.handles > 0
                self._discard(kept.inode, kept.state, str(error))
                return "gone" if taken_over else "dropped"
            except StoreError as error:
                kept.failed(error)
                delay = min(delay * 2, RETRY_MAX_SECONDS)
            else:
                log.info("file stored after all path=%s", escaped(kept.inode.path))
                return "stored"
