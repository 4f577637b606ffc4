"""What only s3mount is asked: its caches, in memory and on disk, what TLS costs, how long its event loop is held up.

Each is one turn on mounts that are made for it, as the workloads are.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.compare import load as names
from bench.compare.bucket import Bucket
from bench.compare.load import MIB, STREAMS
from bench.compare.probe import VARIABLE, delays_within
from bench.compare.stage import Figures, Span, Stage, Theatre
from bench.compare.systems import LAUNCH, System
from bench.mounts import environment_of
from tests.servers import make_tls, start_seaweedfs

PROBED = "{python} -m bench.compare.probe"
DISK_SPEED = "disk MB/s"
DISK_TIER = " --max-cache-size=8GiB"
"""It is off unless asked for."""


@dataclass(frozen=True, slots=True)
class Own:
    """One line of s3mount's own table; always in MB/s."""

    name: str
    title: str
    run: Callable[[Theatre, System], Figures]
    needs: tuple[str, ...] = ()
    here_only: bool = False


def from_memory(theatre: Theatre, system: System) -> Figures:
    """The kernel has dropped the file, the daemon has not."""
    size = theatre.bucket.load.cached_bytes

    def first(stage: Stage) -> Span:
        return stage.work("read_one", size, name=names.CACHED, size=size)

    def again(stage: Stage) -> Span:
        return stage.work("read_dropped", size, name=names.CACHED, size=size)

    with _cache(theatre, system) as cache, theatre.mounted(system, cache) as mount:
        theatre.measured(mount, "", first)
        return theatre.measured(mount, "", again)


def from_disk(theatre: Theatre, system: System) -> Figures:
    """Another mount with the same cache directory, of which the machine has nothing in memory."""
    size = theatre.bucket.load.big_bytes
    system = replace(system, command=system.command + DISK_TIER)

    def read(stage: Stage) -> Span:
        return stage.work("read_one", size, name=names.BIG, size=size)

    with _cache(theatre, system) as cache:
        with theatre.mounted(system, cache) as mount:
            theatre.measured(mount, "", read)
        _drop(cache)
        speed = _read_all(cache)
        _drop(cache)
        with theatre.mounted(system, cache) as mount:
            return replace(theatre.measured(mount, "", read), extra={DISK_SPEED: speed})


def delays(theatre: Theatre, system: System) -> Figures:
    """Four streams side by side, with a clock in the event loop."""
    size = theatre.bucket.load.stream_bytes
    with _cache(theatre, system) as cache:
        file = cache.parent / f"{cache.name}.delays"
        probed = replace(system, command=system.command.replace(LAUNCH, PROBED))
        try:
            with theatre.mounted(probed, cache, **{VARIABLE: str(file)}) as mount:
                figures = theatre.measured(
                    mount, "", lambda stage: stage.work("read_streams", size * STREAMS, size=size)
                )
            return replace(figures, delays=delays_within(file, figures.span.began, figures.span.ended))
        finally:
            file.unlink(missing_ok=True)


def over_tls(theatre: Theatre, system: System) -> Figures:
    """A large file from a server of its own that speaks TLS."""
    load = theatre.bucket.load
    with tempfile.TemporaryDirectory(dir=theatre.work, prefix="tls") as name:
        work = Path(name)
        server = start_seaweedfs(work / "weed", tls=make_tls(work / "keys"), bucket_volumes=8)
        try:
            bucket = Bucket(server, load)
            bucket.provide(names.BIG)
            there = Theatre(bucket, work, environment_of(server))
            return there.turn(
                system, "", lambda stage: stage.work("read_one", load.big_bytes, name=names.BIG, size=load.big_bytes)
            )
        finally:
            server.stop()


@contextmanager
def _cache(theatre: Theatre, system: System) -> Iterator[Path]:
    cache = theatre.new_cache(system)
    try:
        yield cache
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]


def _drop(directory: Path) -> None:
    """Have the kernel forget what these files hold; only what is on disk can be forgotten."""
    for path in _files(directory):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _read_all(directory: Path) -> float:
    """The disk's own speed with these files, in MB/s; 0 when there is too little to tell."""
    buffer, total, began = memoryview(bytearray(MIB)), 0, time.monotonic()
    for path in _files(directory):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while count := os.readv(fd, [buffer]):
                total += count
        finally:
            os.close(fd)
    return total / (time.monotonic() - began) / 1e6 if total >= MIB else 0.0


def own_workloads(load: names.Load) -> dict[str, Own]:
    """All of them by name, with titles that say this load's sizes."""
    size, big = load.cached_bytes // MIB, load.big_bytes // MIB
    each = load.stream_bytes // MIB
    return {
        own.name: own
        for own in (
            Own("memory", f"{size} MiB from the daemon's memory", from_memory, (names.CACHED,)),
            Own("remount", f"{big} MiB after a remount", from_disk, (names.BIG,)),
            Own("tls", f"{big} MiB read over TLS", over_tls, here_only=True),
            Own("loop", f"{STREAMS} x {each} MiB, with a clock in the loop", delays, ("streams",)),
        )
    }
