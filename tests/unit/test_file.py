"""File on the in-memory store, one sentence of the design at a time."""

import random
from pathlib import Path

import pytest
import trio

from s3mount.config import KIB, MIB
from s3mount.data.conflict import CONFLICTS
from s3mount.data.version import Changed, Version
from s3mount.errors import Busy, FileSystemError, FileTooBig, Lost, LostReply, StagingFull, Stale, Unavailable
from s3mount.store.base import Headers
from tests.memory_store import Call, MemoryStore, Operation
from tests.running import run_virtual
from tests.unit.files import PART, CheckingStore, InjectedBug, created, opened, pattern, storage_on


async def fill(file: object, size: int, *, start: int = 0, step: int = 128 * KIB) -> None:
    body = pattern(step)
    for offset in range(start, start + size, step):
        await file.write(offset, body[: min(step, start + size - offset)])  # type: ignore[attr-defined]


def filled(size: int, step: int = 128 * KIB) -> bytes:
    return (pattern(step) * (size // step + 1))[:size]


# small files


@run_virtual
async def test_create_write_close_is_one_put() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        await file.flush()
        assert not store.counts, "nothing was written yet"
        assert "new dirty" in repr(file)
        await file.write(0, b"hello")
        assert bytes(await file.read(0, 100)) == b"hello"
        await file.flush()
        assert store.counts == {"put": 1}
        assert store.body("k") == b"hello"
        assert "clean" in repr(file)
        await file.sync()
        await file.flush()
        assert store.counts == {"put": 1}
        file.close()


@run_virtual
async def test_an_empty_file_is_stored_by_sync() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        await file.flush()
        assert "k" not in store.objects
        await file.sync()
        assert store.body("k") == b""
        file.close()


@run_virtual
async def test_a_write_takes_no_checkpoint_when_there_is_room() -> None:
    async with storage_on(MemoryStore()) as storage:
        file = created(storage)
        with trio.testing.assert_no_checkpoints():
            await file.write(0, bytes(128 * KIB))
            await file.write(10, b"x")
            assert bytes(await file.read(9, 3)) == b"\0x\0"
        await file.sync()
        file.close()


@run_virtual
async def test_cached_bytes_are_read_without_a_checkpoint_or_a_copy() -> None:
    store = MemoryStore()
    store.place("k", pattern(1000))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_reading()
        with trio.testing.assert_no_checkpoints():
            view = await file.read(0, 4096)
        assert isinstance(view, memoryview)
        assert view == pattern(1000)
        assert store.counts == {"get": 1}
        file.close()


@run_virtual
async def test_an_overwritten_object_stays_until_the_flush_after_a_write() -> None:
    store = MemoryStore()
    store.place("k", b"old content")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.overwrite()
        assert file.size == 0
        await file.flush()
        assert store.body("k") == b"old content"
        store.place("k", b"another client's")
        await file.write(0, b"new")
        await file.flush()
        assert store.body("k") == b"new", "O_TRUNC is unconditional"
        file.close()


@run_virtual
async def test_append_and_edit_of_a_small_object_is_one_get_and_one_put() -> None:
    store = MemoryStore()
    store.place("k", b"one two three", Headers(content_type="text/x-test"))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_writing()
        await file.write(13, b" four")
        await file.write(0, b"ONE")
        assert bytes(await file.read(0, 100)) == b"ONE two three four"
        await file.sync()
        assert store.body("k") == b"ONE two three four"
        assert store.objects["k"].headers.content_type == "text/x-test"
        assert store.counts == {"head": 1, "get": 1, "put": 1}
        file.close()


@run_virtual
async def test_sparse_writes_and_truncates_read_as_zeros() -> None:
    store = MemoryStore()
    store.place("k", b"x" * 100)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.truncate(10)
        await file.truncate(20)
        await file.write(30, b"end")
        expected = b"x" * 10 + bytes(20) + b"end"
        assert bytes(await file.read(0, 100)) == expected
        await file.sync()
        assert store.body("k") == expected
        assert bytes(await file.read(0, 100)) == expected
        file.close()


@run_virtual
async def test_truncate_alone_is_dirty_and_needs_no_read_of_what_is_cut() -> None:
    store = MemoryStore()
    store.place("k", b"x" * 1000)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.truncate(0)
        assert file.dirty
        await file.flush()
        assert store.body("k") == b""
        assert store.counts == {"put": 1}
        file.close()


# validation


@run_virtual
async def test_open_sees_another_version_or_absence() -> None:
    store = MemoryStore()
    store.place("k", b"x")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_reading()
        await file.validate_for_writing()
        store.place("k", b"yy")
        for validate in (file.validate_for_reading, file.validate_for_writing):
            with pytest.raises(Changed) as caught:
                await validate()
            assert caught.value.info is not None
            assert caught.value.info.size == 2
        store.remove("k")
        for validate in (file.validate_for_reading, file.validate_for_writing):
            with pytest.raises(Changed) as caught:
                await validate()
            assert caught.value.info is None
        file.close()


# conflicts and failures


@run_virtual
async def test_a_foreign_change_is_a_conflict_for_every_later_sync() -> None:
    store = MemoryStore()
    store.place("k", b"base")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(0, b"mine")
        store.place("k", b"theirs")
        for store_it in (file.flush, file.sync, file.flush):
            with pytest.raises(Stale):
                await store_it()
        assert store.body("k") == b"theirs"
        assert bytes(await file.read(0, 10)) == b"mine"
        file.discard()
        assert not file.dirty
        file.close()


@run_virtual
async def test_two_creators_cannot_both_win() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        first, second = created(storage), created(storage)
        await first.write(0, b"1")
        await second.write(0, b"2")
        await first.flush()
        with pytest.raises(Stale):
            await second.flush()
        assert store.body("k") == b"1"
        first.close()
        second.close()


@run_virtual
async def test_a_failed_sync_fails_until_one_succeeds() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        await file.write(0, b"data")
        store.fail("put", Unavailable("down"), times=2)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await file.flush()
            assert file.dirty
        await file.flush()
        assert store.body("k") == b"data"
        file.close()


@pytest.mark.parametrize("streamed", [False, True])
@run_virtual
async def test_a_failing_part_fails_close_and_a_later_sync_succeeds(streamed: bool) -> None:
    store = MemoryStore()
    size = 3 * PART + 17
    async with storage_on(store) as storage:
        file = created(storage)
        store.fail("upload_part", Unavailable("500"), times=6, skip=1)
        if streamed:
            await fill(file, size)
        else:
            await file.write(size - 1, b"z")
        for _ in range(3 if streamed else 2):
            with pytest.raises(Unavailable):
                await file.flush()
            if not store._faults:
                break
        store._faults.clear()
        await file.flush()
        assert store.body("k") == (filled(size) if streamed else bytes(size - 1) + b"z")
        file.close()
    assert not store.uploads


@run_virtual
async def test_parts_that_fail_together_leave_one_line(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(latency_seconds=0.01)
    async with storage_on(store) as storage:
        file = created(storage)
        store.fail("create_upload", Unavailable("500"))
        await fill(file, 6 * PART)
        await trio.sleep(1)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await file.flush()
        assert store.body("k") == filled(6 * PART)
        file.close()


@run_virtual
async def test_a_lost_reply_is_no_conflict() -> None:
    store = MemoryStore()
    store.place("k", b"base")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(0, b"first")
        store.fail("put", LostReply("?"), when="after")
        with pytest.raises(LostReply):
            await file.flush()
        assert store.body("k") == b"first"
        await file.write(5, b" second")
        await file.flush()
        assert store.body("k") == b"first second"
        file.close()


@run_virtual
async def test_after_a_lost_reply_even_an_unconditional_upload_respects_what_is_there() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        await file.overwrite()
        await file.write(0, b"mine")
        store.fail("put", LostReply("?"), when="before")
        with pytest.raises(LostReply):
            await file.sync()
        store.reset_counts()
        await file.sync()
        assert store.counts == {"head": 1, "put": 1}
        assert store.body("k") == b"mine"
        file.close()


@run_virtual
async def test_an_upload_that_had_its_effect_and_then_failed_is_no_conflict() -> None:
    store = MemoryStore()
    store.place("k", b"base")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(0, b"mine")
        store.fail("put", Unavailable("the reply was lost, and each repetition got a 503"), when="after")
        with pytest.raises(Unavailable):
            await file.sync()
        await file.sync()
        assert file.poisoned is None
        assert store.body("k") == b"mine"
        file.close()


@run_virtual
async def test_a_completion_that_had_its_effect_and_then_failed_is_no_conflict() -> None:
    store = MemoryStore()
    size = 4 * PART
    async with storage_on(store) as storage:
        file = created(storage)
        await fill(file, size)
        store.fail("complete_upload", Unavailable("503"), when="after")
        with pytest.raises(Unavailable):
            await file.sync()
        await file.sync()
        assert store.body("k") == filled(size)
        file.close()


@run_virtual
async def test_what_an_upload_in_doubt_was_to_replace_is_not_expected_of_a_conflict_s_copy() -> None:
    store = MemoryStore()
    store.place("k", b"old")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.overwrite()
        await file.write(0, b"new")
        store.fail("put", LostReply("?"))
        with pytest.raises(LostReply):
            await file.sync()

        async def change(call: Call) -> None:
            if call.operation == "head":
                store.after = None
                store.place("k", b"theirs")

        store.after = change
        with pytest.raises(Stale):
            await file.sync()
        await file.overwrite()
        await file.write(0, b"again")
        with pytest.raises(Stale):
            await file.sync()
        [copy] = store.keys(CONFLICTS)
        assert (store.body("k"), store.body(copy)) == (b"theirs", b"again")
        file.close()


@run_virtual
async def test_who_wrote_to_a_file_whose_content_was_dropped_is_told() -> None:
    store = MemoryStore()
    store.place("k", b"base")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(0, b"mine")
        file.discard()
        for store_it in (file.flush, file.sync):
            with pytest.raises(FileSystemError, match="dropped"):
                await store_it()
        with pytest.raises(FileSystemError, match="dropped"):
            await file.write(0, b"more")
        file.close()
        successor = opened(storage, store)
        await successor.write(0, b"BASE")
        await successor.sync()
        assert store.body("k") == b"BASE"
        successor.close()


@run_virtual
async def test_a_write_that_is_refused_for_another_reason_keeps_the_file_out_of_the_bucket() -> None:
    store = MemoryStore()
    store.place("k", b"base")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(0, b"mine")
        with pytest.raises(FileSystemError, match="stopping"):
            raise file.refuse(FileSystemError("the mount is stopping"))
        with pytest.raises(FileSystemError, match="stopping"):
            await file.sync()
        assert store.body("k") == b"base"
        file.close()


@run_virtual
@pytest.mark.parametrize("operation", ["create_upload", "upload_part", "abort_upload"])
async def test_a_bug_while_parts_are_sent_fails_that_upload_and_not_the_mount(
    operation: Operation, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        store.fail(operation, InjectedBug())
        await fill(file, 4 * PART)
        await trio.sleep(100)
        if operation == "abort_upload":
            await file.unlink()
        else:
            assert file.size == 4 * PART
            await file.sync()
            assert store.body("k") == filled(4 * PART)
        file.close()
        await trio.sleep(100)
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]


@run_virtual
async def test_a_turn_that_one_file_declines_goes_to_the_next_that_waits() -> None:
    async with storage_on(MemoryStore()) as storage:
        asked: list[str] = []

        def decline() -> None:
            asked.append("decline")

        def accept() -> None:
            asked.append("accept")
            assert storage.take_turn(accept)

        while storage.take_turn(decline):
            pass
        assert not storage.take_turn(accept)
        turns = storage._parts_ahead
        storage.end_turn()
        assert asked == ["decline", "accept"]
        assert storage._parts_ahead == turns
        for _ in range(turns):
            storage.end_turn()


@run_virtual
async def test_a_lost_completion_of_a_stream_is_found_again() -> None:
    store = MemoryStore()
    size = 4 * PART
    async with storage_on(store) as storage:
        file = created(storage)
        await fill(file, size)
        store.fail("complete_upload", LostReply("?"), when="after")
        with pytest.raises(LostReply):
            await file.sync()
        await file.sync()
        assert store.body("k") == filled(size)
        file.close()


# large files


@run_virtual
async def test_a_growing_file_is_sent_while_it_is_written_and_published_by_close() -> None:
    store = MemoryStore(latency_seconds=0.01)
    size = 6 * PART + 1000
    async with storage_on(store) as storage:
        file = created(storage)
        for offset in range(0, size, MIB):
            await file.write(offset, pattern(MIB)[: min(MIB, size - offset)])
            await trio.sleep(0.02)
        assert store.counts["upload_part"] >= 5
        assert "k" not in store.objects
        await file.flush()
        assert store.body("k") == filled(size, MIB)
        assert store.counts["upload_part"] == 7
        assert store.sent_bytes == size
        file.close()
    assert not store.uploads


@run_virtual
async def test_a_part_that_was_sent_starts_the_next_though_the_program_pauses() -> None:
    store = MemoryStore(latency_seconds=1.0)
    async with storage_on(store, file_parts_max=2) as storage:
        file = created(storage)
        await fill(file, 8 * PART + 128 * KIB)
        await trio.sleep(60)
        assert store.counts["upload_part"] == 8
        await file.flush()
        assert store.counts["upload_part"] == 9
        assert store.body("k") == filled(8 * PART + 128 * KIB)
        file.close()


@run_virtual
async def test_a_part_rewritten_before_completion_is_sent_again() -> None:
    store = MemoryStore(latency_seconds=0.01)
    size = 6 * PART
    async with storage_on(store) as storage:
        file = created(storage)
        await fill(file, size)
        await trio.sleep(5)
        await file.write(100, b"HEADER")
        await file.write(2 * PART - 3, b"across")
        await file.flush()
        expected = bytearray(filled(size))
        expected[100:106] = b"HEADER"
        expected[2 * PART - 3 : 2 * PART + 3] = b"across"
        assert store.body("k") == expected
        file.close()


@run_virtual
async def test_parts_in_flight_that_are_rewritten_are_sent_again() -> None:
    store = CheckingStore(latency_seconds=10)
    size = 4 * PART
    async with storage_on(store) as storage:
        file = created(storage)
        await fill(file, size)
        await trio.sleep(15)
        assert store.counts["upload_part"] > 0
        await fill(file, PART, start=PART // 2, step=4096)
        expected = bytearray(filled(size))
        expected[PART // 2 : PART // 2 + PART] = filled(PART, 4096)
        await file.flush()
        assert store.body("k") == expected
        file.close()


@run_virtual
async def test_a_file_larger_than_staging_streams_through_it() -> None:
    store = MemoryStore()

    async def link(call: Call) -> None:
        if call.operation == "upload_part":
            await trio.sleep(call.size / (5 * MIB))

    store.before = link
    size = 128 * MIB
    async with storage_on(store, limit=32 * MIB) as storage:
        file = created(storage)
        body = pattern(MIB)
        for offset in range(0, size, MIB):
            await file.write(offset, body)
            assert storage.budget.live_bytes <= 32 * MIB
        await file.flush()
        assert store.body("k") == filled(size, MIB)
        file.close()
    assert store.sent_bytes == size


@run_virtual
async def test_going_back_to_dropped_bytes_is_an_error_in_words(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    async with storage_on(store, limit=32 * MIB) as storage:
        file = created(storage)
        await fill(file, 80 * MIB, step=MIB)
        with pytest.raises(Lost):
            await file.read(PART + 5, 10)
        assert bytes(await file.read(5, 10)) == pattern(MIB)[5:15], "the first part stays"
        with pytest.raises(Busy):
            await file.rename("other", never)
        with pytest.raises(StagingFull):
            await file.write(2 * PART, b"x")
        assert "--staging-limit" in caplog.text
        for store_it in (file.flush, file.sync):
            with pytest.raises(StagingFull):
                await store_it()
        assert "k" not in store.objects
        await file.truncate(0)
        await file.write(0, b"again")
        await file.flush()
        assert store.body("k") == b"again"
        file.close()
    assert not store.uploads


@run_virtual
async def test_what_is_written_as_a_sync_begins_is_in_all_parts_or_in_none() -> None:
    for _ in range(10):  # trio runs what is ready in the order it came or in the other one
        store = MemoryStore()
        async with storage_on(store) as storage:
            file = created(storage)
            before = bytearray(filled(17 * MIB, MIB))
            await fill(file, len(before), step=MIB)  # without a checkpoint: parts are begun and none has run yet
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.write, 3 * PART - 2, b"torn")
                nursery.start_soon(file.sync)
            after = before.copy()
            after[3 * PART - 2 : 3 * PART + 2] = b"torn"
            assert store.body("k") in (before, after)
            await file.sync()
            assert store.body("k") == after
            file.close()


def slow_link(store: MemoryStore, bytes_per_second: float) -> None:
    """Have the parts pass one after another."""
    link = trio.Lock()

    async def send(call: Call) -> None:
        if call.operation == "upload_part":
            async with link:
                await trio.sleep(call.size / bytes_per_second)

    store.before = send


@run_virtual
async def test_a_stream_that_the_network_keeps_up_with_writes_nothing_to_disk() -> None:
    store = MemoryStore()
    slow_link(store, 50 * MIB)
    size = 96 * MIB
    async with storage_on(store, memory_limit_bytes=128 * MIB) as storage:  # there is no disk
        file = created(storage)
        body = pattern(MIB)
        for offset in range(0, size, MIB):
            await file.write(offset, body)
            assert storage.staging.chunks_in_memory <= 32
        await file.flush()
        assert store.body("k") == filled(size, MIB)
        file.close()
    assert store.sent_bytes == size


@run_virtual
async def test_a_network_that_is_slower_than_the_writer_leaves_the_rest_to_the_disk(tmp_path: Path) -> None:
    store = MemoryStore()
    slow_link(store, MIB)
    size = 96 * MIB
    async with storage_on(store, memory_limit_bytes=128 * MIB, directory=tmp_path) as storage:
        file = created(storage)
        await fill(file, size, step=MIB)
        assert trio.current_time() < 60, "the writer does not wait for a minute and a half"
        assert storage.staging._spill.slots_used > 20
        await file.flush()
        assert store.body("k") == filled(size, MIB)
        file.close()


@run_virtual
async def test_going_back_to_bytes_that_memory_had_no_room_for_names_both_limits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    async with storage_on(store, memory_limit_bytes=128 * MIB) as storage:
        file = created(storage)
        await fill(file, 64 * MIB, step=MIB)
        with pytest.raises(Lost):
            await file.read(PART, 1)
        assert "read of bytes that had left staging: raise --memory-limit or --staging-limit" in caplog.text
        assert bytes(await file.read(0, 10)) == pattern(MIB)[:10], "the first part stays"
        with pytest.raises(StagingFull):
            await file.write(PART, b"x")
        assert "write over bytes that had left staging: raise --memory-limit or --staging-limit" in caplog.text
        file.discard()
        file.close()


@run_virtual
async def test_a_disk_that_was_full_an_hour_ago_does_not_keep_a_file_from_being_written_again(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("k", bytes(40 * MIB))
    directory = tmp_path / "staging"
    async with storage_on(store, memory_limit_bytes=128 * MIB, directory=directory) as storage:
        unlucky = opened(storage, store)
        with pytest.raises(StagingFull):
            await fill(unlucky, 40 * MIB, step=MIB)
        unlucky.discard()
        unlucky.close()
        directory.mkdir()
        await trio.sleep(3600)
        file = created(storage, "other")
        await fill(file, 12 * MIB, step=MIB)
        await trio.sleep(1)
        await file.write(6 * MIB, b"again")
        await file.flush()
        assert store.body("other")[6 * MIB :][:10] == b"again" + pattern(MIB)[5:10]
        file.close()


@pytest.mark.parametrize("told", ["by a handle that reads", "by a part written again"])
@run_virtual
async def test_who_comes_back_to_a_large_stream_finds_it_on_disk(tmp_path: Path, told: str) -> None:
    store = MemoryStore()
    size = 64 * MIB
    async with storage_on(store, memory_limit_bytes=128 * MIB, directory=tmp_path) as storage:
        file = created(storage)
        await fill(file, 11 * MIB, step=MIB)
        if told == "by a handle that reads":
            file.expect_returns()
        await fill(file, 5 * MIB, start=11 * MIB, step=MIB)
        await trio.sleep(1)
        if told == "by a part written again":
            await file.write(PART, pattern(1))
        await fill(file, size - 16 * MIB, start=16 * MIB, step=MIB)
        expected = bytearray(filled(size, MIB))
        if told == "by a part written again":
            expected[PART : PART + 1] = pattern(1)
        for offset in range(0, size, 7 * MIB):
            assert bytes(await file.read(offset, 100)) == expected[offset : offset + 100]
            await file.write(offset, b"again")
            expected[offset : offset + 5] = b"again"
        await file.flush()
        assert store.body("k") == expected
        file.close()


@run_virtual
async def test_a_file_that_cannot_stream_gets_enospc_and_its_space_comes_back() -> None:
    store = MemoryStore()
    store.place("k", bytes(40 * MIB))
    async with storage_on(store, limit=32 * MIB) as storage:
        file = opened(storage, store)
        with pytest.raises(StagingFull):
            await fill(file, 40 * MIB, step=MIB)
        for store_it in (file.flush, file.sync, file.flush):
            with pytest.raises(StagingFull):
                await store_it()
        assert store.body("k") == bytes(40 * MIB)
        other = created(storage, "other")
        await fill(other, 30 * MIB, step=MIB)
        await other.flush()
        assert store.body("other") == filled(30 * MIB, MIB)
        file.discard()
        file.close()
        other.close()


@run_virtual
async def test_twenty_writers_through_little_staging_all_end() -> None:
    store = MemoryStore()
    link = trio.Lock()

    async def send(call: Call) -> None:
        if call.operation in ("upload_part", "put"):
            async with link:
                await trio.sleep(call.size / (5 * MIB))

    store.before = send
    outcomes: list[str] = []
    async with storage_on(store, limit=64 * MIB) as storage:

        async def write(number: int) -> None:
            file = created(storage, f"k{number}")
            try:
                for offset in range(0, 24 * MIB, 128 * KIB):
                    await file.write(offset, pattern(128 * KIB))
                    await trio.sleep(0.001)
                await file.flush()
                assert store.body(file.key) == filled(24 * MIB)
                outcomes.append("stored")
            except StagingFull:
                outcomes.append("full")
                file.discard()
            file.close()

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(write, number)
    assert len(outcomes) == 20
    assert outcomes.count("stored") >= 2
    assert not store.uploads


@run_virtual
async def test_an_edit_of_a_large_object_copies_the_rest_on_the_server() -> None:
    store = MemoryStore()
    size = 60 * MIB
    store.place("k", filled(size))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(30 * MIB, b"edit")
        await file.write(size, b"append")
        await file.flush()
        expected = bytearray(filled(size) + b"append")
        expected[30 * MIB : 30 * MIB + 4] = b"edit"
        assert store.body("k") == expected
        assert store.sent_bytes <= 2 * PART
        assert bytes(await file.read(30 * MIB - 2, 8)) == bytes(expected[30 * MIB - 2 : 30 * MIB + 6])
        file.close()
    assert not store.uploads


@run_virtual
async def test_fifty_random_edits_of_a_large_object() -> None:
    store = MemoryStore()
    size = 100 * MIB
    expected = bytearray(filled(size))
    store.place("k", bytes(expected))
    draw = random.Random(7)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        for _ in range(50):
            offset = draw.randrange(size - 5000)
            data = draw.randbytes(draw.randrange(1, 5000))
            await file.write(offset, data)
            expected[offset : offset + len(data)] = data
        await file.flush()
        assert store.body("k") == expected
        file.close()


@run_virtual
async def test_rewriting_the_same_ranges_for_ever_needs_no_more_staging() -> None:
    store = MemoryStore()
    async with storage_on(store, limit=20 * MIB) as storage:
        file = created(storage)
        for index in range(2000):
            await file.write(index * 4096 % MIB, bytes([index % 256]) * 5000)
            if index % 100 == 99:
                await file.sync()
        assert storage.budget.live_bytes <= 2 * MIB
        await file.sync()
        file.close()


@run_virtual
async def test_a_file_beyond_the_size_limit_is_refused_and_poisoned() -> None:
    async with storage_on(MemoryStore(), file_size_max_bytes=PART) as storage:
        file = created(storage)
        await file.write(0, b"x")
        with pytest.raises(FileTooBig):
            await file.write(PART - 1, b"xx")
        with pytest.raises(FileTooBig):
            await file.flush()
        assert isinstance(file.poisoned, FileTooBig)
        file.discard()
        file.close()


# while an upload runs


@run_virtual
async def test_writes_during_an_upload_belong_to_the_next_epoch() -> None:
    store = MemoryStore(latency_seconds=10)
    async with storage_on(store) as storage, trio.open_nursery() as nursery:
        file = created(storage)
        await file.write(0, b"first epoch")
        nursery.start_soon(file.flush)
        await trio.testing.wait_all_tasks_blocked()
        assert file.busy
        await file.write(0, b"second")
        await file.truncate(8)
        assert bytes(await file.read(0, 20)) == b"secondep"
        await file.flush()
        assert store.body("k") == b"secondep"
        assert store.counts["put"] == 2
        file.close()


@run_virtual
async def test_flushes_that_arrive_together_share_uploads() -> None:
    store = MemoryStore(latency_seconds=10)
    async with storage_on(store) as storage:
        file = created(storage)
        await file.write(0, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.flush)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(5):
                nursery.start_soon(file.flush)
            await trio.testing.wait_all_tasks_blocked()
            await file.write(1, b"y")
            for _ in range(5):
                nursery.start_soon(file.flush)
        assert store.counts["put"] == 2
        assert store.body("k") == b"xy"
        file.close()


@run_virtual
async def test_a_flush_that_is_cancelled_leaves_the_file_dirty_and_those_who_wait_go_on() -> None:
    store = MemoryStore(latency_seconds=10)
    async with storage_on(store) as storage:
        file = created(storage)
        await file.write(0, b"x")
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1):
                nursery.start_soon(file.flush)
                async with trio.open_nursery() as inner:
                    inner.start_soon(file.flush)
        assert store.body("k") == b"x"
        file.close()


@run_virtual
async def test_writes_while_a_failing_upload_runs_are_kept_over_its_bytes() -> None:
    store = MemoryStore(latency_seconds=10)
    async with storage_on(store) as storage, trio.open_nursery() as nursery:
        file = created(storage)
        await file.write(0, b"abcdefgh")
        store.fail("put", Unavailable("down"))

        async def failing() -> None:
            with pytest.raises(Unavailable):
                await file.flush()

        nursery.start_soon(failing)
        await trio.testing.wait_all_tasks_blocked()
        await file.write(2, b"CD")
        await file.truncate(6)
        await trio.sleep(30)
        assert bytes(await file.read(0, 20)) == b"abCDef"
        await file.flush()
        assert store.body("k") == b"abCDef"
        file.close()


@run_virtual
async def test_a_stream_whose_completion_failed_sends_again_what_was_written_meanwhile() -> None:
    store = MemoryStore(latency_seconds=10)
    size = 4 * PART
    async with storage_on(store) as storage, trio.open_nursery() as nursery:
        file = created(storage)
        await fill(file, size)
        store.fail("complete_upload", Unavailable("down"))

        async def failing() -> None:
            with pytest.raises(Unavailable):
                await file.flush()

        nursery.start_soon(failing)
        await trio.sleep(15)
        assert file.busy
        await file.write(PART + 1, b"meanwhile")
        await file.truncate(2 * PART + 5)
        await file.truncate(size)
        await trio.sleep(200)
        await file.flush()
        expected = bytearray(filled(2 * PART + 5) + bytes(2 * PART - 5))
        expected[PART + 1 : PART + 10] = b"meanwhile"
        assert store.body("k") == expected
        file.close()


# rename and unlink


async def never(_: Version) -> Version:
    raise AssertionError("nothing may be moved")


@run_virtual
async def test_rename_of_a_file_that_is_being_uploaded_sends_it_to_the_new_key_only() -> None:
    store = MemoryStore(latency_seconds=10)
    size = 4 * PART
    async with storage_on(store) as storage, trio.open_nursery() as nursery:
        file = created(storage)
        await fill(file, size)
        nursery.start_soon(file.flush)
        await trio.sleep(15)
        await file.rename("new", never)
        await file.write(0, b"!")
        await trio.sleep(100)
        await file.flush()
        assert list(store.objects) == ["new"]
        assert store.body("new") == b"!" + filled(size)[1:]
        file.close()
    assert not store.uploads


@run_virtual
async def test_a_completion_that_was_sent_is_awaited_by_rename() -> None:
    store = MemoryStore(latency_seconds=10)
    async with storage_on(store) as storage, trio.open_nursery() as nursery:
        file = created(storage)
        await file.write(0, b"x")
        nursery.start_soon(file.flush)
        await trio.testing.wait_all_tasks_blocked()

        async def move(version: Version) -> Version:
            stored = await store.copy(version.key, "new", source_etag=version.etag)
            await store.delete(version.key)
            return Version("new", stored.etag, version.size)

        await file.rename("new", move)
        assert list(store.objects) == ["new"]
        await file.write(1, b"y")
        await file.flush()
        assert store.body("new") == b"xy"
        file.close()


@run_virtual
async def test_an_unlinked_file_is_never_stored_and_stays_readable_and_writable() -> None:
    store = MemoryStore()
    store.place("k", b"content")
    async with storage_on(store) as storage:
        file = opened(storage, store)
        file.expect_returns()
        await file.write(0, b"C")
        await file.unlink()
        assert not store.objects
        assert bytes(await file.read(0, 10)) == b"Content"
        await file.write(7, b" more")
        assert not file.dirty
        await file.flush()
        await file.sync()
        assert bytes(await file.read(0, 20)) == b"Content more"
        assert not store.objects
        file.close()


@pytest.mark.parametrize("size", [100, 4 * PART])
@run_virtual
async def test_unlink_during_an_upload_leaves_no_key_and_no_upload(size: int) -> None:
    for moment in range(0, 60, 5):
        store = MemoryStore(latency_seconds=10)
        async with storage_on(store) as storage, trio.open_nursery() as nursery:
            file = created(storage)
            await fill(file, size)
            nursery.start_soon(file.flush)
            await trio.sleep(moment)
            await file.unlink()
            await trio.sleep(100)
            assert "k" not in store.objects
            file.close()
        assert not store.uploads
        assert not store.objects


# reading


@run_virtual
async def test_a_sequential_reader_gets_everything_once_and_ahead() -> None:
    store = MemoryStore(latency_seconds=0.05)
    size = 60 * MIB
    store.place("k", filled(size))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_reading()
        began = trio.current_time()
        for offset in range(0, size, MIB):
            assert await file.read(offset, MIB) == filled(MIB)
        assert trio.current_time() - began < 10 * 0.05
        assert store.received_bytes == size
        assert store.counts["get"] < 25
        file.close()


@run_virtual
async def test_a_random_reader_pays_for_blocks() -> None:
    store = MemoryStore()
    size = 60 * MIB
    store.place("k", filled(size))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        draw = random.Random(0)  # multiples of a number would be steps
        for _ in range(29):
            offset = draw.randrange(size - 4096)
            assert await file.read(offset, 4096) == filled(size)[offset : offset + 4096]
        assert store.received_bytes <= 30 * 2 * 128 * KIB
        file.close()


@run_virtual
async def test_a_read_that_waits_while_the_base_is_replaced_by_our_own_sync_is_answered() -> None:
    store = MemoryStore()
    store.place("k", filled(2 * MIB))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(0, b"new")
        answers: list[bytes] = []

        async def slow(call: Call) -> None:
            if call.operation == "get" and call.start == MIB:
                await trio.sleep(5)

        await file.read(0, 2 * MIB)
        storage.blocks.forget(file.base)  # type: ignore[arg-type]
        store.before = slow

        async def read() -> None:
            answers.append(bytes(await file.read(MIB, 4096)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await file.flush()
        assert answers == [filled(2 * MIB)[MIB : MIB + 4096]]
        file.close()
