"""The block cache on the in-memory store: what is fetched how often, how much stays, what a reader sees of errors."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from s3mount.config import KIB, MIB
from s3mount.data.blocks import RUN_BYTES, BlockCache
from s3mount.data.buffers import Buffers
from s3mount.data.lanes import Lanes
from s3mount.data.version import Changed, Version
from s3mount.errors import Stale, Unavailable
from s3mount.store.base import Headers, ObjectInfo
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.files import InjectedBug

BLOCK = 128 * KIB


@asynccontextmanager
async def cache(store: MemoryStore, *, limit: int = 8 * MIB) -> AsyncIterator[BlockCache]:
    async with trio.open_nursery() as nursery:
        buffers = Buffers(idle_max_bytes=1 * MIB)
        blocks = BlockCache(
            store,
            nursery,
            buffers,
            Lanes(),
            limit_bytes=limit,
            block_bytes=BLOCK,
            get_max_bytes=2 * MIB,
            silence_max_seconds=5.0,
        )
        yield blocks
        await trio.testing.wait_all_tasks_blocked()
        assert blocks._in_flight_bytes == 0
        assert blocks.used_bytes <= limit
        assert buffers.used_bytes == blocks.used_bytes, "every other buffer went back"


async def put(store: MemoryStore, key: str, body: bytes) -> Version:
    stored = await store.put(key, [body], Headers())
    return Version(key, stored.etag, len(body))


def bytes_of(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


@run_virtual
async def test_many_readers_of_one_block_send_one_get() -> None:
    store = MemoryStore(latency_seconds=0.1)
    body = bytes_of(3 * BLOCK)[: 3 * BLOCK]
    version = await put(store, "k", body)
    store.reset_counts()
    async with cache(store) as blocks:

        async def read() -> None:
            assert bytes(await blocks.view(version, 10, 500)) == body[10:500]

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
        assert store.counts["get"] == 1
        assert bytes(blocks.peek(version, 0, BLOCK) or b"") == body[:BLOCK]
        assert blocks.peek(version, BLOCK, BLOCK + 1) is None


@run_virtual
async def test_a_read_across_runs_is_joined_and_only_what_is_missing_is_fetched() -> None:
    store = MemoryStore()
    body = bytes_of(5 * MIB)[: 5 * MIB]
    version = await put(store, "k", body)
    async with cache(store) as blocks:
        await blocks.view(version, 3 * BLOCK, 6 * BLOCK)
        store.reset_counts()
        assert bytes(await blocks.view(version, BLOCK + 7, 9 * BLOCK)) == body[BLOCK + 7 : 9 * BLOCK]
        assert [(call.start, call.size) for call in store.calls] == [(BLOCK, 2 * BLOCK), (6 * BLOCK, 3 * BLOCK)]


@run_virtual
async def test_two_missing_ranges_with_a_small_gap_are_one_get() -> None:
    store = MemoryStore()
    body = bytes_of(5 * MIB)[: 5 * MIB]
    version = await put(store, "k", body)
    async with cache(store, limit=2 * MIB) as blocks:
        await blocks.view(version, 3 * BLOCK, 3 * BLOCK + 1)
        store.reset_counts()
        assert bytes(await blocks.view(version, BLOCK + 7, 6 * BLOCK)) == body[BLOCK + 7 : 6 * BLOCK]
        assert [(call.start, call.size) for call in store.calls] == [(BLOCK, 5 * BLOCK)]
        # Whichever of the two that have the block between leaves first, the other's blocks stay.
        for start in range(8 * BLOCK, 40 * BLOCK, BLOCK):
            await blocks.view(version, start, start + BLOCK)
            assert bytes(await blocks.view(version, 2 * BLOCK, 5 * BLOCK)) == body[2 * BLOCK : 5 * BLOCK]
        blocks.forget(version)
        assert blocks.used_bytes == 0


@run_virtual
async def test_bytes_that_were_fetched_ahead_and_never_read_are_counted() -> None:
    store = MemoryStore()
    version = await put(store, "k", bytes_of(4 * MIB)[: 4 * MIB])
    async with cache(store, limit=2 * MIB) as blocks:
        assert blocks.fetch_ahead(version, 0, 1 * MIB)
        await trio.testing.wait_all_tasks_blocked()
        assert blocks.figures | {"asked_again": 0} == {
            "fetched_bytes": MIB,
            "unread_bytes": MIB,
            "wasted_bytes": 0,
            "asked_again": 0,
        }
        blocks.peek(version, 0, 100)
        await blocks.view(version, 100, 2 * BLOCK)
        await blocks.read_into(version, 2 * BLOCK, memoryview(bytearray(BLOCK)))
        assert blocks.figures["unread_bytes"] == MIB - 3 * BLOCK
        await blocks.view(version, 2 * MIB, 4 * MIB)
        assert (blocks.figures["unread_bytes"], blocks.figures["wasted_bytes"]) == (0, MIB - 3 * BLOCK)
        blocks.forget(version)
        assert blocks.figures["wasted_bytes"] == MIB - 3 * BLOCK, "what was asked for is no waste, read or not"


@run_virtual
async def test_bytes_are_usable_before_their_get_has_ended() -> None:
    store = MemoryStore(piece_bytes=64 * KIB)
    version = await put(store, "k", bytes_of(2 * MIB)[: 2 * MIB])
    ended = False

    async def slow_end(call: Call) -> None:
        nonlocal ended
        if call.operation == "get":
            await trio.sleep(5)
            ended = True

    store.after = slow_end
    async with cache(store) as blocks:
        assert blocks.fetch_ahead(version, 0, 2 * MIB)
        await blocks.view(version, BLOCK, 2 * BLOCK)
        assert not ended
        await trio.sleep(6)
    assert ended


@run_virtual
async def test_memory_stays_within_the_limit_and_the_least_recently_used_goes() -> None:
    store = MemoryStore()
    size = 4 * MIB
    version = await put(store, "k", bytes_of(size)[:size])
    async with cache(store, limit=1 * MIB) as blocks:
        for number in range(size // BLOCK):
            await blocks.view(version, number * BLOCK, (number + 1) * BLOCK)
            assert blocks.used_bytes <= MIB
            assert blocks.peek(version, 0, 1) is not None, "used again and again, it stays"


@run_virtual
async def test_readers_wait_for_memory_instead_of_exceeding_it() -> None:
    store = MemoryStore(latency_seconds=1)
    version = await put(store, "k", bytes_of(8 * MIB)[: 8 * MIB])
    async with cache(store, limit=1 * MIB) as blocks:
        most = 0

        async def read(number: int) -> None:
            nonlocal most
            start = number * 3 * BLOCK
            assert len(await blocks.view(version, start, start + 2 * BLOCK)) == 2 * BLOCK
            most = max(most, blocks.used_bytes)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(read, number)
        assert most <= MIB


@run_virtual
async def test_a_small_object_takes_its_own_size_and_one_get() -> None:
    store = MemoryStore()
    version = await put(store, "k", b"small")
    async with cache(store) as blocks:
        store.reset_counts()
        await blocks.validate(version)
        assert bytes(blocks.peek(version, 0, 5) or b"") == b"small"
        assert blocks.used_bytes == 5
        assert store.counts == {"get": 1}
        received = store.received_bytes
        await blocks.validate(version)
        assert store.received_bytes == received, "the second open asks on condition"


@run_virtual
async def test_validation_tells_of_another_version_and_has_its_first_block() -> None:
    store = MemoryStore()
    version = await put(store, "k", b"old")
    async with cache(store) as blocks:
        await blocks.validate(version)
        newer = await put(store, "k", b"something new")
        with pytest.raises(Changed) as caught:
            await blocks.validate(version)
        assert caught.value.info is not None
        assert caught.value.info.etag == newer.etag
        assert bytes(blocks.peek(newer, 0, 13) or b"") == b"something new"
        empty = await put(store, "k", b"")
        with pytest.raises(Changed) as caught:
            await blocks.validate(newer)
        assert caught.value.info is not None
        assert caught.value.info.size == 0
        store.reset_counts()
        await blocks.validate(empty)
        assert store.counts == {"head": 1}
        await store.delete("k")
        for known in (newer, empty):
            with pytest.raises(Changed) as caught:
                await blocks.validate(known)
            assert caught.value.info is None


@run_virtual
async def test_a_version_that_is_gone_is_stale_never_mixed() -> None:
    store = MemoryStore()
    version = await put(store, "k", bytes_of(MIB)[:MIB])
    async with cache(store) as blocks:
        await blocks.view(version, 0, 1)
        await put(store, "k", bytes(MIB))
        with pytest.raises(Stale):
            await blocks.view(version, 100, 4 * BLOCK)
        with pytest.raises(Stale):
            await blocks.view(version, BLOCK, BLOCK + 1)


@run_virtual
async def test_an_error_reaches_all_who_wait_and_the_next_read_asks_again() -> None:
    store = MemoryStore(latency_seconds=0.1)
    version = await put(store, "k", bytes_of(MIB)[:MIB])
    errors = []
    async with cache(store) as blocks:
        store.fail("get", Unavailable("down"))

        async def read() -> None:
            try:
                await blocks.view(version, 0, MIB)
            except Unavailable as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
        assert len(errors) == 3
        assert len(await blocks.view(version, 0, MIB)) == MIB


@run_virtual
async def test_a_reader_that_is_cancelled_takes_nothing_from_those_who_joined_it() -> None:
    store = MemoryStore(latency_seconds=1)
    version = await put(store, "k", bytes_of(BLOCK)[:BLOCK])
    async with cache(store) as blocks, trio.open_nursery() as nursery:

        async def impatient() -> None:
            with trio.move_on_after(0.5):
                await blocks.view(version, 0, 10)

        async def patient() -> None:
            assert len(await blocks.view(version, 0, 10)) == 10

        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(patient)


@run_virtual
async def test_who_was_woken_for_memory_and_needs_none_wakes_the_next() -> None:
    store = MemoryStore(latency_seconds=1)
    versions = {key: await put(store, key, bytes(BLOCK)) for key in "abcd"}
    async with cache(store, limit=2 * BLOCK) as blocks:
        done: list[str] = []

        async def read(key: str) -> None:
            await blocks.view(versions[key], 0, 10)
            done.append(key)

        with trio.move_on_after(100):
            async with trio.open_nursery() as nursery:
                for key in "cdaaab":
                    nursery.start_soon(read, key)
                    await trio.sleep(0.1)
        assert sorted(done) == list("aaabcd"), blocks


@run_virtual
async def test_an_open_that_was_woken_for_memory_wakes_the_next_before_its_answer_has_come() -> None:
    store = MemoryStore(latency_seconds=1)
    versions = {key: await put(store, key, bytes(4 * BLOCK)) for key in ("large", "opened", "read")}

    async def slow(call: Call) -> None:
        if call.key == "opened":
            await trio.sleep(100)

    store.after = slow
    async with cache(store, limit=4 * BLOCK) as blocks, trio.open_nursery() as nursery:
        nursery.start_soon(blocks.view, versions["large"], 0, 4 * BLOCK)
        await trio.sleep(0.1)
        nursery.start_soon(blocks.validate, versions["opened"])
        await trio.sleep(0.1)
        with trio.fail_after(10):
            await blocks.view(versions["read"], 0, 10)


@run_virtual
async def test_who_waits_for_much_memory_is_not_overtaken_for_ever_by_who_needs_little() -> None:
    store = MemoryStore(latency_seconds=1)
    large = await put(store, "large", bytes(6 * BLOCK))
    small = await put(store, "small", bytes(4000 * BLOCK))
    async with cache(store, limit=1 * MIB) as blocks, trio.open_nursery() as nursery:

        async def read_on(first: int) -> None:
            for number in range(first, 4000, 8):
                await blocks.view(small, number * BLOCK, number * BLOCK + 1)

        for first in range(8):
            nursery.start_soon(read_on, first)
            await trio.sleep(0.1)
        with trio.fail_after(20):
            await blocks.view(large, 0, 6 * BLOCK)
        nursery.cancel_scope.cancel()


@run_virtual
async def test_very_small_objects_count_for_what_it_takes_to_keep_them() -> None:
    store = MemoryStore()
    async with cache(store, limit=1 * MIB) as blocks:
        for number in range(3000):
            await blocks.validate(await put(store, str(number), b"ten bytes."))
        assert len(blocks._complete) * RUN_BYTES < 1.1 * MIB
        assert len(blocks._complete) > 600


class Unconditional(MemoryStore):
    """A store that ignores If-Match."""

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
        return await super().get(key, start, into, if_none_match=if_none_match, version_id=version_id, arrived=arrived)


@run_virtual
async def test_another_version_is_stale_even_where_the_store_ignores_conditions() -> None:
    store = Unconditional()
    version = await put(store, "k", bytes_of(BLOCK)[:BLOCK])
    await put(store, "k", bytes(2 * BLOCK))
    longer = replace(version, etag=store.objects["k"].etag, size=3 * BLOCK)
    async with cache(store) as blocks:
        for asked in (version, longer):
            with pytest.raises(Stale):
                await blocks.view(asked, 0, BLOCK)
            assert blocks.fetch_ahead(asked, 0, 2 * BLOCK)
            await trio.testing.wait_all_tasks_blocked()
            assert blocks.peek(asked, 0, 1) is None
        assert blocks.used_bytes == 0


@run_virtual
@pytest.mark.parametrize("ahead", [False, True])
async def test_a_bug_in_a_fetch_fails_its_readers_and_not_the_mount(
    *, ahead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(latency_seconds=1)
    version = await put(store, "k", bytes_of(MIB)[:MIB])
    async with cache(store) as blocks:
        store.fail("get", InjectedBug())
        if ahead:
            assert blocks.fetch_ahead(version, 0, MIB)
        with pytest.raises(Unavailable):
            await blocks.view(version, 0, MIB if ahead else 10)
        assert len(await blocks.view(version, 0, MIB)) == MIB
    assert [record.exc_info is not None for record in caplog.records] == [True]


@run_virtual
async def test_an_error_that_several_get_keeps_its_code_and_status() -> None:
    store = MemoryStore(latency_seconds=1)
    version = await put(store, "k", bytes_of(BLOCK)[:BLOCK])
    async with cache(store) as blocks:
        store.fail("get", Unavailable("down", code="SlowDown", status=503))
        with pytest.raises(Unavailable) as caught:
            await blocks.view(version, 0, 10)
        assert (caught.value.code, caught.value.status) == ("SlowDown", 503)
        assert isinstance(caught.value.__cause__, Unavailable)
