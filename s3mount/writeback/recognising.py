"""Whether what a key has is what an operation of ours would leave there: what is asked after any doubt.

An etag settles it where it is the MD5 of the bytes, or of the parts, as S3 makes it. Else the bytes are compared, and
metadata has to be the same as well. Bytes of ours that came from an object which is gone cannot be compared: what the
upload itself replaced is gone exactly if it had its effect.
"""

import hashlib

from s3mount.config import Config
from s3mount.data.grid import SendPart
from s3mount.data.plan import CopyPart, Step
from s3mount.errors import NotFound
from s3mount.store.base import ObjectInfo, ObjectStore, Part
from s3mount.store.dispatch import digest_of
from s3mount.store.replies import multipart_etag
from s3mount.writeback.bodies import CHUNK_BYTES, Bodies, HomeGone, cut, is_zeros
from s3mount.writeback.operations import Content, Home, Operation, Piece

PLAIN_HEADERS = ("content_type", "cache_control", "content_disposition", "content_encoding", "content_language")


async def look(real: ObjectStore, key: str) -> ObjectInfo | None:
    """What the bucket has at `key`."""
    try:
        return await real.head(key)
    except NotFound:
        return None


def same_metadata(info: ObjectInfo, operation: Operation) -> bool:
    return operation.headers is None or dict(info.headers.metadata) == dict(operation.headers.metadata)


def as_stated(info: ObjectInfo, operation: Operation) -> bool:
    """Whether it has the metadata and all headers that the operation states: what a restatement is for."""
    headers = operation.headers
    if headers is None:
        return True
    stated = [getattr(headers, name) in (None, getattr(info.headers, name)) for name in PLAIN_HEADERS]
    return all(stated) and same_metadata(info, operation)


class Recognising:
    """See the module."""

    def __init__(self, real: ObjectStore, bodies: Bodies, config: Config) -> None:
        self._real = real
        self._bodies = bodies
        self._opaque = config.sse not in (None, "AES256") or config.sse_customer_key_file is not None

    async def is_put(self, operation: Operation, info: ObjectInfo, steps: list[Step]) -> bool:
        """Whether `info` is what this put leaves; `steps` are those it is sent by."""
        if info.size != operation.size:
            return False
        same = same_metadata(info, operation)
        if info.etag == operation.condition.etag and not as_stated(info, operation):
            return False  # the bytes that were there before, and what was to change about them
        try:
            if await self._etag(operation, info, steps) == info.etag:
                return True
        except HomeGone:
            pass  # what was replaced had bytes that were to be kept
        return same and info.etag != operation.condition.etag and await self._same_bytes(operation.content, info)

    async def _etag(self, operation: Operation, info: ObjectInfo, steps: list[Step]) -> str | None:
        if self._opaque:
            return None
        if "-" not in info.etag:
            whole = hashlib.md5(usedforsecurity=False)
            for start in range(0, operation.size, CHUNK_BYTES):
                stop = min(start + CHUNK_BYTES, operation.size)
                async with self._bodies.body(operation.content, start, stop) as body:
                    for piece in body:
                        whole.update(piece)
            return f'"{whole.hexdigest()}"'
        parts: list[Part] = []
        for step in steps:
            if not isinstance(step, SendPart | CopyPart):
                return None
            async with self._bodies.body(operation.content, step.start, step.stop) as body:
                digest = (await digest_of(body, "md5")).hex()
            parts.append(Part(step.number, f'"{digest}"', step.stop - step.start))
        return multipart_etag(parts) if parts else None

    async def _same_bytes(self, content: Content, info: ObjectInfo) -> bool:
        theirs = Home(info.key, info.etag, info.size)
        gone: set[Home] = set()
        for start in range(0, info.size, CHUNK_BYTES):
            stop = min(start + CHUNK_BYTES, info.size)
            for piece in cut(content, start, stop):
                if piece.home in gone and not is_zeros(piece) and piece.place is None:
                    continue
                size = piece.stop - piece.start
                both = _from(piece, 0), Piece(size, 2 * size, None, theirs, piece.start)
                try:
                    async with self._bodies.body(both, 0, 2 * size) as body:
                        joined = b"".join(body)
                except HomeGone:
                    if await look(self._real, info.key) is None or piece.home is None:
                        return False
                    gone.add(piece.home)
                    continue
                if joined[:size] != joined[size:]:
                    return False
        return True


def _from(piece: Piece, start: int) -> Piece:
    """The same bytes at another place of a content."""
    return Piece(start, start + piece.stop - piece.start, piece.place, piece.home, piece.offset)
