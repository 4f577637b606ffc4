"""What of the journal is still needed, and by what: records, bodies, segments. Synchronous; pure.

A record of an operation is held until `over`, a body until `free`, a fact about an operation as long as that one. What
is over is let go when everything that was appended before is durable, for what made it over is among that. And it is
held on while an operation is live that came after it and before its end: that one may speak of the version which it
made. What came to be over with it is held as long, for one of these is its end: a deletion that left nothing of a put.
A segment of which nothing is held can go, the oldest first: so a later fact never goes before what it is about.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from s3mount.writeback.operations import Place
from s3mount.writeback.records import HEAD, Record

Sort = Literal["operation", "bytes", "fact"]

FACTS = ("begun", "done", "parted", "parked", "unparked", "dropped")
ENDS = frozenset(("done", "parted", "dropped"))
OWN = frozenset(("void", "live", "mark", "format"))
"""What the journal says of itself."""
PUNCH_LEAST_BYTES = 256 * 1024
"""Smaller bodies go with their segment."""
SWEPT_LEAST = 256


def told_of(meta: Mapping[str, Any]) -> int | None:
    """The record of the operation that a fact is about; None for what is no fact. Of the two that one record may have
    made, the second goes by its negative seq."""
    return next((abs(meta[name]) for name in FACTS if name in meta), None)


def sort_of(meta: Mapping[str, Any]) -> Sort:
    if "bytes" in meta:
        return "bytes"
    return "operation" if told_of(meta) is None else "fact"


class Hole(NamedTuple):
    """Room in a segment that may be given back when a start does not look at the body of this seq any more."""

    seq: int
    segment: int
    offset: int
    size: int


class Held:
    """One record that is needed. `place` is its body's name for good: where that lay first."""

    __slots__ = ("freed", "over", "place", "record", "seq", "since", "sort", "until")

    def __init__(self, seq: int, record: Record, place: Place | None, sort: Sort) -> None:
        self.seq = seq
        self.record = record
        self.place = place
        self.sort: Sort = sort
        self.over = False
        self.freed = record.place is None
        self.until = 0
        """The last seq there was when it came to be over."""
        self.since = seq
        """The first seq of those that came to be over with it."""

    @property
    def size(self) -> int:
        return HEAD.size + self.record.meta_size + (0 if self.freed else self.record.body_size)


