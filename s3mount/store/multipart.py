"""Multipart uploads over `Requests`, and the copy of an object too large for one CopyObject.

A completion is recognised as ours, after a lost reply, by the random token in the metadata of an upload conditional on
absence or encrypted with a key, else by the etag that S3 computes from the etags of the parts.
"""

from collections.abc import Sequence
from dataclasses import replace
from xml.sax.saxutils import escape

import trio

from s3mount import errors
from s3mount.config import MIB, S3_COPY_MAX_BYTES, S3_PART_MIN_BYTES, S3_PARTS_MAX
from s3mount.store.base import Body, Condition, Headers, ObjectInfo, Part, Stored, Upload
from s3mount.store.listing import UploadsParser
from s3mount.store.replies import multipart_etag, quoted_etag, tags_of
from s3mount.store.requests import Line, Requests, condition_lines, etag_in, lines_of, refused, size_of
from s3mount.store.signature import quote_key, quote_query
from s3mount.store.wire import Sink, SmallBody

COPY_PART_MAX_BYTES = 512 * MIB
PARTS_FEW = 1000
LIST_BODY_MAX_BYTES = 8 * MIB
ABORT_SECONDS = 10.0
"""For the abort of a copy that was cut short: a daemon that ends waits so long beyond --stop-timeout."""


async def create(requests: Requests, key: str, headers: Headers, condition: Condition) -> Upload:
    token = requests.token_for(condition)
    lines = lines_of(headers, token)
    # A full-object checksum: then the completion need not repeat those of the parts (Amazon and SeaweedFS insist
    # otherwise).
    checksum = [("x-amz-checksum-algorithm", "CRC32"), ("x-amz-checksum-type", "FULL_OBJECT")]
    try:
        return await _create(requests, key, lines + checksum if requests.sends_crc32 else lines, token)
    except errors.StoreError as error:
        if not requests.sends_crc32 or error.status not in (400, 501) or isinstance(error, errors.KeyTooLong):
            raise
        upload = await _create(requests, key, lines, token)
        requests.without_crc32()
        return upload


async def _create(requests: Requests, key: str, lines: list[Line], token: str | None) -> Upload:
    uploads, now_ns = requests.upload_log, requests.dispatcher.now_ns()
    order = requests.metadata("create_upload", "POST", key, "uploads=", lines, mutating=True)
    order.throttled_is_refused = True
    number = uploads.begin(key, now_ns)
    try:
        await requests.send(order)
        if not order.document.get("UploadId"):
            order.in_doubt = True
            raise errors.BadReply(f"POST {key!r}: the reply names no upload")
    except BaseException:
        if order.in_doubt:
            uploads.doubted(number)
        else:
            uploads.refused(number)
        raise
    upload = Upload(key, order.document["UploadId"], token)
    uploads.opened(number, upload)
    if order.in_doubt:
        uploads.doubted(uploads.begin(key, now_ns))  # an attempt before this one may have opened another
    return upload


async def upload_part(requests: Requests, upload: Upload, number: int, body: Body) -> Part:
    assert 1 <= number <= S3_PARTS_MAX
    query = _part_query(upload, number)
    order = requests.upload("upload_part", upload.key, query, [], body)
    reply = await requests.send_checked(order, None)
    return Part(number, requests.stored(reply).etag, size_of(body))


async def copy_part(
    requests: Requests, upload: Upload, number: int, source: str, start: int, stop: int, source_etag: str
) -> Part:
    assert 0 <= start < stop
    lines = [
        ("x-amz-copy-source", f"/{requests.config.bucket}/{quote_key(source)}"),
        ("x-amz-copy-source-if-match", source_etag),
        ("x-amz-copy-source-range", f"bytes={start}-{stop - 1}"),
    ]
    order = requests.slow("copy_part", "PUT", upload.key, _part_query(upload, number), lines)
    await requests.send(order)
    return Part(number, etag_in(order.document, f"copy of {source!r}"), stop - start)


async def complete(requests: Requests, upload: Upload, parts: Sequence[Part], condition: Condition) -> Stored:
    assert parts
    order = requests.slow(
        "complete_upload",
        "POST",
        upload.key,
        quote_query([("uploadId", upload.id)]),
        [("content-type", "application/xml"), *condition_lines(condition)],
        (_document(parts),),
    )
    try:
        reply = await requests.mutate(upload.key, order)
    except (errors.PreconditionFailed, errors.NoSuchUpload, errors.NotFound) as error:
        if order.repeated:
            ours = await _ours(requests, upload, parts, condition)
            if ours is not None:
                requests.upload_log.ended(upload)
                return Stored(ours.etag, ours.last_modified_ns, ours.version_id)
        if isinstance(error, errors.NoSuchUpload):
            raise
        raise refused(error, f"completion of {upload.key!r}") from error
    requests.upload_log.ended(upload)
    return requests.stored(reply, etag_in(order.document, f"completion of {upload.key!r}"))


async def _ours(requests: Requests, upload: Upload, parts: Sequence[Part], condition: Condition) -> ObjectInfo | None:
    """The object, if our own first completion has made it."""
    seen = await requests.look(upload.key)
    if seen is None:
        return None
    info, token = seen
    if condition.absent or upload.token is not None:
        return info if token is not None and token == upload.token else None
    return info if info.etag == multipart_etag(parts) else None


