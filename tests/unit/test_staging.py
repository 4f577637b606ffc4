"""The log that holds dirty bytes: places, memory and disk, holds, and who waits when it runs short."""

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from s3mount.config import MIB
from s3mount.data.budget import Budget
from s3mount.data.buffers import Buffers
from s3mount.data.chunks import CHUNK_BYTES, Tail
from s3mount.data.memory import PATIENCE_SECONDS
from s3mount.data.spill import RunInThread
from s3mount.data.staging import Staging
from s3mount.errors import StagingFull
from tests.running import run_trio, run_virtual

KIB = 1024


async def inline(call: Callable[[], None]) -> None:
    await trio.lowlevel.checkpoint()
    call()


@asynccontextmanager
async def staging(
    directory: Path,
    *,
    limit: int = 64 * MIB,
    memory: int = 16 * MIB,
    run_in_thread: RunInThread = inline,
    reclaim: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Staging]:
    async with trio.open_nursery() as nursery:
        budget = Budget(limit, stall_seconds=30, reclaim=reclaim)
        log = Staging(
            nursery,
            Buffers(idle_max_bytes=4 * MIB),
            budget,
            directory,
            memory_bytes=memory,
            segment_bytes=8 * MIB,
            reclaim=lambda: False,
            run_in_thread=run_in_thread,
        )
        yield log


def content(log: Staging, places: list[tuple[int, int]]) -> bytes:
    joined = bytearray()
    for position, size in places:
        part = bytearray(size)
        assert log.copy(position, memoryview(part))
        joined += part
    return bytes(joined)


@run_virtual
async def test_bytes_come_back_and_freed_places_return_their_budget() -> None:
    async with staging(Path("/nowhere")) as log:
        tail = Tail()
        data = bytes(range(256)) * 20 * KIB
        places = list(log.append(memoryview(data), tail))
        assert content(log, places) == data
        assert log.budget.live_bytes == len(data)
        log.free(places)
        assert log.budget.live_bytes == 0
        assert log.chunks == 0, "a file's own chunks go with its bytes"


@run_virtual
async def test_small_files_one_after_another_use_one_chunk() -> None:
    async with staging(Path("/nowhere")) as log:
        for _ in range(1000):
            places = list(log.append(memoryview(bytes(16 * KIB)), Tail()))
            log.free(places)
        assert log.chunks == 1


@run_virtual
async def test_what_is_held_is_neither_rewritten_nor_freed() -> None:
    async with staging(Path("/nowhere")) as log:
        tail = Tail()
        places = list(log.append(memoryview(b"x" * 1000), tail))
        assert log.rewritable(*places[0])
        hold = log.hold(places)
        assert not log.rewritable(*places[0])
        log.free(places)
        assert log.budget.live_bytes == 1000
        assert content(log, places) == b"x" * 1000
        hold.release()
        assert log.budget.live_bytes == 0


@run_trio
async def test_old_chunks_go_to_disk_when_memory_runs_out_and_the_disk_is_given_back(tmp_path: Path) -> None:
    async with staging(tmp_path, memory=8 * MIB, run_in_thread=trio.to_thread.run_sync) as log:
        tail = Tail()
        written = []
        for index in range(40):
            data = bytes([index]) * MIB
            await log.wait_for_memory(len(data))
            written.append((data, list(log.append(memoryview(data), tail))))
            assert log.chunks_in_memory <= 8
        assert not list(tmp_path.iterdir()), "segments have no names"
        assert log._spill.slots_used >= 32
        for data, places in written:
            for position, size in places:
                back = bytearray(size)
                hold = log.hold([(position, size)])
                await log.load(position, memoryview(back))
                hold.release()
                assert back == data[:size]
        for _, places in written[::2] + written[1::2]:
            log.free(places)
        await wait_all_tasks_blocked(0.05)
        assert (log.chunks, log._spill.slots_used, log._spill._fds) == (0, 0, {})


@run_trio
async def test_a_disk_that_is_full_refuses_the_write_that_needs_it() -> None:
    async with staging(Path("/nowhere/at/all"), memory=8 * MIB) as log:
        tail = Tail()
        with pytest.raises(StagingFull):
            for _ in range(20):
                await log.wait_for_memory(CHUNK_BYTES)
                list(log.append(memoryview(bytes(CHUNK_BYTES)), tail))


