"""An S3Store on wires that a test answers, without threads: for retries, deadlines and outages on a virtual clock.

A `Script` is called for each attempt and returns, raises a WireError, or never ends: then the attempt ends as on the
real wire, at its deadline or, a quarter after its stall time-out, as stalled."""

import random
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import cast

import trio

from s3mount.config import Config
from s3mount.store.endpoint import Address
from s3mount.store.s3 import S3Store
from s3mount.store.wire import DeadlineExceeded, Reply, Request, Sink, Stalled, Wire

START_SECONDS = 1_800_000_000
STALL_TIMES = 1.25
EMPTY_LIST = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"

Script = Callable[[Request], Awaitable[tuple[int, dict[str, str], bytes]]]


class ScriptedWire:
    """See the module. `sent` has the time and the request of each attempt; `under_way` how many there are now."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sent: list[tuple[float, Request]] = []
        self.under_way = 0

    async def perform(self, request: Request, sink: Sink) -> Reply:
        self.sent.append((trio.current_time(), request))
        self.under_way += 1
        silence = request.stall_seconds * STALL_TIMES
        try:
            with trio.move_on_after(min(silence, request.deadline_seconds)):
                status, headers, body = await self.script(request)
                if not 200 <= status < 300:
                    return Reply(status, headers, len(body), body)
                sink.head(status, headers)
                if body:
                    sink.data(memoryview(body))
                return Reply(status, headers, len(body))
        finally:
            self.under_way -= 1
        kind = Stalled if silence < request.deadline_seconds else DeadlineExceeded
        raise kind(f"{request.method} {request.url}: nothing was heard", sent=True)


def scripted_store(script: Script, *, seed: int = 0, **options: object) -> tuple[S3Store, ScriptedWire]:
    """A store that need not run, unsigned, whose clock is trio's."""
    config = Config(bucket="b", **options)  # type: ignore[arg-type]  # names and values are the test's business
    store = S3Store(config, clock_ns=clock_ns, random=random.Random(seed))
    wire = ScriptedWire(script)
    requests = store._requests
    requests._metadata_wire = requests._bulk_wire = cast(Wire, wire)
    requests.access.address = Address("http://store", "store", "/b", "us-east-1", None, Path())
    return store, wire


def clock_ns() -> int:
    return round((START_SECONDS + trio.current_time()) * 1e9)


def date(shift_seconds: float = 0.0) -> str:
    """The Date of a reply."""
    return formatdate(START_SECONDS + trio.current_time() + shift_seconds, usegmt=True)


def refusal(status: int, code: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """An error, its headers written with `_` for `-`."""
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"date": date(), **found}, f"<Error><Code>{code}</Code></Error>".encode() if code else b""


def success(request: Request) -> tuple[int, dict[str, str], bytes]:
    """What a well store says: any object is 4 bytes, any directory empty."""
    when = {"date": date(), "last-modified": date(-3600), "etag": '"0123456789abcdef0123456789abcdef"'}
    if "list-type=2" in request.url:
        return 200, when, EMPTY_LIST
    if any(name == "x-amz-copy-source" for name, _ in request.headers):
        return 200, when, b"<CopyObjectResult><ETag>&quot;1&quot;</ETag></CopyObjectResult>"
    if request.method == "GET":
        return 206, {**when, "content-range": "bytes 0-3/4", "content-length": "4"}, b"body"
    return 200, {**when, "content-length": "4" if request.method == "HEAD" else "0"}, b""
