"""Deleting many objects at once, on every store we have, and on such as lack it, garble it or lose its reply (E7)."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from s3mount import errors
from s3mount.config import Config
from s3mount.store.abilities import Abilities, probe_deletes
from s3mount.store.base import Condition, Headers, ObjectStore
from s3mount.store.deletion import told_by
from s3mount.store.s3 import S3Store
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.servers import Server
from tests.store.places import Place, opened

HEADERS = Headers()
OTHER_ETAG = '"00000000000000000000000000000000"'
HOSTILE = [
    *("a b", "a+b", "a%41b", "é", "e\u0301", "q?#&=;", "x\x01y", "\U0001f600", "tab\ty", "cr\ry", "'\"<>&", "]]>"),
    *("&amp;", "<Key>k</Key>", "\x7f", "\x85", "\u2028", "\ufffe", " lead", "trail ", "~-._", "\ufeffbom"),
]
FOUND = {
    "memory": Abilities(delete_many=True, delete_many_if_match=True, delete_if_match=True),
    "seaweedfs": Abilities(delete_many=True, delete_many_if_match=True, delete_if_match=True),
    "moto": Abilities(delete_many=True, delete_many_if_match=False, delete_if_match=True),
}
"""moto ignores the etags in DeleteObjects."""


async def put(store: ObjectStore, key: str, body: bytes = b"x") -> str:
    return (await store.put(key, (body,) if body else (), HEADERS)).etag


async def keys(store: ObjectStore) -> list[str]:
    return [listed.key for listed in (await store.list_page("")).objects]


async def believe(store: ObjectStore) -> Abilities:
    found = await probe_deletes(store, "probe")
    if isinstance(store, S3Store):
        store.believe(found)
        store.counts.clear()
    return found


@run_trio
async def test_what_deletions_keep_is_found_out_and_nothing_is_left(place: Place) -> None:
    async with place.open() as store:
        assert await probe_deletes(store, "p/.s3mount/probe-1") == FOUND[place.name]
        assert await keys(store) == []


@run_trio
async def test_many_keys_are_deleted_by_one_request(place: Place) -> None:
    async with place.open() as store:
        await believe(store)
        for number in range(30):
            await put(store, f"d/{number}")
        store.counts.clear()  # type: ignore[attr-defined]
        assert await store.delete_many([(f"d/{number}", None) for number in range(31)]) == ()
        assert store.counts == {"delete_many": 1}  # type: ignore[attr-defined]
        assert await keys(store) == []


@run_trio
async def test_an_etag_beside_a_key_is_kept(place: Place) -> None:
    """By one request where the store keeps it there, else by deletions side by side."""
    async with place.open() as store:
        await believe(store)
        etags = {key: await put(store, key, key.encode()) for key in ("a", "b", "c")}
        store.counts.clear()  # type: ignore[attr-defined]
        left = await store.delete_many([("a", etags["a"]), ("b", OTHER_ETAG), ("c", etags["c"]), ("none", OTHER_ETAG)])
        assert [undeleted.key for undeleted in left] == ["b"]
        assert isinstance(left[0].error, errors.PreconditionFailed)
        assert await keys(store) == ["b"]
        sent = store.counts  # type: ignore[attr-defined]
        assert ("delete" in sent) is (place.name == "moto")
        assert ("delete_many" in sent) is (place.name != "moto")


@run_trio
async def test_before_anything_was_found_out_etags_are_kept_too(place: Place) -> None:
    async with place.open() as store:
        etags = {key: await put(store, key, key.encode()) for key in ("a", "b")}
        left = await store.delete_many([("a", etags["a"]), ("b", OTHER_ETAG)])
        assert [undeleted.key for undeleted in left] == ["b"]
        assert await keys(store) == ["b"]


@run_trio
async def test_every_key_is_deleted_exactly(place: Place) -> None:
    async with place.open() as store:
        await believe(store)
        etags = {key: await put(store, key, key.encode()) for key in HOSTILE}
        near = await put(store, "k", b"neighbour")
        assert await store.delete_many([(key, etags[key]) for key in HOSTILE]) == ()
        assert await keys(store) == ["k"]
        for key in HOSTILE:
            await put(store, key)
        assert await store.delete_many([(key, None) for key in HOSTILE]) == ()
        assert [(listed.key, listed.etag) for listed in (await store.list_page("")).objects] == [("k", near)]


@run_trio
async def test_a_directory_goes_with_its_markers_in_one_request(place: Place) -> None:
    async with place.open() as store:
        await believe(store)
        for key in ("d/", "d/e/", "d/e/f/"):
            await put(store, key, b"")
        for key in ("d/1", "d/e/2", "d/e/f/3"):
            await put(store, key)
        store.counts.clear()  # type: ignore[attr-defined]
        versions = [(key, None) for key in ("d/", "d/1", "d/e/", "d/e/2", "d/e/f/", "d/e/f/3")]
        assert await store.delete_many(versions) == ()
        assert store.counts == {"delete_many": 1}  # type: ignore[attr-defined]
        assert await keys(store) == []


@run_trio
async def test_more_keys_than_a_request_takes_are_several(place: Place) -> None:
    async with place.open() as store:
        for number in (0, 1000, 2000):
            await put(store, f"k{number}")
        store.counts.clear()  # type: ignore[attr-defined]
        assert await store.delete_many([(f"k{number}", None) for number in range(2001)]) == ()
        assert store.counts["delete_many"] + store.counts["delete"] == 3  # type: ignore[attr-defined]
        assert await keys(store) == []


# Stores that go wrong.


@pytest.fixture
def proxy(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with FaultProxy(seaweedfs.endpoint_url) as proxy:
        yield proxy


def config_of(proxy: FaultProxy, bucket: str, **options: object) -> Config:
    base = Config(
        bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1", backoff_base_seconds=0.01, retry_seconds=0.0
    )
    return replace(base, **options)  # type: ignore[arg-type]


LACKING = [(501, "NotImplemented"), (405, "MethodNotAllowed"), (400, "MethodNotAllowed"), (400, "MalformedXML")]


@pytest.mark.parametrize(("status", "code"), [*LACKING, (404, ""), (411, "MissingContentLength")])
@run_trio
async def test_a_store_that_lacks_it_is_asked_key_by_key(
    status: int, code: str, proxy: FaultProxy, bucket: str
) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        store.believe(FOUND["seaweedfs"])
        etags = {key: await put(store, key) for key in ("a", "b", "c")}
        proxy.add(Rule(fault="error", kind="delete_objects", status=status, code=code))
        left = await store.delete_many([("a", etags["a"]), ("b", OTHER_ETAG), ("c", None)])
        assert [undeleted.key for undeleted in left] == ["b"]
        assert await keys(store) == ["b"]
        assert await store.delete_many([("b", etags["b"]), ("none", None)]) == ()
        remembered = code in ("NotImplemented", "MethodNotAllowed")
        assert store.counts["delete_many"] == (1 if remembered else 2)
        found = await probe_deletes(store, "probe")
        assert found == Abilities(delete_many=False, delete_many_if_match=False, delete_if_match=True)


NONSENSE = [
    "",
    "<ListBucketResult><Name>b</Name></ListBucketResult>",
    "<DeleteResult></DeleteResult>",
    "<DeleteResult><Deleted><Key>x</Key></Deleted><Error><Code>AccessDenied</Code></Error></DeleteResult>",
    "<DeleteResult><Deleted><Key>a</Key></Deleted><Deleted><Ke",
    "<DeleteResult><Error><Key>a</Key></Error><Error><Key>b</Key><Code>InternalError</Code></Error></DeleteResult>",
]


@pytest.mark.parametrize("body", NONSENSE)
@run_trio
async def test_a_key_of_which_the_reply_tells_nothing_is_not_taken_for_deleted(
    body: str, proxy: FaultProxy, bucket: str
) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        store.believe(FOUND["seaweedfs"])
        etags = {key: await put(store, key) for key in ("a", "b")}
        proxy.add(Rule(fault="answer", kind="delete_objects", status=200, body=body))
        assert await store.delete_many([("a", etags["a"]), ("b", None)]) == ()
        assert store.counts["delete"] == 2
        assert await keys(store) == []


@pytest.mark.parametrize("body", ["<Error><Code>InternalError</Code></Error>", "<!DOCTYPE html><html></html>"])
@run_trio
async def test_an_error_or_a_page_in_a_200_is_a_failure_of_every_key(body: str, proxy: FaultProxy, bucket: str) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        store.believe(FOUND["seaweedfs"])
        for key in ("a", "b"):
            await put(store, key)
        proxy.add(Rule(fault="answer", kind="delete_objects", status=200, body=body))
        left = await store.delete_many([("a", None), ("b", None)])
        assert sorted(undeleted.key for undeleted in left) == ["a", "b"]
        assert all(isinstance(undeleted.error, errors.LostReply) for undeleted in left)
        assert await keys(store) == ["a", "b"]


@run_trio
async def test_a_refused_key_is_told_and_the_others_are_gone(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        store.believe(FOUND["seaweedfs"])
        answer = (
            "<DeleteResult><Deleted><Key>a</Key></Deleted>"
            "<Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
            "<Error><Key>c</Key><Code>NoSuchKey</Code></Error></DeleteResult>"
        )
        proxy.add(Rule(fault="answer", kind="delete_objects", status=200, body=answer))
        left = await store.delete_many([(key, None) for key in "abc"])
        assert [(undeleted.key, type(undeleted.error)) for undeleted in left] == [("b", errors.AccessDenied)]
        assert store.counts["delete"] == 0


@run_trio
async def test_a_key_that_is_gone_is_deleted_though_its_etag_was_refused(proxy: FaultProxy, bucket: str) -> None:
    """Our own first request may have done it, or another client: of an absent object no etag is the right one."""
    async with opened(config_of(proxy, bucket)) as store:
        store.believe(FOUND["seaweedfs"])
        await put(store, "a")
        answer = "".join(
            f"<Error><Key>{key}</Key><Code>PreconditionFailed</Code><Message>no</Message></Error>" for key in "ab"
        )
        proxy.add(
            Rule(fault="answer", kind="delete_objects", status=200, body=f"<DeleteResult>{answer}</DeleteResult>")
        )
        left = await store.delete_many([(key, OTHER_ETAG) for key in "ab"])
        assert [(undeleted.key, type(undeleted.error)) for undeleted in left] == [("a", errors.PreconditionFailed)]


@run_trio
async def test_a_lost_reply_is_repeated_and_what_is_gone_is_success(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        store.believe(FOUND["seaweedfs"])
        etags = {key: await put(store, key) for key in ("a", "b", "c")}
        proxy.add(Rule(fault="drop_reply", kind="delete_objects", times=1))
        left = await store.delete_many([("a", etags["a"]), ("b", OTHER_ETAG), ("c", None)])
        assert [(undeleted.key, type(undeleted.error)) for undeleted in left] == [("b", errors.PreconditionFailed)]
        assert await keys(store) == ["b"]
        assert store.counts["delete_many"] == 2


@run_trio
async def test_a_batch_of_unknown_outcome_leaves_its_keys_in_doubt(proxy: FaultProxy, bucket: str) -> None:
    """The next mutation of such a key is conditional on what is there, so that a late deletion cannot bury it."""
    async with opened(config_of(proxy, bucket, attempts_min=1)) as store:
        store.believe(FOUND["seaweedfs"])
        etags = {key: await put(store, key) for key in ("a", "b")}
        proxy.add(Rule(fault="drop_reply", kind="delete_objects"))
        left = await store.delete_many([("a", etags["a"]), ("b", etags["b"])])
        assert [type(undeleted.error) for undeleted in left] == [errors.LostReply] * 2
        heads = store.counts["head"]
        await put(store, "a", b"new")
        assert store.counts["head"] == heads + 1
        assert await store.delete_many([("b", etags["b"]), ("none", None)]) == ()
        assert await keys(store) == ["a"]


@run_trio
async def test_the_request_carries_the_digest_that_some_stores_demand(proxy: FaultProxy, bucket: str) -> None:
    """E7"""
    async with opened(config_of(proxy, bucket)) as store:
        await store.delete_many([("a", None), ("b", None)])
        (seen,) = [request for request in proxy.requests() if request.kind == "delete_objects"]
        body = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>a</Key></Object>'
        body += b"<Object><Key>b</Key></Object><Quiet>false</Quiet></Delete>"
        assert seen.carried["content-md5"] == base64.b64encode(hashlib.md5(body).digest()).decode()


@run_trio
async def test_where_no_deletion_keeps_an_etag_none_is_sent_and_one_request_does(
    proxy: FaultProxy, bucket: str
) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        store.believe(Abilities(delete_many=True, delete_many_if_match=False, delete_if_match=False))
        for key in ("a", "b"):
            await put(store, key)
        assert await store.delete_many([("a", OTHER_ETAG), ("b", OTHER_ETAG)]) == ()
        assert store.counts == {"put": 2, "delete_many": 1}


@run_trio
async def test_a_deletion_alone_that_finds_nothing_after_all_is_success(proxy: FaultProxy, bucket: str) -> None:
    async with opened(config_of(proxy, bucket)) as store:
        assert await store.delete_many([("none", OTHER_ETAG), ("x\x01y", OTHER_ETAG)]) == ()
        await put(store, "k")
        with pytest.raises(errors.PreconditionFailed):
            await store.delete("k", Condition(etag=OTHER_ETAG))


def test_a_reply_is_read_key_by_key() -> None:
    told = told_by(
        b"\n<?xml version='1.0'?><DeleteResult xmlns='x'><Deleted><Key>a&amp;b</Key><VersionId>1</VersionId></Deleted>"
        b"<Error><Code>C</Code><Key>k</Key><Message>m</Message></Error><Error><Key>l</Key></Error></DeleteResult>"
    )
    assert (told.deleted, told.failed) == ({"a&b"}, {"k": ("C", "m"), "l": ("", "")})
