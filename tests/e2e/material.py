"""Large and many contents for the tests: cheap to make, different everywhere, comparable without holding them."""

import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.e2e.mounting import Place
from tests.servers import boto

MIB = 1024 * 1024
T = TypeVar("T")


def write_pattern(path: Path, size: int, seed: int = 1) -> None:
    """A file in which no two aligned 8 KiB are equal, so that a misplaced block shows."""
    base = random.Random(seed).randbytes(MIB)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            block = bytearray(base)
            for at in range(0, MIB, 8192):
                block[at : at + 8] = (start + at).to_bytes(8, "big")
            file.write(block[: min(MIB, size - start)])


def object_difference(place: Place, name: str, path: Path) -> int | None:
    """The offset of the first MiB in which an object differs from a local file; None when they are equal."""
    body = boto(place.server).get_object(Bucket=place.bucket, Key=place.prefix + name)["Body"]
    offset = 0
    with body, path.open("rb") as file:
        while True:
            expected = file.read(MIB)
            found = bytearray()
            while len(found) < max(len(expected), 1) and (more := body.read(max(len(expected), 1) - len(found))):
                found += more
            if found != expected:
                return offset
            if not expected:
                return None
            offset += len(expected)


def in_threads(work: Callable[[T], object], items: Iterable[T], threads: int = 8) -> None:
    """Call `work` for each item; the first exception is raised."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


class Background(threading.Thread):
    """A thread whose exception is raised by `result`."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            self._error = error

    def result(self, seconds: float = 60.0) -> None:
        self.join(seconds)
        assert not self.is_alive(), "the thread did not end in time"
        if self._error is not None:
            raise self._error
