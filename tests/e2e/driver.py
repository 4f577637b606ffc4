"""The driver of two directories at once: draws an operation, applies it to both, compares result and errno.

What is drawn, and how often, is the `kinds` it is given; it keeps what they must know: the open handles with the names
they have, and the history that a failure shows. Knows nothing of mounts; the oracle's side is always right.
"""

import errno
import os
import random
import stat
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from tests.e2e.sides import Answer, Side, Tree, attribute_differences, tree

DIRECTORIES = ("", "d0", "d1", "d0/e0", "d0/e1", "d1/e0", "d0/e0/g0")
NAMES = ("a", "b", "c", "name with space", "\u00e4\u00f6 %41+")
HANDLES_MAX = 6
SHOWN_OPERATIONS = 40
SMALL_BYTES = 20_000
MEDIUM_BYTES = 400_000
LARGE_BYTES = 11 * 1024 * 1024


class Differs(AssertionError):
    """The two directories do not agree; says seed, step and the last operations."""


@dataclass(slots=True)
class Driver:
    """Draws operations and applies each to both sides. `mount` is under test, `oracle` is right."""

    seed: int
    mount: Side
    oracle: Side
    kinds: Mapping[Callable[["Driver"], None], int]
    """What is drawn, and how often."""
    names: tuple[str, ...] = NAMES
    shows_attributes: bool = False
    """Whether modes, owners and times are promised, and so compared."""
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
        draw = self.draws.choices(list(self.kinds), weights=list(self.kinds.values()))[0]
        draw(self)

    def close_all(self) -> None:
        """Close every handle on both sides, comparing."""
        for handle in list(self.handles):
            self._close(handle)

    def compare_trees(self) -> None:
        """Names, types and bytes of everything, and attributes where they are promised. Raises Differs."""
        left, right = tree(self.mount.root), tree(self.oracle.root)
        if left != right:
            names = [name for name in sorted({*left, *right}) if left.get(name, 0) != right.get(name, 0)]
            self.fail(f"trees differ at {names[:5]}: {[_sizes(name, left, right) for name in names[:5]]}")
        if self.shows_attributes and (differing := attribute_differences(self.mount.root, self.oracle.root)):
            self.fail(f"attributes differ: {differing}")

    def fail(self, message: str) -> None:
        shown_history = "\n".join(self.history)
        raise Differs(
            f"{message}\nseed={self.seed} step={self.steps_done}, the last operations (oracle's answer):\n"
            f"{shown_history}"
        )

    # applying

    def note(self, told: str) -> None:
        """A line of the history, before the mount is asked."""
        self.history.append(f"{self.steps_done:6} {told}")
        if self.trace is not None:
            print(self.history[-1], file=self.trace, flush=True)

    def apply(self, operation: str, *arguments: object) -> Answer:
        """One operation on both sides; the oracle's answer."""
        handle = arguments[0] if arguments and isinstance(arguments[0], int) else None
        right = answer(getattr(self.oracle, operation), arguments)
        words = ", ".join(_short(argument) for argument in arguments)
        name = f" [{self.handles[handle][0] or 'unlinked'}]" if handle in self.handles and operation != "open" else ""
        self.note(f"{operation}({words}){name} = {right}")
        left = answer(getattr(self.mount, operation), arguments)
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

    def close_name(self, name: str) -> None:
        """Close every handle that this name has."""
        for handle in [handle for handle, (known, _) in self.handles.items() if known == name]:
            self._close(handle)

    def gone(self, name: str) -> None:
        """The handles of this name have none any more."""
        self.handles = {
            handle: ("" if known == name else known, flags) for handle, (known, flags) in self.handles.items()
        }

    def moved(self, name: str, target: str) -> None:
        """Handles of `name`, and of what is below it, have a new one; those of a file at `target` have none."""
        if name == target:
            return
        self.gone(target)
        for handle, (known, flags) in self.handles.items():
            if known == name or known.startswith(f"{name}/"):
                self.handles[handle] = target + known[len(name) :], flags

    # drawing

    def name(self) -> str:
        """A path for a file, its directory there or not."""
        directory = self.draws.choice(DIRECTORIES[:4] if self.draws.random() < 0.8 else DIRECTORIES)
        return f"{directory}/{self.draws.choice(self.names)}".lstrip("/")

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
            followed = os.path.relpath(os.path.realpath(self.oracle.path(name)), os.path.realpath(self.oracle.root))
            self.handles[handle] = followed, flags

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
            self.gone(name)

    def rename(self) -> None:
        name, target = self.name(), self.name() if self.draws.random() < 0.95 else self.directory()
        if os.path.isdir(self.oracle.path(name)) and not os.path.islink(self.oracle.path(name)):
            return  # a kind of its own
        if not self.apply("rename", name, target).error:
            self.moved(name, target)

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


def answer(call: Callable[..., object], arguments: tuple[object, ...]) -> Answer:
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


def _sizes(name: str, left: Tree, right: Tree) -> str:
    def one(side: Tree) -> str:
        if name not in side:
            return "absent"
        found = side[name]
        return f"{len(found)} bytes" if isinstance(found, bytes) else found

    return f"mount {one(left)}, oracle {one(right)}{_first_difference(Answer(left.get(name)), Answer(right.get(name)))}"
