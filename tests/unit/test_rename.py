"""Rename of files and directories over copy and delete."""

import os
from pathlib import Path

import pytest
import trio

from s3mount.errors import Exists, Invalid, IsADirectory, LostReply, NotADirectory, NotEmpty, Unavailable
from s3mount.store.base import Headers
from tests.kernel_model import mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual

HEADERS = Headers(content_type="text/x-mine", metadata={"who": "me"})


def costs(store: MemoryStore) -> dict[str, int]:
    counted = dict(store.counts)
    store.reset_counts()
    return counted


@run_virtual
async def test_mv_of_a_file_costs_a_copy_and_a_delete_and_keeps_number_and_headers(tmp_path: Path) -> None:
    """B5"""
    store = MemoryStore()
    store.place("f", b"content", HEADERS)
    store.place("d/", b"")
    async with mounted(store, tmp_path) as kernel:
        before = await kernel.stat("f")
        await kernel.rename("f", "g")
        assert costs(store) == {"copy": 1, "delete": 1}
        after = await kernel.stat("g")
        assert (after.ino, after.mtime_ns, after.size) == (before.ino, before.mtime_ns, 7)
        await trio.sleep(10)
        assert (await kernel.stat("g")).ino == before.ino
        assert await kernel.listdir() == ["d", "g"]
        await kernel.rename("g", "d/g")
        assert await kernel.read("d/g") == b"content"
        assert store.keys() == ["d/", "d/g"]
        assert store.objects["d/g"].headers == HEADERS


@run_virtual
async def test_mv_onto_an_existing_file_replaces_it_and_never_removes_the_name(tmp_path: Path) -> None:
    """B2"""
    store = MemoryStore()
    store.place("f", b"new")
    store.place("target", b"old")
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("target")
        await kernel.rename("f", "target")
        deleted = [call.key for call in store.calls if call.operation == "delete"]
        assert deleted == ["f"]
        assert await kernel.read("target") == b"new"
        assert await kernel.pread(reader, 0, 100) == b"old"
        await kernel.close(reader)
        assert store.body("target") == b"new"
        assert await kernel.listdir() == ["target"]


