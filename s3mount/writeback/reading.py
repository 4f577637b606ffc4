"""What a write-back journal's directory holds: its records in order, where a torn tail begins, what is damaged.

Reads only, for worker threads. Knows the chain of records and segments, and nothing of what operations mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from s3mount.errors import StartError
from s3mount.writeback.operations import Place
from s3mount.writeback.records import (
    FORMAT,
    Found,
    Identity,
    ReadAt,
    Record,
    body_is_good,
    is_blank,
    record_at,
    records_beyond,
    records_from,
)
from s3mount.writeback.segments import Disk, name_of, reader

CUT_MAX_BYTES = 4096
"""No segment is so short."""


class Told(NamedTuple):
    """A record as a replay takes it: `seq` and `place` are what it is known by, `record` is where it lies."""

    seq: int
    record: Record
    meta: dict[str, Any]
    place: Place | None
    over: bool = False
    """It was when it was moved to where it lies."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Where the journal cannot be believed any more. `keys`: of operations that were read there or later, and wait in
    what is kept aside; `kept`: the directory with it, None while it lies where it was."""

    segment: int
    offset: int
    keys: tuple[str, ...] = ()
    kept: Path | None = None

    @property
    def name(self) -> str:
        return name_of(self.segment)


@dataclass(slots=True)
class Journal:
    """All that was read. Records before `cut_seq` are believed; those `beyond` are not, but for facts."""

    salt: int = 0
    last_segment: int = 0
    cut_seq: int = 1
    proven_seq: int = 0
    """Up to here the journal itself says that it was durable."""
    sizes: dict[int, int] = field(default_factory=dict)
    records: list[Found] = field(default_factory=list)
    beyond: list[Found] = field(default_factory=list)
    torn: tuple[int, int] | None = None
    """Segment and offset of what was being written when the power went."""
    damage: tuple[int, int] | None = None
    gone: set[int] = field(default_factory=set)
    """Operations whose bodies were given back."""

    def told(self) -> list[Told]:
        """What is believed, each record once, by what it is known by."""
        found: dict[int, Told] = {}
        for record, meta in (*self.records, *self.beyond):
            told = told_by(record, meta)
            if told.seq < self.cut_seq and (record.seq < self.cut_seq or told.seq != record.seq):
                found[told.seq] = told
        return [found[seq] for seq in sorted(found)]

    def cut(self, seq: int) -> None:
        """A body is bad that is needed: nothing from this seq on is believed."""
        records = [found for found in self.records if found.record.seq >= seq]
        here = next(found.record for found in (*self.records, *self.beyond) if told_by(*found).seq >= seq)
        at = here.segment, here.start
        self.damage = at if self.damage is None else min(at, self.damage)
        self.beyond = [*records, *self.beyond]
        self.records = [found for found in self.records if found.record.seq < seq]
        self.cut_seq = seq


def told_by(record: Record, meta: dict[str, Any]) -> Told:
    if "moved" in meta:
        seq, *place = meta["moved"]
        return Told(seq, record, meta["meta"], Place(*place) if place else None, "over" in meta)
    return Told(record.seq, record, meta, record.place)


def told_by_found(found: Found) -> Told:
    return told_by(found.record, found.meta)


def read_journal(disk: Disk, identity: Identity | None) -> Journal:
    """Raises StartError for a journal of somebody else's, or of a newer version. `identity` None: of anybody."""
    journal = Journal()
    numbers = disk.numbers()
    journal.last_segment = max(numbers, default=0)
    end: tuple[int, int] | None = None
    bad = False
    for number in numbers:
        read = reader(disk, number)
        header = record_at(read, 0, segment=number)
        if header is None or "format" not in header.meta:
            if _held_records(read, number, disk.size(number)):
                _damaged(journal, disk, numbers, (number, 0))
                return journal
            continue  # it was being made, or was given up before anything was in it
        _check(header.meta, identity, name_of(number))
        first = header.record.seq
        journal.proven_seq = max(journal.proven_seq, header.record.durable_seq)
        if end is None:
            journal.salt, journal.cut_seq = header.meta["salt"], first
        elif first > journal.cut_seq:
            _damaged(journal, disk, numbers, end)
            return journal
        journal.records = [found for found in journal.records if found.record.seq < first]
        journal.sizes[number] = disk.size(number)
        at = header.record.stop
        for found in records_from(read, at, segment=number, salt=journal.salt, seq=first):
            journal.records.append(found)
            journal.proven_seq = max(journal.proven_seq, found.record.durable_seq)
            at = found.record.stop
        journal.cut_seq = journal.records[-1].record.seq + 1 if at > header.record.stop else first
        end = number, at
        bad = journal.sizes[number] < header.meta["bytes"] or not is_blank(read, at)
    if end is not None and bad:
        _ended_badly(journal, disk, end)
    if journal.damage is None:
        _verify_tail(journal, disk)
    return journal


