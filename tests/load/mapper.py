"""Memory maps of files on a mount, each in a process of its own: a page that cannot be fetched is SIGBUS.

Those processes are forked from one that has no file open, for whoever inherits a descriptor of a file flushes it when
it ends, and so stores what its owner has not asked to be stored.
"""

import json
import mmap
import os
import signal
from typing import IO

SAME = 0
OTHER_BYTES = 1
NOT_OPENED = 2
NOT_SYNCED = 3
SIGBUS = -signal.SIGBUS


class Mapper:
    """The owner's end. Made before the owner opens anything."""

    def __init__(self) -> None:
        # The mutable state is the other process's.
        told, tell = os.pipe()
        heard, hear = os.pipe()
        if os.fork() == 0:
            os.close(tell)
            os.close(heard)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with os.fdopen(told) as words, os.fdopen(hear, "w") as answers:
                _serve(words, answers)
            os._exit(0)
        os.close(told)
        os.close(hear)
        self._tell, self._heard = os.fdopen(tell, "w"), os.fdopen(heard)

    def map(self, path: str, offset: int, expected: bytes, data: bytes | None) -> int:
        """Compare what is mapped at `offset`, replace it by `data` and msync; which of the above became of it."""
        words = {
            "path": path,
            "offset": offset,
            "expected": expected.hex(),
            "data": None if data is None else data.hex(),
        }
        self._tell.write(json.dumps(words) + "\n")
        self._tell.flush()
        return int(self._heard.readline())


def _serve(words: IO[str], answers: IO[str]) -> None:
    for line in words:
        child = os.fork()
        if child == 0:
            os._exit(_mapped(**json.loads(line)))
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        answers.flush()


def _mapped(path: str, offset: int, expected: str, data: str | None) -> int:
    try:
        fd = os.open(path, os.O_RDWR)
        size = os.fstat(fd).st_size
    except OSError:
        return NOT_OPENED
    same = bytes.fromhex(expected)
    with mmap.mmap(fd, size) as mapped:
        if mapped[offset : offset + len(same)] != same:
            return OTHER_BYTES
        if data is not None:
            mapped[offset : offset + len(same)] = bytes.fromhex(data)
            try:
                mapped.flush()
            except OSError:
                return NOT_SYNCED
    return SAME
