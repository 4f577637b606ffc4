"""The requests that are under way, so that they can be ended at once.

Ending is for people whose programs hang (`s3mount abort`). What was acknowledged to a program, and is done behind its
back, is not ended: nobody waits for it, and a deletion that failed would undo what was answered. Knows no HTTP.

The mutable state: the wires; the tasks that wait before they ask again, each with what ends its wait; how many want all
requests refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from s3mount.store.acknowledged import is_acknowledged
from s3mount.store.wire import Wire


def _may_end(task: trio.lowlevel.Task) -> bool:
    return not is_acknowledged(task.context)


class Aborting:
    """See the module."""

    def __init__(self) -> None:
        self.wires: Sequence[Wire] = ()
        self._pauses: set[trio.CancelScope] = set()
        self.refusals = 0

    def __repr__(self) -> str:
        return f"<Aborting {len(self._pauses)} wait to ask again{', refusing' if self.refusals else ''}>"

    @property
    def refused(self) -> bool:
        """Whether this task is to send nothing now."""
        return self.refusals > 0 and not is_acknowledged()

    async def pause(self, seconds: float) -> bool:
        """Wait before a request is sent again; whether it is to be."""
        if is_acknowledged():
            await trio.sleep(seconds)
            return True
        if self.refusals:
            return False
        with trio.CancelScope() as scope:
            self._pauses.add(scope)
            try:
                await trio.sleep(seconds)
            finally:
                self._pauses.discard(scope)
        return not scope.cancelled_caught

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """End all that is under way, and refuse what comes inside the block."""
        self.refusals += 1
        try:
            for wire in self.wires:
                wire.end_transfers(_may_end)
            for scope in self._pauses:
                scope.cancel()
            yield
        finally:
            self.refusals -= 1
