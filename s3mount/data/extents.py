"""An interval map from ranges of a file to positions in the staging log. Pure; knows neither files nor the log.

A position is an integer; a range `[start, stop)` at position p has its byte i at p + i - start. A negative position
means bytes that were dropped after they had been sent (`dropped(start)`).

Invariants: ranges are sorted, disjoint and not empty; neighbours that continue each other in file and log are one.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

DROPPED_BASE = -(1 << 62)
Taken = list[tuple[int, int]]
"""Positions and sizes that no range refers to any more."""


def dropped(start: int) -> int:
    """The position of dropped bytes that begin at `start` of the file."""
    return DROPPED_BASE + start


class Extents:
    """See the module. Every change returns the positions it took out."""

    __slots__ = ("_positions", "_starts", "_stops")

    def __init__(self) -> None:
        # The mutable state is these three lists, in step with each other.
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._positions: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Start, stop, position of every range."""
        return zip(self._starts, self._stops, self._positions, strict=True)

    def __repr__(self) -> str:
        return f"<Extents {', '.join(f'[{start}, {stop}) at {position}' for start, stop, position in self)}>"

    @property
    def stop(self) -> int:
        """Where the last range ends; 0 when there is none."""
        return self._stops[-1] if self._stops else 0

    @property
    def total_bytes(self) -> int:
        """How many bytes are mapped, dropped ones included; takes as long as there are ranges."""
        return sum(self._stops) - sum(self._starts)

    def put(self, start: int, stop: int, position: int) -> Taken:
        """Map `[start, stop)` to `position`, over whatever was there."""
        assert 0 <= start < stop
        taken = self.cut(start, stop) if self._stops and start < self._stops[-1] else []
        starts, stops, positions = self._starts, self._stops, self._positions
        index = bisect_left(starts, start)
        joins_before = (
            index > 0 and stops[index - 1] == start and positions[index - 1] + start - starts[index - 1] == position
        )
        joins_after = index < len(starts) and starts[index] == stop and positions[index] == position + stop - start
        if joins_before and joins_after:
            stops[index - 1] = stops[index]
            del starts[index], stops[index], positions[index]
        elif joins_before:
            stops[index - 1] = stop
        elif joins_after:
            starts[index], positions[index] = start, position
        else:
            starts.insert(index, start)
            stops.insert(index, stop)
            positions.insert(index, position)
        return taken

    def cut(self, start: int, stop: int) -> Taken:
        """Forget `[start, stop)`. Dropped bytes are not among the positions returned."""
        starts, stops, positions = self._starts, self._stops, self._positions
        first = bisect_right(stops, start)
        last = bisect_left(starts, stop)
        if first >= last:
            return []
        taken: Taken = []
        keep: list[tuple[int, int, int]] = []
        for index in range(first, last):
            low, high, position = starts[index], stops[index], positions[index]
            if low < start:
                keep.append((low, start, position))
            if high > stop:
                keep.append((stop, high, position + stop - low))
            if position >= 0:
                inner = max(low, start)
                taken.append((position + inner - low, min(high, stop) - inner))
        starts[first:last] = [low for low, _, _ in keep]
        stops[first:last] = [high for _, high, _ in keep]
        positions[first:last] = [position for _, _, position in keep]
        return taken

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int | None]]:
        """Cover `[start, stop)` in order; the position is None where nothing is mapped. Not to be changed meanwhile."""
        starts, stops, positions = self._starts, self._stops, self._positions
        index = bisect_right(stops, start)
        while start < stop:
            if index == len(starts) or starts[index] >= stop:
                yield start, stop, None
                return
            low = starts[index]
            if start < low:
                yield start, low, None
                start = low
            high = min(stops[index], stop)
            yield start, high, positions[index] + start - low
            start = high
            index += 1

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of `[start, stop)` is mapped."""
        return all(position is not None for _, _, position in self.pieces(start, stop))

    def clear(self) -> Taken:
        """Forget everything."""
        taken = [(position, stop - start) for start, stop, position in self if position >= 0]
        self._starts.clear()
        self._stops.clear()
        self._positions.clear()
        return taken
