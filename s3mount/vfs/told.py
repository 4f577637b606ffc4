"""What HEADs and GETs told of attributes, by attribute version: the memory that outlives inodes the kernel forgot.

Synchronous and bounded; asks no store. A version is key, etag and Last-Modified in whole seconds. Last-Modified names
a state of the attributes for good only once it is two seconds old by the server's own clock: several copies of an
object onto itself within a second look alike. What was learnt earlier is believed for a lifetime, and in an outage of
a store that is `away` for as long as that lasts.

The state of `Told` is what it remembers, least recently used first, and how many lookups met attributes that were
known, by whatever, and that had to be asked for.
"""

import stat
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from s3mount.store.base import Listed, ObjectInfo
from s3mount.vfs.attributes import PLAIN, SECOND_NS, Special, whole_seconds
from s3mount.vfs.directory import Directory
from s3mount.vfs.listings import AWAY_SECONDS
from s3mount.vfs.metadata import link_target_of, special_of

SETTLED_NS = 2 * SECOND_NS
"""So much older than a reply, by its Date, must Last-Modified be to name one state of an object."""
PATH_MAX_BYTES = 4096
"""A longer body is no target of a link: the type of the object is known from its size."""

LIKE_FILES = frozenset({stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK})


class Known(NamedTuple):
    """Attributes, and up to when they are believed."""

    special: Special
    until: float


class Told:
    """See the module."""

    def __init__(self, *, versions_max: int, lifetime_seconds: float, away: Callable[[], bool] = lambda: False) -> None:
        self._away = away
        self._versions_max = versions_max
        self._lifetime_seconds = lifetime_seconds
        self._known: OrderedDict[tuple[str, str, int], Known] = OrderedDict()
        self.lookups_known = self.lookups_asked = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, listed: Listed, now: float) -> Known | None:
        """What is known of this version of a file."""
        if not self._known:
            return None
        return self._find((listed.key, listed.etag, whole_seconds(listed.last_modified_ns)), now)

    def until(self, asked: float) -> float:
        """How long an answer is believed that names no state for good."""
        return asked + self._lifetime_seconds

    def find_directory(self, prefix: str, now: float) -> Known | None:
        return self._find((prefix, "", 0), now)

    def note(self, info: ObjectInfo, asked: float) -> Special:
        """Take over what a reply says of a file; returns its attributes."""
        special = special_from(info)
        settled = info.date_ns - whole_seconds(info.last_modified_ns) >= SETTLED_NS
        until = inf if settled else self.until(asked)
        self._put((info.key, info.etag, whole_seconds(info.last_modified_ns)), Known(special, until))
        return special

    def recall(self, listed: Listed, special: Special) -> None:
        """Take over what was learnt of this version before, for good."""
        self._put((listed.key, listed.etag, whole_seconds(listed.last_modified_ns)), Known(special, inf))

    def note_directory(self, prefix: str, special: Special, asked: float) -> Known:
        """The same of a directory, whose attributes have no version: what was learnt since `asked` stays."""
        known, former = Known(special or PLAIN, self.until(asked)), self._known.get((prefix, "", 0))
        if former is not None and former.until > known.until:
            return former
        self._put((prefix, "", 0), known)
        return known

    def forget_directory(self, prefix: str) -> None:
        self._known.pop((prefix, "", 0), None)

    def forget_directories(self, prefix: str) -> None:
        """The directory and those below it have moved, or have become others."""
        for version in [version for version in self._known if not version[1] and version[0].startswith(prefix)]:
            del self._known[version]

    def forget(self, listed: Listed) -> None:
        """What is known of this version of a file, if not for good."""
        version = (listed.key, listed.etag, whole_seconds(listed.last_modified_ns))
        if version in self._known and self._known[version].until != inf:
            del self._known[version]

    def forget_unsettled(self, prefix: str) -> None:
        """What is believed for a while only, of the directory or file at this prefix, and of all below it."""
        for version, known in list(self._known.items()):
            if known.until != inf and (version[0].startswith(prefix) or version[0] == prefix[:-1]):
                del self._known[version]

    def _find(self, version: tuple[str, str, int], now: float) -> Known | None:
        known = self._known.get(version)
        if known is None:
            return None
        if known.until <= now:
            if not self._away():
                return None  # it is kept: there may be an outage next
            known = Known(known.special, now + AWAY_SECONDS)
        self._known.move_to_end(version)
        return known

    def _put(self, version: tuple[str, str, int], known: Known) -> None:
        self._known[version] = known
        self._known.move_to_end(version)
        if len(self._known) > self._versions_max:
            self._known.popitem(last=False)


def special_from(info: ObjectInfo) -> Special:
    """The attributes of a file out of its metadata. A type that cannot be is none: a link has a target, a FIFO, socket
    or device no content, and a file is no directory."""
    special = special_of(info.headers.metadata)
    mode = special.mode
    if mode is not None and not _can_be(stat.S_IFMT(mode), info):
        special = Special(
            stat.S_IFREG | stat.S_IMODE(mode), special.uid, special.gid,
            special.mtime_ns, special.atime_ns, special.ctime_ns, None, special.xattrs,
        )  # fmt: skip
    return special or PLAIN


def is_node(special: Special | None) -> bool:
    """Whether it is neither a file nor a directory."""
    return special is not None and special.mode is not None and stat.S_IFMT(special.mode) in LIKE_FILES


def meet(directory: Directory, special: Special) -> None:
    """An entry was found to be special: the directory's flag should say so, whether or not it does in the bucket."""
    if not directory.flag:
        # Whoever stores attributes without a flag stores links, too.
        directory.flag = directory.flag_owed = directory.nodes = True
    if is_node(special) and (directory.flag_owed or not directory.nodes):
        directory.nodes = directory.nodes_owed = True


def said_file(directory: Directory, listed: Listed, *, by_flag: bool) -> bool:
    """Whether the entry is a regular file, whatever its attributes: too long for a link, or the directory's flag said
    that there are no links and nodes when it was there already."""
    # A FIFO, socket or device has no content.
    if listed.size >= PATH_MAX_BYTES:
        return True
    told = by_flag and directory.flag is True and not directory.nodes
    return told and listed.last_modified_ns <= directory.flag_date_ns - SETTLED_NS


def said_plain(directory: Directory, listed: Listed) -> bool:
    """Whether the entry's attributes are the defaults, because the directory had no flag when it was there already."""
    return listed.last_modified_ns <= plain_until_ns(directory)


def plain_until_ns(directory: Directory) -> float:
    """The Last-Modified of the newest entries of which that is known."""
    return directory.flag_date_ns - SETTLED_NS if directory.flag is False else -inf


def _can_be(kind: int, info: ObjectInfo) -> bool:
    if kind == stat.S_IFREG:
        return True
    if kind == stat.S_IFLNK:
        return 0 < info.size < PATH_MAX_BYTES or (not info.size and link_target_of(info.headers.metadata) is not None)
    return kind in LIKE_FILES and not info.size
