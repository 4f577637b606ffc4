"""Where the bytes of a GET and of a LIST go: sinks that outlive their attempts, so that a cut body is resumed. Pure
but for curl's rules.

A `Download` asks in each attempt for what is still missing, on condition of the etag it has begun with.
"""

from collections.abc import Callable, Mapping

from s3mount.errors import BadReply, PreconditionFailed
from s3mount.store.base import Page
from s3mount.store.listing import ListParser
from s3mount.store.order import Order
from s3mount.store.replies import quoted_etag


class Download:
    """One ranged GET into the caller's memory, over all its attempts. `filled` bytes are in place; `headers` of the
    last."""

    def __init__(
        self,
        start: int,
        into: memoryview,
        *,
        if_match: str | None,
        if_none_match: str | None,
        arrived: Callable[[int], None] | None,
    ) -> None:
        assert len(into) > 0
        self._start = start
        self._into = into
        self._wanted = len(into)
        self._if_match = if_match
        self._if_none_match = if_none_match
        self._arrived = arrived
        self.filled = 0
        self.size = -1
        self.etag = ""
        self.headers: Mapping[str, str] = {}

    @property
    def complete(self) -> bool:
        return self.size >= 0 and self.filled == self._wanted

    def received_bytes(self) -> int:
        return self.filled

    def prepare(self, order: Order) -> "Download":
        """The headers of the next attempt; the sink is this object itself."""
        if self.complete:
            # All is here, but the reply did not end well: one byte is asked again to see it end.
            self.filled -= 1
        headers = [("range", f"bytes={self._start + self.filled}-{self._start + self._wanted - 1}")]
        if self.filled:
            headers.append(("if-match", self.etag))
        elif self._if_match is not None:
            headers.append(("if-match", self._if_match))
        elif self._if_none_match is not None:
            headers.append(("if-none-match", self._if_none_match))
        order.headers = headers
        return self

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        if status not in (200, 206):
            return
        first, size = _range_of(status, headers)
        etag = quoted_etag(headers.get("etag", ""))
        if first != self._start + self.filled:
            raise BadReply(
                f"bytes from {self._start + self.filled} were asked for, bytes from {first} came", status=status
            )
        if self.filled and (etag != self.etag or size != self.size):
            raise BadReply(f"the object changed under a condition that it did not: {self.etag} {etag}", status=status)
        if self._if_match is not None and etag != self._if_match:
            # A store that does not know the condition: the bytes of another version must not reach a reader.
            raise PreconditionFailed(f"another version came: {etag}", status=status)
        self.etag, self.size, self.headers = etag, size, headers
        self._wanted = min(len(self._into), size - self._start)

    def data(self, chunk: memoryview) -> None:
        stop = self.filled + len(chunk)
        if stop > self._wanted:
            raise BadReply(f"more than the {self._wanted} bytes that were asked for came")
        self._into[self.filled : stop] = chunk
        self.filled = stop
        if self._arrived is not None:
            self._arrived(stop)


def _range_of(status: int, headers: Mapping[str, str]) -> tuple[int, int]:
    """The position of the body's first byte and the size of the object."""
    text = headers.get("content-range" if status == 206 else "content-length", "")
    try:
        if status == 200:
            return 0, int(text)
        unit, _, rest = text.partition(" ")
        span, _, size = rest.partition("/")
        if unit != "bytes":
            raise ValueError
        return int(span.partition("-")[0]), int(size)
    except ValueError as error:
        raise BadReply(f"not a range of an object: {text!r}", status=status) from error


class Listing:
    """One LIST; each attempt begins a new parser."""

    def __init__(self) -> None:
        self._parser = ListParser()

    def prepare(self, _order: Order) -> "Listing":
        self._parser = ListParser()
        return self

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        pass

    def data(self, chunk: memoryview) -> None:
        self._parser.feed(chunk)

    def page(self, date_ns: int) -> Page:
        return self._parser.page(date_ns)
