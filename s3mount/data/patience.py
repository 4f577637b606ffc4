"""When a GET of which nothing comes is asked again: after a silence that is long compared with what GETs take. Pure.

What a GET takes from beginning to end, queues included, is more than any silence in it, and follows a store or a link
that gets slower. Asking again is an extra request: it is for the few that were lost, so it has a share of its own.
"""

LEAST_SECONDS = 1.0
TYPICAL_TIMES = 2.0
DEVIATION_TIMES = 4.0
WEIGHT = 1 / 8
"""Of the latest GET, as in TCP's estimate of a round trip."""
SHARE = 0.05
"""Of all GETs so many may be asked again; after a while without, so many at once:"""
AT_ONCE_MAX = 4.0


class Patience:
    """See the module. `seconds` is how long a GET may be silent; `most_seconds` before anything is known, at most."""

    def __init__(self, *, most_seconds: float) -> None:
        # The mutable state: what a GET takes, and by how much that differs; how many may be asked again now.
        self._most_seconds = most_seconds
        self._typical: float | None = None
        self._deviation = 0.0
        self._allowed = AT_ONCE_MAX

    def __repr__(self) -> str:
        return f"<Patience {self.seconds:.2f} s, {self._allowed:.1f} may be asked again>"

    @property
    def seconds(self) -> float:
        if self._typical is None:
            return self._most_seconds
        silence = TYPICAL_TIMES * self._typical + DEVIATION_TIMES * self._deviation
        return min(max(silence, LEAST_SECONDS), self._most_seconds)

    def took(self, seconds: float) -> None:
        """A GET that was asked once has come."""
        self._allowed = min(self._allowed + SHARE, AT_ONCE_MAX)
        if self._typical is None:
            self._typical, self._deviation = seconds, seconds / 2
            return
        self._deviation += WEIGHT * (abs(seconds - self._typical) - self._deviation)
        self._typical += WEIGHT * (seconds - self._typical)

    @property
    def allows(self) -> bool:
        """Whether one more GET may be asked again."""
        return self._allowed >= 1

    def ask_again(self) -> bool:
        """Whether one more GET may be asked again; it is counted then."""
        if not self.allows:
            return False
        self._allowed -= 1
        return True
