"""Opens that come while another operation stores, drops or removes the file; pages that never end."""

import os
from pathlib import Path

import pytest
import trio

from s3mount.config import MIB
from s3mount.errors import FileSystemError, FileTooBig, NoEntry, NoSuchBucket, Unavailable
from tests.kernel_model import mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual


@pytest.mark.parametrize("stored", [False, True])
@run_virtual
async def test_a_file_opened_for_writing_while_it_is_unlinked_is_gone(tmp_path: Path, stored: bool) -> None:
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("f")
        handles: list[int] = []

        async def open_it(call: Call) -> None:
            if call.operation == "delete":
                store.before = store.after = None
                handles.append(await kernel.fs.open(ino, os.O_WRONLY | os.O_TRUNC))
                if stored:
                    await kernel.fs.write(handles[0], 0, b"early")
                    await kernel.fs.flush(handles[0])

        if stored:
            store.after = open_it
        else:
            store.before = open_it
        await kernel.unlink("f")
        await kernel.fs.write(handles[0], 0, b"orphan")
        await kernel.close(handles[0])
        assert store.keys() == []
        assert await kernel.listdir() == []


@run_virtual
async def test_a_retry_of_a_file_that_was_stored_leaves_the_next_ones_bytes_alone(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        down = True

        async def before(call: Call) -> None:
            if call.operation == "put" and down:
                raise Unavailable("down")

        store.before = before
        await kernel.write("f", b"")  # of an empty file only RELEASE stores, whose failure nobody is told
        await trio.sleep(40)
        down = False
        fh = await kernel.open("f", os.O_WRONLY)
        await kernel.fs.write(fh, 0, b"one")
        await kernel.close(fh)
        assert store.body("f") == b"one"
        down = True
        fh = await kernel.open("f", os.O_WRONLY)
        await kernel.fs.flush(fh)
        await kernel.fs.write(fh, 0, b"two")  # as mmap does, after the last FLUSH
        await kernel.fs.release(fh)
        await trio.sleep(100)
        down = False
        await trio.sleep(200)
        assert store.body("f") == b"two"


@pytest.mark.parametrize("background", [False, True])
@run_virtual
async def test_bytes_that_cannot_be_stored_stay_for_a_writer_who_came_meanwhile(
    tmp_path: Path, background: bool
) -> None:
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("f")
        fh = await kernel.open("f", os.O_WRONLY)
        await kernel.fs.flush(fh)
        await kernel.fs.write(fh, 0, b"mmap")
        handles: list[int] = []

        async def before(call: Call) -> None:
            if call.operation == "put":
                store.before = None
                handles.append(await kernel.fs.open(ino, os.O_WRONLY))
                await kernel.fs.write(handles[0], 0, b"NEWER")
                raise NoSuchBucket("gone")

        if background:
            store.fail("put", Unavailable("500", status=500))
            await kernel.fs.release(fh)
            store.before = before
            await trio.sleep(10)
        else:
            store.before = before
            await kernel.fs.release(fh)
        await kernel.close(handles[0])
        assert store.body("f") == b"NEWER"


@run_virtual
async def test_a_file_with_a_write_refused_at_the_stop_is_not_stored(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"old-old-old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY)
        await kernel.fs.write(fh, 0, b"NEW")
        kernel.fs.refuse_writes()
        with pytest.raises(FileSystemError):
            await kernel.fs.write(fh, 8, b"NEW")
        with pytest.raises(FileSystemError):
            await kernel.close(fh)
        assert store.body("f") == b"old-old-old"


@run_virtual
async def test_after_a_write_that_was_refused_the_path_has_another_inode(tmp_path: Path) -> None:
    """The kernel keeps the size that the refused write was to make, also when nothing else was written."""
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path, file_size_max_bytes=5 * MIB) as kernel:
        former = await kernel.ino("f")
        fh = await kernel.open("f", os.O_WRONLY)
        with pytest.raises(FileTooBig):
            await kernel.fs.write(fh, 5 * MIB, b"beyond")
        assert kernel.fs.paths_not_stored() == ["f"]
        with pytest.raises(FileTooBig):
            await kernel.close(fh)
        kernel.expire()
        assert await kernel.ino("f") != former
        assert await kernel.read("f") == b"old"
        assert kernel.fs.paths_not_stored() == []


@run_virtual
async def test_two_writers_that_open_a_file_which_another_client_has_just_removed_write_to_one_file(
    tmp_path: Path,
) -> None:
    """The first one's look lets go of the inode while the second one still looks."""
    store = MemoryStore(latency_seconds=0.1)
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        await kernel.stat("f")
        store.remove("f")

        async def look() -> None:
            with pytest.raises(NoEntry):
                await kernel.open("f", os.O_RDWR)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await trio.sleep(0.05)
            fh = await kernel.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        assert kernel.fs._handles.get(fh).inode.linked
        await kernel.fs.write(fh, 0, b"new")
        await kernel.rename("f", "g")
        await kernel.close(fh)
    assert {key: store.body(key) for key in store.objects} == {"g": b"new"}
