"""One libcurl handle and its callbacks: from a Request to a Reply or a WireError.

Knows nothing of the multi interface's sockets and timers, nor of S3. The rules (each measured):
- Options that all requests share are set once a handle, the others only where they differ from the last request: a
  `reset()` and 30 options cost more than the transfer. Only a handle that did not end well is reset.
- A callback never raises (libcurl would turn it into error 23 or 42 and the exception would be printed), never calls
  into libcurl, and refuses to touch sink or body once the transfer was given up.
- The lines of a head go to a list without a Python frame each (a third of what a small GET cost here) and are parsed
  when the first byte of the body arrives or the reply is complete.
- libcurl's words are for people, its codes and our own clock and counters decide: its texts can be stale.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable
from math import inf
from time import perf_counter

import pycurl
import trio

from s3mount.store.base import Body, Buffer
from s3mount.store.exchange import (
    ERROR_BODY_MAX_BYTES,
    BadHttp,
    CertificateRefused,
    ConnectFailed,
    ConnectionBroken,
    CutBody,
    DeadlineExceeded,
    Reply,
    ReplyLost,
    Request,
    Sink,
    Stalled,
    WireError,
    WireOptions,
)
from s3mount.store.head import HEAD_MAX_BYTES, body_length, check_url, header_lines, parse_head

RECEIVE_BYTES = 128 * 1024
SEND_BYTES = 256 * 1024
"""2 MiB would hold the loop for 14 ms."""

_BYTES_ACKED = struct.Struct("=120xQ")
"""`tcpi_bytes_acked` in Linux's struct tcp_info."""

_SUPPRESS_CONNECT_HEADERS = 265
_CA_CACHE_TIMEOUT = 321
"""CURLOPT_SUPPRESS_CONNECT_HEADERS and CURLOPT_CA_CACHE_TIMEOUT, which pycurl has no names for."""
NAME_CACHE_SECONDS = 10
"""Half of it for a name that was not found; libcurl's own is 60 s (measured: a name that was there again was of no use
for 24 s)."""
CA_CACHE_SECONDS = 5
"""libcurl's own is a day (measured: a mended file of authorities was of no use without a restart)."""

_METHODS: dict[str, tuple[int, str | None]] = {
    # UPLOAD sends the body from READFUNCTION under a name of our choice; POST itself would add a Content-Type.
    # HEAD must be NOBODY: as a custom GET libcurl would wait for a body.
    "GET": (pycurl.HTTPGET, None),
    "HEAD": (pycurl.NOBODY, None),
    "PUT": (pycurl.UPLOAD, None),
    "POST": (pycurl.UPLOAD, "POST"),
    "DELETE": (pycurl.HTTPGET, "DELETE"),
}
_CONNECT_CODES = {
    pycurl.E_COULDNT_RESOLVE_PROXY,
    pycurl.E_COULDNT_RESOLVE_HOST,
    pycurl.E_COULDNT_CONNECT,
    pycurl.E_SSL_CONNECT_ERROR,
    pycurl.E_OPERATION_TIMEDOUT,
}
_CERTIFICATE_CODES = {
    pycurl.E_PEER_FAILED_VERIFICATION,
    pycurl.E_SSL_CACERT_BADFILE,
    pycurl.E_SSL_ISSUER_ERROR,
    pycurl.E_SSL_CERTPROBLEM,
    pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_INVALIDCERTSTATUS,
    pycurl.E_SSL_PINNEDPUBKEYNOTMATCH,
}
_BROKEN_CODES = {pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_PARTIAL_FILE}


def _dropped(_chunk: memoryview) -> None:
    """Takes the bytes that come between two requests: none do."""


