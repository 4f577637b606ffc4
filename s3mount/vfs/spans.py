"""`Span`: what one LIST page told of the slots `(start, stop]` of a directory (see `keys`); `Step`: where the next page
begins.

Synchronous; knows neither requests nor inodes nor lifetimes. The state of a span is its entries, which own changes
enter, and its `holes`: names of its range that it cannot tell of. Spans of walks have none.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import NamedTuple

from s3mount.store.base import Listed
from s3mount.vfs.keys import BEGIN, DIRECTORY, TWIN_SUFFIX, Entry, slot


class Step(NamedTuple):
    """Where a walk goes on: after which slot, with which token of the store, and what the page before left open; None:
    nobody has read what comes before."""

    start: str
    token: str | None
    carry: dict[str, Entry] | None


FIRST_STEP = Step(BEGIN, None, {})


class Lease:
    """How long what a walk fetched is believed: it moves on with the walk. `served`: how many directories were read
    from it since that was last asked."""

    __slots__ = ("served", "until", "used")

    def __init__(self) -> None:
        self.used = 0.0
        self.until = 0.0
        self.served = 0

    def use(self, now: float, seconds: float) -> None:
        self.used = now
        self.until = now + seconds


class Span:
    """The entries with slots in `(start, stop]`, as a LIST that was sent at `fetched` tells them; `lease` when it was
    fetched for a walk; `lent` is that of a walk which goes by these entries, and is not prolonged by who looks at
    them."""

    __slots__ = ("_order", "carry", "entries", "fetched", "hits", "holes", "lease", "lent", "start", "stop", "token")

    def __init__(
        self,
        start: str,
        stop: str,
        entries: dict[str, Entry],
        *,
        fetched: float,
        token: str | None = None,
        carry: dict[str, Entry] | None = None,
        holes: frozenset[str] = frozenset(),
        lease: Lease | None = None,
    ) -> None:
        self.start = start
        self.stop = stop
        self.entries = entries
        self.fetched = fetched
        self.token = token
        self.carry: dict[str, Entry] = {} if carry is None else carry
        self.holes = holes
        self.lease = lease
        self.lent: Lease | None = None
        self.hits = 0
        self._order: list[str] | None = None

    def __repr__(self) -> str:
        return f"<Span ({self.start!r}, {self.stop[:20]!r}] {len(self.entries)} names>"

    @property
    def next(self) -> Step:
        return Step(self.stop, self.token, self.carry)

    def serve(self, now: float, seconds: float) -> None:
        """A walk was told something of this span: it goes on, and without a request."""
        if self.lease is not None:
            self.lease.use(now, seconds)
            if not self.hits:
                self.lease.served += 1
            self.hits += 1

    def tells_of(self, name: str, position: str) -> bool:
        if not self.start < position <= self.stop:
            return False
        # A window began behind files that it has not seen, and behind those that stand under a suffix now.
        return not self.holes or (name not in self.holes and not name.endswith(TWIN_SUFFIX))

    def take(self, name: str, position: str, entry: Entry | None) -> int:
        """Take over an own change of a name with this slot; returns by how many names the span grew."""
        if position <= self.start:
            return 0
        if position <= self.stop:
            return self.put(name, entry)
        # Who goes on from here is not told again what the store has passed, in whichever order.
        if isinstance(entry, Listed) or entry is DIRECTORY:
            if name <= self.stop or position <= slot(self.stop):
                self.carry[name] = entry
        else:
            self.carry.pop(name, None)
        return 0

    def put(self, name: str, entry: Entry | None) -> int:
        if name in self.holes:
            self.holes -= {name}
        before = len(self.entries)
        if entry is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = entry
        grown = len(self.entries) - before
        if grown and self._order is not None:
            # Sorted anew it would cost each change all names: 100,000 of a directory that is filled here.
            if entry is None:
                del self._order[bisect_left(self._order, slot(name), key=slot)]
            else:
                insort(self._order, name, key=slot)
        return grown

    def after(self, position: str) -> list[str]:
        """The names whose slots follow `position`, in their order."""
        order, first = self._ordered(position)
        return order[first:]

    def following(self, position: str) -> Iterator[str]:
        """The same one by one, for who wants a few; nothing may change meanwhile."""
        order, first = self._ordered(position)
        return map(order.__getitem__, range(first, len(order)))

    def _ordered(self, position: str) -> tuple[list[str], int]:
        if self._order is None:
            self._order = sorted(self.entries, key=slot)
        return self._order, bisect_right(self._order, position, key=slot)
