"""What to send so that a file becomes an object. Pure.

`plan_upload` covers the size exactly, from copies of the base and from bytes that are sent. `Grid` cuts a file without
a base into parts of known places, so that parts can be sent while the file still grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from s3mount.config import MIB, S3_PART_MIN_BYTES, S3_PARTS_MAX

PUT_PARTS = 2
"""Up to so many parts' bytes are one PUT: one request instead of four."""
GRID_STEP_PARTS = 1000
ALIGN_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Put:
    """Send everything in one request."""


@dataclass(frozen=True, slots=True)
class SendPart:
    """Send `[start, stop)` as part `number`."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class CopyPart:
    """Let the server copy `[start, stop)` of the base as part `number`."""

    number: int
    start: int
    stop: int


Step = Put | SendPart | CopyPart


@dataclass(frozen=True, slots=True)
class Grid:
    """Where parts lie: of `part_bytes` first, a step more after each thousand, so that all parts hold `size_max`."""

    part_bytes: int
    size_max: int

    @property
    def _step_bytes(self) -> int:
        steps = S3_PARTS_MAX // GRID_STEP_PARTS
        plain = self.part_bytes * S3_PARTS_MAX
        more = max(0, self.size_max - plain)
        # A thousand parts are one step larger, a thousand two steps ...
        step = -(-more // (GRID_STEP_PARTS * (steps * (steps - 1) // 2)))
        return -(-step // ALIGN_BYTES) * ALIGN_BYTES

    def part(self, number: int) -> tuple[int, int]:
        """Start and stop of part `number`, from 1."""
        assert 1 <= number <= S3_PARTS_MAX
        step = self._step_bytes
        turns, rest = divmod(number - 1, GRID_STEP_PARTS)
        start = GRID_STEP_PARTS * (turns * self.part_bytes + step * (turns * (turns - 1) // 2))
        size = self.part_bytes + turns * step
        start += rest * size
        return start, start + size

    def number_at(self, offset: int) -> int:
        """The part that has the byte at `offset`."""
        low, high = 1, S3_PARTS_MAX
        while low < high:
            middle = (low + high) // 2
            if self.part(middle)[1] <= offset:
                low = middle + 1
            else:
                high = middle
        return low

    def steps(self, size: int) -> list[Step]:
        """All parts of a file of `size` bytes."""
        found: list[Step] = []
        number = 1
        while (part := self.part(number))[0] < size:
            found.append(SendPart(number, part[0], min(part[1], size)))
            number += 1
        return found


def plan_upload(
    size: int, kept: Sequence[tuple[int, int]], grid: Grid, *, copy_max_bytes: int, put_max_bytes: int
) -> list[Step]:
    """Steps that make an object of `size` bytes; `kept` are the ranges that are as in the base, in order, and may be
    copied (none when the store cannot)."""
    if size <= put_max_bytes:
        return [Put()]
    if not any(stop - start >= S3_PART_MIN_BYTES for start, stop in kept):
        return grid.steps(size)
    least, part_bytes = S3_PART_MIN_BYTES, grid.part_bytes
    while True:
        steps = _cut(_runs(size, kept, least), part_bytes, copy_max_bytes)
        if len(steps) <= S3_PARTS_MAX:
            return steps
        least *= 2
        part_bytes *= 2


def _runs(size: int, kept: Sequence[tuple[int, int]], least: int) -> list[tuple[int, int, bool]]:
    """Ranges in order, alternating, each with whether it is copied. Copies have at least `least` bytes, and so has
    what is sent unless it is the end."""
    runs: list[tuple[int, int, bool]] = []

    def send(start: int, stop: int) -> None:
        if start < stop:
            if runs and not runs[-1][2]:
                start = runs.pop()[0]
            runs.append((start, stop, False))

    position = 0
    for start, stop in kept:
        stop = min(stop, size)
        send(position, start)
        position = max(position, start)
        if runs and not runs[-1][2]:
            # What is sent grows to a part's least size at the cost of the copy behind it.
            start = max(start, runs[-1][0] + least)
        if stop - start >= least:
            send(position, start)
            runs.append((start, stop, True))
        else:
            send(position, stop)
        position = max(position, stop)
    send(position, size)
    return runs


def _cut(runs: list[tuple[int, int, bool]], part_bytes: int, copy_max_bytes: int) -> list[Step]:
    steps: list[Step] = []
    for start, stop, copied in runs:
        size = stop - start
        count = -(-size // (copy_max_bytes if copied else part_bytes))
        if size // count < S3_PART_MIN_BYTES and count > 1 and not copied:
            count -= 1
        for index in range(count):
            low, high = (start + size * at // count for at in (index, index + 1))
            steps.append((CopyPart if copied else SendPart)(len(steps) + 1, low, high))
    return steps
