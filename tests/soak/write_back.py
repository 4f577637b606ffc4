"""`--write-back` at full size: the store away for ten minutes, a large upload killed, random operations amid kills."""

import argparse
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.asking import asked, command
from tests.e2e.material import MIB, object_difference, write_pattern
from tests.e2e.mounting import ROOT, Mounted, eventually, grow_old, run, succeed
from tests.load.ground import Ground, ground
from tests.load.killed import drive
from tests.load.series import Growth, Sampler

FILES = 2000
OLD_FILES = 200
"""In the bucket and listed when the store goes away."""
OLD = b"old"
FILE_BYTES = 16 * 1024
MEMORY_BYTES = 300 * MIB
"""Of the daemon: --memory-limit is 128 MiB, and interpreter and libraries are not in it."""
OPTIONS = ("--write-back", "--memory-limit=128MiB")
SAMPLE_SECONDS = 2.0
SYNC_SECONDS = 600.0
LARGE_BYTES = 1024 * MIB
LINK_BYTES_PER_SECOND = 100e6
KILL_AT = 0.6
AGAIN_AT_MOST = 0.5
DIFFERENTIAL_SEEDS = 10
DIFFERENTIAL_STEPS = 1000
DIFFERENTIAL_KINDS = ("files", "directories", "attributes")


def away(where: Ground, seed: str, *, minutes: float, files: int) -> list[str]:
    """Write, rename and remove while nothing answers, in a directory that was listed and in new ones; what is wrong."""
    place, draws = where.place, random.Random(seed)
    for number in range(OLD_FILES):
        place.put(f"listed/old{number}", OLD)
    mounted = where.mounted("away", *OPTIONS, proxied=True)
    mounted.expect("errno=EIO", "request failed")
    where.watchdog.arm("away", minutes * 60 + SYNC_SECONDS + 120)
    mounted.start()
    listed = mounted.root / "listed"
    expected = {f"listed/old{number}": OLD for number in range(OLD_FILES)}
    grow_old()
    wrong = [] if len(list(listed.iterdir())) == OLD_FILES else ["the listing before it was not whole"]
    assert list(mounted.root.iterdir()) == [listed]
    where.proxy.down()
    run("stat", mounted.root / "unknown")
    if not eventually(lambda: "store unreachable" in mounted.log, 60):
        wrong.append("nobody was told that the store is away")
    seconds: list[float] = []
    with Sampler(mounted.pid, SAMPLE_SECONDS) as series:
        pace = minutes * 60 / files
        for number in range(files):
            began = time.monotonic()
            _change(mounted.root, number, draws, expected)
            seconds.append(time.monotonic() - began)
            time.sleep(max(0.0, pace - seconds[-1]))
    seconds.sort()
    peak = max((one.memory_bytes for one in series.samples), default=0)
    print(
        f"{files} files, {len(expected)} left; seconds each: median {statistics.median(seconds):.4f}, "
        f"99 of 100 {seconds[len(seconds) * 99 // 100]:.4f}, most {seconds[-1]:.3f}",
        f"memory at most {peak / MIB:.0f} MiB",
        *series.lines(),
        sep="\n",
    )
    if peak > MEMORY_BYTES:
        wrong.append(f"the daemon had {peak / MIB:.0f} MiB")
    if minutes >= 5:
        wrong += series.grown(Growth(memory_bytes=40 * MIB))
    print(f"waiting: {asked('status', mounted.root)['write_back']}")
    began = time.monotonic()
    where.proxy.up()
    _sync(mounted)
    print(f"in the bucket {time.monotonic() - began:.1f} s after the store was back")
    wrong += _differences(
        "the bucket", {name: place.get(name) for name in place.files() if ".s3mount" not in name}, expected
    )
    shown = {str(path.relative_to(mounted.root)): path for path in mounted.root.rglob("*") if path.is_file()}
    wrong += _differences("the mount", {name: path.read_bytes() for name, path in shown.items()}, expected)
    mounted.stop()
    return wrong


