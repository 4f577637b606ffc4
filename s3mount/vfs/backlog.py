"""All that a mount owes the bucket at one moment, stored while somebody waits: files, held attributes, deletions, and
what waits in the journal of --write-back.

What it begins goes on when nobody waits any more. A failure is told to who waits and to nobody else: a program's own
fsync or close finds its bytes still here, tries again, and is told.
"""

from collections.abc import Awaitable, Callable
from itertools import chain

import trio

from s3mount.data.file import File
from s3mount.errors import S3MountError, Unavailable
from s3mount.vfs.changing import Changing
from s3mount.vfs.closing import named, unstored
from s3mount.vfs.deleting import Failure
from s3mount.vfs.handles import SYNCS_MAX, Handles
from s3mount.vfs.inodes import Inode
from s3mount.vfs.journaled import Journaled
from s3mount.vfs.kept import Kept
from s3mount.vfs.tree import Tree

Drain = Callable[[list[str]], Awaitable[None]]
"""Has the kernel hand over what it holds of these paths. Raises S3MountError when it could not be asked."""
DRAINS_MAX = 3
"""A file that is renamed while the kernel is asked for it is asked for again."""


class Backlog:
    """See the module."""

    def __init__(self, tree: Tree, handles: Handles, changing: Changing) -> None:
        # The mutable state: how many things there are to store and to delete, and how many of them are over; the bytes
        # that were unsent when each file was begun with; the files and the other things that are not over, by name;
        # how many changes and bytes were in the journal when these were begun with (0: not yet, or over); what failed.
        self._tree = tree
        self._handles = handles
        self._changing = changing
        self._limit = trio.Semaphore(SYNCS_MAX)
        self.total = 0
        self._done = 0
        self.bytes_total = 0
        self._journaled = 0
        self._journaled_bytes = 0
        self._files: dict[int, tuple[str, File]] = {}
        self._others: dict[int, str] = {}
        self._serial = 0
        self._settled = trio.Event()
        self.failures: list[Failure] = []

    def __repr__(self) -> str:
        return f"<Backlog {self.done} of {self.total}, {len(self.failures)} failed>"

    @property
    def done(self) -> int:
        left = 0 if self._tree.journaled is None else self._tree.journaled.waiting.files
        return self._done + max(0, self._journaled - left)

    @property
    def bytes_done(self) -> int:
        left = sum(file.unsent_bytes for _, file in self._files.values())
        if self._tree.journaled is not None:
            left += min(self._journaled_bytes, self._tree.journaled.waiting.bytes)
        return max(0, self.bytes_total - left)

    @property
    def waiting(self) -> list[str]:
        """The paths that are not stored yet."""
        named = sorted(chain((path for path, _ in self._files.values()), filter(None, self._others.values())))
        journaled = self._tree.journaled
        return named + (journaled.paths() if journaled is not None and self._journaled else [])

    async def store(self, drain: Drain) -> None:
        """Store it all, and return when each thing is in the bucket or has failed; `failures` is whole then."""
        for inode in self._changing.held():
            self._begin(inode.path, self._store_attributes, inode)
        if count := self._tree.deleting.pending_count:
            self._begin("deletions", self._delete, count=count)
        open_ones = {inode for inode in self._tree.with_files if inode.own.writers}
        self._begin_files(lambda inode: not inode.own.writers)
        await self._drain(drain)
        # Some may have been closed meanwhile: they are stored by their release, or kept, and nobody has told us.
        self._begin_files(lambda inode: inode.own.writers > 0 or inode in open_ones)
        await self._over()
        journaled = self._tree.journaled
        if journaled is not None and journaled.waiting.files:
            self._journaled, self._journaled_bytes = journaled.waiting.files, journaled.waiting.bytes
            self.bytes_total += self._journaled_bytes
            self._begin("", self._settle, journaled, count=self._journaled)
            await self._over()

    async def _over(self) -> None:
        while self._files or self._others:
            self._settled = trio.Event()
            await self._settled.wait()

    def _begin_files(self, wanted: Callable[[Inode], bool]) -> None:
        """Those that programs have open are stored once the kernel has told all of them."""
        kept_files = {kept.inode: kept for kept in self._handles.closing.kept}
        for inode in self._tree.with_files:
            state = inode.own
            if state.file is None or not named(inode) or not unstored(state) or not wanted(inode):
                continue
            kept = kept_files.get(inode)
            if state.writers or not state.failing:
                self._begin(inode.path, state.file.sync, file=state.file)
            elif kept is not None:
                self._begin(inode.path, self._store_kept, kept, file=kept.file)

    async def _drain(self, drain: Drain) -> None:
        drained: dict[Inode, str] = {}
        for _ in range(DRAINS_MAX):
            open_ones = {inode: inode.path for inode in self._tree.with_files if inode.own.writers and inode.linked}
            if drained:
                open_ones = {inode: path for inode, path in open_ones.items() if drained.get(inode, path) != path}
            if not open_ones:
                return
            drained |= open_ones
            try:
                await drain(sorted(open_ones.values()))
            except S3MountError as error:
                self.failures.append(Failure("", str(error)))
                return

    def _begin(
        self,
        name: str,
        action: Callable[..., Awaitable[None]],
        *arguments: object,
        file: File | None = None,
        count: int = 1,
    ) -> None:
        self._serial += 1
        number = self._serial
        self.total += count
        if file is None:
            self._others[number] = name
        else:
            self._files[number] = name, file
            self.bytes_total += file.unsent_bytes

        async def run() -> None:
            try:
                async with self._limit:
                    await action(*arguments)
            except S3MountError as error:
                self.failures.append(Failure(name, str(error)))
            finally:
                self._done += count
                self._files.pop(number, None)
                self._others.pop(number, None)
                self._settled.set()

        self._tree.background(run)

    async def _store_kept(self, kept: Kept) -> None:
        if kept.outcome is None:
            kept.hurry()
            await kept.tried()
        if kept.outcome not in ("stored", "gone"):
            raise kept.error

    async def _store_attributes(self, inode: Inode) -> None:
        await self._changing.store_now(inode)

    async def _settle(self, journaled: Journaled) -> None:
        """What the bucket refuses is named one by one, and was told of when it was refused."""
        try:
            await self._tree.store.settle_below(journaled.prefix)
        except S3MountError as error:
            if isinstance(error, Unavailable) or not journaled.spool.parked:
                raise
        finally:
            self._journaled = self._journaled_bytes = 0
            self.failures += [Failure(journaled.path(one.key), str(one.error)) for one in journaled.spool.parked]

    async def _delete(self) -> None:
        self.failures += await self._tree.deleting.settle_all()
