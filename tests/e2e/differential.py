"""Random file operations on two directories at once, a local one being the oracle: results and errnos must be equal.

A run is a pure function of its seed and of what the oracle answers, so a failure is replayed by its seed:
`python -m tests.e2e.differential --seed N MOUNT ORACLE` runs it on any two empty directories. As a program it obeys
standard input: each line is a number of steps to take, after which all is closed and the trees are compared; the answer
is `ok` or the difference. Being a process of its own a mapped page that cannot be read (SIGBUS) kills it, not pytest.
`DIFFERENCES` is the one list of what a mount may answer differently.
"""

import argparse
import errno
import os
import random
import stat
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tests.e2e.sides import Answer, Side, tree

DIRECTORIES = ("", "d0", "d1", "d0/e0", "d0/e1", "d1/e0", "d0/e0/g0")
NAMES = ("a", "b", "c", "name with space", "\u00e4\u00f6 %41+")
HANDLES_MAX = 6
SHOWN_OPERATIONS = 40
SMALL_BYTES = 20_000
MEDIUM_BYTES = 400_000
LARGE_BYTES = 11 * 1024 * 1024

DIFFERENCES = """\
Not compared: size, link count and times of directories, link counts, block counts, inode numbers, times: an object has
    none of them, or the server's.
Not compared: the order of a listing, positions within a directory (no seek on one is drawn).
Not drawn: hard links (EPERM), symbolic links, special files, extended attributes, modes and owners; renaming
    directories: these are not promised yet.
Not drawn: fallocate, SEEK_DATA, SEEK_HOLE, copy_file_range: the mount has no handler for them, local disks have.
Tolerated: ESTALE where a file was unlinked or replaced while open and the call wants bytes never read before: the
    object is gone from the bucket. The handle is closed then, and such a file is not mapped (it would be SIGBUS).
"""


class Differs(AssertionError):
    """The two directories do not agree; says seed, step and the last operations."""


