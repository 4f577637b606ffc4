"""readdir: a directory read in the order of its slots, page by page, whatever changes meanwhile.

The position of a reading is the slot of the entry that was told last, so an entry that exists throughout is told
exactly once, and what is gone is not missed. The state of a handle is bounded: the offsets of the entries told last,
and where each page began. An entry whose attributes are not known exactly is told as name and type: the kernel adopts
nothing of it, gives its lookup back at once (measured), and looks it up when somebody cares.
"""

from bisect import bisect_left, bisect_right

import trio

from s3mount.errors import BadHandle, Unavailable
from s3mount.vfs.ahead import Ahead
from s3mount.vfs.attributes import Fh
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import BEGIN, END, slot
from s3mount.vfs.pages import fetch_page
from s3mount.vfs.spans import FIRST_STEP, Span, Step
from s3mount.vfs.telling import Emit, tell
from s3mount.vfs.tree import Tree
from s3mount.vfs.walking import ask_walk, walk_ahead

DOTS = 2
OFFSETS_MAX = 65_536


class Reading:
    """One open directory. `offsets[i]` is the name of the entry whose next_id is `first + i`, '' at the beginning; an
    id is given once."""

    __slots__ = ("ahead", "first", "inode", "offsets", "prefix", "started", "steps")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.ahead = Ahead()
        self.started = trio.current_time()
        self.rewind()

    def rewind(self) -> None:
        """Start anew, with what is fresh now."""
        self.started = trio.current_time()
        self.first = DOTS
        self.offsets = [""]
        self.restart_pages()

    def restart_pages(self) -> None:
        """Walk from the first page again: tokens are those of a prefix, and a rename gives the directory another."""
        self.prefix = self.inode.contents.prefix
        self.steps = [FIRST_STEP]

    def position(self, start_id: int) -> str:
        """The slot after which the entry of this offset follows; for offsets that were let go, the nearest one kept."""
        index = min(max(start_id - self.first, 0), len(self.offsets) - 1)
        name = self.offsets[index]
        return slot(name) if name else BEGIN

    @property
    def next_id(self) -> int:
        return self.first + len(self.offsets)

    def told(self, names: list[str]) -> None:
        self.offsets += names
        if len(self.offsets) > OFFSETS_MAX:
            # The kernel asks for offsets of the reply before; only telldir of a huge directory reaches further back.
            del self.offsets[: OFFSETS_MAX // 2]
            self.first += OFFSETS_MAX // 2

    def step(self, position: str) -> Step:
        """Where the page begins that tells what follows `position`."""
        return self.steps[bisect_right(self.steps, position, key=_start) - 1]

    def passed(self, span: Span) -> None:
        """Keep where the page after this one begins."""
        index = bisect_left(self.steps, span.stop, key=_start)
        if index < len(self.steps) and self.steps[index].start == span.stop:
            self.steps[index] = span.next
        else:
            self.steps.insert(index, span.next)


class Readings:
    """The open directories of a mount, by handle."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._readings: dict[int, Reading] = {}

    def __len__(self) -> int:
        return len(self._readings)

    def open(self, inode: Inode, fh: Fh) -> Fh:
        directory = inode.contents
        if not directory.opened:
            directory.opened_since = trio.current_time()
        directory.opened += 1
        self._readings[fh] = Reading(inode)
        return fh

    def get(self, fh: int) -> Reading:
        """Raises BadHandle."""
        reading = self._readings.get(fh)
        if reading is None:
            raise BadHandle(f"no directory handle {fh}")
        return reading

    def close(self, fh: int) -> None:
        reading = self.get(fh)
        del self._readings[fh]
        directory = reading.inode.contents
        directory.reading.pop(id(reading), None)
        directory.opened -= 1
        self._tree.inodes.release(reading.inode)

    async def read(self, fh: int, start_id: int, emit: Emit) -> None:
        """Tell entries from `start_id` on until `emit` refuses or the directory ends."""
        reading = self.get(fh)
        if start_id == 0:
            reading.rewind()
        if start_id < DOTS and not self._tell_dots(reading, start_id, emit):
            return
        position = reading.position(start_id)
        while position != END and not reading.inode.contents.removed:
            span = await self._span(reading, position)
            names, whole = tell(self._tree, reading.inode, span, position, emit, reading.next_id)
            reading.told(names)
            if not whole:
                return
            position = max(position, span.stop)

    async def _span(self, reading: Reading, position: str) -> Span:
        """The page that tells what follows `position`: the directory's, if it is fresh enough for this reading."""
        directory = reading.inode.contents
        now = trio.current_time()
        span = directory.page_after(position, reading.started, now)
        if span is None and await reading.ahead.wait(position):
            span = directory.page_after(position, reading.started, trio.current_time())
        if span is None and await ask_walk(self._tree, reading.inode, position):
            span = directory.page_after(position, reading.started, trio.current_time())
        elif span is not None:
            span.serve(now, directory.listings.ttl_seconds)
            if position == BEGIN:
                walk_ahead(self._tree, directory, span)
        directory.listings.pages_known += span is not None
        if span is None:
            directory.listings.pages_asked += 1
            if reading.prefix != directory.prefix:
                reading.restart_pages()
            step = reading.step(position)
            try:
                span = await fetch_page(self._tree, directory, step)
            except Unavailable:
                # In an outage what was too old for this reading is all there is.
                away = self._tree.store.away
                span = directory.page_after(position, reading.started, trio.current_time()) if away else None
                if span is None:
                    raise
        directory.reading[id(reading)] = span
        reading.passed(span)
        if (position > span.start or span.start != BEGIN) and reading.prefix == directory.prefix:
            reading.ahead.send(self._tree, reading.inode, span, started=reading.started, readers=len(self._readings))
        return span

    def _tell_dots(self, reading: Reading, start_id: int, emit: Emit) -> bool:
        inode = reading.inode
        if start_id == 0 and not emit(b".", self._tree.shown(inode), 1):
            return False
        return emit(b"..", self._tree.shown(inode.parent or inode), 2)


def _start(step: Step) -> str:
    return step.start
