"""The GETs under way for the block cache: how many, and how much they have brought, which tells how many pay.

Knows ranges and memory; not blocks, nor who waits for them.
"""

from collections.abc import Callable

import trio

from s3mount.config import KIB
from s3mount.data.lanes import Lanes
from s3mount.store.base import ObjectInfo, ObjectStore

BULK_BYTES = 512 * KIB
"""Smaller GETs tell of round trips, not of what a connection brings."""


class Flight:
    """One GET. `filled()` is how many of its bytes are in place."""

    __slots__ = ("filled", "size")

    def __init__(self, size: int, filled: Callable[[], int]) -> None:
        self.size = size
        self.filled = filled


class Flights:
    """See the module."""

    def __init__(self, store: ObjectStore, lanes: Lanes) -> None:
        # The mutable state: the GETs under way, and the bytes of those that have ended.
        self._store = store
        self._lanes = lanes
        self._bulk: set[Flight] = set()
        self._bulk_bytes = 0

    def __repr__(self) -> str:
        return f"<Flights {len(self._bulk)} of bulk, {self._lanes!r}>"

    async def get(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        if_match: str,
        version_id: str | None = None,
        arrived: Callable[[int], None],
        filled: Callable[[], int],
    ) -> ObjectInfo | None:
        """As the store's."""
        flight = Flight(len(into), filled)
        bulk = flight.size >= BULK_BYTES
        if bulk:
            self._bulk.add(flight)
        try:
            return await self._store.get(key, start, into, if_match=if_match, version_id=version_id, arrived=arrived)
        finally:
            if bulk:
                self._landed(flight)

    def _landed(self, flight: Flight) -> None:
        self._bulk.remove(flight)
        self._bulk_bytes += flight.filled()
        total = self._bulk_bytes + sum([other.filled() for other in self._bulk])
        self._lanes.ended(total, len(self._bulk), trio.current_time())
