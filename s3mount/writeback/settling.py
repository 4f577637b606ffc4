"""Waiting until the bucket has what it should: fsync, sync and unmount of a mount that writes back.

Each waiter goes through the operations that there were when it came, one after another; the one it waits for is known
here, with an event that is set when something has become of it. An operation that another one has swallowed is over,
and the waiter goes on with that. It does not wait for what a person has to see to, nor longer for a store that is of no
use than a program would wait without write-back.
"""

from collections.abc import Callable, Iterable

import trio

from s3mount.errors import S3MountError, Unavailable, again
from s3mount.store.outage import Outage
from s3mount.writeback.operations import Operation
from s3mount.writeback.trial import Trial


class Settling:
    """See the module. The mutable state is the events of the operations that somebody waits for."""

    def __init__(
        self,
        *,
        trials: dict[Operation, Trial],
        successors: Callable[[Operation], Iterable[Operation]],
        outage: Outage | None,
        patience_seconds: float,
    ) -> None:
        self._trials = trials
        self._successors = successors
        self._outage = outage
        self._patience_seconds = patience_seconds
        self._events: dict[Operation, trio.Event] = {}

    def look(self) -> None:
        """Something may have become of any operation."""
        for operation in [operation for operation in self._events if operation.state in ("over", "parked")]:
            self._events.pop(operation).set()

    def look_all(self) -> None:
        """Something was parked or has failed: others may wait for it."""
        events, self._events = self._events, {}
        for event in events.values():
            event.set()

    async def settle(self, operations: Iterable[Operation]) -> None:
        """Wait for these. Raises what one of them, or one that it waits for, was parked with; Stale of one that has
        parted; Unavailable."""
        first: S3MountError | None = None
        todo = list(operations)[::-1]
        while todo:
            operation = todo.pop()
            try:
                await self._wait(operation)
            except S3MountError as error:
                if isinstance(error, Unavailable):
                    raise
                first = first or error
            else:
                todo += self._successors(operation)
        if first is not None:
            raise first

    async def _wait(self, operation: Operation) -> None:
        while operation.state != "over":
            for one in with_blockers([operation]):
                if one.state == "parked" and one.error is not None:
                    raise again(one.error)
            since = self._failing_since(operation)
            if trio.current_time() >= since + self._patience_seconds:
                raise self._unavailable(operation)
            event = self._events.setdefault(operation, trio.Event())
            with trio.move_on_at(since + self._patience_seconds):
                await event.wait()
        if operation.error is not None:
            raise again(operation.error)

    def _failing_since(self, operation: Operation) -> float:
        """Since when the store is of no use to it; infinite where it is of use."""
        times = [float("inf")]
        for one in with_blockers([operation]):
            trial = self._trials.get(one)
            if trial is not None and trial.failing_since is not None:
                times.append(trial.failing_since)
        if self._outage is not None and self._outage.told.is_set() and self._outage.since is not None:
            times.append(self._outage.since)
        return min(times)

    def _unavailable(self, operation: Operation) -> S3MountError:
        for one in with_blockers([operation]):
            trial = self._trials.get(one)
            if trial is not None and trial.failing_since is not None and trial.error is not None:
                return Unavailable(f"{operation.key!r} waits for the bucket: {trial.error}")
        return Unavailable(f"{operation.key!r} waits for the bucket: the store is unreachable")


def with_blockers(operations: Iterable[Operation]) -> set[Operation]:
    """These, and all that have to land before them."""
    found: set[Operation] = set()
    todo = list(operations)
    while todo:
        operation = todo.pop()
        if operation not in found:
            found.add(operation)
            todo += operation.blockers
    return found
