"""Open files whose name goes: what they show stays, is never stored, and leaves nothing (A10, DESIGN section 5)."""

import logging
import os
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from s3mount.config import MIB, Config
from s3mount.data.journal import Journal
from s3mount.data.leftovers import Leftovers
from s3mount.data.orphans import LATE_SECONDS
from s3mount.data.version import Version
from s3mount.errors import (
    AccessDenied,
    BadReply,
    Busy,
    ClockSkew,
    LostReply,
    NotImplementedByStore,
    Stale,
    StoreError,
    Unavailable,
)
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.paper import PaperInMemory
from tests.running import run_virtual
from tests.unit.files import created, opened, pattern, storage_on

LARGE = pattern(20 * MIB, 1)
SMALL = pattern(3 * MIB, 2)
ORPHANS = ".s3mount/orphans/"


def bucket(**bodies: bytes) -> MemoryStore:
    store = MemoryStore()
    for key, body in bodies.items():
        store.place(key, body)
    store.upload_log = Journal(PaperInMemory())
    return store


def journal(store: MemoryStore) -> Journal:
    assert isinstance(store.upload_log, Journal)
    return store.upload_log


async def settled() -> None:
    """What goes on in the background is done."""
    await trio.sleep(10)


async def remove(kernel: Kernel, how: str) -> None:
    """Take the name `f` from its file."""
    await (kernel.unlink("f") if how == "unlink" else kernel.rename("other", "f"))


HOW = pytest.mark.parametrize("how", ["unlink", "rename over"])


@HOW
@run_virtual
async def test_a_large_open_file_is_read_to_the_end_after_its_name_has_gone(tmp_path: Path, how: str) -> None:
    store = bucket(f=LARGE, other=b"new")
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        await kernel.ino("other")
        store.reset_counts()
        await remove(kernel, how)
        copies = [call for call in store.calls if call.operation == "copy" and call.key.startswith(ORPHANS)]
        assert len(copies) == 1
        assert store.counts["get"] == store.counts["list_uploads"] == 0
        assert await kernel.pread(reader, 0, 1 << 30) == LARGE
        assert await kernel.listdir() == (["other"] if how == "unlink" else ["f"])
        assert len(journal(store)) == 1
        await kernel.close(reader)
        await settled()
        assert not store.keys(ORPHANS)
        assert len(journal(store)) == 0


@HOW
@run_virtual
async def test_a_name_that_goes_while_nobody_has_the_file_open_costs_no_copy(tmp_path: Path, how: str) -> None:
    store = bucket(f=LARGE, other=b"new")
    async with mounted(store, tmp_path) as kernel:
        await kernel.close(await kernel.open("f"))
        await kernel.ino("other")
        store.reset_counts()
        await remove(kernel, how)
        assert store.counts == ({"delete": 1} if how == "unlink" else {"copy": 1, "delete": 1})


@run_virtual
async def test_an_open_file_that_needs_nothing_of_its_object_costs_no_copy(tmp_path: Path) -> None:
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path) as kernel:
        truncated = await kernel.open("f", os.O_RDWR | os.O_TRUNC)
        await kernel.fs.write(truncated, 0, LARGE)
        await kernel.fs.fsync(truncated)
        await kernel.fs.write(truncated, 0, LARGE[::-1])
        store.reset_counts()
        await kernel.unlink("f")
        assert store.counts == {"delete": 1}
        assert await kernel.pread(truncated, 0, 1 << 30) == LARGE[::-1]
        await kernel.close(truncated)


@HOW
@run_virtual
async def test_a_file_that_only_waits_to_be_stored_costs_no_copy(tmp_path: Path, how: str) -> None:
    store = bucket(f=LARGE, other=b"new")
    async with mounted(store, tmp_path) as kernel:
        writer = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(writer, 5, b"edit")
        store.fail("upload_part", Unavailable("503"), times=1000)
        await kernel.fs.release(writer)
        await remove(kernel, how)
        assert not [call for call in store.calls if call.operation == "copy" and call.key.startswith(ORPHANS)]
        await trio.sleep(200)
        assert store.keys() == (["other"] if how == "unlink" else ["f"])
        assert store.body(store.keys()[0]) == b"new"


