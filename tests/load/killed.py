"""Random operations on a mount with `--write-back` and on a local directory, the daemon killed at random steps.

After each kill and start the mount shows at once what the local directory has; after `s3mount sync` the bucket has it.
Kills come when no call is under way: what becomes of those is for the kill rounds.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.asking import asked, s3mount
from tests.e2e.differential import SHOWS_ATTRIBUTES
from tests.e2e.driven import Driven, check_bucket
from tests.e2e.mounting import Mounted, Place, eventually
from tests.e2e.sides import attribute_differences, tree
from tests.servers import boto

STEPS_MAX = 60
"""Between two kills."""
DELAYS = ("0s", "100ms", "1s", "1h")
SYNCED = 0.4
"""The share of starts after which everything is brought to the bucket."""


def options(draws: random.Random, kinds: Sequence[str]) -> list[str]:
    """Of a daemon: how long files wait, and what the kinds need."""
    chosen = ["--write-back", f"--write-back-delay={draws.choice(DELAYS)}"]
    chosen += ["--allow-other"] if "callers" in kinds else []
    return [*chosen, "--xattr"] if "xattr" in kinds else chosen


def settled(mounted: Mounted) -> bool:
    """Whether nothing is held in memory only: an empty file is stored just after its last close, and a change of
    attributes that no close brings waits a moment for company."""
    files = asked("status", mounted.root)["files"]
    return not any(files[held]["count"] for held in ("dirty_files", "attributes_held"))


def parts_left(place: Place) -> list[str]:
    """Keys of uploads that have parts. One that a kill has kept from being known has none, and goes after a while."""
    client, where = boto(place.server), {"Bucket": place.bucket}
    found = client.list_multipart_uploads(**where, Prefix=place.prefix).get("Uploads", ())
    uploads = [{"Key": upload["Key"], "UploadId": upload["UploadId"]} for upload in found]
    return [upload["Key"] for upload in uploads if client.list_parts(**where, **upload).get("Parts")]


def drive(
    mounted: Mounted, work: Path, seed: int, kinds: Sequence[str], steps: int, *, also: Sequence[str] = ()
) -> int:
    """So many steps on a mount that is not started yet, with more of its options; how often it was killed."""
    draws, kills, done = random.Random(seed), 0, 0
    mounted.options = [*options(draws, kinds), *also]
    driven = Driven(mounted.start(), work, seed, kinds)
    try:
        while done < steps:
            count = draws.randrange(1, STEPS_MAX)
            driven.take(count)
            done += count
            assert eventually(lambda: settled(mounted)), "closes or changes of attributes were not journaled"
            mounted.crash()
            kills += 1
            mounted.options = [*options(draws, kinds), *also]
            mounted.start()
            expected = tree(driven.oracle)
            assert tree(mounted.root) == expected, f"after kill {kills}, seed {seed}, step {done}"
            if SHOWS_ATTRIBUTES & set(kinds):
                assert attribute_differences(mounted.root, driven.oracle) == [], f"after kill {kills}, seed {seed}"
            if draws.random() < SYNCED or done >= steps:
                sync = s3mount("sync", mounted.root)
                assert sync.returncode == 0, f"after kill {kills}, seed {seed}, step {done}: {sync.stderr}"
                check_bucket(mounted.place, expected)
                assert not parts_left(mounted.place), f"after kill {kills}, seed {seed}, step {done}"
                assert tree(mounted.root) == expected, f"after sync, kill {kills}, seed {seed}, step {done}"
    finally:
        driven.end()
    return kills
