"""A proxy between s3mount and an S3 server that counts requests and injects faults, in a process of its own.

`FaultProxy` is the tests' end, `proxy_server` the other one. They know HTTP/1.1 and how S3 names its operations (path
style), nothing of s3mount. A hung client or server cannot block the tests: they talk to the proxy over
pipes. Requests are forwarded byte for byte, `Host` included, so that signatures stay valid; only `Expect: 100-continue`
is answered here. Without faults it forwards several hundred MB/s.
"""

import json
import re
import select
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tests.servers import Tls  # which brings boto3, that the proxy's own process starts faster without

ANSWER_SECONDS = 20.0

Fault = Literal[
    "none",
    "reset",
    "drop_reply",
    "hang_reply",
    "cut_request",
    "cut_head",
    "cut_body",
    "error",
    "answer",
    "replace",
    "black_hole",
    "flip_body",
    "flip_reply",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens to the requests it matches; the first rule that matches and is not used up decides.

    reset: the connection is closed unforwarded. drop_reply: forwarded, the reply read to its end and thrown away.
    hang_reply: the same, but the connection stays. cut_request: both sides are closed after `cut_share` of the
    request's body. cut_head: after so much of the reply's head. cut_body: the reply stops after `cut_at_bytes` of its
    body and `cut_share` of it. error: answered here with `status` and `code`. answer: answered here
    with `status`, `body` and `etag`. replace: forwarded, and then answered so.
    black_hole: read and never answered. flip_body: one bit of the request's body is another. flip_reply: the lowest bit
    of a character of the reply's head is another, the first that `pattern` finds as its group 1. `delay_seconds` comes
    first with each of them, and alone with "none".
    """

    fault: Fault = "none"
    method: str = ""
    kind: str = ""
    key: str = ""
    """A regular expression searched for in the decoded key."""
    header: str = ""
    """A regular expression that the whole name of some header matches, in lower case."""
    access_key: str = ""
    """Of the credentials that a request is signed with."""
    pattern: str = ""
    skip: int = 0
    times: int | None = None
    delay_seconds: float = 0.0
    cut_at_bytes: int = 0
    cut_share: float = 0.0
    status: int = 500
    code: str = "InternalError"
    body: str = ""
    etag: str = ""
    """Empty: no such header."""
    retry_after_seconds: int | None = None
    date_shift_seconds: float = 0.0


@dataclass(slots=True)
class Seen:
    """One request as the proxy saw it; times are CLOCK_MONOTONIC, `ended` and `status` 0 while it is under way."""

    method: str
    kind: str
    bucket: str
    key: str
    query: str
    range: str = ""
    carried: dict[str, str] = field(default_factory=dict)
    """The headers that say how an object is kept or checked; no credentials, no dates."""
    flipped: bool = False
    status: int = 0
    sent: int = 0
    received: int = 0
    began: float = 0.0
    ended: float = 0.0


def kind_of(method: str, key: str, query: dict[str, list[str]], headers: dict[str, str]) -> str:
    """The S3 operation of a request, in the store's words: head, get, list, put, copy, upload_part, delete, ..."""
    copies = "x-amz-copy-source" in headers
    if not key:
        if method == "GET":
            return "list_uploads" if "uploads" in query else "list"
        if method == "POST" and "delete" in query:
            return "delete_objects"
        return f"{method.lower()}_bucket"
    for name in ("tagging", "acl", "attributes"):
        if name in query:
            return f"{method.lower()}_{name}"
    if method == "PUT":
        if "renameObject" in query:
            return "rename"
        if "partNumber" in query:
            return "copy_part" if copies else "upload_part"
        return "copy" if copies else "put"
    if method == "POST":
        return "create_upload" if "uploads" in query else "complete_upload"
    if method == "DELETE":
        return "abort_upload" if "uploadId" in query else "delete"
    if method == "GET" and "uploadId" in query:
        return "list_parts"
    return method.lower()


class FaultProxy:
    """The tests' end: starts the proxy, tells it what to do, asks what it saw. A context manager."""

    def __init__(self, upstream_url: str) -> None:
        target = urlsplit(upstream_url)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.proxy_server", target.hostname or "", str(target.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        self._lock = threading.Lock()
        self.endpoint_url = f"http://127.0.0.1:{self._answer()}"

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process; harmless when it has ended already."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def add(self, rule: Rule) -> None:
        """Put a rule behind those there are."""
        self._ask("add", asdict(rule))

    def clear(self) -> None:
        """Forget all rules, limits and the storm; what hangs in a black hole is closed."""
        self._ask("clear", None)

    def down(self) -> None:
        """Refuse connections and reset those there are, as a server that restarts."""
        self._ask("down", None)

    def up(self) -> None:
        """Listen again, at the same port."""
        self._ask("up", urlsplit(self.endpoint_url).port)

    def half_open(self) -> None:
        """Read what comes over the connections there are now, and never answer: their other end is gone unseen."""
        self._ask("half_open", None)

    def present(self, tls: "Tls") -> str:
        """Speak TLS with this certificate from now on, over new connections; the address."""
        self._ask("present", [str(tls.certificate), str(tls.key)])
        return self.endpoint_url.replace("http://", "https://")

    def limit(self, *, total: float | None = None, connection: float | None = None) -> None:
        """Bytes per second in each direction: of everything together, of each connection. None: no limit."""
        self._ask("limit", {"total": total, "connection": connection})

    def storm(self, *, seed: int, rate: float, delay_rate: float = 0.0, delay_max_seconds: float = 0.0) -> None:
        """From now on something happens to a share of all requests to which no rule does; see `tests.storm`."""
        self._ask(
            "storm", {"seed": seed, "rate": rate, "delay_rate": delay_rate, "delay_max_seconds": delay_max_seconds}
        )

    def injected(self) -> Counter[str]:
        """What the storm has done since it began, by fault."""
        return Counter(self._ask("injected", None))

    def requests(self, key: str = "") -> list[Seen]:
        """What was seen since the last `forget`, in order of arrival; `key` is searched for in the decoded key."""
        seen = [Seen(**found) for found in self._ask("requests", None)]
        return [request for request in seen if re.search(key, request.key)] if key else seen

    def counts(self, key: str = "") -> Counter[str]:
        """Requests by kind."""
        return Counter(request.kind for request in self.requests(key))

    def forget(self) -> None:
        """Forget the requests that have ended."""
        self._ask("forget", None)

    def _ask(self, verb: str, value: object) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([verb, value]).encode() + b"\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        if not ready:
            raise TimeoutError("the fault proxy does not answer")
        return json.loads(self._process.stdout.readline())
