"""What a daemon leaves in the bucket is removed by itself or the next start, and nothing else is (A7, DESIGN 10)."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from s3mount.config import Config
from s3mount.data.journal import Journal
from s3mount.data.leftovers import Leftovers
from s3mount.errors import AccessDenied, LostReply, NotImplementedByStore, Unavailable
from s3mount.store.base import Headers, Upload
from tests.memory_store import Call, MemoryStore
from tests.paper import PaperInMemory
from tests.running import run_virtual

NO_HEADERS = Headers()
EPOCH_NS = 1_700_000_000_000_000_000
COPY = ".s3mount/orphans/0123"


def virtual_ns() -> int:
    return EPOCH_NS + int(trio.current_time() * 1e9)


def bucket() -> MemoryStore:
    return MemoryStore(clock_ns=virtual_ns)


@asynccontextmanager
async def daemon(store: MemoryStore, paper: PaperInMemory) -> AsyncIterator[Leftovers]:
    """One life of a daemon, as far as leftovers go; at the end what it does in the background is done."""
    store.upload_log = journal = Journal(paper)
    async with trio.open_nursery() as nursery:
        yield Leftovers(store, journal, Config(bucket="b"), nursery, now_ns=virtual_ns)
        await trio.sleep(1000)


async def next_start(store: MemoryStore, paper: PaperInMemory) -> dict[str, int]:
    """What the next daemon sends."""
    store.reset_counts()
    async with daemon(store, paper) as leftovers:
        await leftovers.recover()
    return dict(store.counts)


async def killed_while_opening(store: MemoryStore, paper: PaperInMemory, key: str) -> None:
    """The daemon dies after CreateMultipartUpload had its effect and before its reply was written down."""
    content = bytes(paper.content)
    Journal(paper).begin(key, virtual_ns())
    before = bytes(paper.content)
    store.upload_log = Journal(PaperInMemory())
    await store.create_upload(key, NO_HEADERS)
    assert before != content
    paper.content[:] = before


@run_virtual
async def test_the_next_start_aborts_its_own_uploads_and_nobody_elses(caplog: pytest.LogCaptureFixture) -> None:
    """A7: its multipart upload is gone after the next start."""
    store, paper = bucket(), PaperInMemory()
    foreign = await store.create_upload("k", NO_HEADERS)
    async with daemon(store, paper):
        left = await store.create_upload("k", NO_HEADERS)
        done = await store.create_upload("done", NO_HEADERS)
        await store.complete_upload(done, [await store.upload_part(done, 1, (b"x",))])
        await store.abort_upload(await store.create_upload("aborted", NO_HEADERS))
        assert list(store.uploads) == [foreign.id, left.id]
        assert store.counts["list_uploads"] == 0
    with caplog.at_level(logging.INFO, "s3mount"):
        assert await next_start(store, paper) == {"abort_upload": 1}
    assert list(store.uploads) == [foreign.id]
    assert [record.getMessage() for record in caplog.records] == [
        "leftovers of an earlier run were removed uploads=1 copies=0 absent=0 kept=0"
    ]
    caplog.clear()
    assert await next_start(store, paper) == {}
    assert not caplog.records


@run_virtual
async def test_an_upload_that_somebody_goes_on_with_is_spared_until_it_is_done() -> None:
    store, paper = bucket(), PaperInMemory()
    async with daemon(store, paper):
        needed, left = await store.create_upload("k", NO_HEADERS), await store.create_upload("k", NO_HEADERS)
    store.upload_log = journal = Journal(paper)
    async with trio.open_nursery() as nursery:
        config = Config(bucket="b")
        spares = {Upload("k", needed.id)}.__contains__
        await Leftovers(store, journal, config, nursery, now_ns=virtual_ns, spares=spares).recover()
        assert list(store.uploads) == [needed.id] != [left.id]
        assert len(journal) == 1
        await store.abort_upload(needed)
        assert not len(journal)


@run_virtual
async def test_an_upload_whose_id_was_never_written_down_is_found_by_key_and_time() -> None:
    store, paper = bucket(), PaperInMemory()
    for key in ("k2", "k/below", "other"):
        await store.create_upload(key, NO_HEADERS)
    early = await store.create_upload("k", NO_HEADERS)
    await trio.sleep(7)
    await killed_while_opening(store, paper, "k")
    await trio.sleep(66)
    late = await store.create_upload("k", NO_HEADERS)
    assert await next_start(store, paper) == {"list_uploads": 1, "has_parts": 1, "abort_upload": 1}
    assert {upload.key for upload in store.uploads.values()} == {"k2", "k/below", "other", "k"}
    assert {early.id, late.id} < set(store.uploads)
    assert len(store.uploads) == 5
    assert await next_start(store, paper) == {}


@run_virtual
async def test_an_upload_that_has_a_part_is_somebody_elses() -> None:
    """Ours cannot have one: its id never reached us."""
    store, paper = bucket(), PaperInMemory()
    Journal(paper).begin("k", virtual_ns())
    foreign = await store.create_upload("k", NO_HEADERS)
    await store.upload_part(foreign, 1, (b"x",))
    assert await next_start(store, paper) == {"list_uploads": 1, "has_parts": 1}
    assert list(store.uploads) == [foreign.id]
    assert await next_start(store, paper) == {}


@run_virtual
async def test_an_upload_without_parts_is_told_from_somebody_elses_by_that() -> None:
    store, paper = bucket(), PaperInMemory()
    foreign = await store.create_upload("k", NO_HEADERS)
    await store.upload_part(foreign, 1, (b"x",))
    await killed_while_opening(store, paper, "k")
    assert await next_start(store, paper) == {"list_uploads": 1, "has_parts": 2, "abort_upload": 1}
    assert list(store.uploads) == [foreign.id]


@run_virtual
async def test_an_upload_whose_first_part_is_on_its_way_is_left_the_time_it_takes() -> None:
    store, paper = bucket(), PaperInMemory()
    async with daemon(store, paper) as leftovers, trio.open_nursery() as nursery:
        store.fail("create_upload", LostReply("no reply"), when="before")
        with pytest.raises(LostReply):
            await store.create_upload("k", NO_HEADERS)
        nursery.start_soon(leftovers.recover)
        store.upload_log = Journal(PaperInMemory())
        await trio.sleep(30)
        foreign = await store.create_upload("k", NO_HEADERS)
        await trio.sleep(600)
        assert store.counts["list_uploads"] == 0
        await store.upload_part(foreign, 1, (b"x",))
    assert store.counts["list_uploads"] == 1
    assert list(store.uploads) == [foreign.id]


@run_virtual
async def test_an_upload_that_is_gone_while_it_is_looked_at_is_nothing_to_remove() -> None:
    store, paper = bucket(), PaperInMemory()
    await killed_while_opening(store, paper, "k")

    async def others_abort(call: Call) -> None:
        if call.operation == "has_parts":
            store.uploads.clear()

    store.before = others_abort
    assert await next_start(store, paper) == {"list_uploads": 1, "has_parts": 1}
    assert await next_start(store, paper) == {}


@run_virtual
async def test_of_several_uploads_that_may_be_ours_none_is_touched(caplog: pytest.LogCaptureFixture) -> None:
    store, paper = bucket(), PaperInMemory()
    await killed_while_opening(store, paper, "k")
    foreign = await store.create_upload("k", NO_HEADERS)
    assert await next_start(store, paper) == {"list_uploads": 1, "has_parts": 2}
    assert len(store.uploads) == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert all(name in warnings[0] for name in store.uploads)
    assert foreign.id in warnings[0]
    assert await next_start(store, paper) == {}


@run_virtual
async def test_an_intent_that_had_no_effect_is_looked_for_once() -> None:
    store, paper = bucket(), PaperInMemory()
    Journal(paper).begin("k", virtual_ns())
    assert await next_start(store, paper) == {"list_uploads": 1}
    assert await next_start(store, paper) == {}


@run_virtual
async def test_a_request_that_has_its_effect_after_the_start_is_found() -> None:
    store, paper = bucket(), PaperInMemory()
    Journal(paper).begin("k", virtual_ns())
    async with daemon(store, paper) as leftovers, trio.open_nursery() as nursery:
        nursery.start_soon(leftovers.recover)
        await trio.sleep(30)
        store.upload_log = Journal(PaperInMemory())
        await store.create_upload("k", NO_HEADERS)
        await trio.sleep(600)
        assert store.uploads
        await trio.sleep(40)
        assert not store.uploads


@run_virtual
async def test_an_upload_that_a_lost_reply_left_is_aborted_while_the_daemon_lives() -> None:
    store, paper = bucket(), PaperInMemory()
    async with daemon(store, paper):
        store.fail("create_upload", LostReply("no reply"), when="after")
        with pytest.raises(LostReply):
            await store.create_upload("k", NO_HEADERS)
        assert len(store.uploads) == 1
        again = await store.create_upload("k", NO_HEADERS)
        await trio.sleep(700)
        assert list(store.uploads) == [again.id]
        await store.abort_upload(again)
    assert (store.counts["list_uploads"], store.counts["has_parts"]) == (1, 1)
    assert await next_start(store, paper) == {}


@run_virtual
async def test_an_upload_that_is_being_opened_is_not_taken_for_a_leftover() -> None:
    store, paper = bucket(), PaperInMemory()
    opened: list[Upload] = []

    async def reply_is_slow(call: Call) -> None:
        if call.operation == "create_upload":
            await trio.sleep(20)

    async with daemon(store, paper), trio.open_nursery() as nursery:
        store.fail("create_upload", LostReply("no reply"), when="before")
        with pytest.raises(LostReply):
            await store.create_upload("k", NO_HEADERS)
        store.after = reply_is_slow

        async def open_again() -> None:
            opened.append(await store.create_upload("k", NO_HEADERS))

        await trio.sleep(660)
        nursery.start_soon(open_again)
        await trio.sleep(200)
        assert list(store.uploads) == [opened[0].id]
        await store.abort_upload(opened[0])


@run_virtual
async def test_a_creation_that_was_refused_is_not_looked_for() -> None:
    store, paper = bucket(), PaperInMemory()
    async with daemon(store, paper):
        store.fail("create_upload", AccessDenied("no", status=403))
        with pytest.raises(AccessDenied):
            await store.create_upload("k", NO_HEADERS)
    assert store.counts["list_uploads"] == 0
    assert await next_start(store, paper) == {}


@run_virtual
async def test_what_could_not_be_removed_is_left_to_the_next_start(caplog: pytest.LogCaptureFixture) -> None:
    store, paper = bucket(), PaperInMemory()
    async with daemon(store, paper):
        for number in range(3):
            await store.create_upload(f"k{number}", NO_HEADERS)
    Journal(paper).begin_copy(COPY)
    store.place(COPY, b"bytes of an unlinked file")
    store.fail("abort_upload", Unavailable("503"), key="k1")
    store.fail("delete", AccessDenied("no", status=403))
    with caplog.at_level(logging.INFO, "s3mount"):
        await next_start(store, paper)
    assert "uploads=2 copies=0 absent=0 kept=2" in caplog.text
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert [upload.key for upload in store.uploads.values()] == ["k1"]
    assert await next_start(store, paper) == {"abort_upload": 1, "delete": 2}, "a copy is deleted again later"
    assert not store.uploads
    assert not store.objects


@run_virtual
async def test_a_store_that_lists_no_uploads_is_asked_once() -> None:
    store, paper = bucket(), PaperInMemory()
    await killed_while_opening(store, paper, "k")
    store.fail("list_uploads", NotImplementedByStore("no", status=501))
    assert await next_start(store, paper) == {"list_uploads": 1}
    assert await next_start(store, paper) == {}


@run_virtual
async def test_an_old_intent_is_kept_while_the_store_does_not_answer() -> None:
    store, paper = bucket(), PaperInMemory()
    await killed_while_opening(store, paper, "k")
    await trio.sleep(1000)
    store.fail("list_uploads", Unavailable("503"))
    assert await next_start(store, paper) == {"list_uploads": 1}
    assert await next_start(store, paper) == {"list_uploads": 1, "has_parts": 1, "abort_upload": 1}
    assert not store.uploads


@run_virtual
async def test_removals_are_few_at_a_time() -> None:
    store, paper = bucket(), PaperInMemory()
    async with daemon(store, paper):
        for number in range(40):
            await store.create_upload(f"k{number}", NO_HEADERS)
    running = most = 0

    async def begin(_call: Call) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    store.before = begin
    await next_start(store, paper)
    assert most == 4
    assert not store.uploads


@run_virtual
async def test_a_burst_of_lost_replies_is_bounded() -> None:
    store, paper = bucket(), PaperInMemory()
    journal = Journal(paper)
    async with trio.open_nursery() as nursery:
        leftovers = Leftovers(store, journal, Config(bucket="b"), nursery, now_ns=virtual_ns)
        for number in range(1500):
            journal.doubted(journal.begin(f"k{number}", virtual_ns()))
        assert leftovers._looks == 1000
    assert len(journal) == 500
    assert await next_start(store, paper) == {"list_uploads": 500}
