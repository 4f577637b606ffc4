"""The simulation, 2,000 drawn examples of it; and that it finds what it is there to find, says so in a program, and
plays the same again."""

import random
from collections.abc import Callable

import pytest

from s3mount.data.expectation import Expectation
from s3mount.data.file import File
from s3mount.data.journal import Journal
from s3mount.store.base import ALWAYS, Upload
from tests.sim.ledger import OTHER
from tests.sim.simulation import Failure, check, drawn, failure_of, least
from tests.sim.world import Example, Scene, Step

EXAMPLES = 2000
ROUNDS = 20
FINDING_MAX = 400


@pytest.mark.parametrize("first", range(0, EXAMPLES, EXAMPLES // ROUNDS))
def test_whatever_programs_mounts_and_networks_do_every_promise_is_kept(first: int) -> None:
    for seed in range(first, first + EXAMPLES // ROUNDS):
        check(drawn(seed))


def without_conditions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Expectation, "condition", property(lambda _self: ALWAYS))


def without_storing(patch: pytest.MonkeyPatch) -> None:
    async def flush(_self: File) -> None:
        return

    patch.setattr(File, "flush", flush)


def without_striking(patch: pytest.MonkeyPatch) -> None:
    def ended(_self: Journal, _upload: Upload) -> None:
        return

    patch.setattr(Journal, "ended", ended)


@pytest.mark.parametrize("plant", [without_conditions, without_storing, without_striking])
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(failure_of(drawn(seed)) for seed in range(FINDING_MAX))


CONFLICT = Example(
    1,
    Scene(before=(("a", 300), ("b", 300))),
    (
        Step(0, 0.0, "read_file", ("b",)),
        Step(0, 0.0, "open", ("a", "w")),
        Step(0, 0.0, "write", (0, "middle", 10)),
        Step(OTHER, 0.5, "put", ("a", 300)),
        Step(1, 0.0, "mkdir", ("d",)),
        Step(0, 1.0, "close", (0,)),
    ),
    ((0, 40, "slow"),),
)
"""Another client changes what a program is writing."""


def test_what_another_client_changes_is_a_conflict_and_no_broken_promise() -> None:
    assert failure_of(CONFLICT) is None


def test_a_failure_tells_the_seed_the_calls_and_a_smaller_program_that_fails_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_conditions(monkeypatch)
    with pytest.raises(Failure, match="knows nothing of what it replaces") as failed:
        check(CONFLICT)
    told = str(failed.value)
    assert told.startswith("seed 1: ")
    assert "write a" in told
    program = told.partition("as a regression test:\n")[2]
    for needless in ("read_file", "mkdir", "slow", "'b'"):
        assert needless not in program
    with pytest.raises(Failure, match="knows nothing of what it replaces"):
        exec(program, {"check": check, "Example": Example, "Scene": Scene, "Step": Step})


def test_the_same_example_plays_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    without_storing(monkeypatch)
    seed = next(seed for seed in range(FINDING_MAX) if failure_of(drawn(seed)))
    assert drawn(seed) == drawn(seed)
    first = failure_of(drawn(seed))
    random.random()
    assert failure_of(drawn(seed)) == first


def test_what_is_left_of_a_list_is_what_its_failure_needs() -> None:
    assert least(range(20), lambda items: {3, 17} <= set(items)) == [3, 17]
    assert least(range(8), lambda items: True) == []
    assert least(range(3), lambda items: len(items) == 3) == [0, 1, 2]
