"""WriteBack: the bucket as programs of this mount have left it; an ObjectStore in front of the real one.

Every mutation becomes a record of the journal and is answered when that is on disk (`mutations`); what waits is laid
over what the real store tells. So whoever is above sees one bucket, in which everything acknowledged is there, and need
not know that some of it has not arrived. Conditions are checked against what waits, and go along to the bucket where
nothing does. The sending is `sending`'s. What the mount tells of a version stays as it was told when it lands: an
upload that ends changes nothing for those who look.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import trio

from s3mount.errors import NotFound, RangeNotSatisfiable, S3MountError, Unavailable
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
from s3mount.store.outage import PROBE_SECONDS, Outage
from s3mount.writeback.contents import Reading
from s3mount.writeback.mutations import Mutations, Named, precondition
from s3mount.writeback.operations import Content, Home
from s3mount.writeback.oplog import OperationLog
from s3mount.writeback.overlay import Overlay
from s3mount.writeback.pending import Gone, Pending, Seen
from s3mount.writeback.room import Room
from s3mount.writeback.sending import Sender
from s3mount.writeback.uploads import is_local

T = TypeVar("T")


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
        # The mutable state: requests that are given up when an outage is told. What waits is `pending`'s.
        self._real = real
        self._pending = pending
        self._sender = sender
        self._outage = outage
        self._now_ns = now_ns
        self._mutations = Mutations(log, pending, room, now_ns=now_ns, token=token)
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
        return f"<WriteBack {self._pending!r}, {len(self._mutations.uploads)} uploads open>"

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
        await self._look(key)
        await self._sender.settle(key)

    async def settle_below(self, prefix: str) -> None:
        """The same of all keys below."""
        await self._look(prefix)
        await self._sender.settle_below(prefix)

    async def _look(self, name: str) -> None:
        """An outage may be over and nobody have noticed: who waits for the bucket is not sent away unasked."""
        if self.away:
            with trio.move_on_after(PROBE_SECONDS), suppress(S3MountError):
                await self._real.list_page(name, max_keys=1)

    # reading

    async def head(self, key: str) -> ObjectInfo:
        seen = self._pending.find(key)
        if isinstance(seen, Gone):
            raise NotFound(f"{key!r} was deleted", code="NoSuchKey", status=404)
        if seen is not None:
            return await self._describe(seen)
        if self.away and (landed := self._pending.landed_headers(key)) is not None:
            return replace(landed, headers=replace(landed.headers, tags=""))
        return self._told(await self._ask(lambda: self._real.head(key)))

    async def tags(self, key: str) -> str:
        seen = self._pending.find(key)
        if isinstance(seen, Gone):
            raise NotFound(f"{key!r} was deleted", code="NoSuchKey", status=404)
        if seen is None:
            return await self._ask(partial(self._real.tags, key))
        home = _home(seen.content)
        if home is None or (seen.headers is not None and seen.headers.tags):
            return "" if seen.headers is None else seen.headers.tags
        return await self._ask(partial(self._real.tags, home.key))

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
            raise precondition(key)
        if if_none_match == seen.etag:
            return None
        if start >= seen.size:
            raise RangeNotSatisfiable(f"{key!r} has {seen.size} bytes", code="InvalidRange", status=416)
        size = min(len(into), seen.size - start)
        with pending.pinned(seen.content):
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
        return await self._mutations.put(key, body, headers, condition)

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
        size = await self._size_of(source, source_etag) if source_size is None else source_size
        return await self._mutations.copy(source, target, Named(source_etag, size), headers, condition)

    async def rename(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        condition: Condition = ALWAYS,
    ) -> None:
        size = await self._size_of(source, source_etag) if source_size is None else source_size
        await self._mutations.rename(source, target, Named(source_etag, size), condition)

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        await self._mutations.delete(key, condition)

    async def delete_many(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        return await self._mutations.delete_many(versions)

    async def delete_batch(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        return await self._mutations.delete_many(versions)

    async def create_upload(self, key: str, headers: Headers, condition: Condition = ALWAYS) -> Upload:
        """The condition is the completion's."""
        await trio.lowlevel.checkpoint()
        return self._mutations.uploads.begin(key, headers)

    async def upload_part(self, upload: Upload, number: int, body: Body) -> Part:
        return await self._mutations.upload_part(upload, number, body)

    async def copy_part(
        self, upload: Upload, number: int, source: str, start: int, stop: int, *, source_etag: str
    ) -> Part:
        await trio.lowlevel.checkpoint()
        return self._mutations.copy_part(upload, number, source, start, stop, source_etag=source_etag)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part], condition: Condition = ALWAYS) -> Stored:
        return await self._mutations.complete_upload(upload, parts, condition)

    async def abort_upload(self, upload: Upload) -> None:
        if is_local(upload):
            await trio.lowlevel.checkpoint()
            self._mutations.end_upload(upload)
        else:
            await self._real.abort_upload(upload)

    async def has_parts(self, upload: Upload) -> bool:
        return bool(await self.list_parts(upload))

    async def list_parts(self, upload: Upload) -> tuple[Part, ...]:
        if not is_local(upload):
            return await self._real.list_parts(upload)
        await trio.lowlevel.checkpoint()
        return self._mutations.uploads.parts(upload)

    async def list_uploads(self, prefix: str, *, exactly: bool = False) -> tuple[Upload, ...]:
        """Those of the bucket: who asks looks for what may be left behind there."""
        return await self._real.list_uploads(prefix, exactly=exactly)

    # inside

    async def _size_of(self, source: str, etag: str) -> int:
        info = await self.head(source)
        if info.etag != etag:
            raise precondition(source)
        return info.size

    async def _describe(self, seen: Seen, found: ObjectInfo | None = None) -> ObjectInfo:
        headers, home, tag_count = seen.headers, _home(seen.content), 0
        if headers is None:
            if found is None:
                assert home is not None
                found = await self._ask(partial(self.reading.describe, home))
            headers, tag_count = found.headers, found.tag_count
        elif headers.tags:
            tag_count = headers.tags.count("&") + 1
            headers = replace(headers, tags="")  # as a reply has them
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
