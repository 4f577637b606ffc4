"""How far ahead a reader is fetched for."""

from hypothesis import given
from hypothesis import strategies as st

from s3mount.config import KIB, MIB
from s3mount.data.readahead import Readahead

BLOCK = 128 * KIB
WINDOW = 32 * MIB


def reader() -> Readahead:
    return Readahead(block_bytes=BLOCK, get_max_bytes=8 * MIB)


def test_a_sequential_reader_gets_a_growing_window_and_never_waits_for_a_get_to_be_asked() -> None:
    readahead, size = reader(), 200 * MIB
    windows = []
    for start in range(0, size, MIB):
        ahead = readahead.on_read(start, start + MIB, size, WINDOW)
        if ahead is not None:
            windows.append(readahead.window)
            assert ahead[1] <= size
        if start > 4 * MIB and start + MIB < size:
            assert readahead.fetched > start + MIB
    assert windows[:6] == [1 * MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 32 * MIB]
    assert readahead.fetched == size


def test_a_random_reader_gets_nothing_ahead() -> None:
    readahead, size = reader(), 10_000 * MIB
    for index in range(1, 100):
        start = index * 7919 * MIB % size
        assert readahead.on_read(start, start + 4096, size, WINDOW) is None


def test_reads_out_of_order_in_what_the_kernel_has_in_flight_are_sequential() -> None:
    readahead, size = reader(), 100 * MIB
    readahead.on_read(0, BLOCK, size, WINDOW)
    for start in (2 * BLOCK, BLOCK, 4 * BLOCK, 3 * BLOCK):
        readahead.on_read(start, start + BLOCK, size, WINDOW)
    assert readahead.window > 0


@given(st.integers(0, 64 * MIB), st.integers(1, 64 * MIB), st.sampled_from([1, 2, 8, 32]))
def test_gets_cover_the_range_and_end_at_multiples_of_their_size(start: int, length: int, window: int) -> None:
    readahead = reader()
    readahead.window = window * MIB
    position = start
    for low, high in readahead.gets(start, start + length):
        assert low == position < high
        assert high - low <= min(8 * MIB, max(window * MIB // 4, MIB))
        position = high
    assert position == start + length
