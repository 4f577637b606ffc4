"""Records onto the disk, in order: the segments that are written, what is durable, what a failure leaves. For worker
threads, one at a time.

After a failure of any kind the segment is not written to any more (an fsync that failed says nothing of what it was
asked for, and the next one does not either), and the next one begins at the first seq that is not durable: with what
was written and not answered to anybody yet refused (a `void` record keeps its seq), and with what had been answered
without waiting written once more.
"""

import errno
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from s3mount.errors import JournalFailed, JournalFull, StoreError
from s3mount.store.base import Body
from s3mount.writeback.needed import OWN, told_of
from s3mount.writeback.operations import Place
from s3mount.writeback.records import (
    HEAD,
    Identity,
    Record,
    body_is_good,
    crc_of,
    head_bytes,
    header_meta,
    meta_bytes,
    size_of,
)
from s3mount.writeback.segments import Disk

SEGMENT_BYTES = 64 * 1024 * 1024
SEGMENT_LEAST_BYTES = 256 * 1024
"""Where the disk has no room for a whole one."""
RESERVE_BYTES = 1024 * 1024
"""For 10,000 facts: when the disk is full, operations can be sent and their room given back all the same."""
PUSH_LEAST_BYTES = 1024 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Entry:
    """One record on its way. `seq` is what it is known by: its own, or that of the record it stands for. After it was
    written `record` says where; `error` says that it never will be. `answered`: somebody believes that it was written,
    and its body may be gone."""

    __slots__ = ("answered", "body", "error", "head_seq", "meta", "place", "record", "seq", "size", "text", "wait")

    def __init__(self, meta: dict[str, Any], body: Body = (), *, wait: bool = False, seq: int = 0) -> None:
        self.head_seq = 0
        self.meta = meta
        self.text = meta_bytes(meta)
        self.body = body
        self.size = size_of(body)
        self.wait = wait
        self.answered = False
        self.seq = seq
        self.place: Place | None = None
        self.record: Record | None = None
        self.error: StoreError | None = None

    @property
    def bytes(self) -> int:
        return HEAD.size + len(self.text) + self.size

    def give(self, seq: int) -> None:
        """Its turn."""
        self.head_seq = seq
        self.seq = self.seq or seq

    def void(self) -> None:
        """Nothing of it is to be believed."""
        self.meta = {"void": self.head_seq}
        self.text = meta_bytes(self.meta)
        self.body = ()
        self.size = 0


