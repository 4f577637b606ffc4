"""Drawn examples of the simulation (tests/sim) for --minutes 60, from --seed on; ends at the first failure."""

import argparse
import sys
import time

from tests.sim.simulation import Failure, check, drawn

TOLD_SECONDS = 60.0
SOAK_SEED = 1_000_000
"""Far from those of the default run."""


def main() -> int:
    """One process, one core; the exit status is 1 after a failure, which it prints."""
    parser = argparse.ArgumentParser(prog="scripts/soak simulation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long examples are drawn (60)")
    parser.add_argument("--seed", type=int, default=SOAK_SEED, help="the first example; the next ones count up from it")
    options = parser.parse_args()
    started = told = time.monotonic()
    seed = options.seed
    while time.monotonic() - started < options.minutes * 60:
        try:
            check(drawn(seed))
        except Failure as failure:
            print(failure)
            return 1
        seed += 1
        if time.monotonic() - told >= TOLD_SECONDS:
            told = time.monotonic()
            print(f"{seed - options.seed} examples, {(told - started) / 60:.0f} minutes", flush=True)
    print(f"{seed - options.seed} examples from seed {options.seed} on, no promise broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
