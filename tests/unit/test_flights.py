"""Stalled GETs are asked again: which, when, how often, and what becomes of the two requests."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf

import pytest
import trio

from s3mount.config import KIB, MIB
from s3mount.data.buffers import Buffers
from s3mount.data.flights import Flights
from s3mount.data.lanes import Lanes
from s3mount.data.patience import AT_ONCE_MAX, LEAST_SECONDS, Patience
from s3mount.data.runs import Run
from s3mount.data.version import Version
from s3mount.errors import PreconditionFailed, Unavailable
from s3mount.store.base import Headers, ObjectInfo
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.files import InjectedBug

SIZE = 1 * MIB
BODY = bytes(range(251)) * (SIZE // 251 + 1)
MOST_SECONDS = 5.0


class Stalling(MemoryStore):
    """A store whose GETs, in the order they come, bring `stalls[i][0]` bytes and then nothing for `stalls[i][1]`
    seconds; then `errors[i]` is raised, or the rest comes."""

    def __init__(self, *stalls: tuple[int, float]) -> None:
        super().__init__(latency_seconds=0.1)
        self.stalls = list(stalls)
        self.errors: dict[int, BaseException] = {}
        self.asked: list[int] = []
        self.cancelled: list[int] = []
        self.when_stalled: Callable[[], object] = int

    async def get(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        version_id: str | None = None,
        arrived: Callable[[int], None] | None = None,
    ) -> ObjectInfo | None:
        number = len(self.asked)
        self.asked.append(start)
        count, seconds = self.stalls[number] if number < len(self.stalls) else (0, 0.0)
        assert arrived is not None
        try:
            if count:
                into[:count] = BODY[start : start + count]
                arrived(count)
            await trio.sleep(seconds)
            if number in self.errors:
                raise self.errors[number]
            return await super().get(key, start, into, if_match=if_match, version_id=version_id, arrived=arrived)
        except trio.Cancelled:
            self.cancelled.append(number)
            raise


class Flying:
    """Flights on a store, and the memory they fill."""

    def __init__(self, store: MemoryStore, nursery: trio.Nursery, version: Version) -> None:
        self.buffers = Buffers(idle_max_bytes=0)
        self.patience = Patience(most_seconds=MOST_SECONDS)
        self.flights = Flights(store, nursery, Lanes(), self.patience)
        self.version = version

    async def fetch(self, start: int = 0, stop: int = SIZE) -> float:
        """Fetch a range; how long it took."""
        run = Run(self.version, start, stop, self.buffers.take(stop - start))
        began = trio.current_time()
        try:
            info = await self.flights.get(run)
            assert info is not None
            assert info.etag == self.version.etag
            assert bytes(run.memory.view[: stop - start]) == BODY[start:stop]
        finally:
            run.memory.unpin()
        return trio.current_time() - began


@asynccontextmanager
async def flying(store: MemoryStore) -> AsyncIterator[Flying]:
    stored = await store.put("k", [BODY[:SIZE]], Headers())
    async with trio.open_nursery() as nursery:
        own = Flying(store, nursery, Version("k", stored.etag, SIZE))
        yield own
        await trio.sleep(100)
        assert own.buffers.used_bytes == 0, "every pin was given back"
        assert not own.flights._flights
        nursery.cancel_scope.cancel()


@run_virtual
async def test_a_get_that_brings_nothing_is_asked_again_and_its_reader_does_not_wait_for_it() -> None:
    store = Stalling((0, inf))
    async with flying(store) as own:
        assert await own.fetch() < 2 * MOST_SECONDS
        assert (store.asked, store.cancelled) == ([0, 0], [0])
        assert own.flights.asked_again == 1


@run_virtual
async def test_a_get_that_stops_halfway_is_asked_again_from_there() -> None:
    store = Stalling((300 * KIB, inf))
    async with flying(store) as own:
        assert await own.fetch(0, SIZE) < 2 * MOST_SECONDS
        assert (store.asked, store.cancelled) == ([0, 300 * KIB], [0])


@run_virtual
async def test_silence_is_measured_by_what_gets_take() -> None:
    store = Stalling(*[(0, 0.0)] * 20, (0, inf))
    async with flying(store) as own:
        for _ in range(20):
            await own.fetch()
        assert await own.fetch() < 2 * LEAST_SECONDS
    slow = Stalling(*[(0, 1.0)] * 20, (0, 2.0))
    async with flying(slow) as own:
        for _ in range(21):
            await own.fetch()
        assert own.flights.asked_again == 0, "where each takes a second, two are no stall"


@run_virtual
async def test_a_first_request_that_comes_after_all_ends_the_second() -> None:
    store = Stalling((0, MOST_SECONDS * 1.4), (0, inf))
    async with flying(store) as own:
        assert await own.fetch() < 1.5 * MOST_SECONDS
        await trio.testing.wait_all_tasks_blocked()
        assert store.cancelled == [1]


@run_virtual
async def test_a_get_that_goes_on_is_not_asked_again_however_long_it_takes() -> None:
    class Slow(MemoryStore):
        """A piece every half of the silence that would be a stall."""

        async def get(
            self,
            key: str,
            start: int,
            into: memoryview,
            *,
            if_match: str | None = None,
            if_none_match: str | None = None,
            version_id: str | None = None,
            arrived: Callable[[int], None] | None = None,
        ) -> ObjectInfo | None:
            assert arrived is not None
            for stop in range(64 * KIB, len(into), 64 * KIB):
                into[:stop] = BODY[start : start + stop]
                arrived(stop)
                await trio.sleep(MOST_SECONDS / 2)
            return await super().get(key, start, into, if_match=if_match, arrived=arrived)

    store = Slow()
    async with flying(store) as own:
        assert await own.fetch() > 5 * MOST_SECONDS
        assert own.flights.asked_again == 0


@run_virtual
async def test_a_get_that_ends_just_as_it_is_asked_again_is_not_asked_for_nothing() -> None:
    class Sudden(MemoryStore):
        """Everything comes at once, at the moment when silence becomes a stall."""

        async def get(
            self,
            key: str,
            start: int,
            into: memoryview,
            *,
            if_match: str | None = None,
            if_none_match: str | None = None,
            version_id: str | None = None,
            arrived: Callable[[int], None] | None = None,
        ) -> ObjectInfo | None:
            assert len(into) > 0, "which S3 has no request for"
            assert arrived is not None
            await trio.sleep(MOST_SECONDS)
            into[:] = BODY[start : start + len(into)]
            arrived(len(into))
            return self._info(key, self.objects[key])

    again = 0
    for _ in range(40):  # trio draws who of the two runs first
        store = Sudden()
        async with flying(store) as own:
            assert await own.fetch() == MOST_SECONDS
            again += own.flights.asked_again
    assert again > 0


@run_virtual
async def test_few_are_asked_again_when_all_stall() -> None:
    store = Stalling(*[(0, 60.0)] * 40)
    async with flying(store) as own:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(own.fetch)
        assert own.flights.asked_again == AT_ONCE_MAX


@run_virtual
async def test_a_get_is_asked_again_once() -> None:
    store = Stalling((0, 40.0), (0, inf))
    async with flying(store) as own:
        assert 40 <= await own.fetch() < 41
        assert len(store.asked) == 2


@run_virtual
async def test_an_error_of_the_second_request_leaves_the_first_one_its_time() -> None:
    for error in (Unavailable("down"), InjectedBug()):
        store = Stalling((0, 10.0), (0, 0.0))
        store.errors[1] = error
        async with flying(store) as own:
            assert 10 <= await own.fetch() < 11


@run_virtual
async def test_an_error_of_the_first_request_waits_for_the_second() -> None:
    store = Stalling((0, 10.0), (0, 10.0))
    store.errors[0] = Unavailable("down")
    async with flying(store) as own:
        assert await own.fetch() > 15
    both = Stalling((0, 10.0), (0, 10.0))
    both.errors = {0: Unavailable("first"), 1: Unavailable("second")}
    async with flying(both) as own:
        with pytest.raises(Unavailable, match="first"):
            await own.fetch()


@run_virtual
async def test_a_version_found_gone_by_the_second_request_is_gone() -> None:
    store = Stalling((0, inf))
    async with flying(store) as own:
        store.place("k", b"another")
        with pytest.raises(PreconditionFailed):
            await own.fetch()
        assert store.cancelled == [0]


@run_virtual
async def test_a_reader_that_is_cancelled_ends_both_requests() -> None:
    store = Stalling((0, inf), (100, inf))
    async with flying(store) as own:
        with trio.move_on_after(3 * MOST_SECONDS):
            await own.fetch()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(store.cancelled) == [0, 1]


def test_patience_follows_what_gets_take_within_its_limits() -> None:
    patience = Patience(most_seconds=5.0)
    assert patience.seconds == 5.0
    for _ in range(100):
        patience.took(0.01)
    assert patience.seconds == LEAST_SECONDS
    for _ in range(100):
        patience.took(1.0)
    assert 2.0 <= patience.seconds < 2.2
    for _ in range(100):
        patience.took(30.0)
    assert patience.seconds == 5.0


def test_one_in_twenty_may_be_asked_again() -> None:
    patience = Patience(most_seconds=5.0)
    assert [patience.ask_again() for _ in range(6)] == [True] * 4 + [False] * 2
    for _ in range(21):
        patience.took(0.1)
    assert [patience.ask_again() for _ in range(2)] == [True, False]
