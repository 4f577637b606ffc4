"""Moves under way: how far each is, and who has to wait for it.

A store that renames takes one key after another away, so for a while a directory has half of its keys at each place:
whoever would ask the store for one of them waits until all are at one place again. Copies need no such wait: the
former keys stay until the end. Synchronous but for the waits; knows no store.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio


@dataclass(slots=True)
class Progress:
    """The move of one directory, for people to see. `taken`: what programs here have taken away meanwhile."""

    former: str
    target: str
    done: int = 0
    total: int = 0
    taken: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Watch:
    """A question about a key, or about what is directly below one that ends with '/'. `crossed`: a move began
    meanwhile that the answer may have seen half of."""

    asked: str
    crossed: bool = False

    def concerns(self, moved: str) -> bool:
        below = self.asked if self.asked.endswith("/") or not self.asked else self.asked + "/"
        if moved == self.asked or moved[: moved.rfind("/", 0, -1) + 1] == below:
            return True
        return moved.endswith("/") and below.startswith(moved)


class Transits:
    """See the module."""

    def __init__(self) -> None:
        # The mutable state: what is set when the move of a key, or of all keys below a prefix, is over; questions under
        # way; moves under way by the former prefix; keys that programs here are taking away.
        self._over: dict[str, trio.Event] = {}
        self._watches: set[Watch] = set()
        self.progress: dict[str, Progress] = {}
        self._leaving: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Transits of {', '.join(map(repr, self._over)) or 'nothing'}>"

    @contextmanager
    def of(self, key: str) -> Iterator[None]:
        """Inside the block this key, or what is below it if it ends with '/', is on its way."""
        for watch in self._watches:
            watch.crossed = watch.crossed or watch.concerns(key)
        over = self._over[key] = trio.Event()
        try:
            yield
        finally:
            del self._over[key]
            over.set()

    @contextmanager
    def watched(self, asked: str) -> Iterator[Watch]:
        """Inside the block the store is asked. Moves elsewhere are none of its business: there may always be some."""
        watch = Watch(asked)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    @contextmanager
    def shown(self, progress: Progress) -> Iterator[None]:
        """Inside the block people see the progress."""
        self.progress[progress.former] = progress
        try:
            yield
        finally:
            del self.progress[progress.former]

    @contextmanager
    def leaving(self, key: str) -> Iterator[None]:
        """Inside the block the key is deleted or renamed for a program here: a directory's move does not miss it."""
        self._leaving[key] += 1
        try:
            yield
        finally:
            self._leaving[key] -= 1
            if not self._leaving[key]:
                del self._leaving[key]
            for progress in self.progress.values():
                if key.startswith(progress.former):
                    progress.taken.add(key)

    def leaves(self, key: str) -> bool:
        """Whether a program here is taking the key away."""
        return key in self._leaving

    def missed(self, progress: Progress, keys: set[str]) -> set[str]:
        """Those of the keys that no program here has taken away."""
        return keys - progress.taken - self._leaving.keys()

    async def passed(self, key: str) -> bool:
        """Until the key is not on its way. Whether it was."""
        waited = False
        while (over := self._covering(key)) is not None:
            waited = True
            await over.wait()
        return waited

    def _covering(self, key: str) -> trio.Event | None:
        for moved, over in self._over.items():
            if key == moved or (moved.endswith("/") and key.startswith(moved)):
                return over
        return None
