"""How far ahead of the readers of a file is fetched, and in which GETs."""

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s3mount.config import KIB, MIB
from s3mount.data.lanes import COUNTS
from s3mount.data.readahead import Readahead
from s3mount.data.streams import STRIDES_AHEAD_MAX, Range, merged, split
from s3mount.data.windows import IDLE_SECONDS, Windows

BLOCK = 128 * KIB
BUDGET = 64 * MIB


def mount(budget: int = BUDGET, lanes: int = COUNTS[0]) -> Windows:
    windows = Windows(budget_bytes=budget, window_max_bytes=128 * MIB, get_max_bytes=8 * MIB, block_bytes=BLOCK)
    windows.lanes._step = COUNTS.index(lanes)
    return windows


def fetched(readahead: Readahead, reads: Iterable[Range], size: int, now: float = 0.0) -> list[Range]:
    """The GETs that these reads bring about."""
    return [get for start, stop in reads for get in readahead.on_read(start, stop, size, now)]


def in_order(start: int, stop: int, each: int) -> list[Range]:
    return [(low, min(low + each, stop)) for low in range(start, stop, each)]


def bytes_of(gets: Iterable[Range]) -> int:
    return sum(stop - start for start, stop in gets)


def blocks_of(gets: Iterable[Range]) -> list[int]:
    """Numbers of the blocks that are fetched, each as often as it is."""
    return [number for start, stop in gets for number in range(start // BLOCK, -(-stop // BLOCK))]


# in sequence


@pytest.mark.parametrize("each", [128 * KIB, MIB])
def test_a_sequential_reader_finds_everything_asked_for_and_nothing_asked_for_twice(each: int) -> None:
    readahead, size = Readahead(mount()), 200 * MIB + 12345
    known = 0
    for start, stop in in_order(0, size, each):
        for low, high in readahead.on_read(start, stop, size, 0.0):
            assert low == max(known, stop)
            known = high
        assert start < 2 * each or known >= stop, "the reader's own read finds its GET asked for"
        assert known - stop <= BUDGET
    assert known == size


def test_a_window_grows_with_what_its_reader_has_read_and_no_further_than_pays() -> None:
    for lanes in COUNTS:
        windows = mount(256 * MIB, lanes)
        readahead, size = Readahead(windows), 500 * MIB
        largest = []
        for start, stop in in_order(0, 100 * MIB, MIB):
            readahead.on_read(start, stop, size, 0.0)
            assert windows.held_bytes <= max(4 * stop, MIB)
            largest.append(windows.held_bytes)
        assert largest == sorted(largest)
        assert largest[-1] == (lanes + 1) * 4 * MIB


def test_a_first_read_fetches_nothing_ahead_for_many_programs_look_at_the_beginning_only() -> None:
    assert fetched(Readahead(mount()), [(0, MIB)], 500 * MIB) == []


def test_reads_out_of_order_in_what_the_kernel_has_in_flight_are_sequential() -> None:
    windows, size = mount(), 100 * MIB
    readahead = Readahead(windows)
    for number in (0, 2, 1, 4, 3, 6, 5, 8, 7):
        readahead.on_read(number * BLOCK, (number + 1) * BLOCK, size, 0.0)
    assert len(windows) == 1


def test_four_readers_of_one_file_have_a_window_each() -> None:
    windows, size = mount(), 400 * MIB
    readahead = Readahead(windows)
    places = [number * 100 * MIB for number in range(4)]
    gets = []
    for offset in range(0, 20 * MIB, MIB):
        gets += fetched(readahead, [(place + offset, place + offset + MIB) for place in places], size)
    assert len(windows) == 4
    for place in places:
        assert any(place + 22 * MIB < stop <= place + 40 * MIB for _, stop in gets)
    numbers = blocks_of(gets)
    assert len(numbers) == len(set(numbers))


def test_a_reader_is_not_fetched_for_beyond_where_another_has_begun() -> None:
    readahead, size = Readahead(mount()), 400 * MIB
    fetched(readahead, in_order(100 * MIB, 110 * MIB, MIB), size)
    gets = fetched(readahead, in_order(80 * MIB, 99 * MIB, MIB), size)
    assert max(stop for _, stop in gets) == 100 * MIB
    gets = fetched(readahead, in_order(99 * MIB, 104 * MIB, MIB), size)
    assert max(stop for _, stop in gets) > 110 * MIB, "unless it goes on there"


def test_the_least_recently_used_of_too_many_readers_loses_its_window() -> None:
    windows, size = mount(), 10_000 * MIB
    readahead = Readahead(windows)
    for number in range(40):
        place = (number + 1) * (100 + number) * MIB
        fetched(readahead, in_order(place, place + 4 * MIB, MIB), size)
        assert len(windows) <= 16
    assert len(windows) == 16
    readahead.close()
    assert (len(windows), windows.held_bytes) == (0, 0)


def test_a_slow_sequential_reader_keeps_its_window_beside_random_ones() -> None:
    windows, size = mount(), 10_000 * MIB
    readahead = Readahead(windows)
    fetched(readahead, in_order(0, 8 * MIB, MIB), size)
    random = [(index * 7919 * MIB % size, index * 7919 * MIB % size + 4096) for index in range(1, 200)]
    fetched(readahead, random, size)
    assert len(windows) == 1
    assert fetched(readahead, in_order(8 * MIB, 16 * MIB, MIB), size) != []


# at random


def test_a_random_reader_gets_nothing_ahead() -> None:
    readahead, size = Readahead(mount()), 10_000 * MIB
    reads = [(index * index * 7919 * KIB % size, index * index * 7919 * KIB % size + 4096) for index in range(1, 500)]
    assert fetched(readahead, reads, size) == []


def test_one_place_read_again_and_again_is_no_sequence() -> None:
    readahead, size = Readahead(mount()), 100 * MIB
    assert fetched(readahead, [(50 * MIB, 50 * MIB + 4096)] * 20, size) == []


# by steps


@pytest.mark.parametrize("each", [4 * KIB, BLOCK, MIB])
def test_a_backward_reader_finds_the_blocks_before(each: int) -> None:
    readahead, size = Readahead(mount()), 40 * MIB
    reads = in_order(0, size, each)[::-1]
    gets: list[Range] = []
    missed = 0
    for start, stop in reads:
        missed += not any(low <= start and stop <= high for low, high in gets)
        new = fetched(readahead, [(start, stop)], size)
        assert all(start - BUDGET <= low < high <= start for low, high in new)
        assert new == sorted(new, reverse=True), "the nearest first"
        gets += new
    assert missed == 3, "the first steps show that they are steps"
    assert bytes_of(gets) == size - 3 * each
    assert len(gets) < 60


def test_a_strided_reader_finds_the_next_steps_and_nothing_between() -> None:
    readahead, size = Readahead(mount()), 4000 * MIB
    reads = [(place, place + 64 * KIB) for place in range(5 * MIB, size, 7 * MIB)]
    gets: list[Range] = []
    for number, (start, stop) in enumerate(reads):
        assert number < 3 or (start, stop) in gets
        gets += fetched(readahead, [(start, stop)], size)
        assert len(gets) <= number + 1 + STRIDES_AHEAD_MAX
    assert set(gets) <= set(reads)
    assert len(gets) == len(set(gets))


@pytest.mark.parametrize("step", [20 * MIB, -20 * MIB, -MIB])
def test_a_reader_by_steps_of_several_reads_each_finds_the_next_steps(step: int) -> None:
    readahead, size = Readahead(mount()), 1000 * MIB
    places = range(500 * MIB, 960 * MIB if step > 0 else 40 * MIB, step)
    gets: list[Range] = []
    for number, place in enumerate(places):
        first, second, *others = in_order(place, place + MIB, BLOCK)
        reads = [second, first, *others] if number > 4 else [first, second, *others]
        assert number < 4 or all(any(low <= start and stop <= high for low, high in gets) for start, stop in reads)
        gets += fetched(readahead, reads, size)
    assert bytes_of(gets) <= (len(places) + 4) * MIB + BUDGET


def test_steps_that_break_off_are_not_followed_any_more() -> None:
    windows, size = mount(), 4000 * MIB
    readahead = Readahead(windows)
    assert fetched(readahead, [(place, place + BLOCK) for place in range(0, 80 * MIB, 8 * MIB)], size)
    assert fetched(readahead, [(1234 * MIB, 1234 * MIB + BLOCK), (77 * MIB, 77 * MIB + BLOCK)], size) == []
    assert len(windows) == 0


def test_ranges_with_a_small_gap_are_one() -> None:
    assert merged([(MIB, 2 * MIB), (0, MIB - 200 * KIB), (5 * MIB, 6 * MIB)]) == [(0, 2 * MIB), (5 * MIB, 6 * MIB)]
    readahead, size = Readahead(mount()), 1000 * MIB
    near = [(place, place + 8 * KIB) for place in range(64 * MIB, 0, -200 * KIB)]
    gets = fetched(readahead, near, size)
    assert len(gets) < len(near) // 4, "a step of 200 KiB is not worth a request of its own"


@given(st.integers(0, 64 * MIB), st.integers(1, 64 * MIB), st.sampled_from([BLOCK, MIB, 4 * MIB]))
def test_gets_cover_a_range_and_end_at_multiples_of_their_size(start: int, length: int, each: int) -> None:
    gets = list(split(start, start + length, each))
    assert [low for low, _ in gets] == [start, *[high for _, high in gets[:-1]]]
    assert gets[-1][1] == start + length
    assert all(high % each == 0 for _, high in gets[:-1])


# within the budget

PATTERNS = st.sampled_from(["on", "back", "step", "jump"])


@given(
    st.lists(st.tuples(st.integers(0, 7), PATTERNS, st.integers(1, 40)), min_size=1, max_size=60),
    st.sampled_from([4096, BLOCK, MIB]),
    st.sampled_from([200 * KIB, 5 * MIB, 64 * MIB]),
    st.sampled_from(COUNTS),
    st.integers(1, 300 * MIB),
)
@example([(0, "on", 1), (0, "on", 30)], MIB, 200 * KIB, 4, 1_490_082)  # steps shorter than their pieces
def test_whatever_is_read_nothing_is_fetched_beyond_the_file_and_no_more_than_the_budget(
    turns: list[tuple[int, str, int]], each: int, budget: int, lanes: int, size: int
) -> None:
    windows = mount(budget, lanes)
    files = [Readahead(windows) for _ in range(8)]
    places = [0] * 8
    moves = {"on": each, "back": -each, "step": 3 * MIB, "jump": 7919 * 4096}
    now = 0.0
    for index, pattern, count in turns:
        for _ in range(count):
            now += 1.0
            start = places[index]
            stop = min(start + each, size)
            gets = files[index].on_read(start, stop, size, now)
            places[index] = (start + moves[pattern]) % size
            assert windows.held_bytes <= budget
            assert windows.held_bytes == sum(window for window, _ in windows._held.values())
            assert all(0 <= low < high <= size for low, high in gets)
            assert bytes_of(gets) <= max(budget, BLOCK)
    for file in files:
        file.close()
    assert (len(windows), windows.held_bytes) == (0, 0)


def test_windows_shrink_when_many_read_in_sequence() -> None:
    windows, size = mount(), 100 * MIB
    files = [Readahead(windows) for _ in range(40)]
    for start, stop in in_order(0, 40 * MIB, MIB):
        for file in files:
            file.on_read(start, stop, size, 0.0)
            assert windows.held_bytes <= BUDGET
    held = [window for window, _ in windows._held.values()]
    assert len(held) == 40
    assert max(held) <= BUDGET // 40
    assert min(held) >= BUDGET // 40 // 2, "and nobody is left out"


def test_a_reader_that_has_stopped_gives_its_window_back_after_a_while() -> None:
    windows, size = mount(), 100 * MIB
    stopped, goes_on = Readahead(windows), Readahead(windows)
    fetched(stopped, in_order(0, 20 * MIB, MIB), size)
    fetched(goes_on, in_order(0, 20 * MIB, MIB), size, now=IDLE_SECONDS + 1)
    assert len(windows) == 1
    fetched(stopped, in_order(20 * MIB, 40 * MIB, MIB), size, now=IDLE_SECONDS + 2)
    assert len(windows) == 2


def test_what_there_was_no_memory_for_is_asked_for_again() -> None:
    readahead, size = Readahead(mount()), 100 * MIB
    fetched(readahead, [(0, MIB)], size)
    first = readahead.on_read(MIB, 2 * MIB, size, 0.0)
    readahead.refused(first[1][0])
    again = readahead.on_read(2 * MIB, 3 * MIB, size, 0.0)
    assert again[0][0] == max(first[1][0], 3 * MIB)
