"""1,000 files of 16 KiB read and created by 16 threads: through a mount, and by boto3 without a file system.

Starts SeaweedFS on loopback and takes interleaved turns, each reader and writer a process of its own: on a mount that
was made for the turn (nothing cached, nothing listed) `open, read, close` and `create, write, close`, where close waits
for its PUT; with boto3 `get_object` and `put_object`, its imports and its client made before the clock starts. Prints
medians and exits with 1 when a target is missed.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import botocore.config

from tests.servers import Server, make_bucket, start_seaweedfs

ROOT = Path(__file__).parents[1]
BUCKET = "small-files"
FILES = 1000
FILE_BYTES = 16 * 1024
THREADS = 16
TURNS = 5
TARGETS = {"read": 1.5, "create": 1.2}
"""Files per second of the mount over those of boto3."""
TURN_SECONDS = 120
BODY = bytes(range(256)) * (FILE_BYTES // 256)


def in_threads(work: Callable[[str], None]) -> float:
    """Call `work` for each file's name from THREADS threads; the seconds it took. The first exception is raised."""
    names = [f"f{number:04}" for number in range(FILES)]
    failures: list[BaseException] = []
    gate = threading.Barrier(THREADS + 1)

    def run(part: list[str]) -> None:
        gate.wait()
        try:
            for name in part:
                work(name)
        except BaseException as failure:  # noqa: BLE001 - raised by the main thread
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(names[number::THREADS],)) for number in range(THREADS)]
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


def read_mounted(directory: str) -> float:
    def work(name: str) -> None:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY)
        body = os.read(fd, FILE_BYTES + 1)
        os.close(fd)
        assert body == BODY

    return in_threads(work)


def create_mounted(directory: str) -> float:
    os.mkdir(directory)

    def work(name: str) -> None:
        fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, BODY)
        os.close(fd)

    return in_threads(work)


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


def read_with_boto3(directory: str) -> float:
    s3 = client()
    s3.head_bucket(Bucket=BUCKET)

    def work(name: str) -> None:
        assert s3.get_object(Bucket=BUCKET, Key=f"{directory}/{name}")["Body"].read() == BODY

    return in_threads(work)


def create_with_boto3(directory: str) -> float:
    s3 = client()
    s3.head_bucket(Bucket=BUCKET)

    def work(name: str) -> None:
        s3.put_object(Bucket=BUCKET, Key=f"{directory}/{name}", Body=BODY)

    return in_threads(work)


WORKERS = {work.__name__: work for work in (read_mounted, create_mounted, read_with_boto3, create_with_boto3)}


def turn(worker: str, directory: str | Path, environment: dict[str, str]) -> float:
    """Run one worker in a process of its own; its files per second."""
    command = [sys.executable, "-m", "bench.small_files_turns", "--worker", worker, "--directory", str(directory)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=TURN_SECONDS, cwd=ROOT, check=True
    )
    return FILES / float(json.loads(done.stdout))


@contextmanager
def mounted(server: Server, work: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A mount of the whole bucket that nobody used before."""
    root = work / "mnt"
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "import sys; from s3mount.cli import main; sys.exit(main())", "mount"]
    command += [f"s3://{BUCKET}", str(root), "--foreground", f"--endpoint-url={server.endpoint_url}"]
    command += [f"--cache-dir={work / 'cache'}", f"--log-file={work / 'log'}", "--log-level=warning"]
    daemon = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not re.search(rf" {re.escape(str(root))} .* - fuse", Path("/proc/self/mountinfo").read_text()):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"s3mount did not mount: {(work / 'log').read_text()}")
            time.sleep(0.01)
        yield root
        daemon.send_signal(signal.SIGTERM)
        if daemon.wait(60) != 0:
            raise RuntimeError(f"s3mount ended with status {daemon.returncode}: {(work / 'log').read_text()}")
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait(10)
            subprocess.run(["fusermount3", "-u", "-z", str(root)], capture_output=True, timeout=10)


def measure(server: Server, work: Path, turns: int) -> dict[str, list[float]]:
    """Files per second of each kind, one figure a turn; who comes first changes from turn to turn."""
    environment = {**os.environ, **server.environment(), "PYTHONPATH": str(ROOT)}
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        environment.pop(name, None)
    make_bucket(server, BUCKET)
    turn("create_with_boto3", "read", environment)
    figures: dict[str, list[float]] = {name: [] for name in WORKERS}

    def through_mount(number: int) -> None:
        with mounted(server, work, environment) as root:
            figures["read_mounted"].append(turn("read_mounted", root / "read", environment))
        with mounted(server, work, environment) as root:
            figures["create_mounted"].append(turn("create_mounted", root / f"mounted{number}", environment))

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
    chosen = options.parse_args()
    if chosen.worker:
        print(json.dumps(WORKERS[chosen.worker](chosen.directory)))
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
