"""The part of Linux that stands between a program and a FileSystem, as far as the vfs can tell: dentries with their
timeouts, lookup counts, directory locks left out, and the repetition of an operation that answered ESTALE.

Names of programs' calls; paths are relative and in text. Every inode number that the model holds is checked to be
shown with one file's content only by the tests that use it.
"""

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from s3mount.config import Config
from s3mount.data.journal import Paper
from s3mount.data.removals import Removals
from s3mount.data.storage import Storage
from s3mount.errors import Exists, IsADirectory, NoEntry, NotADirectory, Stale
from s3mount.vfs.attributedb import AttributeDb
from s3mount.vfs.attributes import ROOT, Attributes, Caller, Changes
from s3mount.vfs.filesystem import FileSystem
from tests.memory_store import MemoryStore, journal_of
from tests.paper import PaperInMemory

T = TypeVar("T")
ME = Caller(uid=os.getuid(), gid=os.getgid(), pid=1, umask=0o022)


@dataclass
class Dentry:
    attributes: Attributes | None
    until: float


class Kernel:
    """A mount as programs see it. `store` is the bucket behind, `fs` what is tested."""

    def __init__(self, fs: FileSystem, store: MemoryStore) -> None:
        self.fs = fs
        self.store = store
        self.caller = ME
        self.lookups: dict[int, int] = {}
        self.dentries: dict[tuple[int, bytes], Dentry] = {}

    # names

    async def ino(self, path: str) -> int:
        """The inode of a path. Raises NoEntry."""
        ino = int(ROOT)
        for name in [name for name in path.encode().split(b"/") if name]:
            ino = (await self._step(ino, name)).ino
        return ino

    async def stat(self, path: str) -> Attributes:
        return await self.fs.getattr(await self.ino(path))

    async def exists(self, path: str) -> bool:
        try:
            await self.ino(path)
        except NoEntry:
            return False
        return True

    async def listdir(self, path: str = "", *, batch: int = 100) -> list[str]:
        """All names but the dots, in batches as getdents asks for them; each entry is looked up as readdirplus does."""
        return [name async for name, _ in self.scan(path, batch=batch)]

    async def scan(self, path: str = "", *, batch: int = 100) -> AsyncIterator[tuple[str, Attributes]]:
        ino = await self.ino(path)
        fh = await self.fs.opendir(ino)
        try:
            position = 0
            while True:
                told, position = await self.getdents(fh, ino, position, batch)
                for name, attributes in told:
                    if name not in (b".", b".."):
                        yield name.decode(), attributes
                if not told:
                    return
        finally:
            self.fs.releasedir(fh)

    async def getdents(
        self, fh: int, ino: int, position: int, batch: int
    ) -> tuple[list[tuple[bytes, Attributes]], int]:
        told: list[tuple[bytes, Attributes]] = []

        def emit(name: bytes, attributes: Attributes, next_id: int) -> bool:
            nonlocal position
            if len(told) == batch:
                return False
            told.append((name, attributes))
            position = next_id
            if name not in (b".", b".."):
                self._hold(ino, name, attributes)
            return True

        await self.fs.readdir(fh, position, emit)
        return told, position

    async def mkdir(self, path: str, mode: int = 0o755) -> Attributes:
        parent, name = await self._new(path)
        attributes = await self.fs.mkdir(parent, name, stat.S_IFDIR | mode, ME)
        self._hold(parent, name, attributes)
        return attributes

    async def rmdir(self, path: str) -> None:
        parent, name = await self._old(path)
        await self.fs.rmdir(parent, name)
        self.dentries.pop((parent, name), None)

    async def unlink(self, path: str) -> None:
        parent, name = await self._old(path)
        await self.fs.unlink(parent, name, self.caller)
        self.dentries.pop((parent, name), None)

    async def rename(self, old: str, new: str, *, no_replace: bool = False) -> None:
        async def once() -> None:
            for path in (old, new):  # both parents before either name
                above = await self.fs.getattr(await self.ino(path.rpartition("/")[0]))
                if not stat.S_ISDIR(above.mode):
                    raise NotADirectory(path)
            source, target = await self._old(old), await self._new(new)
            await self.fs.rename(*source, *target, no_replace=no_replace)
            self.dentries.pop(target, None)
            moved = self.dentries.pop(source, None)
            if moved is not None:
                self.dentries[target] = moved

        await self._twice(once)

    # files

    async def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        async def once() -> int:
            if flags & os.O_CREAT:
                parent, name = await self._new(path)
                dentry = self.dentries.get((parent, name))
                if dentry is None or dentry.attributes is None:
                    fh, attributes = await self.fs.create(parent, name, stat.S_IFREG | mode, flags, ME)
                    self._hold(parent, name, attributes)
                    return fh
                if flags & os.O_EXCL:
                    raise Exists(path)
                if stat.S_ISDIR(dentry.attributes.mode):
                    raise IsADirectory(path)
            return await self.fs.open(await self.ino(path), flags & ~os.O_CREAT)

        return await self._twice(once)

    async def close(self, fh: int) -> None:
        """close(2): FLUSH, whose error is told, and RELEASE, whose is not."""
        try:
            await self.fs.flush(fh)
        finally:
            await self.fs.release(fh)

    async def read(self, path: str) -> bytes:
        fh = await self.open(path)
        try:
            return await self.pread(fh, 0, 1 << 30)
        finally:
            await self.close(fh)

    async def pread(self, fh: int, offset: int, size: int) -> bytes:
        """Reads of 128 KiB until one is short."""
        whole = bytearray()
        while len(whole) < size:
            wanted = min(128 * 1024, size - len(whole))
            piece = bytes(await self.fs.read(fh, offset + len(whole), wanted))
            whole += piece
            if len(piece) < wanted:
                break
        return bytes(whole)

    async def write(self, path: str, body: bytes, flags: int = os.O_WRONLY | os.O_CREAT | os.O_TRUNC) -> None:
        fh = await self.open(path, flags)
        try:
            if body:
                await self.fs.write(fh, 0, body)
        finally:
            await self.close(fh)

    async def ftruncate(self, fh: int, size: int) -> None:
        await self.fs.setattr(self.fs._handles.get(fh).inode.ino, Changes(size=size), fh)

    async def truncate(self, path: str, size: int) -> None:
        async def once() -> None:
            await self.fs.setattr(await self.ino(path), Changes(size=size), None)

        await self._twice(once)

    def drop_caches(self) -> None:
        """Forget every dentry and inode, as the kernel does under pressure."""
        self.dentries.clear()
        held, self.lookups = self.lookups, {}
        self.fs.forget(list(held.items()))

    # inside

    async def _twice(self, once: Callable[[], Awaitable[T]]) -> T:
        try:
            return await once()
        except Stale:
            self.expire()
            return await once()

    def expire(self) -> None:
        """Believe no dentry any longer; inodes stay."""
        self.dentries.clear()

    def _hold(self, parent: int, name: bytes, attributes: Attributes) -> None:
        if attributes.size < 0 or not attributes.mode:
            self.fs.forget([(attributes.ino, 1)])  # as fuse_direntplus_link() refuses what is not valid
            return
        self.lookups[attributes.ino] = self.lookups.get(attributes.ino, 0) + 1
        self.dentries[parent, name] = Dentry(attributes, trio.current_time() + attributes.entry_seconds)

    async def _step(self, parent: int, name: bytes) -> Attributes:
        dentry = self.dentries.get((parent, name))
        if dentry is None or dentry.until <= trio.current_time():
            attributes = await self.fs.lookup(parent, name)
            if attributes.ino:
                self._hold(parent, name, attributes)
            else:
                self.dentries[parent, name] = Dentry(None, trio.current_time() + attributes.entry_seconds)
            dentry = self.dentries[parent, name]
        if dentry.attributes is None:
            raise NoEntry(name.decode("utf-8", "replace"))
        return dentry.attributes

    async def _old(self, path: str) -> tuple[int, bytes]:
        parent, _, name = path.rpartition("/")
        above = await self.ino(parent)
        await self._step(above, name.encode())
        return above, name.encode()

    async def _new(self, path: str) -> tuple[int, bytes]:
        parent, _, name = path.rpartition("/")
        above = await self.ino(parent)
        try:
            await self._step(above, name.encode())
        except NoEntry:
            pass
        return above, name.encode()


@asynccontextmanager
async def mounted(
    store: MemoryStore,
    directory: Path,
    *,
    started: bool = True,
    learnt: AttributeDb | None = None,
    paper: Paper | None = None,
    **options: object,
) -> AsyncIterator[Kernel]:
    """A FileSystem on `store`, with a staging directory of its own below `directory`; requests of the start not
    counted."""
    config = Config(bucket="bucket", **options)  # type: ignore[arg-type]
    staging = directory / f"staging-{len(list(directory.iterdir()))}"
    staging.mkdir(mode=0o700)
    async with trio.open_nursery() as nursery:
        storage = Storage(
            store, config, nursery, staging_dir=staging, staging_limit_bytes=1 << 30, journal=journal_of(store)
        )
        fs = FileSystem(store, storage, config, nursery, removals=Removals(paper or PaperInMemory()), learnt=learnt)
        if started:
            await fs.start()
            store.reset_counts()
        yield Kernel(fs, store)
        nursery.cancel_scope.cancel()
