"""An ObjectStore in memory with S3's rules, for tests: etags, conditions, multipart, pages, faults on demand.

Held to the same contract suite as the real stores (tests/store/test_contract.py). Every call is one checkpoint before
its effect and one after it; the effect itself is atomic. Nothing is retried in here: a fault that a test orders reaches
the caller. Switches of the constructor make it one of the stores that lack abilities, as they do: equal parts as on
R2, fewer parts, copies of parts, conditions and DeleteObjects (or the etags in it) refused or ignored, lists in the
order of a tree as on SeaweedFS; `renaming` ignored is a PUT of nothing.

The mutable state is `objects` (key -> current object), `versions` (only when `versioned`), `uploads` (open multipart
uploads), `upload_log` (who hears of uploads), `_sorted` (the keys in list order, or None when a mutation outdated it),
the counters (`refusals`: what a lacking ability has cost), the faults, `away` (every request fails, and the mount is to
go by what it knows), and `undeletable` keys with what deleting them raises.
"""

import bisect
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Literal
from urllib.parse import parse_qsl

import trio

from s3mount.config import S3_KEY_MAX_BYTES, S3_PART_MIN_BYTES, S3_PARTS_MAX
from s3mount.data.journal import Journal
from s3mount.errors import (
    Archived,
    KeyTooLong,
    LostReply,
    NoSuchUpload,
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    RangeNotSatisfiable,
    Unavailable,
)
from s3mount.errors import StoreError as Refused
from s3mount.store.base import (
    ALWAYS,
    Body,
    Condition,
    Headers,
    Listed,
    ObjectInfo,
    Page,
    Part,
    Stored,
    Undeleted,
    Unlogged,
    Upload,
    UploadLog,
)
from tests.paper import PaperInMemory

