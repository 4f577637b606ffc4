"""The disk tier below the block cache, on the in-memory store: what is asked of the store, what befalls readers."""

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from s3mount.config import GIB, KIB, MIB
from s3mount.control.status import status_text
from s3mount.data.blocks import BlockCache
from s3mount.data.buffers import Buffers
from s3mount.data.disktier import (
    CLOSE_SECONDS,
    GATHER_SECONDS,
    LINGER_SECONDS,
    READ_SECONDS,
    REST_SECONDS,
    WRITE_SECONDS,
    DiskTier,
    RunInThread,
)
from s3mount.data.lanes import Lanes
from s3mount.data.piecefiles import PieceFiles
from s3mount.data.version import Changed, Version
from s3mount.errors import Stale
from s3mount.store.base import Headers
from tests.memory_store import MemoryStore
from tests.running import run_virtual

BLOCK = 128 * KIB
SETTLED = LINGER_SECONDS + 2 * GATHER_SECONDS


async def inline(call: Callable[[], None], _limiter: trio.CapacityLimiter) -> None:
    await trio.lowlevel.checkpoint()
    call()


@asynccontextmanager
async def mount(
    store: MemoryStore,
    directory: Path,
    *,
    limit: int = GIB,
    memory: int = 64 * MIB,
    bucket: str = "b",
    run_in_thread: RunInThread = inline,
) -> AsyncIterator[tuple[BlockCache, DiskTier]]:
    """A block cache as a mount has it, from its start to its end, at which what waits is written."""
    async with trio.open_nursery() as nursery:
        buffers = Buffers(idle_max_bytes=1 * MIB)
        files = PieceFiles(directory, limit_bytes=limit, block_bytes=BLOCK)
        tier = DiskTier(files, nursery, endpoint="e", bucket=bucket, block_bytes=BLOCK, run_in_thread=run_in_thread)
        await tier.look()
        blocks = BlockCache(
            store,
            nursery,
            buffers,
            Lanes(),
            limit_bytes=memory,
            block_bytes=BLOCK,
            get_max_bytes=2 * MIB,
            silence_max_seconds=5.0,
            disk=tier,
        )
        yield blocks, tier
        await trio.sleep(0.01)  # for GETs whose bytes have all come to end
        nursery.cancel_scope.cancel()
    assert buffers.used_bytes == blocks.used_bytes or run_in_thread is not inline, "the line gave its buffers back"
    assert not tier._line or run_in_thread is not inline


async def put(store: MemoryStore, key: str, size: int, seed: int = 0) -> tuple[Version, bytes]:
    body = random.Random(seed).randbytes(size)
    stored = await store.put(key, [body], Headers())
    store.reset_counts()
    return Version(key, stored.etag, size), body


