"""How far ahead of the readers of one file to fetch, and in which GETs. Pure.

Several programs, or threads of one, may read a file in sequence at different places: each is a stream with a window of
its own, as the mount's windows allow. Readers by equal steps are told by their jumps. Any other reader gets what it
asks, rounded to a block.
"""

from s3mount.data.streams import Range, Stream, Strides
from s3mount.data.windows import Windows

STREAMS_MAX = 16
CANDIDATES_MAX = 16
"""Places where a reader was seen once or twice. Kept apart from the streams: random reads must not displace these."""


class Readahead:
    """The readers of one file."""

    __slots__ = ("_asked", "_candidates", "_streams", "_strides", "_windows")

    def __init__(self, windows: Windows) -> None:
        # The mutable state: streams with a window and places that may become one, the least recently used first; the
        # jumps; whom the latest GETs were for.
        self._windows = windows
        self._streams: list[Stream] = []
        self._candidates: list[Stream] = []
        self._strides = Strides()
        self._asked: Stream | Strides = self._strides

    def __repr__(self) -> str:
        return f"<Readahead {self._streams!r}, {len(self._candidates)} places, {self._strides!r}>"

    def on_read(self, start: int, stop: int, size: int, now: float) -> list[Range]:
        """A reader asks for `[start, stop)` of `size` bytes: the GETs to send ahead of it."""
        strides = self._strides
        stream = self._taker(self._streams, start, stop)
        if stream is not None:
            strides.went_on(start, stop)
            return self._follow(stream, stop, size, now)
        if not strides.takes(start, stop):
            stream = self._taker(self._candidates, start, stop)
            if stream is not None:
                strides.went_on(start, stop)
                return self._follow(stream, stop, size, now)
        # What looks like the first step may be where a stream begins.
        begin = strides.start if strides.stop == start else start
        if strides.jumped(start, stop):
            if not strides.window:
                self._keep(Stream(start, stop))
            return self._step(size, now)
        self._windows.leave(strides)
        self._keep(Stream(begin, stop))
        return []

    def refused(self, position: int) -> None:
        """There was no memory to fetch what was asked for last, from `position` on: it is asked for again later."""
        self._asked.refused(position)

    def close(self) -> None:
        """No read comes any more."""
        for reader in (*self._streams, self._strides):
            self._windows.leave(reader)
        self._streams.clear()

    def _taker(self, streams: list[Stream], start: int, stop: int) -> Stream | None:
        """The stream that a read belongs to, the most recently used first; it is that one then."""
        for index in range(len(streams) - 1, -1, -1):
            stream = streams[index]
            if stream.takes(start, stop):
                if index < len(streams) - 1:
                    streams.append(streams.pop(index))
                return stream
        return None

    def _keep(self, place: Stream) -> None:
        self._candidates.append(place)
        if len(self._candidates) > CANDIDATES_MAX:
            self._candidates.pop(0)

    def _follow(self, stream: Stream, stop: int, size: int, now: float) -> list[Range]:
        # Where another reader has begun the bytes have been here: fetched again only for one that goes on there.
        for other in self._streams:
            if stop <= other.start < size:
                size = other.start
        wanted = stream.wanted_bytes(stop, size)
        if not wanted:
            return []
        if not stream.window:
            # It has followed long enough; without a window, for want of memory, it stays one that asks for it.
            self._promote(stream)
        self._asked = stream
        return stream.ahead(self._windows.grant(stream, wanted, now), size)

    def _promote(self, stream: Stream) -> None:
        if stream in self._candidates:
            self._candidates.remove(stream)
            self._streams.append(stream)
            if len(self._streams) > STREAMS_MAX:
                self._windows.leave(self._streams.pop(0))

    def _step(self, size: int, now: float) -> list[Range]:
        strides = self._strides
        wanted = strides.wanted_bytes()
        if not wanted:
            return []
        self._asked = strides
        return strides.ahead(self._windows.grant(strides, wanted, now), size)
