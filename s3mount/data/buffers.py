"""Recycled memory with pin counts. Knows nothing of what is in it.

Fresh memory costs as much as the transfer into it (measured), so what is given back is handed out again. A buffer
goes back when its pin count reaches zero: its owner, readers across awaits and transfers in flight hold one pin each.
Small buffers are exact: the allocator recycles them well enough, and a 10 byte object must not cost a block. Recycled
ones begin at a page, as transfers between them and a disk past the page cache demand.

Fresh ones are the kernel's zeros. Up to 2 MiB they come with all their pages: 0.30 to 0.50 ms of CPU for each MiB with
the copy into it, where a bytearray takes 0.56 to 0.84, for it writes the zeros page fault by page fault (measured). For
8 MiB at once that would hold the loop for 3 to 4 ms: the pages of larger ones come as they are written, at 0.64. Huge
pages were tried: 0.12 on a fresh machine, 2.4 to 3.6 on one whose memory is in pieces, where the kernel moves others'.
"""

import mmap
from collections import OrderedDict

RECYCLED_MIN_BYTES = 64 * 1024
POPULATED_MAX_BYTES = 2 * 1024 * 1024
NOTHING = memoryview(b"")


class Pinned:
    """A buffer while somebody holds it. `view` is writable, and empty after the last unpin; slices of it must not be
    touched then."""

    __slots__ = ("_buffers", "capacity", "pins", "view")

    def __init__(self, buffers: "Buffers", view: memoryview) -> None:
        # The mutable state is `pins`; at zero the memory belongs to `buffers` again.
        self._buffers = buffers
        self.view = view
        self.capacity = len(view)
        self.pins = 1

    def pin(self) -> None:
        assert self.pins > 0
        self.pins += 1

    def unpin(self) -> None:
        assert self.pins > 0
        self.pins -= 1
        if not self.pins:
            # Who still knows this one keeps no memory alive that is not counted any more.
            view, self.view = self.view, NOTHING
            self._buffers.take_back(view)


class Buffers:
    """The pool."""

    def __init__(self, *, idle_max_bytes: int) -> None:
        # The mutable state is the idle views by size, the size used last at the end, none of them empty; and the bytes
        # idle and in use, and the most that ever were in use. idle_bytes <= idle_max_bytes.
        self._idle: OrderedDict[int, list[memoryview]] = OrderedDict()
        self._idle_max_bytes = idle_max_bytes
        self.idle_bytes = 0
        self.used_bytes = self.most_bytes = 0

    @staticmethod
    def capacity_for(size: int) -> int:
        """The bytes that a buffer for `size` bytes takes: exact when small, else the next power of two."""
        return size if size <= RECYCLED_MIN_BYTES else 1 << (size - 1).bit_length()

    def take(self, size: int) -> Pinned:
        """A buffer of at least `size` bytes of anything, pinned once."""
        capacity = self.capacity_for(size)
        idle = self._idle.get(capacity)
        if idle:
            self._idle.move_to_end(capacity)
            view = self._pop(capacity, idle)
        else:
            view = _fresh(capacity)
        self.used_bytes += capacity
        if self.used_bytes > self.most_bytes:
            self.most_bytes = self.used_bytes
        return Pinned(self, view)

    def take_back(self, view: memoryview) -> None:
        """Only for Pinned."""
        capacity = len(view)
        self.used_bytes -= capacity
        if not RECYCLED_MIN_BYTES < capacity <= self._idle_max_bytes:
            return
        idle = self._idle.setdefault(capacity, [])
        self._idle.move_to_end(capacity)
        # Sizes that nobody asks for any more make room: a stream that has come to large requests would get none else.
        while self.idle_bytes + capacity > self._idle_max_bytes:
            least, others = next(iter(self._idle.items()))
            if others is idle:
                return
            self._pop(least, others)
        idle.append(view)
        self.idle_bytes += capacity

    def _pop(self, capacity: int, idle: list[memoryview]) -> memoryview:
        self.idle_bytes -= capacity
        view = idle.pop()
        if not idle:
            del self._idle[capacity]
        return view


def _fresh(capacity: int) -> memoryview:
    if capacity <= RECYCLED_MIN_BYTES:
        return memoryview(bytearray(capacity))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if capacity <= POPULATED_MAX_BYTES:
        flags |= mmap.MAP_POPULATE
    return memoryview(mmap.mmap(-1, capacity, flags=flags))
