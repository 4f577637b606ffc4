"""One HTTP exchange as values: what is asked, what is answered, where the body goes, and how it can fail.

Knows nothing of libcurl, trio or S3; pure. The wire (`wire.py`) promises about these:
- a sink is called only between the start and the end of `Wire.perform`, never after it returned or raised;
- `head` once, before any data; `data` only with the bytes of a 2xx body, so that an error document never lands in a
  caller's buffer (it is `Reply.error`, bounded);
- a body is read only during `perform`, and may be read twice (libcurl repeats a request whose connection was dead).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from s3mount.store.base import Body

ERROR_BODY_MAX_BYTES = 64 * 1024
"""An error document is some hundred bytes; the rest of a longer one is read and dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """What all requests of one wire share. Proxy and CA are decided by the caller, never by libcurl's defaults."""

    ca: Path | None = None
    """A PEM file or a directory of hashed certificates; None refuses https URLs."""
    proxy: str | None = None
    """None: no proxy, whatever the environment says."""
    connect_timeout_seconds: float = 10.0
    """For name resolution, TCP, the proxy's CONNECT and the TLS handshake together."""
    idle_connections_max: int = 64
    idle_connection_seconds: float = 50.0
    """Older ones are not used again: servers close theirs after 60 s or so, and a request would die on it."""
    idle_handles_max: int = 64
    user_agent: str = "s3mount"


# Request and Reply are values, and nobody changes them; they are not frozen because that takes 1.7 us of each request.


@dataclass(slots=True, kw_only=True)
class Request:
    """One request, complete and signed.

    `url` is sent as it is: percent-encoded by the caller, `.` and `..` included, no fragment, no credentials. Framing
    headers (Content-Length, Transfer-Encoding, Connection, Expect) are libcurl's and refused in `headers`.
    """

    method: str
    url: str
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    body: Body = ()
    mutating: bool = False
    """Never sent twice: where libcurl would repeat it silently, `ReplyLost` is raised instead."""
    deadline_seconds: float = 60.0
    """From the call to the last byte; inf: only the stall rule."""
    stall_seconds: float = 20.0
    """The longest time without a byte moving either way, once connected."""


@dataclass(slots=True)
class Reply:
    """What came back. Header names in lower case, values as latin-1; `received` counts the body's bytes."""

    status: int
    headers: Mapping[str, str]
    received: int
    error: bytes = b""
    """The body of a reply that is not 2xx, its first ERROR_BODY_MAX_BYTES."""


class Sink(Protocol):
    """Where a reply goes. Called inside libcurl: it must not await, nor call the wire; what it raises ends the request
    and is raised by `perform`. `chunk` dies with the call: copy it, keep no slice (a kept one reads freed memory)."""

    def head(self, status: int, headers: Mapping[str, str]) -> None: ...

    def data(self, chunk: memoryview) -> None: ...


class IntoView:
    """A sink that fills the caller's memory (format 'B') and tells how far it is after each piece.

    `filled` outlives a failure: the first `filled` bytes are the body's, so a caller can resume behind them.
    """

    __slots__ = ("_arrived", "_view", "filled")

    def __init__(self, view: memoryview, arrived: Callable[[int], None] | None = None) -> None:
        self._view = view
        self._arrived = arrived
        self.filled = 0

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        pass

    def data(self, chunk: memoryview) -> None:
        stop = self.filled + len(chunk)
        if stop > len(self._view):
            raise BadHttp(f"the body is longer than the {len(self._view)} bytes asked for", sent=True)
        self._view[self.filled : stop] = chunk
        self.filled = stop
        if self._arrived is not None:
            self._arrived(stop)


class SmallBody:
    """A sink for documents: the whole body in `content`, or BadHttp as soon as it grows over the limit."""

    __slots__ = ("_limit", "content")

    def __init__(self, limit_bytes: int = 1024 * 1024) -> None:
        self._limit = limit_bytes
        self.content = bytearray()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        pass

    def data(self, chunk: memoryview) -> None:
        if len(self.content) + len(chunk) > self._limit:
            raise BadHttp(f"the body is longer than {self._limit} bytes", sent=True)
        self.content += chunk


class WireError(Exception):
    """No whole reply.

    `sent`: a byte of the request may have reached the server, so a mutation may have had its effect. `sent_bytes`: how
    much of the body was handed to the connection. `code`: libcurl's, 0 where the wire itself found the fault.
    """

    def __init__(self, message: str, *, sent: bool, sent_bytes: int = 0, code: int = 0) -> None:
        super().__init__(message)
        self.sent = sent
        self.sent_bytes = sent_bytes
        self.code = code


class ConnectFailed(WireError):
    """No connection: unknown host, refused, unreachable, a failed handshake, or not within the connect time-out."""


class CertificateRefused(WireError):
    """The server's certificate, or our CA file, is not good: asking again does not help."""


class ConnectionBroken(WireError):
    """The connection died after the request was begun and before the head of the reply was complete."""


class Stalled(WireError):
    """No byte moved for `stall_seconds`."""


class DeadlineExceeded(WireError):
    """The request was not done within `deadline_seconds`."""


class CutBody(WireError):
    """The body ended before its announced length; the bytes that came are good."""


class BadHttp(WireError):
    """What came is no HTTP we accept: garbage, no length, a head or a body too large."""


class ReplyLost(WireError):
    """A mutating request was sent, its reused connection died without a reply, and it was not repeated."""


class WireClosed(WireError):
    """The driver does not run, or stopped under the request."""
