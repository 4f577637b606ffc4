"""The disk tier of the block cache: what is read of it, what is written to it, in worker threads behind the readers.

It saves requests and is never needed. What comes from the store is offered and written when somebody has the time: what
is in the line is memory of the block cache, and what the cache has dropped before its turn is not written. Blocks of
one piece wait for each other for LINGER_SECONDS. Whatever befalls the directory costs one log line, and then it is left
alone for REST_SECONDS. Whether bytes of a version may be used at all, the validation at open has settled before. Knows
no store, no run; what a file looks like is `pieces`', where it lies is `piecefiles`'.
"""

import functools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from typing import NamedTuple

import trio

from s3mount.data.buffers import RECYCLED_MIN_BYTES, Pinned
from s3mount.data.piecefiles import Job, PieceFiles
from s3mount.data.pieces import PIECE_BLOCKS, content_of, cut
from s3mount.data.version import Version

log = logging.getLogger(__name__)

READERS = 4
READ_MAX_BYTES = 4 * 1024 * 1024
"""What one thread reads at a time: its bytes are usable when all have come."""
READ_SECONDS = 5.0
"""For a read and those before it in line. A slower disk is worse than the requests it would save."""
BATCH_BYTES = 8 * 1024 * 1024
LINE_MAX = 4096
GATHER_SECONDS = 0.1
"""Small files are written together: a thread costs as much as one of them."""
LINGER_SECONDS = 1.0
LOOK_SECONDS = 15.0
"""How old the knowledge of what other mounts have put there may grow while something is missing."""
REST_SECONDS = 60.0
TOLD_SECONDS = 600.0
"""A disk that is full is one line in so long."""
WRITE_SECONDS = 20.0
CLOSE_SECONDS = 5.0
GIVEN_UP = "cache on disk was given up for a while"
FORGOTTEN_MAX = 1024

RunInThread = Callable[[Callable[[], None], trio.CapacityLimiter], Awaitable[None]]


async def in_thread(call: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
    """A thread is left to itself by a mount that ends."""
    await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)


class Offer(NamedTuple):
    """Blocks `[start, stop)`, in bytes, of a version, in memory that begins with them at `offset`."""

    start: int
    stop: int
    memory: Pinned
    offset: int


class _Waiting:
    """What of one piece is in the line, since when."""

    __slots__ = ("missing", "offers", "since", "size")

    def __init__(self, size: int, since: float) -> None:
        self.size = self.missing = size
        self.offers: list[Offer] = []
        self.since = since


