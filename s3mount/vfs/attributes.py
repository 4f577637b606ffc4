"""What the kernel is told of an inode, what it asks to change, what is stored besides the defaults: values; pure.

Times are nanoseconds since the epoch; an object's own time is its Last-Modified in whole seconds, because a HEAD tells
no more and LIST and HEAD must show the same.
"""

import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NewType

Ino = NewType("Ino", int)
Fh = NewType("Fh", int)
ROOT = Ino(1)
SECOND_NS = 1_000_000_000
DIRECTORY_LINKS = 2
STATFS_BLOCK_BYTES = 4096
STATFS_BLOCKS = 1 << 38
"""1 PiB in blocks of 4 KiB: a bucket has no end, and a program that looks for free space must find some."""
STATFS_FILES = 1 << 40


class Attributes(NamedTuple):
    """Stat fields and the kernel's timeouts. size -1: only name, number and type are told; ino 0: there is no such
    name.

    A tuple and no dataclass: one is made per entry of a listing, and a frozen dataclass costs four times as much.
    """

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    rdev: int
    entry_seconds: float
    attr_seconds: float


@dataclass(frozen=True, slots=True)
class Special:
    """The attributes of an inode that are not the defaults; None: the default, which each mount chooses for itself.

    `mode` is a whole st_mode, type bits included. `xattrs` are by name, `user.` included.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None
    ctime_ns: int | None = None
    rdev: int | None = None
    xattrs: Mapping[str, bytes] | None = None

    def __bool__(self) -> bool:
        return self != PLAIN


PLAIN = Special()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `umask` has been applied by the kernel to every mode it hands over; `groups` looks the supplementary
    ones up."""

    uid: int
    gid: int
    pid: int
    umask: int
    groups: Callable[[], Collection[int]] = field(default=frozenset, compare=False, repr=False)


PRIVILEGED = Caller(uid=0, gid=0, pid=0, umask=0)
"""Who may do anything; also stands for the mount itself."""


@dataclass(frozen=True, slots=True)
class Changes:
    """One SETATTR: None is a field that stays."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StatFs:
    """What df shows. A constant: no store is asked, and free is never 0."""

    block_bytes: int = STATFS_BLOCK_BYTES
    blocks: int = STATFS_BLOCKS
    blocks_free: int = STATFS_BLOCKS
    files: int = STATFS_FILES
    files_free: int = STATFS_FILES
    name_max_bytes: int = 255


def absent(entry_seconds: float) -> Attributes:
    """The answer that there is no such name, which the kernel may believe for so long."""
    return Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, entry_seconds, 0.0)


def whole_seconds(time_ns: int) -> int:
    return time_ns - time_ns % SECOND_NS


def may(mode: int, uid: int, gid: int, caller: Caller, wanted: int) -> bool:
    """access(2) by permission bits; `wanted` is of R_OK 4, W_OK 2, X_OK 1. Supplementary groups are the kernel's to
    know."""
    if caller.uid == 0:
        return not wanted & 1 or stat.S_ISDIR(mode) or bool(mode & 0o111)
    shift = 6 if caller.uid == uid else 3 if caller.gid == gid else 0
    return (mode >> shift) & wanted == wanted
