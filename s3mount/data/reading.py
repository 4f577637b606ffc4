"""Reads of one file: what is staged first, then blocks of the base, fetched ahead of a sequential reader.

Knows no sync: it looks at the layers, again after each wait; `settle` waits for an upload of our own that may have
replaced the base, and tells whether there was one.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from s3mount.data.layers import Layers
from s3mount.data.readahead import Readahead
from s3mount.data.storage import Storage
from s3mount.data.version import Version
from s3mount.errors import Lost, Stale
from s3mount.store.base import Buffer

log = logging.getLogger(__name__)


class Reader:
    """See the module."""

    def __init__(self, storage: Storage, layers: Layers, settle: Callable[[], Awaitable[bool]]) -> None:
        # The mutable state: the read-ahead; whether a write has yet to ask for the bytes of a small base.
        self._storage = storage
        self._layers = layers
        self._settle = settle
        self._readahead = Readahead(storage.windows)
        self.asks_base = True

    def fetch_base(self) -> None:
        """See File.fetch_base."""
        self.asks_base = False
        base, stop = self._layers.base, self._layers.base_stop
        if base is not None and 0 < stop <= self._storage.put_max_bytes:
            self._storage.blocks.fetch_ahead(base, 0, stop)

    def close(self) -> None:
        """No read comes any more."""
        self._readahead.close()

    async def read(self, offset: int, size: int) -> Buffer:
        """See File.read."""
        layers = self._layers
        stop = min(offset + size, layers.size)
        if offset >= stop:
            return b""
        base = layers.base
        if base is not None and layers.base_stop:
            if layers.plain and stop <= layers.base_stop:
                blocks = self._storage.blocks
                view = blocks.peek(base, offset, stop)
                self._read_ahead(base, offset, stop)
                if view is not None:
                    self._storage.reads_at_once += 1
                    return view
                self._storage.reads_waited += 1
                try:
                    return await blocks.view(base, offset, stop)
                except Stale:
                    if layers.base is base and not await self._settle():
                        raise
            else:
                self._read_ahead(base, offset, stop)
        return await self._read_layers(offset, stop)

    def _read_ahead(self, base: Version, offset: int, stop: int) -> None:
        gets = self._readahead.on_read(offset, stop, self._layers.base_stop, trio.current_time())
        for low, high in gets:
            if not self._storage.blocks.fetch_ahead(base, low, high):
                self._readahead.refused(low)
                return

    async def _read_layers(self, offset: int, stop: int) -> Buffer:
        staging, layers = self._storage.staging, self._layers
        while True:
            base = layers.base
            pieces = list(layers.content().pieces(offset, stop))
            if any(piece.position is not None and piece.position < 0 for piece in pieces):
                log.error("read of bytes that had left staging: raise --memory-limit or --staging-limit")
                raise Lost("the bytes were dropped from staging after they were sent")
            if any(piece.missing for piece in pieces):
                raise Stale("the bytes were in a version that is gone")
            if len(pieces) == 1 and pieces[0].position is not None:
                view = staging.peek(pieces[0].position, stop - offset)
                if view is not None:
                    return view
            joined = memoryview(bytearray(stop - offset))
            later = []
            for piece in pieces:
                into = joined[piece.start - offset : piece.stop - offset]
                if piece.from_base or (piece.position is not None and not staging.copy(piece.position, into)):
                    later.append((piece, into))
            if not later:
                return joined
            hold = staging.hold((piece.position, len(into)) for piece, into in later if piece.position is not None)
            try:
                for piece, into in later:
                    if piece.position is not None:
                        await staging.load(piece.position, into)
                    else:
                        assert base is not None
                        await self._storage.blocks.read_into(base, piece.start, into)
                return joined
            except Stale:
                # Our own sync may have replaced the base meanwhile.
                if layers.base is base and not await self._settle():
                    raise
            finally:
                hold.release()
