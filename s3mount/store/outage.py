"""Whether the store is of any use at present, for all requests together: what the log and `status` say of an outage.

An outage is a time without one usable answer while there were requests. It is told once when it has lasted a while (a
connection that died, a restart of a second are no news) or a request was given up, and once when it is over; each
request that fails in it has a line of its own where it was asked for. Knows neither HTTP nor S3.

The mutable state: usable answers so far, requests that have failed and are asked again, and of the present outage, if
there is one, since when it lasts, how many attempts failed, why the latest did, until when the next need not be made,
whether a request was given up, and whether it was told.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from math import inf

import trio

from s3mount.errors import S3MountError

log = logging.getLogger(__name__)

TOLD_SECONDS = 5.0
SILENCE_SECONDS = 10.0
"""For so long after an attempt that was not answered at all nobody else waits for the same."""
PROBE_SECONDS = 10.0
"""An outage that was told ends by itself: nobody else may ask for a long time, and a readiness check looks at it. So
long is the longest that a look takes, or the end of a silence would be seen late."""


class Outage:
    """See the module. `told` is set while an outage is known to the log, `ended` while none is."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self.usable = 0
        self.waiting = 0
        self.since: float | None = None
        self._silent_until = -inf
        self._given_up = False
        self.told = trio.Event()
        self.ended = trio.Event()
        self.ended.set()
        self._failures = 0
        self._reason = ""

    def __repr__(self) -> str:
        if self.since is None:
            return "<Outage none>"
        return f"<Outage since={self.since:.1f} failures={self._failures} told={self.told.is_set()}>"

    @property
    def figure(self) -> dict[str, object] | None:
        """What `s3mount status` shows: None while all is well."""
        if self.since is None or not self.told.is_set():
            return None
        return {"since_seconds": round(trio.current_time() - self.since, 1), "reason": self._reason}

    @property
    def reason(self) -> str:
        return self._reason

    def lasts(self, seconds: float) -> bool:
        """Whether there is an outage that was told, and is so old."""
        return self.since is not None and self.told.is_set() and trio.current_time() - self.since >= seconds

    @property
    def silent(self) -> bool:
        """Whether a request was given up, and somebody was not answered at all a short while ago: the next one would
        not be either, and wait as long. The kernel looks names of one directory up one after another, so that waits
        would add up."""
        return self._given_up and trio.current_time() < self._silent_until

    def answered(self) -> None:
        """The store gave an answer that is of use, be it a refusal."""
        self.usable += 1
        if self.since is None:
            return
        if self.told.is_set():
            seconds = trio.current_time() - self.since
            log.warning("store reachable again after_seconds=%.1f failures=%d", seconds, self._failures)
            self.told = trio.Event()
            self.ended.set()
        self.since, self._silent_until, self._given_up = None, -inf, False

    def failed(self, reason: str, *, silent_seconds: float, usable_before: int, lasting: bool) -> float:
        """An attempt came to nothing, after so long a silence; `usable_before` is what `usable` was when it began.
        `lasting`: it is not a moment's trouble. Since when the store is of no use."""
        now = trio.current_time()
        if self.since is None:
            # While it was silent here others may have had their answers.
            self.since = now - silent_seconds if usable_before == self.usable else now
            self._failures = 0
        self._failures += 1
        self._reason = reason
        if silent_seconds > 0:
            self._silent_until = now + SILENCE_SECONDS
        if not self.told.is_set() and (lasting or now - self.since >= TOLD_SECONDS):
            self._tell(now - self.since)
        return self.since

    def given_up(self) -> None:
        """A request failed for good because of it: a program was told, so everybody may know."""
        self._given_up = self.since is not None
        if self.since is not None and not self.told.is_set():
            self._tell(trio.current_time() - self.since)

    def _tell(self, seconds: float) -> None:
        self.told.set()
        self.ended = trio.Event()
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock_ns() / 1e9 - seconds))
        log.warning(
            "store unreachable since=%s reason=%s requests_waiting=%d", since, self._reason, max(self.waiting, 1)
        )


async def watch(outage: Outage, ask: Callable[[], Awaitable[object]]) -> None:
    """Ask a store of which an outage was told until it answers."""
    while True:
        await outage.told.wait()
        await trio.sleep(PROBE_SECONDS)
        if outage.told.is_set():
            with trio.move_on_after(PROBE_SECONDS):
                try:
                    await ask()
                except S3MountError:
                    pass  # the outage goes on
