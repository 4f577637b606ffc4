"""What the bytes of a file are: layers of staged extents over a base version over zeros; and bodies made of them.

A snapshot does not change while it is used: its extents are frozen or used without a checkpoint. Knows no file.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from s3mount.config import MIB
from s3mount.data.blocks import BlockCache
from s3mount.data.buffers import Buffers, Pinned
from s3mount.data.extents import Extents
from s3mount.data.staging import Staging
from s3mount.data.version import Version
from s3mount.errors import Lost
from s3mount.store.base import Buffer

ZEROS = memoryview(bytes(MIB))


@dataclass(frozen=True, slots=True)
class Layer:
    """Extents that count below `stop`."""

    extents: Extents
    stop: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a file that comes from one place: a position in the log, the base, or nowhere."""

    start: int
    stop: int
    position: int | None
    from_base: bool
    missing: bool = False
    """It was in a base that is gone: an upload sends zeros, a read is refused."""


@dataclass(frozen=True, slots=True)
class Content:
    """Layers from the top down, over the first `base_stop` bytes of a base, over zeros."""

    layers: tuple[Layer, ...]
    base: Version | None
    base_stop: int
    missing: tuple[tuple[int, int], ...] = ()

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """Cover `[start, stop)` in order."""
        return self._pieces(start, stop, 0)

    def _pieces(self, start: int, stop: int, depth: int) -> Iterator[Piece]:
        if depth < len(self.layers):
            layer = self.layers[depth]
            for low, high, position in layer.extents.pieces(start, min(stop, layer.stop)):
                if position is None:
                    yield from self._pieces(low, high, depth + 1)
                else:
                    yield Piece(low, high, position, from_base=False)
            if stop > layer.stop:
                yield from self._pieces(max(start, layer.stop), stop, depth + 1)
            return
        middle = min(max(start, self.base_stop), stop)
        if start < middle:
            yield from self._base_pieces(start, middle)
        if middle < stop:
            yield Piece(middle, stop, None, from_base=False)

    def _base_pieces(self, start: int, stop: int) -> Iterator[Piece]:
        for low, high in self.missing:
            low, high = max(low, start), min(high, stop)
            if low < high:
                if start < low:
                    yield Piece(start, low, None, from_base=True)
                yield Piece(low, high, None, from_base=False, missing=True)
                start = high
        if start < stop:
            yield Piece(start, stop, None, from_base=True)

    def kept(self, size: int) -> list[tuple[int, int]]:
        """The ranges below `size` that come from the base."""
        return [(piece.start, piece.stop) for piece in self.pieces(0, size) if piece.from_base]


class Loader:
    """Makes bodies of content. Bytes that are not in memory are loaded into buffers of a bounded share of it."""

    def __init__(self, staging: Staging, blocks: BlockCache, buffers: Buffers, *, limit_bytes: int) -> None:
        # The mutable state: bytes taken, at most the limit or what one body needs; and who waits, in turn.
        self._staging = staging
        self._blocks = blocks
        self._buffers = buffers
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._turn = trio.Lock()
        self._freed = trio.Event()

    @asynccontextmanager
    async def body(self, content: Content, start: int, stop: int) -> AsyncIterator[Sequence[Buffer]]:
        """The bytes `[start, stop)` to send; valid inside the block. Raises Lost, Stale and what a GET raises."""
        pieces = list(content.pieces(start, stop))
        if any(piece.position is not None and piece.position < 0 for piece in pieces):
            raise Lost("bytes were dropped from staging after they were sent: raise --memory-limit or --staging-limit")
        hold = self._staging.hold(
            (piece.position, piece.stop - piece.start) for piece in pieces if piece.position is not None
        )
        try:
            need = sum(self._to_load(piece) for piece in pieces)
            if not need:
                yield list(self._in_memory(pieces))
                return
            memory = await self._take(need)
            try:
                yield await self._loaded(content, pieces, memory.view)
            finally:
                memory.unpin()
                self._taken_bytes -= memory.capacity
                self._freed.set()
        finally:
            hold.release()

    def _to_load(self, piece: Piece) -> int:
        if piece.from_base:
            return piece.stop - piece.start
        if piece.position is None:
            return 0
        views = self._staging.views(piece.position, piece.stop - piece.start)
        return sum(view for view in views if isinstance(view, int))

    def _in_memory(self, pieces: Sequence[Piece]) -> Iterator[memoryview]:
        for piece in pieces:
            if piece.position is None:
                yield from _zeros(piece.stop - piece.start)
                continue
            for view in self._staging.views(piece.position, piece.stop - piece.start):
                assert not isinstance(view, int)
                yield view

    async def _take(self, need: int) -> Pinned:
        async with self._turn:
            capacity = self._buffers.capacity_for(need)
            while self._taken_bytes and self._taken_bytes + capacity > self._limit_bytes:
                self._freed = trio.Event()
                await self._freed.wait()
            self._taken_bytes += capacity
        return self._buffers.take(need)

    async def _loaded(self, content: Content, pieces: Sequence[Piece], memory: memoryview) -> list[Buffer]:
        body: list[Buffer] = []
        done = 0
        for piece in pieces:
            size = piece.stop - piece.start
            if piece.from_base:
                assert content.base is not None
                part = memory[done : done + size]
                await self._blocks.read_into(content.base, piece.start, part)
                body.append(part)
                done += size
            elif piece.position is None:
                body.extend(_zeros(size))
            else:
                position = piece.position
                # A look at what is in memory is good for all of the hold: chunks that were spilled stay on disk.
                for view in list(self._staging.views(position, size)):
                    if isinstance(view, int):
                        part = memory[done : done + view]
                        await self._staging.load(position, part)
                        body.append(part)
                        done += view
                        position += view
                    else:
                        body.append(view)
                        position += len(view)
        return body


def _zeros(size: int) -> Iterator[memoryview]:
    while size:
        count = min(size, len(ZEROS))
        yield ZEROS[:count]
        size -= count
