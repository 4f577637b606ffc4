"""`s3mount refresh`: whatever told of what is below the path, listing, walk or HEAD, the next look asks the store."""

import os
from pathlib import Path

import pytest
import trio

from s3mount.errors import Stale
from s3mount.store.base import Headers
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual

FLAG = ".s3mount-attrs"
WALKED = 4
DIRECTORIES = 12


def bucket() -> MemoryStore:
    store = MemoryStore()
    for number in range(DIRECTORIES):
        store.place(f"t/d{number:02}/sub/f", b"x")
    return store


async def walk(kernel: Kernel) -> None:
    """So far that the walk has told of directories that nobody has asked for."""
    await kernel.listdir("t")
    for number in range(WALKED):
        await kernel.listdir(f"t/d{number:02}")
        await kernel.listdir(f"t/d{number:02}/sub")
    assert "t/d09/sub/" in kernel.fs._tree.listings.shelf._shelved


@run_virtual
@pytest.mark.parametrize("path", [b"", b"t", b"t/d09", b"t/d09/sub", b"t/d09/sub/other"])
async def test_what_a_walk_told_of_directories_that_nobody_has_asked_for_is_forgotten(
    tmp_path: Path, path: bytes
) -> None:
    store = bucket()
    async with mounted(store, tmp_path, metadata_ttl_seconds=600.0) as kernel:
        await walk(kernel)
        store.place("t/d09/sub/other", b"elsewhere")
        await kernel.fs.refresh(path)
        kernel.expire()
        assert await kernel.listdir("t/d09/sub") == ["f", "other"]


@run_virtual
async def test_what_a_walk_told_beside_the_path_stays(tmp_path: Path) -> None:
    store = bucket()
    async with mounted(store, tmp_path, metadata_ttl_seconds=600.0) as kernel:
        await walk(kernel)
        await kernel.fs.refresh(b"t/d09")
        store.reset_counts()
        await kernel.listdir("t/d11/sub")
        assert [call for call in store.calls if call.operation != "list" or "t/d11" in call.key] == []


@run_virtual
@pytest.mark.parametrize("path", [b"", b"t", b"t/d09", b"t/d09/sub"])
async def test_what_a_page_on_its_way_tells_is_not_believed(tmp_path: Path, path: bytes) -> None:
    store = bucket()
    async with mounted(store, tmp_path, metadata_ttl_seconds=600.0) as kernel:

        async def change(call: Call) -> None:
            if kernel.fs._tree.listings.shelf._requests and "t/d09/sub/other" not in store.objects:
                store.place("t/d09/sub/other", b"elsewhere")
                await kernel.fs.refresh(path)

        store.after = change
        await kernel.listdir("t")
        for number in range(WALKED):
            await kernel.listdir(f"t/d{number:02}")
            await kernel.listdir(f"t/d{number:02}/sub")
        assert "t/d09/sub/other" in store.objects, "a walk has asked"
        kernel.expire()
        assert await kernel.listdir("t/d09/sub") == ["f", "other"]


def theirs(mode: int) -> Headers:
    return Headers(metadata={"mode": str(mode)})


@run_virtual
@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("path", [b"", b"d", b"d/f"])
async def test_attributes_that_may_have_changed_within_their_second_are_asked_for(
    tmp_path: Path, path: bytes, forgotten: bool
) -> None:
    """The same bytes stored twice in a second look alike: only what is settled is believed for good."""
    store = MemoryStore()
    store.placed_seconds_ago = 0
    store.place(f"d/{FLAG}")
    store.place(FLAG)
    first = store.place("d/f", b"x", theirs(0o100600))
    async with mounted(store, tmp_path, metadata_ttl_seconds=600.0) as kernel:
        assert (await kernel.stat("d/f")).mode == 0o100600
        store.place("d/f", b"x", theirs(0o100640), last_modified_ns=first.last_modified_ns)
        await trio.sleep(1)
        for looked in range(2):
            if forgotten:
                kernel.drop_caches()
            kernel.expire()
            await kernel.listdir("d")
            if not looked:
                assert (await kernel.stat("d/f")).mode == 0o100600, "believed as long as a lifetime"
                await kernel.fs.refresh(path)
        assert (await kernel.stat("d/f")).mode == 0o100640


@run_virtual
@pytest.mark.parametrize("path", [b"", b"d", b"d/e"])
async def test_attributes_of_directories_that_the_kernel_has_forgotten_are_asked_for(
    tmp_path: Path, path: bytes
) -> None:
    store = MemoryStore()
    store.place("d/e/f", b"x")
    for prefix in ("", "d/"):
        store.place(prefix + FLAG)
    store.place(f"d/e/{FLAG}", b"", theirs(0o040700))
    async with mounted(store, tmp_path, metadata_ttl_seconds=600.0) as kernel:
        assert (await kernel.stat("d/e")).mode == 0o040700
        store.place(f"d/e/{FLAG}", b"", theirs(0o040711))
        kernel.drop_caches()
        await kernel.fs.refresh(path)
        assert (await kernel.stat("d/e")).mode == 0o040711


@run_virtual
async def test_settled_attributes_of_the_version_that_is_still_there_are_not_asked_for_again(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place(FLAG)
    for number in range(5):
        store.place(f"f{number}", b"x", theirs(0o100600))
    async with mounted(store, tmp_path) as kernel:
        for number in range(5):
            await kernel.stat(f"f{number}")
        await kernel.fs.refresh(b"")
        kernel.expire()
        store.reset_counts()
        for name in await kernel.listdir():
            assert (await kernel.stat(name)).mode == 0o100600
        assert dict(store.counts) == {"list": 1}


@run_virtual
@pytest.mark.parametrize("path", [b"", b"t/f"])
async def test_a_version_that_waits_for_a_repeated_open_is_forgotten(tmp_path: Path, path: bytes) -> None:
    store = MemoryStore()
    store.place("t/f", b"first")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("t/f")
        store.place("t/f", b"second")
        with pytest.raises(Stale):
            await kernel.fs.open(ino, os.O_RDONLY)
        store.place("t/f", b"the third")
        await kernel.fs.refresh(path)
        kernel.expire()
        assert await kernel.read("t/f") == b"the third"
