"""CPU per operation: a small GET and PUT through S3Store, and through a mount a small file, a cached MiB, a read GiB.

Starts SeaweedFS on loopback and takes interleaved turns; the medians count. CPU is user and system time of all threads
of our process, by the kernel's nanoseconds (schedstat); a mount is made for each turn. With `--vs CHECKOUT`, another
checkout of this project takes every turn beside this one. Function calls are exact, so they tell what a noisy machine
hides; `--profile FILE` writes the calls and times of the daemon for each workload; with strace(1), `--system-calls`
counts those of a GET and a PUT. Exits with 1 when a target is missed.
"""

import argparse
import json
import mmap
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.mounts import ROOT, Mounted, environment_of, mounted
from s3mount.config import KIB, MIB
from tests.servers import boto, make_bucket, start_seaweedfs

BUCKET = "hot"
SMALL_BYTES = 16 * KIB
READ_BYTES = 1 * MIB
WAIT_SECONDS = 120.0
CALLS_COUNT = 320
PART_BYTES = 8 * MIB
YOUNG_SECONDS = 2.5
"""Younger entries are asked for one by one, for a listing tells whole seconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much one turn does."""

    requests: int
    files: int
    cached_mib: int
    stream_mib: int
    turns: int


FULL, QUICK = Load(3000, 1000, 256, 1024, 5), Load(1000, 500, 128, 256, 3)


@dataclass(frozen=True, slots=True)
class Work:
    """One thing done through a mount: `prepare` is not counted, `act` is, and holds `count(load)` of the unit."""

    title: str
    unit: str
    scale: float
    target: float
    prepare: Callable[[Path, Load], None]
    act: Callable[[Path, Load], None]
    count: Callable[[Load], float]
    options: tuple[str, ...] = ()


def nothing(_root: Path, _load: Load) -> None:
    pass


def read_small(root: Path, names: Sequence[int]) -> None:
    for number in names:
        fd = os.open(root / "small" / f"{number:06}", os.O_RDONLY)
        assert len(os.read(fd, SMALL_BYTES + 1)) == SMALL_BYTES
        os.close(fd)


def read_small_alone(root: Path, load: Load) -> None:
    read_small(root, range(load.files))


