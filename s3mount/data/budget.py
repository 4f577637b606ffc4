"""How much the staging log may hold, and in which order writers get the rest of it when it runs short.

Knows no files and no bytes. Up to three quarters of the limit a write is let through at once. From there on, writers
wait in line and are let through one after another as uploads free space. The last of the limit, a part and a write, is
for the file that lacks the fewest bytes to a part it can send, for that frees space again: shared evenly it would
complete nobody's; and the last write's worth of it is for one that completes a part. When nothing in flight can free
any, or nothing was freed within the stall deadline, who does not fit into what is left is refused.
"""

from collections import deque
from collections.abc import Callable
from math import inf

import trio

from s3mount.errors import StagingFull


def _nothing() -> int:
    return 0


class Waiter:
    """One write in line. `refused` or let through once `woken` is set. `lacking()`: bytes its file lacks to a part."""

    __slots__ = ("give_up", "lacking", "refused", "size", "woken")

    def __init__(self, size: int, give_up: Callable[[], None], lacking: Callable[[], int]) -> None:
        self.size = size
        self.lacking = lacking
        self.give_up = give_up
        self.refused = False
        self.woken = trio.Event()


class Budget:
    """See the module."""

    def __init__(
        self,
        limit_bytes: int,
        *,
        stall_seconds: float,
        reclaim: Callable[[int], None],
        part_bytes: int = 0,
        write_bytes: int = 0,
    ) -> None:
        # The mutable state: live_bytes in the log, most_bytes that ever were; reserved_bytes of writes let through that
        # have not appended yet; freeing, the number of operations in flight that free space when they end; the line;
        # credit, bytes freed since the line formed that nobody got yet; when bytes were last freed; until when the disk
        # is thought full, so that memory is all there is. live + reserved <= limit.
        self.limit_bytes = limit_bytes
        self._pace_bytes = limit_bytes * 3 // 4
        self._turns_bytes = max(self._pace_bytes, limit_bytes - part_bytes - write_bytes)
        self._write_bytes = write_bytes
        self._stall_seconds = stall_seconds
        self._reclaim = reclaim
        self.when_idle: Callable[[], object] = _nothing
        """Called when the last operation that frees space has ended."""
        self.disk_full_until = -inf
        self.live_bytes = self.most_bytes = 0
        self.reserved_bytes = 0
        self.freeing = 0
        self._line: deque[Waiter] = deque()
        self._credit = 0
        self._freed_seconds = 0.0

    def __repr__(self) -> str:
        return (
            f"<Budget {self.live_bytes} + {self.reserved_bytes} of {self.limit_bytes} bytes, "
            f"{self.freeing} freeing, {len(self._line)} waiting>"
        )

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows of the log."""
        return {
            "used_bytes": self.live_bytes,
            "max_bytes": self.limit_bytes,
            "writers_waiting": len(self._line),
            "disk_full": self.disk_full,
        }

    @property
    def disk_full(self) -> bool:
        """Whether the disk refused a chunk a short while ago, and took none since."""
        return trio.current_time() < self.disk_full_until

    @property
    def short(self) -> bool:
        """Whether space is so short that sent parts may be dropped and parts are sent early."""
        return bool(self._line) or self.live_bytes + self.reserved_bytes > self._pace_bytes or self.disk_full

    def roomy(self, size: int) -> bool:
        """Whether a write of `size` bytes may append at once, without `admit`."""
        return not self._line and self.live_bytes + self.reserved_bytes + size <= self._pace_bytes

    async def admit(self, size: int, give_up: Callable[[], None], *, lacking: Callable[[], int] = _nothing) -> None:
        """Wait for `size` bytes, which are then reserved. Raises StagingFull, after `give_up` was called."""
        over = self.live_bytes + self.reserved_bytes + size - self._pace_bytes
        if over > 0:
            self._reclaim(over)
        if self.roomy(size):
            self.reserved_bytes += size
            return
        if not self._line:
            self._credit = 0
            self._freed_seconds = trio.current_time()
        waiter = Waiter(size, give_up, lacking)
        self._line.append(waiter)
        self._move()
        try:
            while not waiter.woken.is_set():
                with trio.move_on_at(self._freed_seconds + self._stall_seconds):
                    await waiter.woken.wait()
                if (
                    not waiter.woken.is_set()
                    and self._line[0] is waiter
                    and trio.current_time() >= self._freed_seconds + self._stall_seconds
                ):
                    self._settle_one()
                elif not waiter.woken.is_set():
                    # Those before us have reached the deadline too and are about to run.
                    await trio.lowlevel.checkpoint()
        except BaseException:
            if waiter.woken.is_set() and not waiter.refused:
                self.reserved_bytes -= size
            elif not waiter.woken.is_set():
                self._line.remove(waiter)
            self._move()
            raise
        if waiter.refused:
            raise StagingFull("the staging log is full and nothing frees it: raise --staging-limit")

    def used(self, size: int) -> None:
        """`size` bytes were appended."""
        self.live_bytes += size
        if self.live_bytes > self.most_bytes:
            self.most_bytes = self.live_bytes

    def unreserve(self, size: int) -> None:
        """A write that `admit` let through has appended what it needed."""
        self.reserved_bytes -= size
        assert self.reserved_bytes >= 0
        self._move()

    def freed(self, size: int) -> None:
        self.live_bytes -= size
        assert self.live_bytes >= 0
        if self._line:
            self._credit += size
            self._freed_seconds = trio.current_time()
            self._move()

    def will_free(self) -> None:
        """An operation has begun that frees space when it ends."""
        self.freeing += 1

    def will_free_no_more(self) -> None:
        self.freeing -= 1
        assert self.freeing >= 0
        self._move()
        if not self.freeing:
            self.when_idle()

    def reclaim(self, size: int) -> None:
        """Free `size` bytes of what was offered, if there is so much."""
        self._reclaim(size)

    def _move(self) -> None:
        """Let through whom we can."""
        while self._line:
            used = self.live_bytes + self.reserved_bytes
            first = self._line[0]
            if used + first.size > self._turns_bytes:
                first = self._nearest
            size = first.size
            if used + size <= self._pace_bytes or (self._credit >= size and used + size <= self._limit_of(first)):
                self._credit = max(0, self._credit - size)
                self._line.remove(first)
                self._pass(first)
            elif not self.freeing and not self.reserved_bytes:
                # What the writer before did may have begun an upload: one at a time.
                self._settle_one()
                return
            else:
                return

    @property
    def _nearest(self) -> Waiter:
        """Whose file lacks least; the first in line of those who lack as little."""
        return min(self._line, key=_lacking)

    def _limit_of(self, waiter: Waiter) -> int:
        return self.limit_bytes if waiter.lacking() <= waiter.size else self.limit_bytes - self._write_bytes

    def _settle_one(self) -> None:
        """Nothing will free space for those in line: what is left of the limit for one of them, or no."""
        waiter = self._nearest
        limit_bytes = self._limit_of(waiter)
        over = self.live_bytes + self.reserved_bytes + waiter.size - limit_bytes
        if over > 0:
            self._reclaim(over)
        if waiter.woken.is_set():
            return  # the reclaimed bytes let it through
        self._line.remove(waiter)
        if self.live_bytes + self.reserved_bytes + waiter.size <= limit_bytes:
            self._pass(waiter)
            return
        waiter.refused = True
        waiter.woken.set()
        waiter.give_up()
        if self._line:
            self._move()

    def _pass(self, waiter: Waiter) -> None:
        self.reserved_bytes += waiter.size
        waiter.woken.set()


def _lacking(waiter: Waiter) -> int:
    return waiter.lacking()
