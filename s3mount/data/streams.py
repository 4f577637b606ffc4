"""How one reader of a file moves: in sequence, or by equal steps forward or backward. Pure.

A `Stream` reads in sequence: the kernel sends several reads at once and out of order, so near is sequential. `Strides`
looks at where readers jump to: equal jumps from equally long pieces are steps, and steps back over just those pieces
are a backward reader.
"""

from collections.abc import Iterator

from s3mount.config import KIB, MIB
from s3mount.data.windows import Grant

SLACK_BYTES = 4 * MIB
"""What the kernel may have in flight around the place where a reader is."""
NEAR_BYTES = 256 * KIB
"""The same while nothing is fetched for it, beside one more read: random reads must not look like a sequence."""
HITS_MIN = 2
"""Reads that have to follow before bytes are fetched ahead; one does where a reader begins with the file."""
FIRST_WINDOW_BYTES = 1 * MIB
WINDOW_READ = 4
"""A window is at most so many times what its reader has read: as much is fetched in vain when it stops there."""
STRIDES_MIN = 2
"""Equal jumps in a row that are steps."""
STRIDES_AHEAD_MAX = 32
GAP_BYTES = 256 * KIB
"""Two wanted ranges that are so near are one GET: a request costs as much as these bytes."""

Range = tuple[int, int]


class Stream:
    """One sequential reader. `[start, position)` is what it has read; nothing is fetched for it while `window` is 0."""

    __slots__ = ("_get_bytes", "_hits", "fetched", "position", "start", "window")

    def __init__(self, start: int, stop: int) -> None:
        # The mutable state: where the reader has come to, how many reads followed, how far is fetched or being
        # fetched, and the window with the size of its GETs.
        self.start = start
        self.position = stop
        self.fetched = stop
        self.window = 0
        self._hits = 0
        self._get_bytes = 0

    def __repr__(self) -> str:
        return f"<Stream [{self.start}, {self.position}) fetched={self.fetched} window={self.window}>"

    def takes(self, start: int, stop: int) -> bool:
        """Whether a read is one of this reader's."""
        near = SLACK_BYTES if self.window else NEAR_BYTES + stop - start
        return max(self.start, self.position - near) <= start <= self.position + near

    def wanted_bytes(self, stop: int, size: int) -> int:
        """It reads up to `stop` of `size` bytes: the window it could use for more now; 0 if it needs no more."""
        if stop <= self.position:
            return 0
        self._hits += 1
        self.position = stop
        self.fetched = max(self.fetched, stop)
        if self._hits < HITS_MIN and self.start > 0:
            return 0
        if self.fetched >= size or (self.window and self.fetched - stop > self.window - self._get_bytes):
            return 0
        return max(FIRST_WINDOW_BYTES, WINDOW_READ * (stop - self.start))

    def ahead(self, grant: Grant, size: int) -> list[Range]:
        """The GETs to send by the window it has got: whole ones, but for the end of the file."""
        self.window, self._get_bytes = grant.window_bytes, grant.get_bytes
        end = min(self.position + self.window, size)
        if end < size:
            end -= end % grant.get_bytes
        if end <= self.fetched:
            return []
        gets = list(split(self.fetched, end, grant.get_bytes))
        self.fetched = end
        return gets

    def refused(self, position: int) -> None:
        """Nothing was fetched from `position` on."""
        self.fetched = max(position, self.position)


class Strides:
    """What the jumps of a file's readers have in common."""

    __slots__ = ("_count", "_length", "_step", "ahead_steps", "start", "stop", "window")

    def __init__(self) -> None:
        # The mutable state: the piece read since the last jump, the length of the one before, the step between them
        # and how often it was the same; how many steps ahead of the piece are fetched, and the window.
        self.start = self.stop = self._length = self._step = self._count = 0
        self.ahead_steps = 0
        self.window = 0

    def __repr__(self) -> str:
        return f"<Strides by {self._step} seen {self._count} times, {self.ahead_steps} fetched>"

    def takes(self, start: int, stop: int) -> bool:
        """Whether a read is the next step, or a part of the piece it has come to."""
        if self._count < STRIDES_MIN:
            return False
        following = self.start + self._step
        return following <= start < stop <= following + self._length or self.start <= start < stop <= self.stop

    def went_on(self, start: int, stop: int) -> None:
        """A read that followed another one: the piece may be longer than one read."""
        if self.start <= start <= self.stop < stop:
            self.stop = stop

    def jumped(self, start: int, stop: int) -> bool:
        """A read that follows none; whether it is a step, or within the piece of one."""
        stepping = self._count >= STRIDES_MIN
        if stepping and self.start <= start and stop <= self.stop:
            return True
        following = self.start + self._step
        if stepping and following <= start < stop <= following + self._length:
            start = following  # its first read may come behind this one
        length, step = self.stop - self.start, start - self.start
        if step and step == self._step and stop - start <= length and (length == self._length or not stepping):
            self._count += 1
            self.ahead_steps = max(0, self.ahead_steps - 1)
            # The rest of the piece may be asked for by reads that come behind this one.
            stop = start + length
        else:
            self._count, self.ahead_steps, self.window = 1, 0, 0
        self._step, self._length = step, length
        self.start, self.stop = start, stop
        return self._count >= STRIDES_MIN

    def wanted_bytes(self) -> int:
        """The window it could use; 0 if half of what it had is still ahead."""
        if self.ahead_steps and self.ahead_steps * 2 > self._steps(self.window):
            return 0
        return max(self.window * 2, FIRST_WINDOW_BYTES, 2 * self._length)

    def ahead(self, grant: Grant, size: int) -> list[Range]:
        """The GETs to send, the nearest first: the pieces of the next steps, near ones in one."""
        self.window = grant.window_bytes
        steps = self._steps(self.window)
        pieces = []
        for number in range(self.ahead_steps + 1, steps + 1):
            start = self.start + number * self._step
            stop = start + self._length
            if abs(self._step) < self._length:
                # Steps shorter than their pieces: each brings only what is not in the one before.
                start, stop = (stop - self._step, stop) if self._step > 0 else (start, start - self._step)
            piece = max(start, 0), min(stop, size)
            if piece[0] < piece[1]:
                pieces.append(piece)
        self.ahead_steps = max(self.ahead_steps, steps)
        gets = [get for piece in merged(pieces) for get in split(*piece, grant.get_bytes)]
        return gets if self._step > 0 else gets[::-1]

    def refused(self, _position: int) -> None:
        """Not all was fetched: what is there is not fetched twice."""
        self.ahead_steps = 0

    def _steps(self, window: int) -> int:
        """How many steps a window reaches."""
        if abs(self._step) - self._length > GAP_BYTES:
            return min(window // self._length, STRIDES_AHEAD_MAX)
        return window // abs(self._step)


def merged(ranges: list[Range]) -> list[Range]:
    """The ranges in order, those in one that are near."""
    joined: list[Range] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] <= GAP_BYTES:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined


def split(start: int, stop: int, each: int) -> Iterator[Range]:
    """GETs that end where later reads end: at multiples of their own size."""
    while start < stop:
        end = min(start - start % each + each, stop)
        yield start, end
        start = end
