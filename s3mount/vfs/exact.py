"""Exact attributes for lookups: one HEAD for what no listing tells, sent ahead while names are looked up in order.

A file is asked for by its key, a directory by its flag, or its marker where it has no flag. Every answer goes through
`Tree.learn` and `Tree.told`, so that it is known whether or not the kernel has forgotten the inode meanwhile; whoever
waited resolves the name again. One name is asked for once at a time. HEADs ahead are bounded over all directories and
none is queued: each lookup in order sends the next few, and the first one out of order sends none.

The state of `Exact` is which keys are being asked for, how many of them ahead, and the directories read in order, the
one looked at last at the end.
"""

from bisect import bisect_left
from collections import OrderedDict
from math import inf

import trio

from s3mount.errors import NotFound, S3MountError, Stale, Unavailable
from s3mount.store.base import Listed, ObjectInfo
from s3mount.vfs.attributes import PLAIN
from s3mount.vfs.directory import Directory
from s3mount.vfs.flags import FLAG, ask_flag
from s3mount.vfs.inodes import Inode, is_version
from s3mount.vfs.keys import BEGIN, DIRECTORY, LOCAL, Entry, slot
from s3mount.vfs.lookup import resolve
from s3mount.vfs.metadata import special_of
from s3mount.vfs.spans import Span
from s3mount.vfs.tree import Tree

TRIES_MAX = 8
"""How often a name is looked at again because it has become another version meanwhile."""
ROOT_SECONDS = 1.0
"""The longest that the root's attributes are asked for again: what is known of them will do."""
RUNS_MAX = 64
FIRST_WINDOW = 4
SKIPPED_MAX = 16
"""So many names may be left out between two lookups that are still in order: a program may want some of them only."""


class Run:
    """A directory whose names are looked up in order: up to where, how many are asked for ahead, and whether files are
    looked up that were listed as such: who looks for types only leaves them out."""

    __slots__ = ("files", "position", "window")

    def __init__(self, position: str, window: int) -> None:
        self.position = position
        self.window = window
        self.files = False