async def abort(requests: Requests, upload: Upload) -> None:
    order = requests.metadata(
        "abort_upload", "DELETE", upload.key, quote_query([("uploadId", upload.id)]), mutating=True
    )
    try:
        await requests.send(order)
    except (errors.NoSuchUpload, errors.NotFound):
        pass  # gone is what was asked for
    requests.upload_log.ended(upload)


async def has_parts(requests: Requests, upload: Upload) -> bool:
    query = quote_query([("max-parts", "1"), ("uploadId", upload.id)])
    order = requests.metadata("list_parts", "GET", upload.key, query)
    await requests.send(order)
    if order.document.get("UploadId") != upload.id:
        # The root's name differs between stores. Taken for a list without parts, it would cost somebody's upload.
        raise errors.BadReply(f"GET {upload.key!r}: a list of this upload's parts was asked for, something else came")
    return "ETag" in order.document


async def list_uploads(requests: Requests, prefix: str, *, exactly: bool) -> tuple[Upload, ...]:
    found: list[Upload] = []
    markers: tuple[str, str] | None = ("", "")
    while markers is not None:
        query = [("uploads", ""), ("encoding-type", "url"), ("prefix", prefix), ("max-uploads", "1000")]
        if markers[0]:
            query += [("key-marker", markers[0]), ("upload-id-marker", markers[1])]
        order = requests.metadata("list_uploads", "GET", None, quote_query(query))
        body = SmallBody(LIST_BODY_MAX_BYTES)

        def prepare(_order: object, body: SmallBody = body) -> Sink:
            body.content.clear()
            return body

        order.prepare = prepare
        await requests.send(order)
        parser = UploadsParser()
        parser.feed(body.content)
        page, following = parser.uploads()
        if following == markers:
            raise errors.BadReply("the list of uploads does not advance")
        found += page
        # In the order of keys the prefix itself comes first. (What a store lists otherwise is left for good, no more.)
        markers = None if exactly and following is not None and following[0] > prefix else following
    # A store may take the prefix for a directory's name; what is not below it is none of ours.
    return tuple(upload for upload in found if upload.key == prefix or (not exactly and upload.key.startswith(prefix)))


async def copy_by_parts(
    requests: Requests, info: ObjectInfo, target: str, headers: Headers | None, condition: Condition
) -> Stored:
    """Copy `info`'s object in ranges, side by side; headers, metadata and tags come along."""
    carried = headers if headers is not None else info.headers
    carried = replace(carried, tags=await tags(requests, info.key) if info.tag_count else "")
    upload = await create(requests, target, carried, condition)
    try:
        stops = _stops(info.size, requests.config.copy_max_bytes)
        parts: dict[int, Part] = {}

        failures: list[errors.StoreError] = []

        async def copy(number: int, start: int, stop: int) -> None:
            try:
                parts[number] = await copy_part(requests, upload, number, info.key, start, stop, info.etag)
            except errors.StoreError as error:
                # Kept, for one error speaks for all; a nursery would raise them as a group.
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            start = 0
            for number, stop in enumerate(stops, 1):
                nursery.start_soon(copy, number, start, stop)
                start = stop
        if failures:
            raise failures[0]
        return await complete(requests, upload, [parts[number] for number in sorted(parts)], condition)
    except BaseException:
        with trio.move_on_after(ABORT_SECONDS, shield=True):
            try:
                await abort(requests, upload)
            except errors.StoreError:
                pass  # what failed first matters more; the upload's entry in the log stays
        raise


def _stops(size: int, copy_max_bytes: int) -> list[int]:
    """Of one size but the last, as some stores demand, and no more than some take, while parts of 5 GiB allow it."""
    few = min(-(-size // PARTS_FEW), S3_COPY_MAX_BYTES)
    step = max(S3_PART_MIN_BYTES, min(copy_max_bytes, COPY_PART_MAX_BYTES), few, -(-size // S3_PARTS_MAX))
    return [*range(step, size, step), size]


async def tags(requests: Requests, key: str) -> str:
    """An object's tags, URL-encoded."""
    order = requests.metadata("get_tags", "GET", key, "tagging=")
    body = SmallBody()

    def prepare(_order: object) -> Sink:
        body.content.clear()
        return body

    order.prepare = prepare
    try:
        await requests.send(order)
    except errors.NotImplementedByStore:
        return ""
    except errors.AccessDenied as error:
        words = f"the tags of {key!r} may not be read and would be lost: grant s3:GetObjectTagging ({error})"
        raise errors.AccessDenied(words, code=error.code, status=error.status) from error
    return quote_query(tags_of(body.content))


def _part_query(upload: Upload, number: int) -> str:
    return f"partNumber={number}&{quote_query([('uploadId', upload.id)])}"


def _document(parts: Sequence[Part]) -> bytes:
    lines = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(quoted_etag(part.etag))}</ETag></Part>"
        for part in parts
    )
    return (
        f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{lines}</CompleteMultipartUpload>'
    ).encode()
