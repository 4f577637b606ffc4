"""1,000 files of 16 KiB read and created by 16 threads: through a mount, and by boto3 without a file system.

Starts SeaweedFS on loopback and takes interleaved turns, each reader and writer a process of its own: on a mount that
was made for the turn (nothing cached, nothing listed) `open, read, close` and `create, write, close`, where close waits
for its PUT; with boto3 `get_object` and `put_object`, its imports and its client made before the clock starts. Prints
medians and exits with 1 when a target is missed.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.config

from bench.mounts import ROOT, environment_of, mounted
from tests.servers import Server, make_bucket, start_seaweedfs

BUCKET = "small-files"
FILES = 1000
FILE_BYTES = 16 * 1024
THREADS = 16
TURNS = 5
TARGETS = {"read": 1.5, "create": 1.2}
"""Files per second of the mount over those of boto3."""
TURN_SECONDS = 120
BODY = bytes(range(256)) * (FILE_BYTES // 256)


def in_threads(work: Callable[[str], None], count: int) -> float:
    """Call `work` for each file's name from `count` threads; the seconds it took. The first exception is raised."""
    names = [f"f{number:04}" for number in range(FILES)]
    failures: list[BaseException] = []
    gate = threading.Barrier(count + 1)

    def run(part: list[str]) -> None:
        gate.wait()
        try:
            for name in part:
                work(name)
        except BaseException as failure:  # noqa: BLE001 - raised by the main thread
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(names[number::count],)) for number in range(count)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    return took


def read_mounted(directory: str, bucket: str, threads: int) -> float:
    def work(name: str) -> None:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY)
        body = os.read(fd, FILE_BYTES + 1)
        os.close(fd)
        assert body == BODY

    return in_threads(work, threads)


def create_mounted(directory: str, bucket: str, threads: int) -> float:
    os.mkdir(directory)

    def work(name: str) -> None:
        fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, BODY)
        os.close(fd)

    return in_threads(work, threads)


def client() -> Any:
    return boto3.client(
        "s3",
        config=botocore.config.Config(
            s3={"addressing_style": "path"},
            max_pool_connections=THREADS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
        ),
    )


def read_with_boto3(directory: str, bucket: str, threads: int) -> float:
    s3 = client()
    s3.head_bucket(Bucket=bucket)

    def work(name: str) -> None:
        assert s3.get_object(Bucket=bucket, Key=f"{directory}/{name}")["Body"].read() == BODY

    return in_threads(work, threads)


def create_with_boto3(directory: str, bucket: str, threads: int) -> float:
    s3 = client()
    s3.head_bucket(Bucket=bucket)

    def work(name: str) -> None:
        s3.put_object(Bucket=bucket, Key=f"{directory}/{name}", Body=BODY)

    return in_threads(work, threads)


WORKERS = {work.__name__: work for work in (read_mounted, create_mounted, read_with_boto3, create_with_boto3)}


def turn(
    worker: str,
    directory: str | Path,
    environment: dict[str, str],
    *,
    bucket: str = BUCKET,
    threads: int = THREADS,
) -> float:
    """Run one worker in a process of its own; its files per second."""
    command = [sys.executable, "-m", "bench.small_files_turns", "--worker", worker, "--directory", str(directory)]
    command += ["--bucket", bucket, "--threads", str(threads)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=TURN_SECONDS, cwd=ROOT, check=True
    )
    return FILES / float(json.loads(done.stdout))


def measure(server: Server, work: Path, turns: int) -> dict[str, list[float]]:
    """Files per second of each kind, one figure a turn; who comes first changes from turn to turn."""
    environment = environment_of(server)
    make_bucket(server, BUCKET)
    turn("create_with_boto3", "read", environment)
    figures: dict[str, list[float]] = {name: [] for name in WORKERS}

    def through_mount(number: int) -> None:
        with mounted(BUCKET, work, environment) as mount:
            figures["read_mounted"].append(turn("read_mounted", mount.root / "read", environment))
        with mounted(BUCKET, work, environment) as mount:
            figures["create_mounted"].append(turn("create_mounted", mount.root / f"mounted{number}", environment))

    def without(number: int) -> None:
        figures["read_with_boto3"].append(turn("read_with_boto3", "read", environment))
        figures["create_with_boto3"].append(turn("create_with_boto3", f"boto{number}", environment))

    for number in range(turns):
        for side in (through_mount, without) if number % 2 else (without, through_mount):
            side(number)
    return figures


def report(figures: dict[str, list[float]]) -> bool:
    """Print the table; whether every target was met."""
    print(f"{FILES} files of {FILE_BYTES // 1024} KiB, {THREADS} threads, files per second, medians of turns")
    print(f"{'':8} {'mount':>8} {'boto3':>8} {'ratio':>6} {'target':>7}   turns of mount | boto3")
    met = True
    for verb, target in TARGETS.items():
        ours, theirs = figures[f"{verb}_mounted"], figures[f"{verb}_with_boto3"]
        ratio = statistics.median(ours) / statistics.median(theirs)
        met &= ratio >= target
        each = " | ".join(" ".join(f"{figure:.0f}" for figure in side) for side in (ours, theirs))
        missed = "" if ratio >= target else "   MISSED"
        medians = f"{statistics.median(ours):8.0f} {statistics.median(theirs):8.0f}"
        print(f"{verb:8} {medians} {ratio:6.2f} {target:7.2f}   {each}{missed}")
    return met


def main() -> int:
    options = argparse.ArgumentParser(prog="bench/small_files", description="small files: a mount beside boto3")
    options.add_argument("--turns", type=int, default=TURNS)
    options.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options.add_argument("--directory", help=argparse.SUPPRESS)
    options.add_argument("--bucket", help=argparse.SUPPRESS)
    options.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.worker:
        print(json.dumps(WORKERS[chosen.worker](chosen.directory, chosen.bucket, chosen.threads)))
        return 0
    with tempfile.TemporaryDirectory(prefix="s3mount-bench-") as name:
        work = Path(name)
        server = start_seaweedfs(work / "weed", bucket_volumes=8)
        try:
            return 0 if report(measure(server, work, chosen.turns)) else 1
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
