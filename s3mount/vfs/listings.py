"""All directories' spans together: how many names they hold, which go first, how long they are believed.

Synchronous; knows no directory, only the lists that hold spans. Spans are forgotten least recently used first, by names
held in all.
"""

from collections import OrderedDict
from collections.abc import Callable

import trio

from s3mount.vfs.shelf import Shelf
from s3mount.vfs.spans import Span

REMOVED_MAX = 10_000
AWAY_SECONDS = 1.0
"""While the store is away what is known goes on being believed, each time for so long: the kernel, too, asks again."""


class Listings:
    """All directories' spans, the limit on the names they hold together, and the prefixes removed here.

    The state: `_used` (spans, least recently used first), `names`, and `removed`: prefixes whose directories this
    mount removed, with the time when they were last known to be without keys; some stores go on listing them.
    `shelf` has the spans of directories that have no inode yet; they count as all others. And counts: lookups and pages
    of readdir that were known, and that the store was asked for. `away`: whether nothing newer can be had than what is
    known.
    """

    def __init__(
        self,
        *,
        names_max: int,
        ttl_seconds: float,
        negative_ttl_seconds: float,
        walk_ttl_seconds: float,
        away: Callable[[], bool] = lambda: False,
    ) -> None:
        self.names_max = names_max
        self.away = away
        self.ttl_seconds = ttl_seconds
        self.negative_ttl_seconds = min(negative_ttl_seconds, ttl_seconds)
        self.walk_ttl_seconds = walk_ttl_seconds
        self.names = 0
        self.names_known = self.names_asked = self.pages_known = self.pages_asked = 0
        self.removed: OrderedDict[str, float] = OrderedDict()
        self._used: OrderedDict[int, tuple[list[Span], Span]] = OrderedDict()
        self.shelf = Shelf(self.drop)

    def prolonged(self, until: float) -> float:
        """Up to when something is believed that would be until then."""
        return max(until, trio.current_time() + AWAY_SECONDS) if self.away() else until

    def leased_until(self, span: Span) -> float:
        """Up to when a span is believed because a walk fetched it, or goes by it: while that walk goes on, and no
        longer than any."""
        lease = span.lease or span.lent
        return 0.0 if lease is None else min(lease.until, span.fetched + self.walk_ttl_seconds)

    def touch(self, span: Span) -> None:
        self._used.move_to_end(id(span))

    def added(self, spans: list[Span], span: Span) -> None:
        self._used[id(span)] = (spans, span)
        # a span counts for itself too, or a walk over empty directories would have no limit
        self.grew(len(span.entries) + 1)

    def grew(self, names: int) -> None:
        self.names += names
        while self.names > self.names_max and len(self._used) > 1:
            self.drop(next(iter(self._used.values()))[1])

    def drop(self, span: Span) -> None:
        """Forget the span, and take it out of the list that holds it."""
        spans, _ = self._used.pop(id(span), (None, None))
        if spans is not None:
            self.names -= len(span.entries) + 1
            spans.remove(span)

    def prefix_removed(self, prefix: str, now: float) -> None:
        self.removed[prefix] = now
        self.removed.move_to_end(prefix)
        if len(self.removed) > REMOVED_MAX:
            self.removed.popitem(last=False)

    def prefix_exists(self, prefix: str) -> None:
        self.removed.pop(prefix, None)
