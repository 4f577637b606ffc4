"""Small files fetched ahead of their opens: how many requests that is, when it stops, and what it may prove."""

import os
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio

from s3mount.config import KIB, MIB
from s3mount.errors import NoEntry, Unavailable
from s3mount.store.base import Headers, ObjectInfo
from s3mount.vfs.sequence import SKIPPED_MAX, WINDOW_MAX
from tests.kernel_model import Kernel, mounted
from tests.memory_store import SECOND_NS, Call, MemoryStore
from tests.running import run_virtual

NEAR_SECONDS = 0.02


def name_of(number: int) -> str:
    return f"d/f{number:04}"


def body_of(number: int) -> bytes:
    return b"%d " % number * 100


class WatchedStore(MemoryStore):
    """Knows how many GETs were under way at most."""

    gets_under_way = gets_peak = 0

    async def get(self, *arguments: Any, **options: Any) -> ObjectInfo | None:
        self.gets_under_way += 1
        self.gets_peak = max(self.gets_peak, self.gets_under_way)
        try:
            return await super().get(*arguments, **options)
        finally:
            self.gets_under_way -= 1


def filled(count: int = 1000) -> WatchedStore:
    store = WatchedStore(latency_seconds=NEAR_SECONDS / 2, clock_ns=lambda: 1_700_000_000 * SECOND_NS)
    for number in range(count):
        store.place(name_of(number), body_of(number))
    return store


def ahead(kernel: Kernel) -> dict[str, int]:
    """What `s3mount status` shows."""
    figures = kernel.fs._tree.storage.figures["files_ahead"]
    assert isinstance(figures, dict)
    return figures


async def read_all(kernel: Kernel, numbers: Iterable[int], *, seconds: float = 0.001) -> None:
    """Open, read and close, one after the other, as a program that takes so long for each."""
    for number in numbers:
        assert await kernel.read(name_of(number)) == body_of(number)
        await trio.sleep(seconds)


async def listed(kernel: Kernel) -> None:
    await kernel.listdir("d")
    kernel.store.reset_counts()


@run_virtual
async def test_files_read_in_order_are_one_get_each_and_many_times_faster_than_one_after_the_other(
    tmp_path: Path,
) -> None:
    """C9: 1,000 small files on a store 20 ms away, at least 10 times faster than one after the other."""
    store = filled()
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        began = trio.current_time()
        await read_all(kernel, range(1000))
        took = trio.current_time() - began
        assert store.counts == {"get": 1000}
        assert len({call.key for call in store.calls}) == 1000
        assert took - 1000 * 0.001 < 1000 * NEAR_SECONDS / 10
        figures = ahead(kernel)
        assert (figures["used"], figures["wasted"]) == (998, 0)


@run_virtual
async def test_more_are_under_way_the_farther_the_store_is(tmp_path: Path) -> None:
    most: list[int] = []
    for latency in (0.0005, 0.005, 0.05):
        store = filled(300)
        store.latency_seconds = latency
        async with mounted(store, tmp_path) as kernel:
            await listed(kernel)
            await read_all(kernel, range(300), seconds=0.002)
            most.append(store.gets_peak)
            assert store.counts == {"get": 300}
    assert most[0] <= 3
    assert most[0] < most[1] < most[2] <= 25


@run_virtual
async def test_a_reader_that_stops_has_cost_no_more_than_a_window(tmp_path: Path) -> None:
    store = filled()
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(20))
        await trio.sleep(100)
        assert store.counts["get"] <= 20 + WINDOW_MAX
        figures = ahead(kernel)
        assert figures["wasted"] == store.counts["get"] - 20 > 0
        assert figures["wasted_bytes"] == sum(len(body_of(n)) for n in range(20, store.counts["get"]))
        assert figures["fetched"] == figures["used"] + figures["wasted"]


@run_virtual
async def test_after_two_random_opens_nothing_more_is_fetched(tmp_path: Path) -> None:
    store = filled()
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(50))
        await read_all(kernel, (700, 300))
        await trio.sleep(100)
        store.reset_counts()
        await read_all(kernel, (900, 100, 500, 550, 20, 810))
        await trio.sleep(100)
        assert store.counts["get"] == 6


@run_virtual
async def test_files_that_were_opened_at_random_are_fetched_once_each(tmp_path: Path) -> None:
    store = filled(200)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, random.Random(1).sample(range(200), 200))
        assert ahead(kernel)["used"] == 0
        assert store.counts["get"] - 200 == ahead(kernel)["fetched"] <= 4  # two that were neighbours by accident


@run_virtual
async def test_a_slow_reader_fetches_nothing_ahead_that_would_be_too_old(tmp_path: Path) -> None:
    store = filled(100)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(100), seconds=1.5)
        assert store.counts["get"] == 100
        assert ahead(kernel)["fetched"] == 0


@run_virtual
async def test_files_in_the_order_that_readdir_told_are_one_get_each(tmp_path: Path) -> None:
    store = filled(2500)
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("d")
        store.reset_counts()
        for name in names:
            await kernel.read(f"d/{name}")
        assert store.counts == {"get": 2500}
        assert ahead(kernel)["used"] == 2498


