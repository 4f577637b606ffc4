"""A program over the kernel model: system calls that tell the oracle what they attempt and what they were promised.

It keeps what each file it has open must contain, as a program knows what it wrote. Three characters: one gives up at
the first error, closes what it has open and lets its caller start over; one makes the call again at once; one comes
back when all that the mount believed of names has run out, and again when the store is well, which must do.
"""

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import trio

from s3mount.errors import S3MountError
from tests.kernel_model import Kernel
from tests.sim.failing_store import FailingStore
from tests.sim.oracle import Broken, Oracle

T = TypeVar("T")
Character = Literal["gives-up", "insists", "comes-back"]
THINKING_SECONDS = 0.002
"""Between two calls, so that what is sent ahead gets its turn."""
AGAIN: dict[Character, tuple[tuple[float, bool], ...]] = {
    "gives-up": (),
    "insists": ((0.0, True),),
    "comes-back": ((10.0, False), (10.0, True)),
}
"""The further tries: how long after the one before, and whether the store is well by then."""
PIECE_BYTES = 1024 * 1024
LOOK_BYTES = 64 * 1024
DELETIONS = ("delete", "delete_many")


@dataclass(slots=True)
class Node:
    """A file that is open: its path, None once unlinked; what it contains; whether a FLUSH would store nothing yet;
    whether nothing changed since it was stored, so that a sync promises nothing new."""

    path: str | None
    content: bytearray
    handles: int = 0
    pristine: bool = False
    clean: bool = False
    going: bool = False
    """An unlink is under way: what a sync promises meanwhile is promised to nobody."""


@dataclass(slots=True)
class Opened:
    """An open file description."""

    fh: int
    node: Node


