"""The text around a body: what a request's URL and headers may be, what a reply's head says. Pure.

Raises ValueError with the reason, for both; the caller knows whose fault it is. A control character in a header would
begin another header (libcurl sends it as it is), so everything that goes out is checked here.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

HEAD_MAX_BYTES = 256 * 1024
"""libcurl gives up at 300 KiB with error 56, the one of a broken connection, which would be asked again."""

# libcurl adds `Expect: 100-continue`, which costs a round trip, and `Accept: */*`, which nobody needs.
_SILENCED = ("Expect:", "Accept:")
_FRAMING = {"content-length", "transfer-encoding", "connection", "expect"}
_SERVER = re.compile(r"https?://[0-9A-Za-z.:_\[\]-]+")
_IN_URL = bytes(sorted({*range(0x21, 0x7F)} - {ord("#")}))
_PRINTABLE = bytes(range(0x20, 0x7F))
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_url(url: str) -> None:
    """A plain http or https URL: no credentials, no fragment (libcurl would cut there), nothing to be encoded still."""
    if not url.isascii() or url.encode("ascii").translate(None, _IN_URL):
        raise ValueError(f"not a URL of printable ASCII without fragment: {url!r}")
    path = url.find("/", 8)
    _check_server(url if path < 0 else url[:path])


def header_lines(headers: Sequence[tuple[str, str]]) -> list[str]:
    """The headers as libcurl wants them: an empty one as `Name;`."""
    lines = [f"{_checked(name)}: {value}" if value else f"{_checked(name)};" for name, value in headers]
    joined = "".join(lines)
    # Control characters are looked for in bytes: 0.6 us, where isprintable(), which knows all of Unicode, needs 1.3.
    if not joined.isascii() or joined.encode("ascii").translate(None, _PRINTABLE):
        bad = [line for line in lines if not (line.isascii() and line.isprintable())]
        raise ValueError(f"headers that are not printable ASCII: {bad}")
    lines += _SILENCED
    return lines


def parse_head(lines: Sequence[bytes]) -> tuple[int, dict[str, str]]:
    """Status and headers (lower case, values as latin-1) of the first head that is final; interim ones are skipped, and
    trailers of a chunked body, which come in the same list, are left out."""
    block = b"".join(lines)
    if len(block) > HEAD_MAX_BYTES:
        raise ValueError(f"a head of more than {HEAD_MAX_BYTES} bytes")
    headers: dict[str, str] = {}
    status = 0
    for line in block.decode("latin-1").split("\n")[:-1]:
        name, colon, value = line.partition(":")
        if not status:
            words = line.split(None, 2)
            if len(words) < 2 or not (len(words[1]) == 3 and words[1].isascii() and words[1].isdigit()):
                break
            status = int(words[1])
        elif colon:
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        elif not line or line == "\r":
            if status >= 200:
                return status, headers
            status = 0
            headers.clear()
    raise ValueError("no head in the reply")


def body_length(status: int, headers: dict[str, str]) -> int | None:
    """The length of the body of a reply that has one; None for a chunked one, which ends with a mark.

    A body that ends with the connection is refused: nothing would tell that it was cut.
    """
    if status in (204, 304):
        return 0
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise ValueError(f"Transfer-Encoding {coding!r}")
        return None
    length = headers.get("content-length")
    if length is None:
        raise ValueError("a body of no announced length")
    if not (length.isascii() and length.isdigit()):
        raise ValueError(f"Content-Length {length!r}")
    return int(length)


@lru_cache(maxsize=64)
def _check_server(server: str) -> None:
    if _SERVER.fullmatch(server) is None:
        raise ValueError(f"not the address of an http server: {server!r}")


@lru_cache(maxsize=1024)
def _checked(name: str) -> str:
    if _TOKEN.fullmatch(name) is None or name.lower() in _FRAMING:
        raise ValueError(f"not the name of a header of ours to send: {name!r}")
    return name
