"""S3's HTTP over the in-memory bucket: what a request means, at the instant in which the server does it.

Synchronous: one call is one effect. The rules of conditions, parts and pages are the bucket's (`MemoryStore`, which is
held to the contract of real servers); here is only what they look like on the wire. Metadata is kept as it came, so a
token of ours stays with the object and travels with its copies, as in S3.
"""

import base64
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import formatdate
from functools import lru_cache
from hashlib import md5
from urllib.parse import parse_qsl, quote_plus, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from s3mount.errors import NotImplementedByStore, PreconditionFailed, StoreError
from s3mount.store.base import ALWAYS, Condition, Headers, Part, Upload
from tests.memory_store import MemoryObject, MemoryStore, MemoryUpload

SECOND_NS = 1_000_000_000
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
META = "x-amz-meta-"
_FIELDS = {
    "content_type": "content-type",
    "cache_control": "cache-control",
    "content_disposition": "content-disposition",
    "content_encoding": "content-encoding",
    "content_language": "content-language",
}


@dataclass(slots=True)
class Answer:
    """A reply. The body of one to HEAD is its length only."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


Changed = Callable[[str, MemoryObject | None, MemoryObject | None], None]


class Server:
    """See the module. `changed` hears of each key that gets another object, or none, in the instant it does."""

    def __init__(self, bucket: MemoryStore, changed: Changed) -> None:
        self._bucket = bucket  # all state is the bucket's
        self._changed = changed

    def answer(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Do what is asked for; a refusal is an answer."""
        key = unquote(path.partition("/")[2], errors="surrogateescape")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        try:
            given = self._bucket_request(method, asked, body) if not key else None
            reply = given or self._object_request(method, key, asked, headers, body)
        except StoreError as error:
            text = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>"
            reply = Answer(error.status, {}, b"" if method == "HEAD" else text.encode())
        reply.headers.setdefault("content-length", str(len(reply.body)))
        reply.headers["date"] = _http_date(self._bucket.now_ns())
        return reply

    # the bucket

    def _bucket_request(self, method: str, asked: dict[str, str], body: bytes) -> Answer:
        if method == "POST":
            assert "delete" in asked
            return self._delete_many(body)
        return self._uploads(asked) if "uploads" in asked else self._list(asked)

    def _list(self, asked: dict[str, str]) -> Answer:
        token = asked.get("continuation-token")
        after = bytes.fromhex(token).decode() if token is not None else asked.get("start-after", "")
        limit = min(int(asked["max-keys"]), self._bucket._page_max)
        page = self._bucket._page(asked.get("prefix", ""), asked.get("delimiter", ""), after, limit)
        lines = ['<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><EncodingType>url</EncodingType>']
        lines += [
            f"<Contents><Key>{quote_plus(found.key)}</Key>"
            f"<LastModified>{_iso_date(found.last_modified_ns)}</LastModified>"
            f"<ETag>{escape(found.etag)}</ETag><Size>{found.size}</Size></Contents>"
            for found in page.objects
        ]
        lines += [f"<CommonPrefixes><Prefix>{quote_plus(prefix)}</Prefix></CommonPrefixes>" for prefix in page.prefixes]
        lines.append(f"<IsTruncated>{'true' if page.token is not None else 'false'}</IsTruncated>")
        if page.token is not None:
            lines.append(f"<NextContinuationToken>{page.token.encode().hex()}</NextContinuationToken>")
        return Answer(200, {}, ("".join(lines) + "</ListBucketResult>").encode())

    def _uploads(self, asked: dict[str, str]) -> Answer:
        lines = [
            f"<Upload><Key>{quote_plus(opened.key)}</Key><UploadId>{name}</UploadId>"
            f"<Initiated>{_iso_date(opened.started_ns)}</Initiated></Upload>"
            for name, opened in self._bucket.uploads.items()
            if opened.key.startswith(asked["prefix"])
        ]
        text = "".join(lines)
        return Answer(
            200,
            {},
            (
                "<ListMultipartUploadsResult><EncodingType>url</EncodingType>"
                f"{text}<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
            ).encode(),
        )

    def _delete_many(self, body: bytes) -> Answer:
        lines = []
        for one in ET.fromstring(body).iter(f"{NAMESPACE}Object"):
            key, etag = one.findtext(f"{NAMESPACE}Key") or "", one.findtext(f"{NAMESPACE}ETag")
            try:
                if etag is not None and key in self._bucket.objects:
                    self._bucket._check("DELETE", key, Condition(etag=etag))
                self._remove(key)
                lines.append(f"<Deleted><Key>{escape(key)}</Key></Deleted>")
            except StoreError as error:
                lines.append(f"<Error><Key>{escape(key)}</Key><Code>{error.code}</Code></Error>")
        return Answer(200, {}, f"<DeleteResult>{''.join(lines)}</DeleteResult>".encode())

    # an object

    def _object_request(
        self, method: str, key: str, asked: dict[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        if method in ("GET", "HEAD"):
            if "uploadId" in asked:
                return self._parts(key, asked["uploadId"])
            return self._tags(key) if "tagging" in asked else self._get(method, key, headers)
        if method == "DELETE":
            if "uploadId" in asked:
                self._bucket.uploads.pop(asked["uploadId"], None)
            else:
                self._bucket._check("DELETE", key, _condition(headers))
                self._remove(key)
            return Answer(204)
        if method == "POST":
            if "uploads" in asked:
                return self._begin_upload(key, headers)
            return self._complete(key, asked["uploadId"], headers, body)
        if "renameObject" in asked:
            return self._rename(key, headers)
        if "partNumber" in asked:
            return self._part(key, asked, headers, body)
        return self._copy(key, headers) if "x-amz-copy-source" in headers else self._put(key, headers, body)

    def _get(self, method: str, key: str, headers: Mapping[str, str]) -> Answer:
        found = self._bucket._get(key)
        if "if-match" in headers and headers["if-match"] != found.etag:
            raise PreconditionFailed(key, code="PreconditionFailed", status=412)
        if headers.get("if-none-match") == found.etag:
            return Answer(304, {"etag": found.etag})
        told = _lines_of(found)
        if method == "HEAD":
            return Answer(200, {**told, "content-length": str(len(found.body))})
        start, _, last = headers["range"].removeprefix("bytes=").partition("-")
        if int(start) >= len(found.body):
            raise StoreError(key, code="InvalidRange", status=416)
        stop = min(int(last) + 1, len(found.body))
        return Answer(
            206,
            {**told, "content-range": f"bytes {start}-{stop - 1}/{len(found.body)}"},
            found.body[int(start) : stop],
        )

    def _tags(self, key: str) -> Answer:
        self._bucket._get(key)
        return Answer(200, {}, b"<Tagging><TagSet></TagSet></Tagging>")

    def _put(self, key: str, headers: Mapping[str, str], body: bytes) -> Answer:
        digest = _checked(key, headers, body)
        self._bucket._check("PUT", key, _condition(headers))
        self._change(key, self._bucket._object(body, self._bucket._etag_of(body), _headers_of(headers)))
        return Answer(200, {"etag": self._bucket.objects[key].etag, "x-amz-checksum-crc32": digest})

    def _copy(self, key: str, headers: Mapping[str, str]) -> Answer:
        found = self._copied(headers)
        self._bucket._check("COPY", key, _condition(headers))
        kept = _headers_of(headers) if headers.get("x-amz-metadata-directive") == "REPLACE" else found.headers
        self._change(key, self._bucket._object(found.body, self._bucket._etag_of(found.body), kept))
        return _result("CopyObjectResult", ETag=self._bucket.objects[key].etag)

    def _rename(self, key: str, headers: Mapping[str, str]) -> Answer:
        if not self._bucket.renames:
            raise NotImplementedByStore(key, code="NotImplemented", status=501)
        source = unquote(headers["x-amz-rename-source"]).split("/", 2)[2]
        found = self._bucket._get_for_copy(source, headers["x-amz-rename-source-if-match"])
        self._bucket._check("RENAME", key, _condition(headers))
        self._change(key, found)
        self._remove(source)
        return Answer(200)

    # parts

    def _begin_upload(self, key: str, headers: Mapping[str, str]) -> Answer:
        self._bucket._serial += 1
        name = f"upload-{self._bucket._serial}"
        self._bucket.uploads[name] = MemoryUpload(key, _headers_of(headers), self._bucket.now_ns())
        return _result("InitiateMultipartUploadResult", UploadId=name)

    def _part(self, key: str, asked: dict[str, str], headers: Mapping[str, str], body: bytes) -> Answer:
        upload, number = Upload(key, asked["uploadId"]), int(asked["partNumber"])
        self._bucket._upload(upload)
        if "x-amz-copy-source" not in headers:
            _checked(key, headers, body)
            return Answer(200, {"etag": self._bucket._part(upload, number, body).etag})
        found = self._copied(headers)
        start, _, last = headers["x-amz-copy-source-range"].removeprefix("bytes=").partition("-")
        if int(last) >= len(found.body):
            raise StoreError(key, code="InvalidRange", status=416)
        part = self._bucket._part(upload, number, found.body[int(start) : int(last) + 1])
        return _result("CopyPartResult", ETag=part.etag)

    def _parts(self, key: str, name: str) -> Answer:
        opened = self._bucket._upload(Upload(key, name))
        parts = "".join(f"<Part><ETag>{escape(etag)}</ETag></Part>" for _, etag in opened.parts.values())
        return Answer(200, {}, f"<ListPartsResult><UploadId>{name}</UploadId>{parts}</ListPartsResult>".encode())

    def _complete(self, key: str, name: str, headers: Mapping[str, str], body: bytes) -> Answer:
        opened = self._bucket._upload(Upload(key, name))
        chosen = [
            Part(int(one.findtext(f"{NAMESPACE}PartNumber") or 0), one.findtext(f"{NAMESPACE}ETag") or "", 0)
            for one in ET.fromstring(body).iter(f"{NAMESPACE}Part")
        ]
        bodies = self._bucket._chosen(opened, chosen)
        self._bucket._check("COMPLETE", key, _condition(headers))
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in chosen)
        etag = f'"{md5(digests).hexdigest()}-{len(chosen)}"'
        whole = self._bucket._object(b"".join(bodies), etag, opened.headers)
        del self._bucket.uploads[name]
        self._change(key, replace(whole, last_modified_ns=opened.started_ns))
        return _result("CompleteMultipartUploadResult", ETag=etag)

    # inside

    def _copied(self, headers: Mapping[str, str]) -> MemoryObject:
        source = unquote(headers["x-amz-copy-source"]).split("/", 2)[2]
        return self._bucket._get_for_copy(source, headers["x-amz-copy-source-if-match"])

    def _change(self, key: str, stored: MemoryObject) -> None:
        before = self._bucket.objects.get(key)
        self._bucket._store(key, stored)
        self._changed(key, before, stored)

    def _remove(self, key: str) -> None:
        before = self._bucket.objects.get(key)
        if before is not None:
            self._bucket.remove(key)
            self._changed(key, before, None)


def _checked(key: str, headers: Mapping[str, str], body: bytes) -> str:
    """The checksum of a body, which is what the request says. Raises BadDigest."""
    digest = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    if headers.get("x-amz-checksum-crc32", digest) != digest:
        raise StoreError(key, code="BadDigest", status=400)
    return digest


def _condition(headers: Mapping[str, str]) -> Condition:
    if "if-match" in headers:
        return Condition(etag=headers["if-match"])
    return Condition(absent=True) if "if-none-match" in headers else ALWAYS


def _headers_of(lines: Mapping[str, str]) -> Headers:
    plain = {field: lines.get(name) for field, name in _FIELDS.items()}
    metadata = {name.removeprefix(META): value for name, value in lines.items() if name.startswith(META)}
    return Headers(**plain, metadata=metadata)  # type: ignore[arg-type]


def _lines_of(found: MemoryObject) -> dict[str, str]:
    lines = {"etag": found.etag, "last-modified": _http_date(found.last_modified_ns)}
    for name, line in _FIELDS.items():
        value = getattr(found.headers, name)
        if value is not None:
            lines[line] = value
    lines.update({META + name: value for name, value in found.headers.metadata.items()})
    return lines


def _result(root: str, **fields: str) -> Answer:
    text = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return Answer(200, {}, f"<{root}>{text}</{root}>".encode())


@lru_cache(maxsize=4096)
def _http_date(time_ns: int) -> str:
    return formatdate(time_ns // SECOND_NS, usegmt=True)


@lru_cache(maxsize=4096)
def _iso_date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // SECOND_NS, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
