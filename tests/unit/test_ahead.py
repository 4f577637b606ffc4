"""The next page is asked for while this one is told: what that costs, and that nothing is told twice or left out."""

import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from s3mount.errors import Unavailable
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual

LATENCY_SECONDS = 1.0


def bucket(count: int, *, page_max: int = 100) -> MemoryStore:
    store = MemoryStore(page_max=page_max)
    for number in range(count):
        store.place(f"t/f{number:05}", b"x")
    return store


def names_of(store: MemoryStore) -> list[str]:
    return [key[2:] for key in store.keys("t/")]


async def read_slowly(kernel: Kernel, batch: int, seconds: float) -> AsyncGenerator[list[str], None]:
    """Batches of names; the reader thinks so long about each."""
    ino = await kernel.ino("t")
    fh = await kernel.fs.opendir(ino)
    position = 0
    try:
        while True:
            told, position = await kernel.getdents(fh, ino, position, batch)
            if not told:
                return
            yield [name.decode() for name, _ in told if name not in (b".", b"..")]
            await trio.sleep(seconds)
    finally:
        kernel.fs.releasedir(fh)


@run_virtual
async def test_the_store_works_while_the_reader_does(tmp_path: Path) -> None:
    """Ten pages of one second each, read in two seconds each: only the first page is waited for, and part of the second
    one."""
    store = bucket(1000)
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("t")
        store.reset_counts()
        store.latency_seconds = LATENCY_SECONDS
        began = trio.current_time()
        told = [name async for batch in read_slowly(kernel, 50, 1.0) for name in batch]
        assert told == names_of(store)
        assert store.counts == {"list": 10}
        assert trio.current_time() - began <= 1 + 21 + 1


@run_virtual
async def test_who_reads_one_reply_has_cost_one_page(tmp_path: Path) -> None:
    store = bucket(1000)
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("t")
        store.reset_counts()
        async with aclosing(read_slowly(kernel, 50, 1.0)) as batches:
            assert len(await anext(batches)) == 48
        await trio.sleep(10)
        assert store.counts == {"list": 1}


@run_virtual
async def test_who_stops_has_cost_one_page_too_many_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store = bucket(1000)
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("t")
        store.reset_counts()
        store.latency_seconds = LATENCY_SECONDS
        async with aclosing(read_slowly(kernel, 50, 0.0)) as batches:
            await anext(batches)
            await anext(batches)
        kernel.drop_caches()  # before the page is there
        await trio.sleep(10)
        assert store.counts == {"list": 2}
        assert kernel.fs._tree.listings.names <= 2  # the mount's root


@run_virtual
async def test_a_page_ahead_that_fails_is_asked_for_again_by_who_needs_it(tmp_path: Path) -> None:
    store = bucket(300)
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("t")
        store.fail("list", Unavailable("slow"), key="t/", skip=1)
        assert await kernel.listdir("t", batch=30) == names_of(store)
        store.fail("list", Unavailable("slow"), key="t/", skip=1, times=2)
        kernel.drop_caches()
        await trio.sleep(100)
        with pytest.raises(Unavailable):
            await kernel.listdir("t", batch=30)


@run_virtual
async def test_pages_that_are_known_and_good_for_the_reading_are_not_asked_for_again(tmp_path: Path) -> None:
    """They are older than --metadata-ttl by the time the reader comes to them, and were not when it began."""
    store = bucket(300)
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.listdir("t") == names_of(store)
        store.reset_counts()
        await trio.sleep(4)
        told = [name async for batch in read_slowly(kernel, 50, 1.0) for name in batch]
        assert told == names_of(store)
        assert not store.counts


@run_virtual
async def test_nothing_is_asked_ahead_where_it_would_push_out_what_is_read(tmp_path: Path) -> None:
    store = bucket(500)
    async with mounted(store, tmp_path, listed_names_max=1000) as kernel:
        ino = await kernel.ino("t")
        handles = [await kernel.fs.opendir(ino) for _ in range(3)]
        store.reset_counts()
        told, position = await kernel.getdents(handles[0], ino, 0, 50)
        await kernel.getdents(handles[0], ino, position, 10)
        await trio.sleep(1)
        assert store.counts == {"list": 1}
        for fh in handles:
            kernel.fs.releasedir(fh)
        assert len(told) == 50


@pytest.mark.parametrize("seed", range(8))
@run_virtual
async def test_what_exists_throughout_is_told_once_whatever_changes_while_pages_are_on_their_way(
    tmp_path: Path, seed: int
) -> None:
    """Files are created, deleted, renamed, here and by another client, before and after each reply is made."""
    draw = random.Random(seed)
    store = bucket(600, page_max=draw.choice([7, 40, 100]))
    stay = {f"f{number:05}" for number in range(0, 600, 2)}
    gone: set[str] = set()
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("t")
        busy = False

        async def change(call: Call) -> None:
            nonlocal busy
            if call.operation != "list" or busy or draw.random() < 0.3:
                return
            busy = True
            name = f"f{draw.randrange(1, 600, 2):05}"
            new = f"f{draw.randrange(600):05}-{draw.randrange(1000)}"
            await kernel.write(f"t/{new}", b"new")
            if name not in gone and f"t/{name}" in store.objects:
                gone.add(name)
                if draw.random() < 0.5:
                    await kernel.unlink(f"t/{name}")
                else:
                    await kernel.rename(f"t/{name}", f"t/{name}-moved")
            store.place(f"t/other{draw.randrange(1000)}", b"other")
            busy = False

        store.before = store.after = change
        for _ in range(3):
            told = [name async for batch in read_slowly(kernel, draw.randrange(3, 60), 0.1) for name in batch]
            assert len(told) == len(set(told))
            assert stay <= set(told)
        store.before = store.after = None
        await trio.sleep(61)
        assert sorted(await kernel.listdir("t")) == names_of(store)


@run_virtual
async def test_a_directory_that_moves_while_its_next_page_is_on_its_way_is_told_whole(tmp_path: Path) -> None:
    store = bucket(300)
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("t")
        moved = False

        async def move(call: Call) -> None:
            nonlocal moved
            if call.operation == "list" and call.key == "t/" and not moved and len(kernel.dentries) > 60:
                moved = True
                await kernel.rename("t", "u")

        names = names_of(store)
        store.after = move
        told = [name async for batch in read_slowly(kernel, 50, 0.1) for name in batch]
        assert moved
        assert told == names


@run_virtual
async def test_names_with_the_same_remainder_get_different_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a prime as small as 7 nearly all names have one that is taken, or is none of an inode."""
    monkeypatch.setattr("s3mount.vfs.inodes.NUMBERS", 7)
    async with mounted(bucket(100), tmp_path) as kernel:
        told = {name: attributes.ino async for name, attributes in kernel.scan("t")}
        assert len(set(told.values())) == 100
        assert {name: attributes.ino async for name, attributes in kernel.scan("t")} == told
