"""What the operations of one mount share: store, inode table, listings, memory of retries, how an inode is shown.

Synchronous. But for the gate that keeps writers out of a read-only mount there are no rules of POSIX here. The state
is what `Tree.__init__` makes; `moving` counts the own changes below each prefix that a rename moves.
"""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from math import inf
from socket import gethostname

import trio

from s3mount.config import Config
from s3mount.data.removals import Removals
from s3mount.data.storage import Storage
from s3mount.data.undertakings import Undertakings
from s3mount.errors import NoEntry, ReadOnly, Stale
from s3mount.store.base import Headers, Listed, ObjectInfo, ObjectStore
from s3mount.vfs.attributes import PLAIN, Special
from s3mount.vfs.deleting import Deleting
from s3mount.vfs.directory import Directory
from s3mount.vfs.inodes import Inode, Inodes
from s3mount.vfs.journaled import Journaled
from s3mount.vfs.keys import DIRECTORY, LOCAL, Entry, Sentinel, check_key, escaped
from s3mount.vfs.listings import Listings
from s3mount.vfs.mediatypes import content_type
from s3mount.vfs.recall import Recall
from s3mount.vfs.repeats import Repeats
from s3mount.vfs.showing import Showing
from s3mount.vfs.told import Told, meet, said_plain
from s3mount.vfs.transits import Transits
from s3mount.vfs.walks import Walks

log = logging.getLogger(__name__)

HIDDEN_PREFIXES_MAX = 1_000


