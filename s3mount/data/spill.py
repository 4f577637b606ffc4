"""The disk under the staging log: slots of one chunk each, in segment files without a name.

Knows neither positions nor files. Methods that touch the disk are called from worker threads; the table of slots is
changed in the loop only. A file that has no slot in use is closed, which gives its space back.
"""

import ctypes
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
PAGE_BYTES = 4096

RunInThread = Callable[[Callable[[], None]], Awaitable[None]]
"""How what blocks is run."""

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Slot:
    """One chunk's place on disk."""

    __slots__ = ("fd", "offset", "segment")

    def __init__(self, segment: int, fd: int, offset: int) -> None:
        self.segment = segment
        self.fd = fd
        self.offset = offset


class Spill:
    """See the module."""

    def __init__(self, directory: Path, *, chunk_bytes: int, segment_bytes: int) -> None:
        # The mutable state is the segments' descriptors and their free slots. A segment with all slots free is gone.
        self._directory = directory
        self._chunk_bytes = chunk_bytes
        self._slots_max = max(1, segment_bytes // chunk_bytes)
        self._fds: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}
        self._serial = 0

    @property
    def slots_used(self) -> int:
        return len(self._fds) * self._slots_max - sum(map(len, self._free.values()))

    def allocate(self) -> Slot:
        """Raises OSError when the directory takes no file."""
        for segment, free in self._free.items():
            if free:
                return Slot(segment, self._fds[segment], free.pop())
        fd, name = tempfile.mkstemp(dir=self._directory, prefix="segment-")
        os.unlink(name)
        self._serial += 1
        self._fds[self._serial] = fd
        self._free[self._serial] = [index * self._chunk_bytes for index in range(self._slots_max)][::-1]
        return Slot(self._serial, fd, self._free[self._serial].pop())

    def release(self, slot: Slot) -> None:
        free = self._free[slot.segment]
        free.append(slot.offset)
        if len(free) == self._slots_max:
            os.close(self._fds.pop(slot.segment))
            del self._free[slot.segment]
        else:
            self._punch(slot.fd, slot.offset, self._chunk_bytes)

    def discard(self, slot: Slot, start: int, stop: int) -> None:
        """`[start, stop)` of the slot is not needed any more."""
        start, stop = -(-start // PAGE_BYTES) * PAGE_BYTES, stop // PAGE_BYTES * PAGE_BYTES
        if start < stop:
            self._punch(slot.fd, slot.offset + start, stop - start)

    def _punch(self, fd: int, offset: int, size: int) -> None:
        # A file system without holes keeps the space until the segment goes.
        libc.fallocate(fd, PUNCH_HOLE_KEEP_SIZE, offset, size)

    @staticmethod
    def write(slot: Slot, start: int, content: memoryview) -> None:
        """Blocks. Raises OSError."""
        written = 0
        while written < len(content):
            written += os.pwrite(slot.fd, content[written:], slot.offset + start + written)

    @staticmethod
    def read(slot: Slot, start: int, into: memoryview) -> None:
        """Blocks. Raises OSError; a short read is one."""
        done = 0
        while done < len(into):
            count = os.preadv(slot.fd, [into[done:]], slot.offset + start + done)
            if not count:
                raise OSError(f"the staging segment ends early: {done} of {len(into)} bytes")
            done += count
