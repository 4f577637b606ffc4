"""Moves under way: how far each is, and who has to wait for it.

A store that renames takes one key after another away, so for a while a directory has half of its keys at each place:
whoever would ask the store for one of them waits until all are at one place again. Copies need no such wait: the
former keys stay until the end. Synchronous but for the waits; knows no store.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio


@dataclass(slots=True)
class Progress:
    """The move of one directory, for people to see."""

    former: str
    target: str
    done: int = 0
    total: int = 0


class Transits:
    """See the module. `begun` counts: who sees it change while asking has asked too early."""

    def __init__(self) -> None:
        # The mutable state: what is set when the move of a key, or of all keys below a prefix, is over; moves under
        # way by the former prefix.
        self._over: dict[str, trio.Event] = {}
        self.begun = 0
        self.progress: dict[str, Progress] = {}

    def __repr__(self) -> str:
        return f"<Transits of {', '.join(map(repr, self._over)) or 'nothing'}>"

    @contextmanager
    def of(self, key: str) -> Iterator[None]:
        """Inside the block this key, or what is below it if it ends with '/', is on its way."""
        self.begun += 1
        over = self._over[key] = trio.Event()
        try:
            yield
        finally:
            del self._over[key]
            over.set()

    @contextmanager
    def shown(self, progress: Progress) -> Iterator[None]:
        """Inside the block people see the progress."""
        self.progress[progress.former] = progress
        try:
            yield
        finally:
            del self.progress[progress.former]

    async def passed(self, key: str) -> None:
        """Until the key is not on its way."""
        while (over := self._covering(key)) is not None:
            await over.wait()

    def _covering(self, key: str) -> trio.Event | None:
        for moved, over in self._over.items():
            if key == moved or (moved.endswith("/") and key.startswith(moved)):
                return over
        return None
