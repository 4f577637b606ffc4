"""Whether a version is still what its key stands for, asked by the GET of its first block. No state.

A GET of which nothing has come for long is given up, once, and asked over another connection; it needs no second buffer
and no task, as those of `flights` do, for nothing is lost of it.

Knows no runs: memory for the block is lent by the block cache, which takes in what came.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from math import inf

import trio

from s3mount.data.buffers import RECYCLED_MIN_BYTES, Buffers, Pinned
from s3mount.data.flights import Flights
from s3mount.data.version import Changed, Version
from s3mount.errors import BadReply, NotFound, RangeNotSatisfiable
from s3mount.store.base import ObjectInfo, ObjectStore


@dataclass(frozen=True, slots=True)
class Validation:
    """See the module. `lend` gives memory of a size, waiting for it; `holds`: the first block is here; `take_in` makes
    bytes the first block of a version, unless it is here, and keeps a pin of its own."""

    store: ObjectStore
    buffers: Buffers
    flights: Flights
    block_bytes: int
    lend: Callable[[int], AbstractAsyncContextManager[Pinned]]
    holds: Callable[[Version], bool]
    take_in: Callable[[Version, Pinned, int], None]

    async def validate(self, version: Version) -> ObjectInfo | None:
        """See BlockCache.validate."""
        if not version.size:
            return await self._validate_empty(version)
        async with self.lend(self.block_bytes) as memory:
            try:
                info, count = await self._get(version, memory)
                if info is None:
                    return None
                expected = min(info.size, self.block_bytes)
                if count not in (0, expected):
                    raise BadReply(f"GET {version.key!r}: {count} bytes instead of {expected}")
                self._keep(Version(version.key, info.etag, info.size, info.version_id), memory, expected)
            except NotFound as error:
                raise Changed(f"{version.key!r} is gone", None) from error
            except RangeNotSatisfiable:
                info = await self._head(version)
        if info.etag != version.etag or info.size != version.size:
            raise Changed(f"{version.key!r} is another version", info)
        return info

    async def _get(self, version: Version, memory: Pinned) -> tuple[ObjectInfo | None, int]:
        """What the store says of the object, and how many bytes of its first block came."""
        count = 0
        expected = min(version.size, self.block_bytes)
        unchanged = version.etag if self.holds(version) else None
        view = memory.view[: self.block_bytes]

        def arrived(bytes_there: int) -> None:
            nonlocal count
            count = bytes_there
            if count < expected:
                scope.deadline = inf

        silence = self.flights.silence_seconds
        scope = trio.CancelScope(deadline=trio.current_time() + silence)
        with scope:
            return await self.store.get(version.key, 0, view, if_none_match=unchanged, arrived=arrived), count
        self.flights.note_asked_again(version.key, silence)
        return await self.store.get(version.key, 0, view, if_none_match=unchanged, arrived=arrived), count

    async def _validate_empty(self, version: Version) -> ObjectInfo:
        info = await self._head(version)
        if info.etag != version.etag or info.size:
            raise Changed(f"{version.key!r} is another version", info)
        return info

    async def _head(self, version: Version) -> ObjectInfo:
        try:
            return await self.store.head(version.key)
        except NotFound as error:
            raise Changed(f"{version.key!r} is gone", None) from error

    def _keep(self, version: Version, memory: Pinned, size: int) -> None:
        """Have the first block of a version taken in; a small one in a buffer of its own size."""
        if not size:
            return
        if size > RECYCLED_MIN_BYTES:
            self.take_in(version, memory, size)
            return
        own = self.buffers.take(size)
        own.view[:] = memory.view[:size]
        self.take_in(version, own, size)
        own.unpin()
