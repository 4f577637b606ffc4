"""How far ahead of a reader to fetch. Pure.

A sequential reader gets a window that doubles while it goes on, up to a limit; any other reader gets what it asks,
rounded to a block. The kernel sends several reads at once and out of order, so near is sequential.
"""

from collections.abc import Iterator

from s3mount.config import MIB

FIRST_WINDOW_BYTES = 1 * MIB
SLACK_BYTES = 4 * MIB
"""What the kernel may have in flight around the place where the reader is."""
GETS_PER_WINDOW = 4
GET_LEAST_BYTES = 1 * MIB
"""What one read of the kernel asks for at most, where it lets us raise that."""


class Readahead:
    """One file's reader. `window` is 0 while reads are random."""

    __slots__ = ("_block_bytes", "_get_max_bytes", "_position", "fetched", "window")

    def __init__(self, *, block_bytes: int, get_max_bytes: int) -> None:
        # The mutable state: where the reader has come to, how far is fetched or being fetched, and the window.
        self._block_bytes = block_bytes
        self._get_max_bytes = get_max_bytes
        self._position = 0
        self.fetched = 0
        self.window = 0

    def on_read(self, start: int, stop: int, size: int, window_max: int) -> tuple[int, int] | None:
        """The reader asks for `[start, stop)` of `size` bytes: what to fetch ahead of it, or None."""
        sequential = start > 0 and self._position - SLACK_BYTES <= start <= self._position + SLACK_BYTES
        if start == 0 or not sequential:
            self._position, self.fetched, self.window = stop, stop, 0
            return None
        if stop <= self._position:
            return None
        self._position = stop
        self.fetched = max(self.fetched, stop)
        if self.fetched >= size or self.fetched - stop > self.window - self.window // GETS_PER_WINDOW:
            return None
        self.window = min(max(self.window * 2, FIRST_WINDOW_BYTES), max(window_max, self._block_bytes))
        end = min(stop + self.window, size)
        if end < size:
            end -= end % self._get_bytes()
        if end <= self.fetched:
            return None
        ahead = self.fetched, end
        self.fetched = end
        return ahead

    def gets(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Split a range to fetch into GETs that end where later reads end: at multiples of their own size."""
        each = self._get_bytes()
        while start < stop:
            end = min(start - start % each + each, stop)
            yield start, end
            start = end

    def _get_bytes(self) -> int:
        each = self._block_bytes
        limit = min(self._get_max_bytes, max(self.window // GETS_PER_WINDOW, min(self.window, GET_LEAST_BYTES)))
        while each * 2 <= limit:
            each *= 2
        return each
