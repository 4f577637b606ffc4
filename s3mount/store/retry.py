"""How often, when and for how long a request is asked again, and how many may be under way.

Knows neither HTTP nor S3. A request that fails is asked again as long as a store that restarts or asks for patience may
need, and several times at least: `Tries`. `Limiter` is fair: who came first is served first. Its slot is handed over,
never free for a late comer while somebody waits.
"""

import random
from dataclasses import dataclass
from math import inf

import trio

RETRY_AFTER_MAX_SECONDS = 30.0
SLOWER_SECONDS = 1.0
"""A burst of SlowDown answers is one message: the limit is halved at most once in this time."""
SILENCES_MIN = 2
"""Attempts about which nothing was heard, in a row: each takes a stall time-out, so that so many are enough."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential with full jitter: the n-th wait is drawn from 0 to base * 2**n, at most `max_seconds`. It goes on for
    `retry_seconds`, and for `attempts_min` attempts at least."""

    base_seconds: float
    max_seconds: float
    attempts_min: int
    retry_seconds: float = 0.0

    def wait_seconds(self, failures: int, draw: random.Random, retry_after: str | None = None) -> float:
        """How long to wait after the `failures`-th failure in a row; a Retry-After in seconds is a lower bound."""
        assert failures >= 1
        wait = draw.uniform(0, min(self.max_seconds, self.base_seconds * 2 ** min(failures - 1, 30)))
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            wait += min(float(retry_after), RETRY_AFTER_MAX_SECONDS)
        return wait


class Tries:
    """What has become of one request so far. `attempts_max` caps its attempts, whatever time is left.

    The mutable state: failures in a row, those of them about which nothing was heard, and since when (inf: not at all)
    the store has been of no use to this request; what brings bytes begins anew. Times are the loop's.
    """

    __slots__ = ("_attempts_max", "_backoff", "_silences", "began", "deadline", "failures", "since")

    def __init__(self, backoff: Backoff, *, began: float, deadline: float, attempts_max: int | None) -> None:
        self._backoff = backoff
        self._attempts_max = attempts_max
        self._silences = 0
        self.began = began
        self.deadline = deadline
        self.failures = 0
        self.since = inf

    def failed(self, since: float, *, silent: bool, progressed: bool) -> None:
        """An attempt failed. `since`: when the store began to be of no use to anybody; `progressed`: it brought
        something first."""
        if progressed:
            self.failures = self._silences = 0
            self.since = inf
        self.failures += 1
        self._silences += silent
        self.since = min(self.since, max(since, self.began))

    def over(self, next_at: float, *, passing: bool, hopeless: bool) -> bool:
        """Whether there is no further attempt, which would begin at `next_at`. `passing`: time may heal it; `hopeless`:
        it is known not to have."""
        if next_at >= self.deadline or (self._attempts_max is not None and self.failures >= self._attempts_max):
            return True
        if hopeless:
            return True
        if self.failures < self._backoff.attempts_min and self._silences < SILENCES_MIN:
            return False
        return not passing or next_at >= self.since + self._backoff.retry_seconds


class Limiter:
    """At most `total` holders at once, fewer for a while after `slower`.

    State: `_used` slots held, `_most` that were at once; `_limit` of them at present, halved by `slower`, growing by
    one slot per round of `better`; tasks parked in order of arrival.
    """

    def __init__(self, total: int) -> None:
        assert total >= 1
        self._total = total
        self._limit = float(total)
        self._used = self._most = 0
        self._slower_at = -inf
        self._lot = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Limiter {self._used}/{self._limit:.1f} of {self._total}, {len(self._lot)} waiting>"

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows of it."""
        return {
            "limit": self._total,
            "used": self._used,
            "most": self._most,
            "waiting": len(self._lot),
            "at_present": int(self._limit),
        }

    def take(self) -> bool:
        """Take a slot if one is free."""
        if self._used < int(self._limit) and not self._lot:
            self._used += 1
            if self._used > self._most:
                self._most = self._used
            return True
        return False

    async def acquire(self) -> None:
        """Take a slot; no checkpoint when one is free."""
        if not self.take():
            await self._lot.park()

    def release(self) -> None:
        """Give the slot back, to whoever waits longest."""
        self._used -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._lot and self._used < int(self._limit):
            self._used += 1
            self._most = max(self._most, self._used)
            self._lot.unpark()

    def slower(self, now: float) -> None:
        """The store asked for fewer requests; `now` by the loop's clock."""
        if now - self._slower_at >= SLOWER_SECONDS:
            self._slower_at = now
            self._limit = max(1.0, self._limit / 2)

    def better(self) -> None:
        """A request went well."""
        if self._limit < self._total:
            self._limit = min(float(self._total), self._limit + 1 / self._limit)
            self._hand_out()
