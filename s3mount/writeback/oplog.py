"""The write-back journal while the mount lives: records are appended, read, and let go when they are over.

One task commits: all that has come since it last looked is written by one call of a thread, with one fdatasync when
anybody waits for that. What nobody waits for is durable with the next commit, at the latest after a second. All work
of the disk is done in threads. An error means that nothing of the record is believed later, however the disk fails.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from s3mount.errors import JournalFailed, Lost
from s3mount.store.base import Body
from s3mount.writeback.appending import SEGMENT_BYTES, Appender, Entry, moved
from s3mount.writeback.needed import OWN, Held, Holdings, Hole
from s3mount.writeback.operations import Place
from s3mount.writeback.records import crc_of, record_at
from s3mount.writeback.segments import Disk, reader

log = logging.getLogger(__name__)

UNSYNCED_MAX_SECONDS = 1.0
MARK_AFTER_SECONDS = 0.25
"""After so much silence the journal says that its last record was durable: then damage of it cannot pass for a tear."""
RETRY_SECONDS = 1.0
READERS_MAX = 8
RELOCATED_MAX_BYTES = 8 * 1024 * 1024
"""Moved in one commit."""
SLACK_SEGMENTS = 2
PLACE_PIECE = 5
"""So many words has the piece of a put that is bytes of an earlier record, after start and stop."""


@dataclass(frozen=True, slots=True)
class Appended:
    """A record that was written. `place`: of its body; None without one."""

    seq: int
    place: Place | None


class _Queued:
    """An entry and who waits for it."""

    __slots__ = ("done", "entry")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.done = trio.Event()


class OperationLog:
    """See the module. Made by `replay`; `run` has to run for anything to be appended."""

    def __init__(
        self, disk: Disk, appender: Appender, holdings: Holdings, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        # The mutable state: entries that wait for the next commit; those that a failure has left to be written first;
        # the last seq given; whether the disk failed last time, and whether that was told; segments that cannot be
        # moved, and when moving is tried again after there was no room for it; since when something is written and not
        # durable; whether something is durable that the journal does not say so of; whether it is being closed.
        self._disk = disk
        self._appender = appender
        self._holdings = holdings
        self._segment_bytes = segment_bytes
        self._committing = trio.CapacityLimiter(1)  # of its own: readers must not keep a commit waiting
        self._reading = trio.CapacityLimiter(READERS_MAX)
        self._queue: list[_Queued] = []
        self._again: list[Entry] = []
        self.last_seq = appender.durable_seq
        self._failing = self._told = False
        self._stuck: set[int] = set()
        self._relocates_at = 0.0
        self._unsynced_at: float | None = None
        self._unmarked = False
        self._closing = False
        self._ended = trio.Event()
        self._work = trio.Event()

    def __repr__(self) -> str:
        return f"<OperationLog seq={self.last_seq} durable={self._appender.durable_seq} {self._holdings!r}>"

    @property
    def figures(self) -> dict[str, int]:
        holdings = self._holdings
        return {
            "disk_bytes": holdings.disk_bytes,
            "held_bytes": holdings.held_bytes,
            "segments": len(holdings.segments),
            "live": holdings.live,
            "seq": self.last_seq,
            "durable_seq": self._appender.durable_seq,
        }

    # what others use

    async def append(self, meta: Mapping[str, Any], body: Body = (), *, wait: bool = True) -> Appended:
        """Returns when the record is durable; without `wait` when it is written. The body must not change before that,
        so it is not given up when cancelled: one commit takes no longer than the disk does.

        Raises JournalFull, JournalFailed: nothing of it is believed then, after a crash neither."""
        if self._closing:
            raise JournalFailed("the write-back journal is closed")
        if any(self._holdings.where(place) is None for place in _named(meta)):
            raise JournalFailed("the write-back journal has lost bytes that were to be stored")
        queued = self._enqueue(Entry(dict(meta), body, wait=wait))
        with trio.CancelScope(shield=True):
            await queued.done.wait()
        entry = queued.entry
        if entry.error is not None:
            raise entry.error
        return Appended(entry.seq, entry.place)

    async def read(self, place: Place, offset: int, into: memoryview) -> None:
        """Fill `into` from `offset` on in a body. Read whole, it is compared with its CRC. Raises Lost."""
        assert 0 <= offset <= offset + len(into) <= place.size
        for _ in range(2):  # it may be moved, and its segment deleted, just when it is looked for
            where = self._holdings.where(place)
            if where is None:
                break
            call = partial(_read, self._disk, where, offset, into)
            if await trio.to_thread.run_sync(call, limiter=self._reading):
                return
        raise Lost(f"the write-back journal does not give bytes back that it took: segment {place.segment}")

    def over(self, seq: int, places: Iterable[Place] = ()) -> None:
        """The operation needs no replay any more; nor does anybody need the places."""
        self._holdings.over(seq, last_seq=self.last_seq)
        self.free(places)

    def free(self, places: Iterable[Place]) -> None:
        """Nobody reads these bodies any more."""
        self._holdings.free(places, last_seq=self.last_seq)
        if not self._queue:
            self._work.set()

    async def close(self) -> None:
        """Make everything durable, give back what is over, and end `run`. Idempotent."""
        self._closing = True
        self._work.set()
        await self._ended.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The committer. Cancelled it ends after the commit that is under way, and refuses what waits."""
        task_status.started()
        try:
            await self._in_thread(self._appender.make_reserve)
            while not self._closing or self._queue:
                await self._something_to_do()
                await self._commit()
                await self._tidy()
            await self._commit(sync=True)
            await self._tidy(last=True)
            await self._in_thread(self._appender.drop_reserve)
            await self._in_thread(self._disk.close)
        finally:
            self._closing = True
            for queued in self._queue:
                queued.entry.error = JournalFailed("the write-back journal was closed")
                queued.done.set()
            self._queue.clear()
            self._ended.set()

    # inside

    async def _something_to_do(self) -> None:
        if not self._queue and not self._closing:
            with trio.move_on_at(self._next_look()):
                await self._work.wait()
        self._work = trio.Event()

    def _next_look(self) -> float:
        if self._failing:
            return trio.current_time() + RETRY_SECONDS
        if self._unsynced_at is not None:
            return self._unsynced_at + UNSYNCED_MAX_SECONDS
        return trio.current_time() + MARK_AFTER_SECONDS if self._unmarked else float("inf")

    def _enqueue(self, entry: Entry) -> _Queued:
        """In the order of their seqs, without gaps."""
        self.last_seq += 1
        entry.give(self.last_seq)
        queued = _Queued(entry)
        self._queue.append(queued)
        self._work.set()
        return queued

    async def _commit(self, *, sync: bool = False) -> None:
        """Write what waits, in order, and answer it."""
        late = self._unsynced_at is not None and trio.current_time() >= self._unsynced_at + UNSYNCED_MAX_SECONDS
        if not self._queue and not self._again and not late and not sync and self._unmarked:
            self._unmarked = False
            self._enqueue(Entry({"mark": self._appender.durable_seq}))
        queued, self._queue = self._queue, []
        entries = [*self._again, *(each.entry for each in queued)]
        sync = sync or late or self._failing or any(entry.wait for entry in entries)
        if entries or (sync and self._appender.has_undurable):
            await self._written(entries, sync=sync)
        for each in queued:
            if each.entry.error is None:
                each.entry.answered = True
                each.entry.body = ()
            each.done.set()
        self._holdings.let_go(durable_seq=self._appender.durable_seq)

    async def _written(self, entries: list[Entry], *, sync: bool) -> None:
        appender = self._appender
        with trio.CancelScope(shield=True):
            self._again = await self._in_thread(partial(appender.append, entries, sync=sync))
        for number, size in appender.begun.items():
            self._holdings.segment(number, size)
        appender.begun.clear()
        for entry in entries:
            if entry.error is None and entry.record is not None:
                self._note(entry)
        for entry in self._again:
            if "void" in entry.meta and entry.place is not None:
                self._holdings.lose(entry.seq)
        self._tell(entries)
        if not appender.has_undurable:
            self._unsynced_at = None
            self._unmarked = True
        elif self._unsynced_at is None and any("mark" not in entry.meta for entry in entries):
            self._unsynced_at = trio.current_time()

    def _tell(self, entries: list[Entry]) -> None:
        """Say once that the disk refuses what it is given, and that it does no more."""
        self._failing = bool(self._again)
        errors = [entry.error for entry in entries if entry.error is not None]
        if errors or self._failing:
            if not self._told:
                reason = errors[0] if errors else "what was written did not become durable"
                log.error("write-back journal was not written reason=%s", reason)
            self._told = True
        elif self._told and any(entry.wait and entry.size for entry in entries):
            log.info("write-back journal was written again")
            self._told = False

    def _note(self, entry: Entry) -> None:
        record = entry.record
        assert record is not None
        if entry.answered or entry.seq != entry.head_seq:
            self._holdings.move(entry.seq, record)
        elif not OWN.intersection(entry.meta):
            entry.place = record.place
            self._holdings.add(entry.seq, record, entry.meta, entry.place)

    # room on the disk

    async def _tidy(self, *, last: bool = False) -> None:
        """Give back what nobody needs."""
        holdings = self._holdings
        holes = holdings.take_holes(proven_seq=self._appender.proven_seq)
        if holes:
            await self._in_thread(partial(_punch, self._disk, holes))
        if self._failing:
            return
        if last or holdings.releasable(current=self._appender.current):
            await self._release(last=last)
            return
        too_large = holdings.disk_bytes > 2 * holdings.held_bytes + SLACK_SEGMENTS * self._segment_bytes
        if too_large and trio.current_time() >= self._relocates_at:
            await self._relocate()

    async def _release(self, *, last: bool) -> None:
        """Unlink segments, after a record of which operations are left: what they told of the others goes with them.

        What is let go after that record was made stays until the next: the record counts on what is told of it."""
        holdings = self._holdings
        going = holdings.releasable(current=0 if last else self._appender.current)
        if holdings.segments:
            until = self._queue[0].entry.head_seq - 1 if self._queue else self.last_seq
            self._enqueue(Entry({"live": holdings.live_ranges(), "until": until}))
            await self._commit(sync=True)
        if self._failing:
            return
        if last and not holdings.all():
            going = holdings.segments
        for number in going:
            if not await self._in_thread(partial(_unlink, self._disk, number)):
                return
            holdings.forget(number)
        await self._in_thread(self._appender.make_reserve)

    async def _relocate(self) -> None:
        """Append anew what is needed of the oldest segment, so that it can go."""
        number = self._holdings.segments[0]
        if number == self._appender.current or number in self._stuck:
            return
        entries: list[Entry] = []
        size = 0
        for held in self._holdings.in_segment(number):
            size += held.size
            if entries and size > RELOCATED_MAX_BYTES:
                break
            entry = await self._in_thread(partial(moved_entry, self._disk, held))
            if entry is None:
                self._stuck.add(number)
                log.error("write-back journal has a record that cannot be read segment=%d seq=%d", number, held.seq)
                return
            entries.append(entry)
        for entry in entries:
            self._enqueue(entry)
        await self._commit()
        if any(entry.error is not None for entry in entries):
            self._relocates_at = trio.current_time() + RETRY_SECONDS
        else:
            self._work.set()

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await trio.to_thread.run_sync(call, limiter=self._committing)


