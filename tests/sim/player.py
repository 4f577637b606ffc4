"""A program that plays drawn system calls on one mount, and judges each answer by the ledger.

It knows what each file it has open contains, as every program on the same mount does, since they share nodes by inode.
An error must be excused by what was injected, by what others did, or by what is there; a success must be possible; and
what is read, listed and told must have been true when it was asked for. A call that does not end in OP_SECONDS never
will.
"""

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from s3mount.errors import S3MountError
from tests.sim.excuses import Excuses
from tests.sim.finding import Finding, moved_to
from tests.sim.ledger import Broken, Node, Touch
from tests.sim.lives import Dead, Mount
from tests.sim.locking_kernel import LockingKernel, calling

if TYPE_CHECKING:
    from tests.sim.world import World

T = TypeVar("T")
OP_SECONDS = 3600.0
WRITE_MAX_BYTES = 4096
PART_BYTES = 20_480
FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_RDWR,
    "a": os.O_RDWR | os.O_APPEND,
    "t": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "c": os.O_RDWR | os.O_CREAT,
    "x": os.O_RDWR | os.O_CREAT | os.O_EXCL,
}


@dataclass(eq=False)
class Opened:
    """An open file description."""

    fh: int
    node: Node
    ino: int
    flags: int
    path: str
    life: int

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Failed(Exception):
    """A system call has failed, and was excused."""