@run_virtual
async def test_files_in_the_order_of_their_inodes_are_one_get_each(tmp_path: Path) -> None:
    """As `cp -r` reads a directory."""
    store = filled()
    async with mounted(store, tmp_path) as kernel:
        told = [(shown.ino, name) async for name, shown in kernel.scan("d")]
        store.reset_counts()
        for _, name in sorted(told):
            await kernel.read(f"d/{name}")
        assert store.counts == {"get": 1000}
        assert ahead(kernel)["used"] >= 990
        assert ahead(kernel)["wasted"] == 0


@run_virtual
async def test_threads_that_share_the_files_cost_one_get_each_and_one_more_for_who_lags(tmp_path: Path) -> None:
    """Whose turn it is is drawn: a thread that lags far behind the others is out of order, and asks itself."""
    store = filled()
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(read_all, kernel, range(number, 1000, 16))
        await trio.sleep(100)
        assert store.counts == {"get": 1000 + ahead(kernel)["wasted"]}
        assert ahead(kernel)["wasted"] <= 16
        assert ahead(kernel)["used"] >= 800


@run_virtual
async def test_larger_files_among_them_are_left_to_their_own_readers_and_medium_ones_come_whole(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=0.01)
    sizes = [16 * KIB, 300 * KIB, 2 * MIB, 512 * KIB, 1 * KIB] * 10
    for number, size in enumerate(sizes):
        store.place(name_of(number), bytes([number]) * size)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        for number in range(10):
            assert await kernel.read(name_of(number)) == bytes([number]) * sizes[number]
        await trio.sleep(0.1)
        fetched: Counter[str] = Counter()
        for call in store.calls:
            fetched[call.key] = max(fetched[call.key], call.start + call.size)
        for number in range(10, 14):
            size = sizes[number]
            assert (fetched[name_of(number)] >= size) == (size <= 512 * KIB), (number, size)
        store.reset_counts()
        assert await kernel.read(name_of(10)) == bytes([10]) * sizes[10]
        assert await kernel.read(name_of(11)) == bytes([11]) * sizes[11]
        assert not [call for call in store.calls if call.key in (name_of(10), name_of(11))]


@run_virtual
async def test_what_waits_for_its_open_is_bounded_in_bytes(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=0.01)
    for number in range(40):
        store.place(name_of(number), bytes([number]) * (512 * KIB))
    async with mounted(store, tmp_path, memory_limit_bytes=64 * MIB) as kernel:
        await listed(kernel)
        for number in range(6):
            await kernel.read(name_of(number))
        await trio.sleep(0.2)
        waiting = ahead(kernel)["fetched"] - ahead(kernel)["used"]
        assert 0 < waiting * 512 * KIB <= 4 * MIB


@run_virtual
async def test_empty_files_among_them_are_one_head_each(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=0.01)
    for number in range(60):
        store.place(name_of(number), b"x" * (number % 2))
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        for number in range(60):
            assert await kernel.read(name_of(number)) == b"x" * (number % 2)
        assert store.counts == {"get": 30, "head": 30}


@run_virtual
async def test_a_link_is_not_fetched_for_its_content(tmp_path: Path) -> None:
    store = filled(20)
    link = Headers(metadata={"mode": str(0o120777)})
    for number in range(20):
        store.place(f"d/f{number:04}.link", b"target", link)
    store.place("d/.s3mount-attrs", b"")
    async with mounted(store, tmp_path) as kernel:
        names = [name async for name, _ in kernel.scan("d")]
        for name in names:
            await kernel.stat(f"d/{name}")
        store.reset_counts()
        await read_all(kernel, range(20))
        await trio.sleep(10)
        assert store.counts == {"get": 20}
        assert not [call for call in store.calls if call.key.endswith("link")]


# what it proves


@run_virtual
async def test_an_open_in_order_may_show_what_was_there_a_second_before_and_no_more(tmp_path: Path) -> None:
    """The bound of --neighbour-ttl: a file that another host closes after it was fetched ahead."""
    store = filled()
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(50))
        await trio.sleep(0.1)
        store.place(name_of(50), b"new 50")
        store.place(name_of(51), b"new 51")
        assert await kernel.read(name_of(50)) == body_of(50)
        assert await kernel.read(name_of(50)) == b"new 50"  # only one open is served
        await trio.sleep(1.01)
        assert await kernel.read(name_of(51)) == b"new 51"


@run_virtual
async def test_a_random_open_shows_what_another_host_closed_just_before_it(tmp_path: Path) -> None:
    """C8, whatever was fetched ahead a moment ago."""
    store = filled()
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(50))
        await trio.sleep(0.1)
        numbers = range(50 + SKIPPED_MAX + 1, 50 + WINDOW_MAX)
        fetched = {call.key for call in store.calls}
        assert {name_of(number) for number in numbers} & fetched
        for number in (*numbers, 5, 800):
            store.place(name_of(number), b"new %d" % number)
        for number in (800, 5, *reversed(numbers)):
            assert await kernel.read(name_of(number)) == b"new %d" % number


