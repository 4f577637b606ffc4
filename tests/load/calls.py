"""Calls that a store's faults may fail: what they returned, how long they took, and which errnos they had."""

import errno
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TypeVar

from tests.load.sheet import Sheet

T = TypeVar("T")
TRACE = 600
"""So many of the latest calls are told when something is wrong."""
FAULTY = {errno.EIO, errno.EACCES, errno.EBUSY}
"""What a program is told of a store that fails, refuses, or has not ended what it was asked for."""


class Wrong(Exception):
    """What should never be."""


class Calls:
    """See the module. The mutable state is what was counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errnos: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.bytes_compared = 0
        self.trace: deque[str] = deque(maxlen=TRACE)

    def attempt(self, verb: str, call: Callable[[], T], *also: int) -> tuple[T | None, int]:
        """What a call returned, and its errno. Raises Wrong for one that neither a fault nor `also` explains."""
        began = time.monotonic()
        self.counts[verb] += 1
        result, number = None, 0
        try:
            result = call()
        except OSError as error:
            number = error.errno or errno.EIO
            self.errnos[f"{verb} {errno.errorcode.get(number, number)}"] += 1
        ended = time.monotonic()
        self.slowest[verb] = max(self.slowest.get(verb, 0.0), ended - began)
        self.trace.append(f"{time.strftime('%H:%M:%S')} {verb} {ended - began:.2f} s errno {number}")
        if number and number not in FAULTY and number not in also:
            raise Wrong(f"{verb}: {os.strerror(number)}")
        return result, number

    def attempt_of(self, sheet: Sheet, verb: str, call: Callable[[], T], *also: int) -> tuple[T | None, int]:
        """The same of a file: what may have been changed by a late effect may be gone, or another version."""
        self.trace.append(f"{sheet}")
        try:
            return self.attempt(verb, call, *also, *(() if sheet.certain else (errno.ESTALE, errno.ENOENT)))
        except Wrong as wrong:
            raise Wrong(f"{wrong}: {sheet}") from wrong

    def report(self) -> dict[str, object]:
        return {
            "operations": dict(self.counts),
            "errnos": dict(self.errnos),
            "bytes_compared": self.bytes_compared,
            "slowest": {verb: round(seconds, 1) for verb, seconds in self.slowest.items()},
        }
