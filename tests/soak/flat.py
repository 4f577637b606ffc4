"""A day compressed into 20 minutes: everything programs do at full speed; memory, descriptors and threads stay flat."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter

from tests.e2e.mounting import ROOT, Mounted
from tests.load.ground import Ground, ground, programs
from tests.load.series import Growth, Sampler, Series

PROCESSES = 3
SAMPLE_SECONDS = 2.0
FINISH_SECONDS = 180.0
MEMORY_LIMIT = "128MiB"
"""So small that everything that is bounded has met its bound when the second quarter begins."""


def mixed(
    where: Ground, mounted: Mounted, seed: str, seconds: float, *, processes: int = PROCESSES
) -> tuple[Counter[str], list[str], Series]:
    """What was done in so many seconds, what was wrong with it, and what the daemon held meanwhile."""
    for number in range(processes):
        (mounted.root / f"m{number}").mkdir()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.load.mixer", str(mounted.root), f"m{number}", f"{seed}/{number}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    counts, wrong = Counter[str](), []
    with programs(running), Sampler(mounted.pid, SAMPLE_SECONDS) as series:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and all(process.poll() is None for process in running):
            time.sleep(0.2)
        for process in running:
            process.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=FINISH_SECONDS)[0] for process in running]
    for process, line in zip(running, said, strict=True):
        if process.returncode != 0 or not line:
            wrong.append(f"a process ended with status {process.returncode}")
            continue
        report = json.loads(line)
        counts.update(report["counts"])
        wrong += report["wrong"]
    if left := [path.name for number in range(processes) for path in (mounted.root / f"m{number}").iterdir()]:
        wrong.append(f"left after all was removed: {left}")
    return counts, wrong, series


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", default=str(time.time_ns() % 10**8))
    options = parser.parse_args()
    seconds = options.minutes * 60
    print(f"seed {options.seed}", flush=True)
    with ground() as where:
        mounted = where.mounted("flat", f"--memory-limit={MEMORY_LIMIT}")
        where.watchdog.arm("flat", seconds + FINISH_SECONDS + 120)
        mounted.start()
        counts, wrong, series = mixed(where, mounted, options.seed, seconds)
        print(", ".join(f"{name} {count}" for name, count in counts.most_common()))
        print("\n".join(series.lines()), flush=True)
        wrong += series.grown(Growth())
        if report := where.watchdog.disarm():
            wrong.append(report)
        try:
            mounted.stop()
        except AssertionError as error:
            wrong.append(str(error))
        for line in wrong:
            print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
