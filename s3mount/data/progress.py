"""What the bucket lacks of a file and how far its upload has come, for people who wait. Synchronous; changes nothing.

What one PUT has sent is the wire's to know: it counts as nothing until it is answered.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from s3mount.data.layers import Layers
from s3mount.data.publishing import Epoch
from s3mount.data.stream import Stream
from s3mount.store.base import Part


@dataclass(frozen=True, slots=True)
class Progress:
    """One upload under way; `parts_total` None: it is not known, or there are no parts. `began` by the loop's clock,
    None while the program still writes."""

    done_bytes: int
    total_bytes: int
    parts_done: int
    parts_total: int | None
    began: float | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not in the bucket yet: since when, by the loop's clock (None: it has everything), how many bytes, and the
    upload of them that is under way."""

    since: float | None
    bytes: int
    upload: Progress | None


def backlog(layers: Layers, epoch: Epoch | None, stream: Stream | None) -> Backlog:
    """Of the file with these."""
    return Backlog(layers.unstored_since, layers.unstored_bytes, progress(epoch, stream, layers.size))


def progress(epoch: Epoch | None, stream: Stream | None, size: int) -> Progress | None:
    """Of a sync, or of parts sent ahead of one; None: nothing of the file is being sent, or no bytes of it."""
    if epoch is not None:
        if epoch.restates:
            return None
        multipart = epoch.multipart
        parts = () if multipart is None else multipart.parts.values()
        return Progress(*_done(parts, epoch.size), len(parts), epoch.parts_total, epoch.began)
    if stream is None or stream.failed:
        return None
    parts = stream.multipart.parts.values()
    return Progress(*_done(parts, size), len(parts), None, None)


def _done(parts: Iterable[Part], size: int) -> tuple[int, int]:
    """Parts of a stream may be longer than what a truncation has left."""
    return min(sum([part.size for part in parts]), size), size
