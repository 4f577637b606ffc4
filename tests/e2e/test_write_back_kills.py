"""Short forms of `scripts/soak write_back` and of `scripts/soak kill` with `--write-back` and with `--damage`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mounting import Mounts, Place
from tests.e2e.watchdog import Watchdog
from tests.load.ground import Ground
from tests.load.killed import drive
from tests.proxy import FaultProxy
from tests.soak.kill import LINK_BYTES_PER_SECOND, journaled

SEED = 1
STEPS = 200


@pytest.fixture
def where(tmp_path: Path, place: Place, watchdog: Watchdog, proxy: FaultProxy) -> Iterator[Ground]:
    """The tests' own server, watchdog and proxy, as a long test has them."""
    found = Ground(tmp_path, place, watchdog, proxy)
    yield found
    for mounted in found.mounts:
        mounted.kill()


@pytest.mark.seconds(300)
def test_random_operations_survive_kills_as_on_a_local_directory(mounts: Mounts, tmp_path: Path) -> None:
    """After each `kill -9` the mount shows what the local directory has, and after `sync` the bucket has it."""
    assert drive(mounts.prepare(), tmp_path, SEED, ("files", "directories", "attributes"), STEPS) >= 3


@pytest.mark.seconds(300)
@pytest.mark.parametrize("damages", [False, True], ids=["sound", "damaged"])
def test_journals_of_daemons_that_are_killed_amid_random_writes_lose_nothing(where: Ground, damages: bool) -> None:
    """What close acknowledged is there at once and in the bucket after `sync`; of a journal that is damaged meanwhile,
    what it held before the damage, and nothing that no writer wrote."""
    where.proxy.limit(total=LINK_BYTES_PER_SECOND)
    acknowledged = journaled(where, f"short{SEED}", damages=damages, writers=(2, 1))
    try:
        acknowledged.rounds.prepare()
        acknowledged.one(1)
    finally:
        acknowledged.rounds.end()
    assert acknowledged.rounds.figures.kills >= 1
    for side in acknowledged.rounds.sides:
        side.mounted.stop()