@dataclass(slots=True)
class Driver:
    """Draws operations and applies each to both sides. `mount` is under test, `oracle` is right."""

    seed: int
    mount: Side
    oracle: Side
    steps_done: int = 0
    trace: TextIO | None = None
    """Where each operation is written before it is made: what is left when the process is killed."""
    history: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN_OPERATIONS))
    # The mutable state besides: the random source, and what the driver knows of each open handle.
    draws: random.Random = field(init=False)
    handles: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Handle -> the name it was opened by (followed through renames, empty once unlinked) and its open flags."""
    next_handle: int = 0

    def __post_init__(self) -> None:
        self.draws = random.Random(self.seed)

    def run(self, steps: int) -> None:
        """So many operations. Raises Differs."""
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """Draw one operation and compare."""
        self.steps_done += 1
        draw = self.draws.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        draw(self)

    def close_all(self) -> None:
        """Close every handle on both sides, comparing."""
        for handle in list(self.handles):
            self._close(handle)

    def compare_trees(self) -> None:
        """Names, types and bytes of everything. Raises Differs."""
        left, right = tree(self.mount.root), tree(self.oracle.root)
        if left != right:
            names = [name for name in sorted({*left, *right}) if left.get(name, 0) != right.get(name, 0)]
            self.fail(f"trees differ at {names[:5]}: {[_sizes(name, left, right) for name in names[:5]]}")

    def fail(self, message: str) -> None:
        shown_history = "\n".join(self.history)
        raise Differs(
            f"{message}\nseed={self.seed} step={self.steps_done}, the last operations (oracle's answer):\n"
            f"{shown_history}"
        )

    # applying

    def apply(self, operation: str, *arguments: object) -> Answer:
        """One operation on both sides; the oracle's answer."""
        handle = arguments[0] if arguments and isinstance(arguments[0], int) else None
        right = _answer(getattr(self.oracle, operation), arguments)
        words = ", ".join(_short(argument) for argument in arguments)
        name = f" [{self.handles[handle][0] or 'unlinked'}]" if handle in self.handles and operation != "open" else ""
        self.history.append(f"{self.steps_done:6} {operation}({words}){name} = {right}")
        if self.trace is not None:
            print(self.history[-1], file=self.trace, flush=True)
        left = _answer(getattr(self.mount, operation), arguments)
        if left != right:
            if left.error == errno.ESTALE and handle in self.handles and not self.handles[handle][0]:
                self.handles.pop(handle)  # the tolerated one of DIFFERENCES
                for side in (self.mount, self.oracle):
                    if handle in side.fds:
                        side.close(handle)
            else:
                self.fail(f"{operation}: mount {left}, oracle {right}{_first_difference(left, right)}")
        return right

    def _close(self, handle: int) -> None:
        self.apply("close", handle)
        self.handles.pop(handle, None)

    # drawing

    def name(self) -> str:
        """A path for a file, its directory there or not."""
        directory = self.draws.choice(DIRECTORIES[:4] if self.draws.random() < 0.8 else DIRECTORIES)
        return f"{directory}/{self.draws.choice(NAMES)}".lstrip("/")

    def directory(self) -> str:
        return self.draws.choice(DIRECTORIES[1:])

    def handle(self) -> int | None:
        return self.draws.choice(list(self.handles)) if self.handles else None

    def known_size(self, handle: int) -> int:
        return os.fstat(self.oracle.fds[handle]).st_size

    def offset(self, size: int) -> int:
        """Within the file, at its end, some way behind it, rarely far."""
        kind = self.draws.random()
        if kind < 0.5:
            return self.draws.randint(0, size)
        if kind < 0.65:
            return size
        if kind < 0.9:
            return self.draws.randint(0, SMALL_BYTES)
        if kind < 0.96:
            return self.draws.randint(0, MEDIUM_BYTES)
        return self.draws.randint(0, LARGE_BYTES)

    def length(self) -> int:
        kind = self.draws.random()
        if kind < 0.6:
            return self.draws.randint(0, 300)
        if kind < 0.95:
            return self.draws.randint(0, SMALL_BYTES)
        return self.draws.randint(0, MEDIUM_BYTES)

    def data(self) -> bytes:
        """Recognisable and cheap: a drawn word repeated."""
        word = b"%08x" % self.draws.getrandbits(32)
        length = self.length()
        return (word * (length // 8 + 1))[:length]

    # operations

    def open(self) -> None:
        if len(self.handles) >= HANDLES_MAX:
            self._close(self.draws.choice(list(self.handles)))
        flags = self.draws.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        if self.draws.random() < 0.6:
            flags |= os.O_CREAT
        if self.draws.random() < 0.15:
            flags |= os.O_EXCL | os.O_CREAT
        if self.draws.random() < 0.2 and flags & os.O_ACCMODE != os.O_RDONLY:
            flags |= os.O_TRUNC
        if self.draws.random() < 0.25:
            flags |= os.O_APPEND
        handle, name = self.next_handle, self.name() if self.draws.random() < 0.95 else self.directory()
        self.next_handle += 1
        if not self.apply("open", handle, name, flags).error:
            self.handles[handle] = name, flags

    def close(self) -> None:
        if (handle := self.handle()) is not None:
            self._close(handle)

    def dup_and_close(self) -> None:
        if (handle := self.handle()) is not None:
            self.apply("dup_and_close", handle)

    def write(self) -> None:
        if (handle := self.handle()) is not None:
            self.apply("write", handle, self.data())

    def pwrite(self) -> None:
        if (handle := self.handle()) is not None:
            self.apply("pwrite", handle, self.offset(self.known_size(handle)), self.data())

    def read(self) -> None:
        if (handle := self.handle()) is not None:
            self.apply("read", handle, self.length())

    def pread(self) -> None:
        if (handle := self.handle()) is not None:
            self.apply("pread", handle, self.offset(self.known_size(handle)), self.length())

    def seek(self) -> None:
        if (handle := self.handle()) is not None and stat.S_ISREG(os.fstat(self.oracle.fds[handle]).st_mode):
            whence = self.draws.choice((os.SEEK_SET, os.SEEK_CUR, os.SEEK_END))
            offset = self.offset(self.known_size(handle)) if whence == os.SEEK_SET else self.draws.randint(-2000, 2000)
            self.apply("seek", handle, offset, whence)

    def ftruncate(self) -> None:
        if (handle := self.handle()) is not None:
            self.apply("ftruncate", handle, self.offset(self.known_size(handle)))

    def truncate(self) -> None:
        self.apply("truncate", self.name(), self.offset(SMALL_BYTES))

    def fsync(self) -> None:
        if (handle := self.handle()) is not None:
            self.apply(self.draws.choice(("fsync", "fdatasync")), handle)

    def fstat(self) -> None:
        if (handle := self.handle()) is not None:
            self.apply("fstat", handle)

    def stat(self) -> None:
        self.apply("stat", self.name() if self.draws.random() < 0.8 else self.directory())

    def unlink(self) -> None:
        name = self.name() if self.draws.random() < 0.95 else self.directory()
        if not self.apply("unlink", name).error:
            self._forget(name)

    def rename(self) -> None:
        name, target = self.name(), self.name() if self.draws.random() < 0.95 else self.directory()
        if os.path.isdir(self.oracle.path(name)):
            return
        if not self.apply("rename", name, target).error and name != target:
            self._forget(target)
            self.handles = {
                handle: (target if known == name else known, flags) for handle, (known, flags) in self.handles.items()
            }

    def mkdir(self) -> None:
        self.apply("mkdir", self.directory() if self.draws.random() < 0.9 else self.name())

    def rmdir(self) -> None:
        self.apply("rmdir", self.directory() if self.draws.random() < 0.9 else self.name())

    def listdir(self) -> None:
        self.apply("listdir", self.draws.choice(DIRECTORIES))

    def read_file(self) -> None:
        self.apply("read_file", self.name())

    def append_line(self) -> None:
        self.apply("append_line", self.name(), b"line %d\n" % self.steps_done)

    def map_read(self) -> None:
        handle = self.handle()
        if handle is not None and self.handles[handle][0] and (size := self.known_size(handle)):
            self.apply("map_read", handle, self.draws.randint(0, size), self.length())

    def map_write(self) -> None:
        handle = self.handle()
        if handle is not None and self.handles[handle][0] and (size := self.known_size(handle)):
            self.apply("map_write", handle, self.draws.randint(0, size), self.data(), self.draws.getrandbits(1))

    def _forget(self, name: str) -> None:
        """The handles of this name have none any more."""
        self.handles = {
            handle: ("" if known == name else known, flags) for handle, (known, flags) in self.handles.items()
        }


WEIGHTS: dict[Callable[[Driver], None], int] = {
    Driver.open: 20,
    Driver.close: 12,
    Driver.dup_and_close: 2,
    Driver.write: 12,
    Driver.pwrite: 14,
    Driver.read: 8,
    Driver.pread: 12,
    Driver.seek: 5,
    Driver.ftruncate: 5,
    Driver.truncate: 3,
    Driver.fsync: 4,
    Driver.fstat: 4,
    Driver.stat: 8,
    Driver.unlink: 5,
    Driver.rename: 8,
    Driver.mkdir: 5,
    Driver.rmdir: 3,
    Driver.listdir: 5,
    Driver.read_file: 8,
    Driver.append_line: 6,
    Driver.map_read: 3,
    Driver.map_write: 4,
}


def _answer(call: Callable[..., object], arguments: tuple[object, ...]) -> Answer:
    try:
        return Answer(call(*arguments))
    except OSError as error:
        return Answer(error=error.errno or errno.EIO)


def _short(argument: object) -> str:
    return f"<{len(argument)} x {argument[:8]!r}>" if isinstance(argument, bytes) else repr(argument)


def _first_difference(left: Answer, right: Answer) -> str:
    if not (isinstance(left.value, bytes) and isinstance(right.value, bytes)):
        return ""
    at = next((i for i, (a, b) in enumerate(zip(left.value, right.value, strict=False)) if a != b), None)
    if at is None:
        return f"; lengths {len(left.value)} and {len(right.value)}"
    return f"; first at {at}: {left.value[at : at + 16]!r} and {right.value[at : at + 16]!r}"


def _sizes(name: str, left: dict[str, bytes | None], right: dict[str, bytes | None]) -> str:
    def one(side: dict[str, bytes | None]) -> str:
        if name not in side:
            return "absent"
        body = side[name]
        return "directory" if body is None else f"{len(body)} bytes"

    return f"mount {one(left)}, oracle {one(right)}{_first_difference(Answer(left.get(name)), Answer(right.get(name)))}"


def main() -> int:
    options = argparse.ArgumentParser(description="run random operations on two empty directories and compare")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--trace", type=Path, default=Path(os.devnull))
    options.add_argument("mount", type=Path)
    options.add_argument("oracle", type=Path)
    chosen = options.parse_args()
    with chosen.trace.open("w") as trace:
        driver = Driver(chosen.seed, Side(chosen.mount), Side(chosen.oracle), trace=trace)
        for line in sys.stdin:
            try:
                driver.run(int(line))
                driver.close_all()
                driver.compare_trees()
            except Differs as difference:
                print(difference, flush=True)
                return 1
            print("ok", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
