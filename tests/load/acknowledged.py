"""Kill rounds of mounts with `--write-back`: what was acknowledged is there as soon as the next daemon is, and in the
bucket after `s3mount sync`. In some runs the journal is damaged between the kill and the start: then each file is one
of its earlier versions, whole, nothing that the journal held before the damage is lost, and the damage is named.
"""

import copy
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.asking import asked, s3mount
from tests.load import journals
from tests.load.journals import Damage
from tests.load.promises import EMPTY, Promises, Version, version_of
from tests.load.rounds import RECOVERY_SECONDS, RESERVED, Broken, Rounds, Side
from tests.load.seen import again

SYNC_TIME = "50s"
DAMAGED = "write-back journal was damaged"
TORN = "write-back journal had a torn end"


class Acknowledged:
    """See the module; `damages`: whether the journal is damaged in each round."""

    def __init__(self, sides: list[Side], seed: str, *, damages: bool) -> None:
        # The mutable state is that of the rounds, uploads that the journals of a round knew of, and what its writers
        # were promised when nobody had damaged anything.
        self.rounds = Rounds(sides, seed)
        self.damages = damages
        self.known: set[tuple[str, str]] = set()
        self.sound: dict[str, Promises] = {}

    def one(self, number: int) -> None:
        """A round. Raises Broken."""
        rounds, draws, figures = self.rounds, self.rounds.draws, self.rounds.figures
        main, beside = rounds.sides
        both = draws.random() < 0.35
        for side in rounds.sides:
            side.start_writers(f"{rounds.seed}/{number}", number * 1_000_000)
        for side in rounds.sides:
            side.wait_for_work()
        time.sleep(draws.uniform(0.0, 2.5))
        main.kill(figures)
        if both:
            time.sleep(draws.uniform(0.0, 0.5))
            beside.kill(figures)
        told = main.end_writers(figures)
        self.known = self._left_by(main)
        damage = self._damaged(main, draws) if self.damages else None
        papers = beside.papers() if both else {}
        if damage is None and draws.random() < 0.15:
            main.killed_in_start(draws.uniform(0.0, 1.5), figures)
        main.mounted.start()
        told += self._at_once(main)
        if damage is not None:
            told += self._named(main, damage)
        if both:
            told += [f"{main.name} has touched {name} of {beside.name}" for name in _changed(papers, beside.papers())]
            told += beside.end_writers(figures)
            self.known |= self._left_by(beside)
            beside.mounted.start()
            told += self._at_once(beside)
        else:
            beside.stop_writers()
            told += beside.end_writers(figures)
            told += self._at_once(beside)
        told += [line for side in rounds.sides for line in self._synced(side)]
        told += self._recovered()
        told += [line for side in rounds.sides for line in side.logged]
        told += rounds.check()
        if damage is not None:
            told = [f"{damage}: {line}" for line in told]
        if told:
            raise Broken(f"round {number}: " + "\n".join(told))
        figures.rounds += 1

    def _left_by(self, side: Side) -> set[tuple[str, str]]:
        """The uploads that the journal of a dead daemon knows."""
        found = journals.entries(side.write_back)
        over = {entry.meta["done"] for entry in found if "done" in entry.meta}
        self.rounds.figures.operations_at_kill += sum(bool(entry.keys) for entry in found) - len(over)
        return journals.uploads(side.write_back)

    def _damaged(self, side: Side, draws: random.Random) -> Damage | None:
        """Damage the journal, and see what that costs before the writers' promises are asked about it."""
        self.sound = copy.deepcopy(side.writers)
        (side.mounted.work / "journal").write_text(journals.listing(side.write_back))
        damage = journals.damage(side.write_back, draws)
        if damage is not None:
            self.rounds.figures.damages[damage.what] += 1
            for writer, promises in side.writers.items():
                names = [key.removeprefix(side.place.prefix) for key in damage.keys]
                own = [name.removeprefix(f"{writer}/") for name in names if name.startswith(f"{writer}/")]
                contest = [f"@{name.rpartition('/')[2]}" for name in names if name.startswith(f"{side.contest}/")]
                promises.doubt([name for name in (*own, *contest) if name and not name.endswith("/")])
        return damage

    def _at_once(self, side: Side) -> list[str]:
        """What is not as promised in the mount, before anything was brought to the bucket."""
        wrong = self._kept(side, side.writers)
        return [f"in the mount: {line}" for line in wrong]

    def _kept(self, side: Side, writers: Mapping[str, Promises]) -> list[str]:
        root, told = side.mounted.root, []
        contest = {f"@{name}": version for name, version in _seen(root / side.contest).items()}
        for writer, promises in writers.items():
            found = _seen(root / writer) | {name: contest[name] for name in contest if promises.claims(name)}
            told += [f"{writer}: {line}" for line in promises.check_acknowledged(found)]
        return told

    def _named(self, side: Side, damage: Damage) -> list[str]:
        """Whether the damage was told: where it is certain to be one, and where something is not as it was."""
        log, status = side.mounted.log, asked("status", side.mounted.root)["write_back"]
        lost = self._kept(side, self.sound)
        self.rounds.figures.lossy += bool(lost)
        told = []
        if damage.provable and not (DAMAGED in log and status.get("damage")):
            told.append(f"not named: log {DAMAGED in log}, status {status.get('damage')}")
        if lost and DAMAGED not in log and TORN not in log:
            told.append(f"lost without a word: {lost}")
        return told

    def _synced(self, side: Side) -> list[str]:
        done = s3mount("sync", "--timeout", SYNC_TIME, side.mounted.root)
        return [] if done.returncode == 0 else [f"{side.name}: sync: {done.stderr}"]

    def _recovered(self) -> list[str]:
        """Wait until moves of directories are ended; what was left that the journals knew."""
        rounds, deadline = self.rounds, time.monotonic() + RECOVERY_SECONDS
        while True:
            uploads = set().union(*(bucket.uploads() for bucket in rounds.buckets.values()))
            names = [name for bucket in rounds.buckets.values() for name in bucket.place.names()]
            kept = (f"{RESERVED}/probe-", *([f"{RESERVED}/conflicts/"] if self.damages else []))
            waiting = [name for name in names if name.startswith(f"{RESERVED}/") and not name.startswith(kept)]
            if not uploads & self.known and not waiting:
                break
            if time.monotonic() > deadline:
                return [f"left over: uploads known {uploads & self.known}, objects {waiting}"]
            time.sleep(0.05)
        rounds.figures.uploads_unknown += len(uploads - rounds.unknown)
        rounds.unknown = uploads
        return []


def _changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _seen(directory: Path) -> dict[str, Version]:
    """What a mount shows below a directory, as a bucket's look is written."""
    found: dict[str, Version] = {}
    for where, directories, files in os.walk(directory, onerror=again):
        here = Path(where)
        found |= {f"{(here / name).relative_to(directory)}/": EMPTY for name in directories}
        found |= {str((here / name).relative_to(directory)): version_of((here / name).read_bytes()) for name in files}
    return found
