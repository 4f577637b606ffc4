"""What S3's replies mean: headers to values, small XML documents to fields, errors to exceptions. Pure.

User metadata: HTTP carries ASCII, so a value with other characters travels as one RFC 2047 word (`=?UTF-8?B?...?=`),
the form that Amazon documents and that other stores keep as it is. A value that came as such a word, or as raw UTF-8,
is shown decoded; everything else is shown and sent untouched.
"""

import base64
import binascii
import calendar
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_tz
from xml.parsers import expat

from s3mount import errors
from s3mount.store.base import Headers, ObjectInfo, Part
from s3mount.store.listing import forget_times

WRITE_TOKEN = "s3mount-write"
"""The metadata that recognises our own creation after a lost reply; shown to nobody."""

_META = "x-amz-meta-"
_WORD_START, _WORD_STOP = "=?UTF-8?B?", "?="
_STANDARD = (
    ("content_type", "content-type"),
    ("cache_control", "cache-control"),
    ("content_disposition", "content-disposition"),
    ("content_encoding", "content-encoding"),
    ("content_language", "content-language"),
)

RETRIED_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
THROTTLED_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
SLOW_STATUSES = frozenset({429, 503})
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"})
REDIRECT_CODES = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)

_BY_CODE: Mapping[str, type[errors.StoreError]] = {
    "NoSuchKey": errors.NotFound,
    "NoSuchVersion": errors.NotFound,
    "NoSuchBucket": errors.NoSuchBucket,
    "NoSuchUpload": errors.NoSuchUpload,
    "AccessDenied": errors.AccessDenied,
    "InvalidObjectState": errors.Archived,
    "PreconditionFailed": errors.PreconditionFailed,
    "ConditionalRequestConflict": errors.PreconditionFailed,
    "InvalidRange": errors.RangeNotSatisfiable,
    "KeyTooLongError": errors.KeyTooLong,
    "KeyTooLong": errors.KeyTooLong,
    "RequestTimeTooSkewed": errors.ClockSkew,
    "NotImplemented": errors.NotImplementedByStore,
    "MethodNotAllowed": errors.NotImplementedByStore,
}
_BY_STATUS: Mapping[int, type[errors.StoreError]] = {
    401: errors.AccessDenied,
    403: errors.AccessDenied,
    404: errors.NotFound,
    409: errors.StoreError,
    412: errors.PreconditionFailed,
    416: errors.RangeNotSatisfiable,
    429: errors.Unavailable,
    501: errors.NotImplementedByStore,
}


def error_of(action: str, status: int, code: str, message: str = "") -> errors.StoreError:
    """The exception for a reply that is not what was asked for; `action` says what was (no secrets in it)."""
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if kind is None:
        kind = errors.Unavailable if status >= 500 or code in RETRIED_CODES else errors.StoreError
    words = f"{code or 'no error code'}: {message[:200]!r}" if message else code or "no error document"
    return kind(f"{action}: status {status}, {words}", code=code, status=status)


def fields_of(document: bytes | bytearray) -> dict[str, str]:
    """The texts of a small XML document by element name, the last of each, and `` as the root's name. {} if it is
    none."""
    found: dict[str, str] = {}
    text: list[str] = []

    def start(name: str, _attributes: dict[str, str]) -> None:
        found.setdefault("", name)
        text.clear()

    def end(name: str) -> None:
        found[name] = "".join(text)
        text.clear()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(bytes(document).lstrip(), True)
    except (expat.ExpatError, ValueError):
        return {}
    return found


def tags_of(document: bytes | bytearray) -> list[tuple[str, str]]:
    """The names and values of a Tagging document, in its order. Raises BadReply when it is none."""
    tags: list[tuple[str, str]] = []
    text: list[str] = []
    name = ""

    def end(element: str) -> None:
        nonlocal name
        if element == "Key":
            name = "".join(text)
        elif element == "Value":
            tags.append((name, "".join(text)))

    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda _name, _attributes: text.clear()
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(bytes(document), True)
    except expat.ExpatError as error:
        raise errors.BadReply(f"the tags cannot be read: {error}") from error
    return tags