async def read(blocks: BlockCache, version: Version) -> bytes:
    """As a reader does: the open validates, then all of it in order."""
    await blocks.validate(version)
    parts = []
    for start in range(0, version.size, MIB):
        blocks.fetch_ahead(version, start, min(start + 4 * MIB, version.size))
        parts.append(bytes(await blocks.view(version, start, min(start + MIB, version.size))))
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 16 * KIB, BLOCK, BLOCK + 1, MIB, 9 * MIB + 77])
@run_virtual
async def test_a_second_mount_asks_whether_it_changed_and_for_no_byte(tmp_path: Path, size: int) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", size)
    async with mount(store, tmp_path) as (blocks, _):
        assert await read(blocks, version) == body
    store.reset_counts()
    async with mount(store, tmp_path) as (blocks, tier):
        assert await blocks.validate(version) is None, "304"
        assert await read(blocks, version) == body
        assert tier.figures["hits"] == -(-size // BLOCK)
        assert tier.figures["misses"] == 0
    assert store.counts == {"get": 2}, "one for each open"


@run_virtual
async def test_what_has_left_memory_is_read_from_disk(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 12 * MIB)
    async with mount(store, tmp_path, memory=6 * MIB) as (blocks, tier):
        for start in range(0, 12 * MIB, MIB):
            await blocks.view(version, start, start + MIB)
            await trio.sleep(SETTLED)
        assert tier.figures["not_written"] == 0
        store.reset_counts()
        for start in range(0, 12 * MIB, MIB):
            assert bytes(await blocks.view(version, start, start + MIB)) == body[start : start + MIB]
        assert store.counts == {}


@run_virtual
async def test_only_what_is_not_on_disk_is_fetched(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 8 * MIB)
    async with mount(store, tmp_path) as (blocks, _):
        await blocks.view(version, 2 * MIB, 3 * MIB)
    store.reset_counts()
    async with mount(store, tmp_path) as (blocks, _):
        blocks.fetch_ahead(version, MIB, 4 * MIB)
        assert bytes(await blocks.view(version, MIB, 4 * MIB)) == body[MIB : 4 * MIB]
    assert sorted((call.start, call.size) for call in store.calls) == [(MIB, MIB), (3 * MIB, MIB)]


@run_virtual
async def test_a_random_block_of_a_large_piece_is_read_alone(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 8 * MIB)
    async with mount(store, tmp_path) as (blocks, _):
        await read(blocks, version)
    store.reset_counts()
    async with mount(store, tmp_path) as (blocks, _):
        assert bytes(await blocks.view(version, 5 * MIB + 7, 5 * MIB + 9)) == body[5 * MIB + 7 : 5 * MIB + 9]
        assert blocks.used_bytes == BLOCK
    assert store.counts == {}


@run_virtual
async def test_an_object_that_changed_is_never_read_from_disk(tmp_path: Path) -> None:
    store = MemoryStore()
    version, _ = await put(store, "k", 3 * MIB)
    async with mount(store, tmp_path) as (blocks, _):
        await read(blocks, version)
    newer, body = await put(store, "k", 3 * MIB, seed=1)
    async with mount(store, tmp_path) as (blocks, _):
        with pytest.raises(Changed):
            await blocks.validate(version)
        assert await read(blocks, newer) == body


@run_virtual
async def test_versions_of_another_bucket_are_others(tmp_path: Path) -> None:
    store = MemoryStore()
    version, _ = await put(store, "k", BLOCK)
    async with mount(store, tmp_path) as (blocks, _):
        await read(blocks, version)
    store.reset_counts()
    async with mount(store, tmp_path, bucket="c") as (blocks, tier):
        assert await blocks.validate(version) is not None
        assert tier.figures["hits"] == 0


@run_virtual
async def test_a_forgotten_version_is_not_read_until_the_store_has_it_again(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 2 * BLOCK)
    async with mount(store, tmp_path) as (blocks, _):
        await read(blocks, version)
        await trio.sleep(SETTLED)
        await store.delete("k")
        blocks.forget(version)
        with pytest.raises(Stale):
            await blocks.view(version, 0, 1)
        await store.put("k", [body], Headers())
        assert await read(blocks, version) == body


@run_virtual
async def test_a_damaged_file_is_fetched_anew_and_kept_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 5 * MIB)
    async with mount(store, tmp_path) as (blocks, _):
        await read(blocks, version)
    for path in (tmp_path / "blocks").glob("??/*"):
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    async with mount(store, tmp_path) as (blocks, tier):
        assert await read(blocks, version) == body
        assert tier.figures["damaged"] == 2
    assert caplog.text.count("cached piece was damaged and deleted") == 1, "rate-limited"
    store.reset_counts()
    async with mount(store, tmp_path) as (blocks, _):
        assert await read(blocks, version) == body
    assert store.counts == {"get": 1}


@run_virtual
async def test_entries_that_vanish_under_us_are_fetched(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 9 * MIB)
    async with mount(store, tmp_path) as (blocks, _):
        await read(blocks, version)
    async with mount(store, tmp_path) as (blocks, _):
        await trio.sleep(1)
        for path in (tmp_path / "blocks").glob("??/*"):
            path.unlink()
        assert await read(blocks, version) == body


