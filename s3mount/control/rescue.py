"""What the daemon answers when something may be wrong: `health`, whether it serves, and `abort`, which frees programs
that wait.

Knows the requests of programs by their names only, and of the store whether there is an outage.
"""

import logging
from collections.abc import Callable, Mapping

import trio

from s3mount.control.protocol import Request
from s3mount.control.server import Progress, Verb
from s3mount.store.aborting import Aborting
from s3mount.underway import UnderWay

log = logging.getLogger(__name__)

ABORT_SECONDS = 5.0
"""How long every request to the store is refused, until the programs that wait have their answers."""
FOLLOWING_SECONDS = 0.2
"""The kernel looks names of one directory up one after another: with one answered the next comes, of a program that
waits as well. When so long none has come they are all free."""
UNHURRIED = ("release", "releasedir", "forget")
"""Nobody waits for these: they go on, and what they had to store is tried again."""


class Rescue:
    """See the module."""

    def __init__(
        self,
        aborting: Aborting,
        under_way: UnderWay,
        *,
        is_stopping: Callable[[], bool],
        outage: Callable[[], Mapping[str, object] | None],
    ) -> None:
        self._aborting = aborting  # no state of its own
        self._under_way = under_way
        self._is_stopping = is_stopping
        self._outage = outage

    def table(self) -> dict[str, Verb]:
        return {"health": self.health, "abort": self.abort}

    async def health(self, _request: Request, _progress: Progress) -> object:
        """That it is answered is the point. Nobody is asked: an outage ends by itself."""
        return {"stopping": self._is_stopping(), "outage": self._outage()}

    async def abort(self, _request: Request, progress: Progress) -> object:
        """Fail what programs wait for, by having every request to the store fail until they have their answers: the
        mount goes on, and each takes the way of an operation that the store has refused."""
        latest = self._under_way.latest
        pending = self._waiting(latest)
        progress.follow(lambda: (pending - self._waiting(latest), pending, {}))
        with self._aborting.refusing(), trio.move_on_after(ABORT_SECONDS):
            await self._under_way.over(latest, but=UNHURRIED)
            while pending:
                last = self._under_way.latest
                await trio.sleep(FOLLOWING_SECONDS)
                if self._under_way.latest == last:
                    break
                await self._under_way.over(self._under_way.latest, but=UNHURRIED)
        left = {name: count for name, count in self._under_way.counts(latest).items() if name not in UNHURRIED}
        if pending:
            log.warning("requests were given up by s3mount abort count=%d left=%d", pending, sum(left.values()))
        return {"count": pending - sum(left.values()), "left": left}

    def _waiting(self, latest: int) -> int:
        return sum(count for name, count in self._under_way.counts(latest).items() if name not in UNHURRIED)
