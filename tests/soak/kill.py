"""Rounds of random writers, kill -9 of the daemon at a random moment, restart, and a look at the bucket.

With --write-back the mounts acknowledge from their journals; with --damage one of these is flipped or cut between kill
and start, which is a test of its own: `kill --write-back --rounds 200` and `kill --damage --rounds 50`.
"""

import argparse
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.mounting import Place
from tests.load.acknowledged import DAMAGED, TORN, Acknowledged
from tests.load.ground import Ground, ground
from tests.load.promises import Promises
from tests.load.rounds import Broken, Rounds, Side, keep_logs

LINK_BYTES_PER_SECOND = 40e6
"""So slow that uploads are under way when the kill comes."""
ROUND_SECONDS = 240.0
EXPECTED = "rename of a directory is under way or was cut short elsewhere"
"""In the logs: both mounts may have the same prefix."""
WRITERS = 4, 2
"""On the mount that is killed in every round, and on the other one."""


def sides(where: Ground, *, beside: str, writers: tuple[int, int] = WRITERS, options: Sequence[str] = ()) -> list[Side]:
    """Two mounts with one cache directory: at the same prefix and other mountpoints, or at prefixes of their own. The
    second renames by copies, as most stores have to."""
    cache = where.work / "cache"
    place = where.place
    other = place if beside == "mountpoint" else Place(place.server, place.bucket, f"{place.prefix[:-1]}-other/")
    main = where.mounted("main", *options, proxied=True, cache=cache)
    second = where.mounted("beside", "--acl=private", *options, place=other, cache=cache)
    for mounted in (main, second):
        mounted.expect(EXPECTED)
    return [
        Side("main", main, {f"main{number}": Promises() for number in range(writers[0])}),
        Side("beside", second, {f"beside{number}": Promises() for number in range(writers[1])}),
    ]


def journaled(where: Ground, seed: str, *, damages: bool, writers: tuple[int, int] = WRITERS) -> Acknowledged:
    """Rounds of two mounts with journals of their own. At one prefix each would acknowledge what the other one's
    journal has already, and the conflict would be found by the bucket: so they have two."""
    both = sides(where, beside="prefix", writers=writers, options=["--write-back"])
    for side in both if damages else ():
        side.mounted.expect(DAMAGED, TORN)
    return Acknowledged(both, seed, damages=damages)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument(
        "--beside", choices=("mountpoint", "prefix"), default="mountpoint", help="in what the second mount differs"
    )
    parser.add_argument("--write-back", action="store_true", help="of mounts that acknowledge from a journal")
    parser.add_argument("--damage", action="store_true", help="the same, and that journal is damaged in each round")
    parser.add_argument("--keep-logs", type=Path, help="where to copy the logs when a promise was broken")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with ground() as where:
        where.proxy.limit(total=LINK_BYTES_PER_SECOND)
        if options.write_back or options.damage:
            acknowledged = journaled(where, options.seed, damages=options.damage)
            rounds, one = acknowledged.rounds, acknowledged.one
        else:
            rounds = Rounds(sides(where, beside=options.beside), options.seed)
            one = rounds.one
        where.watchdog.arm("start", ROUND_SECONDS)
        began = time.monotonic()
        try:
            rounds.prepare()
            for number in range(1, options.rounds + 1):
                where.watchdog.arm(f"round {number}", ROUND_SECONDS)
                one(number)
                where.proxy.forget()
                print(
                    f"round {number} {time.monotonic() - began:.0f} s {rounds.figures.acknowledged} calls", flush=True
                )
        except (Broken, AssertionError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{error}\n{where.watchdog.disarm()}")
            if options.keep_logs:
                keep_logs(rounds.sides, options.keep_logs)
            return 1
        finally:
            print("\n".join(rounds.figures.lines()), flush=True)
            rounds.end()
        for side in rounds.sides:
            side.mounted.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
