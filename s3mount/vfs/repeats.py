"""Versions that an operation found instead of the one it was asked for, kept for its repetition.

An operation that answers ESTALE has Linux look the path up once more and repeat it, once. The lookup is answered by
what was found, and an open that comes again needs not ask: what it shows was fetched while the program waited for that
same open. Whose open that is, is told by the thread: others find the object as it is now, and must not use up what
somebody else is owed, or his second ESTALE would reach the program.

Synchronous; knows no inode. Linux may look up twice and forget the inode between, so a version answers every lookup
until the last open that is owed has come, for two seconds at most.
"""

from collections import Counter
from typing import NamedTuple

from s3mount.store.base import ObjectInfo

VERSIONS_MAX = 10_000

Name = tuple[int, str]
"""The inode number of a directory, and a name in it."""


class Found(NamedTuple):
    """`owed`: how many opens of each thread, by its id, were answered by ESTALE and have not come again."""

    info: ObjectInfo
    until: float
    owed: Counter[int]

    def waits(self, now: float) -> bool:
        """Whether anything is to come again, as far as we know: chmod does, too, and is not counted."""
        return self.until > now and (not self.owed or max(self.owed.values()) > 0)


class Repeats:
    """See the module. The state is what was found, in the order of its expiry."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._found: dict[Name, Found] = {}

    def remember(self, name: Name, info: ObjectInfo, now: float, *, opener: int | None) -> None:
        """`opener`: the thread whose open this was, if it was one. Who is owed an older version gets this one."""
        before = self._found.pop(name, None)
        owed = +before.owed if before is not None and before.until > now else Counter[int]()
        if opener is not None:
            owed[opener] += 1
        while self._found:
            first = next(iter(self._found))
            if self._found[first].until > now and len(self._found) < VERSIONS_MAX:
                break
            del self._found[first]
        self._found[name] = Found(info, now + self._seconds, owed)

    def find(self, name: Name, now: float) -> Found | None:
        """What answers a lookup."""
        found = self._found.get(name) if self._found else None
        return found if found is not None and found.waits(now) else None

    def owes(self, name: Name, opener: int, now: float) -> bool:
        """Whether an open of this thread has come again."""
        found = self.find(name, now)
        return found is not None and found.owed[opener] > 0

    def take(self, name: Name, opener: int, now: float) -> bool:
        """The same, and it is not owed any more."""
        if not self.owes(name, opener, now):
            return False
        self._found[name].owed[opener] -= 1
        return True

    def join(self, name: Name, info: ObjectInfo, opener: int, now: float) -> None:
        """Another open has found the same at the same time, or a little later, and comes again too."""
        found = self._found.get(name)
        if found is not None and found.until > now and found.info.etag == info.etag:
            found.owed[opener] += 1

    def forget(self, name: Name) -> None:
        """The name was changed here."""
        if self._found:
            self._found.pop(name, None)

    def clear(self) -> None:
        """Every open that comes again asks again."""
        self._found.clear()