class Appender:
    """The end of the journal."""

    def __init__(
        self,
        disk: Disk,
        identity: Identity,
        *,
        salt: int,
        segment: int,
        durable_seq: int,
        proven_seq: int,
        segment_bytes: int,
    ) -> None:
        # The mutable state: the segment that is written (0: none, one is begun with the next record), how much of it is
        # used, and its size; the last seq that is durable; entries that are written and not durable, in order;
        # segments that were begun, by number, with their bytes, until somebody takes note; whether there is a reserve.
        self._disk = disk
        self._identity = identity
        self._salt = salt
        self._segment_bytes = segment_bytes
        self._last_segment = segment
        self._current = 0
        self._used = self._size = 0
        self.durable_seq = durable_seq
        self.proven_seq = proven_seq
        """The last one of which a durable record says that it was durable: a start looks at no body up to there that
        it does not need."""
        self._undurable: list[Entry] = []
        self.begun: dict[int, int] = {}
        self._has_reserve = False

    @property
    def current(self) -> int:
        """The segment that is written; 0: none."""
        return self._current

    @property
    def has_undurable(self) -> bool:
        return bool(self._undurable)

    def append(self, entries: Sequence[Entry], *, sync: bool) -> list[Entry]:
        """Write them in order, and with `sync` make everything durable. Those that have an error afterwards were not.

        What has to come first next time is returned: nothing, or after a failure all that is not durable. Entries are
        durable in order: of those that one call brings, the first may be although the last are not."""
        try:
            try:
                self._write(entries)
            except _NoRoom as error:
                # What is told of operations is how room comes back: it has a reserve, and goes on.
                self._write(self._refused(entries, error), reserve=True)
                sync = True
            if sync:
                self.sync()
        except OSError as error:
            return self._failed(entries, error)
        return []

    def make_reserve(self) -> bool:
        """Have room for what tells of operations, should there be none for operations. Whether there is."""
        if not self._has_reserve:
            try:
                self._disk.make_reserve(RESERVE_BYTES)
            except OSError:
                return False
            self._has_reserve = True
        return True

    def drop_reserve(self) -> None:
        self._has_reserve = False
        self._disk.drop_reserve()

    def sync(self) -> None:
        if self._undurable:
            self._disk.sync(self._current)
            last = self._undurable[-1]
            assert last.record is not None
            self.durable_seq, self.proven_seq = last.head_seq, last.record.durable_seq
            self._undurable.clear()

    # inside

    def _write(self, entries: Sequence[Entry], *, reserve: bool = False) -> None:
        buffers: list[Any] = []
        start = self._used
        for entry in entries:
            if not self._current or self._used + entry.bytes > self._size:
                self._send(buffers, start)
                self._roll(entry, reserve=reserve)
                start = self._used
            buffers += self._laid(entry)
        self._send(buffers, start)

    def _laid(self, entry: Entry) -> list[Any]:
        """Give an entry its place at the end; what is to be written there."""
        crc = crc_of(entry.body)
        record = Record(entry.head_seq, self.durable_seq, self._current, self._used, len(entry.text), entry.size, crc)
        self._used = record.stop
        entry.record = record
        self._undurable.append(entry)
        return [head_bytes(record, entry.text, salt=self._salt), entry.text, *entry.body]

    def _send(self, buffers: list[Any], start: int) -> None:
        if buffers:
            self._disk.write(self._current, start, buffers)
            buffers.clear()
            if self._used - start >= PUSH_LEAST_BYTES:
                self._disk.push(self._current, start, self._used - start)

    def _roll(self, entry: Entry, *, reserve: bool) -> None:
        """Begin a segment that has room for the entry; all before it is durable."""
        self.sync()
        number = self._last_segment + 1
        meta = header_meta(self._identity, salt=self._salt, size=self._segment_bytes)
        needed = HEAD.size + len(meta_bytes(meta)) + 32 + entry.bytes
        if reserve:
            if not self._has_reserve or needed > RESERVE_BYTES:
                raise _NoRoom(errno.ENOSPC, "the reserve is used up")
            self._has_reserve, size = False, RESERVE_BYTES
            self._disk.take_reserve(number)
        else:
            size = self._created(number, needed)
        self._current = 0
        self._last_segment = number  # of what fails from here on, too: a number names one file for good
        text = meta_bytes({**meta, "bytes": size})
        record = Record(entry.head_seq, self.durable_seq, number, 0, len(text), 0, 0)
        try:
            self._disk.write(number, 0, [head_bytes(record, text, salt=self._salt), text])
            self._disk.sync(number)
            self._disk.sync_names()
        except OSError:
            with suppress(OSError):
                self._disk.unlink(number)
            raise
        self._current, self._used, self._size = number, record.stop, size
        self.proven_seq = self.durable_seq
        self.begun[number] = size

    def _created(self, number: int, needed: int) -> int:
        size = max(self._segment_bytes, needed)
        try:
            self._disk.create(number, size)
        except OSError as error:
            least = max(SEGMENT_LEAST_BYTES, needed)
            if error.errno not in FULL:
                raise
            try:
                self._disk.create(number, least)
            except OSError as again:
                raise (_NoRoom(*again.args) if again.errno in FULL else again) from error
            size = least
        return size

    def _refused(self, entries: Sequence[Entry], error: OSError) -> list[Entry]:
        """What goes on when there is no room for bodies: facts, and voids for what is refused."""
        left = []
        for entry in entries:
            if entry.head_seq <= self.durable_seq:
                continue
            if entry.answered or told_of(entry.meta) is not None or OWN.intersection(entry.meta):
                left.append(entry)
            else:
                entry.error = _told(error)
                left.append(_void(entry.head_seq))
        return left

    def _failed(self, entries: Sequence[Entry], error: OSError) -> list[Entry]:
        written = set(self._undurable)
        left = [*self._undurable, *(entry for entry in entries if entry not in written)]
        self._undurable.clear()
        self._current = 0
        again: dict[int, Entry] = {}
        for entry in left:
            if entry.head_seq <= self.durable_seq or entry.head_seq in again:
                continue
            if entry.answered:
                again[entry.head_seq] = self._salvaged(entry)
                continue
            entry.error = _told(error)
            again[entry.head_seq] = _void(entry.head_seq)
        return list(again.values())

    def _salvaged(self, entry: Entry) -> Entry:
        """What was answered and is not durable, to be written once more; a void when its body is lost."""
        body, record = entry.body, entry.record
        if entry.size and not body:
            assert record is not None
            assert record.place is not None
            read = bytearray(entry.size)
            try:
                self._disk.read(record.segment, record.body_start, memoryview(read))
            except OSError:
                read.clear()
            if not body_is_good(lambda at, size: bytes(read[at : at + size]), record.place._replace(offset=0)):
                entry.void()
                return entry
            body = (bytes(read),)
        meta = moved_meta(entry) if entry.size else entry.meta
        following = Entry(meta, body, seq=entry.seq)
        following.give(entry.head_seq)
        following.place, following.answered = entry.place, True
        return following


class _NoRoom(OSError):
    """No segment could be begun. What was written before is durable, and the segment as good as it was."""


def _void(seq: int) -> Entry:
    entry = Entry({"void": seq})
    entry.give(seq)
    entry.answered = True
    return entry


def moved_meta(entry: Entry) -> dict[str, Any]:
    """The meta of a record that stands for one which lay elsewhere."""
    if "moved" in entry.meta:
        return entry.meta
    return moved(entry.seq, entry.place, entry.meta)


def moved(seq: int, place: Place | None, meta: dict[str, Any]) -> dict[str, Any]:
    """As moved_meta. `place`: where its body lay first, and is known by."""
    return {"moved": [seq, *(place or ())], "meta": meta}


def _told(error: OSError) -> StoreError:
    if error.errno in FULL:
        return JournalFull(f"the disk of the write-back journal is full: {error.strerror}")
    return JournalFailed(f"the write-back journal could not be written: {error.strerror}")
