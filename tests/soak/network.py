"""The network with the deadlines that mounts have by default: a black hole, half a minute of 503, names; 5 minutes."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from s3mount.config import Config
from s3mount.errors import LostReply, StoreError, Unavailable
from s3mount.store.base import Headers
from s3mount.store.s3 import S3Store
from tests.proxy import FaultProxy, Rule
from tests.servers import Server, make_bucket, start_seaweedfs
from tests.store.places import opened

HOST = "store.test"
HOSTS = Path("/etc/hosts")
BUCKET = "soak-network"
SLACK_SECONDS = 10.0
STORM_SECONDS = 30.0
BACKOFF_SECONDS = 5.0
NAME_SECONDS = 15.0
"""A name that was not found is asked for again after 5 s, and the request after a wait of up to 5 s."""


async def bounded(call: Awaitable[object], seconds: float, name: str) -> None:
    """It fails, as a store that does not answer, in time."""
    began = trio.current_time()
    try:
        await call
    except (Unavailable, LostReply) as error:
        took = trio.current_time() - began
        print(f"{name}: {type(error).__name__} after {took:.1f} s, at most {seconds:g}", flush=True)
        assert took <= seconds + SLACK_SECONDS
    else:
        raise AssertionError(f"{name} was answered in a black hole")


async def succeeds(call: Callable[[], Awaitable[object]], name: str) -> None:
    began = trio.current_time()
    await call()
    print(f"{name}: done after {trio.current_time() - began:.1f} s", flush=True)


async def black_hole_and_storm(proxy: FaultProxy) -> None:
    async with opened(Config(bucket=BUCKET, endpoint_url=proxy.endpoint_url, region="us-east-1")) as store:
        etag = (await store.put("k", (b"body",), Headers())).etag
        calls: dict[str, tuple[float, Callable[[], Awaitable[object]]]] = {
            "head": (60, lambda: store.head("k")),
            "list": (60, lambda: store.list_page("")),
            "delete": (60, lambda: store.delete("absent")),
            "get": (75, lambda: store.get("k", 0, memoryview(bytearray(4)))),
            "put": (75, lambda: store.put("k2", (b"body",), Headers())),
            "copy": (150, lambda: store.copy("k", "k3", source_etag=etag)),
        }
        proxy.add(Rule(fault="black_hole"))
        async with trio.open_nursery() as nursery:
            for name, (seconds, call) in calls.items():
                nursery.start_soon(bounded, call(), seconds, f"black hole, {name}")
        proxy.clear()
        for name, (_, call) in calls.items():
            await succeeds(call, f"afterwards, {name}")
        proxy.add(Rule(fault="error", status=503, code="SlowDown"))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name, (_, call) in calls.items():
                nursery.start_soon(succeeds, call, f"503 for {STORM_SECONDS:g} s, {name}")
            await trio.sleep(STORM_SECONDS)
            proxy.clear()
        assert trio.current_time() - began <= STORM_SECONDS + BACKOFF_SECONDS + SLACK_SECONDS
        for key in ("k", "k2", "k3"):
            await store.delete(key)


async def names(port: str) -> None:
    """In a namespace whose /etc/hosts is ours: a name that stops to resolve, and does again."""
    without = HOSTS.read_text()
    known = f"{without}\n127.0.0.1 {HOST}\n"
    HOSTS.write_text(known)
    config = Config(
        bucket=BUCKET, endpoint_url=f"http://{HOST}:{port}", region="us-east-1", idle_connection_seconds=1.0
    )
    async with opened(config) as store:
        await store.check()
        HOSTS.write_text(without)
        await trio.sleep(15)  # connections and names are remembered for 10 s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble, store)
            await trio.sleep(10)
            assert store.figures["outage"] is not None, "the name still resolves"
            HOSTS.write_text(known)
            began = trio.current_time()
        took = trio.current_time() - began
        print(f"a name that resolves again: answered after {took:.1f} s", flush=True)
        assert took <= NAME_SECONDS


async def trouble(store: S3Store) -> None:
    try:
        await store.list_page("")
    except StoreError as error:
        raise AssertionError("the request was given up") from error


def in_namespace(server: Server, directory: Path) -> None:
    """Run `names` with an /etc/hosts of its own; needs root."""
    hosts = directory / "hosts"
    hosts.write_bytes(HOSTS.read_bytes())
    port = server.endpoint_url.rpartition(":")[2]
    again = shlex.join([sys.executable, "-m", "tests.soak.network", port])
    command = f"mount --bind {shlex.quote(str(hosts))} {HOSTS} && exec {again}"
    subprocess.run(["unshare", "-m", "sh", "-c", command], check=True)


def main() -> None:
    if len(sys.argv) > 1:
        trio.run(names, sys.argv[1])
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        server = start_seaweedfs(Path(directory) / "server")
        try:
            os.environ.update(server.environment())
            del os.environ["AWS_ENDPOINT_URL"]
            make_bucket(server, BUCKET)
            with FaultProxy(server.endpoint_url) as proxy:
                trio.run(black_hole_and_storm, proxy)
            in_namespace(server, Path(directory))
        finally:
            server.stop()
    print(f"passed in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