class Exact:
    """See the module."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._asking: dict[str, trio.Event] = {}
        self._ahead = 0
        self._runs: OrderedDict[int, Run] = OrderedDict()

    async def lookup(self, parent: Inode, name: str) -> tuple[Inode | None, float]:
        """As `lookup.resolve`, with attributes that the kernel may be told. Raises what the store raises."""
        tree = self._tree
        for turn in range(TRIES_MAX):
            inode, until = await resolve(tree, parent, name)
            if inode is None:
                return None, until
            exact = tree.is_settled(inode)
            if not turn and (not exact or parent.ino in self._runs):
                self._follow(parent, name, inode)
            if exact:
                tree.told.lookups_known += not turn
                return inode, until
            tree.told.lookups_asked += not turn
            try:
                await self.ask(parent, name, inode)
            except BaseException as error:
                if isinstance(error, Unavailable) and inode.linked and tree.is_settled(inode):
                    return inode, until  # what was too old to be told is all there is in an outage
                tree.inodes.release(inode)  # no lookup was counted
                raise
        raise Stale(f"{parent.path}/{name} is another version again and again")

    async def ask(self, parent: Inode, name: str, inode: Inode) -> None:
        """Find out the attributes of a name's inode: for the name, which may have another inode by then."""
        entry = DIRECTORY if inode.children is not None else inode.known
        assert entry is not None, inode
        key = _key(parent.contents, name, entry)
        waiting = self._asking.get(key)
        if waiting is not None:
            await waiting.wait()
        else:
            await self._ask(parent, name, entry, self._begin(key))

    async def renew(self, inode: Inode) -> None:
        """Look again at a directory that was looked at long ago. What is known stays when that fails, and of the root
        when it takes long: `df` opens it, and shall not wait for a store that does not answer."""
        tree, parent = self._tree, inode.parent
        if inode.children is None or not inode.linked or tree.is_settled(inode):
            return
        try:
            if parent is None:
                with trio.move_on_after(inf if inode.special is None else ROOT_SECONDS):
                    await self._ask_directory(inode.contents.prefix, None, inode.contents)
            else:
                await self.ask(parent, inode.name, inode)
        except S3MountError:
            if inode.special is None:
                raise
        tree.settle(inode)

    # one HEAD

    def _begin(self, key: str) -> trio.Event:
        done = self._asking[key] = trio.Event()
        return done

    async def _ask(self, parent: Inode, name: str, entry: Entry, done: trio.Event) -> None:
        directory = parent.contents
        key = _key(directory, name, entry)
        try:
            if isinstance(entry, Listed):
                await self._ask_file(parent, name, key)
            else:
                child = parent.dentries.get(name)
                below = child.directory if child is not None else None
                await self._ask_directory(key, directory, below)
        finally:
            if self._asking.get(key) is done:
                del self._asking[key]
            done.set()

    async def _ask_file(self, parent: Inode, name: str, key: str) -> None:
        tree, directory = self._tree, parent.contents
        asked = trio.current_time()
        prefix = directory.prefix
        with directory.overlay() as changes:
            try:
                info: ObjectInfo | None = await tree.store.head(key)
            except NotFound:
                info = None
            if name in changes or directory.prefix != prefix:
                return
            listed = None if info is None else tree.learn(parent, name, info, asked)
            directory.note(name, listed, own=False)
            child = parent.dentries.get(name)
            if child is None or child.children is not None:
                return
            if listed is None and not child.held:
                tree.inodes.detach(child)
            elif listed is not None and is_version(child, listed):
                tree.settle(child)

    async def _ask_directory(self, prefix: str, above: Directory | None, directory: Directory | None) -> None:
        """By its flag, or its marker where one may say more; neither is asked for that is known not to be there."""
        tree = self._tree
        asked = trio.current_time()
        info: ObjectInfo | None = None
        if directory is None:
            info = await self._head(prefix + FLAG)
        elif directory.flag is not False or directory.unflagged_until() <= asked:
            info = await ask_flag(tree, directory)
        wanted = tree.config.attributes == "always" or (above is not None and above.flag is True)
        if info is None and wanted and prefix and (directory is None or directory.marker is not False):
            info = await self._head(prefix)
        special = special_of(info.headers.metadata) if info is not None else PLAIN
        if directory is None or directory.prefix == prefix:
            tree.told.note_directory(prefix, special, asked)

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._tree.store.head(key)
        except NotFound:
            return None

    # ahead

    def _follow(self, parent: Inode, name: str, inode: Inode) -> None:
        """A name is looked up: if in order, ask for those that follow."""
        directory, at = parent.contents, slot(name)
        now = trio.current_time()
        page = directory.page_after(at, now, now)
        run = self._runs.get(parent.ino)
        if run is None:
            first = page is not None and page.start == BEGIN and page.after(BEGIN)[:1] == [name]
            run = self._runs[parent.ino] = Run(at, FIRST_WINDOW if first else 0)
            if len(self._runs) > RUNS_MAX:
                self._runs.popitem(last=False)
        else:
            self._runs.move_to_end(parent.ino)
            limit = self._tree.config.attribute_requests_ahead_max
            in_order = run.position < at and _between(directory, run.position, at, now) <= run.window + SKIPPED_MAX
            run.window = min(max(2 * run.window, FIRST_WINDOW), limit) if in_order else 0
            run.position = at
        run.files = run.files or self._tree.is_file(inode)
        if page is not None:
            self._send(parent, page, page.after(at)[: run.window], now, files=run.files)

    def _send(self, parent: Inode, page: Span, following: list[str], now: float, *, files: bool) -> None:
        tree = self._tree
        for name in following:
            entry = page.entries[name]
            child = parent.dentries.get(name)
            if entry is LOCAL or (child is not None and tree.is_exact(child, now)):
                continue
            if not files and isinstance(entry, Listed) and tree.lists_file(parent.contents, entry):
                continue
            key = _key(parent.contents, name, entry)
            known = tree.told.find(entry, now) if isinstance(entry, Listed) else tree.told.find_directory(key, now)
            if known is not None or key in self._asking:
                continue
            if self._ahead >= tree.config.attribute_requests_ahead_max:
                return
            self._ahead += 1
            tree.background(self._ask_ahead, parent, name, entry, self._begin(key))

    async def _ask_ahead(self, parent: Inode, name: str, entry: Entry, done: trio.Event) -> None:
        try:
            await self._ask(parent, name, entry, done)
        except S3MountError:
            return  # whoever looks the name up asks again, and is told
        finally:
            self._ahead -= 1


def _key(directory: Directory, name: str, entry: Entry) -> str:
    return entry.key if isinstance(entry, Listed) else directory.prefix + name + "/"


def _between(directory: Directory, position: str, at: str, now: float) -> int:
    """How many names lie between two slots, as far as one page tells."""
    page = directory.page_after(position, now, now)
    return bisect_left(page.after(position), at, key=slot) if page is not None else 0
