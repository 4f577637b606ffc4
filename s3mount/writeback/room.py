"""--write-back-limit: how much may wait for the bucket, and the waiting of those for whom there is no room.

The state is the event that wakes them; what waits is counted by `pending`. They wait as long as the bucket takes
something now and then: after `patience_seconds` without, they are refused.
"""

import trio

from s3mount.errors import JournalFull
from s3mount.writeback.pending import Pending

DELETIONS_FACTOR = 2
"""Deletions make room more often than they take it: they are refused later than others."""


class Room:
    """See the module."""

    def __init__(self, pending: Pending, *, bytes_max: int, files_max: int, patience_seconds: float) -> None:
        self._pending = pending
        self.bytes_max = bytes_max
        self.files_max = files_max
        self._patience_seconds = patience_seconds
        self._freed = trio.Event()
        self.waiting = 0

    def look_again(self) -> None:
        """Something that waited is over."""
        freed, self._freed = self._freed, trio.Event()
        freed.set()

    async def for_bytes(self, size: int) -> None:
        """Until `size` bytes of one more file have room. Raises JournalFull."""
        await self._wait(size, self.files_max)

    async def for_deletion(self) -> None:
        """Until there is room for one more record. Raises JournalFull."""
        await self._wait(0, DELETIONS_FACTOR * self.files_max)

    def _fits(self, size: int, files_max: int) -> bool:
        pending = self._pending
        return pending.files < files_max and (not size or not pending.bytes or pending.bytes + size <= self.bytes_max)

    async def _wait(self, size: int, files_max: int) -> None:
        if self._fits(size, files_max):
            return
        self.waiting += 1
        try:
            while not self._fits(size, files_max):
                before = self._pending.files, self._pending.bytes
                self._hurry()
                with trio.move_on_after(self._patience_seconds) as scope:
                    while (self._pending.files, self._pending.bytes) == before:
                        await self._freed.wait()
                if scope.cancelled_caught:
                    raise JournalFull(
                        f"{before[0]} files of {before[1]} bytes wait for the store, which took none of them for "
                        f"{self._patience_seconds:.0f} s: raise --write-back-limit"
                    )
        finally:
            self.waiting -= 1

    def _hurry(self) -> None:
        """What waits for company only is sent, where nothing else is to be sent before it: with as much waiting as may
        wait, it is looked through no oftener."""
        due = self._pending.next_due()
        if due is not None and due > trio.current_time():
            self._pending.hurry("", below=True)
