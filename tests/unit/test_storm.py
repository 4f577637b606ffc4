"""The storm does what it says: every fault, about as often as asked, the same from the same seed."""

from tests.proxy import Rule, Seen
from tests.storm import FAULTS, LATE_ERROR, Storm

REQUESTS = 20_000


def storm(seed: int = 1) -> Storm:
    return Storm(seed=seed, rate=0.05, delay_rate=0.02, delay_max_seconds=10.0)


def rules(of: Storm, kind: str = "get") -> list[Rule]:
    return [of.rule_for(Seen("GET", kind, "b", "k", "")) for _ in range(REQUESTS)]


def test_every_fault_comes_and_one_request_in_twenty_meets_one() -> None:
    drawn = storm()
    met = [rule for rule in rules(drawn) if rule.fault != "none"]
    assert 0.04 * REQUESTS < len(met) < 0.06 * REQUESTS
    assert {name for name in FAULTS if not drawn.counts[name]} == set()
    assert len(met) == sum(drawn.counts[name] for name in FAULTS)


def test_delays_reach_their_maximum_and_are_mostly_short() -> None:
    delays = sorted(rule.delay_seconds for rule in rules(storm()) if rule.delay_seconds)
    assert 0.015 * REQUESTS < len(delays) < 0.025 * REQUESTS
    assert delays[len(delays) // 2] < 2.0
    assert 9.0 < delays[-1] <= 10.0


def test_copies_and_completions_may_fail_after_their_200() -> None:
    drawn = storm()
    answers = [rule for rule in rules(drawn, "complete_upload") if rule.status == 200]
    assert len(answers) == drawn.counts[LATE_ERROR] > 0
    assert {rule.fault for rule in answers} == {"answer", "replace"}


def test_a_seed_draws_the_same_faults() -> None:
    assert rules(storm(7)) == rules(storm(7))
    assert rules(storm(7)) != rules(storm(8))
