"""Read-ahead across files: who opens the small files of a directory in order finds the next ones fetched.

Joins `sequence` (which names come next) with `data.foreseen` (fetching them, and what that proves to their opens, which
is said there). In order is the order of the listing, as shells, `tar` and `grep -r` go, or that of inode numbers, as
`cp -r` does. Asks for files only, never for what may be a link or a node, and for none that is open here.

A file is small up to 512 KiB: that is 9 ms at 60 MB/s, less than the round trip to a store that is far enough to care,
and 32 of them, the most that one stream has ahead, are 16 MiB. Larger ones are for the read-ahead within a file.

The state is the directories in which files were opened of late, the one of the latest open at the end.
"""

import stat
from bisect import bisect_right
from collections import OrderedDict
from functools import partial
from itertools import islice

import trio

from s3mount.data.version import Version
from s3mount.store.base import Listed
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import DIRECTORY, END, slot
from s3mount.vfs.sequence import Sequence
from s3mount.vfs.spans import Span
from s3mount.vfs.tree import Tree

DIRECTORIES_MAX = 64
NUMBERED_MAX = 16_384
"""Directories with more files are followed in the order of the listing only: sorting them would hold the loop."""


class Trail:
    """One directory in which files were opened. `numbers` sorts its files by inode, once that was asked for."""

    __slots__ = ("at", "numbers", "parent", "sequence")

    def __init__(self, parent: Inode, sequence: Sequence) -> None:
        self.parent = parent
        self.sequence = sequence
        self.numbers: list[tuple[int, str]] | None = None
        self.at = 0.0


class Neighbours:
    """See the module."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._foreseen = tree.storage.foreseen
        self._trails: OrderedDict[int, Trail] = OrderedDict()

    def opened(self, inode: Inode) -> None:
        """A file is about to be validated for reading: fetch what comes next, if anything can be told to."""
        parent, known = inode.parent, inode.known
        if not self._foreseen.lifetime_seconds or parent is None or known is None or not inode.linked:
            return
        version = _version(known)
        sequence = self._trail(parent).sequence
        names = sequence.opened(inode.name, trio.current_time(), ready=self._foreseen.ready(version))
        if not sequence.in_order:
            self._foreseen.drop(version)
        for name in names:
            following = self._wanted(parent, name)
            if following is not None and not self._foreseen.asked(following) and not self._foreseen.ask(following):
                return

    def _trail(self, parent: Inode) -> Trail:
        now = trio.current_time()
        trail = self._trails.get(parent.ino)
        if trail is None or trail.parent is not parent or trail.at + self._tree.config.walk_ttl_seconds < now:
            trail = self._trails[parent.ino] = self._new_trail(parent)
            if len(self._trails) > DIRECTORIES_MAX:
                self._trails.popitem(last=False)
        self._trails.move_to_end(parent.ino)
        trail.at = now
        return trail

    def _new_trail(self, parent: Inode) -> Trail:
        orders = (partial(self._after, parent), partial(self._numbered_after, parent))
        return Trail(parent, Sequence(orders, wait_max_seconds=self._foreseen.lifetime_seconds))

    def _after(self, parent: Inode, name: str, count: int) -> list[str]:
        """Files behind a name in the listing. An old page does: the GETs tell what is there."""
        names: list[str] = []
        position = slot(name)
        while len(names) < count and position != END:
            span = self._span(parent, position)
            if span is None:
                break
            files = (each for each in span.following(position) if span.entries[each] is not DIRECTORY)
            names += islice(files, count - len(names))
            position = span.stop
        return names

    def _span(self, parent: Inode, position: str) -> Span | None:
        directory, now = parent.contents, trio.current_time()
        page = directory.page_after(position, now - self._tree.config.walk_ttl_seconds, now)
        if page is not None:
            return page
        return next((span for span in directory.windows if span.start <= position < span.stop), None)

    def _numbered_after(self, parent: Inode, name: str, count: int) -> list[str]:
        """Files behind a name by the numbers of their inodes, of those that have one."""
        child, trail = parent.dentries.get(name), self._trails.get(parent.ino)
        if child is None or trail is None or len(parent.dentries) > NUMBERED_MAX:
            return []
        if trail.numbers is None:
            trail.numbers = sorted(
                (other.ino, each) for each, other in parent.dentries.items() if other.children is None
            )
        first = bisect_right(trail.numbers, (child.ino, name))
        return [each for _, each in trail.numbers[first : first + count]]

    def _wanted(self, parent: Inode, name: str) -> Version | None:
        """The version to fetch, if it is that of a small file which nobody has open."""
        child = parent.dentries.get(name)
        now = trio.current_time()
        if child is None:
            found = parent.contents.find(name, now)
            known = found[0] if found is not None else None
            told = self._tree.told.find(known, now) if isinstance(known, Listed) else None
            special = told.special if told is not None else None
        else:
            if child.children is not None or (child.state is not None and (child.held or child.state.handles)):
                return None
            known, special = child.known, child.special
        if not isinstance(known, Listed) or known.size > self._tree.config.neighbour_max_bytes:
            return None
        if special is None:
            regular = self._all_regular(parent) or self._tree.lists_file(parent.contents, known)
        else:
            regular = special.mode is None or stat.S_ISREG(special.mode)
        return _version(known) if regular else None

    def _all_regular(self, parent: Inode) -> bool:
        attributes = self._tree.config.attributes
        return attributes == "never" or (attributes == "auto" and parent.contents.flag is False)


def _version(known: Listed) -> Version:
    return Version(known.key, known.etag, known.size)
