"""File: the bytes of one regular file, as programs see them and as the bucket gets them.

It ties together `layers` (what the bytes are), `syncing` (how they are stored), `ahead` (parts sent before that) and
`reading`. It knows a key and etags; no inode, name or mode. It lives as long as its inode has handles.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from s3mount.data.ahead import Ahead
from s3mount.data.describe import describe
from s3mount.data.forsaking import Forsaking
from s3mount.data.layers import Layers
from s3mount.data.orphans import Keeping
from s3mount.data.progress import Backlog, backlog
from s3mount.data.reading import Reader
from s3mount.data.storage import Storage
from s3mount.data.syncing import Syncing
from s3mount.data.upload import nothing
from s3mount.data.version import Changed, Version
from s3mount.errors import FileSystemError, FileTooBig, StagingFull, Stale
from s3mount.store.base import Buffer, Headers, Stored

log = logging.getLogger(__name__)


class File:
    """See the module. `base` None: created here and not in the bucket yet. `before_sending` is awaited before each
    upload or change of headers, and after it."""

    def __init__(
        self,
        storage: Storage,
        key: str,
        base: Version | None,
        headers: Headers,
        *,
        on_stored: Callable[["File", Stored], None],
        on_conflict: Callable[["File"], None],
        before_sending: Callable[[], Awaitable[None]] = nothing,
    ) -> None:
        # The mutable state is that of the layers, the syncing, the reader and what is sent ahead, and: whether the file
        # was created or truncated and not written to since; whether it is closed; since when others may have changed
        # what the object carries besides bytes.
        self._storage = storage
        self._layers = Layers(storage.staging, base)
        self._syncing = Syncing(
            storage,
            self._layers,
            key,
            headers,
            on_stored=self._stored,
            on_thawed=self._thawed,
            on_conflict=lambda: on_conflict(self),
            before_sending=before_sending,
        )
        self._reader = Reader(storage, self._layers, self._syncing.settle)
        self._keeping = Keeping(storage.orphans, storage.staging, storage.blocks, self._layers)
        self._pristine = base is None
        self._ahead = Ahead(storage, self._layers, self._syncing)
        self._forsaking = Forsaking(self._syncing, self._keeping, self._ahead)
        self._on_stored = on_stored
        self._closed = False
        self.described_at = trio.current_time()

    def __repr__(self) -> str:
        states = [
            word
            for word, holds in (
                ("poisoned", self._syncing.refusal is not None),
                ("parted", self.parted),
                ("orphan", self._syncing.orphan),
                ("new", self.base is None),
                ("dirty", self.dirty),
                ("uploading", self.busy),
                ("closed", self._closed),
            )
            if holds
        ]
        return f"<File {self.key!r}, {' '.join(states) or 'clean'}, {self.size} bytes>"

    # what it is

    @property
    def key(self) -> str:
        return self._syncing.key

    @property
    def base(self) -> Version | None:
        return self._layers.base

    @property
    def size(self) -> int:
        """As the program sees it."""
        return self._layers.size

    @property
    def unsent_bytes(self) -> int:
        """What of it is here and not in the bucket, nor in a part of the upload under way."""
        epoch = self._syncing.epoch
        return max(0, self._layers.staged_bytes - (0 if epoch is None else epoch.sent_bytes))

    @property
    def dirty(self) -> bool:
        """Whether it has bytes, existence or a length that the bucket lacks and no upload under way brings."""
        return self._layers.dirty and not self._syncing.orphan

    @property
    def busy(self) -> bool:
        """Whether an upload is under way."""
        return self._syncing.epoch is not None

    @property
    def backlog(self) -> Backlog:
        """What the bucket lacks of it, and how far its upload has come."""
        return backlog(self._layers, self._syncing.epoch, self._syncing.stream)

    @property
    def poisoned(self) -> FileSystemError | None:
        """What every sync answers, since a write was refused or the bytes were lost."""
        return self._syncing.refusal

    @property
    def parted(self) -> bool:
        """Whether the key is another client's by a conflict: it has the name, this file goes on without. Every sync
        answers ESTALE, once it has stored what is dirty as the conflict's copy."""
        return self._syncing.conflict is not None

    @property
    def forgone(self) -> bool:
        """Whether what it had went with its name, for no handle could read then: none that can may be opened."""
        return self._syncing.orphan and self._keeping.forgone

    @property
    def headers(self) -> Headers:
        """What the next upload stores besides bytes."""
        return self._syncing.carried.headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._syncing.carried.change(headers)

    @property
    def stored_headers(self) -> Headers:
        return self._syncing.carried.in_bucket

    # opening

    async def validate_for_reading(self) -> None:
        """The first read, for an open: GET of the first block, conditional when it is here. Raises Changed."""
        if self.dirty or self.busy:
            return
        base = await self._known_base()
        if base is not None:
            self._layers.note_version(base, await self._storage.foreseen.validate(base))

    async def validate_for_writing(self) -> None:
        """HEAD, for an open; what the object carries is kept for the next upload. Raises Changed, AccessDenied."""
        base = await self._known_base()
        if base is not None:
            asked = trio.current_time()
            info = await describe(self._storage.store, base)
            self.headers, self.described_at = info.headers, asked
            self._layers.note_version(base, info)

    async def validate_for_replacing(self, absent: Headers) -> None:
        """HEAD, for an open with O_TRUNC: what whatever version is there carries is kept for the next upload, `absent`
        if there is none."""
        try:
            await self.validate_for_writing()
        except Changed as changed:
            self.headers = absent if changed.info is None else changed.info.headers

    async def _known_base(self) -> Version | None:
        """What the key has, if it was not replaced; None: it has nothing of ours."""
        await self._syncing.resolve_doubts()
        base = self.base
        if base is None or self._syncing.orphan:
            return None
        if base.key != self.key and not self.parted:
            # A removal had its effect though its reply was lost: a copy elsewhere is all that is left.
            raise Changed(f"{self.key!r} is gone", None)
        return base

    async def overwrite(self) -> None:
        """Open with O_TRUNC: nothing of the content stays, and the next upload replaces whatever is there."""
        self._start_over()
        self._syncing.expectation.unconditional = True
        self._pristine = True

    def _start_over(self) -> None:
        self._syncing.leave_stream()
        self._syncing.refusal = None
        self._storage.withdraw(self)
        self._layers.clear()
        self._layers.truncate(0)
        self._ahead.restart()

    # reading

    async def read(self, offset: int, size: int) -> Buffer:
        """Bytes up to the end of the file; valid until the next checkpoint. Raises Stale when they are not in the
        bucket any more, Lost when they were dropped from staging."""
        try:
            return await self._reader.read(offset, size)
        except Stale:
            if not self.forgone or self._ahead.returns:
                raise
            # The kernel fills the page that a program writes a part of. Nobody can look at it.
            return bytes(max(0, min(size, self.size - offset)))

    # writing

    def expect_returns(self) -> None:
        """A handle can read: what was sent is kept here, be it on disk, as long as --staging-limit allows."""
        self._ahead.returns = True
        if self._syncing.stream is not None:
            self._syncing.stream.expect_returns()

    async def write(self, offset: int, data: Buffer) -> int:
        """Stage bytes. Waits when staging is short. Raises StagingFull and FileTooBig, which poison the file."""
        view = data if isinstance(data, memoryview) else memoryview(data)
        size = len(view)
        if not size:
            return 0
        if offset + size > self._storage.config.file_size_max_bytes:
            raise self.refuse(self._too_big())
        self._syncing.check_refusal()
        if self._reader.asks_base and not (offset == 0 and size >= self._layers.base_stop):
            self._reader.fetch_base()
        if self._storage.staging.ready(size) or self._layers.rewritable(offset, offset + size):
            self._place(offset, view)
            if self._layers.size >= self._ahead.look_bytes:
                self._ahead.send()
        else:
            await self._write_in_turn(offset, view)
        return size

    def _stored(self, stored: Stored) -> None:
        self._reader.asks_base = True
        self.described_at = trio.current_time()
        self._on_stored(self, stored)

    def fetch_base(self) -> None:
        """The file will change: begin to fetch a small base whole, for it may be gone when the upload needs it."""
        if self._reader.asks_base:
            self._reader.fetch_base()

    def _place(self, offset: int, view: memoryview) -> None:
        stop = offset + len(view)
        try:
            self._check_reach(stop)
        except FileTooBig as error:
            raise self.refuse(error) from None
        stream = self._syncing.stream
        if stream is not None and self._syncing.epoch is None:
            if stream.dropped:
                self._check_here(offset, stop, "write over")
            stream.touch(offset, stop)
        self._pristine = False
        self._layers.write(offset, view)

    async def _write_in_turn(self, offset: int, view: memoryview) -> None:
        storage = self._storage
        size = len(view)
        self._ahead.send()
        await storage.budget.admit(size, self._poison_full, lacking=self._ahead.lacking)
        try:
            try:
                await storage.staging.wait_for_memory(size)
            except StagingFull as error:
                raise self.refuse(error) from error
            self._place(offset, view)
            self._ahead.send()
        finally:
            storage.budget.unreserve(size)

    def _too_big(self) -> FileTooBig:
        return FileTooBig(f"{self.key!r} would be larger than {self._storage.config.file_size_max_bytes} bytes")

    def _check_reach(self, stop: int) -> None:
        """A stream that ends before `stop` is given up; everything is sent again, in larger parts. Raises FileTooBig
        when not all of it is here."""
        stream = self._syncing.stream
        if stream is not None and stop > stream.grid.stop:
            if stream.lacks_bytes:
                raise stream.too_big()
            self._syncing.leave_stream()

    def _check_here(self, start: int, stop: int, what: str) -> None:
        if self._layers.lost(start, stop):
            log.error("%s bytes that had left staging: raise --memory-limit or --staging-limit key=%r", what, self.key)
            raise self.refuse(StagingFull("the bytes there were sent and dropped from staging"))

    def _poison_full(self) -> None:
        self.refuse(StagingFull("the staging log is full and nothing frees it: raise --staging-limit"))

    def refuse(self, error: FileSystemError) -> FileSystemError:
        """A write is refused, and the kernel drops its page: no sync can succeed until the file is empty. Returns what
        to raise."""
        if self._syncing.refusal is None:
            log.error("write refused key=%r reason=%s", self.key, error)
            self._syncing.refusal = error
            self._storage.offer(self, self._give_up_bytes, in_memory=True)
        return error

    def _give_up_bytes(self) -> None:
        """Staging runs short, and these bytes can never be stored."""
        if not self.busy and self._syncing.refusal is not None:
            self._syncing.drop_stream()
            self._layers.give_up()

    async def truncate(self, size: int) -> None:
        """Cut or lengthen. To 0 heals a poisoned file. Raises FileTooBig."""
        if size > self._storage.config.file_size_max_bytes:
            raise self._too_big()
        if size == 0:
            self._start_over()
        elif size != self.size:
            self._check_reach(size)
            stream = self._syncing.stream
            if stream is not None and self._syncing.epoch is None and size < self.size:
                start, stop = stream.grid.part(stream.grid.number_at(size))
                if start < size < stop:
                    self._check_here(start, min(stop, self.size), "cut of")
                stream.touch(size, self.size)
            self._layers.truncate(size)
            self._pristine = False

    def _thawed(self) -> None:
        self._ahead.look_bytes = self._layers.size
        if self._closed:
            self._syncing.drop_stream()
            self._syncing.orphan = True
            self._layers.clear()
        elif self._syncing.refusal is not None:
            self._storage.offer(self, self._give_up_bytes, in_memory=True)

    # storing

    async def flush(self) -> None:
        """FLUSH of a handle that can write: stores what is dirty, but a created or truncated file only once it was
        written to."""
        if self._pristine:
            self._syncing.check()
        else:
            await self._syncing.sync()

    async def sync(self) -> None:
        """fsync, or the last RELEASE: what the file is now is in the bucket on return. Raises what kept it out, each
        time until an attempt succeeds."""
        await self._syncing.sync()
        if not self.dirty:
            self._pristine = False

    async def restate(self) -> None:
        """Have the object carry `headers` on return, unless bytes wait to be stored that will bring them. Raises Stale
        when the object is another version."""
        await self._syncing.restate()

    async def rename(self, key: str, move: Callable[[Version], Awaitable[Version]]) -> None:
        """Move the base object by `move`; what is stored later goes to `key`. Raises Busy and Stale."""
        await self._syncing.rename(key, move)

    async def unlink(self, *, read_on: bool = True) -> None:
        """Delete the object; this file is never stored again, and stays readable and writable if anybody may
        `read_on`."""
        await self._forsaking.unlink(self._storage.store, read_on=read_on)

    async def replaced(self, replace: Callable[[], Awaitable[None]], *, read_on: bool = True) -> None:
        """Another object takes the key, by `replace`: as `unlink`, but nothing is deleted. No upload runs meanwhile;
        what `replace` raises leaves the file as it was."""
        await self._forsaking.replaced(replace, read_on=read_on)

    async def superseded(self) -> None:
        """Another object has taken the key: as `replaced`, but what is not here can be read by a version id only."""
        await self._forsaking.superseded()

    def discard(self) -> None:
        """Drop what the bucket lacks; syncs fail from then on, for whoever has written meanwhile."""
        self._syncing.leave_stream()
        self._storage.withdraw(self)
        self._layers.reset()
        if self._syncing.refusal is None:
            self._syncing.refusal = FileSystemError(f"the content of {self.key!r} was dropped")

    def close(self) -> None:
        """The last handle is gone: staging and turns are given back."""
        if self._closed:
            return
        self._closed = True
        self._syncing.leave_stream()
        self._storage.withdraw(self)
        self._ahead.leave()
        self._reader.close()
        self._keeping.close()
        self._layers.clear()
