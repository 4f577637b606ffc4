"""What the tests of the wire share: a wire that runs while a block does, requests made short, open descriptors."""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from s3mount.store.wire import Reply, Request, SmallBody, Wire, WireOptions
from tests.servers import Tls


@asynccontextmanager
async def running_wire(**options: object) -> AsyncIterator[Wire]:
    wire = Wire(WireOptions(**options))  # type: ignore[arg-type]  # names and values are the test's business
    async with trio.open_nursery() as nursery:
        await nursery.start(wire.run)
        try:
            yield wire
        finally:
            nursery.cancel_scope.cancel()
    assert not wire._active, wire
    assert not wire._wanted, wire


def asking(url: str, method: str = "GET", **rest: object) -> Request:
    return Request(method=method, url=url, **rest)  # type: ignore[arg-type]  # as above


async def fetch(wire: Wire, url: str, method: str = "GET", **rest: object) -> tuple[Reply, bytes]:
    sink = SmallBody(64 * 1024 * 1024)
    reply = await wire.perform(asking(url, method, **rest), sink)
    return reply, bytes(sink.content)


def server_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
