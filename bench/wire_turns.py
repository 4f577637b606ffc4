"""S3Store beside boto3 threads on one SeaweedFS on loopback: small GETs and PUTs, a long LIST, large ranges.

Each side is one process that lives through all turns, warmed up once; the turns alternate, and the medians count. CPU
is the client process's own, all threads. Exits with 1 when a target is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import trio

from s3mount.config import KIB, MIB, Config
from s3mount.store.base import Headers
from s3mount.store.s3 import S3Store
from tests.servers import make_bucket, start_seaweedfs

ROOT = Path(__file__).parents[1]
BUCKET = "wire"
SMALL_BYTES = 16 * KIB
RANGE_BYTES = 8 * MIB
RANGES = 8
TASKS = 16
TURN_SECONDS = 120.0
HEADERS = Headers("application/octet-stream")


@dataclass(frozen=True, slots=True)
class Load:
    """How much one turn does."""

    small: int
    keys: int
    range_rounds: int


FULL, QUICK = Load(2400, 10_000, 3), Load(800, 3_000, 2)


def body_of(number: int) -> bytes:
    return (b"%016d" % number) * (SMALL_BYTES // 16)


class Ours:
    """The store, inside trio."""

    def __init__(self, store: S3Store, load: Load) -> None:
        self._store, self._load = store, load
        self._small = [bytearray(SMALL_BYTES) for _ in range(TASKS)]
        self._large = [bytearray(RANGE_BYTES) for _ in range(RANGES)]
        self._body = body_of(1)

    async def fill(self) -> None:
        async def keys(first: int) -> None:
            for number in range(first, self._load.keys, TASKS):
                await self._store.put(f"list/file-{number:06}.txt", (b"x",), HEADERS)

        await self._together(TASKS, keys)
        await self.put()
        whole = (bytes(range(256)) * (RANGE_BYTES // 256),) * RANGES
        await self._store.put("large", whole, HEADERS)

    async def get(self) -> None:
        async def work(task: int) -> None:
            into = memoryview(self._small[task])
            for number in range(task, self._load.small, TASKS):
                info = await self._store.get(f"small/{number:06}", 0, into)
                assert info is not None
                assert info.size == SMALL_BYTES

        await self._together(TASKS, work)

    async def put(self) -> None:
        async def work(task: int) -> None:
            for number in range(task, self._load.small, TASKS):
                await self._store.put(f"small/{number:06}", (self._body,), HEADERS)

        await self._together(TASKS, work)

    async def list(self) -> None:
        found, token = 0, None
        while True:
            page = await self._store.list_page("list/", token=token)
            found, token = found + len(page.objects), page.token
            if token is None:
                break
        assert found == self._load.keys, found

    async def range(self) -> None:
        async def work(task: int) -> None:
            for _ in range(self._load.range_rounds):
                await self._store.get("large", task * RANGE_BYTES, memoryview(self._large[task]))

        await self._together(RANGES, work)

    async def _together(self, tasks: int, work: Callable[[int], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(work, task)


class Boto:
    """boto3 in threads."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=os.environ["AWS_ENDPOINT_URL"],
            config=botocore.config.Config(
                max_pool_connections=TASKS,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._pool = ThreadPoolExecutor(TASKS)
        self._body = body_of(1)

    def get(self) -> None:
        def work(task: int) -> None:
            for number in range(task, self._load.small, TASKS):
                reply = self._client.get_object(Bucket=BUCKET, Key=f"small/{number:06}")
                assert len(reply["Body"].read()) == SMALL_BYTES

        list(self._pool.map(work, range(TASKS)))

    def put(self) -> None:
        def work(task: int) -> None:
            for number in range(task, self._load.small, TASKS):
                self._client.put_object(
                    Bucket=BUCKET,
                    Key=f"small/{number:06}",
                    Body=self._body,
                    ContentType="application/octet-stream",
                )

        list(self._pool.map(work, range(TASKS)))

    def list(self) -> None:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="list/")
        assert sum(len(page["Contents"]) for page in pages) == self._load.keys

    def range(self) -> None:
        def work(task: int) -> None:
            for _ in range(self._load.range_rounds):
                span = f"bytes={task * RANGE_BYTES}-{(task + 1) * RANGE_BYTES - 1}"
                reply = self._client.get_object(Bucket=BUCKET, Key="large", Range=span)
                assert len(reply["Body"].read()) == RANGE_BYTES

        list(self._pool.map(work, range(RANGES)))


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def answer(began: tuple[float, float]) -> None:
    ended = clocks()
    print(json.dumps([ended[0] - began[0], ended[1] - began[1]]), flush=True)


