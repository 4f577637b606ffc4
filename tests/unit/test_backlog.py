"""What is told of files that are not in the bucket yet: since when, how many bytes, how far their upload has come."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from s3mount.config import KIB, MIB
from s3mount.data.conflict import COPIES_SHOWN_MAX, Conflict, CopiesKept
from s3mount.errors import Stale, Unavailable
from s3mount.vfs.attributes import Changes
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.files import PART, created, opened, storage_on


def dirty(kernel: Kernel) -> list[tuple[str, int, float, bool]]:
    """Path, bytes, age, open: of each dirty file, the oldest first."""
    told: Any = kernel.fs.figures["dirty"]
    return [(file["path"], file["bytes"], file["seconds"], file["open"]) for file in told["files"]]


@run_virtual
async def test_the_age_is_that_of_the_first_change_that_the_bucket_lacks(tmp_path: Path) -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        await trio.sleep(3)
        await file.write(0, b"12345")
        await trio.sleep(4)
        began = trio.current_time() - 7
        assert (file.backlog.since, file.backlog.bytes) == (began, 5), "the creation is a change"
        await file.sync()
        assert (file.backlog.since, file.backlog.bytes) == (None, 0)
        await trio.sleep(10)
        await file.write(1, b"ab")
        changed = trio.current_time()
        await trio.sleep(1)
        await file.write(7, b"c")
        assert (file.backlog.since, file.backlog.bytes) == (changed, 3)
        await file.truncate(2)
        assert (file.backlog.since, file.backlog.bytes) == (changed, 1)
        await file.sync()
        assert file.backlog.since is None
        file.close()


@run_virtual
async def test_what_is_written_during_an_upload_is_younger_and_what_fails_keeps_its_age() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage, trio.open_nursery() as nursery:
        file = created(storage)
        await file.write(0, b"old")
        began = trio.current_time()

        async def slow(call: Call) -> None:
            await trio.sleep(5)

        store.before = slow
        nursery.start_soon(file.sync)
        await trio.sleep(2)
        await file.write(0, b"newer!")
        assert (file.backlog.since, file.backlog.bytes) == (began, 9)
        await trio.sleep(4)
        assert (file.backlog.since, file.backlog.bytes) == (began + 2, 6)
        store.before = None
        store.fail("put", Unavailable("503", status=503))
        with pytest.raises(Unavailable):
            await file.sync()
        assert (file.backlog.since, file.backlog.bytes) == (began + 2, 6)
        await file.sync()
        assert file.backlog.since is None
        file.close()


@run_virtual
async def test_reading_and_validating_make_no_backlog() -> None:
    store = MemoryStore()
    store.place("k", b"x" * MIB)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.read(0, 100 * KIB)
        assert (file.backlog.since, file.backlog.bytes, file.backlog.upload) == (None, 0, None)
        file.close()


@run_virtual
async def test_an_upload_by_parts_tells_how_many_are_stored_and_a_stream_that_it_is_still_written() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        piece = bytes(MIB)
        for offset in range(0, 6 * PART, MIB):
            await file.write(offset, piece)
        await trio.sleep(1)
        ahead = file.backlog.upload
        assert ahead is not None
        assert ahead.began is None
        assert ahead.parts_total is None
        assert ahead.done_bytes == ahead.parts_done * PART > 0
        seen = []

        async def look(call: Call) -> None:
            upload = file.backlog.upload
            assert upload is not None
            if upload.began is not None:
                seen.append((call.operation, upload.done_bytes, upload.parts_done, upload.parts_total))

        store.before = look
        await file.write(6 * PART, b"the end")
        await file.sync()
        assert seen[-1] == ("complete_upload", 6 * PART + 7, 7, 7)
        assert file.backlog.upload is None
        file.close()


@run_virtual
async def test_dirty_files_are_told_oldest_first_and_those_that_were_closed_too(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("old", b"12345")
    async with mounted(store, tmp_path) as kernel:
        first = await kernel.open("old", os.O_WRONLY)
        await kernel.fs.write(first, 0, b"abc")
        await trio.sleep(5)
        second = await kernel.open("new", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(second, 0, b"x")
        await trio.sleep(1)
        assert dirty(kernel) == [("old", 3, 6.0, True), ("new", 1, 1.0, True)]
        told: Any = kernel.fs.figures["dirty"]
        assert (told["bytes"], told["oldest_seconds"]) == (4, 6.0)
        store.fail("put", Unavailable("503", status=503))
        # Nobody hears of what the last release meets: it is tried again.
        await kernel.fs.release(first)
        assert [(path, held) for path, _, _, held in dirty(kernel)] == [("old", False), ("new", True)]
        await kernel.close(second)
        await trio.sleep(5)
        assert dirty(kernel) == []
        assert not kernel.fs._tree.with_files, "no file is held for what was closed"


@run_virtual
async def test_uploads_under_way_are_told_by_path_those_first_that_somebody_waits_for(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        told: list[Any] = []

        async def look(call: Call) -> None:
            if call.operation == "put":
                await trio.sleep(2)
                told.append(kernel.fs.figures["uploads"])

        store.before = look
        await kernel.write("f", b"12345")
        (uploads,) = told
        assert uploads["count"] == 1
        (upload,) = uploads["under_way"]
        assert upload == {
            "path": "f",
            "done_bytes": 0,
            "total_bytes": 5,
            "parts_done": 0,
            "parts_total": None,
            "seconds": 2.0,
            "still_written": False,
        }
        assert kernel.fs.figures["uploads"] == {"count": 0, "under_way": []}


@run_virtual
async def test_a_change_of_attributes_is_no_upload(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x")
    async with mounted(store, tmp_path) as kernel:
        counts: list[Any] = []

        async def look(_call: Call) -> None:
            counts.append(kernel.fs.figures["uploads"])

        store.before = look
        fh = await kernel.open("f", os.O_RDWR)
        await kernel.fs.setattr(await kernel.ino("f"), Changes(mode=0o100600), fh)
        await kernel.close(fh)
        await trio.sleep(5)
        assert store.counts["copy"] == 1
        assert {told["count"] for told in counts} == {0}


@run_virtual
async def test_caches_tell_what_they_could_answer(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"x" * 100)
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("d/f")
        for _ in range(3):
            await kernel.pread(fh, 0, 100)
        await kernel.close(fh)
        await kernel.listdir("d")
        await kernel.listdir("d")
        files: Any = kernel.fs.figures
        memory: Any = kernel.fs._tree.storage.figures["cache_in_memory"]
        assert memory == {"hits": 3, "misses": 0}, "the open has brought the first block"
        assert files["cache_of_names"]["misses"] >= 1
        listings = files["cache_of_listings"]
        assert listings["hits"] >= 1
        assert store.counts["list"] >= listings["misses"]
        kernel.drop_caches()
        before = files["cache_of_names"]["hits"]
        await kernel.stat("d/f")
        after: Any = kernel.fs.figures["cache_of_names"]
        assert after["hits"] > before


@run_virtual
async def test_the_copy_that_a_conflict_has_left_is_told_by_its_key(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"mine")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR)
        store.place("f", b"theirs")
        await kernel.fs.write(fh, 0, b"M")
        with pytest.raises(Stale):
            await kernel.fs.flush(fh)
        copies: Any = kernel.fs._tree.storage.figures["conflict_copies"]
        (copy,) = copies["latest"]
        assert (copies["count"], copy["key"], copy["bytes"]) == (1, "f", 4)
        assert store.body(copy["copy"]).startswith(b"M")
        await kernel.fs.release(fh)


def test_copies_of_conflicts_are_counted_and_the_latest_named() -> None:
    kept = CopiesKept()
    conflicts = [Conflict("p/", f"p/{number}", 0, "t") for number in range(COPIES_SHOWN_MAX + 2)]
    for conflict in conflicts:
        kept.note(conflict, 7)
    kept.note(conflicts[-1], 9)
    told: Any = kept.figures
    assert told["count"] == COPIES_SHOWN_MAX + 2
    assert len(told["latest"]) == COPIES_SHOWN_MAX
    assert told["latest"][-1] == {"key": conflicts[-1].origin, "copy": conflicts[-1].key, "bytes": 9}
