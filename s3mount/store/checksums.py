"""The checksum that an upload carries, computed in turns with the loop's other work."""

import base64

import trio
from zlib_ng import zlib_ng

from s3mount.config import MIB
from s3mount.store.base import Body
from s3mount.store.dispatch import digest_of

CRC_PIECE_BYTES = 8 * MIB
"""0.2 ms of CRC32 (zlib's own takes 2); then the loop has its turn."""


async def checksum_lines(body: Body, kind: str) -> list[tuple[str, str]]:
    """The headers that carry a body's checksum of this kind: crc32, md5, off."""
    if kind == "off":
        return []
    if kind == "md5":
        return [("content-md5", base64.b64encode(await digest_of(body, "md5")).decode())]
    crc = 0
    for piece in body:
        if len(piece) <= CRC_PIECE_BYTES:
            crc = zlib_ng.crc32(piece, crc)
            continue
        view = memoryview(piece)
        for start in range(0, len(view), CRC_PIECE_BYTES):
            crc = zlib_ng.crc32(view[start : start + CRC_PIECE_BYTES], crc)
            await trio.lowlevel.checkpoint()
    return [("x-amz-checksum-crc32", base64.b64encode(crc.to_bytes(4, "big")).decode())]
