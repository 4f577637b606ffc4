"""The journal of a `--write-back` mount whose daemon is dead: what it holds, and ways to damage it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3mount.writeback.reading import keys_of
from s3mount.writeback.records import ReadAt, Record, record_at, records_beyond

PICKS = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and the file that holds it."""

    path: Path
    record: Record
    meta: dict[str, Any]

    @property
    def keys(self) -> set[str]:
        """Of the operation that it is, be it one that was moved here."""
        return set(keys_of(self.meta.get("meta", self.meta)))


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done: `keys` are those of operations that begin there or later; `provable`: a record behind it says
    that what was there had been made durable, or the file is shorter than its header says."""

    what: str
    path: Path
    offset: int
    keys: frozenset[str]
    provable: bool

    def __str__(self) -> str:
        return f"{self.what} {self.path.name} at {self.offset}"


def entries(journal: Path) -> list[Entry]:
    """All records, in order."""
    return [entry for path in sorted(journal.glob("*.log")) for entry in _entries_of(path)]


def listing(journal: Path) -> str:
    """For people: one line a record."""
    return "".join(
        f"{e.path.name} {e.record.start} {e.record.seq} {e.record.durable_seq} {e.meta}\n" for e in entries(journal)
    )


def _entries_of(path: Path) -> Iterator[Entry]:
    number, read = int(path.stem), _reader(path)
    header = record_at(read, 0, segment=number)
    if header is None:
        return
    yield Entry(path, *header)
    for found in records_beyond(read, header.record.stop, segment=number, salt=header.meta["salt"]):
        yield Entry(path, *found)


def _reader(path: Path) -> ReadAt:
    body = path.read_bytes()
    return lambda offset, size: body[offset : offset + size]


def uploads(journal: Path) -> set[tuple[str, str]]:
    """The multipart uploads of which it knows: key and id."""
    known = {entry.record.seq: entry.keys for entry in entries(journal)}
    begun = [entry.meta for entry in entries(journal) if entry.meta.get("upload")]
    return {(key, meta["upload"]) for meta in begun for key in known.get(meta["begun"], ())}


def damage(journal: Path, draws: random.Random) -> Damage | None:
    """Flip a bit of one byte that is not zero, or cut a file, anywhere in what was written; None when nothing was."""
    found = entries(journal)
    if not found:
        return None
    what = draws.choice(("flipped", "flipped", "cut"))
    path = draws.choice(sorted({entry.path for entry in found}))
    written = max(entry.record.stop for entry in found if entry.path == path)
    body = bytearray(path.read_bytes())
    picks = [draws.randrange(written) for _ in range(PICKS)]
    # Of what has no body any more only the head is left: that is drawn as often as a body is.
    heads = [draws.randrange(entry.record.start, entry.record.body_start) for entry in found if entry.path == path]
    offset = draws.choice([draws.choice(heads), next((pick for pick in picks if body[pick]), heads[0])])
    if what == "cut":
        with path.open("r+b") as file:
            file.truncate(offset)
    else:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([body[offset] ^ 1 << draws.randrange(8)]))
    at = (path, offset)
    keys = {key for entry in found if (entry.path, entry.record.stop) > at for key in entry.keys}
    hit = next((e for e in found if e.path == path and e.record.start <= offset < e.record.body_start), None)
    later = [] if hit is None else [e for e in found if (e.path, e.record.start) > (path, hit.record.start)]
    provable = what == "cut" or (hit is not None and any(e.record.durable_seq >= hit.record.seq for e in later))
    return Damage(what, path, offset, frozenset(keys), provable)
