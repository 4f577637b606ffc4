"""How an inode is shown: what was set here, over what the bucket keeps of it, over the mount's defaults.

Synchronous; asks nobody and changes nothing. The state is when the mount began: as old are directories, and files that
are not in the bucket yet.
"""

import stat
from functools import partial
from math import inf

from s3mount.config import Config
from s3mount.store.base import Listed
from s3mount.vfs.attributes import DIRECTORY_LINKS, PLAIN, SECOND_NS, Attributes, Ino, Special, whole_seconds
from s3mount.vfs.directory import Directory
from s3mount.vfs.inodes import Inode, State
from s3mount.vfs.metadata import normalized
from s3mount.vfs.told import plain_until_ns, said_file

ATTR_SECONDS = 3600.0
"""A file's inode is one version: what the kernel knows of it stays true until we or the kernel itself change it."""
NOTHING = State()
"""The state of an inode of which this mount knows nothing of its own."""


class Showing:
    """See the module."""

    def __init__(self, config: Config, *, started_ns: int) -> None:
        self._config = config
        self._started_ns = started_ns
        self._file_mode = stat.S_IFREG | (config.file_mode & ~config.umask & 0o7777)
        self._dir_mode = stat.S_IFDIR | (config.dir_mode & ~config.umask & 0o7777)

    def entry_seconds(self, until: float, now: float) -> float:
        """How long the kernel may believe a name that is known until then."""
        return min(max(until - now, 0.0), self._config.metadata_ttl_seconds)

    def show(self, inode: Inode, entry_seconds: float) -> Attributes:
        """The inode's attributes, and how long its name may be believed."""
        config = self._config
        state = inode.state
        if inode.children is not None:
            mode, links, size, time_ns = self._dir_mode, DIRECTORY_LINKS, 0, self._started_ns
            attr_seconds = config.metadata_ttl_seconds
        else:
            mode, links, size, attr_seconds = self._file_mode, 1, inode.size, ATTR_SECONDS
            known = inode.known
            time_ns = whole_seconds(known.last_modified_ns) if known is not None else self._started_ns
        special = inode.special
        if state is None and (special is PLAIN or special is None):
            return Attributes(
                inode.ino, mode, links, config.uid, config.gid, size, time_ns, time_ns, time_ns, 0,
                entry_seconds, attr_seconds,
            )  # fmt: skip
        own = state or NOTHING
        kept = special or PLAIN
        if kept.mode is not None:
            kind = 0 if inode.children is not None else stat.S_IFMT(kept.mode)
            mode = (kind or stat.S_IFMT(mode)) | stat.S_IMODE(kept.mode)
        return Attributes(
            inode.ino,
            mode if own.mode is None else own.mode,
            links if inode.linked else 0,
            _first(own.uid, kept.uid, config.uid),
            _first(own.gid, kept.gid, config.gid),
            size,
            _first(own.mtime_ns, kept.mtime_ns, time_ns),
            _first(own.ctime_ns, kept.ctime_ns, time_ns),
            _first(own.atime_ns, kept.atime_ns, kept.mtime_ns, time_ns),
            kept.rdev or 0,
            entry_seconds,
            attr_seconds,
        )

    def show_plain(self, ino: Ino, listed: Listed, entry_seconds: float) -> Attributes:
        """The same of a file of which only the bucket knows something, and that nothing special."""
        _, size, _, time_ns = listed
        time_ns -= time_ns % SECOND_NS
        return Attributes(
            ino, self._file_mode, 1, self._config.uid, self._config.gid, size, time_ns, time_ns, time_ns, 0,
            entry_seconds, ATTR_SECONDS,
        )  # fmt: skip

    def plain_until_ns(self, directory: Directory) -> float:
        """Up to which Last-Modified the directory's files are known to have the default attributes, for good."""
        attributes = self._config.attributes
        if attributes == "never":
            return inf
        return plain_until_ns(directory) if attributes == "auto" else -inf

    def show_name(self, inode: Inode) -> Attributes:
        """Name and type only, of an inode whose attributes nobody has asked for; the kernel adopts nothing of it."""
        if inode.children is not None:
            kind = stat.S_IFDIR
        else:
            kind = stat.S_IFREG if self.is_file(inode) else 0
        return Attributes(inode.ino, kind, 1, 0, 0, -1, 0, 0, 0, 0, 0.0, 0.0)

    def is_file(self, inode: Inode) -> bool:
        """Whether it is a regular file, by what listings tell; else it may be."""
        known = inode.known
        return inode.parent is not None and known is not None and self.lists_file(inode.parent.contents, known)

    def lists_file(self, directory: Directory, listed: Listed) -> bool:
        """The same of an entry."""
        return said_file(directory, listed, by_flag=self._config.attributes == "auto")

    def look_alike(self, inode: Inode, other: Special) -> bool:
        """Whether these attributes are shown as the inode's; that a default is stored in so many words shows
        nothing."""
        mode = self._file_mode if inode.children is None else self._dir_mode
        normal = partial(normalized, mode=mode, uid=self._config.uid, gid=self._config.gid)
        return inode.special == other or (inode.special is not None and normal(inode.special) == normal(other))

    def shown(self, inode: Inode) -> Attributes:
        """The attributes of an inode just made or held, whose name is ours to believe for a lifetime."""
        return self.show(inode, self._config.metadata_ttl_seconds)


def _first(*values: int | None) -> int:
    """The first that is known; the last one is."""
    for value in values:
        if value is not None:
            return value
    raise AssertionError(values)
