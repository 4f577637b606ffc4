"""What `s3mount status` counts of the store: each attempt once, by how it ended, with the bytes that moved."""

from typing import Any

import pytest
import trio

from s3mount import errors
from s3mount.config import Config
from s3mount.store.base import ABSENT, Headers
from s3mount.store.s3 import S3Store
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.servers import Server
from tests.store.places import opened

NO_HEADERS = Headers()


def config_of(proxy: FaultProxy, bucket: str, **options: object) -> Config:
    quick: dict[str, object] = {"backoff_base_seconds": 0.01, "backoff_max_seconds": 0.1}
    return Config(bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1", **(quick | options))  # type: ignore[arg-type]


def told(store: S3Store) -> dict[tuple[str, str, int], int]:
    """The count of each operation, outcome and status."""
    answers: Any = store.figures["answers"]
    return {(one["operation"], one["outcome"], one["status"]): one["count"] for one in answers}


@run_trio
async def test_every_attempt_is_counted_by_how_it_ended(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        for fault in (
            Rule(fault="error", kind="put", status=503, code="SlowDown", times=1),
            Rule(fault="error", kind="put", status=500, code="InternalError", times=1),
            Rule(fault="reset", kind="put", times=1),
        ):
            proxy.add(fault)
        await store.put("k", (b"12345",), NO_HEADERS)
        with pytest.raises(errors.PreconditionFailed):
            await store.put("k", (b"12345",), NO_HEADERS, ABSENT)
        with pytest.raises(errors.NotFound):
            await store.head("absent")
        proxy.add(Rule(fault="error", kind="get", status=403, code="AccessDenied", times=1))
        with pytest.raises(errors.AccessDenied):
            await store.get("k", 0, memoryview(bytearray(5)))
        assert told(store) == {
            ("put", "slow_down", 503): 1,
            ("put", "server_error", 500): 1,
            ("put", "broken_connection", 0): 1,
            ("put", "ok", 200): 1,
            ("put", "conflict", 412): 1,
            ("head", "not_found", 404): 1,
            ("get", "denied", 403): 1,
        }
        counts: Any = store.figures["requests"]
        assert sum(told(store).values()) == sum(counts.values())


@run_trio
async def test_bytes_count_as_often_as_they_moved_and_times_as_often_as_was_asked(
    proxy: FaultProxy, bucket: str
) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        body = bytes(range(256)) * 4096
        await store.put("k", (body,), NO_HEADERS)
        assert store.figures["sent_bytes"] == len(body)
        before: Any = store.figures["received_bytes"]
        proxy.add(Rule(fault="cut_body", kind="get", cut_at_bytes=1000, times=1))
        into = bytearray(len(body))
        await store.get("k", 0, memoryview(into))
        assert bytes(into) == body
        assert store.figures["received_bytes"] == before + len(body), "what had come was not fetched again"
        assert told(store)["get", "broken_connection", 0] == 1
        seconds: Any = store.figures["seconds"]
        assert sum(seconds["get"]["classes"].values()) == 2
        assert 0 < seconds["get"]["total"] < 60


@run_trio
async def test_a_silent_store_is_a_timeout_and_one_that_is_not_there_unreachable(
    proxy: FaultProxy, bucket: str, seaweedfs: Server
) -> None:
    async with opened(config_of(proxy, bucket, stall_timeout_seconds=1.5, retry_seconds=1.0)) as store:
        await store.put("k", (b"x",), NO_HEADERS)
        assert store.figures["last_failure_seconds"] is None
        proxy.add(Rule(fault="black_hole", kind="head"))
        with pytest.raises(errors.Unavailable):
            await store.head("k")
        assert told(store)["head", "timeout", 0] >= 1
        answered: Any = store.figures["last_answer_seconds"]
        failed: Any = store.figures["last_failure_seconds"]
        assert failed < answered
        proxy.stop()
        with pytest.raises(errors.Unavailable):
            await store.put("k", (b"y",), NO_HEADERS)
        assert told(store)["put", "unreachable", 0] >= 1


@run_trio
async def test_a_request_that_nobody_waits_for_any_more_is_cancelled_and_no_failure(
    proxy: FaultProxy, bucket: str
) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        proxy.add(Rule(fault="black_hole", kind="head"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.head, "k")
            while not proxy.counts()["head"]:  # noqa: ASYNC110 - another process has it
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert told(store) == {("head", "cancelled", 0): 1}
        assert store.figures["last_failure_seconds"] is None


@run_trio
async def test_an_error_in_the_body_of_a_200_is_no_answer(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        etag = (await store.put("k", (b"x",), NO_HEADERS)).etag
        document = "<Error><Code>InternalError</Code></Error>"
        proxy.add(Rule(fault="answer", kind="copy", status=200, body=document, times=1))
        await store.copy("k", "k2", source_etag=etag)
        assert told(store)["copy", "bad_reply", 200] == 1
