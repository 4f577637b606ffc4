"""Kill rounds: writers on two mounts that share a cache directory, kill -9 of their daemons, restart, and a look at the
bucket with plain boto3.

`Side` is one mount with its writers. After a round each of their promises was compared with the bucket, and what is
there now is what the next round begins with.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from s3mount.data.journal import Entry, _read
from tests.e2e.mounting import ROOT, Mounted, Place
from tests.load import journals
from tests.load.promises import Promises, Version
from tests.load.seen import Bucket, Figures, below, shown

RECOVERY_SECONDS = 120.0
WRITER_SECONDS = 120.0
RESERVED = ".s3mount"


class Broken(Exception):
    """A promise was not kept."""


@dataclass(slots=True)
class Side:
    """One mount and its writers, each with a directory of its own. The mutable state is what the writers were promised,
    their processes, and when the daemon was killed in this round."""

    name: str
    mounted: Mounted
    writers: dict[str, Promises]
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    killed_at: float | None = None
    logged: list[str] = field(default_factory=list)
    """Warnings and errors of daemons that were killed, and that nobody expected."""

    @property
    def contest(self) -> str:
        return f"{self.name}-contest"

    @property
    def place(self) -> Place:
        return self.mounted.place

    @property
    def instance(self) -> Path:
        """The one directory below the shared cache directory that is this mount's."""
        seen = self.mounted.work / "instance"
        if not seen.exists():
            held = [os.readlink(link) for link in Path(f"/proc/{self.mounted.pid}/fd").iterdir()]
            (lock,) = [Path(path) for path in held if path.endswith("/lock") and "/instances/" in path]
            seen.write_text(str(lock.parent))
        return Path(seen.read_text())

    @property
    def write_back(self) -> Path:
        """The directory of its write-back journal, if it has one."""
        return self.instance / "write-back"

    # writers

    def log(self, writer: str) -> Path:
        return self.mounted.work / f"{writer}.log"

    def start_writers(self, seed: str, serial: int) -> None:
        self.killed_at = None
        for writer, promises in self.writers.items():
            self.log(writer).unlink(missing_ok=True)
            state = self.mounted.work / f"{writer}.state"
            state.write_text(json.dumps(_state(promises, serial)))
            arguments = (self.mounted.root, writer, self.contest, f"{seed}/{writer}", self.log(writer), state)
            with self.log(writer).with_suffix(".stderr").open("wb") as stderr:
                self.processes[writer] = subprocess.Popen(
                    [sys.executable, "-m", "tests.load.writer", *map(str, arguments)], cwd=ROOT, stderr=stderr
                )

    def wait_for_work(self) -> None:
        """Until each writer has begun something."""
        deadline = time.monotonic() + WRITER_SECONDS
        while not all(self.log(writer).exists() and self.log(writer).stat().st_size for writer in self.writers):
            if time.monotonic() > deadline:
                raise Broken(f"{self.name}: no writer began")
            time.sleep(0.01)

    def stop_writers(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)

    def end_writers(self, figures: Figures) -> list[str]:
        """Wait for them and hear their logs; what is wrong with what they say."""
        told = []
        for writer, process in self.processes.items():
            status = process.wait(WRITER_SECONDS)
            log, stderr = self.log(writer), self.log(writer).with_suffix(".stderr").read_text()
            if status != 0 and (self.killed_at is None or status != -signal.SIGBUS):
                told.append(f"{writer} ended with status {status}: {stderr[-2000:]}")
            promises = self.writers[writer]
            before = promises.acknowledged, promises.acknowledged_bytes
            for line in log.read_text().splitlines() if log.exists() else ():
                promises.hear(json.loads(line))
            figures.acknowledged += promises.acknowledged - before[0]
            figures.acknowledged_bytes += promises.acknowledged_bytes - before[1]
            for at, number, name in promises.failures:
                if self.killed_at is None or at < self.killed_at:
                    told.append(f"{writer}: errno {number} from a living mount: {name}")
                else:
                    figures.errnos[number] += 1
            if promises.flying is not None:
                figures.in_flight[promises.flying[0]] += 1
        self.processes.clear()
        return told

    # the daemon

    def kill(self, figures: Figures) -> None:
        self.killed_at = time.monotonic()
        self.mounted.crash()
        figures.kills += 1
        # Its log is looked at as long as it is short.
        try:
            self.mounted.check_log()
        except AssertionError as error:
            self.logged.append(f"{self.name}: {error}")
        (self.mounted.work / "s3mount.log").rename(self.mounted.work / "s3mount.log.former")

    def killed_in_start(self, seconds: float, figures: Figures) -> None:
        """A daemon that is killed again `seconds` after it was started."""
        former = self.mounted.process

        def start() -> None:
            with suppress(AssertionError):
                self.mounted.start()

        starting = threading.Thread(target=start)
        starting.start()
        while self.mounted.process is former:
            time.sleep(0.005)
        time.sleep(seconds)
        self.mounted.crash()
        starting.join()
        figures.kills_in_start += 1

    def journal(self) -> list[Entry]:
        """What the dead daemon has noted of what it would leave."""
        return list(_read((self.instance / "journal").read_bytes()).values())

    def sends_deletions(self) -> list[str]:
        """Wait until the deletions that a living daemon has acknowledged are done; what is wrong with that."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while waiting := _removals(self.instance / "removals"):
            if time.monotonic() > deadline:
                return [f"{self.name}: deletions were not sent: {waiting}"]
            time.sleep(0.05)
        return []

    def papers(self) -> dict[str, bytes]:
        """All that the instance's directory holds, the lock apart."""
        return {
            str(path.relative_to(self.instance)): path.read_bytes()
            for path in sorted([*self.instance.iterdir(), *self.write_back.glob("*")])
            if path.is_file() and path.name != "lock"
        }


