"""A journal looked at from outside: what waits in it, and its bytes. Reads only; no bucket, no daemon, no event loop.

A daemon may be at work on it: then this is what was there a moment ago.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from s3mount.errors import Lost, StartError
from s3mount.writeback.operations import Operation, Place
from s3mount.writeback.pending import Pending
from s3mount.writeback.reading import Journal, keys_of, read_journal, told_by_found
from s3mount.writeback.records import Identity, body_is_good, record_at
from s3mount.writeback.replay import Attempt
from s3mount.writeback.segments import Directory, Disk, name_of, reader

TRIES = 5
"""While a daemon deletes segments."""
KEPT = "damaged-*"
"""What starts have kept aside, beside the segments."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """What was found. `damage`: where it cannot be believed any more, and the keys that are named there."""

    operations: tuple[Operation, ...]
    damage: tuple[str, int] | None
    keys: tuple[str, ...]
    kept: tuple[Path, ...]
    _disk: Disk
    _where: Callable[[Place], Place | None]
    _good: set[Place] = field(default_factory=set)

    def read(self, place: Place, offset: int, size: int) -> bytes:
        """A part of a body. Raises Lost when the body is damaged."""
        where = self._where(place)
        read = reader(self._disk, place.segment if where is None else where.segment)
        if place not in self._good:
            if where is None or not body_is_good(read, where):
                raise Lost("its bytes in the journal are damaged")
            self._good.add(place)
        assert where is not None
        return read(where.offset + offset, size)


def look(directory: Path) -> Shelf:
    """Raises StartError when the journal is not there, or of a newer version."""
    if not directory.is_dir():
        raise StartError(f"there is no write-back journal in {directory}")
    for left in reversed(range(TRIES)):
        try:
            return _looked(directory)
        except OSError as error:
            if not left:
                raise StartError(f"the write-back journal in {directory} cannot be read: {error}") from error
    raise AssertionError


def waiting(directory: Path) -> int:
    """How many changes of a journal are not in the bucket: 0 for none, and where none is. What cannot be read counts,
    too. For a start without --write-back."""
    try:
        shelf = look(directory)
    except StartError:
        return int(directory.exists())
    return len(shelf.operations) + (shelf.damage is not None)


def identity(directory: Path) -> Identity | None:
    """Whose journal it is, by the first header that can be read."""
    disk = Directory(directory)
    for number in disk.numbers():
        header = record_at(reader(disk, number), 0, segment=number)
        if header is not None and "format" in header.meta:
            meta = header.meta
            return Identity(meta["endpoint"], meta["bucket"], meta["prefix"], meta["uid"])
    return None


def _looked(directory: Path) -> Shelf:
    disk = Directory(directory)
    journal = read_journal(disk, None)
    attempt = Attempt(journal, disk, Identity("", "", "", 0), _table, 1)
    return Shelf(
        tuple(attempt.pending.operations),
        None if journal.damage is None else (name_of(journal.damage[0]), journal.damage[1]),
        _damaged_keys(journal),
        tuple(sorted(directory.glob(KEPT))),
        disk,
        attempt.where,
    )


def _table(on_free: Callable[[Iterable[Place]], None], on_over: Callable[[int], None]) -> Pending:
    return Pending(clock=lambda: 0.0, delay_seconds=0.0, on_free=on_free, on_over=on_over)


def _damaged_keys(journal: Journal) -> tuple[str, ...]:
    beyond = (told for told in map(told_by_found, journal.beyond) if told.seq >= journal.cut_seq)
    return tuple(sorted({key for told in beyond for key in keys_of(told.meta)}))
