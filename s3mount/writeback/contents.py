"""Reads content that waits for the bucket: from the journal where it is, else from where the bucket has it now.

While a rename of the bucket is under way nobody knows under which of two keys the bytes are: whoever does not find them
waits for its end and looks again. No state but the event of that end.
"""

import trio

from s3mount.errors import BadReply, NotFound, PreconditionFailed
from s3mount.store.base import ObjectInfo, ObjectStore
from s3mount.writeback.operations import Content, Home, Operation
from s3mount.writeback.oplog import OperationLog
from s3mount.writeback.pending import Pending


class Reading:
    """See the module."""

    def __init__(self, real: ObjectStore, log: OperationLog, pending: Pending) -> None:
        self._real = real
        self._log = log
        self._pending = pending
        self._ended = trio.Event()

    def look_again(self) -> None:
        """An operation has ended."""
        ended, self._ended = self._ended, trio.Event()
        ended.set()

    async def read(self, content: Content, start: int, into: memoryview) -> ObjectInfo | None:
        """Fill `into` with the bytes from `start` on; what the bucket said of the last home that was asked. Raises
        Lost, NotFound, PreconditionFailed and what a GET raises."""
        stop = start + len(into)
        info: ObjectInfo | None = None
        for piece in content:
            low, high = max(start, piece.start), min(stop, piece.stop)
            if low >= high:
                continue
            part = into[low - start : high - start]
            offset = piece.offset + low - piece.start
            if piece.place is not None:
                await self._log.read(piece.place, offset, part)
            elif piece.home is not None:
                info = await self._from(piece.home, offset, part)
            else:
                part[:] = bytes(len(part))
        return info

    async def describe(self, home: Home) -> ObjectInfo:
        """What the bucket says of a version. Raises NotFound, PreconditionFailed when it is gone."""
        while True:
            key, etag, ended = home.key, home.etag, self._ended
            try:
                info = await self._real.head(key)
                if info.etag == etag:
                    return info
                raise PreconditionFailed(f"{key!r} is another version now")
            except (NotFound, PreconditionFailed):
                if not await self._moved(home, key, etag, ended):
                    raise

    async def _from(self, home: Home, offset: int, into: memoryview) -> ObjectInfo:
        while True:
            key, etag, ended = home.key, home.etag, self._ended
            try:
                info = await self._real.get(key, offset, into, if_match=etag)
            except (NotFound, PreconditionFailed):
                if not await self._moved(home, key, etag, ended):
                    raise
                continue
            if info is None or info.size < offset + len(into):
                raise BadReply(f"{key!r} is shorter than it was")
            return info

    async def _moved(self, home: Home, key: str, etag: str, ended: trio.Event) -> bool:
        """The version was not found at `key`. Whether it is to be looked for again, now."""
        if (home.key, home.etag) != (key, etag):
            return True
        if not any(_moves(operation, home) for operation in self._pending.operations):
            return False
        await ended.wait()
        return True


def _moves(operation: Operation, home: Home) -> bool:
    """Whether the bucket may be giving the version another key just now."""
    return (
        operation.state == "begun"
        and operation.kind != "put"
        and any(piece.home is home for piece in operation.content)
    )
