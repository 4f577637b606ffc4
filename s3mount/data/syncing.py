"""How one file's bytes get into the bucket: attempts one at a time, each an epoch frozen, uploaded, stored or thawed.

Who runs at the same time: writes, truncates and reads of the file, at every await; further syncs, which join; a rename
or unlink, which waits for a request that may publish and cancels anything before it.

A conflict parts the file from its key for good: from then on each attempt stores the content as the conflict's copy,
and each sync answers ESTALE all the same.
"""

import logging
from collections.abc import Awaitable, Callable

from s3mount.data.attempts import Attempt, Attempts
from s3mount.data.conflict import Conflict
from s3mount.data.expectation import Expectation
from s3mount.data.layers import Layers
from s3mount.data.publishing import Epoch, freeze, publish
from s3mount.data.restating import Carried, restate, restating
from s3mount.data.storage import Storage
from s3mount.data.stream import Stream
from s3mount.data.upload import CopiesRefused
from s3mount.data.version import HalfMoved, Version
from s3mount.errors import (
    Busy,
    FileSystemError,
    LostReply,
    NoSuchUpload,
    PreconditionFailed,
    S3MountError,
    StagingFull,
    Stale,
    StoreError,
    again,
)
from s3mount.store.base import ALWAYS, Condition, Headers, Stored

log = logging.getLogger(__name__)

PARTS_REFUSED = ("InvalidPart", "InvalidPartOrder", "EntityTooSmall")


