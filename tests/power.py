"""A disk for the write-back journal whose power can be cut: it remembers all that was done to it, in order.

Sure is what was synced: the content of a file by `sync`, names by `sync_names`. Of all else a cut leaves what is drawn:
nothing, everything, some of the writes, and of those some sectors only; some of the names that were made or deleted.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from s3mount.store.base import Body

SECTOR_BYTES = 512

Left = Literal["nothing", "everything", "some"]


class Event(NamedTuple):
    """One call, after it was carried out."""

    name: Literal["create", "write", "punch", "sync", "sync_names", "unlink"]
    number: int = 0
    offset: int = 0
    content: bytes = b""


@dataclass
class _File:
    sure: bytearray
    unsure: list[Event] = field(default_factory=list)

    def after_cut(self, left: Left, draw: random.Random) -> bytearray:
        content = bytearray(self.sure)
        for event in self.unsure:
            if left == "everything" or (left == "some" and draw.random() < 0.5):
                torn = left == "some" and draw.random() < 0.5
                for start in range(0, len(event.content), SECTOR_BYTES):
                    if not torn or draw.random() < 0.5:
                        piece = event.content[start : start + SECTOR_BYTES]
                        content[event.offset + start : event.offset + start + len(piece)] = piece
        return content


class PowerDisk:
    """A Disk in memory. `fail` is asked before each call, by its name, and may raise OSError."""

    def __init__(self, files: dict[int, bytes] | None = None) -> None:
        self.first = dict(files or {})
        self.files = {number: bytearray(content) for number, content in self.first.items()}
        self.events: list[Event] = []
        self.aside: dict[str, dict[int, bytes]] = {}
        self.fail: Callable[[str], None] = lambda name: None
        self._reserve = 0

    def after_cut(self, count: int, left: Left, draw: random.Random) -> "PowerDisk":
        """The disk as it may be found when the power goes after so many events."""
        files = {number: _File(bytearray(content)) for number, content in self.first.items()}
        sure_names = set(files)
        changes: list[tuple[int, bool]] = []
        for event in self.events[:count]:
            if event.name == "create":
                files[event.number] = _File(bytearray(event.content))
                changes.append((event.number, True))
            elif event.name == "unlink":
                changes.append((event.number, False))
            elif event.name in ("write", "punch"):
                files[event.number].unsure.append(event)
            elif event.name == "sync":
                file = files[event.number]
                file.sure, file.unsure = file.after_cut("everything", draw), []
            else:
                for number, there in changes:
                    (sure_names.add if there else sure_names.discard)(number)
                changes.clear()
        for number, there in changes:
            if left == "everything" or (left == "some" and draw.random() < 0.5):
                (sure_names.add if there else sure_names.discard)(number)
        return PowerDisk({number: bytes(files[number].after_cut(left, draw)) for number in sure_names})

    # as a Disk

    def numbers(self) -> list[int]:
        return sorted(self.files)

    def size(self, number: int) -> int:
        return len(self.files[number])

    def create(self, number: int, size: int) -> None:
        self.fail("create")
        self._make(number, size)

    def make_reserve(self, size: int) -> None:
        self.fail("create")
        self._reserve = size

    def take_reserve(self, number: int) -> None:
        size, self._reserve = self._reserve, 0
        assert size
        self._make(number, size)

    def drop_reserve(self) -> None:
        self._reserve = 0

    def write(self, number: int, offset: int, buffers: Body) -> None:
        content = b"".join(buffers)
        try:
            self.fail("write")
        except OSError:
            self._put(Event("write", number, offset, content[: len(content) // 2]))
            raise
        self._put(Event("write", number, offset, content))

    def push(self, number: int, offset: int, size: int) -> None:
        assert offset + size <= len(self.files[number])

    def sync(self, number: int) -> None:
        self.fail("sync")
        assert number in self.files
        self.events.append(Event("sync", number))

    def sync_names(self) -> None:
        self.fail("sync_names")
        self.events.append(Event("sync_names"))

    def read(self, number: int, offset: int, into: memoryview) -> int:
        self.fail("read")
        if number not in self.files:
            raise FileNotFoundError(number)
        piece = self.files[number][offset : offset + len(into)]
        into[: len(piece)] = piece
        return len(piece)

    def punch(self, number: int, offset: int, size: int) -> None:
        self._put(Event("punch", number, offset, bytes(size)))

    def unlink(self, number: int) -> None:
        if self.files.pop(number, None) is not None:
            self.events.append(Event("unlink", number))

    def set_aside(self, number: int, directory: str, *, copied: bool) -> None:
        self.aside.setdefault(directory, {})[number] = bytes(self.files[number])
        if not copied:
            self.unlink(number)

    def close(self) -> None: ...

    def _make(self, number: int, size: int) -> None:
        assert number not in self.files
        self.files[number] = bytearray(size)
        self.events.append(Event("create", number, 0, bytes(size)))

    def _put(self, event: Event) -> None:
        content = self.files[event.number]
        assert event.offset + len(event.content) <= len(content), "a write beyond what was allocated"
        content[event.offset : event.offset + len(event.content)] = event.content
        self.events.append(event)
