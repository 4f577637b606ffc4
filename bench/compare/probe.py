"""`python -m bench.compare.probe ...` is s3mount with a clock in its event loop: how late a task wakes that wants to.

A task of trio's own wants to run every 2 ms. When the loop is held up past several of these moments each of them counts
with its own delay, so that the figures are what an event at any moment would have met. The delays go to the file that
BENCH_DELAYS names, with their moments, when the daemon ends: pairs of doubles, seconds of the monotonic clock.
"""

import os
import sys
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from s3mount import cli

VARIABLE = "BENCH_DELAYS"
STEP_SECONDS = 0.002
PAIR = 2


def moments(due: float, now: float, samples: "array[float]") -> float:
    """Note each moment from `due` to `now` with its delay; the next one."""
    while due <= now:
        samples.append(due)
        samples.append(now - due)
        due += STEP_SECONDS
    return due


async def watch(samples: "array[float]") -> None:
    due = time.monotonic() + STEP_SECONDS
    while True:
        await trio.sleep(max(0.0, due - time.monotonic()))
        due = moments(due, time.monotonic(), samples)


def delays_within(file: Path, began: float, ended: float) -> tuple[float, ...]:
    """The delays that a probed daemon has noted between two moments."""
    samples: array[float] = array("d")
    samples.frombytes(file.read_bytes())
    return tuple(
        delay
        for moment, delay in zip(samples[::PAIR], samples[1::PAIR], strict=True)
        if began <= moment and moment + delay <= ended
    )


def main() -> int:
    run = trio.run
    samples: array[float] = array("d")

    def probed_run(work: Callable[..., Awaitable[Any]], *arguments: object) -> object:
        async def both() -> object:
            trio.lowlevel.spawn_system_task(watch, samples)
            return await work(*arguments)

        return run(both)

    vars(trio)["run"] = probed_run
    try:
        return cli.main()
    finally:
        Path(os.environ[VARIABLE]).write_bytes(samples.tobytes())


if __name__ == "__main__":
    sys.exit(main())
