"""What objects carry because of options and tags: the contract of tags on every store, headers as servers see them."""

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3mount import errors
from s3mount.config import MIB, Config
from s3mount.store.base import ABSENT, Condition, Headers, ObjectStore
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.servers import Server, boto, make_bucket
from tests.store.conftest import made_place
from tests.store.places import Place, opened

NO_HEADERS = Headers()
TAGGED = Headers("text/css", tags="a%20b=c%2Bd%3Ae&empty=")
BIG = bytes(range(256)) * (5 * MIB // 256)


@pytest.fixture(params=["memory", "seaweedfs", "moto", "write-back"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    yield from made_place(request, monkeypatch, tmp_path)


@run_trio
async def test_tags_are_stored_with_an_object_and_go_with_the_next_one(place: Place) -> None:
    async with place.open() as store:
        await store.put("k", (b"x",), TAGGED)
        info = await store.head("k")
        assert (info.tag_count, info.headers) == (2, Headers("text/css"))
        assert await store.tags("k") == TAGGED.tags
        read = await store.get("k", 0, memoryview(bytearray(1)))
        assert read is not None
        assert read.tag_count == 2
        await store.put("k", (b"y",), NO_HEADERS)
        assert (await store.head("k")).tag_count == 0
        assert await store.tags("k") == ""
        with pytest.raises(errors.NotFound):
            await store.tags("none")


@run_trio
async def test_tags_are_stored_with_an_upload_by_parts(place: Place) -> None:
    async with place.open() as store:
        upload = await store.create_upload("m", TAGGED)
        parts = [await store.upload_part(upload, number, (body,)) for number, body in ((1, BIG), (2, b"tail"))]
        await store.complete_upload(upload, parts)
        assert (await store.head("m")).tag_count == 2
        assert await store.tags("m") == TAGGED.tags


@run_trio
async def test_tags_come_along_with_every_copy(place: Place) -> None:
    async with place.open() as store:
        etag = (await store.put("s", (b"x",), TAGGED)).etag
        other = Headers("text/html", tags="not=sent")
        await store.copy("s", "kept", source_etag=etag)
        await store.copy("s", "created", source_etag=etag, condition=ABSENT)
        await store.copy("s", "replaced", source_etag=etag, headers=other)
        for target in ("kept", "created", "replaced"):
            assert await store.tags(target) == TAGGED.tags, target
        assert (await store.head("replaced")).headers == Headers("text/html")
        await store.copy("s", "s", source_etag=etag, headers=other)
        assert await store.tags("s") == TAGGED.tags


# What a server sees.


@pytest.fixture
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Before moto, which takes every header and checks none."""
    server: Server = request.getfixturevalue("moto_server")
    for variable, value in server.environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with FaultProxy(server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def bucket(moto_server: Server) -> str:
    return make_bucket(moto_server, f"carried-{os.urandom(6).hex()}")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "customer.key"
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    return path


def config(proxy: FaultProxy, bucket: str, **options: object) -> Config:
    found = {
        "bucket": bucket,
        "endpoint_url": proxy.endpoint_url,
        "region": "us-east-1",
        "backoff_base_seconds": 0.01,
        "retry_seconds": 0.0,
    }
    return Config(**(found | options))  # type: ignore[arg-type]  # names and values are the test's business


async def everything(store: ObjectStore) -> None:
    """Each operation of the store at least once."""
    etag = (await store.put("s", (b"x",), NO_HEADERS)).etag
    await store.head("s")
    await store.tags("s")
    await store.get("s", 0, memoryview(bytearray(1)))
    await store.list_page("")
    await store.copy("s", "t", source_etag=etag)
    upload = await store.create_upload("m", NO_HEADERS)
    await store.list_uploads("")
    part = await store.upload_part(upload, 1, (BIG,))
    copied = await store.copy_part(upload, 2, "s", 0, 1, source_etag=etag)
    await store.complete_upload(upload, [part, copied])
    await store.abort_upload(await store.create_upload("n", NO_HEADERS))
    await store.delete("s")


OPERATIONS = {
    "put", "head", "get_tagging", "get", "list", "copy", "create_upload", "list_uploads", "upload_part", "copy_part",
    "complete_upload", "abort_upload", "delete",
}  # fmt: skip
CREATES = {"put", "create_upload", "copy"}
COPIES = {"copy", "copy_part"}
KEYED = {"put", "create_upload", "upload_part", "copy_part", "complete_upload", "copy", "get", "head"}
CHECKED = ("content-md5", "x-amz-checksum-", "x-amz-sdk-checksum-")


def who_carried(proxy: FaultProxy, name: str) -> dict[str, set[str]]:
    """The operations whose requests had the header, by its values."""
    found: dict[str, set[str]] = {}
    for request in proxy.requests():
        if name in request.carried:
            found.setdefault(request.carried[name], set()).add(request.kind)
    return found


@run_trio
async def test_nothing_is_carried_that_was_not_asked_for(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket)) as store:
        await everything(store)
    names = {name for request in proxy.requests() for name in request.carried}
    copying = {f"x-amz-copy-source{rest}" for rest in ("", "-if-match", "-range")}
    assert names == copying | {"x-amz-checksum-crc32", "x-amz-checksum-algorithm", "x-amz-checksum-type"}
    assert proxy.counts().keys() == OPERATIONS


@run_trio
async def test_storage_class_encryption_and_acl_are_sent_with_what_makes_an_object(
    proxy: FaultProxy, bucket: str
) -> None:
    wanted = {
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "alias/mine",
        "x-amz-acl": "bucket-owner-full-control",
    }
    options = dict(zip(("storage_class", "sse", "sse_kms_key_id", "acl"), wanted.values(), strict=True))
    async with opened(config(proxy, bucket, **options)) as store:
        await everything(store)
        for name, value in wanted.items():
            assert who_carried(proxy, name) == {value: CREATES}, name
        assert (await store.head("m")).storage_class == "STANDARD_IA"


@run_trio
async def test_a_copy_by_parts_makes_an_object_as_any_other_upload_does(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket, copy_max_bytes=5 * MIB, storage_class="STANDARD_IA")) as store:
        etag = (await store.put("s", (BIG, b"tail"), TAGGED)).etag
        await store.copy("s", "t", source_etag=etag)
        assert who_carried(proxy, "x-amz-storage-class") == {"STANDARD_IA": {"put", "create_upload"}}
        info = await store.head("t")
        assert (info.storage_class, info.headers, info.tag_count) == ("STANDARD_IA", Headers("text/css"), 2)


@run_trio
async def test_requester_and_expected_owner_are_told_in_every_request(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket, requester_pays=True, expected_bucket_owner="123456789012")) as store:
        await everything(store)
    assert who_carried(proxy, "x-amz-request-payer") == {"requester": OPERATIONS}
    assert who_carried(proxy, "x-amz-expected-bucket-owner") == {"123456789012": OPERATIONS}
    assert who_carried(proxy, "x-amz-source-expected-bucket-owner") == {"123456789012": COPIES}


@run_trio
async def test_a_bucket_of_another_owner_is_refused_in_words_at_start(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket, expected_bucket_owner="123456789012")) as store:
        await store.check()
        assert who_carried(proxy, "x-amz-expected-bucket-owner") == {"123456789012": {"list"}}
        proxy.add(Rule(fault="error", header="x-amz-expected-bucket-owner", status=403, code="AccessDenied"))
        with pytest.raises(errors.StartError, match="--expected-bucket-owner"):
            await store.check()


@run_trio
async def test_a_customers_key_goes_with_every_request_that_reads_or_writes_bytes(
    proxy: FaultProxy, bucket: str, key_file: Path
) -> None:
    key = key_file.read_bytes()
    values = ("AES256", base64.b64encode(key).decode(), base64.b64encode(hashlib.md5(key).digest()).decode())
    async with opened(config(proxy, bucket, sse_customer_key_file=key_file)) as store:
        await everything(store)
    for start, operations in (("x-amz-", KEYED), ("x-amz-copy-source-", COPIES)):
        for word, value in zip(("algorithm", "key", "key-md5"), values, strict=True):
            name = f"{start}server-side-encryption-customer-{word}"
            assert who_carried(proxy, name) == {value: operations}, name


@run_trio
async def test_upload_checksum_off_sends_no_checksum_at_all(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket, checksum=False)) as store:
        await everything(store)
    assert proxy.counts()["put"] == 1
    assert [request for request in proxy.requests() if any(name.startswith(CHECKED) for name in request.carried)] == []


@run_trio
async def test_upload_checksum_on_sends_one_with_every_body(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket)) as store:
        await everything(store)
    crc32 = {kind for kinds in who_carried(proxy, "x-amz-checksum-crc32").values() for kind in kinds}
    assert crc32 == {"put", "upload_part"}


# A key of the customer's own.


@run_trio
async def test_what_is_encrypted_with_a_customers_key_is_read_with_it_only(
    seaweedfs: Server, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    mine = Config(bucket=make_bucket(seaweedfs, f"ssec-{os.urandom(6).hex()}"), sse_customer_key_file=key_file)
    plain = Config(bucket=mine.bucket)
    async with opened(mine) as store:
        etag = (await store.put("k", (b"secret",), NO_HEADERS, ABSENT)).etag
        etag = (await store.put("k", (b"secret too",), NO_HEADERS, Condition(etag=etag))).etag
        assert (await store.head("k")).headers.metadata == {}
        await store.copy("k", "c", source_etag=etag)
        upload = await store.create_upload("m", NO_HEADERS)
        parts = [await store.upload_part(upload, number, (body,)) for number, body in ((1, BIG), (2, b"tail"))]
        await store.complete_upload(upload, parts)
        for key, start, content in (("k", 0, b"secret too"), ("c", 7, b"too"), ("m", 5 * MIB, b"tail")):
            buffer = bytearray(len(content))
            assert await store.get(key, start, memoryview(buffer)) is not None
            assert buffer == content
    async with opened(plain) as store:
        with pytest.raises(errors.AccessDenied):
            await store.head("k")
        with pytest.raises(errors.StoreError):
            await store.get("k", 0, memoryview(bytearray(1)))


@pytest.mark.parametrize("by_option", [True, False])
@run_trio
async def test_what_kms_encrypts_is_recognised_after_a_lost_reply_although_its_etag_is_no_digest(
    proxy: FaultProxy, bucket: str, moto_server: Server, by_option: bool
) -> None:
    """Asked for by an option, or by the bucket's own settings, which the first reply tells."""
    if not by_option:
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
        boto(moto_server).put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    async with opened(config(proxy, bucket, sse="aws:kms" if by_option else None)) as store:
        etag = (await store.put("k", (b"old",), NO_HEADERS)).etag
        proxy.add(Rule(fault="drop_reply", kind="put", key="k", times=1))
        proxy.add(Rule(fault="flip_reply", kind="head", pattern='etag: "(.)'))
        await store.put("k", (b"new",), NO_HEADERS, Condition(etag=etag))
        assert proxy.counts() == {"put": 3, "head": 1}
        assert (await store.head("k")).headers.metadata == {}


@run_trio
async def test_what_nobody_encrypts_carries_no_token(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket)) as store:
        etag = (await store.put("k", (b"old",), NO_HEADERS)).etag
        await store.put("k", (b"new",), NO_HEADERS, Condition(etag=etag))
    assert not any("x-amz-meta-s3mount-write" in seen.carried for seen in proxy.requests())


@run_trio
async def test_tags_that_may_not_be_read_are_told_by_the_missing_permission(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket, copy_max_bytes=5 * MIB)) as store:
        etag = (await store.put("s", (BIG, b"tail"), TAGGED)).etag
        proxy.add(Rule(fault="error", kind="get_tagging", status=403, code="AccessDenied"))
        for call in (store.tags("s"), store.copy("s", "t", source_etag=etag)):
            with pytest.raises(errors.AccessDenied, match="s3:GetObjectTagging"):
                await call
        assert await store.list_uploads("") == ()


@run_trio
async def test_a_store_that_knows_no_tags_has_none(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config(proxy, bucket, copy_max_bytes=5 * MIB)) as store:
        etag = (await store.put("s", (BIG, b"tail"), TAGGED)).etag
        for status, code in ((501, "NotImplemented"), (405, "MethodNotAllowed")):
            proxy.add(Rule(fault="error", kind="get_tagging", status=status, code=code, times=2))
            assert await store.tags("s") == ""
            await store.copy("s", "t", source_etag=etag)
            assert (await store.head("t")).size == 5 * MIB + 4
