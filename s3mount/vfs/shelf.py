"""What a walk has told of directories that nobody has asked for yet, by prefix, until their inodes are made; in an
outage also what was known of those that the kernel has forgotten.

Synchronous. The state: `_shelved` in the order it came, `_sorted` (its prefixes in order, None when something was
added since), and `_requests`: what changed here since each request that is under way was sent. Invariant: nothing on
the shelf is older than an own change of the name or of a directory above it, for each such change takes it off.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from s3mount.vfs.spans import Span


@dataclass(slots=True)
class Shelved:
    """One directory. `marker` and `flag` None: not known; `flag_at`: when the request that told of it was sent,
    `flag_date_ns`: the Date of its reply, `nodes`: whether it spoke of links and nodes."""

    spans: list[Span] = field(default_factory=list)
    marker: bool | None = None
    flag: bool | None = None
    nodes: bool = True
    flag_at: float = 0.0
    flag_date_ns: int = 0


@dataclass(slots=True)
class Meanwhile:
    """Directories in which something was changed here, and names (as prefixes) that came, went or moved."""

    directories: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def touches(self, prefix: str) -> bool:
        """Whether what a reply tells of the directory may be older than our own changes."""
        if prefix in self.directories:
            return True
        if self.names:
            while prefix:
                if prefix in self.names:
                    return True
                prefix = prefix[: prefix.rfind("/", 0, -1) + 1]
        return "" in self.names


class Shelf:
    """See the module. `drop` forgets a span."""

    def __init__(self, drop: Callable[[Span], None]) -> None:
        self._drop = drop
        self._shelved: dict[str, Shelved] = {}
        self._sorted: list[str] | None = None
        self._requests: list[Meanwhile] = []

    def __len__(self) -> int:
        return len(self._shelved)

    def at(self, prefix: str) -> Shelved:
        """What is kept of the directory, made if there is nothing yet."""
        shelved = self._shelved.get(prefix)
        if shelved is None:
            shelved = self._shelved[prefix] = Shelved()
            self._sorted = None
        return shelved

    def take(self, prefix: str) -> Shelved | None:
        """Hand over what is known of the directory; the spans go with their list."""
        return self._shelved.pop(prefix, None)

    def discard(self, prefix: str) -> None:
        """Forget one directory."""
        shelved = self._shelved.pop(prefix, None)
        for span in list(shelved.spans) if shelved is not None else ():
            self._drop(span)

    def clear(self) -> None:
        for prefix in list(self._shelved):
            self.discard(prefix)

    def purge(self, fetched_before: float) -> None:
        """Forget what is older."""
        for prefix, shelved in list(self._shelved.items()):
            if not shelved.spans or shelved.spans[-1].fetched < fetched_before:
                self.discard(prefix)

    def changed(self, prefix: str, name: str) -> None:
        """A name of the directory at `prefix` was changed here: nothing that is told below it is true any more."""
        if not self._shelved and not self._requests:
            return
        below = prefix + name + "/"
        for meanwhile in self._requests:
            meanwhile.directories.add(prefix)
            meanwhile.names.add(below)
        if self._shelved:
            if self._sorted is None:
                self._sorted = sorted(self._shelved)
            first = bisect_left(self._sorted, below)
            while first < len(self._sorted) and self._sorted[first].startswith(below):
                self.discard(self._sorted[first])
                first += 1

    def moved(self, prefix: str) -> None:
        """A directory came to this prefix with all that is below it."""
        for meanwhile in self._requests:
            meanwhile.names.add(prefix)

    @contextmanager
    def request(self) -> Iterator[Meanwhile]:
        """What is changed here from now on, for a reply that may be older."""
        meanwhile = Meanwhile()
        self._requests.append(meanwhile)
        try:
            yield meanwhile
        finally:
            self._requests = [other for other in self._requests if other is not meanwhile]
