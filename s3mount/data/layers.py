"""The state of a file's bytes, synchronous: live extents over those being uploaded over the base over zeros.

Knows the log and extents; no store, no task. Between two calls the content is exact; `content()` is a view of now.

    offset <  size              live, where it maps; else
    offset <  epoch_stop        the epoch being uploaded, where it maps; else
    offset <  base_stop         what was taken of the base into staging; else the base version; else zeros
"""

from collections.abc import Callable
from dataclasses import replace

import trio

from s3mount.data.chunks import Tail
from s3mount.data.content import Content, Layer
from s3mount.data.extents import Extents, dropped
from s3mount.data.staging import Staging
from s3mount.data.version import Version
from s3mount.store.base import ObjectInfo


class Layers:
    """See the module."""

    def __init__(self, staging: Staging, base: Version | None) -> None:
        # The mutable state. base_stop, epoch_stop <= size. touched: existence or size differ from what will be in the
        # bucket when the upload that runs ends. aside: what is live is in the bucket, but not as the base. A position
        # is in at most one of live and epoch. missing: ranges of the base, in order, whose bytes nobody has any more.
        # changed_at: when what is live was first changed, and of what is being uploaded the same.
        self._staging = staging
        self._tail = Tail()
        self.base = base
        self.base_stop = self.size = 0 if base is None else base.size
        self.missing: tuple[tuple[int, int], ...] = ()
        self.live = Extents()
        self.epoch: Extents | None = None
        self.epoch_stop = 0
        self._staged_base = Extents()
        self.touched = base is None
        self._aside = False
        self._changed_at = trio.current_time() if base is None else None
        self._epoch_changed_at: float | None = None

    @property
    def dirty(self) -> bool:
        return self.touched or (len(self.live) > 0 and not self._aside)

    @property
    def unstored_since(self) -> float | None:
        """Since when the bucket lacks something of the file, by the loop's clock; None: it has everything."""
        if self.epoch is not None:
            return self._epoch_changed_at
        return self._changed_at if self.dirty else None

    @property
    def unstored_bytes(self) -> int:
        """How many bytes the bucket lacks; of a range that was written again during its upload, both."""
        live = 0 if self._aside else self.live.total_bytes
        return live if self.epoch is None else live + self.epoch.total_bytes

    @property
    def staged_bytes(self) -> int:
        """What of the content the log holds, but for bytes of the base."""
        return sum(
            stop - start
            for extents in (self.live, self.epoch or ())
            for start, stop, position in extents
            if position >= 0
        )

    @property
    def plain(self) -> bool:
        """Whether nothing lies over the base, and it is whole."""
        return self.epoch is None and not len(self.live) and not len(self._staged_base) and not self.missing

    def note_version(self, asked: Version, info: ObjectInfo | None) -> None:
        """Keep the id of the version that was asked for, which no listing tells, for when the name goes."""
        if info is not None and info.version_id is not None and self.base is not None and self.base == asked:
            self.base = replace(self.base, version_id=info.version_id)

    def content(self) -> Content:
        """What the bytes are now; `pieces` of it are good until the next checkpoint, or under a hold."""
        layers: tuple[Layer, ...] = (Layer(self.live, self.size),)
        if self.epoch is not None:
            layers += (Layer(self.epoch, self.epoch_stop),)
        if len(self._staged_base):
            layers += (Layer(self._staged_base, self.base_stop),)
        return Content(layers, self.base, self.base_stop, self.missing)

    def lost(self, start: int, stop: int) -> bool:
        """Whether bytes of `[start, stop)` that the live extents map were dropped."""
        return any(position is not None and position < 0 for _, _, position in self.live.pieces(start, stop))

    def in_memory(self, start: int, stop: int) -> bool:
        """Whether some of what is staged of `[start, stop)` is in memory."""
        extents = self.live if self.epoch is None else self.epoch
        return any(
            position is not None and position >= 0 and self._staging.in_memory(position, high - low)
            for low, high, position in extents.pieces(start, stop)
        )

    def rewritable(self, start: int, stop: int) -> bool:
        """Whether a write needs no new place at all."""
        return stop <= self.live.stop and all(
            position is not None and position >= 0 and self._staging.rewritable(position, high - low)
            for low, high, position in self.live.pieces(start, stop)
        )

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes in place; the staging log is ready for them."""
        self._aside = False
        if self._changed_at is None:
            self._changed_at = trio.current_time()
        stop = offset + len(data)
        if offset >= self.live.stop:
            self._append(offset, data)
        else:
            for low, high, position in list(self.live.pieces(offset, stop)):
                part = data[low - offset : high - offset]
                if position is not None and position >= 0 and self._staging.rewritable(position, high - low):
                    self._staging.rewrite(position, part)
                else:
                    self._append(low, part)
        if stop > self.size:
            self.size = stop

    def _append(self, offset: int, data: memoryview) -> None:
        for position, count in self._staging.append(data, self._tail):
            taken = self.live.put(offset, offset + count, position)
            if taken:
                self._staging.free(taken)
            offset += count

    def truncate(self, size: int) -> None:
        """Cut, or lengthen by zeros."""
        if size < self.size:
            self._staging.free(self.live.cut(size, self.size))
            self.epoch_stop = min(self.epoch_stop, size)
            self.base_stop = min(self.base_stop, size)
        self.size = size
        self.touched = True
        if self._changed_at is None:
            self._changed_at = trio.current_time()

    def drop(self, start: int, stop: int) -> None:
        """Give up staged bytes that were sent; they are in the epoch if one is being uploaded."""
        extents = self.live if self.epoch is None else self.epoch
        self._staging.free(extents.cut(start, stop))
        extents.put(start, stop, dropped(start))

    def freeze(self) -> Content:
        """Begin an epoch: what the bytes are now, for good."""
        assert self.epoch is None
        self.epoch, self.epoch_stop = self.live, self.size
        self._epoch_changed_at, self._changed_at = self._changed_at, None
        self.live, self.touched, self._aside = Extents(), False, False
        layers: tuple[Layer, ...] = (Layer(self.epoch, self.size),)
        if len(self._staged_base):
            layers += (Layer(self._staged_base, self.base_stop),)
        return Content(layers, self.base, self.base_stop, self.missing)

    def thaw(self, touch: Callable[[int, int], None]) -> None:
        """The epoch could not be stored: its bytes are live again, under what was written since. `touch` is told what
        was written, or cut off the end, since the freeze."""
        assert self.epoch is not None
        merged, written = self.epoch, self.live
        end = merged.stop
        if self.epoch_stop < end:
            self._staging.free(merged.cut(self.epoch_stop, end))
            touch(self.epoch_stop, end)
        for start, stop, position in written:
            self._staging.free(merged.put(start, stop, position))
            touch(start, stop)
        self.live, self.epoch, self.epoch_stop = merged, None, 0
        self._changed_at, self._epoch_changed_at = self._epoch_changed_at, None
        self.touched = True

    def stored(self, version: Version) -> None:
        """The epoch is in the bucket as `version`: what was written since lies over it."""
        assert self.epoch is not None
        if self.missing:
            content = Content((Layer(self.epoch, self.epoch_stop),), self.base, self.base_stop, self.missing)
            pieces = content.pieces(0, self.epoch_stop)
            self.missing = tuple((piece.start, piece.stop) for piece in pieces if piece.missing)
        self._staging.free(self.epoch.clear())
        self.base, self.base_stop = version, self.epoch_stop
        self.epoch, self.epoch_stop, self._epoch_changed_at = None, 0, None
        self.unstage_base()

    def stored_aside(self) -> None:
        """The epoch is in the bucket as something that cannot be read in its place: its bytes stay, and wait no more to
        be stored."""
        changed = self.dirty
        self.thaw(lambda _start, _stop: None)
        self.touched, self._aside = changed, not changed
        if not changed:
            self._changed_at = None

    def adopt(self, version: Version) -> None:
        """An upload whose outcome was unknown has made `version` of the bytes as they were. What was dropped comes
        from there; the rest is still here."""
        assert self.epoch is None
        self.base = version
        gone = [(start, stop) for start, stop, position in self.live if position < 0]
        for start, stop in gone:
            # Streamed bytes have no gaps before them: only what was dropped is uncovered by this.
            self.live.cut(start, stop)
            self.base_stop = max(self.base_stop, stop)

    def give_up(self) -> None:
        """Drop everything live: it can never be stored."""
        ranges = [(start, stop) for start, stop, _ in self.live]
        self._staging.free(self.live.clear())
        for start, stop in ranges:
            self.live.put(start, stop, dropped(start))

    def stage_base(self, offset: int, data: memoryview) -> None:
        """Keep bytes of the base that the bucket will not have any more; the staging log is ready for them."""
        for position, count in self._staging.append(data, self._tail):
            self._staging.free(self._staged_base.put(offset, offset + count, position))
            offset += count

    def unstage_base(self) -> None:
        """The bucket has the base after all."""
        self._staging.free(self._staged_base.clear())

    def clear(self) -> None:
        """Forget everything staged; an epoch that is being uploaded stays until its upload ends."""
        self._staging.free(self.live.clear())
        self.unstage_base()
        self._staging.end_tail(self._tail)

    def reset(self) -> None:
        """Forget what the bucket lacks: the bytes are the base's again."""
        self.clear()
        self.base_stop = self.size = 0 if self.base is None else self.base.size
        self.touched = False
        self._changed_at = None
