"""Resident memory of a daemon by the names it knows, what of it comes back, and how long garbage collection stops it.

One process a figure: the file system of a mount, over a store in which no object is kept (its LIST replies are made as
they are asked for, and read by the parser of the real store's), told to list directories of 1,000 files until so many
names are held as the kernel holds them after `ls -l`. Then the kernel forgets all. `VmRSS` is read from /proc, as for a
real daemon; the pauses are CPU time of the cyclic collector, by its own callbacks.

Measured (2 cores, Python 3.11, a machine busy with other work): 200,000 names 183 MiB, 94 after the kernel forgot them;
1,000,000 names 716 MiB, 170 after. That is 0.7 KiB a name. Before, 211 and 787 MiB, with looks for garbage of 1.7 s and
7.5 s in all.
"""

import argparse
import gc
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from bench.mounts import ROOT
from s3mount import garbage
from s3mount.config import MIB, Config
from s3mount.data.removals import Removals
from s3mount.data.storage import Storage
from s3mount.store.abilities import as_s3_says
from s3mount.store.base import Page
from s3mount.store.listing import ListParser
from s3mount.vfs.attributes import Attributes
from s3mount.vfs.filesystem import FileSystem
from tests.memory_store import MemoryStore, journal_of
from tests.paper import PaperInMemory

FILES = 1000
TARGETS = {200_000: 250, 1_000_000: 900}
"""MiB at most by names known."""
TURN_SECONDS = 300


class Generating(MemoryStore):
    """A bucket of `directories` directories of FILES files, of which each LIST reply is made anew."""

    def __init__(self, directories: int) -> None:
        super().__init__()
        self._directories = directories

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        await trio.lowlevel.checkpoint()
        parser = ListParser()
        begun = int(token or 0)
        parser.feed(b"<ListBucketResult>")
        truncated = not prefix and begun + 1000 < self._directories
        if prefix:
            number = int(re.sub(r"\D", "", prefix))
            parser.feed("".join(_entry(f"{prefix}file-{one:06}.dat", number, one) for one in range(FILES)).encode())
        else:
            names = range(begun, min(begun + 1000, self._directories))
            groups = (f"<CommonPrefixes><Prefix>dir-{name:05}/</Prefix></CommonPrefixes>" for name in names)
            parser.feed("".join(groups).encode())
        parser.feed(f"<IsTruncated>{str(truncated).lower()}</IsTruncated>".encode())
        if truncated:
            parser.feed(f"<NextContinuationToken>{begun + 1000}</NextContinuationToken>".encode())
        parser.feed(b"</ListBucketResult>")
        return parser.page(time.time_ns())


def _entry(key: str, directory: int, number: int) -> str:
    digest = f"{directory * 7919 + number:032x}"
    modified = f"2024-01-{directory % 28 + 1:02}T12:{number % 60:02}:{number // 60 % 60:02}.000Z"
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>&#34;{digest}&#34;</ETag>"
        f"<Size>{number * 1009 + 4000}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def resident_mib() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


async def know(names: int) -> dict[str, float]:
    """List until so many names are held, forget them; what that took, in MiB and ms."""
    # No list: one number kept from each pause would hold each arena of memory that has come since the last.
    began = longest = total = 0.0

    def watch(phase: str, _info: dict[str, int]) -> None:
        nonlocal began, longest, total
        if phase == "start":
            began = time.process_time()
        else:
            longest = max(longest, time.process_time() - began)
            total += time.process_time() - began

    figures: dict[str, float] = {}
    store = Generating(names // FILES)
    config = Config(bucket="names")
    with tempfile.TemporaryDirectory(prefix="s3mount-bench-") as directory:
        async with trio.open_nursery() as nursery:
            storage = Storage(
                store, config, nursery, staging_dir=Path(directory), staging_limit_bytes=256 * MIB,
                journal=journal_of(store), find_out=as_s3_says,
            )  # fmt: skip
            filesystem = FileSystem(store, storage, config, nursery, removals=Removals(PaperInMemory()))
            await filesystem.start()
            gc.collect()
            gc.freeze()
            gc.callbacks.append(watch)
            nursery.start_soon(garbage.collect)  # as the daemon does
            await trio.lowlevel.checkpoint()
            figures["start"] = resident_mib()
            held: list[tuple[int, int]] = []
            cpu = time.process_time()
            for ino in await _list(filesystem, 1, held):
                await _list(filesystem, ino, held)
            figures["seconds"] = time.process_time() - cpu
            figures["known"] = resident_mib()
            figures["pause_ms"], figures["pauses_ms"] = longest * 1000, total * 1000
            filesystem.forget(held)
            held.clear()
            gc.collect()
            figures["forgotten"] = resident_mib()
            nursery.cancel_scope.cancel()
    figures["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


async def _list(filesystem: FileSystem, ino: int, held: list[tuple[int, int]]) -> list[int]:
    """Read a directory as `ls -l` does: each entry counts as a lookup; the numbers told."""
    told: list[int] = []
    position = 0

    def emit(name: bytes, attributes: Attributes, next_id: int) -> bool:
        nonlocal position
        if len(told) == 100:
            return False
        position = next_id
        if name not in (b".", b".."):
            told.append(attributes.ino)
        return True

    found: list[int] = []
    fh = await filesystem.opendir(ino)
    while True:
        await filesystem.readdir(fh, position, emit)
        if not told:
            break
        found += told
        told.clear()
    filesystem.releasedir(fh)
    held += [(number, 1) for number in found]
    return found


def main() -> int:
    options = argparse.ArgumentParser(prog="bench/names_memory", description="memory by the names known")
    options.add_argument("--names", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.names:
        print(json.dumps(trio.run(know, chosen.names)))
        return 0
    met = True
    print(f"{'names':>9} {'MiB':>6} {'target':>7} {'bytes/name':>10} {'forgotten':>9} {'longest pause':>14} {'all':>7}")
    for names, target in TARGETS.items():
        command = [sys.executable, "-m", "bench.names_memory_turns", "--names", str(names)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TURN_SECONDS, cwd=ROOT, check=True)
        told = json.loads(done.stdout)
        each = (told["known"] - told["start"]) * MIB / names
        met &= told["known"] < target
        print(
            f"{names:9} {told['known']:6.0f} {target:7} {each:10.0f} {told['forgotten']:9.0f} "
            f"{told['pause_ms']:11.0f} ms {told['pauses_ms']:4.0f} ms"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
