"""The requests of programs that have no answer yet, by number: how many, of which kind, and when those of now are over.

Knows nothing of what they ask. The mutable state: the table, the most there were at once, and what wakes who waits.
"""

from collections import Counter
from collections.abc import Collection

import trio


class UnderWay:
    """See the module."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._serial = 0
        self.most = 0
        self._ended: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<UnderWay {dict(self.counts())}>"

    def begin(self, name: str) -> int:
        """A request has come; its number, to end it by."""
        self._serial += 1
        self._names[self._serial] = name
        if len(self._names) > self.most:
            self.most = len(self._names)
        return self._serial

    def end(self, number: int) -> None:
        del self._names[number]
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended.set()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def latest(self) -> int:
        """No request of now has a greater number."""
        return self._serial

    def counts(self, latest: int | None = None) -> Counter[str]:
        """How many there are by name; of those up to a number."""
        return Counter(name for number, name in self._names.items() if latest is None or number <= latest)

    async def over(self, latest: int, *, but: Collection[str] = ()) -> None:
        """Until every request up to this number has its answer, `but` those of some names."""
        while any(number <= latest and name not in but for number, name in self._names.items()):
            if self._ended is None:  # else somebody waits already
                self._ended = trio.Event()
            await self._ended.wait()
