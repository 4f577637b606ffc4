"""Opens of the files of one directory, recognised as streams: which are in order, and how far ahead it pays to fetch.

Synchronous; knows names and times, neither inodes nor requests. Orders are handed in: what comes after a name, by
listing, or by inode number (`cp -r` sorts by it). A stream is recognised when the very next name is opened at once, or
three times one soon after; opens of several threads may overtake each other. Two opens out of order, in a row,
and every stream has to be recognised anew. The window of a stream doubles each time that an open found nothing fetched
in full: the farther the store, the more are under way. It never reaches farther than what will be opened before it is
too old.

The state of a `Sequence` is its streams, the one that moved last at the end, the name opened last, and how many opens
in a row were out of order.
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Names
from itertools import islice

FIRST_WINDOW = 1
WINDOW_MAX = 32
SKIPPED_MAX = 16
"""So many names may be left out between two opens that are still in order: a program may want some of them only."""
LATE_MAX = 32
"""So many names that were passed over may still be opened in order: by threads that share the names."""
LATE_RECOGNISED_MAX = 256
"""The same for a stream that is recognised. With 32, 16 threads that take every 16th name each broke the order now and
then: 1,200 GET for 1,000 files, and twice the CPU."""
STREAMS_MAX = 32
BREAKS_MAX = 2
RECOGNISED = 3
LOOK = 256
PATIENCE = 0.75
"""Of the time that what was fetched may wait, so much is counted on: opens come in bursts."""

Follow = Callable[[str, int], list[str]]
"""The names that come after one in some order, at most so many."""


class Stream:
    """Who opens names in one order. `names[index:]` come next, `late` were passed; `score` says how sure that is."""

    __slots__ = ("at", "follow", "index", "interval", "late", "names", "places", "score", "window")

    def __init__(self, name: str, follow: Follow, now: float) -> None:
        self.follow = follow
        self.at = now
        self.interval: float | None = None
        self.score = 0
        self.window = 0
        self.late: dict[str, None] = {name: None}
        self._look(name)

    def distance(self, name: str) -> int | None:
        """How many names would be left out if this one is opened now; None: it is not what comes next."""
        place = self.places.get(name)
        if place is None or not self.index <= place <= self.index + SKIPPED_MAX:
            return None
        return place - self.index

    def move(self, name: str, distance: int, now: float, *, worth: int) -> None:
        """The name is opened; `worth`: what that adds to the score."""
        self.score += worth
        took = (now - self.at) / (distance + 1)
        self.interval = took if self.interval is None else (self.interval + took) / 2
        self.at = now
        for passed in islice(self.names, self.index, self.index + distance + 1):
            self.late[passed] = None
        while len(self.late) > (LATE_RECOGNISED_MAX if self.score >= RECOGNISED else LATE_MAX):
            del self.late[next(iter(self.late))]
        self.index += distance + 1
        if len(self.names) - self.index < SKIPPED_MAX + WINDOW_MAX:
            self._look(name)

    def ahead(self, wait_max_seconds: float, *, ready: bool) -> Names[str]:
        """What to fetch now; `ready`: what was just opened was there in full."""
        if self.score < RECOGNISED:
            return ()
        if not ready:
            self.window = min(max(2 * self.window, FIRST_WINDOW), WINDOW_MAX)
        count = self.window
        if self.interval:
            count = min(count, int(PATIENCE * wait_max_seconds / self.interval))
        return self.names[self.index : self.index + count]

    def doubt(self) -> None:
        self.score = self.window = 0

    def _look(self, name: str) -> None:
        self.names = self.follow(name, LOOK)
        self.places: Mapping[str, int] = {each: place for place, each in enumerate(self.names)}
        self.index = 0


class Sequence:
    """See the module. The first of the `orders` is that of the listing."""

    def __init__(self, orders: Names[Follow], *, wait_max_seconds: float) -> None:
        self._orders = orders
        self._wait_max_seconds = wait_max_seconds
        self._streams: list[Stream] = []
        self._last = ""
        self._breaks = 0
        self.in_order = False
        """Whether the latest open was."""

    def opened(self, name: str, now: float, *, ready: bool) -> Names[str]:
        """A file is opened: the names whose files to fetch ahead now, those that come first first."""
        last, self._last = self._last, name
        stream = self._stream_of(name) or self._stream_in_other_order(last, name, now)
        if stream is None:
            self._break(Stream(name, self._orders[0], now))
            return ()
        self._breaks = 0
        moved_last = self._streams[-1] is stream
        if not moved_last:
            self._streams.remove(stream)
            self._streams.append(stream)
        distance = stream.distance(name)
        if distance is not None:
            # Of another order than the listing's one pair alone says nothing.
            sure = moved_last and distance == 0 and (stream.follow is self._orders[0] or stream.score > 0)
            stream.move(name, distance, now, worth=RECOGNISED if sure else 1)
        self.in_order = stream.score >= RECOGNISED
        return stream.ahead(self._wait_max_seconds, ready=ready) if distance is not None else ()

    def _stream_of(self, name: str) -> Stream | None:
        """Those that are recognised may leave names out; another one if it moved last, else random opens would meet one
        of so many sooner or later."""
        found = None
        for stream in reversed(self._streams):
            if stream.distance(name) == 0:
                return stream
        for stream in reversed(self._streams):
            distance = stream.distance(name)
            if stream.score >= RECOGNISED and (distance is not None or name in stream.late):
                return stream
            if stream is self._streams[-1] and (distance is not None or name in stream.late):
                found = stream
        return found

    def _stream_in_other_order(self, last: str, name: str, now: float) -> Stream | None:
        """A new one, if the name is the very next after the latest in another order than that of the listing."""
        for follow in self._orders[1:] if last else ():
            if name in follow(last, 1):
                return self._begin(Stream(last, follow, now))
        return None

    def _break(self, stream: Stream) -> None:
        self.in_order = False
        self._breaks += 1
        if self._breaks >= BREAKS_MAX:
            for other in self._streams:
                other.doubt()
        self._begin(stream)

    def _begin(self, stream: Stream) -> Stream:
        self._streams.append(stream)
        if len(self._streams) > STREAMS_MAX:
            del self._streams[0]
        return stream
