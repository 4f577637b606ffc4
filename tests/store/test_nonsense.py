"""What S3Store makes of a store that answers nonsense: to a write never a success, always an error of a known class."""

from collections.abc import Awaitable, Callable, Iterator

import pytest

from s3mount import errors
from s3mount.config import MIB, Config
from s3mount.store.base import ABSENT, Headers
from s3mount.store.s3 import S3Store
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.servers import Server
from tests.store.places import opened

ERROR = "<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
BUSY = "<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>no</Message></Error>"
PAGE = "<!DOCTYPE html><html><body>Log in to the network<br></body></html>"
OTHER = "<?xml version='1.0'?>\n<ListBucketResult><Name>b</Name></ListBucketResult>"
WRITES: dict[str, Callable[[S3Store], Awaitable[object]]] = {}


def write(name: str) -> Callable[[Callable[[S3Store], Awaitable[object]]], Callable[[S3Store], Awaitable[object]]]:
    def add(call: Callable[[S3Store], Awaitable[object]]) -> Callable[[S3Store], Awaitable[object]]:
        WRITES[name] = call
        return call

    return add


@write("put")
async def _put(store: S3Store) -> object:
    return await store.put("k", (b"body",), Headers(), ABSENT)


@write("copy")
async def _copy(store: S3Store) -> object:
    return await store.copy("s", "k", source_etag=(await store.head("s")).etag)


@write("create_upload")
async def _create_upload(store: S3Store) -> object:
    return await store.create_upload("k", Headers())


@write("upload_part")
async def _upload_part(store: S3Store) -> object:
    upload = await store.create_upload("k", Headers())
    try:
        return await store.upload_part(upload, 1, (b"body",))
    finally:
        await store.abort_upload(upload)


@write("copy_part")
async def _copy_part(store: S3Store) -> object:
    upload, etag = await store.create_upload("k", Headers()), (await store.head("s")).etag
    try:
        return await store.copy_part(upload, 1, "s", 0, 5 * MIB, source_etag=etag)
    finally:
        await store.abort_upload(upload)


@write("complete_upload")
async def _complete_upload(store: S3Store) -> object:
    upload = await store.create_upload("k", Headers())
    try:
        return await store.complete_upload(upload, [await store.upload_part(upload, 1, (b"body",))])
    finally:
        await store.abort_upload(upload)


@pytest.fixture
def proxy(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with FaultProxy(seaweedfs.endpoint_url) as proxy:
        yield proxy


def config_of(proxy: FaultProxy, bucket: str) -> Config:
    return Config(
        bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1", backoff_base_seconds=0.01, retry_seconds=0.0
    )


@pytest.mark.parametrize("kind", WRITES)
@run_trio
async def test_nonsense_in_answer_to_a_write_is_an_error(kind: str, proxy: FaultProxy, bucket: str) -> None:
    """200 with nothing, an error document, a page, or a document of another kind, whether the write was done or not."""
    async with opened(config_of(proxy, bucket)) as store:
        await store.put("s", (bytes(5 * MIB),), Headers())
        for body in ("", ERROR, BUSY, PAGE, OTHER):
            for etag in ("", '"0123"') if body in (ERROR, PAGE) else ("",):
                proxy.add(Rule(fault="answer", kind=kind, status=200, body=body, etag=etag))
                with pytest.raises(errors.StoreError) as caught:
                    await WRITES[kind](store)
                assert isinstance(caught.value, errors.BadReply | errors.LostReply | errors.AccessDenied), (body, etag)
                with pytest.raises(errors.NotFound):
                    await store.head("k")
                proxy.clear()
        await WRITES[kind](store)


@run_trio
async def test_a_continuation_token_that_repeats_is_an_error(proxy: FaultProxy, bucket: str) -> None:
    """Whoever reads on until there is none would read for ever."""
    page = (
        "<ListBucketResult><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
    )
    async with opened(config_of(proxy, bucket)) as store:
        proxy.add(Rule(fault="answer", kind="list", status=200, body=page))
        assert (await store.list_page("d/")).token == "again"
        with pytest.raises(errors.BadReply, match="repeats"):
            await store.list_page("d/", token="again")