def read_small_by_16(root: Path, load: Load) -> None:
    threads = [threading.Thread(target=read_small, args=(root, range(task, load.files, 16))) for task in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_whole(path: Path) -> int:
    """Read from start to end; how many bytes came."""
    into = mmap.mmap(-1, READ_BYTES)
    total = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(into):
            total += count
    return total


def read_into_cache(root: Path, load: Load) -> None:
    assert read_whole(root / "cached") == load.cached_mib * MIB
    fd = os.open(root / "cached", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def read_cached(root: Path, load: Load) -> None:
    assert read_whole(root / "cached") == load.cached_mib * MIB


def read_stream(root: Path, load: Load) -> None:
    assert read_whole(root / "stream") == load.stream_mib * MIB


WORKS = {
    "file": Work("file of 16 KiB, alone", "ms", 1e3, 0.35, nothing, read_small_alone, lambda load: load.files),
    "files": Work("file of 16 KiB, by 16", "ms", 1e3, 0.35, nothing, read_small_by_16, lambda load: load.files),
    "cached": Work(
        "MiB from the cache",
        "ms",
        1e3,
        0.3,
        read_into_cache,
        read_cached,
        lambda load: load.cached_mib,
        ("--memory-limit=1GiB",),  # what is read again is in memory still
    ),
    "stream": Work("GiB from the store", "s", 1.0, 0.9, nothing, read_stream, lambda load: load.stream_mib / 1024),
}
REQUESTS = {"get": ("GET of 16 KiB by 16", 0.15), "put": ("PUT of 16 KiB by 16", 0.15)}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process's threads, those that have ended left out (none does in a turn)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Requester:
    """A process of bench/hot_store.py."""

    def __init__(self, checkout: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "bench" / "hot_store.py")],
            env={**environment, "PYTHONPATH": str(checkout), "HOT_BUCKET": BUCKET},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, order: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(WAIT_SECONDS, self._process.kill)
        timer.start()
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise SystemExit(f"bench/hot: the store's process ended while it did {order!r}")
        return float(json.loads(line))

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


@contextmanager
def mount_for(
    task: Work, checkout: Path, work: Path, environment: dict[str, str], text: Path | None = None
) -> Iterator[Mounted]:
    """A fresh mount by a checkout's s3mount; with `text`, one that can be profiled."""
    shutil.rmtree(work / "cache", ignore_errors=True)
    with mounted(BUCKET, work, environment, *task.options, checkout=checkout, profiled=text) as mount:
        yield mount


def turn(name: str, load: Load, checkout: Path, work: Path, environment: dict[str, str]) -> float:
    """CPU seconds of the daemon."""
    task = WORKS[name]
    with mount_for(task, checkout, work, environment) as mount:
        task.prepare(mount.root, load)
        began = cpu_seconds(mount.pid)
        task.act(mount.root, load)
        return cpu_seconds(mount.pid) - began


def profile(name: str, load: Load, checkout: Path, work: Path, environment: dict[str, str]) -> str:
    """The daemon's calls and times in one turn, as a text."""
    task, text = WORKS[name], work / "profile"
    text.unlink(missing_ok=True)
    with mount_for(task, checkout, work, environment, text) as mount:
        task.prepare(mount.root, load)
        os.kill(mount.pid, signal.SIGRTMIN)
        task.act(mount.root, load)
        os.kill(mount.pid, signal.SIGRTMIN + 1)
        deadline = time.monotonic() + WAIT_SECONDS
        while not text.exists() and time.monotonic() < deadline:
            os.stat(mount.root)  # gives the signal a turn of the loop
            time.sleep(0.01)
    lines = text.read_text().splitlines()
    return f"{task.title}: {task.count(load):g} of them\n" + "\n".join(line.rstrip() for line in lines if line.strip())


def system_calls(requester: Requester, operation: str, work: Path) -> dict[str, float]:
    """How many of each system call one request takes; empty without strace."""
    strace = shutil.which("strace")
    if strace is None:
        return {}
    table = work / "strace"
    tracer = subprocess.Popen([strace, "-c", "-f", "-q", "-o", str(table), "-p", str(requester.pid)])
    time.sleep(0.5)
    requester.ask(f"{operation} {CALLS_COUNT}")
    tracer.send_signal(signal.SIGINT)
    tracer.wait(10)
    found = {}
    for line in table.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            found[words[-1]] = int(words[3]) / CALLS_COUNT
    return {call: count for call, count in sorted(found.items(), key=lambda item: -item[1]) if count >= 0.05}


def fill(client: Any, load: Load) -> None:
    for number in range(load.files):
        client.put_object(Bucket=BUCKET, Key=f"small/{number:06}", Body=bytes(range(256)) * (SMALL_BYTES // 256))
    body = os.urandom(PART_BYTES)
    for key, size in (("cached", load.cached_mib * MIB), ("stream", load.stream_mib * MIB)):
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        about = {"Bucket": BUCKET, "Key": key, "UploadId": upload}
        parts = []
        for number in range(1, size // PART_BYTES + 1):
            reply = client.upload_part(**about, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": reply["ETag"]})
        client.complete_multipart_upload(**about, MultipartUpload={"Parts": parts})


def measure(
    names: Sequence[str], load: Load, checkouts: Sequence[Path], work: Path, environment: dict[str, str]
) -> dict[tuple[str, Path], list[float]]:
    """CPU per unit, one figure a turn; who comes first changes from turn to turn."""
    figures: dict[tuple[str, Path], list[float]] = {}
    requesters = {checkout: Requester(checkout, environment) for checkout in checkouts}
    try:
        for operation in ("put", "get"):
            for requester in requesters.values():
                requester.ask(f"{operation} {load.requests}")  # warms up, and makes what is read
        time.sleep(YOUNG_SECONDS)
        for number in range(load.turns):
            order = list(checkouts) if number % 2 else list(reversed(checkouts))
            for name in names:
                for checkout in order:
                    if name in REQUESTS:
                        cost = requesters[checkout].ask(f"{name} {load.requests}") / load.requests * 1e3
                    else:
                        task = WORKS[name]
                        cost = turn(name, load, checkout, work, environment) / task.count(load) * task.scale
                    figures.setdefault((name, checkout), []).append(cost)
        for operation in [name for name in names if name in REQUESTS]:
            for checkout in checkouts:
                calls = requesters[checkout].ask(f"calls {operation} {CALLS_COUNT}") / CALLS_COUNT
                print(f"{REQUESTS[operation][0]:24} {calls:6.1f} Python calls          {checkout}")
                counts = system_calls(requesters[checkout], operation, work)
                print(f"{'':24} {' '.join(f'{call} {count:.2f}' for call, count in counts.items())}", flush=True)
    finally:
        for requester in requesters.values():
            requester.stop()
    return figures


def report(names: Sequence[str], checkouts: Sequence[Path], figures: dict[tuple[str, Path], list[float]]) -> bool:
    """Print the table; whether every target was met by the first checkout."""
    met = True
    for name in names:
        title, unit, target = (
            (REQUESTS[name][0], "ms", REQUESTS[name][1])
            if name in REQUESTS
            else (WORKS[name].title, WORKS[name].unit, WORKS[name].target)
        )
        for checkout in checkouts:
            turns = figures[name, checkout]
            median = statistics.median(turns)
            each = " ".join(f"{cost:.3f}" for cost in turns)
            missed = "" if median <= target else "  MISSED"
            met &= median <= target or checkout != checkouts[0]
            print(f"{title:24} {median:7.3f} {unit:2} target {target:.2f}{missed:8}  {each}  {checkout}")
    return met


def main() -> int:
    every = [*REQUESTS, *WORKS]
    options = argparse.ArgumentParser(prog="bench/hot", description="CPU per operation of our process")
    options.add_argument("--quick", action="store_true", help="fewer and smaller turns")
    options.add_argument("--turns", type=int)
    options.add_argument("--only", choices=every, nargs="+", default=every, metavar="NAME", help=" ".join(every))
    options.add_argument("--vs", type=Path, nargs="+", default=[], metavar="CHECKOUT", help="measured beside this one")
    options.add_argument("--profile", type=Path, metavar="FILE", help="write calls and times of the daemon")
    chosen = options.parse_args()
    load = QUICK if chosen.quick else FULL
    load = load if chosen.turns is None else replace(load, turns=chosen.turns)
    checkouts = [ROOT, *(path.resolve() for path in chosen.vs)]
    with tempfile.TemporaryDirectory(prefix="s3mount-bench-") as name:
        work = Path(name)
        server = start_seaweedfs(work / "weed", bucket_volumes=7)
        try:
            environment = environment_of(server)
            make_bucket(server, BUCKET)
            fill(boto(server), load)
            met = report(chosen.only, checkouts, measure(chosen.only, load, checkouts, work, environment))
            if chosen.profile is not None:
                works = [name for name in chosen.only if name in WORKS]
                texts = [profile(name, load, ROOT, work, environment) for name in works]
                chosen.profile.write_text("\n\n".join(texts) + "\n")
        finally:
            server.stop()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
