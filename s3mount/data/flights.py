"""The GETs under way for the block cache: how many of them pay, and the stalled ones, which are asked again.

A GET of which no byte has come for a while that is long compared with its fellows is asked again, once, from where it
stands: its first request keeps its connection busy, so the second goes over another. Both write the same bytes of one
version to the same place, on condition of its etag, and who waits gets whichever come first. The first of the two that
ends, or finds that the version is gone, ends the other; the memory is pinned until both are out of it.

Knows runs; not which blocks are cached, nor who waits for them.
"""

import logging
from math import inf

import trio

from s3mount.config import KIB
from s3mount.data.lanes import Lanes
from s3mount.data.patience import Patience
from s3mount.data.runs import Run
from s3mount.errors import NotFound, PreconditionFailed, RangeNotSatisfiable, S3MountError, StoreError
from s3mount.store.base import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

BULK_BYTES = 512 * KIB
"""Smaller GETs tell of round trips, not of what a connection brings."""
LOOKS_A_SILENCE = 4


class Flight:
    """One GET. `first` and `second` are its requests; `outcome` what the second has come to, if it decides."""

    __slots__ = ("began", "first", "outcome", "run", "second", "second_over", "seen", "seen_at", "version_id")

    def __init__(self, run: Run, version_id: str | None, now: float) -> None:
        # The mutable state: how much was there at the latest look that saw more than the one before, and when that was;
        # the second request, if there is one, and whether it is over.
        self.run = run
        self.version_id = version_id
        self.began = self.seen_at = now
        self.seen = run.filled
        self.first = trio.CancelScope()
        self.second: trio.CancelScope | None = None
        self.second_over = trio.Event()
        self.outcome: ObjectInfo | StoreError | None = None


class Flights:
    """See the module. `nursery` runs the second requests and the look-out for silence."""

    def __init__(self, store: ObjectStore, nursery: trio.Nursery, lanes: Lanes, patience: Patience) -> None:
        # The mutable state: the GETs under way and those of them that are bulk; bytes of bulk that have ended; whether
        # somebody looks out; how many were asked again.
        self._store = store
        self._nursery = nursery
        self._lanes = lanes
        self._patience = patience
        self._flights: dict[Flight, None] = {}
        self._bulk = 0
        self._bulk_bytes = 0
        self._watched = False
        self.asked_again = 0

    def __repr__(self) -> str:
        return f"<Flights {len(self._flights)}, {self._bulk} of bulk, {self._patience!r}, {self._lanes!r}>"

    @property
    def silence_seconds(self) -> float:
        """How long a GET for which nobody looks out may be silent before it is asked again; inf: it may not be."""
        return self._patience.seconds if self._patience.allows else inf

    def note_asked_again(self, key: str, silent_seconds: float) -> None:
        """It was."""
        self._patience.ask_again()
        self.asked_again += 1
        log.info("a stalled GET was asked again key=%r start=0 bytes_there=0 silent_seconds=%.1f", key, silent_seconds)

    async def get(self, run: Run, *, version_id: str | None = None) -> ObjectInfo | None:
        """Fill the run as the store's `get` would, on condition of its version's etag."""
        flight = Flight(run, version_id, trio.current_time())
        self._begin(flight)
        try:
            with flight.first:
                info = await self._ask(flight, run.filled)
                if flight.second is None:
                    self._patience.took(trio.current_time() - flight.began)
                return info
        except StoreError:
            if flight.second is None:
                raise
            await flight.second_over.wait()
            if flight.outcome is None:
                raise
        finally:
            if flight.second is not None:
                flight.second.cancel()
            self._land(flight)
        assert flight.outcome is not None
        if isinstance(flight.outcome, StoreError):
            raise flight.outcome
        return flight.outcome

    async def _ask(self, flight: Flight, there: int) -> ObjectInfo | None:
        run = flight.run
        return await self._store.get(
            run.version.key,
            run.start + there,
            run.memory.view[there : run.stop - run.start],
            if_match=run.version.etag,
            version_id=flight.version_id,
            arrived=(lambda count: run.arrived(there + count)) if there else run.arrived,
        )

    def _begin(self, flight: Flight) -> None:
        self._flights[flight] = None
        self._bulk += flight.run.size >= BULK_BYTES
        if not self._watched:
            self._watched = True
            self._nursery.start_soon(self._watch)

    def _land(self, flight: Flight) -> None:
        del self._flights[flight]
        run, now = flight.run, trio.current_time()
        if run.size >= BULK_BYTES:
            self._bulk -= 1
            self._bulk_bytes += run.filled
            if run.filled == run.size:
                self._lanes.took(run.size, now - flight.began, run.began - flight.began)
            here = sum([other.run.filled for other in self._flights if other.run.size >= BULK_BYTES])
            self._lanes.ended(self._bulk_bytes + here, self._bulk, now)

    async def _watch(self) -> None:
        """Look at those under way now and then, until there are none."""
        while self._flights:
            await trio.sleep(self._patience.seconds / LOOKS_A_SILENCE)
            now, seconds = trio.current_time(), self._patience.seconds
            for flight in list(self._flights):
                if flight.run.filled != flight.seen:
                    flight.seen, flight.seen_at = flight.run.filled, now
                elif now - flight.seen_at >= seconds and flight.second is None and flight.seen < flight.run.size:
                    if not self._patience.ask_again():
                        break
                    self._ask_again(flight, now)
        self._watched = False

    def _ask_again(self, flight: Flight, now: float) -> None:
        run = flight.run
        log.info(
            "a stalled GET was asked again key=%r start=%d bytes_there=%d silent_seconds=%.1f",
            run.version.key,
            run.start,
            run.filled,
            now - flight.seen_at,
        )
        self.asked_again += 1
        flight.second = trio.CancelScope()
        run.memory.pin()
        self._nursery.start_soon(self._second, flight)

    async def _second(self, flight: Flight) -> None:
        assert flight.second is not None
        try:
            there = flight.run.filled
            if there == flight.run.size:
                return  # it came after all, before this task ran
            with flight.second:
                flight.outcome = await self._ask(flight, there)
                flight.first.cancel()
        except (PreconditionFailed, NotFound, RangeNotSatisfiable) as gone:
            flight.outcome = gone
            flight.first.cancel()
        except S3MountError as error:
            log.debug("the second request of a stalled GET failed key=%r: %s", flight.run.version.key, error)
        except Exception:
            log.exception("the second request of a stalled GET failed by a bug key=%r", flight.run.version.key)
        finally:
            flight.run.memory.unpin()
            flight.second_over.set()