def _no_descriptor_left() -> bool:
    """Why a connection could not be made, which libcurl does not tell."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


class Transfer:
    """A recycled handle. `begin` to `end` is one request; in between its callbacks belong to libcurl.

    The mutable state is `failure` (ours, decides over libcurl's code), `given_up` (callbacks refuse), `progress` (when
    a byte last moved), `sends` (how often libcurl began to send), and the reply as far as it came.
    """

    def __init__(self, options: WireOptions) -> None:
        self.curl = pycurl.Curl()
        self._options = options
        self.task: trio.lowlevel.Task | None = None
        self.failure: BaseException | None = None
        self.given_up = False
        self.finished = False
        self.code = 0
        self.text = ""
        self.sends = 0
        self.progress = 0.0
        self.deadline = inf
        self._lines: list[bytes] = []
        self._request: Request | None = None
        self._sink: Sink | None = None
        self._body: Body = ()
        self._configure()

    def __repr__(self) -> str:
        what = f"{self._request.method} {self._request.url}" if self._request else "idle"
        return f"<Transfer {what} sends={self.sends} received={self._received} failure={self.failure!r}>"

    def _configure(self) -> None:
        """Set what all requests share; after it the handle is as good as new."""
        options, setopt = self._options, self.curl.setopt
        setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        setopt(pycurl.NOSIGNAL, 1)
        setopt(pycurl.TCP_NODELAY, 1)
        setopt(pycurl.PATH_AS_IS, 1)
        setopt(pycurl.FOLLOWLOCATION, 0)
        setopt(pycurl.HTTP09_ALLOWED, 0)
        setopt(pycurl.BUFFERSIZE, RECEIVE_BYTES)
        setopt(pycurl.UPLOAD_BUFFERSIZE, SEND_BYTES)
        setopt(pycurl.CONNECTTIMEOUT_MS, max(1, round(options.connect_timeout_seconds * 1000)))
        setopt(pycurl.MAXAGE_CONN, max(1, int(options.idle_connection_seconds)))
        setopt(pycurl.USERAGENT, options.user_agent)
        # An empty string, not None: None would let libcurl look into the environment.
        setopt(pycurl.PROXY, options.proxy or "")
        setopt(pycurl.NOPROXY, "")
        # The head of a proxy's answer to CONNECT is not the head of the reply.
        setopt(_SUPPRESS_CONNECT_HEADERS, 1)
        setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        setopt(pycurl.SSL_VERIFYPEER, 1)
        setopt(pycurl.SSL_VERIFYHOST, 2)
        setopt(_CA_CACHE_TIMEOUT, CA_CACHE_SECONDS)
        setopt(pycurl.DNS_CACHE_TIMEOUT, NAME_CACHE_SECONDS)
        if options.ca is not None:
            is_directory = options.ca.is_dir()
            setopt(pycurl.CAINFO, None if is_directory else str(options.ca))
            setopt(pycurl.CAPATH, str(options.ca) if is_directory else None)
            setopt(pycurl.PROXY_CAINFO, None if is_directory else str(options.ca))
            setopt(pycurl.PROXY_CAPATH, str(options.ca) if is_directory else None)
        setopt(pycurl.HEADERFUNCTION, self._lines.append)
        setopt(pycurl.WRITEFUNCTION, self._on_data, use_memoryview=True)
        setopt(pycurl.READFUNCTION, self._on_read)
        setopt(pycurl.SEEKFUNCTION, self._on_seek)
        setopt(pycurl.PREREQFUNCTION, self._on_send)
        self._method = ""
        self._length = -1
        self._forget()

    def _forget(self) -> None:
        self.task = None
        self._request = None
        self._sink = None
        self._take: Callable[[memoryview], None] = _dropped
        self._body = ()
        self._piece = 0
        self._offset = 0
        self._lines.clear()
        self._evidence = (0.0, 0, 0)
        self._second_look = inf
        self._status = 0
        self._headers: dict[str, str] = {}
        self._expected: int | None = None
        self._received = 0
        self._sent_bytes = 0
        self._error = b""
        self._good = False

    def begin(self, request: Request, sink: Sink) -> None:
        """Set the handle up for `request`. Raises ValueError for a URL or header that must not be sent."""
        url, method, options = request.url, request.method, self._options
        check_url(url)
        if options.ca is None and url.startswith("https:"):
            raise ValueError("https without certificates of authorities to check by")
        kind, name = _METHODS[method]
        lines = header_lines(request.headers)
        setopt = self.curl.setopt
        if method != self._method:
            self._method = ""
            setopt(kind, 1)
            setopt(pycurl.CUSTOMREQUEST, name)
            self._method = method
        if kind == pycurl.UPLOAD:
            length = sum([memoryview(piece).nbytes for piece in request.body])
            if length != self._length:
                setopt(pycurl.INFILESIZE_LARGE, length)
                self._length = length
        else:
            assert not request.body, method
        setopt(pycurl.URL, url)
        setopt(pycurl.HTTPHEADER, lines)
        self.failure = None
        self.given_up = self.finished = False
        self.code = 0
        self.sends = 0
        self.progress = now = perf_counter()
        self.deadline = now + request.deadline_seconds
        self._request = request
        self._sink = sink
        self._take = sink.data
        self._body = request.body

    def expiry(self, now: float) -> float:
        """When this transfer is to be given up if nothing moves. Before it is connected only the deadline counts."""
        assert self._request is not None
        if not self.sends:
            return self.deadline
        stall = self._request.stall_seconds
        due = self.progress + stall
        if due <= now:
            # Believed at the second of two looks that see the same. After a pause of the whole process the bytes may be
            # waiting to be read; a head trickles without a callback; and on a slow uplink the last 256 KiB in libcurl
            # and the megabytes in the kernel outlast any stall time: there only what the peer acknowledges tells.
            evidence = (self.progress, len(self._lines), self._acknowledged() if self._sent_bytes else 0)
            if evidence != self._evidence:
                self._evidence = evidence
                self._second_look = now + stall / 4
            due = self._second_look
        return min(self.deadline, due)

    def _acknowledged(self) -> int:
        fd = self.curl.getinfo(pycurl.ACTIVESOCKET)
        if fd < 0:
            return 0
        sock = socket.socket(fileno=fd)  # libcurl's: no copy of it, there may be no descriptor left for one
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        finally:
            sock.detach()
        return int(_BYTES_ACKED.unpack(info)[0]) if len(info) == _BYTES_ACKED.size else 0

    def expire(self, now: float) -> None:
        """Note why time is up: the deadline, or a stall."""
        assert self._request is not None
        if now >= self.deadline:
            words = f"not done within {self._request.deadline_seconds:g} s"
            self.fail(self._error_of(DeadlineExceeded, words, 0))
        else:
            self.fail(self._error_of(Stalled, f"no byte moved for {self._request.stall_seconds:g} s", 0))

    def fail(self, error: BaseException) -> None:
        """Note the first thing that went wrong; it decides over libcurl's code."""
        if self.failure is None:
            self.failure = error

    def give_up(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """The task is cancelled and about to wake: only mark, for this may be called from anywhere."""
        self.given_up = True
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def outcome(self) -> Reply:
        """What libcurl's result means, by our own facts first. Raises WireError, or what the sink raised."""
        if self.failure is not None:
            raise self.failure
        if self.code:
            raise self._classified(self.code, self.text)
        if not self._status:
            self._read_head()
        if self._expected is not None and self._received != self._expected:
            raise self._error_of(CutBody, f"{self._received} of {self._expected} bytes came", 0)
        if self._good and self._method in ("PUT", "POST") and self._sent_bytes != self._length:
            raise self._error_of(BadHttp, f"answered after {self._sent_bytes} of {self._length} bytes", 0)
        return Reply(self._status, self._headers, self._received, self._error)

    def end(self) -> None:
        """Let go of the sink and the body after a whole reply; the handle must be out of the multi."""
        self._forget()

    def reset(self) -> None:
        """The same after anything else: the handle forgets what libcurl may still hold of the request."""
        self.given_up = True
        self.failure = None
        self.curl.reset()
        self._configure()

    def close(self) -> None:
        self.curl.close()

    def _read_head(self) -> None:
        """Take the head out of the lines, decide by it how long the body is, and show it to the sink."""
        try:
            status, headers = parse_head(self._lines)
            if self._method != "HEAD":
                self._expected = body_length(status, headers)
        except ValueError as error:
            raise self._error_of(BadHttp, str(error), 0) from None
        self._status = status
        self._headers = headers
        self._good = 200 <= status < 300
        assert self._sink is not None
        self._sink.head(status, headers)

    def _error_of(self, kind: type[WireError], words: str, code: int) -> WireError:
        request = self._request
        what = f"{request.method} {request.url.partition('?')[0]}: " if request else ""
        return kind(what + words, sent=self.sends > 0, sent_bytes=self._sent_bytes, code=code)

    def _classified(self, code: int, text: str) -> WireError:
        words = f"{text or 'no words'} (libcurl error {code})"
        if code == pycurl.E_COULDNT_CONNECT and _no_descriptor_left():
            words += "; " + os.strerror(errno.EMFILE)
        if code in _CERTIFICATE_CODES:
            return self._error_of(CertificateRefused, f"{words}; certificates of authorities: {self._options.ca}", code)
        if not self.sends and code in _CONNECT_CODES | _BROKEN_CODES:
            return self._error_of(ConnectFailed, words, code)
        if code in _BROKEN_CODES and self._lines and not self._status:
            try:
                self._status, self._headers = parse_head(self._lines)
            except ValueError as error:
                if sum(map(len, self._lines)) > HEAD_MAX_BYTES:
                    return self._error_of(BadHttp, str(error), code)
        if code in _BROKEN_CODES:
            # A cut body is 18; over TLS without close_notify it is 56, the same as no reply at all.
            return self._error_of(CutBody if self._status else ConnectionBroken, words, code)
        if code == pycurl.E_OUT_OF_MEMORY:
            raise MemoryError(words)
        return self._error_of(BadHttp if self.sends else ConnectFailed, words, code)

    # Callbacks: called by libcurl inside socket_action().

    def _on_send(self, *_addresses: object) -> int:
        """Once each time libcurl is about to send the request: it repeats any method on a fresh connection when a
        reused one died before the first byte of the reply, and tells nobody."""
        try:
            assert self._request is not None
            if self.sends and self._request.mutating:
                self.fail(self._error_of(ReplyLost, "the connection died before a reply", 0))
            if self.given_up or self.failure is not None:
                return pycurl.PREREQFUNC_ABORT
            self.sends += 1
            self.progress = perf_counter()
        except BaseException as error:  # noqa: BLE001 - raised in the task
            self.fail(error)
            return pycurl.PREREQFUNC_ABORT
        return pycurl.PREREQFUNC_OK

    def _on_read(self, size: int) -> Buffer | int:
        try:
            if self.given_up:
                return pycurl.READFUNC_ABORT
            self.progress = perf_counter()
            while self._piece < len(self._body):
                piece = memoryview(self._body[self._piece]).cast("B")
                if self._offset < len(piece):
                    chunk = piece[self._offset : self._offset + size]
                    self._offset += len(chunk)
                    self._sent_bytes += len(chunk)
                    return chunk
                self._piece += 1
                self._offset = 0
        except BaseException as error:  # noqa: BLE001 - raised in the task
            self.fail(error)
            return pycurl.READFUNC_ABORT
        return b""

    def _on_seek(self, offset: int, origin: int) -> int:
        """libcurl goes back to the start of the body before it repeats a request."""
        try:
            if self.given_up or offset != 0 or origin != 0:
                return pycurl.SEEKFUNC_FAIL
            self._piece = self._offset = self._sent_bytes = 0
        except BaseException as error:  # noqa: BLE001 - raised in the task
            self.fail(error)
            return pycurl.SEEKFUNC_FAIL
        return pycurl.SEEKFUNC_OK

    def _on_data(self, chunk: memoryview) -> int | None:
        try:
            if self.given_up:
                return 0
            self.progress = perf_counter()
            if not self._status:
                self._read_head()
            self._received += len(chunk)
            if self._good:
                # Bound beforehand: libcurl hands out 16 KiB at a time, so this runs 61,000 times a GB.
                self._take(chunk)
            elif len(self._error) < ERROR_BODY_MAX_BYTES:
                self._error += bytes(chunk[: ERROR_BODY_MAX_BYTES - len(self._error)])
        except BaseException as error:  # noqa: BLE001 - raised in the task
            self.fail(error)
            return 0
        return None