@HOW
@run_virtual
async def test_a_small_open_file_is_taken_into_staging_without_a_copy(tmp_path: Path, how: str) -> None:
    store = bucket(f=SMALL, other=b"new")
    async with mounted(store, tmp_path) as kernel:
        both = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(both, 5, b"written before")
        await remove(kernel, how)
        await kernel.fs.write(both, len(SMALL), b"written after")
        expected = SMALL[:5] + b"written before" + SMALL[19:] + b"written after"
        assert await kernel.pread(both, 0, 1 << 30) == expected
        assert not store.keys(ORPHANS)
        await kernel.close(both)
        assert store.keys() == (["other"] if how == "unlink" else ["f"])


@HOW
@run_virtual
async def test_writes_before_and_after_stay_over_the_copy_and_are_never_stored(tmp_path: Path, how: str) -> None:
    """A10: no object, no error, no leftover key."""
    store = bucket(f=LARGE, other=b"new")
    async with mounted(store, tmp_path) as kernel:
        both = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(both, 5, b"before")
        await remove(kernel, how)
        await kernel.fs.write(both, 19 * MIB, b"after")
        await kernel.ftruncate(both, len(LARGE) - 100)
        await kernel.fs.fsync(both)
        expected = bytearray(LARGE[:-100])
        expected[5:11], expected[19 * MIB : 19 * MIB + 5] = b"before", b"after"
        assert await kernel.pread(both, 0, 1 << 30) == expected
        await kernel.close(both)
        await settled()
        assert store.keys() == (["other"] if how == "unlink" else ["f"])
        assert store.counts["put"] == store.counts["create_upload"] == 0


@pytest.mark.parametrize("moment", range(0, 60, 4))
@HOW
@run_virtual
async def test_a_name_that_goes_during_the_upload_of_an_edit_leaves_the_edited_file_readable(
    tmp_path: Path, how: str, moment: int
) -> None:
    store = bucket(f=LARGE, other=b"new")
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        both = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(both, 7 * MIB, b"edited")
        await kernel.ino("other")
        store.latency_seconds = 10.0
        nursery.start_soon(kernel.fs.fsync, both)
        await trio.sleep(moment)
        await remove(kernel, how)
        store.latency_seconds = 0.0
        expected = LARGE[: 7 * MIB] + b"edited" + LARGE[7 * MIB + 6 :]
        assert await kernel.pread(both, 0, 1 << 30) == expected
        await kernel.close(both)
        await trio.sleep(100)
        assert store.keys() == (["other"] if how == "unlink" else ["f"])
        assert not store.uploads
        assert len(journal(store)) == 0


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@HOW
@run_virtual
async def test_a_removal_that_fails_leaves_the_file_as_it_was(tmp_path: Path, how: str, body: bytes) -> None:
    store = bucket(f=body, other=b"new")
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        if how == "unlink":
            store.fail("delete", Unavailable("503"), key="f")
        else:
            store.fail("copy", Unavailable("503"), key="f")
        with pytest.raises(Unavailable):
            await remove(kernel, how)
        assert await kernel.pread(reader, 0, 1 << 30) == body
        await kernel.close(reader)
        await settled()
        assert store.keys() == ["f", "other"]
        assert store.body("f") == body
        assert store.counts["put"] == store.counts["create_upload"] == 0
        await remove(kernel, how)
        assert store.keys() == (["other"] if how == "unlink" else ["f"])
        assert len(journal(store)) == 0


@pytest.mark.parametrize("refusal", [AccessDenied("no", status=403), NotImplementedByStore("no", status=501)])
@HOW
@run_virtual
async def test_a_copy_that_is_refused_costs_the_content_and_one_line(
    tmp_path: Path, how: str, refusal: StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    store = bucket(f=LARGE, other=b"new")
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        await kernel.ino("other")
        store.fail("copy", refusal)
        await remove(kernel, how)
        assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]
        assert "key='f'" in caplog.text
        assert bytes(await kernel.fs.read(reader, 0, 100)) == LARGE[:100], "what was read is here"
        with pytest.raises(Stale):
            await kernel.fs.read(reader, 10 * MIB, 100)
        await kernel.close(reader)
        assert store.keys() == (["other"] if how == "unlink" else ["f"])
        await trio.sleep(LATE_SECONDS + 10)
        assert len(journal(store)) == 0


