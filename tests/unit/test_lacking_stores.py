"""Whole paths on stores that lack abilities: the probe finds it out, and no request is refused afterwards."""

import logging
from pathlib import Path

import pytest
import trio

from s3mount.config import GIB, MIB, Config
from s3mount.errors import AccessDenied, FileTooBig, NotImplementedByStore, Unavailable
from s3mount.store.abilities import Abilities, FindOut, as_s3_says
from s3mount.store.findings import Findings
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.files import PART, InjectedBug, created, opened, pattern, storage_of

LARGE = pattern(MIB) * 40


def config(**options: object) -> Config:
    return Config(bucket="b", **options)  # type: ignore[arg-type]  # names and values are the test's business


def prober(store: MemoryStore, directory: Path) -> FindOut:
    """What the daemon wires; after the probe the counters begin anew."""
    findings = Findings(store, config(), directory)

    async def find_out() -> Abilities:
        found = await findings.parts()
        assert store.keys(".s3mount/") == []
        store.reset_counts()
        store.refusals = 0
        return found

    return find_out


def edited() -> bytes:
    return LARGE[: 20 * MIB] + b"edit" + LARGE[20 * MIB + 4 :] + b"append"


async def edit(store: MemoryStore, find_out: FindOut, **options: object) -> None:
    """An edit and an append in an object of 40 MiB."""
    store.place("k", LARGE)
    async with storage_of(store, config(**options), find_out) as storage:
        file = opened(storage, store)
        await file.write(20 * MIB, b"edit")
        await file.write(40 * MIB, b"append")
        await file.sync()
        file.close()
    assert store.body("k") == edited()
    assert store.refusals == 0
    assert not store.uploads


@run_virtual
async def test_an_edit_where_parts_must_be_equal_costs_the_parts_it_touches(tmp_path: Path) -> None:
    store = MemoryStore(equal_parts=True)
    await edit(store, prober(store, tmp_path))
    assert store.counts["copy_part"] == 7
    assert store.sent_bytes == PART + 6


@run_virtual
async def test_an_edit_where_a_thousand_parts_are_all_there_are(tmp_path: Path) -> None:
    store = MemoryStore(parts_max=1000)
    await edit(store, prober(store, tmp_path))
    assert store.sent_bytes == PART + 6


@pytest.mark.parametrize("how", ["refused", "ignored"])
@run_virtual
async def test_an_edit_where_parts_are_not_copied_sends_the_whole_file(how: str, tmp_path: Path) -> None:
    store = MemoryStore(copies_parts=how)  # type: ignore[arg-type]
    await edit(store, prober(store, tmp_path))
    assert store.counts["copy_part"] == 0
    assert store.sent_bytes == len(edited())


@run_virtual
async def test_an_edit_on_a_store_that_lacks_all_of_it(tmp_path: Path) -> None:
    store = MemoryStore(equal_parts=True, parts_max=1000, copies_parts="refused", conditions="ignored")
    await edit(store, prober(store, tmp_path))
    assert store.sent_bytes == len(edited())


@run_virtual
async def test_options_answer_instead_of_the_probe() -> None:
    async def never() -> Abilities:
        raise AssertionError("nothing is to be found out")

    store = MemoryStore(equal_parts=True, parts_max=1000, copies_parts="refused")
    await edit(store, never, equal_parts="yes", part_copy="no", parts_max=1000)


@run_virtual
async def test_a_plain_upload_asks_nothing_of_the_store(tmp_path: Path) -> None:
    """Small files, and streams of up to a hundred parts, go as every store takes them."""

    async def never() -> Abilities:
        raise AssertionError("nothing is to be found out")

    for store in (MemoryStore(), MemoryStore(equal_parts=True, parts_max=1000, copies_parts="refused")):
        async with storage_of(store, config(), never) as storage:
            file = created(storage)
            for index in range(40):
                await file.write(index * MIB, pattern(MIB))
            await file.sync()
            file.close()
        assert store.body("k") == LARGE
        assert store.refusals == 0


