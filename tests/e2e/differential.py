"""Random operations on two directories at once, a local one being the oracle: results and errnos must be equal.

A run is a pure function of its seed and of what the oracle answers, so a failure is replayed by its seed:
`python -m tests.e2e.differential --seed N --kinds files MOUNT ORACLE` runs it on any two empty directories. As a
program it obeys standard input: each line is a number of steps to take, after which all is closed and the trees are
compared; the answer is `ok` or the difference. Being a process of its own a mapped page that cannot be read (SIGBUS)
kills it, not pytest. `DIFFERENCES` is the one list of what a mount may answer differently.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.driver import NAMES, Differs, Driver
from tests.e2e.elsewhere import Elsewhere
from tests.e2e.kinds import ELSEWHERE, ELSEWHERE_WEIGHT, KINDS, LINKS, ChangedElsewhere, Step
from tests.e2e.sides import Side

DIFFERENCES = """\
Not compared: size, link count and times of directories, link counts, block counts, inode numbers, times of access and
    of change, times of modification that no program has set: an object has none of them, or the server's.
Not compared: the order of a listing, positions within a directory (no seek on one is drawn).
Not drawn: hard links (EPERM), sockets, device nodes (a mount is nodev).
Not drawn: fallocate, SEEK_DATA, SEEK_HOLE, copy_file_range: the mount has no handler for them, local disks have.
Tolerated: ESTALE where a file was unlinked or replaced while open and the call wants bytes never read before: the
    object is gone from the bucket. The handle is closed then, and such a file is not mapped (it would be SIGBUS).
"""
SHOWS_ATTRIBUTES = frozenset({"attributes", "callers", "xattr"})
"""With one of these kinds modes, owners and times are compared, and symbolic links are among the names."""


def steps_of(kinds: Sequence[str], elsewhere: Elsewhere | None = None) -> Mapping[Step, int]:
    """What is drawn, and how often."""
    steps = {step: weight for kind in kinds if kind != ELSEWHERE for step, weight in KINDS[kind].items()}
    if ELSEWHERE in kinds:
        assert elsewhere is not None, "another client needs --endpoint-url, --bucket and --prefix"
        steps[ChangedElsewhere(elsewhere)] = ELSEWHERE_WEIGHT
    return steps


def names_of(kinds: Sequence[str]) -> tuple[str, ...]:
    return (*NAMES, *LINKS) if SHOWS_ATTRIBUTES & set(kinds) else NAMES


def main() -> int:
    options = argparse.ArgumentParser(description="run random operations on two empty directories and compare")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--trace", type=Path, default=Path(os.devnull))
    options.add_argument("--kinds", default="files,directories", help=f"of {', '.join([*KINDS, ELSEWHERE])}")
    options.add_argument("--endpoint-url", help="of the other client, with --bucket and --prefix")
    options.add_argument("--bucket", default="")
    options.add_argument("--prefix", default="")
    options.add_argument("mount", type=Path)
    options.add_argument("oracle", type=Path)
    chosen = options.parse_args()
    kinds = chosen.kinds.split(",")
    elsewhere = Elsewhere.at(chosen.endpoint_url, chosen.bucket, chosen.prefix) if chosen.endpoint_url else None
    with chosen.trace.open("w") as trace:
        driver = Driver(
            chosen.seed,
            Side(chosen.mount),
            Side(chosen.oracle),
            steps_of(kinds, elsewhere),
            names=names_of(kinds),
            shows_attributes=bool(SHOWS_ATTRIBUTES & set(kinds)),
            trace=trace,
        )
        for line in sys.stdin:
            try:
                driver.run(int(line))
                driver.close_all()
                driver.compare_trees()
            except Differs as difference:
                print(difference, flush=True)
                return 1
            print("ok", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
