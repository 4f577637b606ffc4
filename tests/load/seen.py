"""What the kill rounds see: the bucket as plain boto3 reads it, what a mount shows of it, the figures of all rounds."""

import os
import random
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.mounting import Place
from tests.load.promises import DEFAULT_MODE, Promises, Version, version_of
from tests.servers import boto

READERS = 6


@dataclass(slots=True)
class Figures:
    """What all rounds have seen together."""

    rounds: int = 0
    kills: int = 0
    kills_in_start: int = 0
    acknowledged: int = 0
    acknowledged_bytes: int = 0
    objects_read: int = 0
    bytes_read: int = 0
    in_flight: Counter[str] = field(default_factory=Counter)
    errnos: Counter[int] = field(default_factory=Counter)
    uploads_at_kill: int = 0
    uploads_unknown: int = 0
    intents_at_kill: int = 0
    removals_at_kill: int = 0
    probes_left: int = 0
    both_names: int = 0
    operations_at_kill: int = 0
    damages: Counter[str] = field(default_factory=Counter)
    lossy: int = 0
    """Damages that something acknowledged was lost by."""

    def lines(self) -> list[str]:
        def told(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"

        errnos = Counter({os.strerror(number): count for number, count in self.errnos.items()})
        written, read = self.acknowledged_bytes / 1e6, self.bytes_read / 1e6
        there = f"{self.uploads_at_kill} uploads, {self.intents_at_kill} moves of directories"
        left = f"{self.uploads_unknown} uploads whose id had not arrived, {self.probes_left} objects of probes"
        return [
            f"{self.rounds} rounds, {self.kills} kills amid writes, {self.kills_in_start} more of daemons just started",
            f"{self.acknowledged} calls acknowledged, closes and fsyncs of {written:.0f} MB among them",
            f"{self.objects_read} objects of {read:.0f} MB read back",
            f"in flight at the kills: {told(self.in_flight)}",
            f"errnos of writers whose daemon was killed: {told(errnos)}",
            f"open at the kills: {there}, and {self.removals_at_kill} deletions acknowledged",
            f"left after the recovery: 0 known uploads, {left}; {self.both_names} renamed files had both names",
            *([f"journaled at the kills: {self.operations_at_kill} operations"] if self.operations_at_kill else []),
            *(
                [f"journals damaged: {told(self.damages)}; {self.lossy} times to somebody's loss"]
                if self.damages
                else []
            ),
        ]


@dataclass(slots=True)
class Bucket:
    """What is in the bucket, read with plain boto3. The mutable state is the version of each key and etag seen before,
    in the latest look: nothing is read twice."""

    place: Place
    figures: Figures
    known: dict[tuple[str, str], Version] = field(default_factory=dict)

    def read(self) -> dict[str, Version]:
        """Every object below the prefix, by name."""
        client, prefix = boto(self.place.server), self.place.prefix
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.place.bucket, Prefix=prefix)
        listed = {found["Key"][len(prefix) :]: found["ETag"] for page in pages for found in page.get("Contents", ())}

        def fetch(item: tuple[str, str]) -> tuple[tuple[str, str], Version]:
            if item not in self.known:
                body = self.place.get(item[0])
                self.figures.objects_read += 1
                self.figures.bytes_read += len(body)
                return item, version_of(body)
            return item, self.known[item]

        with ThreadPoolExecutor(READERS) as pool:
            self.known = dict(pool.map(fetch, listed.items()))
        return {name: version for (name, _), version in self.known.items()}

    def uploads(self) -> set[tuple[str, str]]:
        client = boto(self.place.server)
        found = client.list_multipart_uploads(Bucket=self.place.bucket, Prefix=self.place.prefix)
        return {(upload["Key"], upload["UploadId"]) for upload in found.get("Uploads", ())}

    def modes(self, directory: str, promises: Promises, found: Mapping[str, Version]) -> dict[str, int]:
        """The permissions of those files whose permissions may have been changed."""
        modes = {}
        for name in {*promises.modes, *promises.in_flight()}:
            if name in found and not name.startswith("@"):
                stored = self.place.head(f"{directory}/{name}")["Metadata"].get("mode")
                modes[name] = DEFAULT_MODE if stored is None else int(stored) & 0o7777
        return modes


def below(prefix: str, everything: Mapping[str, Version]) -> dict[str, Version]:
    return {name[len(prefix) :]: version for name, version in everything.items() if name.startswith(prefix)}


def shown(root: Path, found: Mapping[str, Version], draws: random.Random) -> list[str]:
    """The mount shows what is in the bucket: all names, and the content of some."""
    names = {name for name in found if name and not name.startswith("@") and not name.endswith("/")}
    there = {
        str((Path(where) / name).relative_to(root))
        for where, _, files in os.walk(root, onerror=again)
        for name in files
    }
    if there != names:
        return [f"the mount shows {sorted(there - names)} and not {sorted(names - there)} below {root.name}"]
    picked = draws.sample(sorted(names), min(3, len(names)))
    wrong = [name for name in picked if version_of((root / name).read_bytes()) != found[name]]
    return [f"the mount shows something else than the bucket in {wrong}"] if wrong else []


def again(error: OSError) -> None:
    raise error
