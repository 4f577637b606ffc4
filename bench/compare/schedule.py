"""All turns of a run: systems take turns within each workload, who comes first changes, who hung is not asked again.

Places of the store are visited one after another. The mutable state is the results, and where the progress bar stands.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from bench.compare.bucket import Bucket
from bench.compare.distance import Distance, Place
from bench.compare.ours import Own
from bench.compare.results import LIMIT, Cell, Results, amount_in
from bench.compare.stage import Failed, Figures, Theatre
from bench.compare.systems import OURS, System
from bench.compare.workloads import Workload, try_edit
from bench.mounts import environment_of

SETTLE_SECONDS = 3.0
"""What was stored less than two seconds ago is looked at entry by entry: nothing that is listed is that new."""
SYNC_SECONDS = 60.0
TROUBLE = (Failed, BotoCoreError, ClientError, OSError, subprocess.SubprocessError, ImportError, StopIteration)
"""Of one turn: a daemon that died has no figures in /proc (the last), a server that is too busy answers nobody. The
turn is lost, the run goes on."""
LIMIT_SYSTEM = System(LIMIT, "")
Tell = Callable[[str, int], None]
"""What happens now, and how many turns are over since the last word."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    workloads: Sequence[Workload]
    own: Sequence[Own]
    systems: Sequence[System]
    places: Sequence[Place]
    turns: int

    @property
    def ours(self) -> System | None:
        return next((system for system in self.systems if system.name == OURS), None)

    def taking_part(self, workload: Workload) -> list[System]:
        """In a workload, boto3 included where it has one."""
        found = [system for system in self.systems if system.takes_part_in(workload.name)]
        return [*found, *([LIMIT_SYSTEM] if workload.limit else [])]

    def own_at(self, place: Place) -> list[Own]:
        """What s3mount alone is asked with the store there."""
        return [own for own in self.own if self.ours and not (own.here_only and place.milliseconds)]

    def steps(self) -> int:
        """How many turns there are, for the progress bar."""
        each = sum(len(self.taking_part(workload)) for workload in self.workloads)
        return sum(each + len(self.own_at(place)) for place in self.places) * self.turns


class Schedule:
    """One run."""

    def __init__(self, plan: Plan, bucket: Bucket, work: Path, tell: Tell) -> None:
        self._plan, self._bucket, self._work, self._tell = plan, bucket, work, tell
        units = {workload.name: workload.unit for workload in plan.workloads}
        self.results = Results(units | {own.name: "MB/s" for own in plan.own})

    def run(self) -> None:
        """All turns at all places."""
        needs = [need for task in self._plan.workloads for need in task.needs]
        needs += [need for task in self._plan.own for need in task.needs]
        for need in needs:
            self._tell(f"filling the bucket: {need}", 0)
            self._bucket.provide(need)
        for number, place in enumerate(self._plan.places):
            self._at(place, self._work / f"place{number}")

    def _at(self, place: Place, work: Path) -> None:
        work.mkdir()
        with Distance(self._bucket.server.endpoint_url, place, work / "proxies") as distance:
            environment = {**environment_of(self._bucket.server), "AWS_ENDPOINT_URL": distance.endpoint_url}
            theatre = Theatre(self._bucket, work, {**environment, "LC_ALL": "C.UTF-8"})
            absent: dict[str, str] = {}
            edits = any(workload.prepare == Bucket.copied for workload in self._plan.workloads)
            for system in self._plan.systems:
                needed = any(system.takes_part_in(workload.name) for workload in self._plan.workloads)
                if not needed and system is not self._plan.ours:
                    continue
                self._tell(f"{system.name}: first mount", 0)
                try:
                    theatre.meet(system, try_edit if edits and system.takes_part_in("edit") else None)
                except Failed as error:
                    absent[system.name] = self._bare(str(error))
            for turn in range(self._plan.turns):
                for workload in self._plan.workloads:
                    self._workload(theatre, place, workload, turn, absent)
                for own in self._plan.own_at(place):
                    assert self._plan.ours is not None
                    self._own(theatre, place, own, self._plan.ours, absent)
        shutil.rmtree(work, ignore_errors=True)

    def _workload(self, theatre: Theatre, place: Place, workload: Workload, turn: int, absent: dict[str, str]) -> None:
        systems = self._plan.taking_part(workload)
        shift = turn % max(1, len(systems))
        order = systems[shift:] + systems[:shift]
        prepared = {}
        if workload.prepare is not None:
            for system in order:
                self._tell(f"preparing {workload.name}", 0)
                prepared[system.name] = workload.prepare(self._bucket)
        if workload.settles:
            time.sleep(SETTLE_SECONDS)
        self._write_back()
        for system in order:
            name = prepared.get(system.name, "")

            def work(system: System = system, name: str = name) -> Figures:
                if system is LIMIT_SYSTEM:
                    assert workload.limit is not None
                    return theatre.measured(None, name, workload.limit)
                return theatre.turn(system, name, workload.run, before=workload.before)

            self._attempt((place, workload.name, system.name), work, absent)

    def _own(self, theatre: Theatre, place: Place, own: Own, system: System, absent: dict[str, str]) -> None:
        self._attempt((place, own.name, system.name), lambda: own.run(theatre, system), absent)

    def _attempt(self, cell: Cell, work: Callable[[], Figures], absent: dict[str, str]) -> None:
        _, workload, system = cell
        self._tell(f"{workload}: {system}", 0)
        if system in absent:
            self.results.failures.setdefault(cell, absent[system])
        if cell in self.results.failures:
            self._tell(f"{workload}: {system} left out", 1)
            return
        try:
            figures = work()
        except TROUBLE as error:
            words = str(error) if isinstance(error, Failed) else f"failed: {type(error).__name__} {error}"
            self.results.failures[cell] = self._bare(words)
            self._tell(f"{workload}: {system} {self.results.failures[cell]}", 1)
            return
        self.results.note(cell, replace(figures, afterwards=self._bare(figures.afterwards)))
        unit = self.results.units[workload]
        self._tell(f"{workload}: {system} {amount_in(unit, figures):.4g} {unit}", 1)

    def _bare(self, words: str) -> str:
        """One line without the name of our own directory."""
        return " ".join(words.replace(f"{self._work}/", "").split())[:300]

    def _write_back(self) -> None:
        """What the server has still to write to disk is written before the next turn, not during it."""
        try:
            subprocess.run(["sync", "-f", os.fspath(self._work)], timeout=SYNC_SECONDS)
        except subprocess.TimeoutExpired:
            self._tell("the disk is slow: its writes go on during the next turn", 0)
