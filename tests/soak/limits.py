"""Limits at full size: 60 uploads of 64 MiB, 200 readers and 200,000 names, a real control group (10 minutes).

D3: `ls` of a small directory stays under a second while 60 files of 64 MiB are uploaded at once over a link that is
slower than they are, and memory within its limit. D7: 200 files are read at the same time, then `find` looks at 200,000
names: resident memory stays within `--memory-limit` and what README says that the process takes beside it, and falls
when the kernel forgets. A container of 400 MiB, where this machine lets us make one: the default is half of it. After
each, as many descriptors are open as before. Prints what was measured; exits with 1 when something does not hold.

Measured (2 cores, Python 3.11, a machine busy with other work): `find` over 200,000 names took a daemon from 70 to 186
MiB, 91 were left when the kernel had forgotten them; the group's default was 200 MiB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s3mount import kernel
from s3mount.control import client
from tests.e2e.fill import fill
from tests.e2e.material import MIB, object_difference, write_pattern
from tests.e2e.mounting import Mounted, Place
from tests.e2e.watchdog import Watchdog
from tests.proxy import FaultProxy
from tests.servers import Server, make_bucket, start_seaweedfs

UPLOADS = 60
UPLOAD_BYTES = 64 * MIB
LINK_BYTES_PER_SECOND = 80e6
LS_SECONDS = 1.0
READERS = 200
READ_BYTES = 8 * MIB
NAMES = 200_000
NAMES_PER_DIRECTORY = 1000
FILLED_AT_ONCE = 10_000
MEMORY_BYTES = 256 * MIB
BESIDES_BYTES = 128 * MIB
"""What README says that the process takes beside --memory-limit."""
FORGOTTEN_BYTES = 64 * MIB
"""What may stay of what `find` took when the kernel has forgotten it, beside the cache of blocks that was there."""
LOOKS = 8
LOOK_SECONDS = 3.0
LATE_FILES = 4
"""What a daemon opens when it first needs it: the database of attributes, with its log."""
GROUP_BYTES = 400 * MIB
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


class Run:
    """A server, its bucket, and whether all held so far."""

    def __init__(self, server: Server, work: Path, watchdog: Watchdog) -> None:
        self.server = server
        self.bucket = make_bucket(server, "limits")
        self.work = work
        self.watchdog = watchdog
        self.held = True

    def check(self, what: str, found: float, most: float, unit: str) -> None:
        """Print a figure beside its limit."""
        fits = found <= most
        self.held &= fits
        print(f"{'ok  ' if fits else 'MISS'} {what:<58} {found:10.2f} of {most:.2f} {unit}", flush=True)

    @contextmanager
    def mounted(self, name: str, *options: str, endpoint_url: str | None = None) -> Iterator[Mounted]:
        work = self.work / name
        work.mkdir()
        place = Place(self.server, self.bucket, f"{name}/")
        mounted = Mounted(place, work, self.watchdog, options, endpoint_url)
        try:
            mounted.start()
            yield mounted
            mounted.stop()
        finally:
            mounted.kill()


def limits_of(mounted: Mounted) -> dict[str, Any]:
    mount = kernel.mount_at(mounted.root)
    assert mount is not None
    told: Any = client.ask(mount, {"verb": "status", "path": ""}, on_progress=lambda *_: None, uid=os.geteuid())
    limits: dict[str, Any] = told["limits"]
    return limits


def resident_bytes(mounted: Mounted, name: str = "resident_bytes") -> int:
    found: int = limits_of(mounted)["memory"][name]
    return found


def open_files(mounted: Mounted) -> int:
    """Without the connections that are kept for a while, of which there are as many as there were requests at once."""
    directory = Path(f"/proc/{mounted.pid}/fd")
    return sum(not os.readlink(one).startswith("socket:") for one in directory.iterdir())


def uploads(run: Run, count: int, size: int) -> None:
    """D3."""
    source = run.work / "source"
    write_pattern(source, size)
    with FaultProxy(run.server.endpoint_url) as proxy:
        Place(run.server, run.bucket, "uploads/").put("small/one", b"1")
        with run.mounted("uploads", f"--memory-limit={MEMORY_BYTES}", endpoint_url=proxy.endpoint_url) as mounted:
            before = open_files(mounted)
            proxy.limit(total=LINK_BYTES_PER_SECOND)
            slowest, elsewhere, looks = 0.0, 0.0, 0

            def copy(number: int) -> None:
                subprocess.run(["cp", source, mounted.root / f"f{number}"], check=True)

            with ThreadPoolExecutor(count) as pool:
                copies = [pool.submit(copy, number) for number in range(count)]
                while not all(one.done() for one in copies):
                    began = time.monotonic()
                    subprocess.run(["ls", "-l", mounted.root / "small"], check=True, stdout=subprocess.DEVNULL)
                    slowest, looks = max(slowest, time.monotonic() - began), looks + 1
                    began = time.monotonic()
                    subprocess.run(["ls", "-l", run.work], check=True, stdout=subprocess.DEVNULL)
                    elsewhere = max(elsewhere, time.monotonic() - began)
                    time.sleep(0.2)
                for one in copies:
                    one.result()
            proxy.clear()
            print(f"     D3: the slowest ls of a local directory at the same time took {elsewhere:.2f} s")
            run.check(f"D3: slowest of {looks} ls beside {count} uploads", slowest, LS_SECONDS + elsewhere, "s")
            most = resident_bytes(mounted, "resident_most_bytes")
            run.check("D3: most memory", most / MIB, (MEMORY_BYTES + BESIDES_BYTES) / MIB, "MiB")
            run.check("D3: files open afterwards", open_files(mounted), before + LATE_FILES, "files")
            for number in range(count):
                assert object_difference(mounted.place, f"f{number}", source) is None, number
    source.unlink()


def names(run: Run, readers: int, count: int) -> None:
    """D7."""
    place = Place(run.server, run.bucket, "names/")
    body = os.urandom(READ_BYTES)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: place.put(f"read/{number}", body), range(readers)))
    for start in range(0, count, FILLED_AT_ONCE):
        some = range(start, min(start + FILLED_AT_ONCE, count))
        fill(place, [f"d{n // NAMES_PER_DIRECTORY:04}/file-{n % NAMES_PER_DIRECTORY:06}.dat" for n in some])
    with run.mounted("names", f"--memory-limit={MEMORY_BYTES}") as mounted:
        before = open_files(mounted)
        with ThreadPoolExecutor(readers) as pool:
            read = pool.map(lambda number: (mounted.root / f"read/{number}").read_bytes() == body, range(readers))
            assert all(read)
        after_reading = resident_bytes(mounted)
        for turn in range(2):
            told = subprocess.run(["find", mounted.root, "-ls"], check=True, capture_output=True).stdout
            assert told.count(b"\n") > count
            known = resident_bytes(mounted)
            subprocess.run(["sync"], check=True)
            Path("/proc/sys/vm/drop_caches").write_text("2")
            forgotten = known
            for _ in range(LOOKS):
                time.sleep(LOOK_SECONDS)
                forgotten = min(forgotten, resident_bytes(mounted))
            print(f"     D7: {after_reading / MIB:.0f} MiB, find {known / MIB:.0f}, forgotten {forgotten / MIB:.0f}")
            allowed = (max(known - (known - after_reading) / 2, 0) + FORGOTTEN_BYTES) / MIB
            run.check(f"D7: memory when the kernel forgot, turn {turn}", forgotten / MIB, allowed, "MiB")
        most = resident_bytes(mounted, "resident_most_bytes")
        run.check("D7: most memory", most / MIB, (MEMORY_BYTES + BESIDES_BYTES) / MIB, "MiB")
        run.check("D7: files open afterwards", open_files(mounted), before + LATE_FILES, "files")


def group(run: Run, make: Callable[[], Path | None]) -> None:
    """The default of --memory-limit in a control group of this machine."""
    path = make()
    if path is None:
        print("     no control group for memory can be made here: nothing is known about a real one")
        return
    child = os.fork()
    if not child:
        (path / "cgroup.procs").write_text(str(os.getpid()))
        with run.mounted("group") as mounted:
            limit = limits_of(mounted)["memory"]["limit_bytes"]
        os._exit(0 if limit == GROUP_BYTES // 2 else 1)
    _, status = os.waitpid(child, 0)
    path.rmdir()
    run.check("a group of 400 MiB: half of it is the default", os.waitstatus_to_exitcode(status), 0, "wrong")


def make_group() -> Path | None:
    for top, name in zip(GROUPS, ("memory.limit_in_bytes", "memory.max"), strict=True):
        path = top / f"s3mount-limits-{os.getpid()}"
        try:
            path.mkdir()
            (path / name).write_text(str(GROUP_BYTES))
        except OSError:
            if path.is_dir():
                path.rmdir()
            continue
        return path
    return None


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/soak limits", description="limits reached at full size")
    options.add_argument("--uploads", type=int, default=UPLOADS)
    options.add_argument("--upload-mib", type=int, default=UPLOAD_BYTES // MIB)
    options.add_argument("--readers", type=int, default=READERS)
    options.add_argument("--names", type=int, default=NAMES)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="s3mount-soak-") as directory:
        work = Path(directory)
        watchdog = Watchdog(work / "report")
        server = start_seaweedfs(work / "server")
        try:
            run = Run(server, work, watchdog)
            group(run, make_group)
            uploads(run, chosen.uploads, chosen.upload_mib * MIB)
            names(run, chosen.readers, chosen.names)
        finally:
            server.stop()
            watchdog.stop()
    return 0 if run.held else 1


if __name__ == "__main__":
    sys.exit(main())