@functools.lru_cache(maxsize=4096)
def parse_date_ns(text: str) -> int:
    """An HTTP date as nanoseconds since the epoch. Raises ValueError."""
    parsed = parsedate_tz(text)
    if parsed is None:
        raise ValueError(f"not a date: {text!r}")
    return (calendar.timegm((*parsed[:6], 0, 0, 0)) - (parsed[9] or 0)) * 1_000_000_000


def forget_parsed() -> None:
    """Empty what saves parsing the same words of replies again."""
    parse_date_ns.cache_clear()
    _plain_headers.cache_clear()
    forget_times()


def quoted_etag(etag: str) -> str:
    """Some stores forget the quotes in one place or another."""
    return etag if not etag or etag[0] == '"' or etag.startswith('W/"') else f'"{etag}"'


def multipart_etag(parts: Sequence[Part]) -> str | None:
    """The etag S3 gives to an object of these parts; None where the parts' etags are no digests."""
    try:
        digests = b"".join([binascii.unhexlify(part.etag.strip('"')) for part in parts])
    except (binascii.Error, ValueError):
        return None
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'


def info_of(key: str, headers: Mapping[str, str], size: int, date_ns: int) -> ObjectInfo:
    """An object as the headers of a HEAD or GET tell it. Raises BadReply when one is missing or makes no sense."""
    try:
        modified_ns = parse_date_ns(headers["last-modified"])
        etag = quoted_etag(headers["etag"])
        tag_count = int(headers.get("x-amz-tagging-count", 0))
    except (KeyError, ValueError) as error:
        raise errors.BadReply(f"the headers of {key!r} lack or garble {error}") from error
    return ObjectInfo(
        key,
        size,
        etag,
        modified_ns,
        date_ns,
        headers_of(headers),
        version_of(headers),
        headers.get("x-amz-storage-class"),
        tag_count,
    )


def headers_of(headers: Mapping[str, str]) -> Headers:
    """The headers an object carries, ours (`s3mount-write`) hidden."""
    get = headers.get
    plain = _plain_headers(
        get("content-type"),
        get("cache-control"),
        get("content-disposition"),
        get("content-encoding"),
        get("content-language"),
    )
    if _META not in " ".join(headers):
        return plain
    metadata = {
        name[len(_META) :]: _decoded(value)
        for name, value in headers.items()
        if name.startswith(_META) and name != _META + WRITE_TOKEN
    }
    return replace(plain, metadata=metadata)


@functools.lru_cache(maxsize=256)
def _plain_headers(
    content_type: str | None,
    cache_control: str | None,
    content_disposition: str | None,
    content_encoding: str | None,
    content_language: str | None,
) -> Headers:
    """Without metadata, which is what most objects have: the same few values again and again."""
    return Headers(content_type, cache_control, content_disposition, content_encoding, content_language)


def version_of(headers: Mapping[str, str]) -> str | None:
    """The version id; that of an unversioned object, `null`, names no version for it may be overwritten."""
    version = headers.get("x-amz-version-id")
    return None if version == "null" else version


def write_token_of(headers: Mapping[str, str]) -> str | None:
    return headers.get(_META + WRITE_TOKEN)


def header_lines(headers: Headers, token: str | None = None) -> list[tuple[str, str]]:
    """What is sent so that an object carries `headers` (and `token`). ValueError: what no header can carry."""
    lines = []
    for field, name in _STANDARD:
        value = getattr(headers, field)
        if value is not None:
            lines.append((name, _encoded(value)))
    if headers.tags:
        lines.append(("x-amz-tagging", headers.tags))
    for name, value in headers.metadata.items():
        assert name == name.lower(), name
        lines.append((_META + name, _encoded(value)))
    if token is not None:
        lines.append((_META + WRITE_TOKEN, token))
    return lines


def _encoded(value: str) -> str:
    if value.isascii():
        if not value.isprintable():
            raise ValueError(f"a header cannot carry {value!r}")
        return value
    return f"{_WORD_START}{base64.b64encode(value.encode(errors='surrogateescape')).decode()}{_WORD_STOP}"


def _decoded(value: str) -> str:
    if value.isascii():
        if value.startswith(_WORD_START) and value.endswith(_WORD_STOP):
            try:
                plain = base64.b64decode(value[len(_WORD_START) : -len(_WORD_STOP)], validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return value
            # Sent again it must become the same: a word around plain ASCII would not, so it stays as it is.
            return value if plain.isascii() else plain
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
