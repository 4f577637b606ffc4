"""Recycled memory with pin counts. Knows nothing of what is in it.

Fresh memory costs as much as the transfer into it (measured), so what is given back is handed out again. A buffer
goes back when its pin count reaches zero: its owner, readers across awaits and transfers in flight hold one pin each.
Small buffers are exact: the allocator recycles them well enough, and a 10 byte object must not cost a block. Recycled
ones begin at a page, as transfers between them and a disk past the page cache demand.
"""

import mmap

RECYCLED_MIN_BYTES = 64 * 1024


class Pinned:
    """A buffer while somebody holds it. `view` is writable and must not be touched after the last unpin."""

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
            self._buffers.take_back(self.view)


class Buffers:
    """The pool."""

    def __init__(self, *, idle_max_bytes: int) -> None:
        # The mutable state is the idle views by size, and the bytes idle and in use. idle_bytes <= idle_max_bytes.
        self._idle: dict[int, list[memoryview]] = {}
        self._idle_max_bytes = idle_max_bytes
        self.idle_bytes = 0
        self.used_bytes = 0

    @staticmethod
    def capacity_for(size: int) -> int:
        """The bytes that a buffer for `size` bytes takes: exact when small, else the next power of two."""
        return size if size <= RECYCLED_MIN_BYTES else 1 << (size - 1).bit_length()

    def take(self, size: int) -> Pinned:
        """A buffer of at least `size` bytes of anything, pinned once."""
        capacity = self.capacity_for(size)
        idle = self._idle.get(capacity)
        if idle:
            view = idle.pop()
            self.idle_bytes -= capacity
        elif capacity > RECYCLED_MIN_BYTES:
            view = memoryview(mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        else:
            view = memoryview(bytearray(capacity))
        self.used_bytes += capacity
        return Pinned(self, view)

    def take_back(self, view: memoryview) -> None:
        """Only for Pinned."""
        capacity = len(view)
        self.used_bytes -= capacity
        if capacity > RECYCLED_MIN_BYTES and self.idle_bytes + capacity <= self._idle_max_bytes:
            self._idle.setdefault(capacity, []).append(view)
            self.idle_bytes += capacity