@run_virtual
async def test_what_was_closed_elsewhere_before_it_was_fetched_ahead_is_shown(tmp_path: Path) -> None:
    """An old listing names old versions: the open finds another one, and the repeated open asks nothing more."""
    store = filled(100)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(5))
        for number in range(40, 100):
            store.place(name_of(number), b"new %d" % number)
        store.remove(name_of(70))
        store.reset_counts()
        for number in range(5, 100):
            if number == 70:
                with pytest.raises(NoEntry):
                    await kernel.read(name_of(number))
            else:
                expected = body_of(number) if number < 40 else b"new %d" % number
                assert await kernel.read(name_of(number)) == expected
        assert set(Counter(call.key for call in store.calls if call.operation == "get").values()) == {1}


@run_virtual
@pytest.mark.parametrize("option", ["neighbour_ttl_seconds", "metadata_ttl_seconds"])
async def test_nothing_is_fetched_ahead_where_an_option_says_so(tmp_path: Path, option: str) -> None:
    store = filled(100)
    options: dict[str, Any] = {option: 0.0}
    async with mounted(store, tmp_path, **options) as kernel:
        await listed(kernel)
        for number in range(50):
            assert await kernel.read(name_of(number)) == body_of(number)
            store.place(name_of(number + 1), body_of(number + 1) + b"new")
            assert await kernel.read(name_of(number + 1)) == body_of(number + 1) + b"new"
            store.place(name_of(number + 1), body_of(number + 1))
        assert ahead(kernel)["fetched"] == 0


@run_virtual
async def test_a_file_written_here_meanwhile_is_shown_as_it_was_written(tmp_path: Path) -> None:
    store = filled(100)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(10))
        await kernel.write(name_of(11), b"own 11")
        await kernel.rename(name_of(99), name_of(12))
        await kernel.unlink(name_of(13))
        await read_all(kernel, (10,))
        assert await kernel.read(name_of(11)) == b"own 11"
        assert await kernel.read(name_of(12)) == body_of(99)
        assert not await kernel.exists(name_of(13))
        await read_all(kernel, range(14, 99))


@run_virtual
@pytest.mark.parametrize("how", ["written", "renamed"])
async def test_a_file_that_was_away_when_it_was_asked_for_ahead_is_there_once_it_is_made_again(
    tmp_path: Path, how: str
) -> None:
    """The same bytes at the same key are the same version: what a GET found between two own changes is not believed."""
    store = filled(100)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        away, gone = name_of(20), trio.Event()

        async def take_away(call: Call) -> None:
            if call.operation == "get" and call.key == away:
                store.before = None
                gone.set()
                if how == "written":
                    await kernel.unlink(away)
                else:
                    await kernel.rename(away, "d/aside")

        store.before = take_away
        number = 0
        while not gone.is_set():
            await read_all(kernel, (number,), seconds=NEAR_SECONDS)
            number += 1
        assert number <= 20, "it was asked for ahead"
        await trio.sleep(5 * NEAR_SECONDS)
        if how == "written":
            await kernel.write(away, body_of(20))
        else:
            await kernel.rename("d/aside", away)
        await read_all(kernel, range(number, 40))


@run_virtual
async def test_an_open_for_writing_asks_the_store_as_always(tmp_path: Path) -> None:
    store = filled(100)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(10))
        store.place(name_of(10), b"new and longer than before" * 10)
        fh = await kernel.open(name_of(10), os.O_WRONLY | os.O_APPEND)
        await kernel.fs.write(fh, (await kernel.stat(name_of(10))).size, b" appended")
        await kernel.close(fh)
        assert store.body(name_of(10)) == b"new and longer than before" * 10 + b" appended"


@run_virtual
async def test_a_refresh_lets_the_next_open_ask_the_store(tmp_path: Path) -> None:
    store = filled(100)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(10))
        store.place(name_of(10), b"new")
        await kernel.fs.refresh(b"d")
        assert await kernel.read(name_of(10)) == b"new"


# when it fails


@run_virtual
async def test_a_request_ahead_that_fails_is_asked_again_by_the_open_and_the_store_is_left_alone(
    tmp_path: Path,
) -> None:
    store = filled(100)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(10))
        await trio.sleep(0.5)
        store.fail("get", Unavailable("503"), key=name_of(40))
        store.fail("get", Unavailable("503"), key=name_of(50), times=2)
        await read_all(kernel, range(10, 50))
        with pytest.raises(Unavailable):
            await kernel.read(name_of(50))
        used = ahead(kernel)["used"]
        await read_all(kernel, range(51, 60))
        assert ahead(kernel)["used"] <= used + WINDOW_MAX


@run_virtual
async def test_an_open_that_waits_for_a_request_ahead_may_be_given_up(tmp_path: Path) -> None:
    store = filled(100)
    async with mounted(store, tmp_path) as kernel:
        await listed(kernel)
        await read_all(kernel, range(10))
        store.latency_seconds = 50.0
        with trio.move_on_after(1):
            await read_all(kernel, range(10, 100))
        store.latency_seconds = 0.0
        await trio.sleep(1000)
        await read_all(kernel, range(100))