@run_virtual
async def test_a_dirty_target_that_was_replaced_is_never_stored(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"new")
    async with mounted(store, tmp_path) as kernel:
        writer = await kernel.open("target", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(writer, 0, b"dirty")
        await kernel.rename("f", "target")
        await kernel.close(writer)
        assert store.body("target") == b"new"
        assert store.keys() == ["target"]


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("target_exists", [False, True])
@run_virtual
async def test_mv_of_a_file_still_open_for_writing(tmp_path: Path, synced: bool, target_exists: bool) -> None:
    """B5"""
    store = MemoryStore()
    if target_exists:
        store.place("target", b"old")
    async with mounted(store, tmp_path) as kernel:
        writer = await kernel.open("tmp", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        await kernel.fs.write(writer, 0, b"first ")
        if synced:
            await kernel.fs.fsync(writer)
        await kernel.rename("tmp", "target")
        assert not await kernel.exists("tmp")
        await kernel.fs.write(writer, 6, b"second")
        assert await kernel.read("target") == b"first second"
        await kernel.close(writer)
        assert store.keys() == ["target"]
        assert store.body("target") == b"first second"
        assert await kernel.listdir() == ["target"]


@run_virtual
async def test_a_file_whose_last_handle_goes_while_it_is_moved_is_moved(tmp_path: Path) -> None:
    """The kernel sends RELEASE when it likes: also in the middle of a RENAME."""
    store = MemoryStore()
    store.place("f", b"content")
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        reader = await kernel.open("f")
        store.latency_seconds = 1.0
        nursery.start_soon(kernel.rename, "f", "g")
        await trio.sleep(0.5)
        await kernel.close(reader)
        await trio.sleep(5)
        assert await kernel.read("g") == b"content"
        assert store.keys() == ["g"]


@run_virtual
async def test_a_file_that_is_opened_while_it_is_moved_is_read_under_its_new_name(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"content" * 100_000)
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        ino = await kernel.ino("f")
        store.latency_seconds = 1.0
        nursery.start_soon(kernel.rename, "f", "g")
        await trio.sleep(0.1)
        reader = await kernel.fs.open(ino, os.O_RDONLY)
        await trio.sleep(5)
        assert bytes(await kernel.fs.read(reader, 600_000, 7)) == (b"content" * 100_000)[600_000:600_007]
        await kernel.fs.release(reader)
        assert await kernel.read("g") == b"content" * 100_000


@run_virtual
async def test_a_failed_copy_leaves_the_source_and_no_target(tmp_path: Path) -> None:
    """A3"""
    store = MemoryStore()
    store.place("f", b"content")
    async with mounted(store, tmp_path) as kernel:
        store.fail("copy", Unavailable("InternalError", status=200))
        with pytest.raises(Unavailable):
            await kernel.rename("f", "g")
        assert store.keys() == ["f"]
        assert await kernel.listdir() == ["f"]
        assert await kernel.read("f") == b"content"


@pytest.mark.parametrize("again", [False, True])
@run_virtual
async def test_a_move_of_an_open_file_that_lost_its_last_reply_loses_no_byte_and_is_no_conflict(
    tmp_path: Path, again: bool
) -> None:
    """The old object is gone, the copy is there, and mv has failed: both names are good for going on."""
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(fh, 3, b", new")
        store.fail("delete", LostReply("lost"), when="after")
        with pytest.raises(LostReply):
            await kernel.rename("f", "g")
        assert store.keys() == ["g"]
        assert bytes(await kernel.fs.read(fh, 0, 100)) == b"old, new"
        if again:
            await kernel.rename("f", "g")
        await kernel.close(fh)
        assert store.body("g" if again else "f") == b"old, new"
        assert store.keys() == (["g"] if again else ["f", "g"])


@run_virtual
async def test_an_unlink_after_a_move_that_lost_its_last_reply_leaves_the_copy_alone(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR)
        store.fail("delete", LostReply("lost"), when="after")
        with pytest.raises(LostReply):
            await kernel.rename("f", "g")
        await kernel.unlink("f")
        await kernel.close(fh)
        assert store.keys() == ["g"]


@run_virtual
async def test_an_open_file_whose_unlink_lost_its_reply_is_stored_anew_without_a_conflict(tmp_path: Path) -> None:
    """rm has failed, so the name is there."""
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR)
        store.fail("delete", LostReply("lost"), when="after")
        with pytest.raises(LostReply):
            await kernel.unlink("f")
        await kernel.fs.write(fh, 3, b", new")
        await kernel.close(fh)
        assert store.body("f") == b"old, new"


@run_virtual
async def test_mv_of_a_file_changed_elsewhere_moves_the_new_content(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"one")
    async with mounted(store, tmp_path) as kernel:
        await kernel.stat("f")
        store.place("f", b"two, longer")
        await kernel.rename("f", "g")
        assert store.keys() == ["g"]
        assert await kernel.read("g") == b"two, longer"


@run_virtual
async def test_noreplace_sees_a_target_that_no_listing_has_told_yet(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"one")
    async with mounted(store, tmp_path) as kernel:
        assert not await kernel.exists("g")
        store.place("g", b"foreign")
        with pytest.raises(Exists):
            await kernel.rename("f", "g", no_replace=True)
        with pytest.raises(Exists):
            await kernel.rename("f", "g", no_replace=True)
        await kernel.rename("f", "h", no_replace=True)
        assert store.keys() == ["g", "h"]


@run_virtual
async def test_kinds_that_do_not_match_are_refused_as_posix_says(tmp_path: Path) -> None:
    store = MemoryStore()
    for key in ("f", "d/", "full/x"):
        store.place(key, b"")
    async with mounted(store, tmp_path) as kernel:
        with pytest.raises(IsADirectory):
            await kernel.rename("f", "d")
        with pytest.raises(NotADirectory):
            await kernel.rename("d", "f")
        with pytest.raises(NotEmpty):
            await kernel.rename("d", "full")
        with pytest.raises(Invalid):
            await kernel.rename("full", "full/x2")
        await kernel.rename("f", "f")
        assert store.keys() == ["d/", "f", "full/x"]


@run_virtual
async def test_the_last_file_moved_out_of_an_implicit_directory_leaves_the_directory(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d/f", "f")
        assert store.keys() == ["d/", "f"]
        assert await kernel.listdir("d") == []


@run_virtual
async def test_mv_of_a_directory_moves_all_that_is_below(tmp_path: Path) -> None:
    """B6"""
    store = MemoryStore()
    store.place("d/", b"")
    for number in range(1235):
        store.place(f"d/s{number % 7}/f{number}", str(number).encode())
    async with mounted(store, tmp_path) as kernel:
        inside = await kernel.stat("d/s1/f1")
        fresh = await kernel.open("d/new", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fresh, 0, b"unsaved")
        dirty = await kernel.open("d/s1/f8", os.O_WRONLY | os.O_APPEND)
        await kernel.fs.write(dirty, 1, b" and more")
        await kernel.rename("d", "e")
        assert store.keys("d/") == []
        assert not await kernel.exists("d")
        assert (await kernel.stat("e/s1/f1")).ino == inside.ino
        await kernel.close(fresh)
        await kernel.close(dirty)
        assert store.body("e/new") == b"unsaved"
        assert store.body("e/s1/f8") == b"8 and more"
        assert len(store.keys("e/")) == 1235 + 2
        assert len(await kernel.listdir("e/s1")) == len([n for n in range(1235) if n % 7 == 1])
        await trio.sleep(10)
        for number in range(0, 1235, 100):
            if number != 8:
                assert await kernel.read(f"e/s{number % 7}/f{number}") == str(number).encode()
        await kernel.mkdir("d")
        assert await kernel.listdir() == ["d", "e"]


@run_virtual
async def test_a_directory_move_that_fails_leaves_the_source_whole_and_no_copies(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(50):
        store.place(f"d/f{number}", b"x")
    before = store.keys()
    async with mounted(store, tmp_path) as kernel:
        store.fail("copy", Unavailable("500", status=500), skip=30)
        with pytest.raises(Unavailable):
            await kernel.rename("d", "e")
        assert store.keys() == before
        assert len(await kernel.listdir("d")) == 50
        assert not await kernel.exists("e")


@run_virtual
async def test_a_directory_move_that_lost_the_reply_of_a_copy_leaves_no_copy(tmp_path: Path) -> None:
    store = MemoryStore()
    for key in ("d/", "d/f", "d/g"):
        store.place(key, b"content" if key[-1] != "/" else b"")
    async with mounted(store, tmp_path) as kernel:
        for lost in ("e/f", "e/"):
            store.fail("copy" if lost == "e/f" else "put", LostReply("lost"), when="after", key=lost)
            with pytest.raises(LostReply):
                await kernel.rename("d", "e")
            assert store.keys() == ["d/", "d/f", "d/g"]
            await trio.sleep(10)
        await kernel.rename("d", "e")
        assert store.keys() == ["e/", "e/f", "e/g"]


@run_virtual
async def test_mv_of_a_directory_onto_an_empty_one_replaces_it(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"x")
    store.place("e/", b"")
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d", "e")
        assert await kernel.listdir("e") == ["f"]
        assert await kernel.listdir() == ["e"]
        await kernel.mkdir("empty")
        await kernel.rename("empty", "moved")
        assert await kernel.listdir() == ["e", "moved"]
        assert store.body("moved/") == b""
