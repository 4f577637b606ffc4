"""The command `bench/run`: what is asked for, the run, the report. `bench/run --help` says how.

Whatever ends it, Ctrl-C and SIGTERM included, every mount, process and directory of it is gone afterwards.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bench.compare import page
from bench.compare.bucket import Bucket
from bench.compare.distance import DistanceError, Place
from bench.compare.load import LOADS
from bench.compare.ours import own_workloads
from bench.compare.schedule import Plan, Schedule, Tell
from bench.compare.systems import ConfigurationError, System, configured
from bench.compare.targets import judged
from bench.compare.workloads import workloads
from tests.servers import start_seaweedfs, weed_binary

EPILOG = """\
Figures are medians of several turns. Exit status 1 when a target is missed, 2 when the words cannot be understood,
130 when interrupted. HAProxy and nginx place the store away (apt-get install haproxy nginx); matplotlib and rich are
the extra `bench` of s3mount (pip install -e .[bench,server]).
"""
Named = TypeVar("Named")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="bench/run", description="s3mount beside other file systems on S3: the same workloads, cold", epilog=EPILOG
    )
    options.add_argument("--quick", action="store_true", help="one turn, fewer bytes: the same as --size quick")
    options.add_argument("--size", choices=LOADS, help="how much is read and written; tiny only shows that it works")
    options.add_argument("--turns", type=int, help="how many turns each system takes")
    options.add_argument("--only", action="append", default=[], metavar="WORKLOAD", help="this one; may be repeated")
    options.add_argument("--system", action="append", default=[], metavar="NAME", help="this one; may be repeated")
    options.add_argument(
        "--systems", action="append", default=[], type=Path, metavar="FILE", help="more systems: see systems.toml"
    )
    options.add_argument(
        "--distance", action="append", type=int, metavar="MS", help="milliseconds to the store; may be repeated"
    )
    options.add_argument("--rate", type=float, default=None, metavar="MB/S", help="of each connection, where away")
    options.add_argument("--write", type=Path, metavar="STEM", help="write STEM.md and STEM.png")
    options.add_argument("--work", type=Path, metavar="DIR", help="where the server's data and all caches are")
    options.add_argument("--list", action="store_true", help="show workloads and systems, and end")
    return options


def chosen(known: dict[str, Named], asked: Sequence[str], kind: str) -> list[Named]:
    """Those that are asked for, in their own order; all, if nothing is. Raises ConfigurationError."""
    names = [name for word in asked for name in word.split(",")]
    for name in names:
        if name not in known:
            raise ConfigurationError(f"there is no {kind} {name}: there are {', '.join(known)}")
    return [each for name, each in known.items() if not names or name in names]


def available(systems: Sequence[System]) -> list[System]:
    """Those whose program is there; the others are told in words."""
    for system in systems:
        if not system.found:
            print(f"{system.name} is absent: {system.install or 'its program is not on PATH'}", file=sys.stderr)
    return [system for system in systems if system.found]


def planned(options: argparse.Namespace) -> tuple[Plan, str]:
    """What is to be done, and the name of its sizes. Raises ConfigurationError."""
    load = LOADS[options.size or ("quick" if options.quick else "full")]
    known, own = workloads(load), own_workloads(load)
    names = chosen({name: name for name in (*known, *own)}, options.only, "workload")
    systems = available(chosen(configured(options.systems), options.system, "system"))
    if not systems:
        raise ConfigurationError("none of the systems is installed")
    distances = options.distance or [0]
    if options.rate is not None and not any(distances):
        raise ConfigurationError("--rate is for a store that is away: see --distance")
    rate = options.rate
    if min(distances) < 0 or (options.turns is not None and options.turns < 1) or (rate is not None and rate <= 0):
        raise ConfigurationError("rates and turns are numbers above zero, distances are not below it")
    places = [Place(distance, int(rate * 1e6) if rate and distance else 0) for distance in dict.fromkeys(distances)]
    plan = Plan(
        workloads=[task for task in known.values() if task.name in names],
        own=[task for task in own.values() if task.name in names],
        systems=systems,
        places=places,
        turns=options.turns or load.turns,
    )
    return plan, load.name


@contextmanager
def progress(steps: int) -> Iterator[Tell]:
    """A bar on a terminal, lines elsewhere; both on standard error."""
    began, over = time.monotonic(), 0
    if not sys.stderr.isatty():

        def tell(words: str, done: int) -> None:
            nonlocal over
            over += done
            if done:
                print(f"{time.monotonic() - began:6.0f} s {over:4}/{steps} {words}", file=sys.stderr, flush=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=steps)
        yield lambda words, done: bar.update(task, description=words, advance=done)


def run(plan: Plan, size: str, options: argparse.Namespace, arguments: Sequence[str]) -> bool:
    """The whole run and its report; whether no target was missed."""
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGHUP, _interrupted)
    load = LOADS[size]
    versions = {system.name: system.asked_version() for system in plan.systems}
    versions["server"] = System("server", "", f"{weed_binary()} version").asked_version()
    with tempfile.TemporaryDirectory(prefix="s3mount-bench-", dir=options.work) as name:
        work = Path(name)
        server = start_seaweedfs(work / "weed", bucket_volumes=8)
        try:
            with progress(plan.steps()) as tell:
                schedule = Schedule(plan, Bucket(server, load), work, tell)
                schedule.run()
        finally:
            server.stop()
    standings = [schedule.results.at(place) for place in plan.places]
    verdicts = judged(
        schedule.results, [(standing, standing.place.milliseconds) for standing in standings] if plan.ours else []
    )
    done = page.Run(
        load=replace(load, turns=plan.turns),
        turns=plan.turns,
        arguments=arguments,
        workloads=plan.workloads,
        own=plan.own,
        systems=plan.systems,
        versions=versions,
        standings=standings,
        verdicts=verdicts,
    )
    print(page.as_text(done))
    if options.write:
        page.write(done, options.write)
    return not any(verdict.word == "MISSED" for _, verdict in verdicts)


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    try:
        plan, size = planned(options)
        if options.list:
            titles = {task.name: task.title for task in plan.workloads} | {task.name: task.title for task in plan.own}
            for name, title in titles.items():
                print(f"{name:12} {title}")
            for system in plan.systems:
                print(f"{system.name:12} {system.about}\n{'':12} {system.options}")
            return 0
        return 0 if run(plan, size, options, arguments) else 1
    except (ConfigurationError, DistanceError, FileNotFoundError) as error:
        print(f"bench/run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench/run: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
