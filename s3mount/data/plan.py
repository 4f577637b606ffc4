"""What to send so that a file becomes an object. Pure.

`plan_upload` covers the size exactly, from copies of the base and from bytes that are sent. It sends no byte that a
copy could bring, unless a part would be too small without it; where that is so it sends as few as any plan can. Only
when the store's number of parts does not suffice, it sends more rather than nothing.

Where all parts must have one size, an edit costs the parts of that size that it touches, and the size is the smallest
with which the number of parts suffices. Where the store copies no parts, everything is sent.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from s3mount.data.grid import Grid, PartRules, SendPart

PUT_PARTS = 2
"""Up to so many parts' bytes are one PUT: one request instead of four."""
PLAIN_PARTS_MAX = 1000
"""What every known store takes."""


@dataclass(frozen=True, slots=True)
class Put:
    """Send everything in one request."""


@dataclass(frozen=True, slots=True)
class CopyPart:
    """Let the server copy `[start, stop)` of the base as part `number`."""

    number: int
    start: int
    stop: int


Step = Put | SendPart | CopyPart
Range = tuple[int, int]


def plan_upload(
    size: int, kept: Sequence[Range], grid: Grid, *, copy_max_bytes: int, put_max_bytes: int
) -> Sequence[Step]:
    """Steps that make an object of `size` bytes; `kept` are the ranges that are as in the base, in order, and may be
    copied. Raises FileTooBig when no number of parts that the store takes holds so much."""
    if size <= put_max_bytes:
        return [Put()]
    rules = grid.rules
    grid = grid.holding(size)
    kept = list(_joined(kept, size)) if rules.copies else []
    if rules.equal:
        return _equal(size, kept, grid)
    part_min = rules.part_min_bytes
    kept = [run for run in kept if run[1] - run[0] >= part_min or run[1] == size]
    most = len(kept) if 2 * len(kept) - 1 <= rules.parts_max else rules.parts_max * 3 // 8
    while copies := _best_copies(size, _longest(kept, most), part_min):
        # Larger parts cost nothing; only when they do not help, more copies are given up for bytes sent.
        part_bytes, copy_max = grid.part_bytes, max(copy_max_bytes, 2 * part_min)
        while True:
            steps = _cut(size, copies, part_bytes, copy_max, rules)
            if len(steps) <= rules.parts_max:
                return steps
            if min(part_bytes, copy_max) >= rules.part_max_bytes:
                break
            part_bytes = min(2 * part_bytes, rules.part_max_bytes)
            copy_max = min(2 * copy_max, rules.part_max_bytes)
        most = most * 3 // 4
    return grid.steps(size)


def is_plain(steps: Sequence[Step]) -> bool:
    """Whether every store takes it: one PUT, or parts of one size but the last, not too many, none of them copied."""
    if any(isinstance(step, CopyPart) for step in steps) or len(steps) > PLAIN_PARTS_MAX:
        return False
    return len({step.stop - step.start for step in steps[:-1] if isinstance(step, SendPart)}) <= 1


def _joined(kept: Sequence[Range], size: int) -> Iterator[Range]:
    """The same ranges below `size`, those that touch as one."""
    low = high = 0
    for start, stop in kept:
        if start > high:
            if low < high:
                yield low, high
            low = start
        high = min(stop, size)
    if low < high:
        yield low, high


def _longest(runs: Sequence[Range], count: int) -> list[Range]:
    return sorted(sorted(runs, key=lambda run: run[0] - run[1])[:count])


def _equal(size: int, kept: Sequence[Range], grid: Grid) -> Sequence[Step]:
    starts = [start for start, _ in kept]

    def copied(step: SendPart) -> bool:
        index = bisect_right(starts, step.start) - 1
        return index >= 0 and step.stop <= kept[index][1]

    return [CopyPart(step.number, step.start, step.stop) if copied(step) else step for step in grid.steps(size)]


@dataclass(frozen=True, slots=True)
class _Chain:
    """Copies chosen so far: the last is of run `index`, without its first `taken` bytes; `copied` bytes in all."""

    copied: int
    taken: int
    index: int
    before: "_Chain | None"


def _best_copies(size: int, runs: Sequence[Range], part_min: int) -> list[Range]:
    """The ranges to copy, as many bytes as can be, so that they and what lies between them are `part_min` or more, as
    the `runs` are by themselves; the end of the file may be shorter, copied or sent.

    What is missing between two copies is taken from the end of the first as far as that stays long enough, and then
    from the start of the second. A run that is left out makes the gap wide enough by itself: so all that matters of
    the past is whether the run before was copied, and what its start had to give."""
    nothing = _Chain(0, 0, -1, None)
    skipped, previous = nothing, [nothing]
    for index, (start, stop) in enumerate(runs):
        least = 1 if stop == size else part_min
        found: list[_Chain] = []
        for chain in [*previous, *([skipped] if index else [])]:
            slack, end = 0, 0
            if chain.index >= 0:
                low, end = runs[chain.index]
                slack = end - low - chain.taken - part_min
            lacking = max(0, part_min - (start - end)) if start > end else 0
            taken = max(0, lacking - slack)
            if stop - start - taken >= least:
                found.append(_Chain(chain.copied + stop - start - lacking, taken, index, chain))
        skipped = max([skipped, *previous], key=lambda chain: chain.copied)
        previous = _worth_keeping(found)
    return _ranges(runs, max([skipped, *previous], key=lambda chain: chain.copied), part_min)


def _worth_keeping(chains: list[_Chain]) -> list[_Chain]:
    """Those that copy more than all that took less."""
    kept: list[_Chain] = []
    for chain in sorted(chains, key=lambda chain: (chain.taken, -chain.copied)):
        if not kept or chain.copied > kept[-1].copied:
            kept.append(chain)
    return kept


def _ranges(runs: Sequence[Range], chain: _Chain, part_min: int) -> list[Range]:
    found: list[Range] = []
    given = 0
    while chain.before is not None:
        start, stop = runs[chain.index]
        found.append((start + chain.taken, stop - given))
        if chain.before.index >= 0:
            lacking = max(0, part_min - (start - runs[chain.before.index][1]))
            given = lacking - chain.taken
        chain = chain.before
    return found[::-1]


def _cut(
    size: int, copies: Sequence[Range], part_bytes: int, copy_max_bytes: int, rules: PartRules
) -> Sequence[SendPart | CopyPart]:
    """Copies and what lies between them, in parts."""
    steps: list[SendPart | CopyPart] = []
    for (_, position), (start, stop) in pairwise([(0, 0), *copies, (size, size)]):
        for low, high in _parts(position, start, part_bytes, rules.part_min_bytes):
            steps.append(SendPart(len(steps) + 1, low, high))
        for low, high in _parts(start, stop, copy_max_bytes, rules.part_min_bytes):
            steps.append(CopyPart(len(steps) + 1, low, high))
    return steps


def _parts(start: int, stop: int, part_bytes: int, part_min_bytes: int) -> Iterator[Range]:
    size = stop - start
    count = -(-size // part_bytes)
    if count > 1 and size // count < part_min_bytes:
        count -= 1
    for index in range(count):
        yield start + size * index // count, start + size * (index + 1) // count
