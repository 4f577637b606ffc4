"""The windows of all readers of a mount: how far ahead each may fetch, in GETs of which size. Pure.

The sum of the windows stays within the budget at any moment: who comes new gets what is left, and the others give up
what is more than an even share when they read next. A reader that has not read for a while has no window any more.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from s3mount.config import MIB
from s3mount.data.lanes import Lanes

IDLE_SECONDS = 30.0
LANES_LEAST = 2
GET_LEAST_BYTES = 1 * MIB
"""What one read of the kernel asks for at most, where it lets us raise that."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a reader may fetch ahead now: `window_bytes`, in GETs of at most `get_bytes`, a power of two."""

    window_bytes: int
    get_bytes: int


class Windows:
    """See the module."""

    def __init__(self, *, budget_bytes: int, window_max_bytes: int, get_max_bytes: int, block_bytes: int) -> None:
        # The mutable state: each reader's window and when it read last, the least recent first; their sum.
        self._budget_bytes = budget_bytes
        self._window_max_bytes = window_max_bytes
        self._get_max_bytes = get_max_bytes
        self._block_bytes = block_bytes
        self._held: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()
        self.lanes = Lanes()
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<Windows {len(self._held)} readers, {self.held_bytes} of {self._budget_bytes} bytes, {self.lanes!r}>"

    def __len__(self) -> int:
        return len(self._held)

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows of the readers."""
        return {"readers": len(self._held), "window_bytes": self.held_bytes, "gets_side_by_side": self.lanes.count}

    def grant(self, reader: Hashable, wanted_bytes: int, now: float) -> Grant:
        """A window of at most `wanted_bytes` for a reader that reads in order; it counts as one until it leaves."""
        self.leave(reader)
        while self._held:
            oldest = next(iter(self._held))
            if now - self._held[oldest][1] < IDLE_SECONDS:
                break
            self.leave(oldest)
        readers = len(self._held) + 1
        lanes = max(LANES_LEAST, -(-self.lanes.count // readers))
        left = self._budget_bytes - self.held_bytes
        room = min(wanted_bytes, self._window_max_bytes, self._budget_bytes // readers, left)
        get_bytes = self._get_bytes(room, lanes)
        # One GET more than lanes: the one that is being read has brought most of its bytes.
        window = min(room, (lanes + 1) * get_bytes)
        if window < self._block_bytes:
            window = 0
        self._held[reader] = window, now
        self.held_bytes += window
        return Grant(window, get_bytes)

    def leave(self, reader: Hashable) -> None:
        """The reader does not read in order any more, or at all."""
        window, _ = self._held.pop(reader, (0, 0.0))
        self.held_bytes -= window

    def _get_bytes(self, window: int, lanes: int) -> int:
        size = min(self.lanes.get_bytes, self._get_max_bytes, max(window // lanes, min(window, GET_LEAST_BYTES)))
        return 1 << (max(size, self._block_bytes).bit_length() - 1)
