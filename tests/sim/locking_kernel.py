"""The kernel model with Linux's locks, for many programs at once.

A directory is locked while a name in it is looked up, listed or changed, for the whole of the request; a rename takes
both directories, the upper one first, and only one rename between directories goes on at a time; a file is locked
while it is written or truncated. A walk holds one directory at a time. Who calls is told by `calling`.
"""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import trio

from s3mount.errors import Exists, Invalid, IsADirectory, NoEntry, NotADirectory
from s3mount.vfs.attributes import Attributes, Caller, Changes
from s3mount.vfs.filesystem import FileSystem
from tests.kernel_model import Kernel
from tests.memory_store import MemoryStore

calling: ContextVar[int] = ContextVar("calling", default=1)
"""The thread that makes the system call."""


class LockingKernel(Kernel):
    """See the module. The mutable state beside the model's: the locks by inode number, and the calls under way."""

    def __init__(self, fs: FileSystem, store: MemoryStore) -> None:
        super().__init__(fs, store)
        self._locks: dict[int, trio.Lock] = {}
        self._renames = trio.Lock()
        self.under_way = 0

    @property
    def who(self) -> Caller:
        return Caller(uid=os.getuid(), gid=os.getgid(), pid=calling.get(), umask=0o022)

    @asynccontextmanager
    async def locked(self, ino: int) -> AsyncIterator[None]:
        """Hold a directory, or a file, unless this task does already."""
        lock = self._locks.setdefault(ino, trio.Lock())
        if lock.statistics().owner is trio.lowlevel.current_task():
            yield
            return
        async with lock:
            yield

    async def _step(self, parent: int, name: bytes) -> Attributes:
        async with self.locked(parent):
            return await super()._step(parent, name)

    async def _directory(self, path: str) -> int:
        """The directory that a path's last name is in."""
        ino = await self.ino(path.rpartition("/")[0])
        if not stat.S_ISDIR((await self.fs.getattr(ino)).mode):
            raise NotADirectory(path)
        return ino

    async def getdents(
        self, fh: int, ino: int, position: int, batch: int
    ) -> tuple[list[tuple[bytes, Attributes]], int]:
        async with self.locked(ino):
            return await super().getdents(fh, ino, position, batch)

    async def mkdir(self, path: str, mode: int = 0o755) -> Attributes:
        above, name = await self._directory(path), path.rpartition("/")[2].encode()
        async with self.locked(above):
            await self._absent(above, name)
            attributes = await self.fs.mkdir(above, name, stat.S_IFDIR | mode, self.who)
            self._hold(above, name, attributes)
        return attributes

    async def symlink(self, path: str, target: str) -> Attributes:
        above, name = await self._directory(path), path.rpartition("/")[2].encode()
        async with self.locked(above):
            await self._absent(above, name)
            attributes = await self.fs.symlink(above, name, target.encode(), self.who)
            self._hold(above, name, attributes)
        return attributes

    async def rmdir(self, path: str) -> None:
        await self._twice(lambda: self._remove(path, directory=True))

    async def unlink(self, path: str) -> None:
        await self._twice(lambda: self._remove(path, directory=False))

    async def _remove(self, path: str, *, directory: bool) -> None:
        above, name = await self._directory(path), path.rpartition("/")[2].encode()
        async with self.locked(above):
            found = await self._step(above, name)
            if stat.S_ISDIR(found.mode) is not directory:
                raise NotADirectory(path) if directory else IsADirectory(path)
            async with self.locked(found.ino):
                if directory:
                    await self.fs.rmdir(above, name)
                else:
                    await self.fs.unlink(above, name, self.who)
                self.dentries.pop((above, name), None)

    async def rename(self, old: str, new: str, *, no_replace: bool = False) -> None:
        async def once() -> None:
            former, name = await self._directory(old), old.rpartition("/")[2].encode()
            future, new_name = await self._directory(new), new.rpartition("/")[2].encode()
            upper, lower = (former, future) if old.count("/") <= new.count("/") else (future, former)
            async with self._renames, self.locked(upper), self.locked(lower):
                moved = await self._step(former, name)
                try:
                    replaced = await self._step(future, new_name)
                except NoEntry:
                    replaced = None
                if replaced is not None and no_replace:
                    raise Exists(new)
                if moved.ino in (future, upper) or (replaced is not None and replaced.ino in (former, lower)):
                    raise Invalid(new)
                if replaced is not None and replaced.ino == moved.ino:
                    return
                await self.fs.rename(former, name, future, new_name, no_replace=no_replace)
                self.dentries.pop((future, new_name), None)
                dentry = self.dentries.pop((former, name), None)
                if dentry is not None:
                    self.dentries[future, new_name] = dentry

        await self._twice(once)

    async def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        async def once() -> int:
            if flags & os.O_CREAT:
                above, name = await self._directory(path), path.rpartition("/")[2].encode()
                async with self.locked(above):
                    try:
                        found = await self._step(above, name)
                    except NoEntry:
                        fh, attributes = await self.fs.create(above, name, stat.S_IFREG | mode, flags, self.who)
                        self._hold(above, name, attributes)
                        return fh
                if flags & os.O_EXCL:
                    raise Exists(path)
                ino = found.ino
            else:
                ino = await self.ino(path)
            if stat.S_ISDIR((await self.fs.getattr(ino)).mode):
                raise IsADirectory(path)
            return await self.fs.open(ino, flags & ~os.O_CREAT, self.who)

        return await self._twice(once)

    async def chmod(self, path: str, mode: int) -> None:
        async def once() -> None:
            ino = await self.ino(path)
            async with self.locked(ino):
                await self.fs.setattr(ino, Changes(mode=mode), None, self.who)

        await self._twice(once)

    async def _absent(self, above: int, name: bytes) -> None:
        try:
            await self._step(above, name)
        except NoEntry:
            return
        raise Exists(name.decode())

    def forget_some(self) -> None:
        """Drop dentries and inodes as under pressure: none that is open, or that a call may be using."""
        if self.under_way:
            return
        self.dentries.clear()
        opened = {handle.inode.ino for handle in self.fs._handles._handles.values()}
        held = {ino: count for ino, count in self.lookups.items() if ino not in opened}
        for ino in held:
            del self.lookups[ino]
        self.fs.forget(list(held.items()))
