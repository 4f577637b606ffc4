"""What a store can do, found out on scratch keys by what it does, not by its name.

A store may answer 200 and ignore a condition, or take a copied part for an empty one: so the object is looked at, each
time. Everything made here is removed again, also after a failure. A refusal (400, 405, 501) is an answer; of a
condition only one that can mean it, for what is found lacking is not sent any more. Anything else that goes wrong (403,
no network) is raised, and nothing is known then. Knows no file and keeps nothing.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from s3mount.config import RESERVED, S3_PART_MIN_BYTES, S3_PARTS_MAX
from s3mount.errors import BadReply, NotFound, NotImplementedByStore, PreconditionFailed, StoreError, Unavailable
from s3mount.store.base import ABSENT, ALWAYS, Condition, Headers, ObjectInfo, ObjectStore, Part, Upload

log = logging.getLogger(__name__)

PARTS_MAX_SMALL = 1000
"""What stores take that do not take S3's 10,000."""
OTHER_ETAG = '"00000000000000000000000000000000"'
CLEANING_SECONDS = 30.0
PLAIN = Headers(content_type="application/octet-stream")
REFUSALS = frozenset({"EntityTooSmall", "InvalidArgument", "InvalidPart", "InvalidRequest", "NotImplemented"})
"""Completions and copies may say them in the body of a 200, which counts as a 500."""
CONDITION_REFUSALS = frozenset({"NotImplemented", "InvalidRequest", "InvalidArgument", "UnsupportedArgument"})
"""What stores say of a condition. A 400 without an error document comes from what stands between."""
PATTERN = bytes(range(251))
"""Its length has no factor in common with any size: a part from a wrong place is seen."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """None: not known; then as S3 says."""

    put_if_absent: bool | None = None
    put_if_match: bool | None = None
    complete_if_absent: bool | None = None
    part_copy: bool | None = None
    equal_parts: bool | None = None
    """Whether all parts of an upload but the last must have one size."""
    parts_max: int | None = None
    delete_many: bool | None = None
    """Whether there is DeleteObjects."""
    delete_many_if_match: bool | None = None
    """Whether it keeps an etag beside each key."""
    delete_if_match: bool | None = None
    """Whether a deletion alone keeps If-Match."""
    rename: bool | None = None
    """Whether RenameObject works, its conditions included; where one of them is not kept, copies are safer."""
    ghosts: bool | None = None
    """Whether a prefix is listed on when its keys are gone, until it is deleted as a marker would be."""


CONDITIONS = ("put_if_absent", "put_if_match", "complete_if_absent")
"""The abilities that are conditions kept."""
FindOut = Callable[[], Awaitable[Abilities]]


async def as_s3_says() -> Abilities:
    """Nothing is found out."""
    return Abilities()


async def probe_conditions(store: ObjectStore, scratch: str) -> Abilities:
    """Whether conditions are kept: about a dozen tiny requests. `scratch` is a key that nobody uses."""
    async with _scratch(store, scratch) as opened:

        async def complete() -> None:
            upload = await store.create_upload(scratch, PLAIN, ABSENT)
            opened.append(upload)
            part = await store.upload_part(upload, 1, [b"4444"])
            await store.complete_upload(upload, [part], ABSENT)
            opened.remove(upload)

        first = (await store.put(scratch, [b"1"], PLAIN)).etag
        absent, etag = await _refused(store, scratch, first, store.put(scratch, [b"22"], PLAIN, ABSENT))
        other = Condition(etag=OTHER_ETAG)
        match, etag = await _refused(store, scratch, etag, store.put(scratch, [b"333"], PLAIN, other))
        completes, etag = await _refused(store, scratch, etag, complete())
        if match:
            # A store that refuses every If-Match keeps this one too, and nothing could ever be changed.
            right = store.put(scratch, [b"55555"], PLAIN, Condition(etag=etag))
            match = (await _refused(store, scratch, etag, right))[1] != etag
    return Abilities(put_if_absent=absent, put_if_match=match, complete_if_absent=completes)


async def probe_deletes(store: ObjectStore, scratch: str) -> Abilities:
    """How objects can be deleted: about ten tiny requests."""
    scratch, other, _ = scratch_keys(scratch)
    async with _scratch(store, scratch, other):
        first = (await store.put(scratch, [b"1"], PLAIN)).etag
        second = (await store.put(other, [b"22"], PLAIN)).etag
        try:
            left = await store.delete_batch([(scratch, OTHER_ETAG), (other, second)])
        except StoreError as error:
            if not _is_refusal(error) and error.status not in (404, 405, 413):
                raise
            left = ()
        many = await _etag_at(store, other) is None
        kept = await _etag_at(store, scratch) == first
        match = many and kept and [undeleted.key for undeleted in left] == [scratch]
        if not kept:
            first = (await store.put(scratch, [b"1"], PLAIN)).etag
        elif not many:
            # Without an etag it may do what it does not do with one.
            with suppress(StoreError):
                await store.delete_batch([(other, None), (f"{other}-none", None)])
            many = await _etag_at(store, other) is None
        for etag in (OTHER_ETAG, first):
            with suppress(PreconditionFailed, NotImplementedByStore):
                await store.delete(scratch, Condition(etag=etag))
            if (await _etag_at(store, scratch) is None) is (etag == OTHER_ETAG):
                return Abilities(delete_many=many, delete_many_if_match=match, delete_if_match=False)
    return Abilities(delete_many=many, delete_many_if_match=match, delete_if_match=True)


async def _etag_at(store: ObjectStore, key: str) -> str | None:
    try:
        return (await store.head(key)).etag
    except NotFound:
        return None


async def probe_rename(store: ObjectStore, scratch: str) -> Abilities:
    """Whether RenameObject does what it says, and keeps its conditions: about a dozen tiny requests. A store that has
    never heard of it puts an empty object, in place of ours."""
    scratch, source, _ = scratch_keys(scratch)
    carried = Headers(content_type="text/x-scratch", metadata={"scratch": "1"})
    async with _scratch(store, scratch, source):
        etag = (await store.put(source, [b"1"], carried)).etag
        works = (
            not await _renamed(store, source, scratch, OTHER_ETAG, ALWAYS)
            and await _renamed(store, source, scratch, etag, ABSENT)
            and _same(await store.head(scratch), etag, carried)
        )
        if works:
            second = (await store.put(source, [b"22"], carried)).etag
            works = (
                not await _renamed(store, source, scratch, second, ABSENT)
                and not await _renamed(store, source, scratch, second, Condition(etag=OTHER_ETAG))
                and _same(await store.head(scratch), etag, carried)
                and await _renamed(store, source, scratch, second, Condition(etag=etag))
                and _same(await store.head(scratch), second, carried)
            )
    return Abilities(rename=works)


async def probe_ghosts(store: ObjectStore, scratch: str) -> Abilities:
    """Whether directories outlive their keys, and how they end: at most six tiny requests."""
    _, _, below = scratch_keys(scratch)
    place = f"{scratch}/"

    async def is_listed() -> bool:
        # As a directory is listed: SeaweedFS tells less of a prefix that does not end with a slash.
        parent = scratch[: scratch.rfind("/") + 1]
        return place in (await store.list_page(parent, delimiter="/", start_after=scratch[:-1])).prefixes

    async with _scratch(store, below):
        await store.put(below, [b"1"], PLAIN)
        await store.delete(below)
        stays = await is_listed()
        if stays:
            await store.delete(place)
    return Abilities(ghosts=stays and not await is_listed())


async def probe_parts(store: ObjectStore, scratch: str) -> Abilities:
    """What uploads by parts may look like: about 15 requests, 5 MiB sent, or 15 where parts cannot be copied."""
    size = S3_PART_MIN_BYTES + 1
    body = _body(size)
    scratch, source, _ = scratch_keys(scratch)
    async with _scratch(store, scratch, source) as opened:
        etag = (await store.put(source, body, PLAIN)).etag
        upload = await store.create_upload(scratch, PLAIN)
        opened.append(upload)
        parts_max = await _parts_max(store, upload)
        copied = await _copied(store, upload, source, etag, body)
        if copied:
            opened.remove(upload)
        upload = await store.create_upload(scratch, PLAIN)
        opened.append(upload)
        parts: list[Part] = []
        for number, start in ((1, 1), (2, 0)):
            if copied:
                parts.append(await store.copy_part(upload, number, source, start, size, source_etag=etag))
            else:
                parts.append(await store.upload_part(upload, number, [memoryview(body[0])[start:], *body[1:]]))
        parts.append(await store.upload_part(upload, 3, [b"3"]))
        equal = not await _completes(store, upload, parts)
        if not equal:
            opened.remove(upload)
    return Abilities(part_copy=copied, equal_parts=equal, parts_max=parts_max)


def scratch_key(prefix: str, random: str) -> str:
    """Without `random`: what all of them begin with."""
    return f"{prefix}{RESERVED}/probe-{random}"


def scratch_keys(scratch: str) -> tuple[str, str, str]:
    """All keys that a probe with `scratch` may make."""
    return scratch, f"{scratch}-source", f"{scratch}/below"


async def _refused(store: ObjectStore, key: str, before: str, act: Awaitable[object]) -> tuple[bool, str]:
    """Whether `act` is refused because of its condition, the object being what it was; and its etag now."""
    said = False
    try:
        await act
    except PreconditionFailed:
        said = True
    except StoreError as error:
        if error.status != 501 and error.code not in CONDITION_REFUSALS:
            raise
    now = (await store.head(key)).etag
    return said and now == before, now


async def _renamed(store: ObjectStore, source: str, target: str, source_etag: str, condition: Condition) -> bool:
    """Whether the source is gone, whatever was answered."""
    try:
        await store.rename(source, target, source_etag=source_etag, condition=condition)
    except Unavailable:
        raise
    except StoreError as error:
        log.debug("scratch object was not renamed reason=%s", error)
    try:
        await store.head(source)
    except NotFound:
        return True
    return False


def _same(info: ObjectInfo, etag: str, headers: Headers) -> bool:
    return info.etag == etag and info.headers == headers


async def _parts_max(store: ObjectStore, upload: Upload) -> int:
    try:
        await store.upload_part(upload, S3_PARTS_MAX, [b"x"])
    except StoreError as error:
        if not _is_refusal(error):
            raise
        return PARTS_MAX_SMALL
    return S3_PARTS_MAX


async def _copied(store: ObjectStore, upload: Upload, source: str, etag: str, body: Sequence[bytes]) -> bool:
    """Whether a range of an object arrives as a part: of `upload`, which is completed by it."""
    size = sum(map(len, body)) - 1
    try:
        part = await store.copy_part(upload, 1, source, 1, 1 + size, source_etag=etag)
        await store.complete_upload(upload, [part])
    except StoreError as error:
        if not _is_refusal(error) and not isinstance(error, BadReply):
            raise
        return False
    if (await store.head(upload.key)).size != size:
        return False
    found = bytearray(len(PATTERN))
    await store.get(upload.key, 0, memoryview(found))
    return found == body[0][1 : 1 + len(found)]


async def _completes(store: ObjectStore, upload: Upload, parts: list[Part]) -> bool:
    try:
        stored = await store.complete_upload(upload, parts)
    except StoreError as error:
        if not _is_refusal(error):
            raise
        return False
    info = await store.head(upload.key)
    return info.etag == stored.etag and info.size == sum(part.size for part in parts)


def _is_refusal(error: StoreError) -> bool:
    """Whether the store has understood and does not do it."""
    return isinstance(error, NotImplementedByStore) or error.status in (400, 411) or error.code in REFUSALS


def _body(size: int) -> Sequence[bytes]:
    """The pattern over and over, mostly the same memory: a probe may run beside a stream that has filled its share."""
    block = PATTERN * 1024
    return [*[block] * (size // len(block)), block[: size % len(block)]]


@asynccontextmanager
async def _scratch(store: ObjectStore, *keys: str) -> AsyncIterator[list[Upload]]:
    """Leaves neither the keys nor the uploads that the block has put into the list."""
    opened: list[Upload] = []
    complete = False
    try:
        yield opened
        complete = True
    finally:
        with trio.move_on_after(CLEANING_SECONDS, shield=True):
            if not complete:
                with suppress(StoreError):  # one may have been opened whose reply was lost
                    opened += await store.list_uploads(keys[0], exactly=True)
            for upload in opened:
                await _quietly(store.abort_upload(upload), upload.key)
            for key in keys:
                await _quietly(store.delete(key), key)


async def _quietly(removal: Awaitable[None], key: str) -> None:
    try:
        await removal
    except NotFound:
        pass
    except StoreError as error:
        log.info("scratch object was left behind key=%r reason=%s", key, error)
