"""A start with a write-back journal: records become the table of what waits, damage is kept aside and named.

What comes before damage is replayed. The damaged segment and all later ones are kept in a directory of their own, and
of what they hold only facts are believed: an operation is not replayed when the bucket has a later one on its key.
"""

import logging
import secrets
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import trio

from s3mount.errors import StartError
from s3mount.writeback.appending import SEGMENT_BYTES, Appender, Entry
from s3mount.writeback.needed import ENDS, OWN, Holdings, told_of
from s3mount.writeback.operations import Operation, Place
from s3mount.writeback.oplog import OperationLog, moved_entry
from s3mount.writeback.reading import Damage, Journal, Told, keys_of, read_journal, told_by, told_by_found
from s3mount.writeback.records import Identity, body_is_good, is_blank
from s3mount.writeback.segments import Directory, Disk, name_of, reader, sync_names_above

log = logging.getLogger(__name__)

KEYS_TOLD_MAX = 1000


class Table(Protocol):
    """What a replay needs of Pending."""

    def expect(self, meta: Mapping[str, Any]) -> None: ...

    def replayed(self) -> None: ...

    def apply(self, seq: int, meta: Mapping[str, Any], place: Place | None) -> Operation | None: ...

    @property
    def operations(self) -> Iterator[Operation]: ...


P = TypeVar("P", bound=Table)

Make = Callable[[Callable[[Iterable[Place]], None], Callable[[int], None]], P]
"""A new table, given what it calls for bodies that nobody needs, and for seqs that are over."""


@dataclass(frozen=True, slots=True)
class Replayed(Generic[P]):
    """A journal that can be gone on with, once its `run` runs."""

    log: OperationLog
    pending: P
    damage: Damage | None


async def replay(
    directory: Path,
    identity: Identity,
    make: Make[P],
    *,
    disk: Disk | None = None,
    segment_bytes: int = SEGMENT_BYTES,
) -> Replayed[P]:
    """Read the journal of a directory, which is made if it is not there. `make` may be called twice: what the first
    table was given is forgotten when a body of it is bad. Raises StartError: of a journal of somebody else's, or of a
    newer version, nothing was touched."""
    in_thread = trio.to_thread.run_sync
    try:
        if disk is None:
            await in_thread(_check_owner, directory, identity)
            await in_thread(sync_names_above, directory)
            disk = Directory(directory)
        journal = await in_thread(read_journal, disk, identity)
        attempt = Attempt(journal, disk, identity, make, segment_bytes)
        while await in_thread(attempt.finds_bad_bodies):
            attempt = Attempt(journal, disk, identity, make, segment_bytes)
        if journal.torn is not None:
            log.warning(
                "write-back journal had a torn end segment=%s offset=%d", name_of(journal.torn[0]), journal.torn[1]
            )
        await in_thread(attempt.make_sure)
        damage = None
        if journal.damage is not None:
            damage = await in_thread(attempt.set_aside, directory)
            log.error(
                "write-back journal was damaged segment=%s offset=%d kept=%s files=%d",
                damage.name, damage.offset, damage.kept, len(damage.keys),
            )  # fmt: skip
        return Replayed(attempt.log, attempt.pending, damage)
    except OSError as error:
        raise StartError(f"the write-back journal in {directory} cannot be used: {error}; see --cache-dir") from error


def kept_by(meta: Mapping[str, Any]) -> Callable[[int], bool]:
    """Whether a record of which operations are left lets a seq be live."""
    until, ranges = meta["until"], meta["live"]
    starts = [first for first, _ in ranges]

    def is_live(seq: int) -> bool:
        at = bisect_right(starts, seq)
        return seq > until or (at > 0 and seq <= ranges[at - 1][1])

    return is_live


def _check_owner(directory: Path, identity: Identity) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    for path in (directory, *directory.glob("*.log")):
        found = path.lstat()
        if found.st_uid != identity.uid:
            raise StartError(f"{path} belongs to user {found.st_uid}: only that user may mount it")
        if not (stat.S_ISDIR if path == directory else stat.S_ISREG)(found.st_mode):
            raise StartError(f"{path} is not what s3mount has made")