class Syncing:
    """The syncs of one file. `key` and `carried` are what the next upload uses."""

    def __init__(
        self,
        storage: Storage,
        layers: Layers,
        key: str,
        headers: Headers,
        *,
        on_stored: Callable[[Stored], None],
        on_thawed: Callable[[], None],
        on_conflict: Callable[[], None],
        before_sending: Callable[[], Awaitable[None]],
    ) -> None:
        # The mutable state: the attempts, whose gate rename and unlink close; the epoch that is uploaded; the stream
        # that is to be completed; the conflict; the error that every sync answers; what is carried besides bytes.
        self._storage = storage
        self._layers = layers
        self._on_stored = on_stored
        self._on_thawed = on_thawed
        self._on_conflict = on_conflict
        self.key = key
        self.carried = Carried(headers, before_sending)
        self.expectation = Expectation(storage.config, layers)
        self.stream: Stream | None = None
        self.epoch: Epoch | None = None
        self.refusal: FileSystemError | None = None
        self.conflict: Conflict | None = None
        self.orphan = False
        self._attempts = Attempts()

    @property
    def condition(self) -> Condition:
        """What must hold in the bucket for the next upload."""
        return ALWAYS if self.conflict is not None else self.expectation.condition

    @property
    def may_stream(self) -> bool:
        """Whether parts may be sent ahead: all bytes are ours, and no upload or change of name is under way."""
        return (
            self._layers.base_stop == 0
            and self.epoch is None
            and self._attempts.gate.opened is None
            and not self.orphan
            and self.refusal is None
            and self.conflict is None
            and not self.expectation.doubts
            and (self.stream is None or not self.stream.failed)
        )

    def check(self) -> None:
        """Raises the error that every sync of this file answers."""
        self.check_refusal()
        self.check_parted()

    def check_refusal(self) -> None:
        """Raises what a refused write or lost bytes make of every sync."""
        if self.refusal is not None:
            raise again(self.refusal)

    async def sync(self) -> None:
        """Return when what the file is now is in the bucket, or raise why not."""
        while True:
            self.check_refusal()
            if self.orphan:
                return
            if self._layers.dirty or self.carried.due:
                attempt = await self._attempts.ended(self._run, self._failed)
            elif self._attempts.current is not None:
                attempt = self._attempts.current
                await attempt.done.wait()
            else:
                self.check()
                return
            if attempt.error is not None:
                raise again(attempt.error)
            if not attempt.interrupted:
                self.check()
                return

    async def restate(self) -> None:
        """Return when the object has these headers, or bytes wait whose upload will bring them."""
        self.carried.due = True
        while self.carried.due and not self._layers.dirty and not self.orphan:
            attempt = await self._attempts.ended(self._run, self._failed, sends_bytes=False)
            if attempt.error is not None and not attempt.sends_bytes:
                raise again(attempt.error)

    async def rename(self, key: str, move: Callable[[Version], Awaitable[Version]]) -> None:
        """Move the base object by `move` and send what comes later to `key`. Raises Busy when bytes that would have to
        be sent again were dropped, Stale when another client has taken the former name."""
        async with self._attempts.gate.closed():
            await self._quiesce()
            self.check_parted()
            if self._layers.base is None:
                await self.expectation.take_over(self._storage.store, key)
            else:
                self._layers.base = await self._moved(self._layers.base, move)
            self.expectation.moved()
            self.key = key

    async def forsake(self, remove: Callable[[], Awaitable[None]], undo: Callable[[], None]) -> None:
        """The name goes, by `remove`; the bytes are nobody's from then on and never stored, unless they have parted
        with the name by a conflict before. `undo` is called when `remove` fails: where nobody knows whether it did, by
        the look that finds the object still there."""
        async with self._attempts.gate.closed():
            if self.epoch is not None:
                if not self.epoch.publishing:
                    self.epoch.scope.cancel()
                await self.epoch.ended.wait()
            await self.resolve_doubts()
            base = self._layers.base
            try:
                await remove()
            except LostReply:
                if base is not None and self.conflict is None:
                    self.expectation.doubt_removal(base, undo)
                raise
            except BaseException:
                if self.conflict is None:
                    undo()
                raise
            if self.conflict is None:
                self.orphan = True
                self.drop_stream()

    async def _moved(self, base: Version, move: Callable[[Version], Awaitable[Version]]) -> Version:
        try:
            return await move(base)
        except HalfMoved as half:
            self.expectation.doubt_removal(base, _nothing, copied=half.copy)
            raise half.reason from half

    async def settle(self) -> bool:
        """The base is not in the bucket: whether an upload of our own, whose end was awaited, may be the reason."""
        if self.epoch is not None and self.epoch.publishing:
            await self.epoch.ended.wait()
            return True
        base = self._layers.base
        await self._attempts.gate.passed()  # a rename may be about to tell the base's new key
        await self.resolve_doubts()
        return self._layers.base is not base

    def drop_stream(self) -> None:
        """What was sent ahead is not wanted any more."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.abort()

    def leave_stream(self) -> None:
        """As `drop_stream`, unless an upload under way completes it."""
        if self.epoch is None:
            self.drop_stream()

    def check_parted(self) -> None:
        """Raises Stale when the key is another client's."""
        if self.conflict is not None:
            raise again(self.conflict.error)

    async def _quiesce(self) -> None:
        """No upload of this file is under way afterwards, nor any part sent."""
        epoch = self.epoch
        if epoch is not None:
            if not epoch.publishing:
                if epoch.stream is not None and epoch.stream.dropped:
                    raise Busy(f"{self.key!r} is being uploaded and part of it is not here any more")
                epoch.scope.cancel()
            await epoch.ended.wait()
        if self.stream is not None:
            if self.stream.lacks_bytes:
                raise Busy(f"{self.key!r} is being uploaded and part of it is not here any more")
            self.drop_stream()
        await self.resolve_doubts()

    # attempts

    def _failed(self, error: S3MountError) -> S3MountError:
        return error if self.conflict is None or self.refusal else self.conflict.failed(error)

    async def _run(self, attempt: Attempt) -> None:
        """Upload until the bucket has what the file was at the last freeze, its headers too."""
        once_more = True
        prepared: Headers | None = None
        while True:
            await self._attempts.gate.passed()
            self.check_refusal()
            if self.orphan or not (self._restates or (self._layers.dirty and attempt.sends_bytes)):
                return
            if self.expectation.doubts:
                await self.resolve_doubts()
                continue
            if prepared is not self.carried.headers and self.conflict is None:
                prepared = self.carried.headers
                await self.carried.before_sending()
                continue
            if self._restates:
                await self._restate()
                continue
            epoch = self._begin_epoch()
            stored = None
            try:
                with epoch.scope:
                    stored = await publish(self._storage, epoch)
                if stored is not None:
                    self._stored(epoch, stored)
                else:
                    self._thaw(epoch)  # a rename or unlink had its way
            except NoSuchUpload as error:
                self._thaw(epoch)
                if not once_more or self._lost_with(epoch, error):
                    raise
                once_more = False
            except CopiesRefused:
                self._thaw(epoch)
                if not self._storage.learning.rules.copies:
                    raise
                log.warning("store copies no parts: edits send whole files key=%r", self.key)
                self._storage.learning.without_copies()
            except (PreconditionFailed, Stale) as error:
                self._thaw(epoch)
                if not self._part(epoch, error):
                    raise
            except BaseException as error:
                self._thaw(epoch)
                # Whatever the last answer was: an earlier try of the same request may have had its effect.
                self._doubt(epoch)
                if isinstance(error, StoreError) and error.code in PARTS_REFUSED:
                    # A part that was cancelled has landed after its repetition: only another upload helps.
                    self._lost_with(epoch, error)
                raise
            finally:
                self.epoch = None
                epoch.ended.set()
                self._storage.budget.will_free_no_more()
            if stored is not None:
                await self.carried.look_again()
                if not self._restates:
                    return

    @property
    def _restates(self) -> bool:
        """Whether the object lacks headers that no bytes will bring."""
        return self.carried.due and not self._layers.dirty

    async def _restate(self) -> None:
        if self._layers.base is None or self.conflict is not None:
            self.carried.due = False  # nothing of that name is there, or nothing of ours
            return
        epoch = self.epoch = restating(self.key, self._layers, self.carried.headers)
        try:
            stored = await restate(self._storage.store, self._layers, self.expectation, epoch)
            self.carried.stored(epoch.headers)
            self._on_stored(stored)
        finally:
            self.epoch = None
            epoch.ended.set()
        await self.carried.look_again()

    def _begin_epoch(self) -> Epoch:
        """Freeze what the file is now; the stream goes with it, unless one PUT does as well."""
        stream = self.stream
        if stream is not None:
            stream.multipart.condition = self.condition
            if self._layers.size <= self._storage.put_max_bytes and not stream.lacks_bytes:
                self.drop_stream()
        # A stream carries what it was opened with; what it lacks of the headers is given to the object afterwards.
        headers = self.carried.headers if self.stream is None else self.stream.multipart.headers
        self.epoch = freeze(self._layers, self.key, headers, self.condition, self.stream, self.conflict)
        self.key = self.epoch.key
        self._storage.budget.will_free()
        return self.epoch

    def _stored(self, epoch: Epoch, stored: Stored) -> None:
        if epoch.stream is not None:
            epoch.stream.end()
        self.stream = None
        self.carried.stored(epoch.headers)
        self.expectation.stored()
        if self.conflict is not None and self.conflict.cut:
            self._layers.stored_aside()
        else:
            self._layers.stored(Version(epoch.key, stored.etag, epoch.size, stored.version_id))
        if self.conflict is None:
            self._on_stored(stored)
        else:
            self.conflict.kept(epoch.start, epoch.size, sum(stop - start for start, stop in self._layers.missing))
            self._storage.copies_kept.note(self.conflict, epoch.size)

    def _thaw(self, epoch: Epoch) -> None:
        """The epoch's bytes are dirty again; a stream goes on with the next attempt, if it can."""
        stream = epoch.stream
        self._layers.thaw(_nothing if stream is None else stream.touch)
        if stream is not None and stream.multipart.over:
            self.stream = None
        elif stream is not None and stream.broken:
            log.error(
                "bytes were written over after they had left staging: raise --memory-limit or --staging-limit key=%r",
                self.key,
            )
            self.refusal = StagingFull("part of the file was dropped from staging and then written over")
        self._on_thawed()

    def _lost_with(self, epoch: Epoch, error: StoreError) -> bool:
        """An upload is gone. Whether bytes went with it; if not, all of them can be sent again."""
        dropped = epoch.stream is not None and epoch.stream.lacks_bytes
        self.drop_stream()
        if dropped:
            log.error("upload was lost with bytes that had left staging key=%r reason=%s", self.key, error)
            self.refusal = FileSystemError(f"the upload of {self.key!r} was lost: {error}")
        return dropped

    def _part(self, epoch: Epoch, error: S3MountError) -> bool:
        """Somebody else has changed the object under us: it is theirs, and what is here goes to a copy. Whether another
        attempt can store that."""
        storage = self._storage
        if self.conflict is not None:
            # Nobody else writes to the copy: it is bytes of the base that are not to be had.
            zeros_max = storage.config.conflict_zeros_max_bytes
            return self.conflict.salvage(self._layers, storage.blocks, storage.staging, zeros_max_bytes=zeros_max)
        lacks_bytes = epoch.stream is not None and epoch.stream.lacks_bytes
        self.drop_stream()
        self.expectation.forget()
        self.conflict = Conflict(storage.config.prefix, epoch.key, storage.wall_ns(), storage.draw_token())
        self.key = self.conflict.key
        if lacks_bytes and self.refusal is None:
            log.error(
                "conflict: the object was changed by another client, nothing was kept for bytes had left staging "
                "key=%r reason=%s",
                epoch.key, error,
            )  # fmt: skip
            self.refusal = self.conflict.error
            self._on_thawed()
        self._on_conflict()
        return True

    # doubts

    def _doubt(self, epoch: Epoch) -> None:
        """A publishing request has an outcome that nobody knows."""
        if epoch.publishing and not (self.conflict is not None and self.conflict.cut):
            self.expectation.doubt_upload(epoch.expected_etag)

    async def resolve_doubts(self) -> None:
        """What the key has is known afterwards."""
        if await self.expectation.resolve(self._storage.store, self.key):
            self.drop_stream()


def _nothing(*_range: int) -> None:
    return