def _change(root: Path, number: int, draws: random.Random, expected: dict[str, bytes]) -> None:
    """A file is written, and perhaps another one renamed or removed. Who needs the store for it gets EIO."""
    directory = draws.choice(("listed", f"new{number // 500}"))
    (root / directory).mkdir(exist_ok=True)
    name, body = f"{directory}/f{number}", draws.randbytes(64) * (draws.randrange(1, 2 * FILE_BYTES) // 64)
    (root / name).write_bytes(body)
    expected[name] = body
    other = draws.choice(sorted(expected))
    kind = draws.random()
    if kind < 0.25:
        target = f"{other.partition('/')[0]}/r{number}"
        (root / other).rename(root / target)
        expected[target] = expected.pop(other)
    elif kind < 0.5:
        (root / other).unlink()
        del expected[other]
    elif kind < 0.7 and expected[other] != OLD:  # to append to what the bucket has takes a look at it
        with (root / other).open("ab") as file:
            file.write(body[:100])
        expected[other] += body[:100]


def _differences(who: str, found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return [f"{who} differs in {len(differing)} names: {differing[:5]}"] if differing else []


def _sync(mounted: Mounted) -> None:
    done = run(*command("sync", mounted.root), cwd=ROOT, seconds=SYNC_SECONDS)
    assert done.returncode == 0, done


def resumed(where: Ground, _seed: str, *, size: int = LARGE_BYTES) -> list[str]:
    """A large upload, the daemon killed when most of it was sent; what is wrong, as too much that is sent again."""
    source = where.work / "source"
    write_pattern(source, size)
    mounted = where.mounted("resumed", *OPTIONS, "--write-back-delay=0s", proxied=True)
    where.watchdog.arm("resumed", SYNC_SECONDS)
    where.proxy.limit(total=LINK_BYTES_PER_SECOND)
    mounted.start()
    succeed("cp", source, mounted.root / "large")
    where.proxy.forget()

    def sent() -> int:
        return sum(seen.sent for seen in where.proxy.requests("large$") if seen.kind in {"upload_part", "put"})

    if not eventually(lambda: sent() >= KILL_AT * size, SYNC_SECONDS):
        return ["it was not uploaded"]
    mounted.crash()
    time.sleep(1.0)
    before = sent()
    where.proxy.forget()
    mounted.start()
    _sync(mounted)
    again = sent()
    print(f"{size / MIB:.0f} MiB: {before / size:.2f} sent before the kill, {again / size:.2f} after it")
    wrong = [] if again <= AGAIN_AT_MOST * size else [f"{again / size:.2f} of it was sent again"]
    if (offset := object_difference(where.place, "large", source)) is not None:
        wrong.append(f"the object differs from {offset} on")
    if where.place.uploads():
        wrong.append("an upload was left")
    where.proxy.clear()
    mounted.stop()
    source.unlink()
    return wrong


def differential(where: Ground, seed: str) -> list[str]:
    """Random operations on a mount and a local directory, with kills at random steps; see `tests.load.killed`."""
    for number in range(DIFFERENTIAL_SEEDS):
        work = where.work / f"differential{number}"
        work.mkdir()
        place = type(where.place)(where.place.server, where.place.bucket, f"differential{number}/")
        mounted = where.mounted(f"mount{number}", place=place)
        where.watchdog.arm(f"differential {number}", SYNC_SECONDS)
        try:
            kills = drive(mounted, work, int(seed, 16) + number, DIFFERENTIAL_KINDS, DIFFERENTIAL_STEPS)
        except AssertionError as error:
            return [str(error)]
        print(f"seed {int(seed, 16) + number}: {DIFFERENTIAL_STEPS} steps, {kills} kills", flush=True)
        mounted.stop()
    return []


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak write_back", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the store is away")
    parser.add_argument("--files", type=int, default=FILES, help="written meanwhile")
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument("--only", action="append", choices=("away", "resumed", "differential"))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    parts: dict[str, Callable[[Ground, str], list[str]]] = {
        "away": lambda where, seed: away(where, seed, minutes=options.minutes, files=options.files),
        "resumed": resumed,
        "differential": differential,
    }
    wrong: list[str] = []
    for name in options.only or parts:
        with ground() as where:
            try:
                wrong += parts[name](where, options.seed)
            except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
                wrong.append(f"{name}: {error!r}")
            report = where.watchdog.disarm()
        wrong += [report] if report else []
    print(*(f"WRONG: {line}" for line in wrong), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
