"""WriteBack: the bucket as programs of this mount have left it; an ObjectStore in front of the real one.

Every mutation becomes a record of the journal and is answered when that is on disk; what waits is laid over what the
real store tells. So whoever is above sees one bucket, in which everything acknowledged is there, and need not know that
some of it has not arrived. Conditions are checked against what waits, and go along to the bucket where nothing waits.
The sending is `sending`'s. What the mount tells of a version stays as it was told when it lands: an upload that ends
changes nothing for those who look.

Who runs at the same time: mutations of one key take turns; between the answer of the journal and the change of the
table there is no checkpoint, and no cancellation in what leads there: what is in the journal is in the table.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import trio

from s3mount.config import S3_KEY_MAX_BYTES
from s3mount.data.parallel import each
from s3mount.errors import (
    KeyTooLong,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    StoreError,
    Unavailable,
)
from s3mount.store.base import (
    ALWAYS,
    Body,
    Condition,
    Headers,
    ObjectInfo,
    ObjectStore,
    Page,
    Part,
    Stored,
    Undeleted,
    Upload,
)
from s3mount.store.outage import Outage
from s3mount.writeback import metas
from s3mount.writeback.contents import Reading
from s3mount.writeback.keyturns import KeyTurns
from s3mount.writeback.operations import PROVISIONAL, Content, Home
from s3mount.writeback.oplog import OperationLog
from s3mount.writeback.overlay import Overlay
from s3mount.writeback.pending import GONE, Gone, Pending, Seen
from s3mount.writeback.room import Room
from s3mount.writeback.sending import Sender
from s3mount.writeback.uploads import Uploads

log = logging.getLogger(__name__)

T = TypeVar("T")

DELETES_AT_ONCE = 64
"""Of one DeleteObjects: their records share an fsync."""


class WriteBack:
    """See the module. `run` must be running, and the journal's committer and the sender."""

    def __init__(
        self,
        real: ObjectStore,
        log: OperationLog,
        pending: Pending,
        sender: Sender,
        room: Room,
        *,
        outage: Outage,
        now_ns: Callable[[], int],
        token: str,
    ) -> None:
        # The mutable state: mutations under way by key, uploads by parts that are open, requests that are given up when
        # an outage is told, and the number of the last version. What waits is `pending`'s.
        self._real = real
        self._log = log
        self._pending = pending
        self._sender = sender
        self._room = room
        self._outage = outage
        self._now_ns = now_ns
        self._token = token
        self._serial = 0
        self._turns = KeyTurns()
        self._uploads = Uploads(token)
        self._asking: set[trio.CancelScope] = set()
        self.reading = Reading(real, log, pending)
        self._overlay = Overlay(real, pending)
        wake = pending.changed

        def changed() -> None:
            wake()
            room.look_again()
            self.reading.look_again()

        pending.changed = changed

    def __repr__(self) -> str:
        return f"<WriteBack {self._pending!r}, {len(self._uploads)} uploads open>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Give up questions that an outage keeps from being answered, until cancelled."""
        task_status.started()
        while True:
            await self._outage.told.wait()
            for scope in self._asking:
                scope.cancel()
            await self._outage.ended.wait()

    # what is known of the store

    @property
    def away(self) -> bool:
        """Whether the bucket cannot be asked at present: what is known from earlier has to do."""
        return self._outage.told.is_set()

    @property
    def keeps_conditions(self) -> bool:
        return self._real.keeps_conditions

    @property
    def renames(self) -> bool:
        """Always: a record does it, and how the bucket follows is the sender's matter."""
        return True

    @property
    def ghosts(self) -> bool:
        return self._real.ghosts

    async def settle(self, key: str) -> None:
        """Return when what was acknowledged of the key is in the bucket. Raises what keeps it out."""
        await self._sender.settle(key)

    async def settle_below(self, prefix: str) -> None:
        """The same of all keys below."""
        await self._sender.settle_below(prefix)

    # reading

    async def head(self, key: str) -> ObjectInfo:
        seen = self._pending.find(key)
        if isinstance(seen, Gone):
            raise NotFound(f"{key!r} was deleted", code="NoSuchKey", status=404)
        if seen is not None:
            return await self._describe(seen)
        if self.away and (landed := self._pending.landed_headers(key)) is not None:
            return landed
        return self._told(await self._ask(lambda: self._real.head(key)))

    async def tags(self, key: str) -> str:
        seen = self._pending.find(key)
        if isinstance(seen, Gone):
            raise NotFound(f"{key!r} was deleted", code="NoSuchKey", status=404)
        if seen is None:
            return await self._real.tags(key)
        home = _home(seen.content)
        if home is None or (seen.headers is not None and seen.headers.tags):
            return "" if seen.headers is None else seen.headers.tags
        return await self._real.tags(home.key)

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
        pending = self._pending
        seen = pending.find(key)
        if version_id is None and isinstance(seen, Gone):
            raise NotFound(f"{key!r} was deleted", code="NoSuchKey", status=404)
        if version_id is not None or not isinstance(seen, Seen):
            info = await self._real.get(
                key,
                start,
                into,
                if_match=None if if_match is None else pending.real_etag(key, if_match),
                if_none_match=None if if_none_match is None else pending.real_etag(key, if_none_match),
                version_id=version_id,
                arrived=arrived,
            )
            return None if info is None else self._told(info)
        if if_match is not None and if_match != seen.etag:
            raise _precondition(key)
        if if_none_match == seen.etag:
            return None
        if start >= seen.size:
            raise RangeNotSatisfiable(f"{key!r} has {seen.size} bytes", code="InvalidRange", status=416)
        size = min(len(into), seen.size - start)
        found = await self.reading.read(seen.content, start, into[:size])
        if arrived is not None:
            arrived(size)
        return await self._describe(seen, found)

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        return await self._ask(
            lambda: self._overlay.list_page(
                prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
            )
        )

    # changing

    async def put(self, key: str, body: Body, headers: Headers, condition: Condition = ALWAYS) -> Stored:
        size = sum(map(len, body))
        async with self._turns.of(key):
            await self._room.for_bytes(size)
            pieces = [metas.Own(0, size, 0)] if size else []
            return await self._put(key, pieces, headers, condition, body=body)

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
        async with self._turns.of(source, target):
            await self._room.for_bytes(0)
            check_key(target)
            self._check(target, condition)
            seen = self._found(source, source_etag)
            if headers is not None and seen is not None and seen.headers is not None:
                headers = replace(headers, tags=seen.headers.tags)
            meta = metas.copy_meta(
                source,
                target,
                source_etag=self._named(source, source_etag),
                size=await self._size_of(source, source_etag, source_size, seen),
                headers=headers,
                condition=self._for_bucket(target, condition),
                # S3 keeps the etag of a copy, too. A version that is only described anew keeps its place in the caches.
                etag=source_etag if source == target else self._new_etag(),
                at_ns=self._now_ns(),
            )
            return await self._record(meta)

    async def rename(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        condition: Condition = ALWAYS,
    ) -> None:
        async with self._turns.of(source, target):
            await self._room.for_bytes(0)
            check_key(target)
            self._check(target, condition)
            seen = self._found(source, source_etag)
            meta = metas.rename_meta(
                source,
                target,
                source_etag=self._named(source, source_etag),
                size=await self._size_of(source, source_etag, source_size, seen),
                condition=self._for_bucket(target, condition),
                etag=source_etag,
                at_ns=self._now_ns() if seen is None else seen.at_ns,
            )
            await self._record(meta)

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        async with self._turns.of(key):
            await self._room.for_deletion()
            seen = self._pending.find(key)
            if isinstance(seen, Gone) and condition.etag is None:
                return
            self._check(key, condition)
            await self._record(metas.delete_meta(key, condition=self._for_bucket(key, condition), at_ns=self._now_ns()))

    async def delete_many(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        left: list[Undeleted] = []

        async def delete(version: tuple[str, str | None]) -> None:
            key, etag = version
            try:
                await self.delete(key, Condition(etag=etag))
            except StoreError as error:
                if not isinstance(self._pending.find(key), Gone):
                    left.append(Undeleted(key, error))

        await each(versions, delete, at_once=DELETES_AT_ONCE)
        return tuple(left)

    async def delete_batch(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        return await self.delete_many(versions)

    # uploads by parts

    async def create_upload(self, key: str, headers: Headers, condition: Condition = ALWAYS) -> Upload:
        """The condition is the completion's."""
        await trio.lowlevel.checkpoint()
        return self._uploads.begin(key, headers)

    async def upload_part(self, upload: Upload, number: int, body: Body) -> Part:
        self._uploads.get(upload)
        size = sum(map(len, body))
        await self._room.for_bytes(size)
        meta = metas.bytes_meta(upload.id)
        with trio.CancelScope(shield=True):
            appended = await self._log.append(meta, body, wait=False)
            self._pending.apply(appended.seq, meta, appended.place)
            if appended.place is None:
                piece = metas.Piece(0, 0, None, None, 0)
            else:
                piece = metas.Piece(0, size, appended.place, None, 0)
            return self._uploads.put_part(upload, number, self._new_etag(), piece)

    async def copy_part(
        self, upload: Upload, number: int, source: str, start: int, stop: int, *, source_etag: str
    ) -> Part:
        self._uploads.get(upload)
        seen = self._found(source, source_etag)
        size = stop if seen is None else seen.size
        await trio.lowlevel.checkpoint()
        piece = metas.Named(0, stop - start, source, self._named(source, source_etag), size, start)
        return self._uploads.put_part(upload, number, self._new_etag(), piece)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part], condition: Condition = ALWAYS) -> Stored:
        found = self._uploads.get(upload)
        async with self._turns.of(upload.key):
            pieces = self._uploads.pieces(upload, parts)
            stored = await self._put(upload.key, pieces, found.headers, condition)
            self._end(upload)
            return stored

    async def abort_upload(self, upload: Upload) -> None:
        if not self._uploads.is_local(upload):
            await self._real.abort_upload(upload)
            return
        await trio.lowlevel.checkpoint()
        self._end(upload)

    def _end(self, upload: Upload) -> None:
        if self._uploads.end(upload):
            self._pending.close_upload(upload.id)

    async def has_parts(self, upload: Upload) -> bool:
        return bool(await self.list_parts(upload))

    async def list_parts(self, upload: Upload) -> tuple[Part, ...]:
        if not self._uploads.is_local(upload):
            return await self._real.list_parts(upload)
        await trio.lowlevel.checkpoint()
        return self._uploads.parts(upload)

    async def list_uploads(self, prefix: str, *, exactly: bool = False) -> tuple[Upload, ...]:
        """Those of the bucket: who asks looks for what may be left behind there."""
        return await self._real.list_uploads(prefix, exactly=exactly)

    # inside

    async def _put(
        self, key: str, pieces: Sequence[metas.Part], headers: Headers, condition: Condition, *, body: Body = ()
    ) -> Stored:
        check_key(key)
        self._check(key, condition)
        meta = metas.put_meta(
            key,
            headers=headers,
            condition=self._for_bucket(key, condition),
            size=pieces[-1].stop if pieces else 0,
            etag=self._new_etag(),
            at_ns=self._now_ns(),
            pieces=pieces,
        )
        return await self._record(meta, body)

    async def _record(self, meta: dict[str, Any], body: Body = ()) -> Stored:
        with trio.CancelScope(shield=True):
            appended = await self._log.append(meta, body)
            self._pending.apply(appended.seq, meta, appended.place)
        return Stored(meta.get("etag", ""), meta["at"])

    def _found(self, source: str, etag: str) -> Seen | None:
        """What waits of a source, if anything. Raises NotFound, PreconditionFailed."""
        seen = self._pending.find(source)
        if isinstance(seen, Gone):
            raise NotFound(f"{source!r} was deleted", code="NoSuchKey", status=404)
        if seen is not None and seen.etag != etag:
            raise _precondition(source)
        return seen

    async def _size_of(self, source: str, etag: str, size: int | None, seen: Seen | None) -> int:
        if seen is not None:
            return seen.size
        if size is not None:
            return size
        info = await self.head(source)
        if info.etag != etag:
            raise _precondition(source)
        return info.size

    def _check(self, key: str, condition: Condition) -> None:
        """Raises PreconditionFailed where what waits does not meet the condition."""
        seen = self._pending.find(key)
        if seen is None:
            return
        if condition.absent and seen is not GONE:
            raise _precondition(key)
        if condition.etag is not None and (isinstance(seen, Gone) or seen.etag != condition.etag):
            raise _precondition(key)

    def _for_bucket(self, key: str, condition: Condition) -> Condition:
        """The condition as the journal has it: by the bucket's etag, unless that is not known yet."""
        return condition if condition.etag is None else Condition(etag=self._named(key, condition.etag))

    def _named(self, key: str, etag: str) -> str:
        """A version as the journal names it: an alias does not outlive us."""
        return etag if self._pending.find(key) is not None else self._pending.real_etag(key, etag)

    def _new_etag(self) -> str:
        self._serial += 1
        return f'{PROVISIONAL}{self._token}-{self._serial}"'

    async def _describe(self, seen: Seen, found: ObjectInfo | None = None) -> ObjectInfo:
        headers, home, tag_count = seen.headers, _home(seen.content), 0
        if headers is None:
            if found is None:
                assert home is not None
                found = await self.reading.describe(home)
            headers, tag_count = found.headers, found.tag_count
        elif headers.tags:
            tag_count = headers.tags.count("&") + 1
        return ObjectInfo(seen.key, seen.size, seen.etag, seen.at_ns, self._now_ns(), headers, tag_count=tag_count)

    def _told(self, info: ObjectInfo) -> ObjectInfo:
        etag, modified_ns = self._pending.told(info.key, info.etag, info.last_modified_ns)
        if etag == info.etag and modified_ns == info.last_modified_ns:
            return info
        return replace(info, etag=etag, last_modified_ns=modified_ns)

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer of the real store, unless an outage keeps it from answering. Raises Unavailable then."""
        if not self.away:
            with trio.CancelScope() as scope:
                self._asking.add(scope)
                try:
                    return await question()
                finally:
                    self._asking.discard(scope)
        raise Unavailable(f"the store is away: {self._outage.reason}")


def _home(content: Content) -> Home | None:
    """The bucket's version that all of the content is, if it is one."""
    if len(content) == 1 and content[0].home is not None and not content[0].offset:
        return content[0].home
    return None


def check_key(key: str) -> None:
    """Raises KeyTooLong: who is told at once need not look into the spool."""
    if len(key.encode()) > S3_KEY_MAX_BYTES:
        raise KeyTooLong(f"{key!r} is longer than {S3_KEY_MAX_BYTES} bytes", code="KeyTooLongError", status=400)


def _precondition(key: str) -> PreconditionFailed:
    return PreconditionFailed(f"{key!r} is another version", code="PreconditionFailed", status=412)
