"""Every multipart upload that S3Store opens is written in the journal until nothing of it is left, whatever fails."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from s3mount import errors
from s3mount.config import MIB, Config
from s3mount.data.journal import Journal
from s3mount.data.leftovers import Leftovers
from s3mount.store.base import Headers
from s3mount.store.s3 import S3Store
from tests.paper import PaperInMemory
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.servers import Server

NO_HEADERS = Headers()
BIG = bytes(range(256)) * (5 * MIB // 256)


@pytest.fixture
def proxy(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with FaultProxy(seaweedfs.endpoint_url) as proxy:
        yield proxy


@asynccontextmanager
async def life(
    proxy: FaultProxy, bucket: str, paper: PaperInMemory, clock_ns: Callable[[], int] = time.time_ns
) -> AsyncIterator[tuple[S3Store, Leftovers]]:
    """One life of a daemon: its store, and what cleans up after it."""
    config = Config(
        bucket=bucket,
        endpoint_url=proxy.endpoint_url,
        region="us-east-1",
        copy_max_bytes=5 * MIB,
        attempts_min=2,
        retry_seconds=0.0,
        backoff_base_seconds=0.01,
        stall_timeout_seconds=2.0,
        metadata_deadline_seconds=1.0,
    )
    journal = Journal(paper)
    store = S3Store(config, clock_ns=clock_ns, upload_log=journal)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store, Leftovers(store, journal, config, nursery, now_ns=store.now_ns, idle_seconds=1.0)
        nursery.cancel_scope.cancel()


@run_trio
async def test_an_upload_is_in_the_journal_from_its_start_to_its_end(proxy: FaultProxy, bucket: str) -> None:
    paper = PaperInMemory()
    async with life(proxy, bucket, paper) as (store, _):
        complete = await store.create_upload("complete", NO_HEADERS)
        aborted = await store.create_upload("aborted", NO_HEADERS)
        left = await store.create_upload("left", NO_HEADERS)
        assert [entry.upload_id for entry in Journal(_copy(paper)).left] == [complete.id, aborted.id, left.id]
        await store.complete_upload(complete, [await store.upload_part(complete, 1, (b"x",))])
        await store.abort_upload(aborted)
        assert [entry.upload_id for entry in Journal(_copy(paper)).left] == [left.id]
        assert store.counts["list_uploads"] == 0
    async with life(proxy, bucket, paper) as (store, leftovers):
        await leftovers.recover()
        assert await store.list_uploads("") == ()
        assert store.counts == {"abort_upload": 1, "list_uploads": 1}
    assert Journal(paper).left == ()


@run_trio
async def test_a_large_copy_that_dies_half_way_is_cleaned_up_by_the_next_start(proxy: FaultProxy, bucket: str) -> None:
    paper = PaperInMemory()
    async with life(proxy, bucket, paper) as (store, _):
        etag = (await store.put("s", (BIG, BIG, b"tail"), NO_HEADERS)).etag
        await store.copy("s", "whole", source_etag=etag)
        assert Journal(_copy(paper)).left == ()
        proxy.add(Rule(fault="error", kind="copy_part", status=403, code="AccessDenied"))
        proxy.add(Rule(fault="error", kind="abort_upload", status=403, code="AccessDenied"))
        with pytest.raises(errors.AccessDenied):
            await store.copy("s", "half", source_etag=etag)
        proxy.clear()
        assert [upload.key for upload in await store.list_uploads("")] == ["half"]
    async with life(proxy, bucket, paper) as (store, leftovers):
        await leftovers.recover()
        assert await store.list_uploads("") == ()


@pytest.mark.parametrize("repeated", [True, False])
@run_trio
async def test_an_upload_opened_by_a_request_whose_reply_was_lost_is_aborted(
    proxy: FaultProxy, bucket: str, repeated: bool
) -> None:
    """The first request had its effect unseen; its repetition succeeds, or is refused."""
    paper = PaperInMemory()
    async with life(proxy, bucket, paper) as (store, _):
        proxy.add(Rule(fault="drop_reply", kind="create_upload", times=1))
        if repeated:
            known = {(await store.create_upload("k", NO_HEADERS)).id}
        else:
            proxy.add(Rule(fault="error", kind="create_upload", status=503, code="SlowDown"))
            with pytest.raises(errors.LostReply):
                await store.create_upload("k", NO_HEADERS)
            known = set()
        with trio.fail_after(20):
            while {upload.id for upload in await store.list_uploads("k")} != known:  # noqa: ASYNC110  # a real server
                await trio.sleep(0.1)
        for upload in await store.list_uploads("k"):
            await store.abort_upload(upload)
        with trio.fail_after(20):
            while Journal(_copy(paper)).left:  # noqa: ASYNC110  # as above
                await trio.sleep(0.1)


@pytest.mark.parametrize("off_seconds", [-600, 600])
@run_trio
async def test_an_upload_in_doubt_is_looked_for_by_the_servers_clock(
    proxy: FaultProxy, bucket: str, off_seconds: int
) -> None:
    """Its time of initiation is the server's."""
    paper = PaperInMemory()
    async with life(proxy, bucket, paper, lambda: time.time_ns() + off_seconds * 10**9) as (store, _):
        await store.list_page("")
        began = trio.current_time()
        proxy.add(Rule(fault="drop_reply", kind="create_upload", times=1))
        upload = await store.create_upload("k", NO_HEADERS)
        with trio.fail_after(20):
            while len(Journal(_copy(paper)).left) > 1:  # noqa: ASYNC110  # a real server
                await trio.sleep(0.1)
        # The window of a deadline of 1 s, what clocks may disagree by, and the idle time.
        assert 5 < trio.current_time() - began < 12
        assert [found.id for found in await store.list_uploads("k")] == [upload.id]
        await store.abort_upload(upload)


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests"), (429, "Other")])
@run_trio
async def test_a_throttled_creation_leaves_nothing_to_look_for(
    proxy: FaultProxy, bucket: str, status: int, code: str
) -> None:
    paper = PaperInMemory()
    async with life(proxy, bucket, paper) as (store, _):
        proxy.add(Rule(fault="error", kind="create_upload", status=status, code=code, times=1))
        upload = await store.create_upload("k", NO_HEADERS)
        assert store.counts["create_upload"] == 2
        assert [entry.upload_id for entry in Journal(_copy(paper)).left] == [upload.id]
        proxy.add(Rule(fault="error", kind="create_upload", status=status, code=code))
        with pytest.raises(errors.Unavailable):
            await store.create_upload("k", NO_HEADERS)
        assert [entry.upload_id for entry in Journal(_copy(paper)).left] == [upload.id]
        await store.abort_upload(upload)


@run_trio
async def test_the_uploads_of_one_key_are_asked_for_up_to_the_next_key(proxy: FaultProxy, bucket: str) -> None:
    def answered(last: str) -> str:
        uploads = "".join(f"<Upload><Key>{key}</Key><UploadId>{key}</UploadId></Upload>" for key in ("k", last))
        return (
            f"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>{last}</NextKeyMarker>"
            f"<NextUploadIdMarker>{last}</NextUploadIdMarker>{uploads}</ListMultipartUploadsResult>"
        )

    async with life(proxy, bucket, PaperInMemory()) as (store, _):
        proxy.add(Rule(fault="answer", kind="list_uploads", status=200, body=answered("k"), times=1))
        proxy.add(Rule(fault="answer", kind="list_uploads", status=200, body=answered("k/1"), times=1))
        assert [upload.id for upload in await store.list_uploads("k", exactly=True)] == ["k", "k", "k"]
        assert store.counts["list_uploads"] == 2


def _copy(paper: PaperInMemory) -> PaperInMemory:
    """As a daemon finds it that is started after a kill at this moment."""
    copied = PaperInMemory()
    copied.content[:] = paper.content
    return copied