@pytest.mark.parametrize("trouble", ["read-only", "open to others"])
@run_virtual
async def test_a_directory_that_takes_nothing_costs_one_line_and_no_error(
    tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    blocked = tmp_path / "blocks"
    if trouble == "read-only":
        blocked.write_bytes(b"a file: nothing can be made below it, by root neither")
    else:
        blocked.mkdir()
        blocked.chmod(0o755)
    async with mount(store, tmp_path) as (blocks, tier):
        for number in range(20):
            version, body = await put(store, str(number), 2 * BLOCK)
            assert await read(blocks, version) == body
            await trio.sleep(SETTLED)
        assert tier.figures["given_up_for_a_while"]
        assert caplog.text.count("cache on disk was given up for a while") == 1
        if trouble == "read-only":
            blocked.unlink()
        else:
            blocked.chmod(0o700)
        await trio.sleep(REST_SECONDS)
        version, body = await put(store, "later", 2 * BLOCK)
        assert await read(blocks, version) == body
        await trio.sleep(SETTLED)
        assert int(str(tier.figures["used_bytes"])) > 0, "it is tried again later"


@run_virtual
async def test_a_disk_that_hangs_is_left_alone_and_the_store_asked(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 3 * MIB)
    async with mount(store, tmp_path) as (blocks, _):
        await read(blocks, version)
    hangs = False

    async def hanging(call: Callable[[], None], _limiter: trio.CapacityLimiter) -> None:
        if hangs:
            await trio.sleep_forever()
        await inline(call, _limiter)

    async with mount(store, tmp_path, run_in_thread=hanging) as (blocks, _):
        await trio.sleep(1)
        hangs = True
        began = trio.current_time()
        assert await read(blocks, version) == body
        assert trio.current_time() - began <= 2 * READ_SECONDS
        before = trio.current_time()
        other, body = await put(store, "other", MIB)
        assert await read(blocks, other) == body
        assert trio.current_time() - before < 1


@run_virtual
async def test_a_disk_that_hangs_for_good_pins_the_memory_of_one_try(tmp_path: Path) -> None:
    store = MemoryStore()
    made = [await put(store, str(number), MIB, number) for number in range(10)]
    async with mount(store, tmp_path) as (blocks, _):
        for version, body in made:
            assert await read(blocks, version) == body
    answers = trio.Event()
    answers.set()

    async def hanging(call: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
        await answers.wait()
        await inline(call, limiter)

    async with mount(store, tmp_path, run_in_thread=hanging) as (blocks, tier):
        answers = trio.Event()
        for version, body in made[:-1]:
            assert await read(blocks, version) == body
            await trio.sleep(REST_SECONDS + 1)
        assert tier.figures["given_up_for_a_while"]
        assert blocks._buffers.used_bytes - blocks.used_bytes <= BLOCK
        answers.set()
        await trio.sleep(1)
        assert blocks._buffers.used_bytes == blocks.used_bytes
        version, body = made[-1]
        assert await read(blocks, version) == body
        assert tier.figures["hits"] == MIB // BLOCK, "it is used again once it answers"


@run_virtual
async def test_writes_that_are_given_up_give_their_memory_back_once_they_are_over(tmp_path: Path) -> None:
    store = MemoryStore()

    async def slow(call: Callable[[], None], _limiter: trio.CapacityLimiter) -> None:
        call()
        await trio.sleep(WRITE_SECONDS + 5)

    async with mount(store, tmp_path, run_in_thread=slow) as (blocks, tier):
        for number in range(5):
            version, body = await put(store, str(number), MIB, number)
            assert await read(blocks, version) == body
            await trio.sleep(SETTLED + WRITE_SECONDS + 1)
            assert tier.figures["given_up_for_a_while"]
            await trio.sleep(REST_SECONDS)
            blocks.forget(version)
            assert blocks._buffers.used_bytes == 0


@run_virtual
async def test_a_write_that_begins_after_it_was_given_up_writes_no_other_versions_bytes(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", MIB)
    other, _ = await put(store, "other", MIB, seed=1)
    async with trio.open_nursery() as threads:
        late_seconds = 0.0

        async def abandoned(call: Callable[[], None], _limiter: trio.CapacityLimiter) -> None:
            over = trio.Event()

            async def thread() -> None:
                await trio.sleep(late_seconds)
                call()
                over.set()

            threads.start_soon(thread)
            await over.wait()

        async with mount(store, tmp_path, memory=MIB, run_in_thread=abandoned) as (blocks, _):
            late_seconds = WRITE_SECONDS + 5
            await blocks.view(version, 0, MIB)
            await trio.sleep(SETTLED + WRITE_SECONDS + 1)
            await blocks.view(other, 0, MIB)
            await trio.sleep(10)
    async with mount(store, tmp_path) as (blocks, _):
        assert await read(blocks, version) == body


@run_virtual
async def test_a_disk_that_is_slow_to_write_keeps_no_memory_and_no_reader_waiting(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 24 * MIB)

    async def slow(call: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            await trio.sleep(3)
            call()

    async with mount(store, tmp_path, memory=4 * MIB, run_in_thread=slow) as (blocks, tier):
        await trio.sleep(4)
        began = trio.current_time()
        for start in range(0, 24 * MIB, MIB):
            assert bytes(await blocks.view(version, start, start + MIB)) == body[start : start + MIB]
            assert blocks.used_bytes <= 4 * MIB
            assert blocks._buffers.used_bytes <= 4 * MIB + 12 * MIB, "what one thread writes is pinned, no more"
        assert trio.current_time() - began < 3
        await trio.sleep(60)
        assert int(str(tier.figures["not_written"])) > 0


@run_virtual
async def test_a_mount_that_ends_does_not_wait_for_all_that_a_slow_disk_has_to_take(tmp_path: Path) -> None:
    store = MemoryStore()
    version, _ = await put(store, "k", 80 * MIB)

    async def slow(call: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            await trio.sleep(4)
            call()

    async with mount(store, tmp_path, memory=256 * MIB, run_in_thread=slow) as (blocks, _):
        await trio.sleep(5)
        await read(blocks, version)
        ended = trio.current_time()
    assert trio.current_time() - ended < CLOSE_SECONDS + 2 * 4 + 1


@run_virtual
async def test_small_files_are_written_together(tmp_path: Path) -> None:
    store = MemoryStore()
    threads = 0

    async def counting(call: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
        nonlocal threads
        threads += 1
        await inline(call, limiter)

    made = [await put(store, str(number), 16 * KIB, number) for number in range(300)]
    async with mount(store, tmp_path, run_in_thread=counting) as (blocks, _):
        await trio.sleep(1)
        threads = 0
        for version, body in made:
            assert await read(blocks, version) == body
        await trio.sleep(SETTLED)
        assert threads <= 3
    assert len(list((tmp_path / "blocks").glob("??/*"))) == 300


@run_virtual
async def test_small_files_are_written_together_also_after_memory_was_needed_before_its_turn(tmp_path: Path) -> None:
    store = MemoryStore()
    threads = 0

    async def counting(call: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
        nonlocal threads
        threads += 1
        await inline(call, limiter)

    made = [await put(store, str(number), 16 * KIB, number) for number in range(300)]
    async with mount(store, tmp_path, run_in_thread=counting) as (blocks, tier):
        for number in range(2):
            large, _ = await put(store, f"large{number}", 31 * BLOCK)
            await read(blocks, large)
            await trio.sleep(0.01)
            blocks.forget(large)
            await trio.sleep(SETTLED)
        assert int(str(tier.figures["not_written"])) > 0
        threads = 0
        for version, body in made:
            assert await read(blocks, version) == body
            await trio.sleep(0.001)
        await trio.sleep(SETTLED)
        assert threads <= 3


@run_virtual
async def test_what_another_mount_keeps_is_found_without_a_restart(tmp_path: Path) -> None:
    store = MemoryStore()
    version, body = await put(store, "k", 2 * MIB)
    async with mount(store, tmp_path) as (blocks, tier):
        await trio.sleep(1)
        async with mount(store, tmp_path) as (others, _):
            await read(others, version)
        await trio.sleep(60)
        tier.believes(version, 0)  # who misses something has the directory looked at
        await trio.sleep(1)
        store.reset_counts()
        assert await read(blocks, version) == body
        assert store.counts == {"get": 1}, "304"


@run_virtual
async def test_the_limit_is_kept_whatever_is_read(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mount(store, tmp_path, limit=3 * MIB) as (blocks, tier):
        for number in range(30):
            version, body = await put(store, str(number), random.Random(number).choice([1, BLOCK, MIB, 2 * MIB]))
            assert await read(blocks, version) == body
            await trio.sleep(SETTLED)
            assert sum(path.stat().st_size for path in (tmp_path / "blocks").glob("??/*")) <= 3 * MIB
        assert tier.figures["not_written"] == 0
        words = status_text({"storage": {"cache_on_disk": tier.figures}})
        assert "cache on disk" in words
        assert "max bytes 3145728 (3.0 MiB), hits 0, misses " in words
    assert os.listdir(tmp_path) == ["blocks"]
