"""Bits that change on the network, between S3Store and a real server: no damaged object, no false acknowledgement."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from s3mount import errors
from s3mount.config import MIB, Config
from s3mount.data.file import File
from s3mount.data.journal import Journal
from s3mount.data.storage import Storage
from s3mount.data.version import Changed, Version
from s3mount.store.base import ABSENT, Condition, Headers, Stored
from s3mount.store.s3 import S3Store
from tests.paper import PaperInMemory
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.servers import Server, boto
from tests.store.places import opened

NO_HEADERS = Headers()
BIG = bytes(range(256)) * (5 * MIB // 256)
NO_CRC32 = Rule(fault="error", header="x-amz-checksum-crc32", status=501, code="NotImplemented")


@pytest.fixture
def proxy(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with FaultProxy(seaweedfs.endpoint_url) as proxy:
        yield proxy


def config(proxy: FaultProxy, bucket: str, **options: object) -> Config:
    quick: dict[str, object] = {
        "backoff_base_seconds": 0.01,
        "backoff_max_seconds": 0.1,
        "stall_timeout_seconds": 1.0,
        "retry_seconds": 0.0,
    }
    return Config(bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1", **(quick | options))  # type: ignore[arg-type]


def body_of(server: Server, bucket: str, key: str) -> bytes:
    return bytes(boto(server).get_object(Bucket=bucket, Key=key)["Body"].read())


async def upload(store: S3Store, key: str) -> None:
    opened = await store.create_upload(key, NO_HEADERS)
    parts = [await store.upload_part(opened, 1, (BIG,)), await store.upload_part(opened, 2, (b"tail",))]
    await store.complete_upload(opened, parts)


@pytest.mark.parametrize("refuses_crc32", [False, True])
@run_trio
async def test_a_body_that_was_damaged_is_refused_and_sent_again(
    proxy: FaultProxy, bucket: str, seaweedfs: Server, refuses_crc32: bool
) -> None:
    """With CRC32, and with Content-MD5 where the store does not take it."""
    async with opened(config(proxy, bucket, stall_timeout_seconds=20.0)) as store:
        if refuses_crc32:
            proxy.add(NO_CRC32)
            await store.put("first", (b"x",), NO_HEADERS)
        proxy.forget()
        for number, (body, condition) in enumerate([((b"small",), ABSENT), ((BIG, b"tail"), Condition())]):
            proxy.add(Rule(fault="flip_body", kind="put", key=f"k{number}", times=1))
            await store.put(f"k{number}", body, NO_HEADERS, condition)
            assert body_of(seaweedfs, bucket, f"k{number}") == b"".join(body)
            assert [seen.status for seen in proxy.requests(f"k{number}")] == [400, 200]
        proxy.add(Rule(fault="flip_body", kind="upload_part", key="m", skip=1, times=1))
        await upload(store, "m")
        assert body_of(seaweedfs, bucket, "m") == BIG + b"tail"
        assert [seen.status for seen in proxy.requests("m") if seen.kind == "upload_part"] == [200, 400, 200]
        checked = {"content-md5"} if refuses_crc32 else {"x-amz-checksum-crc32"}
        sent = [seen for seen in proxy.requests() if seen.kind in ("put", "upload_part")]
        assert all(checked == seen.carried.keys() & {"content-md5", "x-amz-checksum-crc32"} for seen in sent)


@run_trio
async def test_a_body_that_is_damaged_again_and_again_is_an_error_and_leaves_the_old_object(
    proxy: FaultProxy, bucket: str, seaweedfs: Server
) -> None:
    async with opened(config(proxy, bucket, attempts_min=3, stall_timeout_seconds=20.0)) as store:
        await store.put("k", (b"old",), NO_HEADERS)
        proxy.add(Rule(fault="flip_body", kind="put"))
        with pytest.raises(errors.StoreError):
            await store.put("k", (b"new",), NO_HEADERS)
        assert body_of(seaweedfs, bucket, "k") == b"old"
        assert proxy.counts()["put"] == 4


@run_trio
async def test_without_checksums_a_damaged_body_is_stored(proxy: FaultProxy, bucket: str, seaweedfs: Server) -> None:
    """What --upload-checksum off gives up; and that these tests can fail."""
    async with opened(config(proxy, bucket, checksum=False)) as store:
        proxy.add(Rule(fault="flip_body", kind="put", times=1))
        await store.put("k", (b"body",), NO_HEADERS)
        assert body_of(seaweedfs, bucket, "k") == bytes([ord("b") ^ 0x10]) + b"ody"


# Replies.

ETAG = 'etag: "?.*?([0-9a-f])'
LENGTH = r"content-length: \d*(\d)"
RANGE_START = r"content-range: bytes (\d)"
RANGE_SIZE = r"content-range: bytes .*/\d*(\d)"


@pytest.mark.parametrize(
    ("kind", "pattern", "skip"),
    [
        ("put", ETAG, 0),
        ("put", LENGTH, 0),
        ("create_upload", LENGTH, 0),
        ("upload_part", ETAG, 0),
        ("upload_part", LENGTH, 0),
        ("complete_upload", LENGTH, 0),
        ("head", ETAG, 0),
        ("head", LENGTH, 0),
        ("head", ETAG, 1),
        ("head", LENGTH, 1),
        ("get", ETAG, 0),
        ("get", LENGTH, 0),
        ("get", RANGE_START, 0),
        ("get", RANGE_SIZE, 0),
    ],
)
@run_trio
async def test_a_damaged_reply_never_makes_a_sync_succeed_that_did_not(
    proxy: FaultProxy, bucket: str, seaweedfs: Server, tmp_path: Path, kind: str, pattern: str, skip: int
) -> None:
    """What was acknowledged is in the bucket; what was not is an error; and a file opened anew can be changed."""
    settings = config(proxy, bucket)
    content = BIG + BIG + b"tail" if "upload" in kind else b"content"
    async with opened(settings) as store, trio.open_nursery() as nursery:
        storage = Storage(
            store,
            settings,
            nursery,
            staging_dir=tmp_path,
            staging_limit_bytes=256 * MIB,
            journal=Journal(PaperInMemory()),
        )
        proxy.add(Rule(fault="flip_reply", kind=kind, pattern=pattern, skip=skip, times=1))
        file = File(storage, "k", None, NO_HEADERS, on_stored=ignore, on_conflict=ignore)
        await file.write(0, content)
        acknowledged = b""
        for more in (b"", b"more"):
            if more:
                await file.write(len(content), more)
            refusal: errors.S3MountError | None = None
            try:
                await file.sync()
            except errors.S3MountError as error:
                refusal = error
            else:
                acknowledged = content + more
            assert refusal is None or refusal.errno in (errno.EIO, errno.ESTALE)
            if acknowledged:
                assert body_of(seaweedfs, bucket, "k") == acknowledged
            assert kind in ("head", "get") or any(seen.flipped for seen in proxy.requests())
        file.close()
        await store.put("k", (content,), NO_HEADERS)
        info = await store.head("k")
        file = File(storage, "k", Version("k", info.etag, info.size), NO_HEADERS, on_stored=ignore, on_conflict=ignore)
        try:
            await file.validate_for_writing()
            await file.write(file.size, b" appended")
            await file.sync()
        except (Changed, errors.S3MountError):
            assert body_of(seaweedfs, bucket, "k") == content
        else:
            assert body_of(seaweedfs, bucket, "k") == content + b" appended"
        assert any(seen.flipped for seen in proxy.requests())
        file.close()
        nursery.cancel_scope.cancel()


def ignore(_file: File, _stored: Stored | None = None) -> None:
    return