SECOND_NS = 1_000_000_000
NO_HEADERS = Headers()
Operation = Literal[
    "head", "get", "list", "put", "copy", "delete", "create_upload", "upload_part", "copy_part", "complete_upload",
    "abort_upload", "has_parts", "list_parts", "list_uploads", "get_tags", "delete_many", "rename",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the hooks and `calls` see it. `size` is the bytes sent or asked for; `number` a part's."""

    operation: Operation
    key: str
    size: int = 0
    number: int = 0
    start: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class MemoryObject:
    """One stored object."""

    body: bytes
    etag: str
    last_modified_ns: int
    headers: Headers = NO_HEADERS
    version_id: str | None = None
    storage_class: str | None = None


@dataclass(slots=True)
class MemoryUpload:
    """An open multipart upload."""

    key: str
    headers: Headers
    started_ns: int
    parts: dict[int, tuple[bytes, str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Fault:
    operation: Operation
    error: BaseException
    when: Literal["before", "after"]
    key: str | None
    times: int
    skip: int


Ability = Literal["kept", "refused", "ignored"]
Hook = Callable[[Call], Awaitable[None]]


class MemoryStore:
    """See the module. `before` and `after` are awaited around each effect: they may sleep, raise, change the bucket."""

    def __init__(
        self,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        part_min_bytes: int = S3_PART_MIN_BYTES,
        page_max: int = 1000,
        versioned: bool = False,
        latency_seconds: float = 0.0,
        placed_seconds_ago: int = 3600,
        piece_bytes: int = 256 * 1024,
        equal_parts: bool = False,
        parts_max: int = S3_PARTS_MAX,
        copies_parts: Ability = "kept",
        conditions: Ability = "kept",
        deletes_many: Ability = "kept",
        renaming: Ability = "refused",
        etag_of: Callable[[bytes], str] | None = None,
        order: Literal["utf8", "tree"] = "utf8",
    ) -> None:
        self.objects: dict[str, MemoryObject] = {}
        self.versions: dict[tuple[str, str], MemoryObject] = {}
        self.uploads: dict[str, MemoryUpload] = {}
        self.counts: Counter[str] = Counter()
        self.calls: list[Call] = []
        self.sent_bytes = 0
        self.received_bytes = 0
        self.before: Hook | None = None
        self.after: Hook | None = None
        self.upload_log: UploadLog = Unlogged()
        self.latency_seconds = latency_seconds
        self.piece_bytes = piece_bytes
        self.placed_seconds_ago = placed_seconds_ago
        self._clock_ns = clock_ns
        self._etag_of = etag_of or _etag
        self._part_min_bytes = part_min_bytes
        self._page_max = page_max
        self._versioned = versioned
        self._equal_parts = equal_parts
        self._parts_max = parts_max
        self._copies_parts = copies_parts
        self._conditions = conditions
        self._slash = b"/" if order == "utf8" else b"\0"  # in a tree names are sorted, and the slash is below them all
        self._deletes_many = deletes_many
        self.undeletable: dict[str, Refused] = {}
        self._renaming = renaming
        self.keeps_conditions = conditions == "kept"
        self.renames = renaming == "kept"
        self.ghosts = False
        self.away = False
        self.refusals = 0
        self._faults: list[_Fault] = []
        self._sorted: list[bytes] | None = []
        self._serial = 0

    # What tests do behind the mount's back, without a request.

    def place(self, key: str, body: bytes = b"", headers: Headers = NO_HEADERS, **others: object) -> MemoryObject:
        """Put an object as another client would, `placed_seconds_ago`; `others` are fields of MemoryObject."""
        stored = self._object(body, self._etag_of(body), headers)
        stored = replace(stored, last_modified_ns=stored.last_modified_ns - self.placed_seconds_ago * SECOND_NS)
        if others:
            stored = replace(stored, **others)  # type: ignore[arg-type]
        self._store(key, stored)
        return stored

    def remove(self, key: str) -> None:
        """Delete an object as another client would."""
        del self.objects[key]
        self._sorted = None

    def body(self, key: str) -> bytes:
        return self.objects[key].body

    def keys(self, prefix: str = "") -> list[str]:
        """All keys below `prefix` in UTF-8 order."""
        return sorted((key for key in self.objects if key.startswith(prefix)), key=str.encode)

    def fail(
        self,
        operation: Operation,
        error: BaseException,
        *,
        when: Literal["before", "after"] = "before",
        key: str | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> None:
        """Raise `error` from the next `times` calls of `operation` (on `key`), past `skip`; after: effect done."""
        self._faults.append(_Fault(operation, error, when, key, times, skip))

    def heal(self) -> None:
        """Nothing fails any more."""
        self._faults.clear()

    def reset_counts(self) -> None:
        self.counts.clear()
        self.calls.clear()
        self.sent_bytes = self.received_bytes = 0

    # ObjectStore.

    async def head(self, key: str) -> ObjectInfo:
        call = await self._begin(Call("head", key))
        info = self._info(key, self._get(key))
        await self._end(call)
        return info

    async def tags(self, key: str) -> str:
        call = await self._begin(Call("get_tags", key))
        tags = self._get(key).headers.tags
        await self._end(call)
        return tags

    async def get(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        version_id: str | None = None,
        arrived: Callable[[int], None] | None = None,
    ) -> ObjectInfo | None:
        call = await self._begin(Call("get", key, size=len(into), start=start))
        found = self._get(key, version_id)
        if if_match is not None and found.etag != if_match:
            raise PreconditionFailed(f"GET {key!r}: etag is {found.etag}", code="PreconditionFailed", status=412)
        if if_none_match is not None and found.etag == if_none_match:
            await self._end(call)
            return None
        if found.storage_class in ("GLACIER", "DEEP_ARCHIVE"):
            raise Archived(f"GET {key!r}: restore the object first", code="InvalidObjectState", status=403)
        if start >= len(found.body):
            raise RangeNotSatisfiable(f"GET {key!r} from {start}", code="InvalidRange", status=416)
        stop = min(start + len(into), len(found.body))
        for position in range(start, stop, self.piece_bytes):
            piece = found.body[position : min(position + self.piece_bytes, stop)]
            into[position - start : position - start + len(piece)] = piece
            self.received_bytes += len(piece)
            if arrived is not None:
                arrived(position - start + len(piece))
            if position + len(piece) < stop:
                await trio.lowlevel.checkpoint()
        info = self._info(key, found)
        await self._end(call)
        return info

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        call = await self._begin(Call("list", prefix, size=max_keys))
        page = self._page(prefix, delimiter, token if token is not None else start_after, min(max_keys, self._page_max))
        await self._end(call)
        return page

    async def put(self, key: str, body: Body, headers: Headers, condition: Condition = ALWAYS) -> Stored:
        whole = b"".join(bytes(piece) for piece in body)
        call = await self._begin(Call("put", key, size=len(whole)))
        _check_key(key)
        _check_metadata(headers)
        self._check("PUT", key, condition)
        self.sent_bytes += len(whole)
        stored = self._store(key, self._object(whole, self._etag_of(whole), headers))
        await self._end(call)
        return stored

    async def copy(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        headers: Headers | None = None,
        condition: Condition = ALWAYS,
    ) -> Stored:
        call = await self._begin(Call("copy", target, source=source))
        _check_key(target)
        found = self._get_for_copy(source, source_etag)
        self._check("COPY", target, condition)
        if source == target and headers is None:
            raise Refused("a copy onto itself must change something", code="InvalidRequest", status=400)
        kept = found.headers if headers is None else replace(headers, tags=found.headers.tags)
        stored = self._store(target, self._object(found.body, self._etag_of(found.body), kept))
        await self._end(call)
        return stored

    async def rename(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        condition: Condition = ALWAYS,
    ) -> None:
        call = await self._begin(Call("rename", target, source=source))
        if self._renaming == "refused":
            self.refusals += 1
            self.renames = False
            raise NotImplementedByStore("rename", code="NotImplemented", status=501)
        _check_key(target)
        if self._renaming == "ignored":
            self._check("PUT", target, condition)
            self._store(target, self._object(b"", self._etag_of(b""), NO_HEADERS))
        else:
            found = self._get_for_copy(source, source_etag)
            self._check("RENAME", target, condition)
            self._store(target, found)
            self.remove(source)
        await self._end(call)

    def stop_renaming(self) -> None:
        """As if versioning were switched on."""
        self._renaming = "refused"

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        call = await self._begin(Call("delete", key))
        if key in self.undeletable:
            raise self.undeletable[key]
        self._check("DELETE", key, condition)
        if self.objects.pop(key, None) is not None:
            self._sorted = None
        await self._end(call)

    async def delete_many(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        left: list[Undeleted] = []
        if self._deletes_many == "kept" and len(versions) > 1:
            ordered = sorted(versions, key=lambda version: version[0].endswith("/"))
            for start in range(0, len(ordered), 1000):
                try:
                    left += await self.delete_batch(ordered[start : start + 1000])
                except Refused as error:
                    left += [Undeleted(key, error) for key, _ in ordered[start : start + 1000]]
            return tuple(left)
        for key, etag in versions:
            if etag is not None and key not in self.objects:
                continue
            refused = self._conditions == "refused"
            try:
                await self.delete(key, ALWAYS if etag is None or refused else Condition(etag=etag))
            except Refused as error:
                left.append(Undeleted(key, error))
        return tuple(left)

    async def delete_batch(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        assert 1 <= len(versions) <= 1000
        call = await self._begin(Call("delete_many", versions[0][0], number=len(versions)))
        if self._deletes_many == "refused":
            self.refusals += 1
            raise NotImplementedByStore("DeleteObjects", code="MethodNotAllowed", status=405)
        left: list[Undeleted] = []
        for key, etag in versions:
            try:
                if key in self.undeletable:
                    raise self.undeletable[key]
                if etag is not None and key in self.objects and self._deletes_many == "kept":
                    self._check("DELETE", key, Condition(etag=etag))
                if self.objects.pop(key, None) is not None:
                    self._sorted = None
            except Refused as error:
                left.append(Undeleted(key, error))
        await self._end(call)
        return tuple(left)

    async def create_upload(self, key: str, headers: Headers, condition: Condition = ALWAYS) -> Upload:
        upload: Upload | None = None
        number = self.upload_log.begin(key, self._clock_ns())
        try:
            call = await self._begin(Call("create_upload", key))
            _check_key(key)
            _check_metadata(headers)
            self._serial += 1
            upload = Upload(key, f"upload-{self._serial}", f"token-{self._serial}" if condition.absent else None)
            self.uploads[upload.id] = MemoryUpload(key, headers, self.now_ns())
            await self._end(call)
        except BaseException as error:
            if upload is None and isinstance(error, Refused) and not isinstance(error, LostReply | Unavailable):
                self.upload_log.refused(number)
            else:
                self.upload_log.doubted(number)
            raise
        self.upload_log.opened(number, upload)
        return upload

    async def upload_part(self, upload: Upload, number: int, body: Body) -> Part:
        whole = b"".join(bytes(piece) for piece in body)
        call = await self._begin(Call("upload_part", upload.key, size=len(whole), number=number))
        self.sent_bytes += len(whole)
        part = self._part(upload, number, whole)
        await self._end(call)
        return part

    async def copy_part(
        self, upload: Upload, number: int, source: str, start: int, stop: int, *, source_etag: str
    ) -> Part:
        assert 0 <= start < stop
        call = await self._begin(
            Call("copy_part", upload.key, size=stop - start, number=number, start=start, source=source)
        )
        if self._copies_parts == "refused":
            self.refusals += 1
            raise NotImplementedByStore("copy of a part", code="NotImplemented", status=501)
        found = self._get_for_copy(source, source_etag)
        if stop > len(found.body):
            raise RangeNotSatisfiable(f"copy of {source!r} to {stop}", code="InvalidRange", status=416)
        part = self._part(upload, number, found.body[start:stop] if self._copies_parts == "kept" else b"")
        part = replace(part, size=stop - start)  # as the real store tells it: it knows only what was asked for
        await self._end(call)
        return part

    async def complete_upload(self, upload: Upload, parts: Sequence[Part], condition: Condition = ALWAYS) -> Stored:
        call = await self._begin(Call("complete_upload", upload.key, number=len(parts)))
        opened = self._upload(upload)
        bodies = self._chosen(opened, parts)
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
        self._check("COMPLETE", upload.key, condition)
        whole = self._object(b"".join(bodies), f'"{hashlib.md5(digests).hexdigest()}-{len(bodies)}"', opened.headers)
        del self.uploads[upload.id]
        # As in S3, a multipart object is as old as its initiation.
        stored = self._store(upload.key, replace(whole, last_modified_ns=opened.started_ns))
        await self._end(call)
        self.upload_log.ended(upload)
        return stored

    async def abort_upload(self, upload: Upload) -> None:
        call = await self._begin(Call("abort_upload", upload.key))
        self.uploads.pop(upload.id, None)
        await self._end(call)
        self.upload_log.ended(upload)

    async def has_parts(self, upload: Upload) -> bool:
        call = await self._begin(Call("has_parts", upload.key))
        has = bool(self._upload(upload).parts)
        await self._end(call)
        return has

    async def list_parts(self, upload: Upload) -> tuple[Part, ...]:
        call = await self._begin(Call("list_parts", upload.key))
        stored = sorted(self._upload(upload).parts.items())
        await self._end(call)
        return tuple(Part(number, etag, len(body)) for number, (body, etag) in stored)

    async def list_uploads(self, prefix: str, *, exactly: bool = False) -> tuple[Upload, ...]:
        call = await self._begin(Call("list_uploads", prefix))
        found = tuple(
            Upload(up.key, name, initiated_ns=up.started_ns)
            for name, up in self.uploads.items()
            if up.key == prefix or (not exactly and up.key.startswith(prefix))
        )
        await self._end(call)
        return found

    async def settle(self, key: str) -> None:
        await trio.lowlevel.checkpoint()

    async def settle_below(self, prefix: str) -> None:
        await trio.lowlevel.checkpoint()

    # Inside.
    async def _begin(self, call: Call) -> Call:
        self.counts[call.operation] += 1
        self.calls.append(call)
        await trio.lowlevel.checkpoint()
        if self.latency_seconds:
            await trio.sleep(self.latency_seconds)
        if self.before is not None:
            await self.before(call)
        if self._refuses(call):
            raise Unavailable(f"{call.operation} {call.key!r}: the store is away")
        self._raise_ordered(call, "before")
        return call

    def _refuses(self, _call: Call) -> bool:
        return self.away

    async def _end(self, call: Call) -> None:
        if self.after is not None:
            await self.after(call)
        self._raise_ordered(call, "after")
        await trio.lowlevel.checkpoint()

    def _raise_ordered(self, call: Call, when: str) -> None:
        for fault in self._faults:
            if fault.when != when or fault.operation != call.operation or fault.key not in (None, call.key):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self._faults.remove(fault)
            raise fault.error

    def now_ns(self) -> int:
        """S3 tells whole seconds, everywhere."""
        return self._clock_ns() // SECOND_NS * SECOND_NS

    def _object(self, body: bytes, etag: str, headers: Headers) -> MemoryObject:
        self._serial += 1
        return MemoryObject(
            body, etag, self.now_ns(), headers, version_id=f"version-{self._serial}" if self._versioned else None
        )

    def _store(self, key: str, stored: MemoryObject) -> Stored:
        if key not in self.objects:
            self._sorted = None
        self.objects[key] = stored
        if stored.version_id is not None:
            self.versions[key, stored.version_id] = stored
        return Stored(stored.etag, self.now_ns(), stored.version_id)

    def _get(self, key: str, version_id: str | None = None) -> MemoryObject:
        found = self.versions.get((key, version_id)) if version_id is not None else self.objects.get(key)
        if found is None:
            raise NotFound(f"no object {key!r}", code="NoSuchKey", status=404)
        return found

    def _get_for_copy(self, source: str, source_etag: str) -> MemoryObject:
        found = self._get(source)
        if found.etag != source_etag:
            raise PreconditionFailed(f"{source!r} has etag {found.etag}", code="PreconditionFailed", status=412)
        return found

    def _check(self, verb: str, key: str, condition: Condition) -> None:
        if self._conditions != "kept" and condition != ALWAYS:
            if self._conditions == "ignored":
                return
            self.refusals += 1
            raise NotImplementedByStore(f"{verb} {key!r}: condition", code="NotImplemented", status=501)
        found = self.objects.get(key)
        if (condition.absent and found is not None) or (
            condition.etag is not None and (found is None or found.etag != condition.etag)
        ):
            state = "absent" if found is None else f"etag {found.etag}"
            raise PreconditionFailed(f"{verb} {key!r}: {state}", code="PreconditionFailed", status=412)

    def _upload(self, upload: Upload) -> MemoryUpload:
        opened = self.uploads.get(upload.id)
        if opened is None:
            raise NoSuchUpload(f"no upload {upload.id} of {upload.key!r}", code="NoSuchUpload", status=404)
        return opened

    def _part(self, upload: Upload, number: int, body: bytes) -> Part:
        assert 1 <= number <= S3_PARTS_MAX
        if number > self._parts_max:
            self.refusals += 1
            raise Refused(f"part number {number}", code="InvalidArgument", status=400)
        etag = self._etag_of(body)
        self._upload(upload).parts[number] = (body, etag)
        return Part(number, etag, len(body))

    def _chosen(self, opened: MemoryUpload, parts: Sequence[Part]) -> list[bytes]:
        if not parts:
            raise Refused("an upload needs a part", code="MalformedXML", status=400)
        if any(before.number >= after.number for before, after in itertools.pairwise(parts)):
            raise Refused("parts out of order", code="InvalidPartOrder", status=400)
        bodies = []
        for part in parts:
            body, etag = opened.parts.get(part.number, (b"", ""))
            if etag != part.etag:
                raise Refused(f"part {part.number} is another or missing", code="InvalidPart", status=400)
            bodies.append(body)
        if any(len(body) < self._part_min_bytes for body in bodies[:-1]):
            raise Refused("a part but the last is too small", code="EntityTooSmall", status=400)
        if self._equal_parts and len({len(body) for body in bodies[:-1]}) > 1:
            self.refusals += 1
            raise Refused("All non-trailing parts must have the same length", code="InvalidPart", status=400)
        return bodies

    def _info(self, key: str, found: MemoryObject) -> ObjectInfo:
        headers = found.headers
        return ObjectInfo(
            key, len(found.body), found.etag, found.last_modified_ns, self.now_ns(),
            replace(headers, tags="") if headers.tags else headers, found.version_id, found.storage_class,
            len(parse_qsl(headers.tags, keep_blank_values=True)),
        )  # fmt: skip

    def _keys(self) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(map(self._rank, self.objects))
        return self._sorted

    def _rank(self, key: str) -> bytes:
        return key.encode().replace(b"/", self._slash)

    def _page(self, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        keys, stem, last = self._keys(), self._rank(prefix), self._rank(after)
        objects: list[Listed] = []
        prefixes: list[str] = []
        position = max(bisect.bisect_left(keys, stem), bisect.bisect_right(keys, last))
        if self._slash != b"/" and last:
            while position < len(keys) and keys[position].startswith(last + self._slash):
                position += 1  # in a tree a directory is behind its name when all of it is
        token: str | None = None
        while position < len(keys) and keys[position].startswith(stem):
            key = keys[position].replace(self._slash, b"/").decode()
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            group = key[: cut + len(delimiter)] if cut >= 0 else ""
            if group and group == after:
                # A page that ended with this group goes on behind all of it.
                position = bisect.bisect_left(keys, self._rank(group) + b"\xff")  # no UTF-8 text has 0xff
                continue
            if len(objects) + len(prefixes) == limit:
                token = max(prefixes[-1:] + [entry.key for entry in objects[-1:]], key=self._rank)
                break
            if group:
                prefixes.append(group)
                position = bisect.bisect_left(keys, self._rank(group) + b"\xff")
            else:
                found = self.objects[key]
                objects.append(Listed(key, len(found.body), found.etag, found.last_modified_ns))
                position += 1
        objects.sort(key=attrgetter("key"))
        return Page(tuple(objects), tuple(sorted(prefixes)), token, self.now_ns())


def journal_of(store: MemoryStore) -> Journal:
    """The journal of a mount of `store`: the one that hears of its uploads, or one of its own."""
    return store.upload_log if isinstance(store.upload_log, Journal) else Journal(PaperInMemory())


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def _check_key(key: str) -> None:
    assert key
    if len(key.encode()) > S3_KEY_MAX_BYTES:
        raise KeyTooLong(f"key of {len(key.encode())} bytes", code="KeyTooLongError", status=400)


def _check_metadata(headers: Headers) -> None:
    if sum(len(name) + len(value.encode()) for name, value in headers.metadata.items()) > 2048:
        raise Refused("user metadata over 2 KB", code="MetadataTooLarge", status=400)
