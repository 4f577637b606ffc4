"""Drawing examples, playing them, and making those that fail small.

An example is values only (`world.Example`), so it can be printed, pasted into a test and played again. The order of
tasks is drawn by trio from a source that is seeded with the example; the clock is virtual and starts anew with each.
A failing example is made smaller by leaving steps and faults out, in ever smaller groups (ddmin), as long as it fails.
"""

import logging
import random
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import trio
import trio.testing

from tests.sim.ledger import OTHER
from tests.sim.small import small_world
from tests.sim.weather import FAULTS, Fault
from tests.sim.world import DIRECTORIES, FATE, FILES, LINK, Example, Scene, Step, World
from tests.unit.conftest import Bugs

T = TypeVar("T")
STEPS_MAX = 26
REQUESTS_MAX = 60
"""Faults are drawn for the requests up to this one."""
PLAYS_MAX = 400
"""How many smaller examples are tried."""
OPS = {
    "write_file": 14, "read_file": 8, "open": 10, "write": 14, "read": 5, "fsync": 5, "close": 9, "ftruncate": 3,
    "truncate": 2, "rename": 8, "unlink": 7, "mkdir": 3, "rmdir": 2, "symlink": 1, "chmod": 3, "stat": 4, "listdir": 5,
    "forget": 2,
}  # fmt: skip
SLOTTED = ("write", "read", "fsync", "close", "ftruncate")
SIZES = (10, 300, 3000, 9000, 30_000, 50_000)
SIZE_WEIGHTS = (6, 5, 3, 2, 1, 1)
PAUSES = (0.0, 0.0, 0.0, 0.005, 0.05, 0.5, 3.0, 8.0)


class Failure(AssertionError):
    """What an example has broken: its text names the seed and has the example."""


def drawn(seed: int) -> Example:
    """The example of a seed."""
    draw = random.Random(seed)
    focus = draw.sample(_paths(FILES), draw.choice([1, 2, 3, 9]))
    before = [(key, 0) for key in ("d/", "e/", "d/e/") if draw.random() < 0.6]
    before += [(key, _size(draw)) for key in focus if draw.random() < 0.5]
    scene = Scene(
        mounts=draw.choice([1, 1, 2]),
        pressed=draw.random() < 0.25,
        no_disk=draw.random() < 0.1,
        latency_seconds=draw.choice([0.001, 0.01, 0.1, 1.0]),
        page_max=draw.choice([2, 5, 1000]),
        renaming=draw.random() < 0.3,
        before=tuple(before),
    )
    hurry = draw.random() < 0.5
    programs = draw.choice([1, 2, 2, 3])
    weights = [draw.choice([0.2, 1.0, 3.0]) * weight for weight in OPS.values()]
    opened = [0] * programs
    steps = [_step(draw, weights, focus, opened) for _ in range(draw.randrange(4, STEPS_MAX))]
    if draw.random() < 0.4:
        steps += [_foreign_step(draw, focus) for _ in range(draw.randrange(1, 4))]
    if draw.random() < 0.5:
        steps += [_fateful_step(draw) for _ in range(draw.choice([1, 1, 2]))]
    if hurry:
        steps = [replace(step, pause=step.pause / 100) for step in steps]
    return Example(seed, scene, tuple(steps), _faults(draw, scene.mounts))


def _faults(draw: random.Random, mounts: int) -> tuple[tuple[int, int, Fault], ...]:
    """Single ones, and often one that lasts longer than a request is repeated."""
    found = set()
    for _ in range(draw.choice([0, 0, 1, 2, 4, 8])):
        kind: Fault = draw.choice(FAULTS)
        first, mount = draw.randrange(2, REQUESTS_MAX), draw.randrange(mounts)
        for number in range(first, first + draw.choice([1, 1, 1, 2, 7, 14])):
            found.add((mount, number, kind))
    return tuple(sorted(found))


def _step(draw: random.Random, weights: list[float], focus: list[str], opened: list[int]) -> Step:
    """`opened`: how many files each program will have open; who has none opens one first."""
    who = draw.randrange(len(opened))
    op = draw.choices(list(OPS), weights)[0]
    if op in SLOTTED and not opened[who]:
        op = "open"
    opened[who] += {"open": 1, "close": -1}.get(op, 0)
    file = draw.choice(focus) if draw.random() < 0.85 else draw.choice(_paths(FILES))
    directory = draw.choice([*DIRECTORIES, "d/e", "e/d"])
    args: tuple[object, ...] = ()
    if op == "write_file":
        args = (file, draw.choice("ttcxaw"), draw.choice(["end", "start", "middle"]), _size(draw))
    elif op == "open":
        args = (file, draw.choice("rwaattccx"))
    elif op == "write":
        args = (draw.randrange(3), draw.choice(["end", "end", "start", "middle", "beyond"]), _size(draw))
    elif op in ("read", "fsync", "close"):
        args = (draw.randrange(3),)
    elif op in ("ftruncate", "truncate"):
        place: object = draw.randrange(3) if op == "ftruncate" else file
        args = (place, draw.choice([0, 5, 200, 5000, 25_000]))
    elif op == "rename":
        other = draw.choice(focus) if draw.random() < 0.5 else draw.choice(_paths(FILES))
        args = (file, other) if draw.random() < 0.7 else (directory, draw.choice([*DIRECTORIES, "d/e", "e/d"]))
    elif op in ("read_file", "unlink"):
        args = (file if draw.random() < 0.95 else draw.choice(_paths((LINK,))),)
    elif op in ("mkdir", "rmdir"):
        args = (directory,)
    elif op == "symlink":
        args = (draw.choice(_paths((LINK,))),)
    elif op == "chmod":
        args = (file if draw.random() < 0.8 else directory, draw.choice([0o600, 0o644, 0o755]))
    elif op == "stat":
        args = (draw.choice([file, directory]),)
    elif op == "listdir":
        args = (draw.choice(["", *DIRECTORIES, "d/e"]),)
    return Step(who, draw.choice(PAUSES), op, args)


