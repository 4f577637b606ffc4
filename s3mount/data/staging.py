"""The log that holds dirty bytes until they are in the bucket.

A position is an integer: chunk number times CHUNK_BYTES plus an offset; chunk numbers are never used twice. A chunk is
memory at first. When the memory share runs short, `reclaim` drops what was sent and is not needed any more; then
writers wait, in turn, for uploads that free memory, as long as these do so within PATIENCE_SECONDS; then worker threads
write the oldest chunks to disk (`spill`). So a stream that the network keeps up with touches no disk. Bytes live until
they are freed; what a hold (an upload in flight, a read that waits) covers is freed when the last hold of its chunk
ends, and is never rewritten before. Knows no files, keys or extents.

Who runs at the same time: everything here is the loop's, except that a worker thread reads one chunk's memory while it
is `spilling` (nothing rewrites it then) or fills memory of its caller from disk (the chunk is held).
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from math import inf
from pathlib import Path

import trio

from s3mount.data.budget import Budget
from s3mount.data.buffers import Buffers
from s3mount.data.chunks import CHUNK_BYTES, Chunk, Tail, living
from s3mount.data.spill import Slot, Spill
from s3mount.errors import Lost, StagingFull

log = logging.getLogger(__name__)

OWN_TAIL_BYTES = 256 * 1024
"""A file with more in the log appends to a chunk of its own, so that its bytes lie together and go together."""
SPILLS_MAX = 2
SPILL_AHEAD_CHUNKS = 4
PATIENCE_SECONDS = 1.0
"""Eight parts of 5 MiB that end together come so often at 40 MB/s: a slower network goes by way of the disk."""
DISK_FULL_SECONDS = 60.0
"""How long a disk that refused is thought full. What was sent is dropped early meanwhile, so that memory may never run
out and no chunk be tried on the disk: a mount that waited for one to succeed would be short for good."""
TOLD_SECONDS = 60.0  # a disk that takes no more is one line in so long, however many writes it refuses
RunInThread = Callable[[Callable[[], None]], Awaitable[None]]


class Hold:
    """Keeps what the log has at some positions as it is, until `release`."""

    __slots__ = ("_chunks", "_staging")

    def __init__(self, staging: "Staging", chunks: tuple[Chunk, ...]) -> None:
        self._staging = staging
        self._chunks = chunks

    def release(self) -> None:
        chunks, self._chunks = self._chunks, ()
        self._staging.end_hold(chunks)


class Staging:
    """See the module."""

    def __init__(
        self,
        nursery: trio.Nursery,
        buffers: Buffers,
        budget: Budget,
        directory: Path,
        *,
        memory_bytes: int,
        segment_bytes: int,
        reclaim: Callable[[], bool],
        run_in_thread: RunInThread = trio.to_thread.run_sync,
    ) -> None:
        # The mutable state: chunks by number; those in memory in the order they were begun; the shared tail; the
        # spills under way, the latest error and when one was logged; the line of writers who wait for memory and the
        # bytes they bring, which are memory too, the first of them parked until memory comes back, may be reclaimed, or
        # nothing will bring any; when memory last came back without the disk, or was ample. Chunks in memory never
        # exceed `chunks_max`.
        self.budget = budget
        self._reclaim = reclaim
        self._nursery = nursery
        self._buffers = buffers
        self._spill = Spill(directory, chunk_bytes=CHUNK_BYTES, segment_bytes=segment_bytes)
        self._run_in_thread = run_in_thread
        # A quarter of the share is for the requests of writers who wait: each is bytes here and a buffer of libfuse.
        self._share_bytes = memory_bytes
        self._chunks_max = max(8, memory_bytes * 3 // 4 // CHUNK_BYTES)
        self._chunks: dict[int, Chunk] = {}
        self._in_memory: OrderedDict[int, Chunk] = OrderedDict()
        self._serial = 0
        self._shared = Tail()
        self._spills = 0
        self._spill_error: OSError | None = None
        self._told_seconds = -inf
        self._line = trio.Lock()
        self._waiting_bytes = 0
        self._room = trio.lowlevel.ParkingLot()
        budget.when_idle = self._room.unpark_all
        self._eased_seconds = 0.0

    def __repr__(self) -> str:
        return f"<Staging {len(self._chunks)} chunks, {len(self._in_memory)} in memory, {self.budget!r}>"

    @property
    def chunks(self) -> int:
        """How many chunks there are, the shared tail included."""
        return len(self._chunks)

    @property
    def chunks_in_memory(self) -> int:
        return len(self._in_memory)

    @property
    def crowded(self) -> bool:
        """Whether writers wait for memory, or the next one would."""
        return self._line.locked() or not self._has_memory(CHUNK_BYTES)

    # appending

    def ready(self, size: int) -> bool:
        """Whether `append` of `size` bytes may be called now."""
        return self.budget.roomy(size) and not self._line.locked() and self._has_memory(size)

    async def wait_for_memory(self, size: int) -> None:
        """Wait in line until there is memory for `size` bytes. Raises StagingFull when the disk takes no more and no
        upload under way frees any."""
        self._waiting_bytes += size
        try:
            # A later, smaller write let through would leave a hole in what could be sent.
            async with self._line:
                known = self._spill_error
                while not self._has_memory(size):
                    if not self._reclaim():
                        await self._more_memory(size, known)
        finally:
            self._waiting_bytes -= size

    async def _more_memory(self, size: int, known: OSError | None) -> None:
        """Wait until some memory came back: from uploads while they keep up, else by way of the disk."""
        if self.budget.freeing:
            with trio.move_on_at(self._eased_seconds + PATIENCE_SECONDS):
                await self._room.park()
                return
        if self._spill_error is known or not self.budget.disk_full:
            self._begin_spills()  # one that fails is not tried again before another write comes, or for a while
        if not self._spills and self._spill_error is not known:
            self.budget.reclaim(size + CHUNK_BYTES)
            if self._has_memory(size):
                return
            if not self.budget.freeing:
                raise StagingFull(f"the staging directory takes no more: {self._spill_error}")
        with trio.move_on_at(self.budget.disk_full_until if self.budget.disk_full else inf):
            await self._room.park()

    def append(self, data: memoryview, tail: Tail) -> Iterator[tuple[int, int]]:
        """Copy bytes to the end of the log; positions and sizes, in order. To be exhausted at once."""
        size = len(data)
        tail.appended += size
        if tail.appended <= OWN_TAIL_BYTES:
            tail = self._shared
        done = 0
        while done < size:
            chunk = tail.chunk
            # With a slot the memory is dropped, when the last hold ends if not at once, and what came later with it.
            if chunk is None or chunk.used == CHUNK_BYTES or chunk.slot is not None or chunk.memory is None:
                chunk = self._next_chunk(tail)
            assert chunk.memory is not None
            start = chunk.used
            count = min(size - done, CHUNK_BYTES - start)
            chunk.memory.view[start : start + count] = data[done : done + count]
            chunk.used += count
            chunk.live += count
            done += count
            self.budget.used(count)
            yield chunk.number * CHUNK_BYTES + start, count

    def in_memory(self, position: int, size: int) -> bool:
        """Whether some of it is only in memory."""
        return any(chunk.slot is None for chunk, _, _ in self._within(position, size))

    def rewritable(self, position: int, size: int) -> bool:
        """Whether `rewrite` may be called now: all in memory, and nobody holds or saves it."""
        return all(
            chunk.memory is not None and not chunk.holds and not chunk.spilling
            for chunk, _, _ in self._within(position, size)
        )

    def rewrite(self, position: int, data: memoryview) -> None:
        """Change bytes where they lie."""
        done = 0
        for chunk, start, stop in self._within(position, len(data)):
            assert chunk.memory is not None
            chunk.memory.view[start:stop] = data[done : done + stop - start]
            done += stop - start

    def end_tail(self, tail: Tail) -> None:
        """The file that used `tail` appends no more, or starts over."""
        tail.chunk = None
        tail.appended = 0

    # reading

    def peek(self, position: int, size: int) -> memoryview | None:
        """The bytes where they lie, when one chunk in memory has them all. Valid until the next checkpoint."""
        start = position % CHUNK_BYTES
        memory = self._chunks[position // CHUNK_BYTES].memory
        if memory is None or start + size > CHUNK_BYTES:
            return None
        return memory.view[start : start + size]

    def hold(self, ranges: Iterable[tuple[int, int]]) -> Hold:
        """Keep positions and sizes as they are."""
        found = {chunk.number: chunk for position, size in ranges for chunk, _, _ in self._within(position, size)}
        for chunk in found.values():
            chunk.holds += 1
        return Hold(self, tuple(found.values()))

    def views(self, position: int, size: int) -> Iterator[memoryview | int]:
        """What is in memory, in order, and for what is not its number of bytes. Stays valid under a hold."""
        for chunk, start, stop in self._within(position, size):
            if chunk.memory is not None:
                yield chunk.memory.view[start:stop]
            else:
                yield stop - start

    def copy(self, position: int, into: memoryview) -> bool:
        """Copy bytes out if all are in memory; else False, and `load` has to be awaited."""
        done = 0
        within = list(self._within(position, len(into)))
        if any(chunk.memory is None for chunk, _, _ in within):
            return False
        for chunk, start, stop in within:
            assert chunk.memory is not None
            into[done : done + stop - start] = chunk.memory.view[start:stop]
            done += stop - start
        return True

    async def load(self, position: int, into: memoryview) -> None:
        """Copy bytes out, from disk where they are; the caller holds the range. Raises Lost on a disk error."""
        done = 0
        for chunk, start, stop in list(self._within(position, len(into))):
            part = into[done : done + stop - start]
            done += stop - start
            if chunk.memory is not None:
                part[:] = chunk.memory.view[start:stop]
                continue
            slot = chunk.slot
            assert slot is not None

            def read(slot: Slot = slot, start: int = start, part: memoryview = part) -> None:
                self._spill.read(slot, start, part)

            try:
                await self._run_in_thread(read)
            except OSError as error:
                raise Lost(f"the staging directory cannot be read: {error}") from error

    # freeing

    def free(self, taken: Iterable[tuple[int, int]]) -> None:
        """Nobody refers to these positions any more."""
        for position, size in taken:
            for chunk, start, stop in self._within(position, size):
                if chunk.holds:
                    chunk.deferred.append((start, stop))
                else:
                    self._bury(chunk, start, stop)
                    self._settle(chunk)

    def end_hold(self, chunks: Iterable[Chunk]) -> None:
        """Only for Hold."""
        for chunk in chunks:
            chunk.holds -= 1
            if not chunk.holds:
                deferred, chunk.deferred = chunk.deferred, []
                for start, stop in deferred:
                    self._bury(chunk, start, stop)
                self._settle(chunk)
        self._room.unpark_all()

    def _bury(self, chunk: Chunk, start: int, stop: int) -> None:
        chunk.live -= stop - start
        assert chunk.live >= 0
        if chunk.slot is not None and not chunk.spilling:
            self._spill.discard(chunk.slot, start, stop)
        else:
            chunk.dead.append((start, stop))
        self.budget.freed(stop - start)

    def _settle(self, chunk: Chunk) -> None:
        """Give back what the chunk does not need any more."""
        if chunk.holds or chunk.spilling or chunk.number not in self._chunks:
            return
        if chunk.live == 0:
            if chunk.is_tail and chunk.memory is not None:
                chunk.used = 0
                chunk.dead.clear()
                return
            del self._chunks[chunk.number]
            if chunk.slot is not None:
                self._spill.release(chunk.slot)
                chunk.slot = None
        elif chunk.slot is None:
            return
        self._drop_memory(chunk)

    def _drop_memory(self, chunk: Chunk) -> None:
        if chunk.memory is not None:
            chunk.memory.unpin()
            chunk.memory = None
            del self._in_memory[chunk.number]
            if chunk.slot is None:
                self._eased_seconds = trio.current_time()
            self._room.unpark_all()

    # inside

    def _within(self, position: int, size: int) -> Iterator[tuple[Chunk, int, int]]:
        assert position >= 0
        stop = position + size
        while position < stop:
            start = position % CHUNK_BYTES
            count = min(stop - position, CHUNK_BYTES - start)
            yield self._chunks[position // CHUNK_BYTES], start, start + count
            position += count

    def _has_memory(self, size: int) -> bool:
        return len(self._in_memory) + size // CHUNK_BYTES + 2 <= self._chunks_max_now

    @property
    def _chunks_max_now(self) -> int:
        """Fewer while writers wait with more than the quarter that is theirs, down to half."""
        left = (self._share_bytes - 2 * self._waiting_bytes) // CHUNK_BYTES
        return min(self._chunks_max, max(left, self._chunks_max // 2))

    def _next_chunk(self, tail: Tail) -> Chunk:
        former = tail.chunk
        if former is not None:
            former.is_tail = False
            self._settle(former)
        self._serial += 1
        # Recycled memory and a copy. To keep the bytes the kernel's request was read into saved no CPU and left 35 MiB
        # more resident (measured): the next request is then read into fresh memory, at 0.7 ms for each MiB on a busy
        # virtual machine.
        chunk = tail.chunk = Chunk(self._serial, self._buffers.take(CHUNK_BYTES))
        chunk.is_tail = tail is self._shared
        self._chunks[chunk.number] = self._in_memory[chunk.number] = chunk
        if len(self._in_memory) <= self._chunks_max // 2:
            self._eased_seconds = trio.current_time()
        elif not self.budget.freeing:
            self._begin_spills()
        return chunk

    def _begin_spills(self) -> None:
        if len(self._in_memory) + SPILL_AHEAD_CHUNKS <= self._chunks_max_now:
            return
        for chunk in self._in_memory.values():
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
            self.budget.disk_full_until = -inf
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
            self._room.unpark_all()

    def _spill_failed(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._told_seconds >= TOLD_SECONDS:
            log.error("staging directory refused a write reason=%s", error)
            self._told_seconds = now
        self._spill_error = error
        self.budget.disk_full_until = now + DISK_FULL_SECONDS
        self._room.unpark_all()
