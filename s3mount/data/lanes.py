"""How many GETs side by side pay. Pure.

Where each connection has a rate of its own, more of them bring more, up to the link's bandwidth-delay product; where
server, link or our own CPU is what limits, more of them cost and bring nothing. Nobody tells which it is, so it is
tried: the count is doubled as long as that brings a quarter more, taken back where it does not, and looked at again,
one step up and one step down, after a while. What is measured while readers leave the lanes empty says nothing.
"""

from s3mount.config import MIB

COUNTS = (4, 8, 16, 24)
GAIN = 1.25
"""What a step up must bring; doubled connections bring twice as much where the connection is the limit."""
LOSS = 0.9
"""A step down is kept when so much is left."""
MEASURE_SECONDS = 0.06
GET_LEAST_BYTES = 1 * MIB
GET_MOST_BYTES = 8 * MIB
"""Stores keep objects in pieces of so much: eight threads on SeaweedFS read 25 to 60 % more a second by 8 MiB than by
4, and its work for a GiB is an eighth less (measured); larger ones gain nothing."""
GET_MANY_BYTES = 4 * MIB
"""The same while it is being found out how many pay, and where many do: there it is the wait that costs, and memory."""
GET_SECONDS = 0.3
"""What one may take: the longer it does, the later it is known what pays."""
GET_WAITS = 4
"""And how many times what it waits for its first byte, for which its connection idles; once it is known what pays."""
WEIGHT = 1 / 4
HOLD_SECONDS = 5.0
HOLD_MAX_SECONDS = 80.0


class Lanes:
    """See the module. `count` GETs side by side are worth having by what is known now."""

    def __init__(self) -> None:
        # The mutable state: the step now; the one to go back to if a trial does not pay, and the rate there; what is
        # measured since when, after how many GETs; until when the count is held, and how long next time; where the
        # next trial goes; what one GET brings in a second, and waits for.
        self._step = 0
        self._before: int | None = None
        self._rate_before = 0.0
        self._since: tuple[float, int] | None = None
        self._ended = 0
        self._held_until = 0.0
        self._hold_seconds = HOLD_SECONDS
        self._down_next = False
        self._lane_rate = GET_MANY_BYTES / GET_SECONDS
        self._wait_seconds = 0.0

    def __repr__(self) -> str:
        return f"<Lanes {self.count}, held until {self._held_until:.1f}>"

    @property
    def count(self) -> int:
        return COUNTS[self._step]

    @property
    def get_bytes(self) -> int:
        """The size of GETs that take neither too long nor more work than they must; a power of two."""
        if not self._held_until:
            seconds, most = GET_SECONDS, GET_MANY_BYTES
        else:
            seconds = max(GET_SECONDS, GET_WAITS * self._wait_seconds)
            most = GET_MOST_BYTES if self._step < len(COUNTS) // 2 else GET_MANY_BYTES
        wanted = self._lane_rate * seconds
        size = min(max(wanted, GET_LEAST_BYTES), most)
        return 1 << (int(size).bit_length() - 1)

    def took(self, size: int, seconds: float, wait_seconds: float) -> None:
        """One GET has brought `size` bytes in so long; so long it waited for the first."""
        self._wait_seconds += WEIGHT * (wait_seconds - self._wait_seconds)
        self._lane_rate += WEIGHT * (size / max(seconds, 0.001) - self._lane_rate)

    def ended(self, total_bytes: int, in_flight: int, now: float) -> None:
        """A GET has ended; `total_bytes` have come by now over all GETs, of which `in_flight` go on."""
        if in_flight < self.count // 2:
            self._restart()
            return
        self._ended += 1
        if self._since is None:
            # The first half of a round brings connections that are being opened, and the GETs of the step before.
            if self._ended >= self.count // 2:
                self._since = now, total_bytes
                self._ended = 0
            return
        began, bytes_then = self._since
        if now - began < MEASURE_SECONDS or self._ended < self.count // 2:
            return
        rate = (total_bytes - bytes_then) / (now - began)
        self._restart()
        self._judge(rate, now)

    def _restart(self) -> None:
        self._since = None
        self._ended = 0

    def _judge(self, rate: float, now: float) -> None:
        before = self._before
        if before is None:
            if now >= self._held_until:
                self._try(rate, now)
        elif self._step > before:
            if rate < GAIN * self._rate_before:
                self._hold(before, now)
            elif self._step + 1 < len(COUNTS):
                self._try(rate, now)
            else:
                self._hold(self._step, now)
        elif rate < LOSS * self._rate_before:
            self._hold(before, now)
        else:
            self._hold(self._step, now)

    def _try(self, rate: float, now: float) -> None:
        """Go one step on to compare it with `rate`."""
        climbing = self._before is not None
        down = self._down_next and self._step > 0 and not climbing
        if not climbing:
            self._down_next = not self._down_next
        if not down and self._step + 1 == len(COUNTS):
            self._hold(self._step, now)
            return
        self._before, self._rate_before = self._step, rate
        self._step += -1 if down else 1

    def _hold(self, step: int, now: float) -> None:
        """The trial is over; what it found out is believed the longer the more often it was found again."""
        self._hold_seconds = min(self._hold_seconds * 2, HOLD_MAX_SECONDS) if step == self._before else HOLD_SECONDS
        self._step, self._before = step, None
        self._held_until = now + self._hold_seconds