class Program:
    """See the module. The mutable state is what is open."""

    def __init__(self, kernel: Kernel, store: FailingStore, oracle: Oracle, character: Character) -> None:
        self._kernel = kernel
        self._store = store
        self._oracle = oracle
        self._character = character
        self._hits_before = len(store.hits)
        self._nodes: dict[str, Node] = {}
        self._open: list[Opened] = []
        self.calls: list[str] = []

    # files

    async def open(self, path: str, flags: int) -> Opened:
        fh = await self._call(f"open {path} {flags:#o}", lambda: self._kernel.open(path, flags))
        node = self._nodes.get(path)
        if node is None:
            found = self._oracle.pending.get(path)
            if found is None and path in self._kernel.store.objects:
                found = self._kernel.store.body(path)
            node = self._nodes[path] = Node(
                path, bytearray(found or b""), pristine=found is None, clean=found is not None
            )
        if flags & os.O_TRUNC:
            node.content.clear()
            node.pristine, node.clean = True, False
        node.handles += 1
        opened = Opened(fh, node)
        self._open.append(opened)
        return opened

    async def write(self, opened: Opened, content: bytes, offset: int | None = None) -> None:
        """pwrite(2), in pieces; without an offset at the end."""
        node = opened.node
        start = len(node.content) if offset is None else offset
        for done in range(0, len(content), PIECE_BYTES):
            piece = content[done : done + PIECE_BYTES]
            at = start + done
            await self._call(f"write {node.path} {at}", partial(self._kernel.fs.write, opened.fh, at, piece))
            node.content[at : at + len(piece)] = piece
            node.pristine = node.clean = False

    async def ftruncate(self, opened: Opened, size: int) -> None:
        await self._call(f"ftruncate {opened.node.path} {size}", lambda: self._kernel.ftruncate(opened.fh, size))
        _resize(opened.node.content, size)
        opened.node.pristine = size == 0 and opened.node.pristine
        opened.node.clean = False

    async def truncate(self, path: str, size: int) -> None:
        """truncate(2) by path, of a file that nobody has open: stored by the call, or soon after it."""
        content = bytearray(self._kernel.store.body(path))
        _resize(content, size)
        self._oracle.attempt(path, bytes(content))
        await self._call(f"truncate {path} {size}", lambda: self._kernel.truncate(path, size))
        self._oracle.pending[path] = bytes(content)

    async def fsync(self, opened: Opened) -> None:
        await self._sync(f"fsync {opened.node.path}", opened, lambda: self._kernel.fs.fsync(opened.fh), stores=True)
        opened.node.pristine = False

    async def close(self, opened: Opened) -> None:
        """FLUSH, again if it failed and the program insists, as close of a duplicate would; and RELEASE."""
        node = opened.node
        failed = True
        try:
            await self._sync(
                f"close {node.path}", opened, lambda: self._kernel.fs.flush(opened.fh), stores=not node.pristine
            )
            failed = False
        finally:
            self._open.remove(opened)
            node.handles -= 1
            if not node.handles and node.path is not None:
                self._nodes.pop(node.path, None)
                if failed:
                    self._oracle.pending.pop(node.path, None)
                elif node.pristine:
                    self._oracle.attempt(node.path, bytes(node.content))
                    self._oracle.pending[node.path] = bytes(node.content)
            await self._kernel.fs.release(opened.fh)

    async def close_all(self) -> list[S3MountError]:
        """What the end of a program does; the errors that nobody looks at."""
        errors = []
        while self._open:
            try:
                await self.close(self._open[-1])
            except S3MountError as error:
                errors.append(error)
        return errors

    # names

    async def rename(self, old: str, new: str) -> None:
        """Of a file. The second try may find that the first one had done it."""
        self._oracle.attempt_rename(old, new)
        above = old.rpartition("/")[0]
        if above:
            # A directory that only its last entry made exist gets a marker before that goes.
            self._oracle.attempt(above + "/", b"")
        await self._rename(old, new)
        self._oracle.acknowledge_rename(old, new)
        node = self._nodes.pop(old, None)
        replaced = self._nodes.pop(new, None)
        if replaced is not None:
            replaced.path = None
        if node is not None:
            node.path = new
            self._nodes[new] = node
        self._oracle.check()

    async def rename_directory(self, old: str, new: str) -> None:
        """Of a directory, with all below it that is not open. Raises NotEmpty when an earlier try left copies that the
        store would not delete."""
        keys = [key for key in self._oracle.paths() if key.startswith(old + "/")]
        targets = [new + key[len(old) :] for key in keys]
        for key, target in zip(keys, targets, strict=True):
            self._oracle.attempt_rename(key, target)
        try:
            await self._rename(old, new, leaves=new + "/")
        except S3MountError:
            for key, target in zip(keys, targets, strict=True):
                objects = self._kernel.store.objects
                if key in self._oracle.pending and key not in objects and target in objects:
                    # It was stored, and went astray with a rename that could not be undone.
                    self._oracle.pending[target] = self._oracle.pending.pop(key)
            raise
        refused = any(hit.operation in DELETIONS for hit in self._store.hits)
        for key, target in zip(keys, targets, strict=True):
            # Objects that the store does not delete stay at their former keys, which the log tells.
            self._oracle.acknowledge_rename(key, target, leaves_old=refused)
        self._oracle.check()

    async def unlink(self, path: str) -> None:
        node = self._nodes.get(path)
        if node is not None:
            node.going = True
        self._oracle.attempt(path, None)
        try:
            await self._call(f"unlink {path}", lambda: self._kernel.unlink(path), fine=(errno.ENOENT,))
        finally:
            if node is not None:
                node.going = False
        self._oracle.acknowledge(path, None)
        if node is not None:
            node.path = None
            del self._nodes[path]
        self._oracle.check()

    async def mkdir(self, path: str) -> None:
        """As `mkdir -p`."""
        if await self.exists(path):
            return
        self._oracle.attempt(path + "/", b"")
        await self._call(f"mkdir {path}", lambda: self._kernel.mkdir(path), fine=(errno.EEXIST,))
        self._oracle.acknowledge(path + "/", b"")
        self._oracle.check()

    async def rmdir(self, path: str) -> None:
        self._oracle.attempt(path + "/", None)
        await self._call(f"rmdir {path}", lambda: self._kernel.rmdir(path), fine=(errno.ENOENT,))
        self._oracle.acknowledge(path + "/", None)
        self._oracle.check()

    async def exists(self, path: str) -> bool:
        return await self._call(f"stat {path}", lambda: self._kernel.exists(path))

    async def listdir(self, path: str) -> list[str]:
        return await self._call(f"ls {path}", lambda: self._kernel.listdir(path))

    # inside

    async def _rename(self, old: str, new: str, *, leaves: str = "") -> None:
        call = partial(self._kernel.rename, old, new)
        await self._call(f"rename {old} {new}", call, fine=(errno.ENOENT,), leaves=leaves)

    async def _sync(self, name: str, opened: Opened, sync: Callable[[], Awaitable[None]], *, stores: bool) -> None:
        node = opened.node
        stores = stores and not node.clean
        content = bytes(node.content) if stores else b""
        if node.path is not None and stores:
            self._oracle.attempt(node.path, content)
        try:
            await self._call(name, sync)
        except S3MountError:
            await self._still_there(opened)
            raise
        if node.path is not None and stores:
            node.clean = node.content == content
            if not node.going:
                self._oracle.acknowledge(node.path, content)
                self._oracle.check()

    async def _still_there(self, opened: Opened) -> None:
        """A sync has failed: what was written is there for those who have the file open."""
        content = opened.node.content
        if self._store.lasts or not content:
            return
        start = max(0, len(content) - LOOK_BYTES)
        seen = await self._kernel.pread(opened.fh, start, LOOK_BYTES)
        if seen != content[start:]:
            raise Broken(f"{opened.node.path} lost bytes from {start} on when a sync failed")

    async def _call(
        self, name: str, call: Callable[[], Awaitable[T]], *, fine: tuple[int, ...] = (), leaves: str = ""
    ) -> T:
        """One system call, which may fail only after the store has; then as often again as the program is made.

        `fine`: errnos of a later try that say an earlier one had its effect. `leaves`: ENOTEMPTY is no broken promise
        once the store would not delete something below this.
        """
        await trio.sleep(THINKING_SECONDS)
        left = list(AGAIN[self._character])
        tries = 0
        while True:
            tries += 1
            self.calls.append(name if tries == 1 else f"{name} again")
            try:
                return await call()
            except S3MountError as error:
                self.calls[-1] += f" -> {error!r}"
                if tries > 1 and error.errno in fine:
                    return None  # type: ignore[return-value]  # only calls that return nothing have fine errors
                if len(self._store.hits) == self._hits_before:
                    raise Broken(f"{name} failed though the store was well: {error!r}") from error
                if not left:
                    if tries == 1 or (leaves and error.errno == errno.ENOTEMPTY and self._undeleted(leaves)):
                        raise
                    raise Broken(f"{name} failed again though the store was well: {error!r}") from error
            wait_seconds, heals = left.pop(0)
            await trio.sleep(wait_seconds)
            self._kernel.expire()
            if heals:
                self._store.heal()

    def _undeleted(self, prefix: str) -> bool:
        return any(hit.operation in DELETIONS and hit.key.startswith(prefix) for hit in self._store.hits)


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))
