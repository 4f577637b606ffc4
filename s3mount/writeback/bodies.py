"""The bytes of what waits, brought into memory to be sent: from the journal, from other objects, or zeros.

All bodies together take no more than a bound, in recycled buffers of CHUNK_BYTES; who comes when there is no room waits
for his turn. One body that is larger than the bound is alone.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio
from zlib_ng import zlib_ng

from s3mount.config import MIB
from s3mount.data.buffers import Buffers, Pinned
from s3mount.errors import Lost, NotFound, PreconditionFailed, RangeNotSatisfiable, Stale
from s3mount.store.base import Body, ObjectStore
from s3mount.writeback.operations import Content, Piece, Place

BODIES_MAX_BYTES = 64 * MIB
CHUNK_BYTES = MIB
ZEROS = memoryview(bytes(CHUNK_BYTES))


class Log(Protocol):
    """The journal, as far as the sender knows it."""

    async def append(self, meta: dict[str, Any], body: Body = (), *, wait: bool = True) -> Any:
        """Add a record; durable when it returns, or without `wait` soon. Raises JournalFull, JournalFailed."""

    async def read(self, place: Place, offset: int, into: memoryview) -> None:
        """Fill `into` from a record's body. Raises Lost."""


class HomeGone(Stale):
    """Another client has taken a version away whose bytes are needed."""


class Room:
    """So many bytes, taken in order of arrival. The mutable state is what is free and who waits for how much."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = self._free = most_bytes
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    @property
    def used_bytes(self) -> int:
        return self._most_bytes - self._free

    async def take(self, size: int) -> int:
        """What has to be given back."""
        size = min(size, self._most_bytes)
        if self._waiting or size > self._free:
            entry = size, trio.Event()
            self._waiting.append(entry)
            try:
                await entry[1].wait()
            except trio.Cancelled:
                if entry[1].is_set():
                    self.give(size)
                else:
                    self._waiting.remove(entry)
                    self._hand_out()
                raise
        else:
            self._free -= size
        return size

    def give(self, size: int) -> None:
        self._free += size
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, event = self._waiting.popleft()
            self._free -= size
            event.set()


class Bodies:
    """See the module."""

    def __init__(self, real: ObjectStore, log: Log, buffers: Buffers, *, most_bytes: int = BODIES_MAX_BYTES) -> None:
        self._real = real
        self._log = log
        self._buffers = buffers
        self.room = Room(most_bytes)

    @asynccontextmanager
    async def body(self, content: Content, start: int, stop: int) -> AsyncIterator[Body]:
        """`[start, stop)` of a content; not to be touched after the block. Raises HomeGone, Lost."""
        pieces = list(cut(content, start, stop))
        room = await self.room.take(_needed_bytes(pieces))
        chunks: list[Pinned] = []
        try:
            yield await self._filled(pieces, chunks)
        finally:
            for chunk in chunks:
                chunk.unpin()
            self.room.give(room)

    async def _filled(self, pieces: list[Piece], chunks: list[Pinned]) -> Body:
        body: list[memoryview] = []
        left = sum(piece.stop - piece.start for piece in pieces if not is_zeros(piece))
        used = 0
        for piece in pieces:
            position, crc = piece.start, 0
            while position < piece.stop:
                wanted = piece.stop - position
                if is_zeros(piece):
                    view = ZEROS[:wanted]
                else:
                    if not chunks or used == len(chunks[-1].view):
                        chunks.append(self._buffers.take(min(left, CHUNK_BYTES)))
                        used = 0
                    view = chunks[-1].view[used : used + wanted]
                    await self._read(piece, piece.offset + position - piece.start, view)
                    crc = zlib_ng.crc32(view, crc)
                    used += len(view)
                    left -= len(view)
                body.append(view)
                position += len(view)
            place = piece.place
            if place is not None and piece.stop - piece.start == place.size and crc != place.crc:
                raise Lost(f"the write-back journal does not give bytes back that it took: segment {place.segment}")
        return body

    async def _read(self, piece: Piece, offset: int, into: memoryview) -> None:
        if piece.place is not None:
            await self._log.read(piece.place, offset, into)
            return
        assert piece.home is not None
        try:
            await self._real.get(piece.home.key, offset, into, if_match=piece.home.etag)
        except (NotFound, PreconditionFailed, RangeNotSatisfiable) as error:
            raise HomeGone(f"{piece.home.key!r} was changed by another client") from error


def is_zeros(piece: Piece) -> bool:
    return piece.place is None and piece.home is None


def cut(content: Content, start: int, stop: int) -> Iterator[Piece]:
    """The pieces of `[start, stop)`, those at the ends shortened."""
    index = bisect_right(content, start, key=lambda piece: piece.stop)
    while index < len(content) and content[index].start < stop:
        piece = content[index]
        low, high = max(start, piece.start), min(stop, piece.stop)
        yield Piece(low, high, piece.place, piece.home, piece.offset + low - piece.start)
        index += 1


def _needed_bytes(pieces: list[Piece]) -> int:
    local = sum(piece.stop - piece.start for piece in pieces if not is_zeros(piece))
    whole, rest = divmod(local, CHUNK_BYTES)
    return whole * CHUNK_BYTES + Buffers.capacity_for(rest)