@run_virtual
async def test_an_open_file_that_another_client_has_changed_is_left_there_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        store.place("f", b"another client's")
        await kernel.unlink("f")
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert warnings == ["unlink left an object that another client had changed key='f'"]
        assert store.keys() == ["f"]
        assert len(journal(store)) == 0
        with pytest.raises(Stale):
            await kernel.fs.read(reader, 10 * MIB, 100)
        await kernel.close(reader)


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@HOW
@run_virtual
async def test_nothing_is_kept_for_handles_that_cannot_read(tmp_path: Path, how: str, body: bytes) -> None:
    """As `rm` of a log that is being written: what the kernel reads to fill a page is shown to nobody."""
    store = bucket(f=body, other=b"new")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("f")
        writer = await kernel.open("f", os.O_WRONLY)
        await kernel.ino("other")
        store.reset_counts()
        await remove(kernel, how)
        assert store.counts == ({"delete": 1} if how == "unlink" else {"copy": 1, "delete": 1})
        assert len(await kernel.fs.read(writer, len(body) - 5000, 8192)) == 5000
        await kernel.fs.write(writer, len(body) - 10, b"over the end of the file")
        await kernel.fs.fsync(writer)
        for flags in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(Stale):
                await kernel.fs.open(ino, flags)
        another = await kernel.fs.open(ino, os.O_WRONLY)
        await kernel.close(another)
        await kernel.close(writer)
        assert store.keys() == (["other"] if how == "unlink" else ["f"])


@run_virtual
async def test_a_reader_that_comes_while_the_name_goes_sees_no_zeros(tmp_path: Path) -> None:
    for moment in range(0, 30, 3):
        store = bucket(f=LARGE)
        (tmp_path / str(moment)).mkdir()
        async with mounted(store, tmp_path / str(moment)) as kernel, trio.open_nursery() as nursery:
            ino = await kernel.ino("f")
            writer = await kernel.open("f", os.O_WRONLY)
            store.latency_seconds = 10.0
            nursery.start_soon(kernel.unlink, "f")
            await trio.sleep(moment)
            with suppress(Stale):
                reader = await kernel.fs.open(ino, os.O_RDONLY)
                try:
                    await trio.sleep(50)
                    assert bytes(await kernel.fs.read(reader, MIB, 100)) == LARGE[MIB : MIB + 100]
                finally:
                    await kernel.close(reader)
            await kernel.close(writer)


@run_virtual
async def test_what_one_request_cannot_copy_goes_with_its_name_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path, copy_max_bytes=20 * MIB - 1) as kernel:
        reader = await kernel.open("f")
        store.reset_counts()
        await kernel.unlink("f")
        assert store.counts == {"delete": 1}
        assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]
        assert "--copy-limit" in caplog.text
        with pytest.raises(Stale):
            await kernel.fs.read(reader, 10 * MIB, 100)
        await kernel.close(reader)


@run_virtual
async def test_staged_bases_have_a_share_of_staging_and_the_others_are_copied() -> None:
    store = MemoryStore()
    for key in "abcd":
        store.place(key, SMALL)
    async with storage_on(store, limit=64 * MIB) as storage:
        files = [opened(storage, store, key) for key in "abcd"]
        copied = []
        for file in files:
            file.expect_returns()
            store.reset_counts()
            await file.unlink()
            copied.append(store.counts["copy"])
            assert bytes(await file.read(0, 100)) == SMALL[:100]
            if file is files[2]:
                files[0].close()
        assert copied == [0, 0, 1, 0], "two of 3 MiB are in 8 MiB"
        for file in files:
            file.close()
        assert storage.orphans._staged_bytes == 0


@run_virtual
async def test_a_copy_whose_reply_was_lost_is_deleted(tmp_path: Path) -> None:
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        store.fail("copy", LostReply("no reply"), when="after")
        await kernel.unlink("f")
        await settled()
        assert not store.keys()
        assert len(journal(store)) == 1, "it may appear again"
        await trio.sleep(LATE_SECONDS + 10)
        assert len(journal(store)) == 0
        await kernel.close(reader)


@pytest.mark.parametrize(
    "answer", [LostReply("no reply"), BadReply("cut"), AccessDenied("403"), ClockSkew("403"), None]
)
@run_virtual
async def test_a_copy_that_appears_late_is_deleted(tmp_path: Path, answer: StoreError | None) -> None:
    """The server goes on with a request that nobody waits for any more; None: the unlink was cancelled."""
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        if answer is None:
            store.latency_seconds = 10.0
            with trio.move_on_after(5):
                await kernel.unlink("f")
            store.latency_seconds = 0.0
        else:
            store.fail("copy", answer)
            await kernel.unlink("f")
        [key] = [call.key for call in store.calls if call.operation == "copy"]
        for seconds in (100, LATE_SECONDS - 200):
            await trio.sleep(seconds)
            assert len(journal(store)) == 1
            store.place(key, LARGE)
        await trio.sleep(200)
        assert key not in store.objects
        assert len(journal(store)) == 0
        await kernel.close(reader)


