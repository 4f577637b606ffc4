"""The contract of `store/base.py`, run on every store we have: what holds on the memory store holds on real servers."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from s3mount import errors
from s3mount.config import MIB
from s3mount.store import parts
from s3mount.store.base import ABSENT, Body, Condition, Headers, ObjectInfo, ObjectStore, Part
from tests.running import run_trio
from tests.store.conftest import made_place
from tests.store.places import Place

NO_HEADERS = Headers()
FULL = Headers("text/css", "no-cache", "inline", "gzip", "de", {"mode": "33188", "name": "é=?x?="})
PATHS = ["a b", "a+b", "a%41b", "é", "e\u0301", "q?#&=;", "x\x01y", "\U0001f600", "tab\ty", "'\"<>&", "~-._", "=?x?="]
ODD_PATHS = ["a//b", "/lead", "./a", "a/../b", "a/.", "nl\ny"]


@pytest.fixture(params=["memory", "seaweedfs", "moto", "write-back"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    yield from made_place(request, monkeypatch, tmp_path)


async def read(
    store: ObjectStore,
    key: str,
    start: int = 0,
    size: int = 100,
    *,
    if_match: str | None = None,
    if_none_match: str | None = None,
) -> bytes | None:
    buffer = bytearray(size)
    info = await store.get(key, start, memoryview(buffer), if_match=if_match, if_none_match=if_none_match)
    return None if info is None else bytes(buffer[: max(0, min(size, info.size - start))])


async def put(store: ObjectStore, key: str, body: bytes = b"hello", headers: Headers = NO_HEADERS) -> str:
    return (await store.put(key, (body,), headers)).etag


async def multipart(store: ObjectStore, key: str, *bodies: Body, condition: Condition | None = None) -> str:
    options = {} if condition is None else {"condition": condition}
    upload = await store.create_upload(key, NO_HEADERS, **options)
    parts = [await store.upload_part(upload, number, body) for number, body in enumerate(bodies, 1)]
    return (await store.complete_upload(upload, parts, **options)).etag


# Reading.


@run_trio
async def test_what_is_put_is_read_back_with_all_its_headers(place: Place) -> None:
    before = time.time_ns()
    async with place.open() as store:
        stored = await store.put("a/b", (b"hel", bytearray(b"lo "), memoryview(b"world")), FULL)
        info = await store.head("a/b")
        assert (info.key, info.size, info.etag, info.headers) == ("a/b", 11, stored.etag, FULL)
        assert info.etag == '"5eb63bbbe01eeed093cb22bb8f5acdc3"'
        assert abs(info.date_ns - before) < 5e9
        assert abs(info.last_modified_ns - before) < 5e9
        assert info.tag_count == 0
        buffer = bytearray(11)
        got = await store.get("a/b", 0, memoryview(buffer))
        assert isinstance(got, ObjectInfo)
        assert (got.size, got.etag, got.headers, got.last_modified_ns) == (11, info.etag, FULL, info.last_modified_ns)
        assert buffer == b"hello world"


@run_trio
async def test_an_empty_object_is_stored_and_described(place: Place) -> None:
    async with place.open() as store:
        await store.put("empty", (), NO_HEADERS)
        assert (await store.head("empty")).size == 0
        with pytest.raises(errors.RangeNotSatisfiable):
            await read(store, "empty")


@run_trio
async def test_a_range_is_exact_and_ends_with_the_object(place: Place) -> None:
    async with place.open() as store:
        await put(store, "k", b"0123456789")
        arrived: list[int] = []
        buffer = bytearray(b"x" * 8)
        info = await store.get("k", 7, memoryview(buffer), arrived=arrived.append)
        assert info is not None
        assert info.size == 10
        assert buffer == b"789xxxxx"
        assert arrived[-1] == 3
        assert arrived == sorted(arrived)
        assert await read(store, "k", 2, 3) == b"234"
        with pytest.raises(errors.RangeNotSatisfiable):
            await read(store, "k", 10)


@run_trio
async def test_reads_are_conditional(place: Place) -> None:
    async with place.open() as store:
        etag = await put(store, "k")
        assert await read(store, "k", if_none_match=etag) is None
        assert await read(store, "k", if_none_match='"other"') == b"hello"
        assert await read(store, "k", if_match=etag) == b"hello"
        with pytest.raises(errors.PreconditionFailed):
            await read(store, "k", if_match='"other"')


@run_trio
async def test_what_is_absent_is_not_found(place: Place) -> None:
    async with place.open() as store:
        with pytest.raises(errors.NotFound):
            await store.head("none")
        with pytest.raises(errors.NotFound):
            await read(store, "none")
        with pytest.raises(errors.NotFound):
            await store.copy("none", "target", source_etag='"x"')


@pytest.mark.parametrize("key", PATHS)
@run_trio
async def test_keys_are_addressed_exactly(place: Place, key: str) -> None:
    async with place.open() as store:
        await put(store, key, key.encode())
        assert await read(store, key) == key.encode()
        assert [found.key for found in (await store.list_page("")).objects] == [key]
        etag = (await store.copy(key, f"copy of {key}", source_etag=(await store.head(key)).etag)).etag
        assert (await store.head(f"copy of {key}")).etag == etag
        await store.delete(key)
        assert [found.key for found in (await store.list_page("")).objects] == [f"copy of {key}"]


@pytest.mark.parametrize("key", ODD_PATHS)
@run_trio
async def test_keys_that_are_no_clean_path_are_addressed_exactly_or_refused(place: Place, key: str) -> None:
    async with place.open() as store:
        refusal: errors.StoreError | None = None
        try:
            await put(store, key, key.encode())
        except errors.StoreError as error:
            refusal = error
        if refusal is None:
            assert await read(store, key) == key.encode()
        else:
            assert place.name != "memory"
            assert not isinstance(refusal, errors.Unavailable)


@run_trio
async def test_a_key_over_1024_bytes_is_too_long(place: Place) -> None:
    async with place.open() as store:
        with pytest.raises(errors.KeyTooLong):
            await put(store, "é" * 513)


# Listing.


@run_trio
async def test_what_is_settled_is_there_and_a_store_that_is_well_is_not_away(place: Place) -> None:
    async with place.open() as store:
        await put(store, "a/b")
        await store.settle("a/b")
        await store.settle_below("a/")
        await store.settle("none")
        assert (await store.head("a/b")).size == 5
        assert not store.away


@run_trio
async def test_listing_goes_by_pages_in_key_order(place: Place) -> None:
    names = [f"p/{number:03}" for number in range(25)]
    async with place.open() as store:
        for name in [*names, "o", "q"]:
            await put(store, name, name.encode())
        found: list[str] = []
        token = None
        pages = 0
        while True:
            page = await store.list_page("p/", token=token, max_keys=10)
            found += [listed.key for listed in page.objects]
            assert all(listed.size == 5 and listed.etag.startswith('"') for listed in page.objects)
            assert all(abs(listed.last_modified_ns - page.date_ns) < 60e9 for listed in page.objects)
            pages += 1
            token = page.token
            if token is None:
                break
        assert found == names
        assert pages == 3
        after = await store.list_page("p/", start_after="p/020")
        assert [listed.key for listed in after.objects] == names[21:]
        assert (await store.list_page("nothing/")).objects == ()


@run_trio
async def test_a_page_holds_a_thousand_keys(place: Place) -> None:
    async with place.open() as store:

        async def fill(first: int) -> None:
            for number in range(first, 1003, 17):
                await put(store, f"{number:04}", b"")

        async with trio.open_nursery() as nursery:
            for first in range(17):
                nursery.start_soon(fill, first)
        page = await store.list_page("")
        assert [listed.key for listed in page.objects] == [f"{number:04}" for number in range(1000)]
        assert page.token is not None
        rest = await store.list_page("", token=page.token)
        assert [listed.key for listed in rest.objects] == ["1000", "1001", "1002"]
        assert rest.token is None


@run_trio
async def test_a_delimiter_groups(place: Place) -> None:
    async with place.open() as store:
        for key in ("a", "b/1", "b/2", "b/c/3", "c", "d e/+"):
            await put(store, key)
        page = await store.list_page("", delimiter="/")
        assert [listed.key for listed in page.objects] == ["a", "c"]
        assert page.prefixes == ("b/", "d e/")
        page = await store.list_page("b/", delimiter="/")
        assert [listed.key for listed in page.objects] == ["b/1", "b/2"]
        assert page.prefixes == ("b/c/",)
        first = await store.list_page("", delimiter="/", max_keys=2)
        assert first.token is not None
        assert ([listed.key for listed in first.objects], first.prefixes) == (["a"], ("b/",))
        second = await store.list_page("", delimiter="/", max_keys=2, token=first.token)
        assert ([listed.key for listed in second.objects], second.prefixes) == (["c"], ("d e/",))


@run_trio
async def test_keys_come_in_utf8_order_across_directories(place: Place) -> None:
    keys = ["a", "a!", "a-b", "a/x", "a0", "b", "é", "\U0001f600"]
    async with place.open() as store:
        for key in reversed(keys):
            await put(store, key)
        found: list[str] = []
        token = None
        while True:
            page = await store.list_page("", token=token, max_keys=2)
            found += [listed.key for listed in page.objects]
            token = page.token
            if token is None:
                break
        assert found == keys


# Changing.


@run_trio
async def test_a_put_is_conditional(place: Place) -> None:
    async with place.open() as store:
        etag = (await store.put("k", (b"1",), NO_HEADERS, ABSENT)).etag
        with pytest.raises(errors.PreconditionFailed):
            await store.put("k", (b"2",), NO_HEADERS, ABSENT)
        with pytest.raises(errors.PreconditionFailed):
            await store.put("k", (b"2",), NO_HEADERS, Condition(etag='"other"'))
        assert await read(store, "k") == b"1"
        await store.put("k", (b"3",), NO_HEADERS, Condition(etag=etag))
        assert await read(store, "k") == b"3"
        with pytest.raises(errors.PreconditionFailed):
            await store.put("none", (b"4",), NO_HEADERS, Condition(etag=etag))
        assert (await store.head("k")).headers.metadata == {}


@run_trio
async def test_a_delete_is_conditional(place: Place) -> None:
    async with place.open() as store:
        etag = await put(store, "k")
        with pytest.raises(errors.PreconditionFailed):
            await store.delete("k", Condition(etag='"other"'))
        assert await read(store, "k") == b"hello"
        await store.delete("k", Condition(etag=etag))
        with pytest.raises(errors.NotFound):
            await store.head("k")
        await store.delete("k")
        with pytest.raises(errors.PreconditionFailed):
            await store.delete("k", Condition(etag=etag))


@run_trio
async def test_a_copy_keeps_or_replaces_headers(place: Place) -> None:
    async with place.open() as store:
        etag = await put(store, "s", b"body", FULL)
        copied = await store.copy("s", "t", source_etag=etag)
        info = await store.head("t")
        assert (info.etag, info.headers) == (copied.etag, FULL)
        other = Headers("text/html", metadata={"mode": "33152"})
        await store.copy("s", "s", source_etag=etag, headers=other)
        assert (await store.head("s")).headers == other
        assert await read(store, "s") == b"body"


@run_trio
async def test_a_copy_is_of_exactly_its_source(place: Place) -> None:
    async with place.open() as store:
        await put(store, "s")
        with pytest.raises(errors.PreconditionFailed):
            await store.copy("s", "t", source_etag='"other"')
        with pytest.raises(errors.NotFound):
            await store.head("t")


@run_trio
async def test_a_copy_is_conditional_on_its_target(place: Place) -> None:
    async with place.open() as store:
        etag = await put(store, "s", b"source", FULL)
        await store.copy("s", "t", source_etag=etag, condition=ABSENT)
        assert (await store.head("t")).headers == FULL
        with pytest.raises(errors.PreconditionFailed):
            await store.copy("s", "t", source_etag=etag, condition=ABSENT)
        other = await put(store, "u", b"target")
        with pytest.raises(errors.PreconditionFailed):
            await store.copy("s", "u", source_etag=etag, condition=Condition(etag=etag))
        assert await read(store, "u") == b"target"
        await store.copy("s", "u", source_etag=etag, condition=Condition(etag=other))
        assert await read(store, "u") == b"source"


# Uploads by parts.

BIG = bytes(range(256)) * (5 * MIB // 256)


@run_trio
async def test_an_upload_by_parts_appears_whole_when_it_is_completed(place: Place) -> None:
    async with place.open() as store:
        upload = await store.create_upload("m", FULL)
        second = await store.upload_part(upload, 2, (b"tail",))
        await store.upload_part(upload, 1, (b"first attempt" + BIG,))
        first = await store.upload_part(upload, 1, (BIG,))
        assert (first.number, first.size, second.size) == (1, 5 * MIB, 4)
        with pytest.raises(errors.NotFound):
            await store.head("m")
        assert [found.key for found in await store.list_uploads("")] == ["m"]
        stored = await store.complete_upload(upload, [first, second])
        info = await store.head("m")
        assert (info.size, info.etag, info.headers) == (5 * MIB + 4, stored.etag, FULL)
        assert info.etag.endswith('-2"')
        assert await read(store, "m", 5 * MIB - 2, 6) == BIG[-2:] + b"tail"
        assert await store.list_uploads("") == ()


@run_trio
async def test_parts_are_copied_from_ranges(place: Place) -> None:
    async with place.open() as store:
        etag = await put(store, "s", BIG + b"0123456789")
        upload = await store.create_upload("m", NO_HEADERS)
        parts = [
            await store.copy_part(upload, 1, "s", 0, 5 * MIB, source_etag=etag),
            await store.copy_part(upload, 2, "s", 5 * MIB + 2, 5 * MIB + 5, source_etag=etag),
        ]
        await store.complete_upload(upload, parts)
        assert (await store.head("m")).size == 5 * MIB + 3
        assert await read(store, "m", 5 * MIB) == b"234"


@run_trio
async def test_a_part_is_copied_from_exactly_its_source(place: Place) -> None:
    async with place.open() as store:
        await put(store, "s")
        upload = await store.create_upload("m", NO_HEADERS)
        with pytest.raises(errors.PreconditionFailed):
            await store.copy_part(upload, 1, "s", 0, 5, source_etag='"other"')


@run_trio
async def test_parts_but_the_last_have_at_least_5_mib(place: Place) -> None:
    async with place.open() as store:
        with pytest.raises(errors.StoreError) as refusal:
            await multipart(store, "m", (b"small",), (b"last",))
        assert refusal.value.code == "EntityTooSmall"


@run_trio
async def test_parts_must_be_those_that_were_stored_and_in_order(place: Place) -> None:
    async with place.open() as store:
        upload = await store.create_upload("m", NO_HEADERS)
        part = await store.upload_part(upload, 1, (BIG,))
        other = await store.upload_part(upload, 2, (BIG,))
        with pytest.raises(errors.StoreError):
            await store.complete_upload(upload, [other, part])
        with pytest.raises(errors.StoreError):
            await store.complete_upload(upload, [Part(1, '"00000000000000000000000000000000"', 1)])
        with pytest.raises(errors.NotFound):
            await store.head("m")


@run_trio
async def test_a_completion_is_conditional_on_absence(place: Place) -> None:
    async with place.open() as store:
        await put(store, "m", b"there")
        with pytest.raises(errors.PreconditionFailed):
            await multipart(store, "m", (b"new",), condition=ABSENT)
        assert await read(store, "m") == b"there"
        await multipart(store, "n", (b"new",), condition=ABSENT)
        assert await read(store, "n") == b"new"
        assert (await store.head("n")).headers.metadata == {}


@run_trio
async def test_a_completion_is_conditional_on_an_etag(place: Place) -> None:
    async with place.open() as store:
        etag = await put(store, "m", b"there")
        with pytest.raises(errors.PreconditionFailed):
            await multipart(store, "m", (b"new",), condition=Condition(etag='"other"'))
        assert await read(store, "m") == b"there"
        await multipart(store, "m", (b"new",), condition=Condition(etag=etag))
        assert await read(store, "m") == b"new"


@run_trio
async def test_a_list_of_uploads_tells_when_each_was_initiated(place: Place) -> None:
    before = time.time_ns()
    async with place.open() as store:
        uploads = [await store.create_upload(key, NO_HEADERS) for key in ("dir/m", "dir/mm", "dir/m/n")]
        listed = await store.list_uploads("dir/m")
        assert {upload.id for upload in listed} == {upload.id for upload in uploads}
        assert [upload.id for upload in await store.list_uploads("dir/m", exactly=True)] == [uploads[0].id]
        for upload in listed:
            assert upload.initiated_ns is not None
            assert abs(upload.initiated_ns - before) < 5e9
        for upload in uploads:
            await store.abort_upload(upload)


@run_trio
async def test_an_upload_has_parts_once_one_is_stored(place: Place) -> None:
    async with place.open() as store:
        upload, other = await store.create_upload("dir/m", NO_HEADERS), await store.create_upload("dir/m", NO_HEADERS)
        assert not await store.has_parts(upload)
        await store.upload_part(upload, 7, (b"x",))
        assert await store.has_parts(upload)
        await store.upload_part(upload, 1, (b"x",))
        assert await store.has_parts(upload)
        assert not await store.has_parts(other)
        for opened in (upload, other):
            await store.abort_upload(opened)
        with pytest.raises(errors.NoSuchUpload):
            await store.has_parts(upload)


@run_trio
async def test_the_parts_of_an_upload_are_listed_by_number_with_what_they_are(place: Place) -> None:
    async with place.open() as store:
        upload, other = await store.create_upload("dir/m", NO_HEADERS), await store.create_upload("dir/m", NO_HEADERS)
        assert await store.list_parts(upload) == ()
        third = await store.upload_part(upload, 3, (b"three",))
        first = await store.upload_part(upload, 1, (b"x" * (6 << 20),))
        assert await store.list_parts(upload) == (first, third)
        assert await store.list_parts(other) == ()
        await store.upload_part(upload, 3, (b"three",))
        assert await store.list_parts(upload) == (first, third)
        for opened in (upload, other):
            await store.abort_upload(opened)
        with pytest.raises(errors.NoSuchUpload):
            await store.list_parts(upload)


@run_trio
async def test_a_list_of_parts_has_all_its_pages(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PARTS_A_PAGE", 2)
    async with place.open() as store:
        upload = await store.create_upload("dir/m", NO_HEADERS)
        # Without gaps: moto counts parts where S3 goes by their numbers.
        stored = [await store.upload_part(upload, number, (b"x" * number,)) for number in range(1, 6)]
        assert await store.list_parts(upload) == tuple(stored)
        await store.abort_upload(upload)


@run_trio
async def test_an_upload_that_was_aborted_is_gone_and_aborting_again_is_success(place: Place) -> None:
    async with place.open(retry_seconds=0.0) as store:
        upload = await store.create_upload("dir/m", NO_HEADERS)
        part = await store.upload_part(upload, 1, (b"x",))
        assert [found.id for found in await store.list_uploads("dir/")] == [upload.id]
        assert await store.list_uploads("other/") == ()
        await store.abort_upload(upload)
        assert await store.list_uploads("") == ()
        await store.abort_upload(upload)
        with pytest.raises(errors.NoSuchUpload):
            await store.upload_part(upload, 1, (b"x",))
        with pytest.raises(errors.NoSuchUpload):
            await store.complete_upload(upload, [part])


# Cancellation.


@run_trio
async def test_a_cancelled_read_leaves_its_buffer_alone(place: Place) -> None:
    async with place.open() as store:
        await put(store, "k", BIG)
        buffer = bytearray(5 * MIB)
        with trio.CancelScope() as scope:

            def arrived(_count: int) -> None:
                scope.cancel()

            await store.get("k", 0, memoryview(buffer), arrived=arrived)
        assert scope.cancelled_caught or bytes(buffer) == BIG
        left = bytes(buffer)
        assert await read(store, "k") == BIG[:100]
        assert bytes(buffer) == left


@run_trio
async def test_many_tasks_share_one_store(place: Place) -> None:
    async with place.open() as store:

        async def work(number: int) -> None:
            body = bytes([number]) * 10_000
            etag = await put(store, f"k{number}", body)
            assert await read(store, f"k{number}", 0, 10_000, if_match=etag) == body
            await store.delete(f"k{number}", Condition(etag=etag))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(work, number)
        assert (await store.list_page("")).objects == ()
