"""How requests to the store ended, attempt by attempt: counts by outcome, time taken, bytes moved. Synchronous.

Knows HTTP's statuses and the wire's errors, no operation and no key. The mutable state is the counts, and when the
store last answered and last failed to.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from time import monotonic

import pycurl

from s3mount.errors import BadReply
from s3mount.store.exchange import CertificateRefused, ConnectFailed, DeadlineExceeded, Stalled

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper ends of the classes of time that an attempt took; one more is open."""
CLASSES = (*map(str, SECONDS), "+Inf")
OK = "ok"
CANCELLED = "cancelled"
FAILURES = frozenset(
    {"slow_down", "server_error", "bad_reply", "timeout", "unreachable", "certificate_refused", "broken_connection"}
)
"""Outcomes that are no answer. What the store refuses it has answered."""


def outcome_of_status(status: int) -> str:
    """What a whole reply is, in one word."""
    if status < 300 or status == 304:
        return OK
    if status in (429, 503):
        return "slow_down"
    if status >= 500:
        return "server_error"
    return {401: "denied", 403: "denied", 404: "not_found", 409: "conflict", 412: "conflict"}.get(status, "refused")


def outcome_of_failure(error: Exception) -> str:
    """What it is that no usable reply came."""
    if isinstance(error, Stalled | DeadlineExceeded):
        return "timeout"
    if isinstance(error, BadReply):
        return "bad_reply"
    if isinstance(error, CertificateRefused):
        return "certificate_refused"
    if isinstance(error, ConnectFailed):
        return "timeout" if error.code == pycurl.E_OPERATION_TIMEDOUT else "unreachable"
    return "broken_connection"


class Times:
    """How long the attempts of one operation took: how many in each class of SECONDS, and all together."""

    __slots__ = ("classes", "total_seconds")

    def __init__(self) -> None:
        self.classes = [0] * (len(SECONDS) + 1)
        self.total_seconds = 0.0


class Tally:
    """See the module."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self.answers: Counter[tuple[str, int, str]] = Counter()
        """By operation, status (0: there was none) and outcome."""
        self.times: dict[str, Times] = {}
        self.sent_bytes = 0
        self.received_bytes = 0
        self._answered = self._failed = -1.0

    def note(
        self, operation: str, status: int, outcome: str, began: float, sent_bytes: int, received_bytes: int
    ) -> None:
        """An attempt that began at `began`, by `clock`, has ended."""
        now = self.clock()
        self.answers[operation, status, outcome] += 1
        times = self.times.get(operation)
        if times is None:
            times = self.times[operation] = Times()
        seconds = now - began
        times.classes[bisect_left(SECONDS, seconds)] += 1
        times.total_seconds += seconds
        self.sent_bytes += sent_bytes
        self.received_bytes += received_bytes
        if outcome in FAILURES:
            self._failed = now
        elif outcome != CANCELLED:
            self._answered = now

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows; of bodies, heads not counted."""
        now = self.clock()
        return {
            "answers": [
                {"operation": name, "status": status, "outcome": outcome, "count": count}
                for (name, status, outcome), count in sorted(self.answers.items())
            ],
            "seconds": {
                name: {
                    "total": round(times.total_seconds, 6),
                    "classes": dict(zip(CLASSES, times.classes, strict=True)),
                }
                for name, times in sorted(self.times.items())
            },
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "last_answer_seconds": now - self._answered if self._answered >= 0 else None,
            "last_failure_seconds": now - self._failed if self._failed >= 0 else None,
        }