async def serve_ours(load: Load) -> None:
    config = Config(bucket=BUCKET, endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    store = S3Store(config)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        side = Ours(store, load)
        while order := await trio.to_thread.run_sync(sys.stdin.readline):
            began = clocks()
            await getattr(side, order.strip())()
            answer(began)
        nursery.cancel_scope.cancel()


def serve_boto(load: Load) -> None:
    side = Boto(load)
    for order in sys.stdin:
        began = clocks()
        getattr(side, order.strip())()
        answer(began)


class Side:
    """A worker process, as the referee sees it."""

    def __init__(self, name: str, environment: dict[str, str], arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.wire_turns", "--side", name, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self, order: str) -> tuple[float, float]:
        """Wall and CPU seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(TURN_SECONDS, self._process.kill)
        timer.start()
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise SystemExit(f"bench/wire: a worker ended in its turn {order!r}")
        wall, cpu = json.loads(line)
        return wall, cpu

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def referee(load: Load, turns: int, arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="s3mount-bench-") as directory:
        server = start_seaweedfs(Path(directory), bucket_volumes=7)
        try:
            make_bucket(server, BUCKET)
            environment = server.environment()
            sides = {name: Side(name, environment, arguments) for name in ("ours", "boto3")}
            try:
                sides["ours"].turn("fill")
                measured: dict[tuple[str, str], list[tuple[float, float]]] = {}
                for operation in ("get", "put", "list", "range"):
                    for side in sides.values():
                        side.turn(operation)  # warms up
                    for _ in range(turns):
                        for name, side in sides.items():
                            measured.setdefault((operation, name), []).append(side.turn(operation))
            finally:
                for side in sides.values():
                    side.stop()
        finally:
            server.stop()
    return report(load, measured)


def report(load: Load, measured: dict[tuple[str, str], list[tuple[float, float]]]) -> int:
    def median(operation: str, side: str, which: int) -> float:
        return statistics.median(turn[which] for turn in measured[operation, side])

    large_mb = RANGES * load.range_rounds * RANGE_BYTES / 1e6
    rows = [
        ("get", f"GET 16 KiB by {TASKS}", load.small, "/s", 4.0, 0.15),
        ("put", f"PUT 16 KiB by {TASKS}", load.small, "/s", 3.0, 0.15),
        ("list", f"LIST {load.keys} keys", load.keys, " keys/s", None, 80 / 10_000),
        ("range", f"GET 8 MiB ranges by {RANGES}", large_mb, " MB/s", 1.0, None),
    ]
    missed = []
    print(f"{'':26}{'ours':>18}{'boto3':>18}{'ratio':>8}{'target':>8}{'CPU ours':>12}{'target':>10}{'CPU boto3':>12}")
    for operation, title, amount, unit, ratio_min, cpu_max in rows:
        ours, theirs = (amount / median(operation, side, 0) for side in ("ours", "boto3"))
        cpu, their_cpu = (median(operation, side, 1) * 1000 for side in ("ours", "boto3"))
        # CPU in ms: of one small request, of the whole LIST, of one GB.
        scale = {"list": 1.0, "range": large_mb / 1000}.get(operation, float(load.small))
        cpu, their_cpu = cpu / scale, their_cpu / scale
        limit = cpu_max * load.keys if operation == "list" and cpu_max is not None else cpu_max
        print(
            f"{title:26}{f'{ours:.0f}{unit}':>18}{f'{theirs:.0f}{unit}':>18}{ours / theirs:>8.1f}"
            f"{'' if ratio_min is None else f'{ratio_min:.1f}':>8}{f'{cpu:.3f} ms':>12}"
            f"{'' if limit is None else f'{limit:.2f} ms':>10}{f'{their_cpu:.3f} ms':>12}"
        )
        if ratio_min is not None and ours / theirs < ratio_min:
            missed.append(f"{title}: {ours / theirs:.2f} times boto3's rate, target {ratio_min}")
        if limit is not None and cpu > limit:
            missed.append(f"{title}: {cpu:.3f} ms of CPU, target {limit}")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="our S3 store beside boto3, on SeaweedFS")
    parser.add_argument("--quick", action="store_true", help="fewer requests and turns")
    parser.add_argument("--side", choices=("ours", "boto3"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    load = QUICK if options.quick else FULL
    if options.side == "ours":
        trio.run(serve_ours, load)
        return 0
    if options.side == "boto3":
        serve_boto(load)
        return 0
    return referee(load, 3 if options.quick else 5, ["--quick"] if options.quick else [])


if __name__ == "__main__":
    sys.exit(main())
