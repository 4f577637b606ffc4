"""Where the parts of an upload lie, by what the store demands of them. Pure.

`PartRules` says what a store takes. A `Grid` cuts a file without a base into parts of known places, so that parts can
be sent while the file still grows. The first parts, `flat_parts` of them, have one size on every store: only a stream
that outgrows them has to know the rules. From there on parts grow with the square of their distance, just so much that
as many as the store takes hold `size_max`.

Where all parts must have one size nothing can grow, and a stream ends at part size times number of parts: 48.8 GiB of
5 MiB parts, 10,000 of them. Parts large enough for the largest file (105 MiB for 1 TiB) would have every small stream
wait for 105 MiB and send them again whenever a byte in them changes. So the part size stays the user's, a stream that
goes beyond is begun anew with larger parts if all its bytes are still here, and is refused as too big otherwise, in
words that name --part-size.
"""

from array import array
from bisect import bisect_right
from dataclasses import dataclass

from s3mount.config import MIB, S3_PART_MAX_BYTES, S3_PART_MIN_BYTES, S3_PARTS_MAX
from s3mount.errors import FileTooBig

FLAT_PARTS = 100
GROUPS = 100
"""Sizes beyond the flat ones: few, so that the smallest growth is found quickly."""


@dataclass(frozen=True, slots=True)
class PartRules:
    """What a store takes. `equal`: all parts but the last have one size; `copies`: it copies parts by itself."""

    parts_max: int = S3_PARTS_MAX
    equal: bool = False
    copies: bool = True
    part_min_bytes: int = S3_PART_MIN_BYTES
    part_max_bytes: int = S3_PART_MAX_BYTES
    align_bytes: int = MIB
    """Sizes that are ours to choose are multiples of it."""

    def __post_init__(self) -> None:
        assert self.parts_max >= 2


@dataclass(frozen=True, slots=True)
class SendPart:
    """Send `[start, stop)` as part `number`."""

    number: int
    start: int
    stop: int


S3_RULES = PartRules()


class Grid:
    """See the module. Immutable. `stop` is how far it reaches: `size_max` or more, unless parts cannot grow so far."""

    __slots__ = ("_starts", "flat_parts", "part_bytes", "rules")

    def __init__(self, part_bytes: int, size_max: int, rules: PartRules = S3_RULES) -> None:
        self.part_bytes = part_bytes
        self.rules = rules
        self.flat_parts = min(FLAT_PARTS, rules.parts_max // 2)
        groups = [(self.flat_parts, part_bytes)]
        if not rules.equal:
            groups += self._grown(size_max)
        else:
            groups.append((rules.parts_max - self.flat_parts, part_bytes))
        self._starts = array("q", [0])
        for count, size in groups:
            start = self._starts[-1]
            self._starts.extend(range(start + size, start + count * size + 1, size))
        assert len(self._starts) == rules.parts_max + 1

    def __repr__(self) -> str:
        return f"<Grid of {self.part_bytes} bytes, {self.rules}, to {self.stop}>"

    @property
    def stop(self) -> int:
        return self._starts[-1]

    def _grown(self, size_max: int) -> list[tuple[int, int]]:
        """Numbers and sizes of the parts behind the flat ones, with the smallest growth that does."""
        rules, first = self.rules, self.flat_parts * self.part_bytes
        rest = rules.parts_max - self.flat_parts
        stops = [rest * group // GROUPS for group in range(GROUPS + 1)]

        def sizes(growth: int) -> list[tuple[int, int]]:
            found = []
            for group in range(1, GROUPS + 1):
                more = _align(growth * group * (group + 1) // 2, rules.align_bytes)
                size = min(self.part_bytes + more, max(rules.part_max_bytes, self.part_bytes))
                found.append((stops[group] - stops[group - 1], size))
            return found

        low, high = 0, rules.part_max_bytes
        while low < high:
            middle = (low + high) // 2
            if first + sum(count * size for count, size in sizes(middle)) >= size_max:
                high = middle
            else:
                low = middle + 1
        return sizes(low)

    def holding(self, size: int) -> "Grid":
        """This grid, or one of larger parts that holds `size` bytes. Raises FileTooBig."""
        rules, part_bytes = self.rules, self.part_bytes
        if size > rules.parts_max * rules.part_max_bytes:
            raise FileTooBig(f"{size} bytes are more than {rules.parts_max} parts of {rules.part_max_bytes} hold")
        if rules.equal:
            least = _align(-(-size // rules.parts_max), rules.align_bytes)
            return self if size <= self.stop else Grid(min(least, rules.part_max_bytes), size, rules)
        grid = self
        while grid.stop < size:
            part_bytes = min(2 * part_bytes, rules.part_max_bytes)
            grid = Grid(part_bytes, size, rules)
        return grid

    def part(self, number: int) -> tuple[int, int]:
        """Start and stop of part `number`, from 1."""
        assert 1 <= number <= self.rules.parts_max
        return self._starts[number - 1], self._starts[number]

    def number_at(self, offset: int) -> int:
        """The part that has the byte at `offset`, or at the very end the last one."""
        assert 0 <= offset <= self.stop
        return min(bisect_right(self._starts, offset), self.rules.parts_max)

    def steps(self, size: int) -> list[SendPart]:
        """All parts of a file of `size` bytes."""
        assert size <= self.stop
        found = []
        for number in range(1, self.number_at(size - 1) + 1 if size else 1):
            start, stop = self.part(number)
            found.append(SendPart(number, start, min(stop, size)))
        return found


def _align(size: int, unit: int) -> int:
    return -(-size // unit) * unit
