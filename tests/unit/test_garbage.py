"""Python's looks for cyclic garbage: what is new when there is much of it, everything once an hour."""

import gc
from collections.abc import Iterator

import pytest
import trio

from s3mount import garbage
from s3mount.store.replies import forget_parsed, parse_date_ns
from tests.running import run_virtual


class Cycle:
    def __init__(self, gone: list[int]) -> None:
        self.itself = self
        self.gone = gone

    def __del__(self) -> None:
        self.gone.append(1)


def many() -> list[list[int]]:
    return [[number] for number in range(garbage.YOUNG_OBJECTS * garbage.YOUNG_LOOKS * 15)]


@pytest.fixture
def looks() -> Iterator[list[float]]:
    """When everything that is not frozen was looked at."""
    full: list[float] = []

    def watch(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            full.append(trio.current_time())

    before = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(watch)
    yield full
    gc.callbacks.remove(watch)
    gc.unfreeze()
    assert gc.get_threshold() == before


@run_virtual
async def test_all_objects_are_looked_at_when_many_were_made_and_only_then(looks: list[float]) -> None:
    gone: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(garbage.collect)
        await trio.sleep(1)
        Cycle(gone)
        kept = many()
        assert looks == []
        await trio.sleep(200)
        assert len(looks) == 1
        assert looks[0] == garbage.INTERVAL_SECONDS
        assert gone
        assert len(kept) > 0
        nursery.cancel_scope.cancel()


@run_virtual
async def test_what_was_looked_at_is_passed_over_until_an_hour_has_gone(looks: list[float]) -> None:
    gone: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(garbage.collect)
        await trio.sleep(1)
        cycle: Cycle | None = Cycle(gone)
        kept = many()
        await trio.sleep(10)
        assert len(looks) == 1
        assert not any(found is kept for found in gc.get_objects())
        assert cycle is not None
        cycle = None
        kept = many()
        await trio.sleep(10)
        assert len(looks) == 2
        assert not gone
        await trio.sleep(garbage.THAW_SECONDS)
        assert len(looks) == 2
        kept = many()
        await trio.sleep(10)
        assert len(looks) == 3
        assert gone
        nursery.cancel_scope.cancel()


@run_virtual
async def test_caches_are_emptied_when_much_was_given_up_and_only_then() -> None:
    emptied: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(garbage.collect, lambda: emptied.append(trio.current_time()))
        kept = [object() for _ in range(2 * garbage.SHRUNK_BLOCKS)]
        await trio.sleep(100)
        del kept[garbage.SHRUNK_BLOCKS * 3 // 2 :]
        await trio.sleep(100)
        assert emptied == []
        await trio.sleep(1)
        begun = trio.current_time()
        del kept[1000:]
        await trio.sleep(100)
        assert emptied == [begun - 1 + garbage.INTERVAL_SECONDS]
        nursery.cancel_scope.cancel()


def test_what_was_parsed_is_forgotten_and_parsed_again() -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    first = parse_date_ns(date)
    assert parse_date_ns.cache_info().currsize > 0
    garbage.give_back(forget_parsed)
    assert parse_date_ns.cache_info().currsize == 0
    assert parse_date_ns(date) == first
    gc.unfreeze()
