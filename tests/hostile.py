"""An HTTP server that misbehaves as its requests' paths ask: /BEHAVIOUR/ANYTHING?size=N.

Runs in the test's own trio loop, plain or over TLS, on a free port of 127.0.0.1. Every body is derived from its path
(`body_of`), so that bodies that got mixed up are recognised. It answers a PUT or POST with the SHA-256 of what came.
The mutable state is what was seen (`seen`, how often each method and target arrived) and the connections open now.
"""

import hashlib
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import trio

HEAD_LIMIT_BYTES = 64 * 1024
PIECE_BYTES = 256 * 1024
TRICKLE_SECONDS = 0.02

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


def body_of(target: str, size: int) -> bytes:
    """`size` bytes that belong to `target` and to no other."""
    seed = hashlib.sha256(target.encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


@dataclass(slots=True)
class Asked:
    """One request as it arrived."""

    method: str
    target: str
    behaviour: str
    size: int
    headers: dict[str, str]
    raw_head: bytes

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "0"))


class Hangup(Exception):
    """The connection is to be closed now: `how` is fin, reset, or silent (TLS: without close_notify)."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


@dataclass(slots=True)
class Hostile:
    url: str
    port: int
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    open_now: int = 0
    released: trio.Event = field(default_factory=trio.Event)
    """Black holes last until it is set."""
    arrived: dict[str, trio.Event] = field(default_factory=dict)

    def arrival(self, target: str) -> trio.Event:
        """Set when the first request for `target` has been read."""
        return self.arrived.setdefault(target, trio.Event())


class _Connection:
    def __init__(self, server: Hostile, stream: Stream) -> None:
        self.server = server
        self.stream = stream
        self.buffer = bytearray()
        self.doomed = False

    async def serve(self) -> None:
        while True:
            asked = await self._read_head()
            if asked is None:
                return
            self.server.seen[asked.method, asked.target] += 1
            self.server.heads.append(asked.raw_head)
            self.server.arrival(asked.target).set()
            if self.doomed:
                raise Hangup("fin")
            await getattr(self, f"_{asked.behaviour}")(asked)

    async def _read_head(self) -> Asked | None:
        while b"\r\n\r\n" not in self.buffer:
            if not await self._receive():
                return None
            assert len(self.buffer) < HEAD_LIMIT_BYTES or b"\r\n\r\n" in self.buffer
        raw, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        self.buffer = bytearray(rest)
        first, *lines = raw.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        parts = urlsplit(target)
        size = int(parse_qs(parts.query).get("size", ["1000"])[0])
        return Asked(method, target, parts.path.split("/")[1], size, headers, raw)

    async def _receive(self) -> bool:
        data = await self.stream.receive_some(PIECE_BYTES)
        self.buffer += data
        return bool(data)

    async def _digest(self, asked: Asked) -> str:
        """Read the request's body."""
        digest, left = hashlib.sha256(), asked.length
        while left:
            if not self.buffer and not await self._receive():
                raise Hangup("fin")
            piece = bytes(self.buffer[:left])
            del self.buffer[: len(piece)]
            digest.update(piece)
            left -= len(piece)
        return digest.hexdigest()

    async def _answer_body(self, asked: Asked) -> bytes:
        if asked.method in ("PUT", "POST"):
            return (await self._digest(asked)).encode()
        return b"" if asked.method == "DELETE" else body_of(asked.target, asked.size)

    async def _send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _reply(self, asked: Asked, body: bytes, *, status: str = "200 OK", extra: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nX-Target: {asked.target}\r\n{extra}\r\n"
        await self._send(head.encode("latin-1") + (b"" if asked.method == "HEAD" else body))

    async def _half(self, asked: Asked) -> None:
        """The whole head and half the body."""
        body = await self._answer_body(asked)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Target: {asked.target}\r\n\r\n"
        await self._send(head.encode() + body[: len(body) // 2])

    # The behaviours, by the first component of the path.

    async def _ok(self, asked: Asked) -> None:
        await self._reply(asked, await self._answer_body(asked))

    async def _error(self, asked: Asked) -> None:
        await self._digest(asked)
        await self._reply(asked, b"<Error/>", status="503 Slow Down", extra="Retry-After: 1\r\n")

    async def _bigerror(self, asked: Asked) -> None:
        await self._digest(asked)
        await self._reply(asked, body_of(asked.target, asked.size), status="500 Oops")

    async def _early(self, asked: Asked) -> None:
        """A refusal before the body was read, and an orderly close."""
        await self._reply(asked, b"<Denied/>", status="403 Forbidden", extra="Connection: close\r\n")
        with trio.move_on_after(5):
            await self._digest(asked)
        raise Hangup("fin")

    async def _hasty(self, asked: Asked) -> None:
        """Success before the body was read."""
        await self._reply(asked, b"", extra="Connection: close\r\n")
        raise Hangup("fin")

    async def _chunked(self, asked: Asked) -> None:
        body = await self._answer_body(asked)
        await self._send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n\r\n")
        for start in range(0, len(body), 7001):
            piece = body[start : start + 7001]
            await self._send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await self._send(b"0\r\nX-Trailer: late\r\n\r\n")

    async def _chunkedcut(self, asked: Asked) -> None:
        body = await self._answer_body(asked)
        await self._send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self._send(f"{len(body):x}\r\n".encode() + body + b"\r\n")
        raise Hangup("fin")

    async def _interim(self, asked: Asked) -> None:
        await self._send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: no\r\n\r\n")
        await self._ok(asked)

    async def _longhead(self, asked: Asked) -> None:
        lines = "".join(f"X-Long-{n}: {'v' * 1000}\r\n" for n in range(asked.size // 1000))
        await self._reply(asked, await self._answer_body(asked), extra=lines)

    async def _unsized(self, asked: Asked) -> None:
        await self._send(b"HTTP/1.1 200 OK\r\n\r\n" + body_of(asked.target, asked.size))
        raise Hangup("fin")

    async def _garbage(self, asked: Asked) -> None:
        await self._send(b"\x00\x01\x02 this is no HTTP\r\n\r\n" * 10)
        raise Hangup("fin")

    async def _longer(self, asked: Asked) -> None:
        body = body_of(asked.target, asked.size)
        await self._send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b"and more")

    async def _redirect(self, asked: Asked) -> None:
        await self._reply(asked, b"<Moved/>", status="307 Temporary Redirect", extra="Location: /ok/elsewhere\r\n")

    async def _cut(self, asked: Asked) -> None:
        await self._half(asked)
        raise Hangup("fin")

    async def _cutsilent(self, asked: Asked) -> None:
        await self._half(asked)
        raise Hangup("silent")

    async def _nobody(self, asked: Asked) -> None:
        """A head that announces a body, and nothing after it."""
        await self._send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        raise Hangup("fin")

    async def _cutreset(self, asked: Asked) -> None:
        await self._half(asked)
        raise Hangup("reset")

    async def _reset(self, asked: Asked) -> None:
        raise Hangup("reset")

    async def _close(self, asked: Asked) -> None:
        await self._digest(asked)
        raise Hangup("fin")

    async def _hole(self, asked: Asked) -> None:
        await self.server.released.wait()
        raise Hangup("reset")

    async def _holemid(self, asked: Asked) -> None:
        await self._half(asked)
        await self.server.released.wait()
        raise Hangup("reset")

    async def _trickle(self, asked: Asked) -> None:
        body = await self._answer_body(asked)
        await self._send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for byte in body:
            await self._send(bytes([byte]))
            await trio.sleep(TRICKLE_SECONDS)

    async def _slowread(self, asked: Asked) -> None:
        """Take the request's body in small pieces with pauses, then answer."""
        digest, left = hashlib.sha256(bytes(self.buffer)), asked.length - len(self.buffer)
        self.buffer.clear()
        while left:
            await trio.sleep(TRICKLE_SECONDS)
            data = await self.stream.receive_some(min(left, 16 * 1024))
            if not data:
                raise Hangup("fin")
            digest.update(data)
            left -= len(data)
        await self._reply(asked, digest.hexdigest().encode())

    async def _idleclose(self, asked: Asked) -> None:
        """A whole reply that promises to keep the connection, which is then closed."""
        await self._ok(asked)
        raise Hangup("fin")

    async def _doom(self, asked: Asked) -> None:
        """A whole reply; the next request on this connection is read and gets no answer."""
        await self._ok(asked)
        self.doomed = True


def _hang_up(stream: Stream, how: str) -> None:
    sock = stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@asynccontextmanager
async def hostile(
    *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", receive_buffer_bytes: int = 0
) -> AsyncIterator[Hostile]:
    """Serve while the block runs, then reset all connections. The buffer is the kernel's; 0: as it likes."""
    listeners = await trio.open_tcp_listeners(0, host=host)
    if receive_buffer_bytes:
        listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    port = listeners[0].socket.getsockname()[1]
    server = Hostile(f"{'https' if tls else 'http'}://{host}:{port}", port)

    async def handle(transport: trio.SocketStream) -> None:
        server.connections += 1
        server.open_now += 1
        stream: Stream = transport
        if tls is not None:
            stream = trio.SSLStream(transport, tls, server_side=True)
        how = "reset"
        try:
            await _Connection(server, stream).serve()
            how = "fin"
        except Hangup as hangup:
            how = hangup.how
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client left; that is its right
        finally:
            if how == "fin" and isinstance(stream, trio.SSLStream):
                with trio.move_on_after(2, shield=True) as scope:
                    try:
                        await stream.aclose()
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass
                del scope
            _hang_up(stream, how)
            server.open_now -= 1

    async with trio.open_nursery() as nursery:
        serve: Callable[..., Awaitable[None]] = trio.serve_listeners
        await nursery.start(serve, handle, listeners)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
