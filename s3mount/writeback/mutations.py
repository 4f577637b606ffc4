"""Mutations as programs ask for them: checked against what waits, recorded in the journal, taken into the table.

Those of one key take turns. Between the answer of the journal and the change of the table there is no checkpoint, and
no cancellation in what leads there: what is in the journal is in the table. The mutable state: the turns, uploads by
parts that are open, the number of the last version.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import trio

from s3mount.config import S3_KEY_MAX_BYTES
from s3mount.data.parallel import each
from s3mount.errors import KeyTooLong, NotFound, PreconditionFailed, StoreError
from s3mount.store.base import PROVISIONAL, Body, Condition, Headers, Part, Stored, Undeleted, Upload
from s3mount.writeback import metas
from s3mount.writeback.keyturns import KeyTurns
from s3mount.writeback.operations import Piece
from s3mount.writeback.oplog import OperationLog
from s3mount.writeback.pending import GONE, Gone, Pending, Seen
from s3mount.writeback.room import Room
from s3mount.writeback.uploads import Uploads

DELETES_AT_ONCE = 64
"""Of one DeleteObjects: their records share an fsync."""


class Named(NamedTuple):
    """A version as the mount tells it."""

    etag: str
    size: int


class Mutations:
    """See the module. Each call returns when what it did is durable here, but for parts of uploads."""

    def __init__(
        self, log: OperationLog, pending: Pending, room: Room, *, now_ns: Callable[[], int], token: str
    ) -> None:
        self._log = log
        self._pending = pending
        self._room = room
        self._now_ns = now_ns
        self._token = token
        self._serial = 0
        self._turns = KeyTurns()
        self.uploads = Uploads(token)

    async def put(self, key: str, body: Body, headers: Headers, condition: Condition) -> Stored:
        size = sum(map(len, body))
        async with self._turns.of(key):
            await self._room.for_bytes(size)
            pieces = [metas.Own(0, size, 0)] if size else []
            return await self._put(key, pieces, headers, condition, body=body)

    async def copy(
        self, source: str, target: str, version: Named, headers: Headers | None, condition: Condition
    ) -> Stored:
        async with self._turns.of(source, target):
            await self._room.for_bytes(0)
            check_key(target)
            self._check(target, condition)
            seen = self._found(source, version.etag)
            # S3 keeps the etag of a copy, too; and what is only described anew keeps its place in the caches. Not what
            # waits already: two operations at once would make the same version.
            etag = version.etag if source == target and seen is None else self._new_etag()
            if headers is not None and seen is not None and seen.headers is not None:
                headers = replace(headers, tags=seen.headers.tags)
            if seen is not None and seen.headers is not None and all(piece.home is None for piece in seen.content):
                with self._pending.pinned(seen.content):
                    return await self._put(target, seen.content, headers or seen.headers, condition, etag=etag)
            return await self._record(
                metas.copy_meta(
                    source,
                    target,
                    source_etag=self._named(source, version.etag),
                    size=version.size,
                    headers=headers,
                    condition=self._for_bucket(target, condition),
                    etag=etag,
                    at_ns=self._now_ns(),
                )
            )

    async def rename(self, source: str, target: str, version: Named, condition: Condition) -> None:
        async with self._turns.of(source, target):
            await self._room.for_bytes(0)
            check_key(target)
            self._check(target, condition)
            seen = self._found(source, version.etag)
            await self._record(
                metas.rename_meta(
                    source,
                    target,
                    source_etag=self._named(source, version.etag),
                    size=version.size,
                    condition=self._for_bucket(target, condition),
                    etag=version.etag,
                    at_ns=self._now_ns() if seen is None else seen.at_ns,
                )
            )

    async def delete(self, key: str, condition: Condition) -> None:
        async with self._turns.of(key):
            await self._room.for_deletion()
            if self._pending.find(key) is GONE and condition.etag is None:
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
                if self._pending.find(key) is not GONE:
                    left.append(Undeleted(key, error))

        await each(versions, delete, at_once=DELETES_AT_ONCE)
        return tuple(left)

    # uploads by parts

    async def upload_part(self, upload: Upload, number: int, body: Body) -> Part:
        """Returns when the part is written; it is durable with the completion."""
        self.uploads.get(upload)
        size = sum(map(len, body))
        if not size:
            return self.uploads.put_part(upload, number, self._new_etag(), Piece(0, 0, None, None, 0))
        await self._room.for_bytes(size)
        meta = metas.bytes_meta(upload.id)
        with trio.CancelScope(shield=True):
            appended = await self._log.append(meta, body, wait=False)
            self._pending.apply(appended.seq, meta, appended.place)
            if not self.uploads.has(upload):
                self._pending.close_upload(upload.id)
            elif (old := self.uploads.place(upload, number)) is not None:
                self._pending.replace_part(upload.id, old)
        return self.uploads.put_part(upload, number, self._new_etag(), Piece(0, size, appended.place, None, 0))

    def copy_part(self, upload: Upload, number: int, source: str, start: int, stop: int, *, source_etag: str) -> Part:
        seen = self._found(source, source_etag)
        size = stop if seen is None else seen.size
        piece = metas.Named(0, stop - start, source, self._named(source, source_etag), size, start)
        return self.uploads.put_part(upload, number, self._new_etag(), piece)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part], condition: Condition) -> Stored:
        headers = self.uploads.get(upload).headers
        async with self._turns.of(upload.key):
            pieces = [self._up_to_date(piece) for piece in self.uploads.pieces(upload, parts)]
            stored = await self._put(upload.key, pieces, headers, condition)
            self.end_upload(upload)
            return stored

    def end_upload(self, upload: Upload) -> None:
        """Forget it, and what of its parts no object has."""
        if self.uploads.end(upload):
            self._pending.close_upload(upload.id)

    # inside

    async def _put(
        self,
        key: str,
        pieces: Sequence[metas.Part],
        headers: Headers,
        condition: Condition,
        *,
        body: Body = (),
        etag: str | None = None,
    ) -> Stored:
        check_key(key)
        self._check(key, condition)
        return await self._record(
            metas.put_meta(
                key,
                headers=headers,
                condition=self._for_bucket(key, condition),
                size=pieces[-1].stop if pieces else 0,
                etag=etag or self._new_etag(),
                at_ns=self._now_ns(),
                pieces=pieces,
            ),
            body,
        )

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
            raise precondition(source)
        return seen

    def _check(self, key: str, condition: Condition) -> None:
        """Raises PreconditionFailed where what waits does not meet the condition."""
        seen = self._pending.find(key)
        if seen is None:
            return
        if condition.absent and seen is not GONE:
            raise precondition(key)
        if condition.etag is not None and (isinstance(seen, Gone) or seen.etag != condition.etag):
            raise precondition(key)

    def _for_bucket(self, key: str, condition: Condition) -> Condition:
        """The condition as the journal has it: by the bucket's etag, unless that is not known yet."""
        return condition if condition.etag is None else Condition(etag=self._named(key, condition.etag))

    def _named(self, key: str, etag: str) -> str:
        """A version as the journal names it: an alias does not outlive us. Raises PreconditionFailed for one of ours of
        which nothing is known any more: the mount tells it by another name."""
        named = self._pending.real_etag(key, etag)
        if named.startswith(PROVISIONAL) and not self._pending.makes(key, named):
            raise precondition(key)
        return named

    def _up_to_date(self, piece: metas.Part) -> metas.Part:
        """A piece of an upload that took long: by now its version may have landed."""
        if isinstance(piece, metas.Named):
            return piece._replace(etag=self._named(piece.key, piece.etag))
        return piece

    def _new_etag(self) -> str:
        self._serial += 1
        return f'{PROVISIONAL}{self._token}-{self._serial}"'


def check_key(key: str) -> None:
    """Raises KeyTooLong: who is told at once need not look into the spool."""
    if len(key.encode()) > S3_KEY_MAX_BYTES:
        raise KeyTooLong(f"{key!r} is longer than {S3_KEY_MAX_BYTES} bytes", code="KeyTooLongError", status=400)


def precondition(key: str) -> PreconditionFailed:
    return PreconditionFailed(f"{key!r} is another version", code="PreconditionFailed", status=412)
