"""The fault proxy itself, a program: `python -m tests.proxy_server HOST PORT` forwards to an S3 server and obeys pipes.

It prints its port; each line of standard input is a verb and a value in JSON, answered by one line. A thread per
connection; their shared state is `_State`. Requests are forwarded byte for byte but for `Expect`.
"""

import contextlib
import json
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.proxy import Rule, Seen, kind_of
from tests.storm import Storm

CHUNK_BYTES = 256 * 1024
SOCKET_BUFFER_BYTES = 256 * 1024
_CARRIED = re.compile(r"content-md5|x-amz-(?!content-sha256|date|security-token)")


class _Closed(Exception):
    """The other side ended the connection."""


class _Bucket:
    """A token bucket without burst. The mutable state is when the next byte may go, under the lock."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._next = 0.0

    def take(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            due = max(self._next, now)
            self._next = due + count / self.rate
        if due > now:
            time.sleep(due - now)


class _Stream:
    """One socket with what was read from it too early."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""
        self._chunk = memoryview(bytearray(CHUNK_BYTES))

    def head(self) -> bytes:
        """The bytes up to and with the empty line; raises _Closed before the first one, too."""
        while (end := self.rest.find(b"\r\n\r\n")) < 0:
            found = self.sock.recv(65536)
            if not found:
                raise _Closed
            self.rest += found
        head, self.rest = self.rest[: end + 4], self.rest[end + 4 :]
        return head

    def line(self) -> bytes:
        while (end := self.rest.find(b"\r\n")) < 0:
            found = self.sock.recv(65536)
            if not found:
                raise _Closed
            self.rest += found
        line, self.rest = self.rest[: end + 2], self.rest[end + 2 :]
        return line

    def pieces(self, size: int, piece_max: int) -> Iterator[memoryview]:
        """The next `size` bytes in pieces; each is valid until the next."""
        while size > 0:
            if self.rest:
                taken = self.rest[: min(size, piece_max)]
                self.rest = self.rest[len(taken) :]
                size -= len(taken)
                yield memoryview(taken)
                continue
            count = self.sock.recv_into(self._chunk, min(size, piece_max, CHUNK_BYTES))
            if count == 0:
                raise _Closed
            size -= count
            yield self._chunk[:count]

    def reset(self) -> None:
        """Close so that the peer sees a reset, not an end."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}


@dataclass(slots=True)
class _State:
    """Everything connections share. The mutable state is all of it, under `lock`."""

    upstream: tuple[str, int]
    lock: threading.Lock = field(default_factory=threading.Lock)
    rules: list[tuple[Rule, list[int]]] = field(default_factory=list)
    """Each with how many requests it matched so far."""
    seen: list[Seen] = field(default_factory=list)
    total: tuple[_Bucket, _Bucket] | None = None
    connection_rate: float | None = None
    released: threading.Event = field(default_factory=threading.Event)
    """Set when rules are cleared; a new one takes its place."""
    storm: Storm | None = None
    stormed: bool = False
    """Whether the storm goes on; what it did is asked for after its end, too."""
    listener: socket.socket | None = None
    connections: "set[_Connection]" = field(default_factory=set)
    tls: ssl.SSLContext | None = None

    def rule_for(self, request: Seen, headers: dict[str, str]) -> Rule:
        with self.lock:
            for rule, used in self.rules:
                if (rule.method and rule.method != request.method) or (rule.kind and rule.kind != request.kind):
                    continue
                if rule.key and not re.search(rule.key, request.key):
                    continue
                if rule.header and not any(re.fullmatch(rule.header, name) for name in headers):
                    continue
                if rule.access_key and f"Credential={rule.access_key}/" not in headers.get("authorization", ""):
                    continue
                used[0] += 1
                if used[0] > rule.skip and (rule.times is None or used[0] <= rule.skip + rule.times):
                    return rule
            return self.storm.rule_for(request) if self.storm and self.stormed else Rule()


class _Connection:
    """One client connection, served by one thread until either side closes it."""

    def __init__(self, state: _State, sock: socket.socket) -> None:
        self._state = state
        self._client = _Stream(sock)
        self._upstream: _Stream | None = None
        self._own: dict[int, _Bucket] = {}
        self.half_open = False

    def run(self) -> None:
        with self._state.lock:
            self._state.connections.add(self)
            tls = self._state.tls
        try:
            if tls is not None:
                self._client.sock = tls.wrap_socket(self._client.sock, server_side=True)
            while self._one():
                pass
        except (OSError, _Closed):
            pass
        finally:
            with self._state.lock:
                self._state.connections.discard(self)
            self._client.sock.close()
            if self._upstream is not None:
                self._upstream.sock.close()

    def cut(self) -> None:
        """End it from another thread, with a reset."""
        with contextlib.suppress(OSError):
            self._client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._client.sock.shutdown(socket.SHUT_RDWR)

    def _one(self) -> bool:
        """Serve one request; whether another may follow."""
        head = self._client.head()
        if self.half_open:
            self._wait_in_black_hole(self._state.released)
            return False
        headers = _headers(head)
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        path, _, query = target.partition("?")
        bucket, _, key = unquote(path.lstrip("/") if path.startswith("//") else path[1:]).partition("/")
        arguments = parse_qs(query, keep_blank_values=True)
        kind = kind_of(method, key, arguments, headers)
        shown = arguments["prefix"][0] if kind == "list" and "prefix" in arguments else key
        carried = {name: value for name, value in headers.items() if _CARRIED.match(name)}
        request = Seen(method, kind, bucket, shown, query, headers.get("range", ""), carried, began=time.monotonic())
        with self._state.lock:
            self._state.seen.append(request)
        released = self._state.released
        rule = self._state.rule_for(request, headers)
        try:
            return self._answer(request, rule, head, headers, released)
        finally:
            request.ended = time.monotonic()

    def _answer(
        self, request: Seen, rule: Rule, head: bytes, headers: dict[str, str], released: threading.Event
    ) -> bool:
        if rule.delay_seconds:
            released.wait(rule.delay_seconds)
        if rule.fault == "reset":
            self._client.reset()
            return False
        if headers.get("expect", "").lower() == "100-continue":
            self._client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
        if rule.fault in {"error", "answer", "black_hole"}:
            self._send_body(headers, None, request)
            if rule.fault == "black_hole":
                self._wait_in_black_hole(released)
                return False
            self._client.sock.sendall(_error(rule, request) if rule.fault == "error" else _made_up(rule, request))
            request.status = rule.status
            return True
        upstream = self._connect()
        if rule.fault == "cut_request":
            self._forward_some(upstream, head, headers, rule.cut_share)
            return False
        upstream.sock.sendall(head)
        self._send_body(headers, upstream.sock, request, flipped=rule.fault == "flip_body")
        return self._reply(upstream, request, rule, released)

    def _forward_some(self, upstream: _Stream, head: bytes, headers: dict[str, str], share: float) -> None:
        left = int(share * int(headers.get("content-length", 0)))
        upstream.sock.sendall(head)
        for piece in self._body(self._client, headers, 0):
            upstream.sock.sendall(piece[:left])
            left -= len(piece)
            if left <= 0:
                break
        upstream.reset()
        self._client.reset()

    def _connect(self) -> _Stream:
        if self._upstream is not None and select.select([self._upstream.sock], [], [], 0)[0]:
            self._upstream.sock.close()  # readable before it was asked: the server ended it
            self._upstream = None
        if self._upstream is None:
            sock = socket.create_connection(self._state.upstream, 10)
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._upstream = _Stream(sock)
        return self._upstream

    def _send_body(
        self, headers: dict[str, str], to: socket.socket | None, request: Seen, *, flipped: bool = False
    ) -> None:
        for piece in self._body(self._client, headers, 0):
            if flipped and not request.flipped:
                request.flipped = True
                piece = memoryview(bytes([piece[0] ^ 0x10]) + bytes(piece[1:]))
            request.sent += len(piece)
            if to is not None:
                to.sendall(piece)

    def _reply(self, upstream: _Stream, request: Seen, rule: Rule, released: threading.Event) -> bool:
        head = upstream.head()
        while head.split(b" ", 2)[1].startswith(b"1"):
            head = upstream.head()
        status, headers = int(head.split(b" ", 2)[1]), _headers(head)
        silent = request.method == "HEAD" or status in {204, 304}
        if rule.fault in {"drop_reply", "hang_reply", "replace"}:
            if not silent:
                for _ in self._body(upstream, headers, 1):
                    pass
            if rule.fault != "replace":
                request.status = status
                if rule.fault == "hang_reply":
                    self._wait_in_black_hole(released)
                self._client.reset()
                return False
            self._client.sock.sendall(_made_up(rule, request))
            request.status = rule.status
            return True
        if rule.fault == "flip_reply" and (found := re.search(rule.pattern.encode(), head, re.IGNORECASE)):
            request.flipped = True
            place = found.start(1)
            head = head[:place] + bytes([head[place] ^ 1]) + head[place + 1 :]
        if rule.fault == "cut_head":
            self._client.sock.sendall(head[: int(rule.cut_share * len(head))])
            return False
        self._client.sock.sendall(head)
        if not silent:
            left = None
            if rule.fault == "cut_body":
                left = rule.cut_at_bytes + int(rule.cut_share * int(headers.get("content-length", 0)))
            for piece in self._body(upstream, headers, 1):
                self._client.sock.sendall(piece if left is None else piece[:left])
                request.received += len(piece)
                if left is not None:
                    left = max(left - len(piece), 0)
                    if left == 0:
                        request.status = status
                        return False
        request.status = status
        return "close" not in headers.get("connection", "").lower()

    def _body(self, source: _Stream, headers: dict[str, str], direction: int) -> Iterator[memoryview]:
        """The body as it stands on the wire, chunk heads included, no faster than the limits allow."""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            while True:
                line = source.line()
                yield memoryview(line)
                size = int(line.split(b";")[0], 16)
                yield from self._paced(source, size + 2 if size else 0, direction)
                if size == 0:
                    while (line := source.line()) != b"\r\n":
                        yield memoryview(line)
                    yield memoryview(b"\r\n")
                    return
        yield from self._paced(source, int(headers.get("content-length", 0)), direction)

    def _paced(self, source: _Stream, size: int, direction: int) -> Iterator[memoryview]:
        buckets = self._buckets(direction)
        piece_max = CHUNK_BYTES
        for bucket in buckets:
            piece_max = min(piece_max, max(int(bucket.rate / 50), 1024))
        for piece in source.pieces(size, piece_max):
            for bucket in buckets:
                bucket.take(len(piece))
            yield piece

    def _buckets(self, direction: int) -> list[_Bucket]:
        with self._state.lock:
            found = [self._state.total[direction]] if self._state.total else []
            rate = self._state.connection_rate
        if rate is not None:
            own = self._own.get(direction)
            if own is None or own.rate != rate:
                own = self._own[direction] = _Bucket(rate)
            found.append(own)
        return found

    def _wait_in_black_hole(self, released: threading.Event) -> None:
        while not released.wait(0.2):
            if select.select([self._client.sock], [], [], 0)[0] and not self._client.sock.recv(65536):
                return


def _error(rule: Rule, request: Seen) -> bytes:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{rule.code}</Code><Message>injected by the tests</Message><RequestId>1</RequestId></Error>"
    )
    lines = ["Content-Type: application/xml"]
    if rule.retry_after_seconds is not None:
        lines.append(f"Retry-After: {rule.retry_after_seconds}")
    return _reply(rule, request, lines, body)


def _made_up(rule: Rule, request: Seen) -> bytes:
    return _reply(rule, request, [f"ETag: {rule.etag}"] if rule.etag else [], rule.body)


def _reply(rule: Rule, request: Seen, lines: list[str], body: str) -> bytes:
    lines = [
        f"HTTP/1.1 {rule.status} Injected",
        f"Date: {formatdate(time.time() + rule.date_shift_seconds, usegmt=True)}",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + ("" if request.method == "HEAD" else body)).encode()


def _obey(state: _State, verb: str, value: Any) -> object:
    with state.lock:
        match verb:
            case "down":
                assert state.listener is not None
                state.listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
                state.listener.close()
                for connection in state.connections:
                    connection.cut()
            case "up":
                assert state.listener is None or state.listener.fileno() < 0
                _listen(state, value)
            case "half_open":
                for connection in state.connections:
                    connection.half_open = True
            case "present":
                state.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                state.tls.load_cert_chain(*value)
                for connection in state.connections:
                    connection.cut()
            case "add":
                state.rules.append((Rule(**value), [0]))
            case "clear":
                state.rules.clear()
                state.stormed = False
                state.total = state.connection_rate = None
                state.released.set()
                state.released = threading.Event()
            case "limit":
                total = value["total"]
                state.total = (_Bucket(total), _Bucket(total)) if total else None
                state.connection_rate = value["connection"]
            case "storm":
                state.storm, state.stormed = Storm(**value), True
            case "injected":
                return dict(state.storm.counts) if state.storm else {}
            case "requests":
                return [asdict(request) for request in state.seen]
            case "forget":
                state.seen[:] = [request for request in state.seen if not request.ended]
    return None


def _listen(state: _State, port: int) -> None:
    state.listener = listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    threading.Thread(target=_accept, args=(state, listener), daemon=True).start()


def _accept(state: _State, listener: socket.socket) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return  # it went down
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_Connection(state, sock).run, daemon=True).start()


def main() -> None:
    state = _State((sys.argv[1], int(sys.argv[2])))
    threading.stack_size(512 * 1024)
    _listen(state, 0)
    assert state.listener is not None
    print(state.listener.getsockname()[1], flush=True)
    for line in sys.stdin:
        verb, value = json.loads(line)
        print(json.dumps(_obey(state, verb, value)), flush=True)


if __name__ == "__main__":
    main()
