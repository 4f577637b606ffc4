"""Which opens are recognised as in order, and how far ahead that lets one fetch: `sequence` alone."""

import random
from collections.abc import Callable

import pytest

from s3mount.vfs.sequence import LATE_RECOGNISED_MAX, SKIPPED_MAX, WINDOW_MAX, Follow, Sequence

NAMES = [f"f{number:04}" for number in range(1000)]
SHUFFLED = random.Random(7).sample(NAMES, len(NAMES))


def order_of(names: list[str]) -> Follow:
    places = {name: place for place, name in enumerate(names)}
    return lambda name, count: names[places[name] + 1 :][:count] if name in places else []


def sequence(*orders: list[str], wait_max_seconds: float = 1.0) -> Sequence:
    return Sequence([order_of(order) for order in orders or (NAMES,)], wait_max_seconds=wait_max_seconds)


def in_order(sequence: Sequence) -> bool:
    return sequence.in_order


def opened(sequence: Sequence, names: list[str], *, seconds: float = 0.001) -> list[set[str]]:
    """What each open lets fetch; nothing is there in time, as on a store that is far away."""
    return [set(sequence.opened(name, number * seconds, ready=False)) for number, name in enumerate(names)]


def test_the_second_file_in_order_begins_it_and_the_window_grows_while_nothing_is_there_in_time() -> None:
    ahead = opened(sequence(), NAMES[:10])
    assert [len(names) for names in ahead] == [0, 1, 2, 4, 8, 16, 32, 32, 32, 32]
    assert ahead[2] == {"f0003", "f0004"}
    assert ahead[9] == set(NAMES[10:42])


def test_the_window_stays_as_it_is_when_files_are_there_in_time() -> None:
    stream = sequence()
    opened(stream, NAMES[:3])
    for number in range(3, 900):
        assert list(stream.opened(NAMES[number], number * 0.001, ready=True)) == NAMES[number + 1 : number + 3]


def test_a_file_alone_or_one_that_is_not_the_next_begins_nothing() -> None:
    assert opened(sequence(), ["f0005"]) == [set()]
    assert opened(sequence(), ["f0005", "f0500"]) == [set(), set()]
    assert opened(sequence(), ["f0005", "f0004"]) == [set(), set()]


@pytest.mark.parametrize("step", [2, 3, SKIPPED_MAX + 1])
def test_who_leaves_names_out_is_recognised_by_the_fourth_open(step: int) -> None:
    ahead = opened(sequence(), NAMES[::step][:5])
    assert [bool(names) for names in ahead] == [False, False, False, True, True]


def test_who_leaves_many_names_out_is_not() -> None:
    assert not any(opened(sequence(), NAMES[:: SKIPPED_MAX + 2][:50]))


def test_a_random_reader_fetches_next_to_nothing() -> None:
    assert sum(map(len, opened(sequence(), SHUFFLED[:500]))) <= 20


def test_two_opens_out_of_order_end_it_and_one_does_not() -> None:
    stream = sequence()
    opened(stream, NAMES[:10])
    assert not stream.opened("f0500", 0.1, ready=False)
    assert not in_order(stream)
    assert stream.opened("f0010", 0.2, ready=False)
    assert in_order(stream)
    assert not stream.opened("f0700", 0.3, ready=False)
    assert not stream.opened("f0300", 0.4, ready=False)
    assert not in_order(stream)
    # from here on it has to show again that it is one
    assert not stream.opened("f0011", 0.5, ready=False)
    assert len(stream.opened("f0012", 0.6, ready=False)) == 1


def test_an_open_far_ahead_of_the_stream_or_behind_it_is_not_in_order() -> None:
    stream = sequence()
    opened(stream, NAMES[:500])
    for name in (NAMES[500 + SKIPPED_MAX + 1], NAMES[499 - LATE_RECOGNISED_MAX - 1]):
        stream.opened(name, 1.0, ready=True)
        assert not in_order(stream)


def test_a_thread_far_behind_the_others_breaks_nothing() -> None:
    """16 threads of one interpreter: one of them may wait for 10 rounds of the others."""
    stream = sequence()
    left = [name for number, name in enumerate(NAMES[:160]) if number % 16 == 5]
    opened(stream, [name for name in NAMES[:160] if name not in left])
    for name in left:
        stream.opened(name, 0.5, ready=False)
        assert in_order(stream), name


@pytest.mark.parametrize("count", [2, 4, 16])
def test_threads_that_share_the_names_are_in_order_together(count: int) -> None:
    draw = random.Random(count)
    parts = [NAMES[number::count] for number in range(count)]
    stream = sequence()
    out = 0
    for number in range(len(NAMES)):
        # the one that lags most is the likeliest to open next, as it is where threads take turns
        part = max(draw.sample([part for part in parts if part], min(3, sum(map(bool, parts)))), key=len)
        stream.opened(part.pop(0), number * 0.001, ready=False)
        out += not in_order(stream)
    assert out <= 2 * count, out


@pytest.mark.parametrize("count", [2, 16])
def test_threads_that_read_a_part_each_are_streams_of_their_own(count: int) -> None:
    stream = sequence()
    size = len(NAMES) // count
    fetched: set[str] = set()
    for number in range(size):
        for part in range(count):
            name = NAMES[part * size + number]
            if number > 3:
                assert name in fetched
            fetched.update(stream.opened(name, number * 0.001, ready=False))


def test_files_opened_by_inode_number_are_in_order_too() -> None:
    """`cp -r` sorts the entries of a directory by it."""
    stream = sequence(NAMES, SHUFFLED)
    ahead = opened(stream, SHUFFLED[:10])
    assert [len(names) for names in ahead] == [0, 0, 1, 2, 4, 8, 16, 32, 32, 32]
    assert ahead[9] == set(SHUFFLED[10:42])


def test_a_file_that_is_opened_twice_breaks_nothing() -> None:
    stream = sequence()
    for number, name in enumerate(NAMES[:50]):
        for _ in range(2):
            stream.opened(name, number * 0.01, ready=True)
            assert in_order(stream) == (number > 0)


@pytest.mark.parametrize(("seconds", "most"), [(0.001, WINDOW_MAX), (0.05, 15), (0.2, 3), (0.5, 1), (2.0, 0)])
def test_a_slow_reader_is_fetched_no_more_for_than_it_will_open_in_time(seconds: float, most: int) -> None:
    ahead = opened(sequence(), NAMES[:100], seconds=seconds)
    assert max(map(len, ahead)) == most


def test_names_that_nobody_knows_anything_behind_begin_nothing() -> None:
    nothing: Callable[[str, int], list[str]] = lambda _name, _count: []  # noqa: E731 - an order, as a value
    stream = Sequence([nothing, nothing], wait_max_seconds=1.0)
    assert not any(opened(stream, NAMES[:100]))