@run_virtual
async def test_the_first_uploads_that_have_to_know_share_one_probe(tmp_path: Path) -> None:
    store = MemoryStore(equal_parts=True, latency_seconds=0.1)
    asked = 0
    probe = prober(store, tmp_path)

    async def find_out() -> Abilities:
        nonlocal asked
        asked += 1
        return await probe()

    for number in range(4):
        store.place(f"k{number}", LARGE)
    async with storage_of(store, config(), find_out) as storage:
        files = [opened(storage, store, f"k{number}") for number in range(4)]
        async with trio.open_nursery() as nursery:
            for file in files:
                await file.write(7 * MIB, b"edit")
                nursery.start_soon(file.sync)
            await trio.sleep(0.05)
            impatient = created(storage, "other")
            await impatient.truncate(2000 * MIB)
            with trio.move_on_after(0.1) as scope:
                await impatient.sync()
            assert scope.cancelled_caught
            impatient.discard()
            impatient.close()
        for file in files:
            file.close()
    assert asked == 1
    assert all(store.body(f"k{number}")[7 * MIB : 7 * MIB + 4] == b"edit" for number in range(4))
    assert store.refusals == 0


STREAM_PARTS = 106
# Memory for all of it: what was sent stays as long as staging has room.
FEW = config(parts_max=20, file_size_max_bytes=GIB, memory_limit_bytes=GIB)
LITTLE = config(equal_parts="yes", part_copy="yes", parts_max=20, file_size_max_bytes=GIB, memory_limit_bytes=GIB)


