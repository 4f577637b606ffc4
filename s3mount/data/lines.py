"""The lines of a journal: CRC32 of the rest in hex, a blank, JSON. Pure.

A line that is cut or damaged counts as not written.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any


def line_of(record: Mapping[str, object]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def records_in(content: bytes) -> Iterator[dict[str, Any]]:
    """What was written, in order."""
    for line in content.splitlines():
        crc, _, text = line.partition(b" ")
        if crc == b"%08x" % zlib.crc32(text):
            yield json.loads(text)