@run_virtual
async def test_what_is_appended_behind_bytes_that_went_to_disk_under_a_hold_stays(tmp_path: Path) -> None:
    """A part in flight holds the chunk in which the next part begins, and the chunk is written to disk meanwhile."""
    async with staging(tmp_path, memory=8 * MIB) as log:
        tail, other = Tail(), Tail()
        places = list(log.append(memoryview(b"a" * 700 * KIB), tail))
        while log.chunks_in_memory < 5:
            list(log.append(memoryview(bytes(CHUNK_BYTES)), other))
        assert log._memory._spills, "the oldest chunk is on its way to disk"
        hold = log.hold(places)
        await trio.testing.wait_all_tasks_blocked()
        more = list(log.append(memoryview(b"b" * 100 * KIB), tail))
        hold.release()
        for position, size, byte in [*((*place, b"a") for place in places), *((*place, b"b") for place in more)]:
            back = bytearray(size)
            hold = log.hold([(position, size)])
            await log.load(position, memoryview(back))
            hold.release()
            assert back == byte * size


class Disk:
    """A worker thread whose disk takes so many chunks."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked = 0

    async def __call__(self, call: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= 1
        call()


@run_virtual
async def test_a_disk_that_fills_up_is_told_once_and_memory_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with staging(tmp_path, memory=8 * MIB, run_in_thread=(disk := Disk(3))) as log:
        tail, places, refused = Tail(), list[tuple[int, int]](), 0
        for _ in range(30):
            try:
                await log.wait_for_memory(CHUNK_BYTES)
            except StagingFull:
                refused += 1
            else:
                places += log.append(memoryview(bytes(CHUNK_BYTES)), tail)
        assert len(places) >= 3 + 4, "the disk's, and half of the memory at least"
        assert refused == 30 - len(places)
        assert disk.asked < 3 * 30, "a write that waits tries the disk once, not for ever"
        assert len(caplog.records) == 1
        log.free(places)
        await log.wait_for_memory(CHUNK_BYTES)


@run_virtual
async def test_a_disk_that_refused_is_thought_full_for_a_minute_and_no_longer(tmp_path: Path) -> None:
    async with staging(tmp_path / "missing", memory=8 * MIB) as log:
        tail, places = Tail(), list[tuple[int, int]]()
        while log.ready(CHUNK_BYTES):
            places += log.append(memoryview(bytes(CHUNK_BYTES)), tail)
        assert log.budget.short
        log.free(places)
        await trio.sleep(59)
        assert log.budget.short
        await trio.sleep(1)
        assert not log.budget.short, "nothing needs the disk, so no chunk written to it would ever tell"


@run_virtual
async def test_a_disk_that_takes_a_chunk_again_is_full_no_more(tmp_path: Path) -> None:
    async with staging(tmp_path, memory=8 * MIB, run_in_thread=(disk := Disk(0))) as log:
        tail, places = Tail(), list[tuple[int, int]]()
        while log.ready(CHUNK_BYTES):
            places += log.append(memoryview(bytes(CHUNK_BYTES)), tail)
        await wait_all_tasks_blocked()
        assert log.budget.short
        disk.room = 100
        await log.wait_for_memory(CHUNK_BYTES)
        assert not log.budget.short


@run_virtual
async def test_a_write_that_waits_for_uploads_tries_a_full_disk_again_each_minute(tmp_path: Path) -> None:
    async with staging(tmp_path, memory=8 * MIB, run_in_thread=(disk := Disk(0))) as log:
        tail = Tail()
        while log.ready(CHUNK_BYTES):
            list(log.append(memoryview(bytes(CHUNK_BYTES)), tail))
        log.budget.will_free()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.wait_for_memory, CHUNK_BYTES)
            await trio.sleep(1)
            asked = disk.asked
            await trio.sleep(300)
            assert asked + 5 <= disk.asked <= asked + 2 * 5, "two chunks at a time"
            disk.room = 100
            began = trio.current_time()
        assert trio.current_time() - began <= 60


@run_virtual
async def test_on_a_full_disk_a_write_waits_for_the_uploads_under_way(tmp_path: Path) -> None:
    offered: list[list[tuple[int, int]]] = []

    def reclaim(_: int) -> None:
        while offered:
            log.free(offered.pop())

    async with staging(tmp_path, memory=8 * MIB, run_in_thread=Disk(0), reclaim=reclaim) as log:
        tail, places = Tail(), list[tuple[int, int]]()
        while log.ready(CHUNK_BYTES):
            places += log.append(memoryview(bytes(CHUNK_BYTES)), tail)
        log.budget.will_free()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.wait_for_memory, CHUNK_BYTES)
            await trio.sleep(100)
            assert nursery.child_tasks
            assert log.budget.short, "so that what was sent is given back at once"
            log.free(places[:3])
        places = places[3:]
        while log.ready(CHUNK_BYTES):
            places += log.append(memoryview(bytes(CHUNK_BYTES)), tail)
        offered.append(places[:4])
        await log.wait_for_memory(CHUNK_BYTES)
        assert not offered
        places = places[4:]
        while log.ready(CHUNK_BYTES):
            places += log.append(memoryview(bytes(CHUNK_BYTES)), tail)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(StagingFull):
                    await log.wait_for_memory(CHUNK_BYTES)

            nursery.start_soon(wait)
            await trio.sleep(100)
            assert nursery.child_tasks
            log.budget.will_free_no_more()


@run_virtual
async def test_who_waits_for_memory_is_served_in_the_order_of_arrival() -> None:
    async with staging(Path("/nowhere"), memory=8 * MIB) as log:
        log.budget.will_free()
        places = [list(log.append(memoryview(bytes(MIB)), Tail())) for _ in range(7)]
        served: list[int] = []

        async def wait(number: int) -> None:
            await log.wait_for_memory(MIB)
            served.append(number)
            places.append(list(log.append(memoryview(bytes(MIB)), Tail())))

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(wait, number)
                await wait_all_tasks_blocked()
                assert not log.ready(1), "who comes later does not pass those who wait"
            assert log._memory._waiting_bytes == 5 * MIB
            while len(served) < 5:
                log.free(places.pop(0))
                await wait_all_tasks_blocked()
        assert served == [0, 1, 2, 3, 4]
        assert log._memory._waiting_bytes == 0
        assert log.ready(1)


@run_virtual
async def test_memory_that_comes_back_just_as_patience_ends_is_taken(tmp_path: Path) -> None:
    """Whoever runs first then: a writer that waited for the next chunk to come back would wait for ever."""
    for _ in range(20):
        async with staging(tmp_path, memory=16 * MIB) as log:
            log.budget.will_free()
            tail, places = Tail(), list[tuple[int, int]]()
            while log.ready(CHUNK_BYTES):
                places += log.append(memoryview(bytes(CHUNK_BYTES)), tail)
            patience_ends = log._memory._eased_seconds + PATIENCE_SECONDS
            with trio.fail_after(100):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(log.wait_for_memory, CHUNK_BYTES)
                    await trio.sleep_until(patience_ends)
                    log.free(places)


@run_virtual
async def test_a_writer_waits_for_uploads_that_keep_up_before_anything_goes_to_disk(tmp_path: Path) -> None:
    async with staging(tmp_path, memory=16 * MIB) as log:
        log.budget.will_free()
        places: list[list[tuple[int, int]]] = []

        async def upload() -> None:
            while len(places) < 50:
                await trio.sleep(0.9)
                log.free(places.pop(0))

        async with trio.open_nursery() as nursery:
            for number in range(40):
                if number == 2:
                    nursery.start_soon(upload)
                await log.wait_for_memory(MIB)
                places.append(list(log.append(memoryview(bytes(MIB)), Tail())))
            nursery.cancel_scope.cancel()
        assert log._spill.slots_used == 0
        await trio.sleep(2)
        began = trio.current_time()
        for _ in range(20):
            await log.wait_for_memory(MIB)
            places.append(list(log.append(memoryview(bytes(MIB)), Tail())))
        assert log._spill.slots_used >= 16, "uploads that free nothing for a second are not waited for"
        assert trio.current_time() == began


@run_virtual
async def test_below_three_quarters_nobody_waits() -> None:
    budget = Budget(100, stall_seconds=30, reclaim=lambda _: None)
    assert budget.roomy(75)
    assert not budget.roomy(76)


@run_virtual
async def test_writers_get_what_uploads_free_in_turn() -> None:
    budget = Budget(100, stall_seconds=30, reclaim=lambda _: None)
    budget.used(80)
    budget.will_free()
    order: list[int] = []

    async def write(number: int) -> None:
        await budget.admit(10, lambda: None)
        budget.used(10)
        order.append(number)
        budget.unreserve(10)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(write, number)
            await wait_all_tasks_blocked()
        assert order == []
        for expected in range(1, 5):
            budget.freed(10)
            await wait_all_tasks_blocked()
            assert order == list(range(expected))
    assert budget.live_bytes == 80


@run_virtual
async def test_when_nothing_can_free_space_the_rest_is_used_and_then_refused() -> None:
    budget = Budget(100, stall_seconds=30, reclaim=lambda _: None)
    budget.used(80)
    for _ in range(2):
        await budget.admit(10, lambda: None)
        budget.used(10)
        budget.unreserve(10)
    told: list[str] = []
    with pytest.raises(StagingFull):
        await budget.admit(1, lambda: told.append("no"))
    assert told == ["no"]
    assert (budget.live_bytes, budget.reserved_bytes) == (100, 0)


@run_virtual
async def test_the_last_of_the_limit_goes_to_the_file_that_is_nearest_to_a_part() -> None:
    """Two files of 40 bytes each, whose first parts stay: shared evenly, what is left completes the part of neither."""
    budget = Budget(100, stall_seconds=30, reclaim=lambda _: None, part_bytes=20, write_bytes=5)
    budget.used(80)
    lacks = {"near": 10, "far": 15}
    order: list[str] = []

    async def write(name: str) -> None:
        await budget.admit(5, lambda: None, lacking=lambda: lacks[name])
        budget.used(5)
        lacks[name] -= 5
        order.append(name)
        if not lacks[name]:
            budget.will_free()  # the part is being sent
        budget.unreserve(5)

    async with trio.open_nursery() as nursery:
        budget.will_free()
        for name in ("far", "far", "far", "near", "near"):
            nursery.start_soon(write, name)
            await wait_all_tasks_blocked()
        assert order == []
        budget.will_free_no_more()
        await wait_all_tasks_blocked()
        assert order == ["near", "near"]
        budget.freed(20)


@run_virtual
async def test_the_last_write_is_for_one_that_completes_a_part() -> None:
    budget = Budget(100, stall_seconds=30, reclaim=lambda _: None, part_bytes=20, write_bytes=5)
    budget.used(94)
    with pytest.raises(StagingFull):
        await budget.admit(5, lambda: None, lacking=lambda: 6)
    await budget.admit(5, lambda: None, lacking=lambda: 5)


@run_virtual
async def test_a_writer_that_waits_longer_than_the_stall_deadline_is_refused() -> None:
    budget = Budget(100, stall_seconds=30, reclaim=lambda _: None)
    budget.used(95)
    budget.will_free()
    began = trio.current_time()
    with pytest.raises(StagingFull):
        await budget.admit(10, lambda: None)
    assert trio.current_time() - began == 30


@run_virtual
async def test_a_cancelled_writer_leaves_the_line() -> None:
    budget = Budget(100, stall_seconds=30, reclaim=lambda _: None)
    budget.used(95)
    budget.will_free()
    with trio.move_on_after(1):
        await budget.admit(10, lambda: None)
    budget.freed(95)
    assert budget.roomy(75)
    assert budget.reserved_bytes == 0


@run_virtual
async def test_space_that_refused_writers_give_up_serves_those_behind_them() -> None:
    victims = [60]

    def reclaim(_: int) -> None:
        if given_up and victims:
            budget.freed(victims.pop())

    given_up: list[bool] = []
    budget = Budget(100, stall_seconds=30, reclaim=reclaim)
    budget.used(95)
    outcomes: list[str] = []

    async def write() -> None:
        try:
            await budget.admit(10, lambda: given_up.append(True))
        except StagingFull:
            outcomes.append("refused")
        else:
            budget.used(10)
            budget.unreserve(10)
            outcomes.append("written")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(write)
    assert sorted(outcomes) == ["refused", "written", "written"]
