"""The pieces the staging log is made of, as plain state: chunks, and the tails by which files append to them.

Knows no rule of the log: `staging` and `memory` alone change what is here.
"""

from s3mount.data.buffers import Pinned
from s3mount.data.spill import Slot

CHUNK_BYTES = 1024 * 1024


class Chunk:
    """One chunk. In memory, on disk, or both while a hold keeps the memory that was already written."""

    __slots__ = ("dead", "deferred", "holds", "is_tail", "live", "memory", "number", "slot", "spilling", "used")

    def __init__(self, number: int, memory: Pinned) -> None:
        # The mutable state: bytes used from the start and live among them; ranges dead, and freed under a hold
        # (still live); whether it is the shared tail, which small files use over and over. live == 0 and no hold and
        # not the shared tail: the chunk is gone. Memory or slot is there.
        self.number = number
        self.memory: Pinned | None = memory
        self.slot: Slot | None = None
        self.used = 0
        self.live = 0
        self.holds = 0
        self.is_tail = False
        self.spilling = False
        self.dead: list[tuple[int, int]] = []
        self.deferred: list[tuple[int, int]] = []


class Tail:
    """Where one file appends: the shared chunk until it has staged enough for one of its own."""

    __slots__ = ("appended", "chunk")

    def __init__(self) -> None:
        self.appended = 0
        self.chunk: Chunk | None = None


def living(used: int, dead: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges of the first `used` bytes that are not dead, in order."""
    ranges = []
    position = 0
    for start, stop in sorted(dead):
        if position < start:
            ranges.append((position, start))
        position = max(position, stop)
    if position < used:
        ranges.append((position, used))
    return ranges
