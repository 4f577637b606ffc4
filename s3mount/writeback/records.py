"""Records of the write-back journal: how one is framed, and how a segment is read. Pure.

A record is a head of fixed size, a meta in JSON, and a body. The head has its seq, which grows by one from record to
record; `durable_seq`, the last one that was fsync'd when it was written; the sizes; the CRC-32 of the body; and one of
head and meta. So a record that is bad is known to be damage when one after it was written when it was durable already;
else it may be what a power cut has torn, and nobody was told that it was written. Records carry the number of their
segment, and a salt that is drawn for each journal: bytes of a body never pass for a record of the journal.

Each segment begins with a record of its own kind, the header: whose journal it is, and by its seq which record comes
next. What an earlier segment has of that seq or later is void: writing it had failed.
"""

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from zlib_ng import zlib_ng

from s3mount.store.base import Body
from s3mount.writeback.operations import Place

FORMAT = 1
MAGIC = b"s3mJ"
HEAD = struct.Struct("<4sIQQQQIII")
META_MAX_BYTES = 16 * 1024 * 1024
"""A longer one is not believed: a record names at most 10,000 pieces, and the operations of 20,000 files."""
WINDOW_BYTES = 256 * 1024

ReadAt = Callable[[int, int], bytes]
"""Bytes of a segment by offset and size; fewer at its end, and where the disk does not give them."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose journal it is."""

    endpoint: str
    bucket: str
    prefix: str
    uid: int


class Record(NamedTuple):
    """One record as it lies in its segment, from `start` on."""

    seq: int
    durable_seq: int
    segment: int
    start: int
    meta_size: int
    body_size: int
    body_crc: int

    @property
    def body_start(self) -> int:
        return self.start + HEAD.size + self.meta_size

    @property
    def stop(self) -> int:
        return self.body_start + self.body_size

    @property
    def place(self) -> Place | None:
        return Place(self.segment, self.body_start, self.body_size, self.body_crc) if self.body_size else None


class Found(NamedTuple):
    """A record whose head and meta are good. Its body was not looked at."""

    record: Record
    meta: dict[str, Any]


def meta_bytes(meta: Mapping[str, Any]) -> bytes:
    text = json.dumps(meta, separators=(",", ":")).encode()
    assert len(text) <= META_MAX_BYTES
    return text


def crc_of(body: Body) -> int:
    crc = 0
    for piece in body:
        crc = zlib_ng.crc32(piece, crc)
    return crc


def size_of(body: Body) -> int:
    return sum(memoryview(piece).nbytes for piece in body)


def head_bytes(record: Record, meta: bytes, *, salt: int) -> bytes:
    """What stands before the meta."""
    assert len(meta) == record.meta_size
    head = HEAD.pack(
        MAGIC,
        record.segment,
        record.seq,
        record.durable_seq,
        salt,
        record.body_size,
        record.meta_size,
        record.body_crc,
        0,
    )[:-_CRC_BYTES]
    return head + zlib_ng.crc32(meta, zlib_ng.crc32(head)).to_bytes(_CRC_BYTES, "little")


_CRC_BYTES = 4


def header_meta(identity: Identity, *, salt: int, size: int) -> dict[str, Any]:
    """The meta of a segment's first record. `size`: of the file, which is never cut."""
    return {"format": FORMAT, **asdict(identity), "salt": salt, "bytes": size}


def record_at(read: ReadAt, start: int, *, segment: int, salt: int | None = None) -> Found | None:
    """The record that begins at `start`; None when there is none that is whole, but for its body."""
    window = read(start, HEAD.size)
    if len(window) < HEAD.size:
        return None
    magic, number, seq, durable_seq, its_salt, body_size, meta_size, body_crc, crc = HEAD.unpack(window)
    if magic != MAGIC or number != segment or salt not in (None, its_salt) or meta_size > META_MAX_BYTES:
        return None
    meta = read(start + HEAD.size, meta_size)
    if len(meta) < meta_size or zlib_ng.crc32(meta, zlib_ng.crc32(window[:-_CRC_BYTES])) != crc:
        return None
    return Found(Record(seq, durable_seq, segment, start, meta_size, body_size, body_crc), json.loads(meta))


def records_from(read: ReadAt, start: int, *, segment: int, salt: int, seq: int) -> Iterator[Found]:
    """The records that follow each other from `start` on, the first of which is `seq`, up to the first that is none."""
    while (found := record_at(read, start, segment=segment, salt=salt)) is not None and found.record.seq == seq:
        yield found
        start, seq = found.record.stop, seq + 1


def records_beyond(read: ReadAt, start: int, *, segment: int, salt: int | None) -> Iterator[Found]:
    """All that can still be read behind a place that cannot, wherever it begins."""
    while window := read(start, WINDOW_BYTES):
        at = window.find(MAGIC)
        if at < 0:
            start += max(1, len(window) - len(MAGIC) + 1) if len(window) == WINDOW_BYTES else len(window)
            continue
        found = record_at(read, start + at, segment=segment, salt=salt)
        if found is None:
            start += at + 1
        else:
            yield found
            start = found.record.stop


def body_is_good(read: ReadAt, place: Place) -> bool:
    """Whether the bytes of a place have its CRC."""
    crc = 0
    at, stop = place.offset, place.offset + place.size
    while at < stop:
        piece = read(at, min(stop - at, 4 * WINDOW_BYTES))
        if not piece:
            return False
        crc = zlib_ng.crc32(piece, crc)
        at += len(piece)
    return crc == place.crc


def is_blank(read: ReadAt, start: int, stop: int = sys.maxsize) -> bool:
    """Whether there are only zeros between, or up to the end."""
    while start < stop and (window := read(start, min(4 * WINDOW_BYTES, stop - start))):
        if window.count(0) != len(window):
            return False
        start += len(window)
    return True
