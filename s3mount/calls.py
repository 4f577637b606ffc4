"""What the kernel asked for: requests by kind, the time they took, and the errnos they were answered with. No rules.

The state is the counts. A request that is cancelled, which happens when the mount ends, is not counted.
"""

from collections import Counter, defaultdict
from errno import errorcode
from time import perf_counter


class Kind:
    """Of one kind of request."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


class Calls:
    """See the module. Whoever answers a request of the kernel counts it here."""

    __slots__ = ("errors", "kinds")

    def __init__(self) -> None:
        self.kinds: defaultdict[str, Kind] = defaultdict(Kind)
        self.errors: Counter[tuple[str, int]] = Counter()

    def failed(self, name: str, began: float, errno: int) -> None:
        """A request that began at `began`, by perf_counter, was answered with an errno."""
        self.errors[name, errno] += 1
        kind = self.kinds[name]
        kind.count += 1
        kind.seconds += perf_counter() - began

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows."""
        errors: dict[str, dict[str, int]] = {}
        for (name, number), count in sorted(self.errors.items()):
            errors.setdefault(name, {})[errorcode.get(number, str(number))] = count
        return {
            name: {"count": kind.count, "seconds": round(kind.seconds, 6), "errors": errors.get(name, {})}
            for name, kind in sorted(self.kinds.items())
        }
