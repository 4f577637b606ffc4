"""The log that holds dirty bytes until they are in the bucket.

A position is an integer: chunk number times CHUNK_BYTES plus an offset; chunk numbers are never used twice. A chunk is
in memory at first, and goes to disk when `memory` runs short. Bytes live until they are freed; what a hold (an upload
in flight, a read that waits) covers is freed when the last hold of its chunk ends, and is never rewritten before. Knows
no files, keys or extents.

Who runs at the same time: everything here is the loop's, except that a worker thread fills memory of its caller from
disk (the chunk is held).
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import trio

from s3mount.data.budget import Budget
from s3mount.data.buffers import Buffers
from s3mount.data.chunks import CHUNK_BYTES, Chunk, Tail
from s3mount.data.memory import Memory
from s3mount.data.spill import RunInThread, Slot, Spill
from s3mount.errors import Lost

OWN_TAIL_BYTES = 256 * 1024
"""A file with more in the log appends to a chunk of its own, so that its bytes lie together and go together."""


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
        # The mutable state: chunks by number, and the shared tail. What is in memory is `memory`'s.
        self.budget = budget
        self._buffers = buffers
        self._spill = Spill(directory, chunk_bytes=CHUNK_BYTES, segment_bytes=segment_bytes)
        self._memory = Memory(
            nursery,
            budget,
            self._spill,
            share_bytes=memory_bytes,
            reclaim=reclaim,
            settle=self._settle,
            run_in_thread=run_in_thread,
        )
        self._run_in_thread = run_in_thread
        self._chunks: dict[int, Chunk] = {}
        self._serial = 0
        self._shared = Tail()

    def __repr__(self) -> str:
        return f"<Staging {len(self._chunks)} chunks, {self._memory.chunks} in memory, {self.budget!r}>"

    @property
    def chunks(self) -> int:
        """How many chunks there are, the shared tail included."""
        return len(self._chunks)

    @property
    def chunks_in_memory(self) -> int:
        return self._memory.chunks

    @property
    def crowded(self) -> bool:
        """Whether writers wait for memory, or the next one would."""
        return self._memory.crowded

    # appending

    def ready(self, size: int) -> bool:
        """Whether `append` of `size` bytes may be called now."""
        return self.budget.roomy(size) and self._memory.ready(size)

    async def wait_for_memory(self, size: int) -> None:
        """Wait in line until there is memory for `size` bytes. Raises StagingFull when the disk takes no more and no
        upload under way frees any."""
        await self._memory.wait(size)

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
        self._memory.look_again()

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
        self._memory.drop(chunk)

    # inside

    def _within(self, position: int, size: int) -> Iterator[tuple[Chunk, int, int]]:
        assert position >= 0
        stop = position + size
        while position < stop:
            start = position % CHUNK_BYTES
            count = min(stop - position, CHUNK_BYTES - start)
            yield self._chunks[position // CHUNK_BYTES], start, start + count
            position += count

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
        self._chunks[chunk.number] = chunk
        self._memory.add(chunk)
        return chunk