def _held_records(read: ReadAt, number: int, size: int) -> bool:
    """Whether a segment without a header was written all the same. One that is being made has its size for sure before
    the first byte of the header: so what is no longer than a header was cut."""
    if size < CUT_MAX_BYTES and not is_blank(read, 0):
        return True
    return any(True for _ in records_beyond(read, 0, segment=number, salt=None))


def _check(meta: dict[str, Any], identity: Identity | None, name: str) -> None:
    if meta["format"] > FORMAT:
        raise StartError(
            f"the write-back journal ({name}) is of a newer s3mount: format {meta['format']}, this one knows {FORMAT}"
        )
    if identity is None:
        return
    theirs = Identity(meta["endpoint"], meta["bucket"], meta["prefix"], meta["uid"])
    if theirs.uid != identity.uid:
        raise StartError(f"the write-back journal ({name}) belongs to user {theirs.uid}: only that user may mount it")
    if theirs != identity:
        whose = f"s3://{theirs.bucket}/{theirs.prefix} at {theirs.endpoint}"
        raise StartError(f"the write-back journal ({name}) is of another bucket: {whose}")


def _ended_badly(journal: Journal, disk: Disk, end: tuple[int, int]) -> None:
    """The last segment was cut, or holds what is no record."""
    number, at = end
    read = reader(disk, number)
    header = record_at(read, 0, segment=number)
    assert header is not None
    beyond = list(records_beyond(read, at, segment=number, salt=journal.salt))
    cut = journal.sizes[number] < header.meta["bytes"]
    if cut or any(found.record.durable_seq >= journal.cut_seq for found in beyond):
        journal.damage = end
        journal.beyond = beyond
    else:
        journal.torn = end


def _verify_tail(journal: Journal, disk: Disk) -> None:
    """Of what nobody says that it was durable, the bodies may be missing."""
    for index, found in enumerate(journal.records):
        record = found.record
        if record.seq <= journal.proven_seq or record.place is None:
            continue
        if not body_is_good(reader(disk, record.segment), record.place):
            journal.torn = record.segment, record.start
            journal.cut_seq = record.seq
            del journal.records[index:]
            return


def _damaged(journal: Journal, disk: Disk, numbers: list[int], at: tuple[int, int]) -> None:
    journal.damage = at
    for number in (number for number in numbers if number >= at[0]):
        journal.sizes[number] = disk.size(number)
        start = at[1] if number == at[0] else 0
        beyond = records_beyond(reader(disk, number), start, segment=number, salt=journal.salt or None)
        journal.beyond += (found for found in beyond if "format" not in found.meta)
    if not journal.salt and journal.beyond:  # the first segment's header: which seq it began with can be seen only here
        journal.cut_seq = journal.beyond[0].record.seq


def keys_of(meta: dict[str, Any]) -> Iterator[str]:
    """The keys that an operation touches."""
    for name in ("put", "delete"):
        if name in meta:
            yield meta[name]
    for name in ("rename", "copy"):
        if name in meta:
            yield from (meta[name] if isinstance(meta[name], list) else [meta[name]])
