"""Tells whether the event loop runs: the loop says so every second, any thread may ask how long ago that was.

A loop that is stuck cannot say that it is; who watches it is a thread (`Type=notify`'s watchdog, `/healthz`), which
must not ask the loop anything. It knows nothing of the mount. The state is one number.
"""

import time
from collections.abc import Callable

import trio

BEAT_SECONDS = 1.0


class Heartbeat:
    """See the module. Thread-safe: one attribute is replaced as a whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beaten = clock()

    def __repr__(self) -> str:
        return f"<Heartbeat {self.age_seconds:.1f} s ago>"

    @property
    def age_seconds(self) -> float:
        """How long the loop has not been heard of; up to BEAT_SECONDS when all is well."""
        return self._clock() - self._beaten

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._beaten = self._clock()
            await trio.sleep(BEAT_SECONDS)
