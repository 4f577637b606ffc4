"""What is sent: plans cover the size exactly, keep S3's limits, and send little."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mount.config import GIB, MIB, S3_PART_MAX_BYTES, S3_PART_MIN_BYTES, S3_PARTS_MAX, TIB
from s3mount.data.plan import CopyPart, Grid, Put, SendPart, plan_upload
from s3mount.data.upload import put_etag
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
            assert S3_PART_MIN_BYTES <= length <= COPY_MAX
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


@pytest.mark.parametrize("part_mib", [5, 8, 64, 1024])
@pytest.mark.parametrize("size_max", [GIB, TIB, 5 * TIB])
def test_the_grid_holds_the_largest_file_in_parts_of_known_places(part_mib: int, size_max: int) -> None:
    grid = Grid(part_mib * MIB, size_max)
    assert grid.part(S3_PARTS_MAX)[1] >= size_max
    for number in (1, 2, 999, 1000, 1001, 1002, 5000, S3_PARTS_MAX - 1):
        start, stop = grid.part(number)
        assert stop == grid.part(number + 1)[0]
        assert part_mib * MIB <= stop - start <= S3_PART_MAX_BYTES
        assert grid.number_at(start) == grid.number_at(stop - 1) == number


def test_expected_etags_are_those_of_s3() -> None:
    assert put_etag([b"hel", b"lo"]) == '"5d41402abc4b2a76b9719d911017c592"'
    part = Part(1, '"5d41402abc4b2a76b9719d911017c592"', 5)
    assert multipart_etag([part, part]) == '"616b22817b80eed9f65c3aa38cd29054-2"'
    assert multipart_etag([Part(1, '"opaque"', 5)]) is None
