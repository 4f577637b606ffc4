"""What a process holds over time: memory, descriptors and threads, sampled from /proc, and whether they are flat."""

import os
import re
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    memory_bytes: int
    descriptors: int
    threads: int


def sample(pid: int) -> Sample:
    """Raises OSError when the process has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = {name: int(value) for name, value in re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE)}
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(time.monotonic(), found["VmRSS"] * 1024, descriptors, found["Threads"])


@dataclass(frozen=True, slots=True)
class Growth:
    """What the median of the last quarter may be over that of the second one, in which everything has warmed up."""

    memory_share: float = 0.1
    memory_bytes: int = 8 * MIB
    descriptors: int = 16
    threads: int = 8


@dataclass(slots=True)
class Series:
    """See the module. The mutable state is the list of samples."""

    samples: list[Sample] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Minimum, median and maximum of each, in the first and in the second half."""
        half = len(self.samples) // 2
        parts = (self.samples[:half], self.samples[half:])

        def told(name: str, value: Callable[[Sample], float], digits: int) -> str:
            halves = [sorted(map(value, part)) for part in parts]
            said = [f"{h[0]:.{digits}f} {statistics.median(h):.{digits}f} {h[-1]:.{digits}f}" for h in halves]
            return f"{name}: first half {said[0]}, second half {said[1]}"

        if half == 0:
            return ["too few samples"]
        return [
            "minimum, median, maximum of the daemon:",
            told("memory, MiB", lambda one: one.memory_bytes / MIB, 1),
            told("descriptors", lambda one: one.descriptors, 0),
            told("threads", lambda one: one.threads, 0),
        ]

    def grown(self, growth: Growth) -> list[str]:
        """What is not flat, in words."""
        quarter = len(self.samples) // 4
        second, last = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        if quarter == 0:
            return ["too few samples"]
        told = []
        before, after = (statistics.median(one.memory_bytes for one in part) for part in (second, last))
        if after > before * (1 + growth.memory_share) + growth.memory_bytes:
            told.append(f"memory grew from {before / MIB:.1f} to {after / MIB:.1f} MiB")
        before, after = (statistics.median(one.descriptors for one in part) for part in (second, last))
        if after > before + growth.descriptors:
            told.append(f"descriptors grew from {before:.0f} to {after:.0f}")
        before, after = (statistics.median(one.threads for one in part) for part in (second, last))
        if after > before + growth.threads:
            told.append(f"threads grew from {before:.0f} to {after:.0f}")
        return told


class Sampler:
    """Samples a process from a thread of its own, for the time of a `with` block."""

    def __init__(self, pid: int, every_seconds: float, also: Callable[[], object] = lambda: None) -> None:
        # The mutable state: the series, and whether it is over.
        self.series = Series()
        self._pid = pid
        self._every = every_seconds
        self._also = also
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Series:
        self._thread.start()
        return self.series

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every):
            try:
                self.series.samples.append(sample(self._pid))
            except OSError:
                return
            self._also()