class Attempt(Generic[P]):
    """The table of what is believed, and the log to go on with."""

    def __init__(self, journal: Journal, disk: Disk, identity: Identity, make: Make[P], segment_bytes: int) -> None:
        # The mutable state: what is held; the end of the journal; metas of facts that go into it anew; seqs by the
        # places of their bodies.
        self._journal = journal
        self._disk = disk
        self._holdings = Holdings()
        for number, size in journal.sizes.items():
            self._holdings.segment(number, size)
        self._appender = Appender(
            disk,
            identity,
            salt=journal.salt or secrets.randbits(63),
            segment=journal.last_segment,
            durable_seq=journal.cut_seq - 1,
            proven_seq=journal.proven_seq,
            segment_bytes=segment_bytes,
        )
        self.log = OperationLog(disk, self._appender, self._holdings, segment_bytes=segment_bytes)
        self.pending = make(self.log.free, self.log.over)
        self._facts: list[dict[str, Any]] = []
        self._seqs: dict[tuple[int, int], int] = {}
        self._apply()
        if journal.damage is not None:
            self._believe_facts()
        self.pending.replayed()
        self._let_go_of_unused()

    def _apply(self) -> None:
        told = self._journal.told()
        is_live = self._liveness(told)
        for each in (*told, *map(told_by_found, self._journal.beyond)):
            self.pending.expect(each.meta)
        for each in told:
            about = told_of(each.meta)
            if OWN.intersection(each.meta):
                continue
            self.log.last_seq = each.seq
            self._holdings.add(each.seq, each.record, each.meta, each.place)
            if each.place is not None:
                self._seqs[each.place.segment, each.place.offset] = each.seq
            if about is None and not is_live(each):
                self._holdings.over(each.seq, last_seq=each.seq)
            else:
                self.pending.apply(each.seq, each.meta, each.place)
            self._holdings.let_go(durable_seq=each.seq)
        self.log.last_seq = self._journal.cut_seq - 1

    def _liveness(self, told: list[Told]) -> Callable[[Told], bool]:
        """Whether the journal lets an operation be live, by what it says of all. Facts about it come besides."""
        journal = self._journal
        found = [*journal.records, *journal.beyond]
        last = next((meta for _, meta in reversed(found) if "live" in meta), None)
        kept = (lambda _: True) if last is None else kept_by(last)
        if journal.damage is None:
            return lambda each: kept(each.seq)
        ended = {told_of(each.meta) for each in told if ENDS.intersection(each.meta)}
        return lambda each: kept(each.seq) and each.seq not in journal.gone and (not each.over or each.seq in ended)

    def _believe_facts(self) -> None:
        """What is told beyond the damage of what was before it."""
        beyond = [told_by(*found) for found in self._journal.beyond]
        done = {told_of(each.meta) for each in beyond if "done" in each.meta}
        keys = {key for each in beyond if each.seq in done for key in keys_of(each.meta)}
        for each in beyond:
            if each.seq >= self._journal.cut_seq and told_of(each.meta) in self._holdings:
                self._believe(each.meta)
        for operation in list(self.pending.operations):
            if not keys.isdisjoint((operation.key, operation.source)):
                self._believe({"dropped": operation.seq})

    def _believe(self, meta: dict[str, Any]) -> None:
        self._facts.append(meta)
        self.log.last_seq += 1
        self.pending.apply(self.log.last_seq, meta, None)
        self._holdings.let_go(durable_seq=self.log.last_seq)

    def _used(self) -> set[tuple[int, int]]:
        return {
            (piece.place.segment, piece.place.offset)
            for operation in self.pending.operations
            for piece in operation.content
            if piece.place is not None
        }

    def _users(self, place: tuple[int, int]) -> set[int]:
        """The record of a body, and those of operations that have bytes of it: parts have records of their own."""
        found = {self._seqs[place]}
        for operation in self.pending.operations:
            places = (piece.place for piece in operation.content if piece.place is not None)
            if any((one.segment, one.offset) == place for one in places):
                found.update(operation.seqs)
        return found

    def _let_go_of_unused(self) -> None:
        """Bodies that no content has, as those of uploads that came to nothing."""
        used = self._used()
        self.log.free([place for place in self._holdings.places() if (place.segment, place.offset) not in used])
        self._holdings.let_go(durable_seq=self.log.last_seq)

    def where(self, place: Place) -> Place | None:
        """Where a body lies."""
        return self._holdings.where(place)

    # for worker threads

    def finds_bad_bodies(self) -> bool:
        """Whether bodies that are needed cannot be read; then the journal believes less.

        One that was given back already is of an operation that was over: only damage can have hidden that."""
        held = {
            (each.place.segment, each.place.offset): each for each in self._holdings.bodies() if each.place is not None
        }
        gone, bad = set[int](), set[int]()
        for place in self._used():
            where = held[place].record.place if place in held else None
            if where is None:
                gone |= self._users(place)
            elif not body_is_good(read := reader(self._disk, where.segment), where):
                if is_blank(read, where.offset, where.offset + where.size):
                    gone |= self._users(place)
                else:
                    bad.add(self._seqs[place])
        if bad or (gone and self._journal.damage is None):
            self._journal.cut(min(bad or gone))
        self._journal.gone |= gone
        return bool(bad or gone)

    def make_sure(self) -> None:
        """What was read may be in memory alone, when it was the process that died. And what was being made goes."""
        unproven = {
            found.record.segment for found in self._journal.records if found.record.seq > self._journal.proven_seq
        }
        for number in sorted(unproven):
            self._disk.sync(number)
        if self._journal.damage is None:
            for number in self._disk.numbers():
                if number not in self._journal.sizes:
                    self._disk.unlink(number)
        self._disk.sync_names()

    def set_aside(self, directory: Path) -> Damage:
        """Keep what is damaged, and have the journal go on without it."""
        journal, disk = self._journal, self._disk
        assert journal.damage is not None
        segment, offset = journal.damage
        later = [number for number in disk.numbers() if number > segment]
        name = f"damaged-{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}"
        disk.set_aside(segment, name, copied=True)
        self._carry(segment)
        if not offset:  # nothing of it is believed
            disk.unlink(segment)
            self._holdings.forget(segment)
        for number in later:
            disk.set_aside(number, name, copied=False)
            self._holdings.forget(number)
        disk.sync_names()
        done = {told_of(each.meta) for each in map(told_by_found, journal.beyond) if "done" in each.meta}
        keys = {
            key
            for each in map(told_by_found, journal.beyond)
            if each.seq >= journal.cut_seq and each.seq not in done
            for key in keys_of(each.meta)
        }
        return Damage(segment, offset, tuple(sorted(keys)[:KEYS_TOLD_MAX]), directory / name)

    def _carry(self, segment: int) -> None:
        """Append anew what is believed of that which lies beyond, and what was learnt there. Raises OSError."""
        appender, holdings = self._appender, self._holdings
        self.log.last_seq -= len(self._facts)
        self._append([Entry(meta) for meta in self._facts])
        for held in holdings.all():
            if held.record.segment > segment or held.record.seq >= self._journal.cut_seq:
                entry = moved_entry(self._disk, held)
                if entry is None:
                    raise OSError(f"{name_of(held.record.segment)} cannot be read any more")
                self._append([entry])
        self._append([Entry({"live": holdings.live_ranges(), "until": self.log.last_seq})])
        appender.sync()

    def _append(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.log.last_seq += 1
            entry.give(self.log.last_seq)
        self._appender.append(entries, sync=False)
        for number, size in self._appender.begun.items():
            self._holdings.segment(number, size)
        self._appender.begun.clear()
        for entry in entries:
            if entry.error is not None or entry.record is None:
                raise OSError(str(entry.error))
            if entry.seq != entry.head_seq:
                self._holdings.move(entry.seq, entry.record)
            elif told_of(entry.meta) is not None:
                self._holdings.add(entry.seq, entry.record, entry.meta, None)
            entry.body, entry.answered = (), True
