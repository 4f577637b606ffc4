"""The figures of the mount, gathered in the loop for a thread that must not wait for the loop.

The thread asks; the loop, when it runs next, gathers and says so. Nothing is gathered unless somebody asks. What is
handed over is never changed again.

The mutable state: the table of figures, once there is one, and the latest snapshot. Both are replaced as a whole.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

log = logging.getLogger(__name__)

Table = Mapping[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the figures were at `at`, by time.monotonic."""

    at: float
    figures: Mapping[str, object]


class Snapshots:
    """See the module."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._table: Table = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._taken: Callable[[], None] = lambda: None
        self.latest = Snapshot(clock(), {})

    def open(self, table: Table) -> None:
        """From now on this loop can be asked, and says this."""
        self._table = table
        self._token = trio.lowlevel.current_trio_token()
        self._take()

    def when_taken(self, taken: Callable[[], None]) -> None:
        """`taken` is called, by the loop, each time there is a new snapshot."""
        self._taken = taken

    def ask(self) -> bool:
        """Have the loop take one; False: there is no loop to ask. From any thread; waits for nothing."""
        if self._token is None:
            return False
        try:
            self._token.run_sync_soon(self._take, idempotent=True)
        except trio.RunFinishedError:
            return False
        return True

    def _take(self) -> None:
        try:
            self.latest = Snapshot(self._clock(), {name: figures() for name, figures in self._table.items()})
        except Exception:  # it would end the loop
            log.exception("figures could not be gathered by a bug")
        self._taken()
