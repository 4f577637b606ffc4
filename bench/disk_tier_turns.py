"""What the disk tier of the block cache costs a first reading, and what it brings to one after a remount.

Starts SeaweedFS on loopback and takes interleaved turns. Large: one object read by `dd` through a mount without the
tier, through one with it, and through a new mount that finds it on disk; beside them the tier's own files past
the page cache, which is the disk's speed. Small: as many files of 16 KiB read by one thread on the same three mounts.
Prints medians of seconds and of the daemon's CPU-seconds, and the blocks that had to be asked for.
"""

import argparse
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.mounts import ROOT, Mounted, environment_of, mounted
from tests.servers import boto, make_bucket, start_seaweedfs

BUCKET = "disk-tier"
MIB = 1024 * 1024
SMALL_FILES = 1000
SMALL_BYTES = 16 * 1024
SETTLE_SECONDS = 1.5
"""The tier writes behind its readers: what it does then is its cost too."""
KINDS = ("without", "first", "again")


def drop(path: Path) -> None:
    """Have the kernel forget what it has of a file of the tier, so that the disk is read."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read_large(mount: Mounted) -> None:
    subprocess.run(["dd", f"if={mount.root / 'large'}", "of=/dev/null", "bs=1M", "status=none"], check=True)


def read_small(mount: Mounted) -> None:
    for number in range(SMALL_FILES):
        assert len((mount.root / f"small/f{number:04}").read_bytes()) == SMALL_BYTES


def misses(mount: Mounted, environment: dict[str, str]) -> int:
    command = [sys.executable, "-c", "import sys; from s3mount.cli import main; sys.exit(main())", "status"]
    told = subprocess.run([*command, "--json", str(mount.root)], env=environment, cwd=ROOT, stdout=-1, check=True)
    figures = json.loads(told.stdout)["storage"]["cache_on_disk"]
    return -1 if isinstance(figures, str) else int(figures["misses"])


def measure(
    read: Callable[[Mounted], None], work: Path, environment: dict[str, str], limit: str
) -> tuple[float, float, int]:
    """Seconds of the reader, CPU-seconds of the daemon until it rests, blocks that came from the store."""
    with mounted(BUCKET, work, environment, f"--max-cache-size={limit}") as mount:
        os.listdir(mount.root / "small")
        time.sleep(SETTLE_SECONDS)
        cpu, began = mount.cpu_seconds(), time.perf_counter()
        read(mount)
        took = time.perf_counter() - began
        time.sleep(SETTLE_SECONDS)
        return took, mount.cpu_seconds() - cpu, misses(mount, environment)


def disk_seconds(work: Path) -> float:
    """What the large pieces themselves take to read past the page cache."""
    paths = [path for path in (work / "cache" / "blocks").glob("??/*") if path.stat().st_size > MIB]
    into = mmap.mmap(-1, 8 * MIB)
    began = time.perf_counter()
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        os.preadv(fd, [into], 0)
        os.close(fd)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--directory", type=Path, help="where the caches are: the disk to measure")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory(dir=given.directory) as place:
        server = start_seaweedfs(Path(made))
        try:
            fill(given.mib, server_boto=boto(server), make=lambda: make_bucket(server, BUCKET))
            turns(given.turns, given.mib, Path(place), environment_of(server))
        finally:
            server.stop()
    return 0


def fill(mib: int, *, server_boto: object, make: Callable[[], object]) -> None:
    make()
    client = server_boto
    with tempfile.NamedTemporaryFile() as source:
        for _ in range(mib):
            source.write(os.urandom(MIB))
        source.flush()
        client.upload_file(source.name, BUCKET, "large")  # type: ignore[attr-defined]
    for number in range(SMALL_FILES):
        body = os.urandom(SMALL_BYTES)
        client.put_object(Bucket=BUCKET, Key=f"small/f{number:04}", Body=body)  # type: ignore[attr-defined]


def turns(count: int, mib: int, place: Path, environment: dict[str, str]) -> None:
    took: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    disk = []
    for turn in range(count):
        for name, read in (("large", read_large), ("small", read_small)):
            work = place / f"{turn}-{name}"
            work.mkdir()
            for kind in KINDS:
                if kind == "again":
                    for path in (work / "cache" / "blocks").glob("??/*"):
                        drop(path)
                limit = "0" if kind == "without" else "20GiB"
                took.setdefault((name, kind), []).append(measure(read, work, environment, limit))
            if name == "large":
                disk.append(disk_seconds(work))
            subprocess.run(["rm", "-rf", str(work)], check=True)
    for (name, kind), figures in took.items():
        seconds, cpu, missed = (statistics.median(values) for values in zip(*figures, strict=True))
        if name == "large":
            rate = f"{mib / seconds:7.0f} MiB/s, {cpu / mib * 1024:.2f} CPU-s/GiB"
        else:
            rate = f"{SMALL_FILES / seconds:7.0f} files/s, {cpu / SMALL_FILES * 1000:.2f} CPU-ms each"
        print(f"{name:6} {kind:8} {rate}, {missed:.0f} blocks from the store")
    print(f"the disk, by the tier's own files: {mib / statistics.median(disk):.0f} MiB/s")


if __name__ == "__main__":
    sys.exit(main())
