"""Who walks a tree: recognised by the directories that are asked for below one directory.

Synchronous; knows prefixes, neither inodes nor requests. Three directories read below one is a walk, and so is one more
beside a tree that was walked; or so many looked into in the order of their names. A walk pays its way: each page takes
a credit, each directory that was read without a request of its own gives one, and so does, in part, one that was not,
so that a tree of small directories behind some large ones is noticed.
"""

from collections import OrderedDict

import trio

from s3mount.vfs.spans import Lease, Span
from s3mount.vfs.subtree import Cut

DIRECTORIES_READ = 3
DIRECTORIES_LOOKED_INTO = 8
TRAILS_MAX = 256
WALKS_MAX = 8
LEVELS_MAX = 32
CREDIT = 4.0
CREDIT_MAX = 16.0
CREDIT_OF_A_MISS = 0.25
USED_PART = 8
"""Once an eighth of a page was read, the next one is asked for."""


class Trail:
    """What was asked for below one directory: names of the directories read, how many were looked into in order."""

    __slots__ = ("at", "in_order", "last", "names", "walked")

    def __init__(self) -> None:
        self.restart(0.0)

    def restart(self, now: float) -> None:
        self.at = now
        self.names: set[str] = set()
        self.last = ""
        self.in_order = 0
        self.walked = False

    @property
    def is_walk(self) -> bool:
        return len(self.names) >= (DIRECTORIES_READ - 1 if self.walked else DIRECTORIES_READ)


class Walk:
    """A listing without a delimiter below `prefix`: it goes on with `token`, or begins before the first entry of the
    directory `began`. `cuts` are the directories its last page ended in, `whole` those it told to their end, of which
    `used` were read since."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.lease = Lease()
        self.lock = trio.Lock()
        self.credit = CREDIT
        self.begin(prefix)

    def begin(self, prefix: str) -> None:
        """Start anew, before the first entry of this directory."""
        self.began = prefix
        self.token: str | None = None
        self.cuts: dict[str, Cut] = {}
        self.whole: set[str] = set()
        self.used = 0

    def earn(self, served: float = 0.0) -> None:
        """Be credited with the directories that were read without a request, and so much besides."""
        self.credit = min(self.credit + self.lease.served + served, CREDIT_MAX)
        self.lease.served = 0

    def is_used(self, prefix: str) -> bool:
        """This directory was read: whether that is enough of those that the latest page told of to ask for the next."""
        if prefix not in self.whole:
            return False
        self.used += 1
        return self.used == 1 + len(self.whole) // USED_PART and self.token is not None


class Walks:
    """The walks of a mount. `root` is the mount's own prefix. `refused`: the store does not let us list without a
    delimiter, or in an order that tells where a directory ends."""

    def __init__(self, root: str, *, ttl_seconds: float, walk_ttl_seconds: float) -> None:
        self._root = root
        self._ttl_seconds = ttl_seconds
        self._walk_ttl_seconds = walk_ttl_seconds
        self._trails: OrderedDict[str, Trail] = OrderedDict()
        self._walks: list[Walk] = []
        self.refused = not ttl_seconds or not walk_ttl_seconds
        self.sweeping = False

    @property
    def under_way(self) -> int:
        """How many go on, or have not been over for long."""
        return len(self._walks)

    def of(self, span: Span) -> Walk | None:
        """The walk that fetched it, if that goes on."""
        if span.lease is None:
            return None
        return next((walk for walk in self._walks if walk.lease is span.lease), None)

    def read(self, prefix: str, now: float) -> Walk | None:
        """The directory must be listed from its beginning, or on: the walk that may tell of it."""
        for above, name in self._above(prefix):
            names = self._trail(above, now).names
            if len(names) < DIRECTORIES_READ:
                names.add(name)
        return self._walk(prefix, now)

    def looked_into(self, prefix: str, now: float) -> Walk | None:
        """A name in a directory is asked for of which nothing is known: the walk that may tell of it."""
        for above, name in self._above(prefix):
            trail = self._trail(above, now)
            if name != trail.last:
                trail.in_order = trail.in_order + 1 if name > trail.last else 1
                trail.last = name
        if any(self._trails[above].in_order >= DIRECTORIES_LOOKED_INTO for above, _ in self._above(prefix)):
            return self._walk(prefix, now)
        return None

    def _walk(self, prefix: str, now: float) -> Walk | None:
        if self.refused:
            return None
        above = [
            above
            for above, _ in self._above(prefix)
            if (trail := self._trails[above]).is_walk or trail.in_order >= DIRECTORIES_LOOKED_INTO
        ]
        self._walks = [walk for walk in self._walks if walk.lease.used + self._walk_ttl_seconds > now]
        walk = next((walk for walk in self._walks if prefix.startswith(walk.prefix) and prefix != walk.prefix), None)
        if above and (walk is None or len(above[-1]) < len(walk.prefix)):
            walk = self._begin(above[-1], now)
        if walk is not None:
            walk.lease.use(now, self._ttl_seconds)
            walk.earn(CREDIT_OF_A_MISS)
        return walk

    def _begin(self, prefix: str, now: float) -> Walk:
        walk = Walk(prefix)
        outer = [other for other in self._walks if not other.prefix.startswith(prefix)]
        self._walks = [*outer[-WALKS_MAX + 1 :], walk]
        for above, _ in self._above(prefix)[:1]:
            self._trail(above, now).walked = True
        return walk

    def _trail(self, prefix: str, now: float) -> Trail:
        trail = self._trails.get(prefix)
        if trail is None:
            if len(self._trails) == TRAILS_MAX:
                self._trails.popitem(last=False)
            trail = self._trails[prefix] = Trail()
        self._trails.move_to_end(prefix)
        if trail.at + self._walk_ttl_seconds < now:
            trail.restart(now)
        trail.at = now
        return trail

    def _above(self, prefix: str) -> list[tuple[str, str]]:
        """The directories above, the nearest first, and the name in each that leads to the directory."""
        found: list[tuple[str, str]] = []
        while len(prefix) > len(self._root) and len(found) < LEVELS_MAX:
            start = prefix.rfind("/", 0, -1) + 1
            found.append((prefix[:start], prefix[start:-1]))
            prefix = prefix[:start]
        return found