def _named(meta: Mapping[str, Any]) -> Iterator[Place]:
    """The bodies of other records that one is made of."""
    for _start, _stop, *rest in meta.get("pieces", ()):
        if len(rest) == PLACE_PIECE:
            segment, offset, size, crc, _ = rest
            yield Place(segment, offset, size, crc)


def _read(disk: Disk, where: Place, offset: int, into: memoryview) -> bool:
    try:
        if disk.read(where.segment, where.offset + offset, into) < len(into):
            return False
    except OSError:
        return False
    return len(into) < where.size or crc_of((into,)) == where.crc


def _punch(disk: Disk, holes: list[Hole]) -> None:
    for hole in holes:
        try:
            disk.punch(hole.segment, hole.offset, hole.size)
        except OSError as error:
            log.info("write-back journal gave no room back segment=%d reason=%s", hole.segment, error)


def _unlink(disk: Disk, number: int) -> bool:
    """One after the other for good: those that are there are the last ones always."""
    try:
        disk.unlink(number)
        disk.sync_names()
    except OSError as error:
        log.warning("write-back segment was not deleted segment=%d reason=%s", number, error)
        return False
    return True


def moved_entry(disk: Disk, held: Held) -> Entry | None:
    """A record to stand for one that lies in the way; None when that cannot be read."""
    record = held.record
    read = reader(disk, record.segment)
    found = record_at(read, record.start, segment=record.segment)
    if found is None or found.record.seq != record.seq:
        return None
    body = b""
    if not held.freed:
        body = read(record.body_start, record.body_size)
        if len(body) < record.body_size or crc_of((body,)) != record.body_crc:
            return None
    meta = found.meta if "moved" in found.meta else moved(held.seq, held.place, found.meta)
    if held.over:
        meta["over"] = True  # what told so may be gone before this is
    return Entry(meta, (body,) if body else (), seq=held.seq)