class DiskTier:
    """See the module."""

    def __init__(
        self,
        files: PieceFiles,
        nursery: trio.Nursery,
        *,
        endpoint: str,
        bucket: str,
        block_bytes: int,
        run_in_thread: RunInThread = in_thread,
    ) -> None:
        # The mutable state: the line, by piece of the largest size, and the bytes of what is complete in it; whether
        # its writer runs, and what wakes it; whether somebody looks at the directory, and when that was last done;
        # until when it is not read, not written; reads and writes that were given up and whose threads are not through;
        # versions that are gone; when something was told; the figures.
        self._files = files
        self._nursery = nursery
        self._block_bytes = block_bytes
        self._piece_bytes = PIECE_BLOCKS * block_bytes
        self._run_in_thread = run_in_thread
        self._readers = trio.CapacityLimiter(READERS)
        self._writers = trio.CapacityLimiter(1)
        self._content = functools.lru_cache(maxsize=1024)(
            lambda version: content_of(endpoint, bucket, version.key, version.etag, version.size)
        )
        self._line: OrderedDict[tuple[Version, int], _Waiting] = OrderedDict()
        self._ready_bytes = 0
        self._writing = False
        self._wake = trio.Event()
        self._looking = False
        self._looked_seconds = -inf
        self._no_reads_until = self._no_writes_until = -inf
        self._late: set[trio.Event] = set()
        self._forgotten: OrderedDict[Version, None] = OrderedDict()
        self._told_seconds = -inf
        self._damaged_told = 0
        self._hits = self._misses = self._dropped = 0

    def __repr__(self) -> str:
        return f"<DiskTier {self._files.total_bytes} of {self._files.limit_bytes} bytes, {len(self._line)} in line>"

    @property
    def used_bytes(self) -> int:
        return self._files.total_bytes

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows; hits and misses are blocks."""
        now = trio.current_time()
        return {
            "used_bytes": self._files.total_bytes,
            "max_bytes": self._files.limit_bytes,
            "hits": self._hits,
            "misses": self._misses,
            "not_written": self._dropped,
            "damaged": self._files.damaged,
            "given_up_for_a_while": self._hangs or now < max(self._no_reads_until, self._no_writes_until),
        }

    # reading

    def believes(self, version: Version, start: int) -> bool:
        """Whether the block that begins at `start` may be there."""
        if not self._readable(version):
            return False
        content, belief = self._content(version), self._files.belief
        return belief.has_any(content) and belief.covering(content, start // self._block_bytes) is not None

    def reach(self, version: Version, start: int, stop: int) -> int:
        """How far from `start` on, at most up to `stop`, all blocks may be there or none is."""
        if not self._readable(version):
            return stop
        content, belief, size = self._content(version), self._files.belief, self._block_bytes
        if not belief.has_any(content):
            return stop
        piece = belief.covering(content, start // size)
        position = start
        if piece is None:
            while position < stop and belief.covering(content, position // size) is None:
                position += size
            return min(position, stop)
        stop = min(stop, start - start % READ_MAX_BYTES + READ_MAX_BYTES)
        while piece is not None and position < stop:
            position = piece.stop * size
            piece = belief.covering(content, piece.stop)
        return min(position, stop)

    async def read(self, version: Version, start: int, memory: Pinned, size: int) -> int | None:
        """Fill `memory` with `size` bytes of a version from `start` on, as far as they are there: how many. None: the
        disk does not answer, and may write to the memory still."""
        over = trio.Event()
        counts = [0]
        memory.pin()
        self._nursery.start_soon(self._read, version, start, memory, size, counts, over)
        with trio.move_on_after(READ_SECONDS):
            await over.wait()
        if not over.is_set():
            self._late.add(over)
            self._no_reads_until = trio.current_time() + REST_SECONDS
            self._tell(GIVEN_UP, f"a read took more than {READ_SECONDS:.0f} s")
            return None
        self._hits += -(-counts[0] // self._block_bytes)
        return counts[0]

    async def _read(
        self, version: Version, start: int, memory: Pinned, size: int, counts: list[int], over: trio.Event
    ) -> None:
        into = memory.view[:size]
        content = self._content(version)
        aligned = _aligned(memory)

        def read() -> None:
            counts[0] = self._files.read(content, start, into, aligned=aligned)

        if await self._attempt(read, self._readers) is not None:
            self._no_reads_until = trio.current_time() + REST_SECONDS
        # Not when cancelled: the thread goes on.
        memory.unpin()
        self._late.discard(over)
        over.set()

    # writing

    def offer(self, version: Version, start: int, stop: int, memory: Pinned, *, offset: int = 0) -> None:
        """These blocks have come from the store, into `memory` from `offset` on."""
        self._misses += -(-(stop - start) // self._block_bytes)
        self._forgotten.pop(version, None)
        if self._hangs or trio.current_time() < self._no_writes_until:
            return
        position = start
        while position < stop:
            number = position // self._piece_bytes
            piece_start, piece_stop = number * self._piece_bytes, min((number + 1) * self._piece_bytes, version.size)
            end = min(stop, piece_stop)
            waiting = self._line.get((version, number))
            if waiting is None:
                if len(self._line) >= LINE_MAX:
                    self._dropped += 1
                    return
                waiting = _Waiting(piece_stop - piece_start, trio.current_time())
                self._line[version, number] = waiting
            waiting.offers.append(Offer(position, end, memory, offset + position - start))
            if waiting.missing > 0:
                waiting.missing -= end - position
                if waiting.missing <= 0:
                    self._ready_bytes += waiting.size
            position = end
        if self._ready_bytes >= BATCH_BYTES:
            self._wake.set()
        if not self._writing:
            self._writing = True
            self._nursery.start_soon(self._write_line)

    def forget(self, version: Version) -> None:
        """The version is gone: nothing of it is to be read, until it comes from the store again."""
        self._forgotten[version] = None
        if len(self._forgotten) > FORGOTTEN_MAX:
            self._forgotten.popitem(last=False)

    async def _write_line(self) -> None:
        """Until nothing waits; when the mount ends, what waits then, in time."""
        try:
            while self._line:
                with trio.move_on_after(GATHER_SECONDS):
                    await self._wake.wait()
                self._wake = trio.Event()
                while await self._write_batch(trio.current_time() - LINGER_SECONDS):
                    await trio.lowlevel.checkpoint_if_cancelled()  # the batch was shielded
        except trio.Cancelled:
            with trio.move_on_after(CLOSE_SECONDS) as last:
                last.shield = True
                while await self._write_batch(inf):
                    await trio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            self._writing = False

    async def _write_batch(self, before: float) -> bool:
        """Write of what is complete, or has waited since `before`, as much as one thread should; whether there was
        any."""
        jobs: list[Job] = []
        pinned: list[Pinned] = []
        size = 0
        for name, waiting in [item for item in self._line.items() if item[1].missing <= 0 or item[1].since <= before]:
            del self._line[name]
            if waiting.missing <= 0:
                self._ready_bytes -= waiting.size
            alive = [offer for offer in waiting.offers if offer.memory.pins]  # else the cache needed the memory
            self._dropped += len(waiting.offers) - len(alive)
            for offer in alive:
                offer.memory.pin()
                pinned.append(offer.memory)
            jobs += self._jobs(name[0], sorted(alive, key=_start))
            size += sum(offer.stop - offer.start for offer in alive)
            if size >= BATCH_BYTES:
                break
        if not pinned:
            return False
        await self._write(jobs, pinned)
        return True

    async def _write(self, jobs: list[Job], pinned: list[Pinned]) -> None:
        """Write these, also when the mount ends."""
        over, shelter = trio.Event(), trio.CancelScope(shield=True)
        self._nursery.start_soon(self._write_jobs, jobs, pinned, shelter, over)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_SECONDS):
            await over.wait()
        if not over.is_set():
            shelter.shield = False
            self._late.add(over)
            self._tell(GIVEN_UP, f"a write took more than {WRITE_SECONDS:.0f} s")
            self._stop_writing()

    async def _write_jobs(
        self, jobs: list[Job], pinned: list[Pinned], shelter: trio.CancelScope, over: trio.Event
    ) -> None:
        def write() -> None:
            self._files.write(jobs)

        with shelter:
            if await self._attempt(write, self._writers) is not None:
                self._stop_writing()
        # As after a read: a thread that was left to itself still looks at the memory.
        for memory in pinned:
            memory.unpin()
        self._late.discard(over)
        over.set()

    def _stop_writing(self) -> None:
        self._no_writes_until = trio.current_time() + REST_SECONDS
        self._dropped += sum(len(waiting.offers) for waiting in self._line.values())
        self._line.clear()
        self._ready_bytes = 0

    def _jobs(self, version: Version, offers: list[Offer]) -> Iterator[Job]:
        """What to write of offers of one piece, in order."""
        size = self._block_bytes
        content, end = self._content(version), -(-version.size // size)
        while offers:
            side, stop = [], offers[0].start
            while offers and offers[0].start <= stop:
                offer = offers.pop(0)
                if offer.stop > stop:
                    side.append(offer._replace(start=stop, offset=offer.offset + stop - offer.start))
                    stop = offer.stop
            for piece in cut(side[0].start // size, -(-stop // size), end):
                low, high = piece.start * size, min(piece.stop * size, version.size)
                parts = [offer for offer in side if offer.start < high and low < offer.stop]
                views = [
                    offer.memory.view[
                        offer.offset + max(low - offer.start, 0) : offer.offset + min(high, offer.stop) - offer.start
                    ]
                    for offer in parts
                ]
                yield Job(content, piece, views, all(_aligned(offer.memory) for offer in parts))

    # the directory

    async def look(self) -> None:
        """Learn what is in the directory."""
        self._looking = True
        try:
            if await self._attempt(self._files.look, self._writers) is not None:
                self._no_reads_until = self._no_writes_until = trio.current_time() + REST_SECONDS
        finally:
            self._looked_seconds = trio.current_time()
            self._looking = False

    @property
    def _hangs(self) -> bool:
        """Whether a thread has not come back in time: its memory is pinned, and no more is to be."""
        return bool(self._late)

    def _readable(self, version: Version) -> bool:
        now = trio.current_time()
        if self._hangs or now < self._no_reads_until or version in self._forgotten:
            return False
        if now - self._looked_seconds >= LOOK_SECONDS and not self._looking:
            self._looking = True
            self._nursery.start_soon(self.look)
        return True

    async def _attempt(self, call: Callable[[], object], limiter: trio.CapacityLimiter) -> Exception | None:
        """Run this in a thread; the reason if the disk did not let it."""
        errors: list[Exception] = []

        def guarded() -> None:
            try:
                call()
            except OSError as error:
                errors.append(error)
            except Exception as error:
                # In the background it would end the mount.
                log.exception("disk tier of the cache met a bug")
                errors.append(error)

        await self._run_in_thread(guarded, limiter)
        if errors:
            self._tell(GIVEN_UP, errors[0])
            return errors[0]
        if self._files.damaged != self._damaged_told:
            self._damaged_told = self._files.damaged
            self._tell("cached piece was damaged and deleted", self._files.damage)
        return None

    def _tell(self, what: str, reason: object) -> None:
        now = trio.current_time()
        if now - self._told_seconds >= TOLD_SECONDS:
            self._told_seconds = now
            log.warning("%s reason=%s directory=%s", what, reason, self._files.directory)


def _start(offer: Offer) -> int:
    return offer.start


def _aligned(memory: Pinned) -> bool:
    """Recycled buffers begin at a page."""
    return memory.capacity > RECYCLED_MIN_BYTES