class Player:
    """See the module. The mutable state is what it has open."""

    def __init__(self, world: "World", number: int, mount: Mount) -> None:
        self.world = world
        self.number = number
        self.mount = mount
        self.opened: list[Opened] = []
        self._ledger = world.ledger
        self._excuses = Excuses(world, mount)
        self._finding = Finding(world, mount)

    @property
    def kernel(self) -> LockingKernel:
        kernel = self.mount.kernel
        if kernel is None:
            raise Dead
        return kernel

    async def play(self, op: str, args: tuple[object, ...]) -> None:
        """One step."""
        calling.set(self.number + 2)
        self.opened = [opened for opened in self.opened if opened.life == self.mount.lives and self.mount.kernel]
        try:
            await getattr(self, op)(*args)
        except (Failed, Dead):
            pass

    # files

    async def open(self, path: str, how: str) -> Opened:
        if len(self.opened) >= 3:
            await self.close(0)
        flags, start = FLAGS[how], trio.current_time()
        if any(
            touch.kind == "truncate" and touch.end is None and path in touch.paths for touch in self._ledger.touches
        ):
            raise Failed  # which of the two came first, nobody could tell
        touch = self._ledger.touch("open", self.mount.number, path) if flags & os.O_CREAT else None
        self.world.opening[path] += 1
        try:
            fh = await self._call(f"open {path} {how}", lambda: self.kernel.open(path, flags), (path,), touch=touch)
        finally:
            self.world.opening[path] -= 1
        inode = self.kernel.fs._handles.get(fh).inode
        node = self._finding.node(inode, path, how, start)
        opened = Opened(fh, node, inode.ino, flags, path, self.mount.lives)
        node.handles += 1
        node.writers += opened.writable
        self.opened.append(opened)
        if flags & os.O_TRUNC:
            node.blind = True
            if node.content:
                self._ledger.write(node, b"")
            node.pristine = True
            node.failed = False
        return opened

    async def write(self, slot: int, where: str, size: int) -> None:
        """pwrite(2) in the pieces that the kernel makes of it."""
        opened = self._slot(slot)
        if opened is None or not opened.writable:
            return
        node = opened.node
        async with self.kernel.locked(opened.ino):
            if opened.flags & os.O_APPEND:
                where = "end"
            length = len(node.content)
            offset = {"end": length, "start": 0, "middle": length // 2, "beyond": length + 700}[where]
            data = self.world.bytes_of(size)
            for start in range(0, size, WRITE_MAX_BYTES):
                piece, at = data[start : start + WRITE_MAX_BYTES], offset + start
                grown = node.content.ljust(at, b"\0")
                await self._change(
                    f"write {opened.path} {at} {len(piece)}",
                    opened,
                    grown[:at] + piece + grown[at + len(piece) :],
                    lambda at=at, piece=piece: self.kernel.fs.write(opened.fh, at, piece),  # type: ignore[misc]
                )

    async def ftruncate(self, slot: int, size: int) -> None:
        opened = self._slot(slot)
        if opened is None or not opened.writable:
            return
        pristine = opened.node.pristine and not size
        async with self.kernel.locked(opened.ino):
            await self._change(
                f"ftruncate {opened.path} {size}",
                opened,
                opened.node.content[:size].ljust(size, b"\0"),
                lambda: self.kernel.ftruncate(opened.fh, size),
            )
        opened.node.pristine = pristine

    async def _change(self, words: str, opened: Opened, content: bytes, act: Callable[[], Awaitable[object]]) -> None:
        node = opened.node
        self._ledger.write(node, content)
        node.pristine = False
        node.waits += 1
        try:
            await self._call(words, act, tuple(node.keys), node=node)
        except Failed:
            node.failed = True
            raise
        finally:
            node.waits -= 1

    async def read(self, slot: int) -> None:
        """All of it must be what the file has."""
        opened = self._slot(slot)
        if opened is None:
            return
        node = opened.node
        before, states = node.content, len(node.states)
        busy = node.waits > 0
        paths = tuple(node.keys)
        got = await self._call(
            f"read {opened.path}", lambda: self.kernel.pread(opened.fh, 0, len(before) + 1000), paths, node=node
        )
        if not busy and len(node.states) == states and not node.failed and got != before:
            raise Broken(f"{opened.path} was read as {brief(got)}, and is {brief(before)}")

    async def fsync(self, slot: int) -> None:
        opened = self._slot(slot)
        if opened is not None:
            await self._sync(f"fsync {opened.path}", opened, lambda: self.kernel.fs.fsync(opened.fh), whole=True)

    async def close(self, slot: int) -> None:
        """FLUSH, whose answer is the program's; then RELEASE."""
        opened = self._slot(slot)
        if opened is None:
            return
        self.opened.remove(opened)
        node = opened.node
        try:
            flush = opened.writable and not node.pristine
            await self._sync(f"close {opened.path}", opened, lambda: self.kernel.fs.flush(opened.fh), whole=flush)
        except Failed:
            node.failed = True
        finally:
            if self.mount.kernel is not None and opened.life == self.mount.lives:
                node.handles -= 1
                node.writers -= opened.writable
                await self._call(f"release {opened.path}", lambda: self.kernel.fs.release(opened.fh), (), node=node)

    async def _sync(self, words: str, opened: Opened, act: Callable[[], Awaitable[None]], *, whole: bool) -> None:
        node, start = opened.node, trio.current_time()
        promised = len(node.states) - 1 - node.waits
        paths = tuple(node.keys)
        await self._call(words, act, paths, node=node)
        if not whole or node.gone or node.astray or not paths:
            return
        if node.stored < promised and not any(self._ledger.touched(path, start) for path in paths):
            raise Broken(f"{words} answered 0, and the bucket never had {brief(node.states[promised])}")
        node.acked = max(node.acked, min(promised, node.stored))

    # composites

    async def write_file(self, path: str, how: str, where: str, size: int) -> None:
        opened = await self.open(path, how)
        try:
            await self.write(self.opened.index(opened), where, size)
        except (Failed, ValueError):
            pass
        if opened in self.opened:
            await self.close(self.opened.index(opened))

    async def read_file(self, path: str) -> None:
        opened = await self.open(path, "r")
        await self.read(self.opened.index(opened))
        if opened in self.opened:
            await self.close(self.opened.index(opened))

    # names

    async def truncate(self, path: str, size: int) -> None:
        if self.world.opening[path] or self.world.nodes_below(self.mount, path):
            return  # whoever has it open uses `ftruncate`
        touch = self._ledger.touch("truncate", self.mount.number, path, body=bytes(size))
        start = touch.start
        await self._call(f"truncate {path} {size}", lambda: self.kernel.truncate(path, size), (path,), touch=touch)
        if size > PART_BYTES:
            return  # stored soon
        held = self._ledger.bodies(path, start)
        stored = any(body is not None and len(body) == size for body in held)
        calm = not self._ledger.touched(path, start, but=touch) and not self.world.nodes_below(self.mount, path)
        if calm and not stored:
            raise Broken(f"truncate {path} {size} answered 0, and the bucket never had that")

    async def rename(self, old: str, new: str) -> None:
        if old == new:
            return
        touch = self._ledger.touch("rename", self.mount.number, old, new)
        moved = self.world.nodes_below(self.mount, old)
        replaced = self.world.nodes_below(self.mount, new)
        for node in moved:
            node.keys |= {future for key in node.keys if (future := moved_to(key, old, new))}
        try:
            await self._call(f"rename {old} {new}", lambda: self.kernel.rename(old, new), (old, new), touch=touch)
        except Failed:
            for node in moved:
                node.astray = True
            raise
        for node in replaced:
            if node not in moved:
                node.gone = True
                node.keys.clear()
        going = [one.paths[1] for one in self._ledger.touches if one.kind == "rename" and one.end is None]
        for node in self.world.nodes_below(self.mount, old):
            for key, future in [(key, future) for key in node.keys if (future := moved_to(key, old, new)) in node.keys]:
                node.replaces.update(self._ledger.bodies(str(future), touch.start))
                # Unless it moves on meanwhile, perhaps to the name that it has just left.
                if not any(moved_to(held, path, path) for path in going for held in node.keys):
                    node.keys.discard(key)

    async def unlink(self, path: str) -> None:
        touch = self._ledger.touch("remove", self.mount.number, path)
        await self._call(f"unlink {path}", lambda: self.kernel.unlink(path), (path,), touch=touch)
        for node in self.world.nodes_below(self.mount, path):
            node.gone = True
            node.keys.clear()

    async def mkdir(self, path: str) -> None:
        touch = self._ledger.touch("change", self.mount.number, path)
        await self._call(f"mkdir {path}", lambda: self.kernel.mkdir(path), (path,), touch=touch)

    async def rmdir(self, path: str) -> None:
        touch = self._ledger.touch("remove", self.mount.number, path)
        await self._call(f"rmdir {path}", lambda: self.kernel.rmdir(path), (path,), touch=touch)

    async def symlink(self, path: str) -> None:
        target = self.world.bytes_of(20).decode()
        touch = self._ledger.touch("put", self.mount.number, path, body=target.encode())
        await self._call(f"symlink {path}", lambda: self.kernel.symlink(path, target), (path,), touch=touch)

    async def chmod(self, path: str, mode: int) -> None:
        await self._call(f"chmod {path} {mode:o}", lambda: self.kernel.chmod(path, mode), (path,))

    async def stat(self, path: str) -> None:
        start = trio.current_time()
        shown = await self._call(f"stat {path}", lambda: self.kernel.stat(path), (path,))
        node = self.world.nodes.get((self.mount.number, shown.ino))
        known = node is not None and node.handles and not node.waits and not node.failed
        if node is not None and known and shown.size != len(node.content) and not self._ledger.touched(path, start):
            raise Broken(f"stat {path}: {shown.size} bytes, and it has {len(node.content)}")
        if stat.S_ISDIR(shown.mode) != self.world.is_directory_name(path):
            raise Broken(f"stat {path}: mode {shown.mode:o}")

    async def listdir(self, path: str) -> None:
        start = trio.current_time()
        names = await self._call(f"ls {path or '.'}", lambda: self.kernel.listdir(path, batch=3), (path,))
        if len(set(names)) != len(names):
            raise Broken(f"ls {path or '.'} lists names twice: {names}")
        for name, below in self.world.universe(path):
            sure = self._excuses.sure(below, start)
            if sure is not None and sure is not (name in names):
                raise Broken(f"ls {path or '.'} lists {names}, and {name} is {'there' if sure else 'not there'}")

    async def forget(self) -> None:
        self.kernel.forget_some()

    # inside

    def _slot(self, slot: int) -> Opened | None:
        return self.opened[slot % len(self.opened)] if self.opened else None

    async def _call(
        self,
        words: str,
        act: Callable[[], Awaitable[T]],
        paths: tuple[str, ...],
        *,
        touch: Touch | None = None,
        node: Node | None = None,
    ) -> T:
        """One system call. Raises Failed for an error with an excuse, Broken for one without."""
        world, kernel, start = self.world, self.kernel, trio.current_time()
        kernel.under_way += 1
        fine = False
        line = world.line(f"p{self.number} m{self.mount.number} {words}")
        try:
            result = await self.mount.call(act, OP_SECONDS)
            fine = True
        except S3MountError as error:
            world.answered(line, errno.errorcode[error.errno])
            if (why := self._excuses.lacking(error, words, paths, start, touch, node)) is not None:
                raise Broken(f"{words} answered {error!r}: {why}") from error
            raise Failed from error
        except Dead:
            world.answered(line, "ENOTCONN")
            raise
        except trio.TooSlowError as error:
            raise Broken(f"{words} did not end") from error
        finally:
            kernel.under_way -= 1
            if touch is not None:
                self._ledger.end(touch, fine=fine)
            world.check()
        world.answered(line, "0")
        if (why := self._excuses.impossible(words, paths, start, touch)) is not None:
            raise Broken(f"{words} succeeded: {why}")
        return result


def brief(content: bytes) -> str:
    return f"{len(content)} bytes {content[:12]!r}..{content[-12:]!r}"
