"""S3Store on a real server behind a proxy that loses replies, cuts bodies and answers errors."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from s3mount import errors
from s3mount.config import MIB, Config
from s3mount.store import endpoint
from s3mount.store.base import ABSENT, Condition, Headers
from s3mount.store.s3 import S3Store
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.servers import Server, boto
from tests.store.places import opened

NO_HEADERS = Headers()
BIG = bytes(range(256)) * (5 * MIB // 256)


@asynccontextmanager
async def mounted(proxy: FaultProxy, bucket: str, **options: object) -> AsyncIterator[S3Store]:
    quick: dict[str, object] = {
        "backoff_base_seconds": 0.01,
        "backoff_max_seconds": 0.1,
        "stall_timeout_seconds": 10.0,
        "retry_seconds": 0.0,
    }
    config = Config(bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1", **(quick | options))  # type: ignore[arg-type]
    async with opened(config) as store:
        yield store


def body_of(server: Server, bucket: str, key: str) -> bytes:
    return bytes(boto(server).get_object(Bucket=bucket, Key=key)["Body"].read())


# Replies lost after the effect: no false conflict, no duplicate, no loss.


@run_trio
async def test_a_put_whose_reply_is_lost_succeeds(proxy: FaultProxy, bucket: str, seaweedfs: Server) -> None:
    async with mounted(proxy, bucket) as store:
        for number, condition in enumerate([Condition(), ABSENT, None]):
            key = f"k{number}"
            if condition is None:
                condition = Condition(etag=(await store.put(key, (b"old",), NO_HEADERS)).etag)
            proxy.add(Rule(fault="drop_reply", kind="put", key=key, times=1))
            stored = await store.put(key, (b"new ", b"body"), NO_HEADERS, condition)
            assert body_of(seaweedfs, bucket, key) == b"new body"
            assert (await store.head(key)).etag == stored.etag
            assert (await store.head(key)).headers.metadata == {}


@run_trio
async def test_a_creation_of_somebody_else_with_the_same_bytes_is_not_taken_for_ours(
    proxy: FaultProxy, bucket: str
) -> None:
    async with mounted(proxy, bucket) as store:
        await store.put("lock", (b"1",), NO_HEADERS, ABSENT)
        # Our own request is swallowed before the effect: the 412 of its repetition is the other's doing.
        proxy.add(Rule(fault="reset", kind="put", key="lock", times=1))
        with pytest.raises(errors.PreconditionFailed):
            await store.put("lock", (b"1",), NO_HEADERS, ABSENT)


@run_trio
async def test_an_upload_of_somebody_else_with_the_same_parts_is_not_taken_for_ours(
    proxy: FaultProxy, bucket: str
) -> None:
    """Opened for any case, completed on condition of absence: there is no token, and the etag proves nothing."""
    async with mounted(proxy, bucket) as store:
        theirs, ours = await store.create_upload("k", NO_HEADERS), await store.create_upload("k", NO_HEADERS)
        parts = [[await store.upload_part(upload, 1, (BIG,))] for upload in (theirs, ours)]
        await store.complete_upload(theirs, parts[0], ABSENT)
        proxy.add(Rule(fault="reset", kind="complete_upload", times=1))
        with pytest.raises(errors.PreconditionFailed):
            await store.complete_upload(ours, parts[1], ABSENT)
        await store.abort_upload(ours)


@run_trio
async def test_a_conflict_found_by_a_repetition_stays_a_conflict(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(proxy, bucket) as store:
        old = (await store.put("k", (b"old",), NO_HEADERS)).etag
        await store.put("k", (b"theirs",), NO_HEADERS)
        proxy.add(Rule(fault="reset", kind="put", key="k", times=1))
        with pytest.raises(errors.PreconditionFailed):
            await store.put("k", (b"ours",), NO_HEADERS, Condition(etag=old))


@run_trio
async def test_a_delete_whose_reply_is_lost_succeeds(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(proxy, bucket) as store:
        etag = (await store.put("k", (b"x",), NO_HEADERS)).etag
        proxy.add(Rule(fault="drop_reply", kind="delete", times=1))
        await store.delete("k", Condition(etag=etag))
        with pytest.raises(errors.NotFound):
            await store.head("k")


@run_trio
async def test_a_copy_whose_reply_is_lost_succeeds(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(proxy, bucket) as store:
        etag = (await store.put("s", (b"x",), Headers("text/css"))).etag
        for target, condition in (("t", Condition()), ("u", ABSENT)):
            proxy.add(Rule(fault="drop_reply", kind="copy", key=target, times=1))
            await store.copy("s", target, source_etag=etag, condition=condition)
            assert (await store.head(target)).headers == Headers("text/css")


@run_trio
async def test_an_upload_by_parts_survives_the_loss_of_each_reply(
    proxy: FaultProxy, bucket: str, seaweedfs: Server
) -> None:
    async with mounted(proxy, bucket) as store:
        for number, condition in enumerate([Condition(), ABSENT, None]):
            key = f"m{number}"
            if condition is None:
                condition = Condition(etag=(await store.put(key, (b"old",), NO_HEADERS)).etag)
            for kind in ("create_upload", "upload_part", "complete_upload"):
                proxy.add(Rule(fault="drop_reply", kind=kind, key=key, times=1))
            upload = await store.create_upload(key, NO_HEADERS, condition)
            parts = [await store.upload_part(upload, 1, (BIG,)), await store.upload_part(upload, 2, (b"tail",))]
            stored = await store.complete_upload(upload, parts, condition)
            assert body_of(seaweedfs, bucket, key) == BIG + b"tail"
            assert (await store.head(key)).etag == stored.etag
            proxy.add(Rule(fault="drop_reply", kind="abort_upload", key=key, times=1))
            await store.abort_upload(upload)


@run_trio
async def test_a_reply_lost_for_good_is_told_and_leaves_the_key_in_doubt(
    proxy: FaultProxy, bucket: str, seaweedfs: Server
) -> None:
    async with mounted(proxy, bucket, attempts_min=2) as store:
        proxy.add(Rule(fault="drop_reply", kind="put", times=2))
        with pytest.raises(errors.LostReply):
            await store.put("k", (b"lost",), NO_HEADERS)
        store.counts.clear()
        await store.put("k", (b"next",), NO_HEADERS)
        assert store.counts == {"head": 1, "put": 1}
        await store.put("k", (b"last",), NO_HEADERS)
        assert store.counts == {"head": 1, "put": 2}
        assert body_of(seaweedfs, bucket, "k") == b"last"


# Failures of the road and of the server.


@run_trio
async def test_a_body_cut_short_is_resumed_on_condition_of_the_etag(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(proxy, bucket) as store:
        await store.put("k", (BIG,), NO_HEADERS)
        for cut in (100_000, 1_000_000):
            proxy.add(Rule(fault="cut_body", kind="get", cut_at_bytes=cut, times=1))
        proxy.forget()
        buffer = bytearray(5 * MIB)
        arrived: list[int] = []
        await store.get("k", 0, memoryview(buffer), arrived=arrived.append)
        assert bytes(buffer) == BIG
        assert arrived == sorted(arrived)
        assert arrived[-1] == 5 * MIB
        ranges = [int(seen.range.removeprefix("bytes=").split("-")[0]) for seen in proxy.requests()]
        assert ranges == sorted(ranges)
        assert len(ranges) == 3
        assert ranges[1] > 0


@run_trio
async def test_an_object_that_changes_under_a_resumed_read_gives_no_mixed_bytes(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(proxy, bucket) as store:
        await store.put("k", (BIG,), NO_HEADERS)
        proxy.add(Rule(fault="cut_body", kind="get", cut_at_bytes=1_000_000, times=1))
        proxy.add(Rule(kind="get", delay_seconds=1.0))
        async with trio.open_nursery() as nursery:

            async def change() -> None:
                await trio.sleep(0.5)
                await store.put("k", (b"other" * MIB,), NO_HEADERS)

            nursery.start_soon(change)
            with pytest.raises(errors.PreconditionFailed):
                await store.get("k", 0, memoryview(bytearray(5 * MIB)))


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests")])
@run_trio
async def test_failures_of_the_server_are_asked_again(proxy: FaultProxy, bucket: str, status: int, code: str) -> None:
    async with mounted(proxy, bucket) as store:
        proxy.add(Rule(fault="error", status=status, code=code, times=2))
        await store.put("k", (b"x",), NO_HEADERS, ABSENT)
        proxy.add(Rule(fault="error", status=status, code=code, times=2))
        assert (await store.head("k")).size == 1
        assert store.counts == {"put": 3, "head": 3}
        proxy.add(Rule(fault="error", status=status, code=code))
        with pytest.raises(errors.Unavailable):
            await store.head("k")
        assert store.counts["head"] == 3 + 6


@run_trio
async def test_a_black_hole_ends_in_time(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(
        proxy, bucket, stall_timeout_seconds=0.3, metadata_deadline_seconds=1.0, attempts_min=3
    ) as store:
        proxy.add(Rule(fault="black_hole"))
        began = trio.current_time()
        for call in (store.head("k"), store.list_page(""), store.get("k", 0, memoryview(bytearray(10)))):
            with pytest.raises(errors.Unavailable):
                await call
        with pytest.raises(errors.LostReply):
            await store.put("k", (b"x",), NO_HEADERS)
        assert trio.current_time() - began < 10
        proxy.clear()
        await store.put("k", (b"x",), NO_HEADERS)


@run_trio
async def test_expired_credentials_are_resolved_again_once(
    proxy: FaultProxy, bucket: str, seaweedfs: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seaweedfs.limited is not None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.limited[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.limited[1])
    monkeypatch.setattr(endpoint, "RENEW_SECONDS", 0.0)
    async with mounted(proxy, bucket) as store:
        with pytest.raises(errors.AccessDenied):
            await store.put("k", (b"x",), NO_HEADERS)
        proxy.add(Rule(fault="error", status=403, code="ExpiredToken", times=2))
        # Nothing new to be had: denied.
        with pytest.raises(errors.AccessDenied):
            await store.list_page("")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_key)
        await store.put("k", (b"x",), NO_HEADERS)


@run_trio
async def test_a_refused_head_is_settled_by_a_list(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(proxy, bucket) as store:
        await store.put("there", (b"x",), NO_HEADERS)
        proxy.add(Rule(fault="error", kind="head", status=403, code="AccessDenied"))
        with pytest.raises(errors.AccessDenied):
            await store.head("there")
        with pytest.raises(errors.NotFound):
            await store.head("the")
        proxy.add(Rule(fault="error", kind="list", status=403, code="AccessDenied"))
        with pytest.raises(errors.AccessDenied):
            await store.head("the")


@run_trio
async def test_objects_over_the_copy_limit_are_copied_by_parts(
    proxy: FaultProxy, bucket: str, seaweedfs: Server
) -> None:
    async with mounted(proxy, bucket, copy_max_bytes=5 * MIB) as store:
        headers = Headers("text/css", metadata={"mode": "33188"})
        etag = (await store.put("s", (BIG, BIG, b"tail"), headers)).etag
        boto(seaweedfs).put_object_tagging(
            Bucket=bucket, Key="s", Tagging={"TagSet": [{"Key": "a b", "Value": "c+d:e"}]}
        )
        await store.copy("s", "t", source_etag=etag, condition=ABSENT)
        assert body_of(seaweedfs, bucket, "t") == BIG + BIG + b"tail"
        assert (await store.head("t")).headers == headers
        assert store.counts["copy_part"] == 3
        tags = boto(seaweedfs).get_object_tagging(Bucket=bucket, Key="t")["TagSet"]
        assert tags == [{"Key": "a b", "Value": "c+d:e"}]
        with pytest.raises(errors.PreconditionFailed):
            await store.copy("s", "t", source_etag=etag, condition=ABSENT)
        assert await store.list_uploads("") == ()


# What is refused at start, in words.


async def refusal(config: Config, shift_seconds: int = 0) -> str:
    store = S3Store(config, clock_ns=lambda: time.time_ns() + shift_seconds * 10**9)
    words = ""
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(store.run)
            await store.check()
        except errors.StartError as error:
            words = str(error)
        nursery.cancel_scope.cancel()
    assert words
    assert "\n" not in words
    return words


@run_trio
async def test_check_says_what_to_do(
    proxy: FaultProxy, bucket: str, seaweedfs: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1", backoff_base_seconds=0.01, retry_seconds=0.0
    )
    async with opened(config) as store:
        await store.check()
        assert store.counts == {"list": 1}
    missing = Config(bucket="no-such-bucket", endpoint_url=proxy.endpoint_url, backoff_base_seconds=0.01)
    assert "no bucket 'no-such-bucket'" in await refusal(missing)
    closed = Config(bucket=bucket, endpoint_url="http://127.0.0.1:1", backoff_base_seconds=0.01)
    assert "--endpoint-url" in await refusal(closed)
    assert " s off the store" in await refusal(config, shift_seconds=-1200)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-key")
    words = await refusal(config)
    assert "SignatureDoesNotMatch" in words
    assert "wrong-secret-key" not in words
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    assert "InvalidAccessKeyId" in await refusal(config)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials" in await refusal(config)


@run_trio
async def test_a_clock_that_is_minutes_off_is_corrected(proxy: FaultProxy, bucket: str) -> None:
    config = Config(bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1")
    async with opened(config, lambda: time.time_ns() - 600 * 10**9) as store:
        await store.check()
        stored = await store.put("k", (b"x",), NO_HEADERS)
        assert abs(stored.last_modified_ns - time.time_ns()) < 5e9


# Stores that refuse conditions.


@pytest.mark.parametrize("status", [501, 400])
@run_trio
async def test_conditions_that_a_store_refuses_are_not_sent_any_more(
    status: int, proxy: FaultProxy, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("put", "complete_upload", "copy"):
        proxy.add(Rule(fault="error", kind=kind, header="if-(none-)?match", status=status, code="NotImplemented"))
    async with mounted(proxy, bucket) as store:
        etag = ""
        for number in range(3):
            await store.put(f"a{number}", (b"1",), NO_HEADERS, ABSENT)
            etag = (await store.put(f"a{number}", (b"2",), NO_HEADERS, Condition(etag='"another"'))).etag
            upload = await store.create_upload(f"b{number}", NO_HEADERS, ABSENT)
            await store.complete_upload(upload, [await store.upload_part(upload, 1, (b"3",))], ABSENT)
            await store.copy(f"a{number}", f"c{number}", source_etag=etag, condition=ABSENT)
        refused = [request.kind for request in proxy.requests() if request.status == status]
        # Once each; but a PUT might have been refused for its checksum. What no PUT has, no copy is asked for.
        assert refused == ["put", "put", "put", "put"]
        assert (await store.head("b2")).size == 1
        with pytest.raises(errors.PreconditionFailed):
            await store.delete("a0", Condition(etag='"another"'))
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "refuses conditions" in warnings[0]


@run_trio
async def test_what_is_refused_for_another_reason_does_not_cost_the_conditions(proxy: FaultProxy, bucket: str) -> None:
    proxy.add(Rule(fault="error", kind="put", key="bad", status=400, code="InvalidArgument"))
    async with mounted(proxy, bucket) as store:
        with pytest.raises(errors.StoreError, match="InvalidArgument"):
            await store.put("bad", (b"1",), NO_HEADERS, ABSENT)
        await store.put("good", (b"1",), NO_HEADERS, ABSENT)
        with pytest.raises(errors.PreconditionFailed):
            await store.put("good", (b"2",), NO_HEADERS, ABSENT)