class Holdings:
    """See the module."""

    def __init__(self) -> None:
        # The mutable state: what is held, by seq; of it the operations that are live, ascending; those that are over
        # and held for later ones; facts by the operation they are about; bodies by their first place; what is held in
        # each segment, and its bytes on the disk; what waits to be let go until a seq is durable; rooms to give
        # back; how many are held for later ones before it is looked whether they still need be.
        self._held: dict[int, Held] = {}
        self._live: dict[int, None] = {}
        self._kept: dict[int, Held] = {}
        self._facts: dict[int, list[int]] = {}
        self._bodies: dict[tuple[int, int], Held] = {}
        self._segments: dict[int, dict[int, Held]] = {}
        self._bytes: dict[int, int] = {}
        self._waiting: deque[tuple[int, int | None, Place | None]] = deque()
        self._sweep_at = 0
        self._holes: list[Hole] = []
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<Holdings {len(self._live)} live, {len(self._held)} held in {len(self._segments)} segments>"

    def __contains__(self, seq: object) -> bool:
        return seq in self._held

    @property
    def disk_bytes(self) -> int:
        return sum(self._bytes.values())

    @property
    def segments(self) -> list[int]:
        """Ascending."""
        return list(self._segments)

    @property
    def live(self) -> int:
        return len(self._live)

    def segment(self, number: int, size: int) -> None:
        """A segment has begun, after all others."""
        self._sweep_at = 0
        self._segments.setdefault(number, {})
        self._bytes[number] = size

    def add(self, seq: int, record: Record, meta: Mapping[str, Any], place: Place | None) -> None:
        """A record was written. `place`: what its body is known by for good."""
        about = told_of(meta)
        if about is not None and about not in self._held:
            return
        held = Held(seq, record, place, sort_of(meta))
        self._held[seq] = held
        if about is not None:
            self._facts.setdefault(about, []).append(seq)
        elif held.sort == "operation":
            self._live[seq] = None
        if place is not None and not held.freed:
            self._bodies[place.segment, place.offset] = held
        self._segments[record.segment][seq] = held
        self.held_bytes += held.size

    def move(self, seq: int, record: Record) -> None:
        """A record lies elsewhere now, if it is still needed."""
        held = self._held.get(seq)
        if held is not None:
            self.held_bytes -= held.size
            self._segments[held.record.segment].pop(seq)
            held.record = record
            self._segments[record.segment][seq] = held
            self.held_bytes += held.size

    def lose(self, seq: int) -> None:
        """A record was written and did not become durable."""
        held = self._held.get(seq)
        if held is not None:
            self._live.pop(seq, None)
            self._remove(held)
            if held.place is not None:
                self._bodies.pop((held.place.segment, held.place.offset), None)

    def where(self, place: Place) -> Place | None:
        """Where a body lies now; None when it was given up."""
        held = self._bodies.get((place.segment, place.offset))
        return None if held is None else held.record.place

    def over(self, seq: int, *, last_seq: int) -> None:
        self._waiting.append((last_seq, seq, None))

    def free(self, places: Iterable[Place], *, last_seq: int) -> None:
        self._waiting.extend((last_seq, None, place) for place in places)

    @property
    def waits(self) -> bool:
        """Whether something is to be let go."""
        return bool(self._waiting)

    def let_go(self, *, durable_seq: int) -> None:
        """What waited for this seq."""
        ended: list[Held] = []
        freed: list[Place] = []
        first: dict[int, int] = {}
        while self._waiting and self._waiting[0][0] <= durable_seq:
            last_seq, seq, place = self._waiting.popleft()
            if place is not None:
                freed.append(place)
            held = None if seq is None else self._held.get(seq)
            if held is not None and not held.over:
                held.over, held.until = True, last_seq
                self._live.pop(held.seq, None)
                first[last_seq] = min(held.seq, first.get(last_seq, held.seq))
                ended.append(held)
        for held in ended:
            held.since = first[held.until]
            self._over(held)
        for place in freed:
            self._free(place)

    def take_holes(self, *, proven_seq: int) -> list[Hole]:
        """Those that can be given back now."""
        taken = [hole for hole in self._holes if hole.seq <= proven_seq]
        if taken:
            self._holes = [hole for hole in self._holes if hole.seq > proven_seq]
        return taken

    def live_ranges(self) -> list[list[int]]:
        """The operations that a replay has to know, as [first, last]; all others of so far are over."""
        ranges: list[list[int]] = []
        for seq in sorted(seq for seq, held in self._held.items() if held.sort != "fact" and self._is_told(held)):
            if ranges and ranges[-1][1] == seq - 1:
                ranges[-1][1] = seq
            else:
                ranges.append([seq, seq])
        return ranges

    def releasable(self, *, current: int) -> list[int]:
        """The segments that can go now, the oldest first."""
        if len(self._kept) > self._sweep_at or not current:
            self._sweep()
        found = []
        for number, held in self._segments.items():
            if number == current or held:
                break
            found.append(number)
        return found

    def forget(self, number: int) -> None:
        """The segment is gone."""
        assert not self._segments[number]
        del self._segments[number]
        del self._bytes[number]

    def in_segment(self, number: int) -> list[Held]:
        return list(self._segments[number].values())

    def places(self) -> list[Place]:
        """Of all bodies that are not freed."""
        return [held.place for held in self._bodies.values() if held.place is not None]

    def bodies(self) -> list[Held]:
        """Records whose bodies are needed."""
        return list(self._bodies.values())

    def all(self) -> list[Held]:
        return list(self._held.values())

    # inside

    def _is_told(self, held: Held) -> bool:
        return not held.over or held.seq in self._kept

    def _over(self, held: Held) -> None:
        if self._live and next(reversed(self._live)) > held.since:
            self._kept[held.seq] = held
        else:
            self._drop(held)

    def _free(self, place: Place) -> None:
        held = self._bodies.pop((place.segment, place.offset), None)
        if held is None:
            return
        self.held_bytes -= held.size
        held.freed = True
        self.held_bytes += held.size
        record = held.record
        if record.body_size >= PUNCH_LEAST_BYTES:
            self._holes.append(Hole(record.seq, record.segment, record.body_start, record.body_size))
            self._bytes[record.segment] -= record.body_size
        if held.sort == "bytes":
            held.over = True
        if not self._is_told(held):
            self._drop(held)

    def _sweep(self) -> None:
        """Let go what was held for later operations that are over now, too."""
        live = list(self._live)
        for seq, held in list(self._kept.items()):
            after = bisect_right(live, held.since)
            if after == len(live) or live[after] > held.until:
                del self._kept[seq]
                self._drop(held)
        self._sweep_at = 2 * len(self._kept) + SWEPT_LEAST

    def _drop(self, held: Held) -> None:
        """Its meta is of no use any more; its body may be."""
        for fact in self._facts.pop(held.seq, ()):
            if fact in self._held:
                self._remove(self._held[fact])
        if held.freed:
            self._remove(held)

    def _remove(self, held: Held) -> None:
        if self._held.pop(held.seq, None) is not None:
            self._segments[held.record.segment].pop(held.seq)
            self.held_bytes -= held.size
