"""Random reads and writes against oracles, while a proxy injects faults of every kind into 5 % of all requests."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.mounting import ROOT, Mounted
from tests.load.ground import Ground, ground, programs
from tests.load.series import Growth, Sampler, Series

PROCESSES = 4
RATE = 0.05
DELAY_RATE = 0.02
DELAY_MAX_SECONDS = 10.0
OPTIONS = ("--metadata-ttl=1s", "--memory-limit=128MiB")
SAMPLE_SECONDS = 2.0
FINISH_SECONDS = 600.0
"""A call that waits when the faults end may take its whole deadline."""


@dataclass(slots=True)
class Outcome:
    """What the processes reported together, and the daemon's series."""

    operations: Counter[str] = field(default_factory=Counter)
    errnos: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    bytes_compared: int = 0
    wrong: list[str] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    series: Series = field(default_factory=Series)

    def add(self, report: dict[str, Any]) -> None:
        self.operations.update(report["operations"])
        self.errnos.update(report["errnos"])
        self.bytes_compared += report["bytes_compared"]
        self.wrong += report["wrong"]
        for verb, seconds in report["slowest"].items():
            self.slowest[verb] = max(self.slowest.get(verb, 0.0), seconds)

    def lines(self) -> list[str]:
        def told(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in counts.most_common())

        faults = sum(count for name, count in self.injected.items() if not name.startswith("delay"))
        return [
            f"{self.requests} requests, {faults} faults: {told(self.injected)}",
            f"{self.operations.total()} operations: {told(self.operations)}",
            f"{self.errnos.total()} errnos: {told(self.errnos)}",
            f"{self.bytes_compared / 1e6:.0f} MB compared; seconds of the slowest: "
            + ", ".join(f"{verb} {seconds:.0f}" for verb, seconds in sorted(self.slowest.items())),
            *self.series.lines(),
            *(f"WRONG: {line}" for line in self.wrong),
        ]


def exercised(
    where: Ground,
    mounted: Mounted,
    seed: str,
    seconds: float,
    *,
    processes: int = PROCESSES,
    rate: float = RATE,
    delay_max_seconds: float = DELAY_MAX_SECONDS,
    faults_min: int = 0,
) -> Outcome:
    """A storm of so many seconds over a mount that runs, longer if there were too few faults, and its end in fair
    weather."""
    outcome, place = Outcome(), mounted.place
    environment = {**os.environ, **place.server.environment()}
    for number in range(processes):
        (mounted.root / f"x{number}").mkdir()
    where.proxy.forget()
    where.proxy.storm(seed=hash_of(seed), rate=rate, delay_rate=DELAY_RATE, delay_max_seconds=delay_max_seconds)
    program = (sys.executable, "-m", "tests.load.exerciser", str(mounted.root))
    running = [
        subprocess.Popen(
            [*program, f"x{number}", place.bucket, place.prefix, f"{seed}/{number}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]

    def count() -> None:
        outcome.requests += len(where.proxy.requests())
        where.proxy.forget()

    with programs(running), Sampler(mounted.pid, SAMPLE_SECONDS, also=count) as outcome.series:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or where.proxy.injected().total() < faults_min:
            if any(process.poll() is not None for process in running):
                break
            time.sleep(0.2)
        where.proxy.clear()
        for process in running:
            process.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=FINISH_SECONDS)[0] for process in running]
    outcome.injected = where.proxy.injected()
    for process, line in zip(running, said, strict=True):
        if process.returncode != 0 or not line:
            outcome.wrong.append(f"a process ended with status {process.returncode}")
        else:
            outcome.add(json.loads(line))
    return outcome


def hash_of(seed: str) -> int:
    return int.from_bytes(seed.encode(), "big") % 2**32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", default=str(time.time_ns() % 10**8))
    parser.add_argument("--rate", type=float, default=RATE, help="the share of requests that meet a fault")
    parser.add_argument("--keep-log", type=Path, help="where to copy the daemon's log when something was wrong")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    seconds = options.minutes * 60
    with ground() as where:
        level = "debug" if options.keep_log else "info"
        mounted = where.mounted("faults", *OPTIONS, f"--log-level={level}", proxied=True)
        where.watchdog.arm("faults", seconds + FINISH_SECONDS + 120)
        mounted.start()
        outcome = exercised(where, mounted, options.seed, seconds, rate=options.rate)
        print("\n".join(outcome.lines()), flush=True)
        grown = outcome.series.grown(Growth()) if seconds >= 300 else []
        traced = [line for line in mounted.log.splitlines() if line.startswith("Traceback")]
        uploads = mounted.place.uploads()
        print(f"tracebacks {len(traced)}, uploads open {uploads}, not flat: {grown}")
        report = where.watchdog.disarm()
        print(report, end="")
        if options.keep_log and outcome.wrong:
            options.keep_log.write_text(mounted.log)
        mounted.expect(".")
        mounted.stop()
    return 1 if outcome.wrong or grown or traced or report else 0


if __name__ == "__main__":
    sys.exit(main())
