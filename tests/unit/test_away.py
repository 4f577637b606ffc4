"""While a store that acknowledges changes is away, what was known goes on being believed, and nothing waits."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount.errors import Exists, NotEmpty, Unavailable
from s3mount.vfs.listings import AWAY_SECONDS
from tests.journaling_store import JournalingStore
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call
from tests.running import run_virtual


@asynccontextmanager
async def after_a_listing(
    tmp_path: Path, *, names: int = 5, ttl_seconds: float = 5.0
) -> AsyncIterator[tuple[Kernel, JournalingStore]]:
    """A mount that has listed `d` a long time ago, `other` never, and whose store is away."""
    store = JournalingStore()
    for number in range(names):
        store.place(f"d/{number:04}", b"x")
    store.place("d/sub/file", b"x")
    store.place("other/file", b"x")
    async with mounted(store, tmp_path, metadata_ttl_seconds=ttl_seconds, negative_ttl_seconds=ttl_seconds) as kernel:
        await kernel.listdir("d")
        await kernel.stat("other")
        await trio.sleep(600)
        store.away = True
        store.reset_counts()
        yield kernel, store


@run_virtual
async def test_a_directory_that_was_listed_is_listed_and_looked_into_for_as_long_as_it_takes(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        began = trio.current_time()
        for _ in range(3):
            kernel.expire()
            assert await kernel.listdir("d") == ["0000", "0001", "0002", "0003", "0004", "sub"]
            assert (await kernel.stat("d/0003")).size == 1
            assert not await kernel.exists("d/none")
            await trio.sleep(3600)
        assert trio.current_time() == began + 3 * 3600, "nothing has waited"
        assert store.reads == 0


@run_virtual
async def test_a_directory_of_many_pages_is_listed_from_what_is_known(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path, names=2500) as (kernel, store):
        kernel.expire()
        assert len(await kernel.listdir("d")) == 2501
        assert store.reads == 0


@run_virtual
async def test_what_nobody_has_looked_at_is_an_error_at_once(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, _):
        began = trio.current_time()
        for path in ("other", "d/sub"):
            with pytest.raises(Unavailable):
                await kernel.listdir(path)
            with pytest.raises(Unavailable):
                await kernel.stat(f"{path}/file")
        with pytest.raises(Unavailable):
            await kernel.read("d/0000")
        assert trio.current_time() == began


@run_virtual
async def test_files_are_made_renamed_and_deleted_in_a_directory_that_was_listed(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        began = trio.current_time()
        await kernel.write("d/new", b"new")
        assert await kernel.read("d/new") == b"new"
        await kernel.rename("d/new", "d/moved")
        await kernel.rename("d/moved", "d/0001")
        await kernel.rename("d/0002", "d/two", no_replace=True)
        with pytest.raises(Exists):
            await kernel.rename("d/0003", "d/two", no_replace=True)
        await kernel.unlink("d/0000")
        await trio.sleep(100)
        kernel.expire()
        assert await kernel.listdir("d") == ["0001", "0003", "0004", "sub", "two"]
        assert await kernel.read("d/0001") == b"new"
        for gone in ("new", "moved", "0000", "0002"):
            assert not await kernel.exists(f"d/{gone}")
        assert trio.current_time() == began + 100
        assert store.keys("d/") == ["d/0001", "d/0003", "d/0004", "d/sub/file", "d/two"]


@run_virtual
async def test_a_tree_is_made_and_taken_away_again(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        began = trio.current_time()
        await kernel.mkdir("d/a")
        await kernel.mkdir("d/a/b")
        await kernel.write("d/a/b/file", b"deep")
        await trio.sleep(100)
        kernel.expire()
        assert await kernel.listdir("d/a") == ["b"]
        assert await kernel.listdir("d/a/b") == ["file"]
        assert await kernel.read("d/a/b/file") == b"deep"
        assert not await kernel.exists("d/a/b/none")
        with pytest.raises(NotEmpty):
            await kernel.rmdir("d/a")
        await kernel.unlink("d/a/b/file")
        await kernel.rmdir("d/a/b")
        await kernel.rmdir("d/a")
        kernel.expire()
        assert not await kernel.exists("d/a")
        assert store.keys("d/a") == []
        assert trio.current_time() == began + 100


@run_virtual
async def test_the_last_file_of_a_directory_without_a_marker_leaves_one(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path, names=1) as (kernel, store):
        await kernel.rename("d/0000", "0000")
        assert store.keys("d/") == ["d/sub/file"]
        with pytest.raises(Unavailable):
            await kernel.rmdir("d/sub")
    store = JournalingStore()
    store.place("e/only", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("e")
        await trio.sleep(600)
        store.away = True
        await kernel.unlink("e/only")
        assert store.keys() == ["e/"]
        await kernel.rmdir("e")
        assert store.keys() == []


@run_virtual
async def test_a_file_with_attributes_of_its_own_is_shown_and_made(tmp_path: Path) -> None:
    store = JournalingStore()
    async with mounted(store, tmp_path) as kernel:
        await kernel.mkdir("d", 0o700)
        await touched(kernel, "d/secret", 0o600)
        await trio.sleep(600)
        kernel.expire()
        assert (await kernel.stat("d/secret")).mode & 0o777 == 0o600
        await kernel.listdir("d")
        await trio.sleep(600)
        store.away = True
        kernel.expire()
        store.reset_counts()
        assert (await kernel.stat("d/secret")).mode & 0o777 == 0o600
        assert (await kernel.stat("d")).mode & 0o777 == 0o700
        assert store.reads == 0
        await touched(kernel, "d/another", 0o640)
        kernel.expire()
        assert (await kernel.stat("d/another")).mode & 0o777 == 0o640


async def touched(kernel: Kernel, path: str, mode: int) -> None:
    await kernel.close(await kernel.open(path, os.O_WRONLY | os.O_CREAT, mode))


@run_virtual
async def test_the_kernel_asks_again_every_second(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path, ttl_seconds=300.0) as (kernel, _):
        await trio.sleep(1)
        kernel.expire()
        above = await kernel.ino("d")
        assert (await kernel.fs.lookup(above, b"0000")).entry_seconds == AWAY_SECONDS
        absent = await kernel.fs.lookup(above, b"none")
        assert (absent.ino, absent.entry_seconds) == (0, AWAY_SECONDS)
        told = {name: attributes.entry_seconds async for name, attributes in kernel.scan("d")}
        assert set(told.values()) == {AWAY_SECONDS}


@run_virtual
async def test_when_the_outage_ends_knowledge_expires_as_ever(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        await kernel.write("d/new", b"new")
        kernel.expire()
        assert not await kernel.exists("d/foreign")
        store.place("d/foreign", b"another client's")
        store.remove("d/0000")
        assert not await kernel.exists("d/foreign")
        store.away = False
        await trio.sleep(AWAY_SECONDS)
        assert await kernel.exists("d/foreign")
        assert not await kernel.exists("d/0000")
        assert await kernel.listdir("d") == ["0001", "0002", "0003", "0004", "foreign", "new", "sub"]


@run_virtual
async def test_who_was_asking_when_the_outage_was_noticed_is_told_what_was_known(tmp_path: Path) -> None:
    store = JournalingStore()
    store.place("d/file", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("d")
        above = await kernel.ino("d")
        await trio.sleep(600)
        kernel.expire()
        noticed = trio.Event()

        async def silent(call: Call) -> None:
            await noticed.wait()
            raise Unavailable("nothing is heard")

        store.before = silent
        names: list[str] = []

        async def look() -> None:
            assert (await kernel.fs.lookup(above, b"file")).size == 1

        async def miss() -> None:
            assert (await kernel.fs.lookup(above, b"none")).ino == 0

        async def read() -> None:
            fh = await kernel.fs.opendir(above)

            def emit(name: bytes, *_: object) -> bool:
                names.append(name.decode())
                return True

            await kernel.fs.readdir(fh, 0, emit)
            kernel.fs.releasedir(fh)

        async with trio.open_nursery() as nursery:
            for action in (look, miss, read):
                nursery.start_soon(action)
                await trio.testing.wait_all_tasks_blocked()
            assert store.reads, "each has asked"
            store.away = True
            noticed.set()
        assert names == [".", "..", "file"]


@run_virtual
async def test_a_store_that_does_not_acknowledge_has_no_outage_that_old_knowledge_outlasts(tmp_path: Path) -> None:
    store = JournalingStore()
    store.place("d/file", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("d")
        await trio.sleep(600)
        kernel.expire()
        store.fail("head", Unavailable("503"), times=100)
        store.fail("list", Unavailable("503"), times=100)
        for path in ("d/file", "d/none"):
            with pytest.raises(Unavailable):
                await kernel.stat(path)
        with pytest.raises(Unavailable):
            await kernel.listdir("d")


@run_virtual
async def test_what_the_kernel_forgets_in_an_outage_is_known_when_it_asks_again(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        await kernel.mkdir("d/fresh")
        await kernel.write("d/fresh/new", b"x")
        kernel.drop_caches()
        assert (await kernel.stat("d/fresh/new")).size == 1
        assert not await kernel.exists("d/fresh/none")
        kernel.drop_caches()
        await kernel.unlink("d/0000")
        await kernel.rename("d/fresh/new", "d/new")
        await kernel.rmdir("d/fresh")
        kernel.drop_caches()
        assert await kernel.listdir("d") == ["0001", "0002", "0003", "0004", "new", "sub"]
        assert store.keys("d/fresh") == []
        kernel.drop_caches()
        shelf = kernel.fs._tree.listings.shelf
        assert len(shelf) == 1
        await trio.sleep(600)
        assert len(shelf) == 1
        store.away = False
        await trio.sleep(600)
        assert not len(shelf), "what is too old is swept once the outage is over"


@run_virtual
async def test_a_file_that_was_stored_here_is_found_by_its_name_alone(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        with pytest.raises(Unavailable):
            await kernel.stat("other/file")
        store.changed.add("other/file")  # and its store describes it: it waits, or has arrived not long ago
        assert (await kernel.stat("other/file")).size == 1
        with pytest.raises(Unavailable):
            await kernel.write("other/new", b"its absence is not known")


@run_virtual
async def test_a_directory_is_renamed_when_all_that_is_in_it_is_known(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        began = trio.current_time()
        await kernel.mkdir("d/draft")
        await kernel.mkdir("d/draft/deep")
        for name in ("d/draft/a", "d/draft/deep/b"):
            await kernel.write(name, name.encode())
        await trio.sleep(100)
        kernel.expire()
        await kernel.rename("d/draft", "d/final")
        kernel.expire()
        assert await kernel.listdir("d/final") == ["a", "deep"]
        assert await kernel.listdir("d/final/deep") == ["b"]
        assert not await kernel.exists("d/final/deep/none")
        assert await kernel.read("d/final/deep/b") == b"d/draft/deep/b"
        assert not await kernel.exists("d/draft")
        moved = ["d/final/", "d/final/a", "d/final/deep/", "d/final/deep/b"]
        assert [key for key in store.keys("d/") if "final" in key or "draft" in key] == moved
        assert trio.current_time() == began + 100


@run_virtual
async def test_a_directory_of_which_not_all_is_known_stays_where_it_is(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        before = store.keys()
        for name in ("d", "other"):
            with pytest.raises(Unavailable):
                await kernel.rename(name, "elsewhere")
        assert store.keys() == before
        kernel.expire()
        assert await kernel.listdir("d") == ["0000", "0001", "0002", "0003", "0004", "sub"]
        assert not await kernel.exists("elsewhere")


@run_virtual
async def test_directories_that_were_looked_through_in_vain_are_not_kept(tmp_path: Path) -> None:
    async with after_a_listing(tmp_path) as (kernel, store):
        store.away = False
        for number in range(5):
            store.place(f"d/sub{number}/file", b"x")
        await kernel.listdir("d")
        ino = await kernel.ino("d")
        store.away = True
        inodes = kernel.fs._inodes
        for child in list(inodes.get(ino).dentries.values()):
            kernel.fs.forget([(child.ino, kernel.lookups.pop(child.ino))])
        kernel.dentries.clear()
        before = len(inodes._table)
        with pytest.raises(Unavailable):
            await kernel.rename("d", "elsewhere")
        assert len(inodes._table) == before