@pytest.mark.parametrize(("equal", "parts_max"), [(True, 10_000), (False, 1000)])
@run_virtual
async def test_a_stream_asks_when_it_outgrows_what_every_store_takes(
    equal: bool, parts_max: int, tmp_path: Path
) -> None:
    store = MemoryStore(equal_parts=equal, parts_max=parts_max, latency_seconds=0.01)
    size = STREAM_PARTS * PART
    sent = 0

    probe = prober(store, tmp_path)

    async def find_out() -> Abilities:
        nonlocal sent
        await trio.sleep(60)  # a stream that waits for it must not be told that staging is full
        sent = store.counts["upload_part"]
        return await probe()

    async with storage_of(store, config(), find_out, limit=64 * MIB) as storage:
        file = created(storage)
        for offset in range(0, size, MIB):
            await file.write(offset, pattern(MIB))
        await file.sync()
        file.close()
    assert sent == 100
    assert store.body("k") == pattern(MIB) * (size // MIB)
    assert store.refusals == 0
    lengths = {call.size for call in store.calls if call.operation == "upload_part"}
    assert (lengths == {PART}) is equal


@run_virtual
async def test_close_sends_the_parts_that_every_store_takes_while_the_store_is_asked() -> None:
    store = MemoryStore(latency_seconds=0.01)
    sent = begun = 0

    async def find_out() -> Abilities:
        nonlocal sent, begun
        begun = store.counts["upload_part"]
        await trio.sleep(60)
        sent = store.counts["upload_part"]
        return Abilities(equal_parts=True)

    async with storage_of(store, FEW, find_out) as storage:
        file = created(storage)
        for offset in range(0, 60 * MIB, MIB):
            await file.write(offset, pattern(MIB))
        await file.sync()
        file.close()
    assert (begun, sent) == (0, 10)
    assert store.body("k") == pattern(MIB) * 60
    assert (store.counts["upload_part"], store.counts["create_upload"]) == (12, 1)


@run_virtual
async def test_a_stream_has_the_store_asked_before_it_has_to_know() -> None:
    store = MemoryStore(latency_seconds=0.01)
    asked: list[int] = []

    async def find_out() -> Abilities:
        asked.append(store.counts["upload_part"])
        return Abilities()

    async with storage_of(store, FEW, find_out) as storage:
        file = created(storage)
        for offset in range(0, 50 * MIB, MIB):
            await file.write(offset, pattern(MIB))
            await trio.sleep(0.1)
        assert len(asked) == 1
        assert 5 <= asked[0] < 10, "while some of the ten parts that every store takes are left"
        file.close()


@run_virtual
async def test_a_stream_that_has_no_more_equal_parts_is_too_big_and_says_which_option(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore(equal_parts=True, parts_max=20)
    async with storage_of(store, LITTLE, as_s3_says, limit=32 * MIB) as storage:
        file = created(storage)
        for offset in range(0, 100 * MIB, MIB):
            await file.write(offset, pattern(MIB))
        with pytest.raises(FileTooBig, match="--part-size"):
            await file.truncate(101 * MIB)
        assert file.poisoned is None, "the program was told"
        with pytest.raises(FileTooBig, match="--part-size"):
            await file.write(100 * MIB, b"x")
        with pytest.raises(FileTooBig):
            await file.sync()
        assert "--part-size" in caplog.text
        assert "k" not in store.objects
        file.discard()
        file.close()


@pytest.mark.parametrize("grow", ["truncate", "write"])
@run_virtual
async def test_what_lies_beyond_the_last_part_of_a_stream_that_is_being_completed_is_an_edit(grow: str) -> None:
    store = MemoryStore(equal_parts=True, parts_max=20)
    async with storage_of(store, LITTLE, as_s3_says, limit=32 * MIB) as storage, trio.open_nursery() as nursery:
        file = created(storage)
        for offset in range(0, 90 * MIB, MIB):
            await file.write(offset, pattern(MIB))
        store.latency_seconds = 10.0
        nursery.start_soon(file.sync)
        await trio.sleep(1)
        assert file.busy
        if grow == "truncate":
            await file.truncate(101 * MIB)
        else:
            await file.write(101 * MIB - 1, b"\0")
        await file.sync()
        file.close()
    assert store.body("k") == pattern(MIB) * 90 + bytes(11 * MIB)


@run_virtual
async def test_a_stream_that_has_no_more_equal_parts_begins_anew_while_all_its_bytes_are_here() -> None:
    store = MemoryStore(equal_parts=True, parts_max=20)
    async with storage_of(store, LITTLE, as_s3_says) as storage:
        file = created(storage)
        for offset in range(0, 120 * MIB, MIB):
            await file.write(offset, pattern(MIB))
            await trio.sleep(1)
        assert store.counts["upload_part"] == 19, "no new stream is begun that would end there too"
        await file.sync()
        file.close()
    assert store.body("k") == pattern(MIB) * 120
    assert store.refusals == 0
    assert {call.size for call in store.calls if call.operation == "upload_part"} == {PART, 6 * MIB}


@pytest.mark.parametrize("grow", ["truncate", "write"])
@run_virtual
async def test_a_stream_that_jumps_beyond_its_parts_before_it_knew_them_begins_anew(grow: str, tmp_path: Path) -> None:
    store = MemoryStore(equal_parts=True)
    async with storage_of(store, config(parts_max=20, file_size_max_bytes=GIB), prober(store, tmp_path)) as storage:
        file = created(storage)
        for offset in range(0, 20 * MIB, MIB):
            await file.write(offset, pattern(MIB))
        size = 110 * MIB
        if grow == "truncate":
            await file.truncate(size)
        else:
            await file.write(size - 1, b"\0")
        await file.sync()
        file.close()
    assert store.body("k") == pattern(MIB) * 20 + bytes(size - 20 * MIB)
    assert store.refusals == 0
    assert not store.uploads


@pytest.mark.parametrize("error", [AccessDenied("403", status=403), Unavailable("no network")])
@run_virtual
async def test_a_probe_that_fails_leaves_the_store_as_s3_says(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = MemoryStore()
    store.fail("put", error)
    await edit(store, prober(store, tmp_path))
    assert store.sent_bytes == PART + 6
    assert [record.levelname for record in caplog.records if "not probed" in record.message] == ["INFO"]
    assert list(tmp_path.iterdir()) == []


@run_virtual
async def test_a_store_that_refuses_a_copy_without_having_been_probed_gets_whole_files() -> None:
    store = MemoryStore(copies_parts="refused")
    store.place("k", LARGE)
    async with storage_of(store, config(), as_s3_says) as storage:
        for _ in range(2):
            file = opened(storage, store)
            await file.write(20 * MIB, b"edit")
            await file.sync()
            file.close()
    assert store.body("k") == LARGE[: 20 * MIB] + b"edit" + LARGE[20 * MIB + 4 :]
    assert store.sent_bytes >= 2 * len(LARGE)
    assert store.counts["complete_upload"] == 2
    assert {call.number for call in store.calls if call.operation == "copy_part"} <= set(range(1, 9)), "asked once"


@run_virtual
async def test_a_refused_upload_says_nothing_of_copies(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    store.place("k", pattern(20 * MIB))
    async with storage_of(store, config(), as_s3_says) as storage:
        file = opened(storage, store)
        await file.write(0, b"edit")
        store.fail("create_upload", NotImplementedByStore("501", code="NotImplemented", status=501))
        with pytest.raises(NotImplementedByStore):
            await file.sync()
        assert storage.learning.rules.copies
        await file.sync()
        file.close()
    assert store.counts["copy_part"] > 0
    assert "copies no parts" not in caplog.text


@run_virtual
async def test_a_bug_in_the_probe_fails_neither_the_upload_nor_the_mount() -> None:
    async def find_out() -> Abilities:
        raise InjectedBug

    await edit(MemoryStore(), find_out)


@pytest.mark.parametrize("cut", [100 * MIB - 1, 100 * MIB, 100 * MIB + 1])
@run_virtual
async def test_a_stream_that_was_outgrown_during_a_sync_that_failed_can_be_cut_and_stored(cut: int) -> None:
    store = MemoryStore(equal_parts=True, parts_max=20, latency_seconds=1)
    async with storage_of(store, LITTLE, as_s3_says) as storage:
        file = created(storage)
        for offset in range(0, 90 * MIB, MIB):
            await file.write(offset, pattern(MIB))
        store.fail("complete_upload", Unavailable("down"))

        async def sync() -> None:
            with pytest.raises(Unavailable):
                await file.sync()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync)
            await trio.sleep(0.5)
            for offset in range(90 * MIB, 110 * MIB, MIB):
                await file.write(offset, pattern(MIB))
        await file.truncate(cut)
        await file.sync()
        file.close()
    assert store.body("k") == (pattern(MIB) * 110)[:cut]
    assert store.refusals == 0
    assert not store.uploads


@run_virtual
async def test_a_store_without_uploads_by_parts_takes_what_one_put_holds_and_refuses_the_rest() -> None:
    """E7: lacks multipart: an error for each sync, the object that was there stays; larger parts are larger PUTs."""
    store = MemoryStore()
    store.place("k", b"old")
    store.fail("create_upload", NotImplementedByStore("501", code="NotImplemented", status=501), times=1000)
    body = LARGE[: 3 * PART]
    async with storage_of(store, config(), as_s3_says) as storage:
        file = opened(storage, store)
        await file.overwrite()
        await file.write(0, body)
        for _ in range(2):
            with pytest.raises(NotImplementedByStore):
                await file.sync()
        assert store.body("k") == b"old"
        await file.truncate(PART)
        await file.sync()
        assert store.body("k") == body[:PART]
        file.close()
    async with storage_of(store, config(part_size_bytes=4 * PART), as_s3_says) as storage:
        file = opened(storage, store)
        await file.write(0, body)
        await file.sync()
        assert store.body("k") == body
        file.close()
