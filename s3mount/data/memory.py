"""The memory that the staging log has: which of its chunks are in it, and how it comes back when it runs short.

First `reclaim` drops what was sent and is not needed any more; then writers wait, in turn, for uploads that free
memory, as long as these do so within PATIENCE_SECONDS; then worker threads write the oldest chunks to disk. So a stream
that the network keeps up with touches no disk. Knows no positions, files or keys: what a chunk without memory or
without bytes means is `staging`'s, which is asked to `settle` each chunk that was written.

Who runs at the same time: everything here is the loop's, except that a worker thread reads one chunk's memory while it
is `spilling` (nothing rewrites it then).
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from math import inf

import trio

from s3mount.data.budget import Budget
from s3mount.data.chunks import CHUNK_BYTES, Chunk, living
from s3mount.data.spill import RunInThread, Slot, Spill
from s3mount.errors import StagingFull

log = logging.getLogger(__name__)

SPILLS_MAX = 2
SPILL_AHEAD_CHUNKS = 4
PATIENCE_SECONDS = 1.0
"""Eight parts of 5 MiB that end together come so often at 40 MB/s: a slower network goes by way of the disk."""
DISK_FULL_SECONDS = 60.0
"""How long a disk that refused is thought full. What was sent is dropped early meanwhile, so that memory may never run
out and no chunk be tried on the disk: a mount that waited for one to succeed would be short for good."""
TOLD_SECONDS = 60.0  # a disk that takes no more is one line in so long, however many writes it refuses


class Memory:
    """See the module."""

    def __init__(
        self,
        nursery: trio.Nursery,
        budget: Budget,
        spill: Spill,
        *,
        share_bytes: int,
        reclaim: Callable[[], bool],
        settle: Callable[[Chunk], None],
        run_in_thread: RunInThread,
    ) -> None:
        # The mutable state: the chunks in memory in the order they were begun; the spills under way, the latest error
        # and when one was logged; the line of writers who wait for memory and the bytes they bring, which are memory
        # too, the first of them parked until memory comes back, may be reclaimed, or nothing will bring any; when
        # memory last came back without the disk, or was ample. There are never more than `chunks_max` chunks.
        self._nursery = nursery
        self._budget = budget
        self._spill = spill
        self._reclaim = reclaim
        self._settle = settle
        self._run_in_thread = run_in_thread
        # A quarter of the share is for the requests of writers who wait: each is bytes here and a buffer of libfuse.
        self._share_bytes = share_bytes
        self._chunks_max = max(8, share_bytes * 3 // 4 // CHUNK_BYTES)
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()
        self._spills = 0
        self._spill_error: OSError | None = None
        self._told_seconds = -inf
        self._line = trio.Lock()
        self._waiting_bytes = 0
        self._room = trio.lowlevel.ParkingLot()
        budget.when_idle = self._room.unpark_all
        self._eased_seconds = 0.0

    def __repr__(self) -> str:
        return f"<Memory {len(self._chunks)} of {self._chunks_max} chunks, {self._spills} going to disk>"

    @property
    def chunks(self) -> int:
        """How many chunks are in memory."""
        return len(self._chunks)

    @property
    def crowded(self) -> bool:
        """Whether writers wait for memory, or the next one would."""
        return not self.ready(CHUNK_BYTES)

    def ready(self, size: int) -> bool:
        """Whether there is memory for `size` bytes and nobody waits for it."""
        return not self._line.locked() and self._has_room(size)

    async def wait(self, size: int) -> None:
        """Wait in line until there is memory for `size` bytes. Raises StagingFull when the disk takes no more and no
        upload under way frees any."""
        self._waiting_bytes += size
        try:
            # A later, smaller write let through would leave a hole in what could be sent.
            async with self._line:
                known = self._spill_error
                while not self._has_room(size):
                    if not self._reclaim():
                        await self._more_room(size, known)
        finally:
            self._waiting_bytes -= size

    def add(self, chunk: Chunk) -> None:
        """A chunk was begun, in memory."""
        self._chunks[chunk.number] = chunk
        if len(self._chunks) <= self._chunks_max // 2:
            self._eased_seconds = trio.current_time()
        elif not self._budget.freeing:
            self._begin_spills()

    def drop(self, chunk: Chunk) -> None:
        """Give a chunk's memory back, if it has any."""
        if chunk.memory is not None:
            chunk.memory.unpin()
            chunk.memory = None
            del self._chunks[chunk.number]
            if chunk.slot is None:
                self._eased_seconds = trio.current_time()
            self.look_again()

    def look_again(self) -> None:
        """Have the first in line see whether there is room, or more can be reclaimed."""
        self._room.unpark_all()

    def _has_room(self, size: int) -> bool:
        return len(self._chunks) + size // CHUNK_BYTES + 2 <= self._chunks_max_now

    @property
    def _chunks_max_now(self) -> int:
        """Fewer while writers wait with more than the quarter that is theirs, down to half; where the disk takes none,
        the whole share: two parts must fit, for the first one stays."""
        if self._budget.disk_full:
            return max(self._chunks_max, self._share_bytes // CHUNK_BYTES)
        left = (self._share_bytes - 2 * self._waiting_bytes) // CHUNK_BYTES
        return min(self._chunks_max, max(left, self._chunks_max // 2))

    async def _more_room(self, size: int, known: OSError | None) -> None:
        """Wait until some memory came back: from uploads while they keep up, else by way of the disk."""
        budget = self._budget
        if budget.freeing:
            with trio.move_on_at(self._eased_seconds + PATIENCE_SECONDS):
                await self._room.park()
                return
            if self._has_room(size):
                return  # it came back in the moment in which patience ended, and nobody was parked to be told
        if self._spill_error is known or not budget.disk_full:
            self._begin_spills()  # one that fails is not tried again before another write comes, or for a while
        if not self._spills and self._spill_error is not known:
            budget.reclaim(size + CHUNK_BYTES)
            if self._has_room(size):
                return
            if not budget.freeing:
                raise StagingFull(f"the staging directory takes no more: {self._spill_error}")
        with trio.move_on_at(budget.disk_full_until if budget.disk_full else inf):
            await self._room.park()

    # to disk

    def _begin_spills(self) -> None:
        if len(self._chunks) + SPILL_AHEAD_CHUNKS <= self._chunks_max_now:
            return
        for chunk in self._chunks.values():
            if self._spills >= SPILLS_MAX:
                return
            if not chunk.holds and not chunk.spilling and chunk.live:
                try:
                    chunk.slot = self._spill.allocate()
                except OSError as error:
                    self._spill_failed(error)
                    return
                chunk.spilling = True
                self._spills += 1
                self._nursery.start_soon(self._spill_chunk, chunk, chunk.slot)

    async def _spill_chunk(self, chunk: Chunk, slot: Slot) -> None:
        memory = chunk.memory
        assert memory is not None
        dead_before = len(chunk.dead)
        ranges = living(chunk.used, chunk.dead)

        def write() -> None:
            for start, stop in ranges:
                self._spill.write(slot, start, memory.view[start:stop])

        written = False
        try:
            await self._run_in_thread(write)
            written = True
            self._budget.disk_full_until = -inf
        except OSError as error:
            self._spill_failed(error)
        finally:
            self._spills -= 1
            chunk.spilling = False
            if written:
                chunk.is_tail = False
                for start, stop in chunk.dead[dead_before:]:
                    self._spill.discard(slot, start, stop)
            else:
                chunk.slot = None
                self._spill.release(slot)
            self._settle(chunk)
            self.look_again()

    def _spill_failed(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._told_seconds >= TOLD_SECONDS:
            log.error("staging directory refused a write reason=%s", error)
            self._told_seconds = now
        self._spill_error = error
        self._budget.disk_full_until = now + DISK_FULL_SECONDS
        self.look_again()
