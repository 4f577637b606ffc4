"""What is sent: plans cover the size exactly, keep S3's limits, and send little."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3mount.config import GIB, MIB, S3_PART_MAX_BYTES, S3_PART_MIN_BYTES, S3_PARTS_MAX, TIB
from s3mount.data.grid import Grid, PartRules, SendPart
from s3mount.data.plan import CopyPart, Put, Step, is_plain, plan_upload
from s3mount.data.upload import put_etag
from s3mount.errors import FileTooBig
from s3mount.store.base import Part
from s3mount.store.replies import multipart_etag

GRID = Grid(5 * MIB, TIB)
COPY_MAX = 64 * MIB
PUT_MAX = 10 * MIB


def kept_of(size: int, edits: list[tuple[int, int]]) -> list[tuple[int, int]]:
    kept, position = [], 0
    for start, length in sorted(edits):
        if position < min(start, size):
            kept.append((position, min(start, size)))
        position = max(position, start + length)
    if position < size:
        kept.append((position, size))
    return kept


EDIT = st.tuples(st.integers(0, 400 * MIB), st.integers(1, 12 * MIB))


@given(st.integers(0, 400 * MIB), st.lists(EDIT, max_size=20), st.sampled_from([5, 8, 16]))
def test_a_plan_covers_the_size_exactly_within_the_limits(
    size: int, edits: list[tuple[int, int]], part_mib: int
) -> None:
    kept = kept_of(size, edits)
    steps = plan_upload(size, kept, Grid(part_mib * MIB, TIB), copy_max_bytes=COPY_MAX, put_max_bytes=PUT_MAX)
    if size <= PUT_MAX:
        assert steps == [Put()]
        return
    position = 0
    for number, step in enumerate(steps, 1):
        assert not isinstance(step, Put)
        assert (step.number, step.start) == (number, position)
        length = step.stop - step.start
        assert 0 < length <= S3_PART_MAX_BYTES
        assert length >= S3_PART_MIN_BYTES or number == len(steps)
        if isinstance(step, CopyPart):
            assert length <= COPY_MAX
            assert any(start <= step.start and step.stop <= stop for start, stop in kept)
        position = step.stop
    assert position == size
    # A naive planner sends every part of the plain grid that an edit touches, two neighbours at worst with each run.
    sent = sum(step.stop - step.start for step in steps if isinstance(step, SendPart))
    changed = size - sum(stop - start for start, stop in kept)
    assert sent <= changed + 2 * S3_PART_MIN_BYTES * (len(edits) + 1)


def test_an_edit_in_a_large_object_sends_about_one_part() -> None:
    kept = kept_of(GIB, [(500 * MIB, 4096)])
    steps = plan_upload(GIB, kept, GRID, copy_max_bytes=5 * GIB, put_max_bytes=PUT_MAX)
    assert [type(step) for step in steps] == [CopyPart, SendPart, CopyPart]
    assert isinstance(steps[1], SendPart)
    assert steps[1].stop - steps[1].start == S3_PART_MIN_BYTES


def test_an_append_to_a_large_object_copies_all_of_it() -> None:
    steps = plan_upload(GIB + 100, [(0, GIB)], GRID, copy_max_bytes=5 * GIB, put_max_bytes=PUT_MAX)
    assert steps == [CopyPart(1, 0, GIB), SendPart(2, GIB, GIB + 100)]


def test_many_edits_in_a_terabyte_stay_within_the_number_of_parts() -> None:
    kept = kept_of(TIB, [(start, 4096) for start in range(0, TIB, 24 * MIB)])
    steps = plan_upload(TIB, kept, GRID, copy_max_bytes=5 * GIB, put_max_bytes=PUT_MAX)
    assert len(steps) <= S3_PARTS_MAX
    for before, after in itertools.pairwise(steps):
        assert not isinstance(before, Put)
        assert not isinstance(after, Put)
        assert before.stop == after.start


# a store in the small, where every plan there is can be tried

SMALL = PartRules(part_min_bytes=3, part_max_bytes=9, align_bytes=1)
RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=6)


def kept_ranges(size: int, drawn: list[tuple[int, int]]) -> list[tuple[int, int]]:
    bases = {offset for start, length in drawn for offset in range(start, min(start + length, size))}
    edges = [offset for offset in range(size + 1) if (offset in bases) != (offset - 1 in bases)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def fewest_sent(size: int, kept: list[tuple[int, int]], rules: PartRules) -> int:
    """By trying all boundaries of parts: the fewest bytes that have to be sent."""

    def copied(start: int, stop: int) -> bool:
        return any(low <= start and stop <= high for low, high in kept)

    best = [0] + [size + 1] * size
    for stop in range(1, size + 1):
        for start in range(stop):
            if stop - start >= rules.part_min_bytes or stop == size:
                sent = 0 if copied(start, stop) else stop - start
                best[stop] = min(best[stop], best[start] + sent)
    return best[size]


def check(steps: Sequence[Step], size: int, kept: list[tuple[int, int]], rules: PartRules) -> int:
    """That a plan is one that the store takes, and right; the bytes it sends."""
    position = sent = 0
    assert 1 <= len(steps) <= rules.parts_max
    for number, step in enumerate(steps, 1):
        assert not isinstance(step, Put)
        assert (step.number, step.start) == (number, position)
        length = step.stop - step.start
        assert rules.part_min_bytes <= length <= rules.part_max_bytes or (number == len(steps) and length > 0)
        if isinstance(step, CopyPart):
            assert any(start <= step.start and step.stop <= stop for start, stop in kept)
        else:
            sent += length
        position = step.stop
    assert position == size
    if rules.equal and len(steps) > 1:
        lengths = [step.stop - step.start for step in steps if not isinstance(step, Put)]
        assert len(set(lengths[:-1])) == 1
        assert lengths[-1] <= lengths[0]
    return sent


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 45), RANGES)
def test_no_plan_sends_fewer_bytes(size: int, drawn: list[tuple[int, int]]) -> None:
    kept = kept_ranges(size, drawn)
    steps = plan_upload(size, kept, Grid(3, 45, SMALL), copy_max_bytes=9, put_max_bytes=0)
    assert check(steps, size, kept, SMALL) == fewest_sent(size, kept, SMALL)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), RANGES, st.integers(5, 12))
def test_a_plan_keeps_to_the_number_of_parts(size: int, drawn: list[tuple[int, int]], parts_max: int) -> None:
    rules = replace(SMALL, parts_max=parts_max)
    kept = kept_ranges(size, drawn)
    steps = plan_upload(size, kept, Grid(3, 40, rules), copy_max_bytes=9, put_max_bytes=0)
    check(steps, size, kept, rules)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), RANGES, st.integers(5, 20))
def test_equal_parts_are_copied_wherever_nothing_in_them_changed(
    size: int, drawn: list[tuple[int, int]], parts_max: int
) -> None:
    rules = replace(SMALL, parts_max=parts_max, equal=True)
    kept = kept_ranges(size, drawn)
    steps = plan_upload(size, kept, Grid(3, 40, rules), copy_max_bytes=9, put_max_bytes=0)
    sent = check(steps, size, kept, rules)
    part = max(3, -(-size // parts_max))
    parts = [(start, min(start + part, size)) for start in range(0, size, part)]
    assert sent == sum(
        stop - start for start, stop in parts if not any(low <= start and stop <= high for low, high in kept)
    )


@given(st.integers(1, 40), RANGES, st.booleans())
def test_a_store_without_copies_gets_every_byte_sent(size: int, drawn: list[tuple[int, int]], equal: bool) -> None:
    rules = replace(SMALL, copies=False, equal=equal)
    steps = plan_upload(size, kept_ranges(size, drawn), Grid(3, 40, rules), copy_max_bytes=9, put_max_bytes=0)
    assert check(steps, size, [], rules) == size


def test_a_size_that_no_number_of_parts_holds_is_refused() -> None:
    for equal in (False, True):
        rules = replace(SMALL, parts_max=4, equal=equal)
        check(plan_upload(36, [], Grid(3, 40, rules), copy_max_bytes=9, put_max_bytes=0), 36, [], rules)
        with pytest.raises(FileTooBig):
            plan_upload(37, [], Grid(3, 40, rules), copy_max_bytes=9, put_max_bytes=0)


def test_a_copy_for_which_no_part_is_left_is_given_up() -> None:
    rules = replace(SMALL, parts_max=4)
    steps = plan_upload(36, [(35, 36)], Grid(3, 40, rules), copy_max_bytes=9, put_max_bytes=0)
    assert check(steps, 36, [], rules) == 36


@pytest.mark.parametrize("equal", [False, True])
def test_a_thousand_parts_hold_a_terabyte_of_edits(equal: bool) -> None:
    rules = PartRules(parts_max=1000, equal=equal)
    kept = kept_of(TIB, [(start, 4096) for start in range(0, TIB, GIB)])
    steps = plan_upload(TIB, kept, Grid(5 * MIB, TIB, rules), copy_max_bytes=5 * GIB, put_max_bytes=PUT_MAX)
    check(steps, TIB, kept, rules)


def test_where_parts_do_not_suffice_for_all_copies_some_are_made_all_the_same() -> None:
    """20,000 edits, 10 MiB apart, and 10,000 parts."""
    size = 20_000 * 10 * MIB
    kept = kept_of(size, [(start, 4096) for start in range(0, size, 10 * MIB)])
    steps = plan_upload(size, kept, GRID, copy_max_bytes=5 * GIB, put_max_bytes=PUT_MAX)
    assert check(steps, size, kept, GRID.rules) < 0.92 * size
    assert max(step.stop - step.start for step in steps if isinstance(step, SendPart)) < GIB


@pytest.mark.parametrize("parts_max", [50, 1000, S3_PARTS_MAX])
@pytest.mark.parametrize("part_mib", [5, 8, 64, 1024])
@pytest.mark.parametrize("size_max", [5 * GIB, TIB, 5 * TIB])
def test_the_grid_holds_the_largest_file_in_parts_of_known_places(part_mib: int, size_max: int, parts_max: int) -> None:
    size_max = min(size_max, parts_max * 4 * GIB // 2)
    grid = Grid(part_mib * MIB, size_max, PartRules(parts_max=parts_max))
    assert grid.stop == grid.part(parts_max)[1] >= size_max
    assert grid.number_at(grid.stop) == parts_max
    for number in {1, 2, grid.flat_parts, grid.flat_parts + 1, parts_max // 2, parts_max - 1}:
        start, stop = grid.part(number)
        assert stop == grid.part(number + 1)[0]
        assert part_mib * MIB <= stop - start <= S3_PART_MAX_BYTES
        assert grid.number_at(start) == grid.number_at(stop - 1) == number


def test_parts_grow_slowly() -> None:
    """A stream holds a whole part at once: of what size in MiB, where its file is so large."""
    for parts_max, size, most in ((10_000, GIB, 6), (10_000, 100 * GIB, 61), (1000, 2 * GIB, 43), (1000, TIB, 3414)):
        grid = Grid(5 * MIB, TIB, PartRules(parts_max=parts_max))
        start, stop = grid.part(grid.number_at(size - 1))
        assert (stop - start) // MIB <= most


def test_the_first_parts_lie_at_the_same_places_on_every_store() -> None:
    grids = [
        Grid(5 * MIB, TIB, PartRules(parts_max=most, equal=equal)) for most in (1000, 10_000) for equal in (False, True)
    ]
    assert {grid.flat_parts for grid in grids} == {100}
    for number in (1, 50, 100):
        assert len({grid.part(number) for grid in grids}) == 1
    assert len({grid.part(101)[0] for grid in grids}) == 1


def test_plain_is_what_every_store_takes() -> None:
    def sent(*sizes: int) -> list[SendPart]:
        return [SendPart(number, 0, size) for number, size in enumerate(sizes, 1)]

    assert is_plain([Put()])
    assert is_plain(sent(5, 5, 3))
    assert is_plain(sent(3))
    assert is_plain(sent(*[5] * 1000))
    assert not is_plain(sent(*[5] * 1001))
    assert not is_plain(sent(5, 6, 3))
    assert not is_plain([CopyPart(1, 0, 5), *sent(5)])


def test_expected_etags_are_those_of_s3() -> None:
    assert put_etag([b"hel", b"lo"]) == '"5d41402abc4b2a76b9719d911017c592"'
    part = Part(1, '"5d41402abc4b2a76b9719d911017c592"', 5)
    assert multipart_etag([part, part]) == '"616b22817b80eed9f65c3aa38cd29054-2"'
    assert multipart_etag([Part(1, '"opaque"', 5)]) is None
