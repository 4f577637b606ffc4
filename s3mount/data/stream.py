"""Parts of a growing file sent before close or fsync asks for them. Nothing is published by it.

A part that is rewritten before completion is sent again under its number, by the sync that completes the upload. Parts
that are sent may be dropped from staging when it runs short, but never the first, and never one whose upload is
conditional on a base. Memory counts as staging here, so that a stream that the network keeps up with touches no disk:
when the memory share runs short, a part that was sent is dropped instead of written to disk. But only while nothing
tells that the program may come back to it: a handle that can read, or a part that was written again, does.
"""

import logging
from collections.abc import Callable, Iterator

import trio

from s3mount.data.content import Content
from s3mount.data.grid import SendPart
from s3mount.data.layers import Layers
from s3mount.data.storage import Storage
from s3mount.data.upload import Multipart
from s3mount.errors import FileTooBig, S3MountError

log = logging.getLogger(__name__)


class Stream:
    """One upload under way while its file is being written."""

    def __init__(self, storage: Storage, layers: Layers, multipart: Multipart, *, returns: bool) -> None:
        # The mutable state: where its parts lie, known beyond the flat ones once the store is; the next part to send;
        # how far parts were ever sent; parts in flight, each with whether it was rewritten meanwhile; parts dropped
        # (all of them stored); whether the program may come back to what was sent; whether a part failed, after which
        # nothing more is sent ahead.
        self._storage = storage
        self._layers = layers
        self.multipart = multipart
        self.grid = storage.grid
        self.next = 1
        self._high = 0
        self._stale: dict[int, bool] = {}
        self._scopes: dict[int, trio.CancelScope] = {}
        self.dropped: set[int] = set()
        self._returns = returns
        self.failed = False
        self._settled = trio.Event()
        self._settled.set()

    def __repr__(self) -> str:
        state = "failed" if self.failed else "going on"
        return f"<Stream {state}, next part {self.next}, in flight {sorted(self._stale)}, {self.multipart!r}>"

    @property
    def in_flight(self) -> int:
        return len(self._stale)

    @property
    def droppable(self) -> bool:
        return self.multipart.condition.etag is None

    def begin_next(self) -> None:
        """Send the next part; its turn was taken."""
        number = self.next
        self.next += 1
        self._high = max(self._high, self.grid.part(number)[1])
        assert number not in self._stale
        self._stale[number] = False
        self._scopes[number] = trio.CancelScope()
        if self._frees(number):
            self._storage.budget.will_free()
        if self._settled.is_set():
            self._settled = trio.Event()
        if number == self.grid.flat_parts * 3 // 4:
            self._storage.learning.begin()  # over a long line it takes as long as the parts that are left
        # The extents of now: a sync that begins before the task runs makes them its epoch's, and writes get others.
        self._storage.nursery.start_soon(self._send, number, self._layers.content())

    def may_go_on(self, size: int, again: Callable[[], None]) -> bool:
        """Whether it is known where the next part of a file of `size` bytes lies; else `again` may be called later."""
        flat = self.grid.flat_parts
        if self.next <= flat or size <= self.grid.part(flat)[1] + self.grid.part_bytes:
            return self.next <= self.grid.rules.parts_max
        if not self._storage.learning.known_or_call(again):
            return False
        self.learn()
        return self.next <= self.grid.rules.parts_max

    def learn(self) -> None:
        """The store is known: beyond the parts that lie at the same place in every grid, this is the right one."""
        assert self.grid.part_bytes == self._storage.grid.part_bytes
        if self.next <= self.grid.flat_parts + 1:
            self.grid = self._storage.grid

    def too_big(self) -> FileTooBig:
        """What there is to say when no part is left and bytes were dropped."""
        return FileTooBig(
            f"{self.multipart.key!r} is streamed in parts of {self.grid.part_bytes} bytes and no more are left after "
            f"{self.grid.stop} bytes: raise --part-size"
        )

    @property
    def lacks_bytes(self) -> bool:
        """Whether bytes that it has sent are nowhere else: it cannot be given up for another upload."""
        return any(self._lost(number) for number in self.dropped)

    @property
    def broken(self) -> bool:
        """Whether a part would have to be sent again whose bytes are not here."""
        return any(number not in self.multipart.parts and self._lost(number) for number in self.dropped)

    def _lost(self, number: int) -> bool:
        return self._layers.lost(*self.grid.part(number))

    def expect_returns(self) -> None:
        """The program may come back to what was sent: none of it is dropped for want of memory alone."""
        self._returns = True
        for number in range(2, self.next):
            self._storage.withdraw_memory((self, number))

    def touch(self, start: int, stop: int) -> None:
        """`[start, stop)` changes: parts there will be sent again."""
        if start >= min(stop, self._high):
            return
        grid = self.grid
        first, last = grid.number_at(start), grid.number_at(min(stop, self._high) - 1)
        if last > 1 and not self._returns:
            self.expect_returns()
        for number in range(first, last + 1):
            if number in self._stale:
                self._stale[number] = True
            self.multipart.forget(number)
            self._storage.withdraw((self, number))

    def missing(self, size: int) -> Iterator[SendPart]:
        """The parts that have to be sent before a file of `size` bytes is complete, but those in flight."""
        self._high = max(self._high, size)  # the caller sends them, up to the last
        for step in self.grid.steps(size):
            stored = self.multipart.parts.get(step.number)
            if (stored is None or stored.size != step.stop - step.start) and step.number not in self._stale:
                yield step

    async def settle(self) -> None:
        """Until no part is in flight."""
        await self._settled.wait()

    def abort(self) -> None:
        """Nothing of it is wanted any more."""
        self.failed = True
        for scope in self._scopes.values():
            scope.cancel()
        for number in range(1, self.next):
            self._storage.withdraw((self, number))
        self.multipart.abort()

    def end(self) -> None:
        """The upload is complete."""
        for number in range(1, self.next):
            self._storage.withdraw((self, number))

    def _frees(self, number: int) -> bool:
        return number > 1 and self.droppable

    async def _send(self, number: int, content: Content) -> None:
        storage = self._storage
        start, stop = self.grid.part(number)
        sent = False
        try:
            with self._scopes[number]:
                # Taken without a checkpoint: what is written from now on makes the part stale.
                async with storage.loader.body(content, start, stop) as body:
                    await self.multipart.send(number, body)
                sent = True
        except S3MountError as error:
            if not self.failed:  # what ails one part ails those beside it
                log.warning("part sent ahead failed key=%r part=%d reason=%s", self.multipart.key, number, error)
            self.failed = True
        except Exception:
            self.failed = True
            log.exception("part sent ahead failed by a bug key=%r part=%d", self.multipart.key, number)
        finally:
            stale = self._stale.pop(number)
            del self._scopes[number]
            if sent and stale:
                self.multipart.forget(number)
            elif sent and self._frees(number) and not self.multipart.over:
                in_memory = not self._returns and self._layers.in_memory(start, stop)
                storage.offer((self, number), lambda: self._drop(number), in_memory=in_memory)
                if storage.budget.short:
                    storage.reclaim(stop - start)
            if not self._stale:
                self._settled.set()
            # The next part counts as freeing before this one ceases to: nobody is told meanwhile that nothing will.
            storage.end_turn()
            if self._frees(number):
                storage.budget.will_free_no_more()

    def _drop(self, number: int) -> None:
        assert number in self.multipart.parts
        self.dropped.add(number)
        self._layers.drop(*self.grid.part(number))
