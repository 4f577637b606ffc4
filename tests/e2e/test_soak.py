"""Short forms of the long tests (scripts/soak): a few kill rounds, some seconds of faults, some of everything."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mounting import Place
from tests.e2e.watchdog import Watchdog
from tests.load.ground import Ground
from tests.load.rounds import Rounds
from tests.proxy import FaultProxy
from tests.soak.faults import exercised
from tests.soak.flat import mixed
from tests.soak.kill import LINK_BYTES_PER_SECOND, sides

ROUNDS = 2
SEED = "short"
STORM_SECONDS = 4.0
STORM_RATE = 0.2
FAULTS_MIN = 5
MIX_SECONDS = 3.0


@pytest.fixture
def where(tmp_path: Path, place: Place, watchdog: Watchdog, proxy: FaultProxy) -> Iterator[Ground]:
    """The tests' own server, watchdog and proxy, as a long test has them."""
    found = Ground(tmp_path, place, watchdog, proxy)
    yield found
    for mounted in found.mounts:
        mounted.kill()


@pytest.mark.seconds(300)
def test_daemons_that_are_killed_amid_random_writes_lose_nothing_acknowledged(where: Ground) -> None:
    """`kill -9` of the daemon at a random moment, restart: no acknowledged byte lost, no torn object, no upload left
    that was known, no mountpoint that needs help; and another mount with the same cache directory, at another
    mountpoint, keeps its journals and its uploads."""
    where.proxy.limit(total=LINK_BYTES_PER_SECOND)
    rounds = Rounds(sides(where, beside="mountpoint", writers=(2, 1)), SEED)
    try:
        rounds.prepare()
        for number in range(1, ROUNDS + 1):
            rounds.one(number)
    finally:
        rounds.end()
    assert rounds.figures.kills >= ROUNDS
    for side in rounds.sides:
        side.mounted.stop()


@pytest.mark.seconds(300)
def test_under_faults_of_every_kind_no_byte_is_wrong_and_every_failure_is_an_errno(where: Ground) -> None:
    """Random reads and writes against oracles through a proxy that injects faults into a fifth of all requests."""
    mounted = where.mounted("faults", "--metadata-ttl=1s", "--memory-limit=128MiB", proxied=True).start()
    outcome = exercised(
        where,
        mounted,
        SEED,
        STORM_SECONDS,
        processes=2,
        rate=STORM_RATE,
        delay_max_seconds=1.0,
        faults_min=FAULTS_MIN,
    )
    assert outcome.wrong == []
    assert outcome.operations
    assert "Traceback" not in mounted.log
    mounted.expect(".")
    mounted.stop()


@pytest.mark.seconds(300)
def test_everything_programs_do_at_once_leaves_no_trace_when_all_is_removed(where: Ground) -> None:
    """E11, the mix of operations; how it stays flat for 20 minutes shows `scripts/soak flat`."""
    mounted = where.mounted("flat", "--memory-limit=128MiB").start()
    counts, wrong, _ = mixed(where, mounted, SEED, MIX_SECONDS, processes=2)
    assert wrong == []
    assert counts
    mounted.stop()
    assert [name for name in mounted.place.files() if ".s3mount" not in name] == []
    assert mounted.place.uploads() == []
