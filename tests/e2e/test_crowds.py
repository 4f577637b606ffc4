"""Scenario D7: many readers at once, and what memory that takes."""

import os
import re
import threading
from pathlib import Path

import pytest

from tests.e2e.material import MIB, Background, in_threads
from tests.e2e.mounting import Mounted, Mounts, Place

BESIDE_MIB = 160
"""What a daemon has besides what --memory-limit bounds: Python and its modules, the listings' share, libfuse's
buffers for requests."""


def resident_mib(mounted: Mounted) -> int:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{mounted.pid}/status").read_text())[0]) // 1024


def peak_of(mounted: Mounted, over: threading.Event) -> int:
    """The most that was resident until it is over, looked at many times a second."""
    most = 0
    while not over.wait(0.02):
        most = max(most, resident_mib(mounted))
    return most


@pytest.mark.seconds(300)
def test_200_files_read_in_parallel_stay_within_memory(mounts: Mounts, place: Place) -> None:
    """D7: `--memory-limit 256MiB`, 200 files read in parallel: resident memory stays within the limit plus what is
    stated here."""
    body = os.urandom(4 * MIB)
    in_threads(lambda number: place.put(f"d/{number}", body), range(200))
    mounted = mounts.start("--memory-limit=256MiB")
    over = threading.Event()
    peaks: list[int] = []
    watching = Background(lambda: peaks.append(peak_of(mounted, over)))

    def read(number: int) -> None:
        assert (mounted.root / f"d/{number}").read_bytes() == body

    try:
        in_threads(read, range(200), threads=200)
    finally:
        over.set()
    watching.result()
    assert peaks[0] <= 256 + BESIDE_MIB, peaks
