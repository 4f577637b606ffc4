"""The same work done by several threads that start together, and the time from their start to the end of the last."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def in_threads(work: Callable[[Item], None], items: Sequence[Item], count: int) -> tuple[float, float]:
    """Call `work` for each item; when it began and ended, by the machine's monotonic clock. Raises the first
    exception."""
    failures: list[BaseException] = []
    gate = threading.Barrier(count + 1)

    def run(part: Sequence[Item]) -> None:
        gate.wait()
        try:
            for item in part:
                work(item)
        except BaseException as failure:  # noqa: BLE001 - raised by the main thread
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(items[number::count],)) for number in range(count)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    ended = time.monotonic()
    if failures:
        raise failures[0]
    return began, ended