def _state(promises: Promises, serial: int) -> dict[str, object]:
    files = {name: version for name, (version,) in promises.files.items() if not name.startswith("@")}
    return {
        "files": {name: [version.size, version.digest] for name, version in files.items() if version is not None},
        "modes": {name: mode for name, (mode,) in promises.modes.items()},
        "directories": sorted(promises.directories),
        "serial": serial,
    }


class Rounds:
    """See the module."""

    def __init__(self, sides: list[Side], seed: str) -> None:
        # The mutable state: the draws, the figures, uploads of which an entry without an id was seen.
        self.sides = sides
        self.seed = seed
        self.draws = random.Random(seed)
        self.figures = Figures()
        self.buckets = {side.place.prefix: Bucket(side.place, self.figures) for side in sides}
        self.unknown: set[tuple[str, str]] = set()

    def prepare(self) -> None:
        """The mounts and the writers' directories."""
        for side in self.sides:
            side.mounted.start()
            assert side.instance.is_dir()
            for name in (*side.writers, side.contest):
                (side.mounted.root / name).mkdir()

    def end(self) -> None:
        """End the writers that run, whatever has become of the round."""
        for side in self.sides:
            for process in side.processes.values():
                process.kill()
                process.wait()

    def one(self, number: int) -> None:
        """A round. Raises Broken."""
        main, beside = self.sides
        both = self.draws.random() < 0.35
        for side in self.sides:
            side.start_writers(f"{self.seed}/{number}", number * 1_000_000)
        for side in self.sides:
            side.wait_for_work()
        time.sleep(self.draws.uniform(0.0, 2.5))
        main.kill(self.figures)
        if both:
            time.sleep(self.draws.uniform(0.0, 0.5))
            beside.kill(self.figures)
        told = main.end_writers(self.figures)
        left = self._left_by(main)
        papers = beside.papers() if both else {}
        if self.draws.random() < 0.15:
            main.killed_in_start(self.draws.uniform(0.0, 1.5), self.figures)
        main.mounted.start()
        if both:
            if beside.papers() != papers:
                told.append(f"{main.name} has touched the journals of {beside.name}")
            told += beside.end_writers(self.figures)
            left += self._left_by(beside)
            beside.mounted.start()
        else:
            beside.stop_writers()
            told += beside.end_writers(self.figures)
            told += beside.sends_deletions()
        told += self._recovered(left)
        told += [line for side in self.sides for line in side.logged]
        told += self.check()
        if told:
            raise Broken(f"round {number}: " + "\n".join(told))
        self.figures.rounds += 1

    def _left_by(self, side: Side) -> list[Entry]:
        entries = side.journal()
        intents = [name for name in side.place.names() if name.startswith(f"{RESERVED}/intents/")]
        self.figures.intents_at_kill += len(intents)
        self.figures.uploads_at_kill += sum(entry.upload_id is not None for entry in entries)
        self.figures.removals_at_kill += len(_removals(side.instance / "removals"))
        return entries

    def _recovered(self, left: list[Entry]) -> list[str]:
        """Wait until nothing is left of what the journals named; what is left after that."""
        known = {(entry.key, entry.upload_id) for entry in left if entry.kind == "upload" and entry.upload_id}
        doubted = {entry.key for entry in left if entry.kind == "upload" and entry.upload_id is None}
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            uploads = set().union(*(bucket.uploads() for bucket in self.buckets.values()))
            self.unknown &= uploads
            new = uploads - self.unknown
            everything = [name for bucket in self.buckets.values() for name in bucket.place.names()]
            names = [name for name in everything if name.startswith(f"{RESERVED}/")]
            # Probes that a kill cut short are in the journal, too.
            waiting = [name for name in names if not name.startswith(f"{RESERVED}/probe-")]
            if not (new & known) and {key for key, _ in new} <= doubted and not waiting:
                break
            if time.monotonic() > deadline:
                return [f"left over: uploads known {new & known}, others {new - known}, objects {waiting}"]
            time.sleep(0.05)
        self.unknown |= new
        self.figures.uploads_unknown += len(new)
        self.figures.probes_left = len(names) - len(waiting)
        return []

    def check(self) -> list[str]:
        """What is not as promised in the bucket; what is there now is what the next round begins with."""
        told = []
        for prefix, bucket in self.buckets.items():
            everything = {
                name: version
                for name, version in bucket.read().items()
                if not name.rpartition("/")[2].startswith(RESERVED) and not name.startswith(f"{RESERVED}/")
            }
            seen = set[str]()
            for side in self.sides:
                if side.place.prefix == prefix:
                    told += self._check_side(side, bucket, everything, seen)
            told += [f"nobody wrote {name}" for name in everything.keys() - seen]
        return told

    def _check_side(self, side: Side, bucket: Bucket, everything: Mapping[str, Version], seen: set[str]) -> list[str]:
        """`seen` grows by the names that somebody may have written."""
        told = []
        contest = below(f"{side.contest}/", everything)
        seen.add(f"{side.contest}/")
        for writer, promises in side.writers.items():
            found = below(f"{writer}/", everything)
            seen |= {f"{writer}/{name}" for name in found}
            found.pop("", None)
            claimed = {name for name in contest if promises.claims(f"@{name}")}
            seen |= {f"{side.contest}/{name}" for name in claimed}
            modes = bucket.modes(writer, promises, found)
            complaints = promises.check(found | {f"@{name}": contest[name] for name in claimed})
            told += [f"{writer}: {line}" for line in (*complaints, *promises.check_modes(modes))]
            if promises.flying is not None and promises.flying[0] == "rename":
                self.figures.both_names += {*promises.flying[1:]} <= found.keys()
            told += shown(side.mounted.root / writer, found, self.draws)
            promises.settle(found, modes)
        for name in contest:
            if name:
                side.place.delete(f"{side.contest}/{name}")
        return told


def _removals(path: Path) -> list[object]:
    from s3mount.data import removals

    return list(removals._read(path.read_bytes()).values()) if path.exists() else []


def keep_logs(sides: list[Side], where: Path) -> None:
    """Copies of what the daemons and writers have said, for whoever has to find out."""
    for side in sides:
        for path in side.mounted.work.iterdir():
            if path.is_file():
                (where / side.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, where / side.name / path.name)
        if side.write_back.exists():
            (where / side.name / "write-back").write_text(journals.listing(side.write_back))