def _foreign_step(draw: random.Random, focus: list[str]) -> Step:
    op = draw.choice(["put", "put", "delete"])
    args: tuple[object, ...] = (draw.choice(focus), _size(draw)) if op == "put" else (draw.choice(focus),)
    return Step(OTHER, draw.choice(PAUSES), op, args)


def _fateful_step(draw: random.Random) -> Step:
    op = draw.choice(["kill", "kill", "stop", "outage"])
    args: tuple[object, ...] = (draw.randrange(2), *{"stop": ()}.get(op, (draw.choice([0.0, 1.0, 30.0, 100.0]),)))
    return Step(FATE, draw.choice([draw.uniform(0.0, 1.0), draw.uniform(0.0, 20.0)]), op, args)


def _size(draw: random.Random) -> int:
    return draw.choices(SIZES, SIZE_WEIGHTS)[0]


def _paths(names: Sequence[str]) -> list[str]:
    return [*names, *(f"d/{name}" for name in names), *(f"e/{name}" for name in names), f"d/e/{names[0]}"]


# playing


def failure_of(example: Example) -> tuple[str, list[str]] | None:
    """What goes wrong in an example, and what was played until then; None if nothing does."""
    bugs = Bugs()
    logger = logging.getLogger("s3mount")
    before = logger.propagate
    logger.addHandler(bugs)
    logger.propagate = False
    source: random.Random = trio._core._run._r
    state = source.getstate()
    source.seed(example.seed)
    lines: list[str] = []
    try:
        with (
            small_world(example.seed),
            patch("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", new=True),
        ):
            world = World(example, Path(tempfile.gettempdir()))  # its files have no name there
            lines = world.lines
            trio.run(world.play, clock=trio.testing.MockClock(autojump_threshold=0))
    except Exception as error:  # noqa: BLE001 - whatever it is: that is what is looked for
        return _reason(error), lines
    finally:
        source.setstate(state)
        logger.removeHandler(bugs)
        logger.propagate = before
    return (bugs.found[0], lines) if bugs.found else None


def check(example: Example) -> None:
    """Raises Failure, with what is left of the example when nothing more can be left out."""
    failed = failure_of(example)
    if failed is None:
        return
    small = shrunk(example, failed[0])
    reason, lines = failure_of(small) or failed
    raise Failure(
        "\n".join([f"seed {example.seed}: {reason}", *lines, "", "as a regression test:", "", printed(small)])
    )


def shrunk(example: Example, reason: str) -> Example:
    """A smaller example that fails in the same way, as far as the kind of failure tells."""
    plays = 0
    kind = _kind(reason)

    def fails(smaller: Example) -> bool:
        nonlocal plays
        plays += 1
        failed = failure_of(smaller) if plays <= PLAYS_MAX else None
        return failed is not None and _kind(failed[0]) == kind

    for _ in range(2):
        example = _fewer(example, fails, _with_steps, example.steps)
        example = _fewer(example, fails, _with_faults, example.faults)
        example = _fewer(example, fails, _with_before, example.scene.before)
    return example


def _fewer(
    example: Example,
    fails: Callable[[Example], bool],
    with_items: Callable[[Example, Sequence[T]], Example],
    items: Sequence[T],
) -> Example:
    return with_items(example, least(items, lambda some: fails(with_items(example, some))))


def least(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """The items without those that are not needed for `fails`: groups are left out, each half as long as before."""
    kept = list(items)
    length = len(kept)
    while length:
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + length :]
            if fails(fewer):
                kept = fewer
            else:
                start += length
        length //= 2
    return kept


def _with_steps(example: Example, steps: Sequence[Step]) -> Example:
    return replace(example, steps=tuple(steps))


def _with_faults(example: Example, faults: Sequence[tuple[int, int, Fault]]) -> Example:
    return replace(example, faults=tuple(faults))


def _with_before(example: Example, keys: Sequence[tuple[str, int]]) -> Example:
    return replace(example, scene=replace(example.scene, before=tuple(keys)))


def printed(example: Example) -> str:
    """A program that plays it."""
    steps = "".join(f"        {step!r},\n" for step in example.steps)
    return (
        f"check(\n    Example(\n        {example.seed},\n        {example.scene!r},\n        (\n"
        + "".join(f"    {line}\n" for line in steps.splitlines())
        + f"        ),\n        {example.faults!r},\n    )\n)"
    )


def _reason(error: BaseException) -> str:
    while (inner := getattr(error, "exceptions", None)) is not None:
        error = inner[0]
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def _kind(reason: str) -> str:
    """What two failures have in common that are the same: no names, numbers or bytes."""
    words = reason.rpartition(": ")[2] if reason.startswith("Broken") else reason
    return "".join(letter for letter in words.partition("'")[0] if not letter.isdigit())[:40]