@run_virtual
async def test_a_copy_that_appears_after_the_next_start_is_deleted() -> None:
    store, paper = MemoryStore(), PaperInMemory()
    key = f"{ORPHANS}of-the-dead"
    Journal(paper).begin_copy(key)
    async with trio.open_nursery() as nursery:
        await Leftovers(store, Journal(paper), Config(bucket="bucket"), nursery, now_ns=store.now_ns).recover()
        assert len(Journal(paper)) == 1
        await trio.sleep(LATE_SECONDS / 2)
        store.place(key, LARGE)
    assert store.keys() == []
    assert len(Journal(paper)) == 0


@run_virtual
async def test_a_file_closed_while_its_copy_is_made_leaves_no_copy(tmp_path: Path) -> None:
    for moment in range(0, 40, 4):
        store = bucket(f=LARGE)
        (tmp_path / str(moment)).mkdir()
        async with mounted(store, tmp_path / str(moment)) as kernel, trio.open_nursery() as nursery:
            reader = await kernel.open("f")
            store.latency_seconds = 10.0
            nursery.start_soon(kernel.unlink, "f")
            await trio.sleep(moment)
            await kernel.close(reader)
            await trio.sleep(100)
            assert not store.keys()
            assert len(journal(store)) == 0


@run_virtual
async def test_a_copy_outlives_all_handles_but_the_last(tmp_path: Path) -> None:
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("f")
        first, second = await kernel.open("f"), await kernel.open("f", os.O_RDWR)
        await kernel.unlink("f")
        third = await kernel.fs.open(ino, os.O_RDONLY)  # as through /proc/self/fd
        for handle in (first, second):
            await kernel.close(handle)
        await settled()
        assert await kernel.pread(third, 0, 1 << 30) == LARGE
        await kernel.close(third)
        await settled()
        assert not store.keys()


@run_virtual
async def test_a_copy_that_a_killed_daemon_left_is_swept_by_the_next_start(tmp_path: Path) -> None:
    store = bucket(f=LARGE, foreign=b"x")
    store.place(f"{ORPHANS}of-another-mount", b"x")
    paper = PaperInMemory()
    store.upload_log = Journal(paper)
    async with mounted(store, tmp_path) as kernel:
        await kernel.open("f")
        await kernel.unlink("f")
        assert len(store.keys(ORPHANS)) == 2
    async with trio.open_nursery() as nursery:
        await Leftovers(store, Journal(paper), Config(bucket="bucket"), nursery, now_ns=store.now_ns).recover()
    assert store.keys() == [f"{ORPHANS}of-another-mount", "foreign"]
    assert Journal(paper).left == ()


@run_virtual
async def test_a_copy_that_cannot_be_deleted_is_left_to_the_next_start(tmp_path: Path) -> None:
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        await kernel.unlink("f")
        store.fail("delete", Unavailable("503"))
        await kernel.close(reader)
        await settled()
        assert len(store.keys(ORPHANS)) == len(journal(store)) == 1


@run_virtual
async def test_a_stop_deletes_the_copies_of_files_that_are_still_open(tmp_path: Path) -> None:
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path) as kernel:
        await kernel.open("f")
        await kernel.unlink("f")
        await kernel.fs._tree.storage.orphans.drop_all()
        assert not store.keys()
        assert len(journal(store)) == 0


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
@HOW
@run_virtual
async def test_where_the_bucket_keeps_versions_nothing_is_copied(tmp_path: Path, how: str, flags: int) -> None:
    store = MemoryStore(versioned=True)
    store.place("f", LARGE)
    store.place("other", b"new")
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f", flags)
        await kernel.ino("other")
        store.reset_counts()
        await remove(kernel, how)
        assert store.counts == ({"delete": 1} if how == "unlink" else {"copy": 1, "delete": 1})
        assert await kernel.pread(reader, 0, 1 << 30) == LARGE
        assert store.counts["get"] < 15, "nothing was asked for twice"
        await kernel.close(reader)


