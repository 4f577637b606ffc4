"""The block cache: bytes of versions in memory, bounded, fetched once however many ask.

What one GET brings is a run: whole blocks of one version, side by side in one buffer, usable as they arrive. Runs that
are complete leave in LRU order. Knows versions and ranges; not files, not what is dirty.

Invariants: a block of a version is looked for in one run, and only those in a small gap between two that were missing
are fetched again; runs in flight are never evicted; the bytes of all runs stay
below the limit, but one run may always be in flight.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio
from cachetools import LRUCache

from s3mount.data.buffers import RECYCLED_MIN_BYTES, Buffers, Pinned
from s3mount.data.disktier import DiskTier
from s3mount.data.flights import Flights
from s3mount.data.lanes import Lanes
from s3mount.data.patience import Patience
from s3mount.data.runs import Interrupted, Run, missing
from s3mount.data.validation import Validation
from s3mount.data.version import Version
from s3mount.errors import (
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    S3MountError,
    Stale,
    Unavailable,
)
from s3mount.store.base import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

RUN_BYTES = 1400
"""What keeping a run takes beside its bytes (measured). It is counted where there are more runs than one for each
64 KiB of the limit: a million files of ten bytes would take 1.4 GB."""


class BlockCache:
    """See the module."""

    def __init__(
        self,
        store: ObjectStore,
        nursery: trio.Nursery,
        buffers: Buffers,
        lanes: Lanes,
        *,
        limit_bytes: int,
        block_bytes: int,
        get_max_bytes: int,
        silence_max_seconds: float,
        disk: DiskTier | None = None,
    ) -> None:
        # The mutable state: runs by version and block; complete runs in LRU order; bytes of runs in flight; demands
        # that wait for memory, first come first served; bytes fetched ahead, and those of them dropped unread.
        self._store = store
        self._flights = Flights(store, nursery, lanes, Patience(most_seconds=silence_max_seconds))
        self._nursery = nursery
        self._buffers = buffers
        self._disk = disk
        self._limit_bytes = limit_bytes
        self.block_bytes = block_bytes
        self._get_max_bytes = get_max_bytes
        self._index: dict[Version, dict[int, Run]] = {}
        self._complete: LRUCache[Run, int] = LRUCache(maxsize=limit_bytes * 2, getsizeof=lambda capacity: capacity)
        self._in_flight_bytes = 0
        self._ahead_bytes = 0
        self._wasted_bytes = 0
        self._demands: deque[tuple[int, trio.Event]] = deque()
        self._validation = Validation(
            store, buffers, self._flights, block_bytes, self._lend, self.holds, self._first_came
        )

    def __repr__(self) -> str:
        complete = self._complete
        return f"<BlockCache {len(complete)} runs of {complete.currsize} bytes, {self._in_flight_bytes} in flight>"

    @property
    def used_bytes(self) -> int:
        return int(self._complete.currsize) + self._in_flight_bytes

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows of reading ahead."""
        unread = sum([max(0, min(run.unread, run.filled)) for run in self._complete])
        return {
            "fetched_bytes": self._ahead_bytes,
            "unread_bytes": unread,
            "wasted_bytes": self._wasted_bytes,
            "asked_again": self._flights.asked_again,
        }

    @property
    def spare_bytes(self) -> int:
        """How much may be fetched now that nobody waits for."""
        return 0 if self._demands else self._limit_bytes // 2 - self._in_flight_bytes

    # looking

    def peek(self, version: Version, start: int, stop: int) -> memoryview | None:
        """`[start, stop)` where it lies, if one run has it all; valid until the next checkpoint."""
        blocks = self._index.get(version)
        if blocks is None:
            return None
        run = blocks.get(start // self.block_bytes)
        if run is None or stop - run.start > run.filled:
            return None
        self._complete.get(run)
        run.unread -= stop - start
        return run.memory.view[start - run.start : stop - run.start]

    def holds(self, version: Version) -> bool:
        """Whether the first block is here."""
        return self.peek(version, 0, min(version.size, self.block_bytes)) is not None

    def version_id(self, version: Version) -> str | None:
        """The id that the first block, if it is here, has come with."""
        run = self._index.get(version, {}).get(0)
        return None if run is None else run.version.version_id

    # fetching

    async def read_into(self, version: Version, start: int, into: memoryview) -> None:
        """Bytes of a version from `start` on. Raises Stale when the version is not in the bucket any more."""
        done = 0
        while done < len(into):
            position = start + done
            run = await self._run_at(version, position, start + len(into))
            count = min(run.stop - position, len(into) - done)
            try:
                await run.wait(position - run.start + count)
                run.unread -= count
                at = position - run.start
                into[done : done + count] = run.memory.view[at : at + count]
            except Interrupted:
                continue
            finally:
                run.memory.unpin()
            done += count

    async def view(self, version: Version, start: int, stop: int) -> memoryview:
        """`[start, stop)`, valid until the next checkpoint; joined when it lies in several runs."""
        run = await self._run_at(version, start, stop)
        try:
            if stop <= run.stop:
                await run.wait(stop - run.start)
                run.unread -= stop - start
                return run.memory.view[start - run.start : stop - run.start]
        except Interrupted:
            pass
        finally:
            run.memory.unpin()
        memory = self._buffers.take(stop - start)
        try:
            joined = memory.view[: stop - start]
            await self.read_into(version, start, joined)
            return joined
        finally:
            memory.unpin()

    def fetch_ahead(self, version: Version, start: int, stop: int) -> bool:
        """Begin to fetch what is missing of `[start, stop)`; False when there was no memory for all of it."""
        for low, high in self._wanted(version, start, stop):
            capacity = self._buffers.capacity_for(high - low)
            # Half of the memory stays for those who wait for their bytes.
            if self._demands or self._in_flight_bytes + capacity > self._limit_bytes // 2:
                return False
            if not self._make_room(capacity):
                return False
            run = self._begin(version, low, high)
            run.unread = run.size
            self._ahead_bytes += run.size
            self._nursery.start_soon(self._fetch, run)
        return True

    async def validate(self, version: Version) -> ObjectInfo | None:
        """Ask the bucket for the first block; a condition instead of the bytes when it is here, and then None is
        answered. Raises Changed; the other version's first block is here then."""
        if self._disk is not None and not self.holds(version) and self._disk.believes(version, 0):
            await self._load_first(version)
        return await self._validation.validate(version)

    def forget(self, version: Version) -> None:
        """The version is not in the bucket any more, or of no use."""
        for run in set(self._index.get(version, {}).values()):
            if run in self._complete:
                del self._complete[run]
                self._drop(run)
        if self._disk is not None:
            self._disk.forget(version)
        self._serve_demands()

    # inside

    async def _load_first(self, version: Version) -> None:
        """Have the first block here, if it is on disk; what the bucket says of it is not asked yet."""
        size = min(version.size, self.block_bytes)
        async with self._lend(size) as memory:
            assert self._disk is not None
            if await self._disk.read(version, 0, memory, size) == size:
                self._take_in(version, memory, size)

    @asynccontextmanager
    async def _lend(self, size: int) -> AsyncIterator[Pinned]:
        """Memory for a block that arrives, as soon as there is some."""
        capacity = self._buffers.capacity_for(size)
        waited = False
        while not self._may_take(capacity, waited=waited):
            await self._wait_for_room(capacity, again=waited)
            waited = True
        try:
            memory = self._buffers.take(size)
            self._in_flight_bytes += memory.capacity
        finally:
            self._serve_demands()
        try:
            yield memory
        finally:
            self._in_flight_bytes -= memory.capacity
            memory.unpin()
            self._serve_demands()

    def _first_came(self, version: Version, memory: Pinned, size: int) -> None:
        self._take_in(version, memory, size)
        if self._disk is not None:
            self._disk.offer(version, 0, size, memory)

    def _take_in(self, version: Version, memory: Pinned, size: int) -> None:
        """Make these bytes the first block of a version, unless it is here."""
        if 0 in self._index.get(version, {}):
            return
        memory.pin()
        run = Run(version, 0, size, memory)
        run.filled = size
        self._index.setdefault(version, {})[0] = run
        self._complete[run] = memory.capacity

    async def _run_at(self, version: Version, position: int, stop: int) -> Run:
        """The run that has or will have the block at `position`, pinned; what is missing up to `stop` is asked for."""
        waited = False
        while True:
            run = self._index.get(version, {}).get(position // self.block_bytes)
            if run is not None:
                self._complete.get(run)
                run.memory.pin()
                # Who was woken for memory and needs none passes that on.
                self._serve_demands()
                return run
            low, high = next(self._wanted(version, position, min(stop, position + self._get_max_bytes)))
            capacity = self._buffers.capacity_for(high - low)
            if not self._may_take(capacity, waited=waited):
                await self._wait_for_room(capacity, again=waited)
                waited = True
                continue
            try:
                run = self._begin(version, low, high)
            finally:
                self._serve_demands()
            run.memory.pin()
            if high - low <= self.block_bytes:
                try:
                    await self._fetch(run)
                except BaseException:
                    run.memory.unpin()
                    raise
            else:
                self._nursery.start_soon(self._fetch, run)
            return run

    def _wanted(self, version: Version, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """What nobody has asked for, cut where the disk tier begins or ends to have it."""
        there = self._index.get(version, {})
        for low, high in missing(version, start, stop, there, self.block_bytes):
            while self._disk is not None and low < high and (end := self._disk.reach(version, low, high)) < high:
                yield low, end
                low = end
            yield low, high

    def _begin(self, version: Version, start: int, stop: int) -> Run:
        run = Run(version, start, stop, self._buffers.take(stop - start))
        self._in_flight_bytes += run.memory.capacity
        blocks = self._index.setdefault(version, {})
        for number in range(start // self.block_bytes, -(-stop // self.block_bytes)):
            blocks.setdefault(number, run)
        return run

    async def _fetch(self, run: Run) -> None:
        """Fill a run. Errors are kept in it for those who wait."""
        version, size = run.version, run.stop - run.start
        error: S3MountError = Interrupted("the fetch was interrupted")
        complete = False
        try:
            loaded = await self._load(version, run)
            if loaded < size:
                info = await self._get(version, run)
                if info is None or info.etag != version.etag or info.size != version.size:
                    run.filled = 0
                    raise Stale(f"{version.key!r} is another version now, and the store ignored the condition")
                if self._disk is not None:
                    self._disk.offer(version, run.start + loaded, run.stop, run.memory, offset=loaded)
            run.arrived(size)
            complete = True
        except (PreconditionFailed, NotFound, RangeNotSatisfiable) as caught:
            error = Stale(f"{version.key!r} is another version now")
            error.__cause__ = caught
        except S3MountError as caught:
            error = caught
        except Exception as caught:
            log.exception("fetch failed by a bug key=%r start=%d", version.key, run.start)
            error = Unavailable(f"{version.key!r} could not be fetched")
            error.__cause__ = caught
        finally:
            self._in_flight_bytes -= run.memory.capacity
            if complete:
                self._complete[run] = run.memory.capacity
            else:
                run.error = error
                for _, event in run.waiters:
                    event.set()
                run.waiters.clear()
                self._drop(run)
            self._serve_demands()

    async def _load(self, version: Version, run: Run) -> int:
        """How many of its first bytes the disk tier had."""
        if self._disk is None or not self._disk.believes(version, run.start):
            return 0
        count = await self._disk.read(version, run.start, run.memory, run.stop - run.start)
        if count is None:
            raise Interrupted("the disk does not answer, and may write to the memory still")
        run.arrived(count)
        return count

    async def _get(self, version: Version, run: Run) -> ObjectInfo | None:
        """What is missing behind what is there, by key and etag, which needs no permission beyond s3:GetObject; by the
        version's id where it needs it."""
        if not version.pinned:
            try:
                return await self._flights.get(run)
            except (PreconditionFailed, NotFound, RangeNotSatisfiable):
                if version.version_id is None:
                    raise
        return await self._flights.get(run, version_id=version.version_id)

    def _drop(self, run: Run) -> None:
        self._wasted_bytes += max(0, min(run.unread, run.filled))
        blocks = self._index[run.version]
        for number in range(run.start // self.block_bytes, -(-run.stop // self.block_bytes)):
            if blocks.get(number) is run:
                del blocks[number]
        if not blocks:
            del self._index[run.version]
        run.memory.unpin()

    @property
    def _kept_bytes(self) -> int:
        """What many small runs take beside their bytes."""
        return RUN_BYTES * max(0, len(self._complete) - self._limit_bytes // RECYCLED_MIN_BYTES)

    def _make_room(self, capacity: int) -> bool:
        while self.used_bytes + self._kept_bytes + capacity > self._limit_bytes:
            if not self._complete:
                return not self._in_flight_bytes
            run, _ = self._complete.popitem()
            self._drop(run)
        return True

    def _may_take(self, capacity: int, *, waited: bool) -> bool:
        """Whether there is memory, and a turn: who needs little would keep who needs much waiting for ever."""
        return (waited or not self._demands) and self._make_room(capacity)

    async def _wait_for_room(self, capacity: int, *, again: bool) -> None:
        event = trio.Event()
        demand = (capacity, event)
        if again:
            self._demands.appendleft(demand)
        else:
            self._demands.append(demand)
        try:
            await event.wait()
        except BaseException:
            if demand in self._demands:
                self._demands.remove(demand)
            raise

    def _serve_demands(self) -> None:
        while self._demands and self._make_room(self._demands[0][0]):
            # It looks again itself: the room is not reserved for it, but nobody else is woken before it runs.
            _, event = self._demands.popleft()
            event.set()
            return
