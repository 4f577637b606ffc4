"""Who still needs what: places in the journal, records of it, and versions in the bucket.

Knows no order and no rule of joining. A place is given back once no operation has bytes of it; a record is over once no
operation was made of it and its body is given back. Versions that are named alike are told together where they are.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from s3mount.writeback.operations import Home, Operation, Place
from s3mount.writeback.slices import homes

Version = tuple[str, str]
"""Key and etag."""


class Holdings:
    def __init__(
        self, *, on_free: Callable[[Iterable[Place]], None], on_over: Callable[[int], None], moved_max: int
    ) -> None:
        self._on_free = on_free
        self._on_over = on_over
        # The mutable state: how many hold each place and each record, which record has which body, which records end
        # another one that is still held, how many operations have each home, by where it is; where versions went, for
        # records written before; bytes of all places.
        self._places: dict[Place, int] = {}
        self._records: dict[int, int] = {}
        self._bodies: dict[Place, int] = {}
        self._ends: dict[int, list[int]] = {}
        self._homes: dict[Version, dict[Home, int]] = {}
        self._moved: OrderedDict[Version, Version] = OrderedDict()
        self._moved_max = moved_max
        self.bytes = 0

    def arrived(self, seq: int, place: Place | None) -> None:
        """A record is there; it is held until `settled`."""
        self._hold_record(seq)
        if place is not None:
            self._bodies[place] = seq
            self._hold_record(seq)
            self._hold_place(place)

    def settled(self, seq: int, place: Place | None) -> None:
        if place is not None:
            self._free([place])
        self._let_record(seq)

    def ends(self, seq: int, others: Iterable[int]) -> None:
        """The record leaves nothing of what these have made. It is held as long as one of them is, be it for a body
        that something else has, too: a start that met that one alone would make it again."""
        for other in others:
            if other in self._records:
                self._hold_record(seq)
                self._ends.setdefault(other, []).append(seq)

    def hold(self, operation: Operation) -> None:
        for piece in operation.content:
            if piece.place is not None:
                self._hold_place(piece.place)
        for home in homes(operation.content):
            here = self._homes.setdefault((home.key, home.etag), {})
            here[home] = here.get(home, 0) + 1
        for seq in operation.seqs:
            self._hold_record(seq)

    def release(self, operation: Operation) -> None:
        for home in homes(operation.content):
            version = home.key, home.etag
            here = self._homes[version]
            here[home] -= 1
            if not here[home]:
                del here[home]
                if not here:
                    del self._homes[version]
        self._free([piece.place for piece in operation.content if piece.place is not None])
        for seq in operation.seqs:
            self._let_record(seq)

    def sole(self, operation: Operation) -> list[int]:
        """The records that are over as soon as nothing holds them for this operation."""
        places = Counter(piece.place for piece in operation.content if piece.place is not None)
        freed = {self._bodies.get(place) for place, count in places.items() if self._places[place] == count}
        return [seq for seq in operation.seqs if self._records[seq] == (2 if seq in freed else 1)]

    def home(self, key: str, etag: str, size: int) -> Home:
        """Where that version is now, for an operation that will hold it."""
        seen = set[Version]()
        while (key, etag) not in self._homes and (key, etag) in self._moved and (key, etag) not in seen:
            seen.add((key, etag))
            key, etag = self._moved[key, etag]
        here = self._homes.get((key, etag))
        return next(iter(here)) if here else Home(key, etag, size)

    def moved(self, old: Version, new: Version) -> None:
        """What was named `old` is `new` from now on."""
        if old == new:
            return
        self._moved.pop(new, None)
        self._moved[old] = new
        self._moved.move_to_end(old)
        if len(self._moved) > self._moved_max:
            self._moved.popitem(last=False)
        for home, count in self._homes.pop(old, {}).items():
            home.key, home.etag = new
            self._homes.setdefault(new, {})[home] = count

    @property
    def idle(self) -> bool:
        """Whether nothing is held at all."""
        return not (self._places or self._records or self._bodies or self._homes or self.bytes)

    def _hold_place(self, place: Place) -> None:
        count = self._places.get(place, 0)
        self._places[place] = count + 1
        if not count:
            self.bytes += place.size

    def _free(self, places: list[Place]) -> None:
        free = []
        for place in places:
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]
                self.bytes -= place.size
                free.append(place)
        if free:
            self._on_free(free)
        for place in free:
            seq = self._bodies.pop(place, None)
            if seq is not None:
                self._let_record(seq)

    def _hold_record(self, seq: int) -> None:
        self._records[seq] = self._records.get(seq, 0) + 1

    def _let_record(self, seq: int) -> None:
        self._records[seq] -= 1
        if not self._records[seq]:
            del self._records[seq]
            self._on_over(seq)
            for end in self._ends.pop(seq, ()):
                self._let_record(end)