@run_virtual
async def test_the_id_of_a_version_that_was_here_already_is_known(tmp_path: Path) -> None:
    """Opens that bring no id: one that the store answered with 304, and the one that ESTALE sent round again."""
    store = MemoryStore(versioned=True)
    store.place("f", LARGE)
    store.place("g", SMALL)
    async with mounted(store, tmp_path) as kernel:
        await kernel.close(await kernel.open("f"))
        again = await kernel.open("f")
        await kernel.ino("g")
        store.place("g", LARGE[::-1])
        changed = await kernel.open("g")
        await kernel.unlink("f")
        await kernel.unlink("g")
        assert store.counts["copy"] == 0
        assert await kernel.pread(again, 0, 1 << 30) == LARGE
        assert await kernel.pread(changed, 0, 1 << 30) == LARGE[::-1]
        for handle in (again, changed):
            await kernel.close(handle)


@run_virtual
async def test_a_version_that_another_client_replaces_is_read_on_by_its_id(tmp_path: Path) -> None:
    store = MemoryStore(versioned=True)
    store.place("f", LARGE)
    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        store.place("f", b"another")
        assert await kernel.pread(reader, 0, 1 << 30) == LARGE
        await kernel.close(reader)


@run_virtual
async def test_reads_of_a_version_that_is_still_there_ask_for_no_id(tmp_path: Path) -> None:
    """s3:GetObject suffices; GetObjectVersion is a permission of its own."""

    class Refusing(MemoryStore):
        async def get(self, key: str, start: int, into: memoryview, **options: object) -> object:  # type: ignore[override]
            assert options.get("version_id") is None
            return await super().get(key, start, into, **options)  # type: ignore[arg-type]

    store = Refusing(versioned=True)
    store.place("f", LARGE)
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.read("f") == LARGE
        await kernel.write("g", SMALL)
        assert await kernel.read("g") == SMALL


# rename of what is open


@pytest.mark.parametrize("moment", range(0, 60, 4))
@run_virtual
async def test_a_file_renamed_during_the_upload_of_an_edit_has_it_under_its_new_name(
    tmp_path: Path, moment: int
) -> None:
    """B5: of a file still open for writing."""
    store = bucket(f=LARGE)
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        both = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(both, 7 * MIB, b"edited")
        store.latency_seconds = 10.0
        nursery.start_soon(kernel.fs.fsync, both)
        await trio.sleep(moment)
        await kernel.rename("f", "g")
        assert not [call for call in store.calls if call.operation == "copy" and call.key.startswith(ORPHANS)]
        await kernel.fs.write(both, 9 * MIB, b"more")
        await kernel.close(both)
        await trio.sleep(100)
        expected = bytearray(LARGE)
        expected[7 * MIB : 7 * MIB + 6], expected[9 * MIB : 9 * MIB + 4] = b"edited", b"more"
        assert store.keys() == ["g"]
        assert store.body("g") == expected
        assert not store.uploads
        assert len(journal(store)) == 0


@run_virtual
async def test_a_file_whose_upload_cannot_be_sent_again_is_not_renamed_and_is_stored_under_its_name() -> None:
    """EBUSY if staging was dropped."""
    store = MemoryStore()
    body = pattern(MIB)

    async def move(version: Version) -> Version:
        raise AssertionError("nothing may be moved")

    async with storage_on(store, limit=32 * MIB) as storage, trio.open_nursery() as nursery:
        file = created(storage, "f")
        for offset in range(0, 80 * MIB, MIB):
            await file.write(offset, body)
        store.latency_seconds = 10.0
        nursery.start_soon(file.flush)
        await trio.sleep(1)
        assert file.busy
        with pytest.raises(Busy):
            await file.rename("g", move)
        await trio.sleep(200)
        assert store.keys() == ["f"]
        assert store.body("f") == body * 80
        assert not file.dirty
        file.close()
    assert not store.uploads


@run_virtual
async def test_what_an_unlinked_file_asks_of_the_store_ends_with_its_last_close(tmp_path: Path) -> None:
    store = bucket(f=LARGE)
    gets: list[Call] = []

    async def note(call: Call) -> None:
        if call.operation == "get":
            gets.append(call)

    async with mounted(store, tmp_path) as kernel:
        reader = await kernel.open("f")
        await kernel.unlink("f")
        store.before = note
        await kernel.fs.read(reader, 10 * MIB, 4096)
        assert {call.key for call in gets} == set(store.keys(ORPHANS))
        await kernel.close(reader)
        await settled()
        gets.clear()
        assert not await kernel.exists("f")
        assert not gets
