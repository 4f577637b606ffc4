"""Extents against a list with one position per byte."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from s3mount.data.extents import Extents, dropped

SIZE = 64
RANGE = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(lambda pair: (pair[0], min(SIZE, sum(pair))))
CHANGE = st.tuples(st.sampled_from(["put", "put", "put", "cut", "drop"]), RANGE, st.integers(0, 1000))


@given(st.lists(CHANGE, max_size=40), RANGE)
def test_extents_are_a_map_of_bytes_to_positions(
    changes: list[tuple[str, tuple[int, int], int]], asked: tuple[int, int]
) -> None:
    extents = Extents()
    model: list[int | None] = [None] * SIZE
    for kind, (start, stop), number in changes:
        before = [position for position in model[start:stop] if position is not None and position >= 0]
        if kind == "cut":
            taken = extents.cut(start, stop)
            model[start:stop] = [None] * (stop - start)
        else:
            position = dropped(start) if kind == "drop" else number * 1000
            taken = extents.put(start, stop, position)
            model[start:stop] = [position + index for index in range(stop - start)]
        assert [position + index for position, size in taken for index in range(size)] == before
        ranges = list(extents)
        for (low, high, position), (following, _, next_position) in itertools.pairwise(ranges):
            assert low < high <= following
            assert high < following or position + high - low != next_position, "neighbours that should be one"
    shown: list[int | None] = []
    for start, stop, place in extents.pieces(*asked):
        assert start < stop
        shown += [None if place is None else place + index for index in range(stop - start)]
    assert shown == model[slice(*asked)]
    assert extents.covers(*asked) == (None not in shown)
    assert extents.stop == max((index + 1 for index, place in enumerate(model) if place is not None), default=0)
    gone = extents.clear()
    assert sum(size for _, size in gone) == sum(1 for place in model if place is not None and place >= 0)
    assert not len(extents)


def test_sequential_appends_are_one_range() -> None:
    extents = Extents()
    for index in range(1000):
        assert extents.put(index * 10, index * 10 + 10, 500 + index * 10) == []
    assert list(extents) == [(0, 10_000, 500)]