class Tree:
    """One bucket, or a prefix of it, as a tree of inodes."""

    def __init__(
        self,
        store: ObjectStore,
        storage: Storage,
        config: Config,
        nursery: trio.Nursery,
        *,
        removals: Removals,
        wall_ns: Callable[[], int] = time.time_ns,
        owner: str = "",
    ) -> None:
        self.store = store
        self.storage = storage
        self.config = config
        self.nursery = nursery
        self.wall_ns = wall_ns
        self.listings = Listings(
            names_max=config.listed_names_max,
            ttl_seconds=config.metadata_ttl_seconds,
            negative_ttl_seconds=config.negative_ttl_seconds,
            walk_ttl_seconds=config.walk_ttl_seconds,
            away=lambda: store.away,
        )
        self.walks = Walks(
            config.prefix, ttl_seconds=config.metadata_ttl_seconds, walk_ttl_seconds=config.walk_ttl_seconds
        )
        self.inodes = Inodes(config.prefix, self.listings)
        self.told = Told(
            versions_max=config.attributes_remembered_max,
            # An open may follow its lookup after that long: what was just asked is not asked twice.
            lifetime_seconds=max(config.metadata_ttl_seconds, config.retry_memory_seconds),
            away=lambda: store.away,
        )
        self.earlier: Recall | None = None
        self.journaled: Journaled | None = None
        self.on_write: Callable[[Directory], None] = lambda _directory: None
        self.transits = Transits()
        self.undertakings = Undertakings(
            store, config.prefix, nursery, owner=owner or secrets.token_hex(16), host=gethostname(), now_ns=wall_ns
        )
        self.changes = 0
        self.moving: dict[str, int] = {}
        self.deleting = Deleting(
            store,
            removals,
            self.inodes,
            batches=config.gathers_unlinks,
            moving=self.moving,
            distrust=self.distrust,
            background=self.background,
        )
        self.refuses_writers = False
        self.refuses_writes = False
        self.refused_paths: set[str] = set()
        self.last_write_seconds = 0.0
        self.hidden: dict[str, int] = {}
        self.hidden_count = 0
        self.hidden_examples: dict[str, str] = {}
        self.with_files: dict[Inode, None] = {}
        showing = Showing(config, started_ns=wall_ns())
        self.show, self.shown, self.show_name = showing.show, showing.shown, showing.show_name
        self.show_plain, self.plain_until_ns = showing.show_plain, showing.plain_until_ns
        self.entry_seconds = showing.entry_seconds
        self.is_file, self.lists_file, self._look_alike = showing.is_file, showing.lists_file, showing.look_alike
        self.repeats = Repeats(config.retry_memory_seconds)

    # knowledge of single names

    def adopt(self, parent: Inode, name: str, entry: Entry, until: float = 0.0) -> Inode | None:
        """Bind what a listing says of a name; None when it speaks of a file that only this mount had and has no
        more."""
        if isinstance(entry, Sentinel):
            if entry is DIRECTORY:
                inode = self.inodes.bind_directory(parent, name, until)
                self.settle(inode)
                return inode
            assert entry is LOCAL
            return parent.dentries.get(name)
        inode = self.inodes.bind_file(parent, name, entry, until)
        if inode.special is None or inode.exact_until != inf:
            self.settle(inode)
        return inode

    # attributes

    def settle(self, inode: Inode) -> None:
        """Take over what is known of an inode's attributes without a request."""
        if self.config.attributes == "never":
            inode.special, inode.exact_until = PLAIN, inf
            return
        known = inode.known
        above = inode.contents if inode.parent is None else inode.parent.contents
        unflagged = self.config.attributes == "auto" and above.flag is False
        now = trio.current_time()
        if inode.children is not None:
            told = self.told.find_directory(inode.contents.prefix, now)
            if unflagged and above.unflagged_until() > now:
                self._follow(inode, PLAIN)  # as long as the directory above has no flag
            elif told is not None:
                self._follow(inode, told.special)
                inode.exact_until = told.until
        elif known is not None and (inode.special is None or not inode.ours):
            told = self.told.find(known, now)
            if told is not None:
                if above.flag and not above.nodes and self.config.attributes == "auto":
                    meet(above, told.special)
                if inode.special is None or self._look_alike(inode, told.special):
                    inode.special, inode.exact_until = told
            elif unflagged and said_plain(above, known) and (inode.special is None or self._look_alike(inode, PLAIN)):
                inode.special, inode.exact_until = PLAIN, inf

    def _follow(self, inode: Inode, special: Special) -> None:
        """The bucket keeps this of a directory. If another client has put it there, what was set here is older."""
        state = inode.state
        if state is not None and inode.special is not None and not self._look_alike(inode, special):
            state.mode = state.uid = state.gid = state.mtime_ns = state.atime_ns = None
        inode.special = special

    def stored_here(self, inode: Inode) -> None:
        """The file's version is our own. What another client makes of it before its Last-Modified is seen is not told
        from it: what we know of its attributes is believed for a lifetime."""
        inode.own.unsure = True
        inode.exact_until = min(inode.exact_until, self.told.until(trio.current_time()))

    def found_again(self, inode: Inode, info: ObjectInfo, asked: float) -> None:
        """A HEAD of the file's version, for an operation that has the inode and not its name."""
        special = self.told.note(info, asked)
        if not inode.ours:
            inode.known = Listed(info.key, info.size, info.etag, info.last_modified_ns)
        self._follow(inode, special)
        inode.exact_until = self.told.until(asked)

    def is_exact(self, inode: Inode, now: float) -> bool:
        """Whether the kernel may be told the attributes that are known."""
        if inode.special is None:
            return False
        if inode.exact_until > now or (inode.ours and inode.children is None) or self.store.away:
            return True
        above = inode if inode.parent is None else inode.parent
        unflagged = self.config.attributes == "auto" and above.contents.unflagged_until() > now
        return inode.children is not None and unflagged

    def is_settled(self, inode: Inode) -> bool:
        """The same, once what is known without a request is taken over."""
        now = trio.current_time()
        if not self.is_exact(inode, now):
            self.settle(inode)
        return self.is_exact(inode, now)

    def learn(self, parent: Inode, name: str, info: ObjectInfo, asked: float) -> Listed:
        """Take over what a HEAD or GET says of a file: the version, its attributes, and what those say of the
        directory. An inode that has shown other attributes loses the name: the kernel keeps what it was told."""
        listed = Listed(info.key, info.size, info.etag, info.last_modified_ns)
        if self.config.attributes == "never":
            return listed
        unknown = self.earlier is not None and self.told.find(listed, asked) is None
        special = self.told.note(info, asked)
        directory = parent.contents
        if special and self.config.attributes == "auto":
            meet(directory, special)
        if self.earlier is not None and unknown and (directory.flag or self.config.attributes == "always"):
            self.earlier.note(info, special)
        child = parent.dentries.get(name)
        if (
            child is not None
            and child.children is None
            and child.special is not None
            and not child.changing
            and not self._look_alike(child, special)
        ):
            self.inodes.detach(child)
        return listed

    def note(self, parent: Inode, name: str, entry: Entry | None) -> None:
        """An own change of a name: into the listings, and so that no answer under way undoes it."""
        directory = self._changed(parent, name)
        if entry is LOCAL:
            directory.local.add(name)
        else:
            directory.local.discard(name)
        directory.note(name, entry)
        if entry is not None:
            self.exists(directory.prefix)
            if directory.flag_owed or directory.nodes_owed:
                self.on_write(directory)

    def distrust(self, parent: Inode, name: str) -> None:
        """The name has become another client's object, of which nothing is known: the next to need it asks."""
        self._changed(parent, name).distrust(name)

    def _changed(self, parent: Inode, name: str) -> Directory:
        self.changes += 1
        directory = parent.contents
        self.repeats.forget((parent.ino, name))
        self.storage.foreseen.changed_here(directory.prefix + name)
        for prefix in self.moving:
            if directory.prefix.startswith(prefix):
                self.moving[prefix] += 1
        return directory

    def exists(self, prefix: str) -> None:
        """Something was put below a prefix: it is no removed directory any more, nor is any above it."""
        self.listings.shelf.moved(prefix)
        removed = self.listings.removed
        while removed and prefix:
            removed.pop(prefix, None)
            prefix = prefix[: prefix.rfind("/", 0, -1) + 1]

    def touched(self, parent: Inode) -> None:
        """An entry of the directory came or went."""
        state = parent.own
        state.mtime_ns = state.ctime_ns = self.wall_ns()

    def remember(self, inode: Inode, info: ObjectInfo | None, *, opener: int | None = None) -> Stale:
        """A version other than the inode's was found, or none: let go of the inode; the error that makes Linux look
        up again.

        The lookup that follows is answered by this version. If this was an open, of the thread `opener`, it validates
        nothing when it comes again.
        """
        parent, name = inode.parent, inode.name
        if parent is not None and inode.linked:
            now = trio.current_time()
            if info is None:
                parent.contents.note(name, None, own=False)
            else:
                parent.contents.note(name, self.learn(parent, name, info, now), own=False)
                self.repeats.remember((parent.ino, name), info, now, opener=opener)
            self.inodes.detach(inode)
        elif parent is not None and info is not None and opener is not None:
            self.repeats.join((parent.ino, name), info, opener, trio.current_time())
        return Stale(f"{inode.path}: the object is another version now")

    def recall(self, parent: Inode, name: str, now: float) -> Inode | None:
        """The inode of a version that was remembered for this lookup."""
        found = self.repeats.find((parent.ino, name), now)
        if found is None or not found.info.key.startswith(parent.contents.prefix):
            return None
        info, until = found.info, found.until
        listed = Listed(info.key, info.size, info.etag, info.last_modified_ns)
        inode = self.inodes.bind_file(parent, name, listed, until)
        self.settle(inode)
        inode.own.validated_until = until
        inode.own.headers = info.headers
        inode.own.lacks_tags = bool(info.tag_count) and not info.headers.tags
        return inode

    def report_hidden(self, prefix: str, hidden: tuple[str, ...]) -> None:
        """Count keys that cannot be paths; once per prefix a line."""
        self.hidden_count += len(hidden)
        if prefix not in self.hidden and len(self.hidden) < HIDDEN_PREFIXES_MAX:
            self.hidden[prefix] = len(hidden)
            self.hidden_examples[prefix] = hidden[0]
            log.warning(
                "keys hidden, they cannot be paths: prefix=%s count=%d example=%s",
                escaped(prefix), len(hidden), escaped(hidden[0]),
            )  # fmt: skip

    # background

    def background(self, action: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run what no request waits for; a bug in it leaves a traceback and the mount goes on."""

        async def guarded() -> None:
            try:
                await action(*arguments)
            except Exception:
                log.exception("background work met a bug action=%s", getattr(action, "__name__", action))

        self.nursery.start_soon(guarded)

    # gates

    def check_writable(self) -> None:
        """Raises ReadOnly."""
        if self.config.read_only or self.refuses_writers:
            raise ReadOnly("the mount is read-only" if self.config.read_only else "the mount is being stopped")

    def check_changeable(self) -> None:
        """Raises ReadOnly only where nothing may ever be changed: a mount that stops still takes what the kernel
        flushes."""
        if self.config.read_only:
            raise ReadOnly("the mount is read-only")

    def headers_of_new(self, name: str) -> Headers:
        """What a file that is created here carries."""
        return Headers(content_type=content_type(name), tags=self.config.tags or "")

    def check_new(self, parent: Inode, name: str, slash: str = "") -> str:
        """The key a new name will have; `slash` of a directory. Raises NoEntry (the parent was removed),
        NameTooLong."""
        directory = parent.contents
        if directory.removed:
            raise NoEntry(f"{parent.path} was removed")
        return check_key(directory.prefix + name + slash)
