"""Recycled memory: what is handed out again, and what is not kept."""

import weakref
from random import Random

from s3mount.config import MIB
from s3mount.data.buffers import Buffers, Pinned


def test_a_buffer_that_comes_back_is_handed_out_again() -> None:
    buffers = Buffers(idle_max_bytes=8 * MIB)
    first = buffers.take(3 * MIB)
    first.view[:3] = b"old"
    first.unpin()
    assert (buffers.idle_bytes, buffers.used_bytes) == (4 * MIB, 0)
    again = buffers.take(4 * MIB)
    assert bytes(again.view[:3]) == b"old"
    assert (buffers.idle_bytes, buffers.used_bytes) == (0, 4 * MIB)


def test_sizes_that_nobody_asks_for_any_more_make_room_for_the_one_in_use() -> None:
    """A stream begins with small requests and comes to large ones: its large buffers must be recycled, too."""
    buffers = Buffers(idle_max_bytes=8 * MIB)
    for size in (1, 2, 4):
        buffers.take(size * MIB).unpin()
    assert buffers.idle_bytes == 7 * MIB
    large = buffers.take(8 * MIB)
    large.view[:5] = b"large"
    large.unpin()
    assert buffers.idle_bytes == 8 * MIB
    assert bytes(buffers.take(8 * MIB).view[:5]) == b"large"


def test_the_size_used_last_goes_last() -> None:
    buffers = Buffers(idle_max_bytes=4 * MIB)
    older, newer, third = (buffers.take(size * MIB) for size in (1, 2, 2))
    older.unpin()
    newer.unpin()
    third.unpin()
    assert buffers.idle_bytes == 4 * MIB
    pair = [buffers.take(2 * MIB), buffers.take(2 * MIB)]
    assert buffers.idle_bytes == 0
    for memory in pair:
        memory.unpin()
    buffers.take(1 * MIB).unpin()
    assert buffers.idle_bytes == 3 * MIB


def test_what_is_idle_stays_within_its_limit_and_is_never_in_use() -> None:
    for seed in range(20):
        draw = Random(seed)
        buffers = Buffers(idle_max_bytes=4 * MIB)
        held: list[Pinned] = []
        for _ in range(300):
            if held and draw.random() < 0.5:
                held.pop(draw.randrange(len(held))).unpin()
            else:
                held.append(buffers.take(draw.choice((10, 100_000, 1 * MIB, 2 * MIB, 3 * MIB, 8 * MIB))))
            assert 0 <= buffers.idle_bytes <= 4 * MIB
            assert buffers.used_bytes == sum(memory.capacity for memory in held)
            assert len({id(memory.view) for memory in held}) == len(held)


def test_who_still_knows_a_buffer_that_went_back_keeps_no_memory() -> None:
    for size in (10, 8 * MIB):
        buffers = Buffers(idle_max_bytes=0)
        memory = buffers.take(size)
        view = weakref.ref(memory.view)
        memory.unpin()
        assert view() is None
