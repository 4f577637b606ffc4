"""The inode table: numbers, dentries, lookup counts, and what this mount alone knows of an inode.

Synchronous; asks no store. A regular file's inode is one version of one path; a directory's belongs to its path.
Invariants: an inode is in the table while the kernel counts lookups of it, a handle or unsaved bytes need it, or a
dentry below it exists; a number in the table is never given to a second inode; `parent.children[name] is inode`
exactly while the inode is linked, and an inode that is not linked is an orphan: nobody finds it by name.
"""

import sys
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from math import inf
from typing import Any

import trio

from s3mount.data.file import File
from s3mount.errors import NotADirectory, S3MountError, Stale
from s3mount.store.base import Headers, Listed
from s3mount.vfs.attributes import PLAIN, ROOT, SECOND_NS, Ino, Special, whole_seconds
from s3mount.vfs.directory import Directory
from s3mount.vfs.listings import Listings

NO_HEADERS = Headers()
RESERVED_NUMBERS = 2
"""0 is no inode and 1 the root."""
SPARSE_BYTES = 512
"""Of the table for each inode in it; it needs 35 to 100."""
NUMBERS = 0xF39CC0605CEDC851
"""A prime: what differs in less than eight bytes in a row has different remainders, and nothing else has equal ones for
a reason. Who makes up names that do, gets the next number of a digest that he cannot aim at."""


class State:
    """What this mount alone knows of an inode: attributes set here (None: the default), its open file, its handles.

    `unsure`: the version is ours and its Last-Modified, which a mutation's reply does not tell, not seen yet. `told`:
    some call returned the failure of a sync. `failing`: nobody was told, the bytes wait for another try. `closing`: a
    task runs the last release. `validated_until`: an open answered by ESTALE has just fetched this version, with
    these `headers`, for the open that follows; `lacks_tags`: but the tags that it has. Of attributes: see `carrying`
    for `pending`, `undated`, `carried` (the headers of the version of this etag, and when they were looked at) and
    `lent` (to the copy of a rename); `changing`: tasks that store them; `change_error`: why some were not, which nobody
    was told; `xattrs`: of a file, all of them, once one was changed here.
    """

    __slots__ = (
        "atime_ns",
        "carried",
        "change_error",
        "changing",
        "closing",
        "ctime_ns",
        "failing",
        "file",
        "gid",
        "handles",
        "headers",
        "lacks_tags",
        "lent",
        "mode",
        "mtime_ns",
        "pending",
        "told",
        "uid",
        "undated",
        "unsure",
        "validated_until",
        "writers",
        "xattrs",
    )

    def __init__(self) -> None:
        self.mode: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.mtime_ns: int | None = None
        self.ctime_ns: int | None = None
        self.atime_ns: int | None = None
        self.file: File | None = None
        self.handles = 0
        self.writers = 0
        self.unsure = False
        self.told = False
        self.failing = False
        self.closing = False
        self.validated_until = 0.0
        self.headers = NO_HEADERS
        self.lacks_tags = False
        self.pending: Mapping[str, Any] | None = None
        self.undated: Headers | None = None
        self.carried: tuple[str, Headers, float] | None = None
        self.lent: trio.Event | None = None
        self.changing = 0
        self.change_error: S3MountError | None = None
        self.xattrs: Mapping[str, bytes] | None = None

    @property
    def held(self) -> bool:
        """Whether the path keeps this inode whatever the bucket says, and openers join it without validation."""
        if self.writers or self.closing or self.failing:
            return True
        file = self.file
        return file is not None and (file.base is None or file.dirty or file.busy)


class Inode:
    """One inode. `children` and `directory` are for directories; `known`, the version in the bucket, for files.

    `fresh_until`: how long the name is believed because it was asked for alone; listings have lifetimes of their own.
    `special`: what the bucket keeps of it besides the defaults; None: nobody has looked yet, and only name and type may
    be told. `exact_until`: how long that is believed; of a version that is settled for good.
    """

    __slots__ = (
        "children",
        "directory",
        "exact_until",
        "fresh_until",
        "ino",
        "known",
        "lookups",
        "name",
        "parent",
        "special",
        "state",
    )

    def __init__(self, ino: Ino, parent: "Inode | None", name: str) -> None:
        self.ino = ino
        self.parent = parent
        self.name = name
        self.lookups = 0
        self.fresh_until = 0.0
        self.known: Listed | None = None
        self.directory: Directory | None = None
        self.children: dict[str, Inode] | None = None
        self.state: State | None = None
        self.special: Special | None = PLAIN
        self.exact_until = inf

    def __repr__(self) -> str:
        kind = "directory" if self.directory else "file"
        return f"<Inode {self.ino:#x} {kind} {self.path!r} lookups={self.lookups}{'' if self.linked else ' orphan'}>"

    @property
    def linked(self) -> bool:
        """Whether a name leads to this inode."""
        parent = self.parent
        return parent is None or (parent.children is not None and parent.children.get(self.name) is self)

    @property
    def own(self) -> State:
        """The state, made when first needed."""
        state = self.state
        if state is None:
            state = self.state = State()
        return state

    @property
    def held(self) -> bool:
        return self.state is not None and self.state.held

    @property
    def changing(self) -> bool:
        """Whether it has bytes or attributes that the bucket may lack."""
        state = self.state
        if state is None:
            return False
        return state.held or state.pending is not None or state.lent is not None or state.changing > 0

    @property
    def ours(self) -> bool:
        """Whether this mount knows better than the bucket what its attributes are."""
        state = self.state
        if state is None:
            return False
        return state.unsure or self.changing

    @property
    def key(self) -> str:
        """The object's key; of a directory its prefix."""
        if self.directory is not None:
            return self.directory.prefix
        if self.state is not None and self.state.file is not None:
            return self.state.file.key
        if self.known is not None:
            return self.known.key
        assert self.parent is not None
        return self.parent.contents.prefix + self.name

    @property
    def path(self) -> str:
        """Relative to the mount's root, for people."""
        names: list[str] = []
        inode: Inode | None = self
        while inode is not None and inode.parent is not None:
            names.append(inode.name)
            inode = inode.parent
        return "/".join(reversed(names))

    @property
    def contents(self) -> Directory:
        """The directory's contents. Raises NotADirectory."""
        if self.directory is None:
            raise NotADirectory(self.path)
        return self.directory

    @property
    def dentries(self) -> dict[str, "Inode"]:
        """The children by name. Raises NotADirectory."""
        if self.children is None:
            raise NotADirectory(self.path)
        return self.children

    @property
    def size(self) -> int:
        if self.state is not None and self.state.file is not None:
            return self.state.file.size
        return self.known.size if self.known is not None else 0


class Inodes:
    """All inodes by number. The state: the table, and the serial number of files that were created here."""

    def __init__(self, prefix: str, listings: Listings) -> None:
        self._listings = listings
        self._table: dict[int, Inode] = {}
        self._serial = 0
        self.root = Inode(ROOT, None, "")
        self.root.directory = Directory(prefix, listings)
        self.root.directory.marker = True  # it needs none
        self.root.children = {}
        self.root.special, self.root.exact_until = None, 0.0
        self.root.lookups = 1
        self._table[ROOT] = self.root

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._table.values()))

    def get(self, ino: int) -> Inode:
        """The inode of a number the kernel holds. Raises Stale."""
        inode = self._table.get(ino)
        if inode is None:
            raise Stale(f"no inode {ino:#x}")
        return inode

    def directory_at(self, prefix: str) -> Inode | None:
        """The inode of a directory below the root, if there is one."""
        inode = self.root
        for name in prefix[len(inode.contents.prefix) : -1].split("/"):
            child = inode.dentries.get(name)
            if child is None or child.children is None:
                return None
            inode = child
        return inode

    def bind_file(self, parent: Inode, name: str, listed: Listed, fresh_until: float = 0.0) -> Inode:
        """The inode of a version of a path: the one that the name has, if it is this version or held, else a new
        one."""
        children = parent.dentries
        child = children.get(name)
        if child is not None:
            if child.children is None and (child.held or is_version(child, listed)):
                child.fresh_until = max(child.fresh_until, fresh_until)
                return child
            self.detach(child)
        inode = self._new(parent, name, listed.key, f"{listed.etag}{whole_seconds(listed.last_modified_ns)}")
        inode.known = listed
        inode.special = None
        inode.fresh_until = fresh_until
        children[name] = inode
        return inode

    def bind_plain(self, parent: Inode, name: str, listed: Listed) -> Inode:
        """A new inode for this version, whose attributes are the defaults for good; the name led nowhere."""
        key, _, etag, modified_ns = listed
        inode = self._new(parent, name, key, f"{etag}{modified_ns - modified_ns % SECOND_NS}")
        inode.known = listed
        parent.dentries[name] = inode
        return inode

    def bind_directory(self, parent: Inode, name: str, fresh_until: float = 0.0) -> Inode:
        """The directory's inode, which is the same as long as the kernel or somebody below needs it."""
        children = parent.dentries
        child = children.get(name)
        if child is not None:
            if child.children is not None:
                child.fresh_until = max(child.fresh_until, fresh_until)
                return child
            self.detach(child)
        prefix = parent.contents.prefix + name + "/"
        inode = self._new(parent, name, prefix, "")
        inode.directory = Directory(prefix, self._listings)
        inode.children = {}
        inode.special, inode.exact_until = None, 0.0
        inode.fresh_until = fresh_until
        children[name] = inode
        return inode

    def bind_created(self, parent: Inode, name: str) -> Inode:
        """A new inode for a file that is not in the bucket yet."""
        children = parent.dentries
        child = children.get(name)
        if child is not None:
            self.detach(child)
        self._serial += 1
        inode = self._new(parent, name, parent.contents.prefix + name, f"created {self._serial}")
        children[name] = inode
        return inode

    def detach(self, inode: Inode) -> None:
        """The name leads here no more; the inode stays for those who hold it."""
        parent = inode.parent
        if parent is not None and parent.children is not None and parent.children.get(inode.name) is inode:
            del parent.children[inode.name]
        self.release(inode)

    def move(self, inode: Inode, parent: Inode, name: str) -> None:
        """Give the inode another path; its number stays. What the name led to before is detached."""
        replaced = parent.dentries.get(name)
        if replaced is inode:
            return
        if replaced is not None:
            self.detach(replaced)
        former = inode.parent
        assert former is not None
        # It may have been detached while the store was asked.
        if former.dentries.get(inode.name) is inode:
            del former.dentries[inode.name]
        inode.parent = parent
        inode.name = name
        parent.dentries[name] = inode
        self.release(former)

    def forget(self, ino: int, count: int) -> None:
        """The kernel holds `count` references less."""
        inode = self._table.get(ino)
        if inode is None or inode.parent is None:
            return
        inode.lookups = max(inode.lookups - count, 0)
        if not inode.lookups:
            self.release(inode)

    def compact(self) -> None:
        """Give back what the table took when it was larger: a dict keeps that for good."""
        if sys.getsizeof(self._table) > SPARSE_BYTES * (len(self._table) + 1000):
            self._table = dict(self._table)

    def release(self, inode: Inode | None) -> None:
        """Drop the inode, and the parents that waited for it, if nobody needs it any more."""
        while inode is not None and not _needed(inode):
            parent = inode.parent
            if parent is None:
                return
            if self._table.get(inode.ino) is inode:
                del self._table[inode.ino]
            if inode.directory is not None:
                inode.directory.leave()
            if parent.children is not None and parent.children.get(inode.name) is inode:
                del parent.children[inode.name]
            inode = parent

    def _new(self, parent: Inode, name: str, key: str, version: str) -> Inode:
        table = self._table
        text = f"{key}\0{version}".encode()
        number: Ino = int.from_bytes(text, "little") % NUMBERS  # type: ignore[assignment] # a tenth of a digest's time
        while number < RESERVED_NUMBERS or number in table:
            text += b"+"
            number = Ino(int.from_bytes(blake2b(text, digest_size=8).digest(), "little"))
        inode = table[number] = Inode(number, parent, name)
        return inode


def is_version(inode: Inode, listed: Listed) -> bool:
    """Whether the file's inode is this version; learns the Last-Modified of an own version on the way."""
    known = inode.known
    if known is listed:
        return True
    if known is None or known.etag != listed.etag or known.size != listed.size:
        return False
    if inode.state is not None and inode.state.unsure:
        inode.state.unsure = False
        inode.known = listed
        return True
    return whole_seconds(known.last_modified_ns) == whole_seconds(listed.last_modified_ns)


def _needed(inode: Inode) -> bool:
    if inode.lookups or inode.children or inode.parent is None:
        return True
    if inode.directory is not None and (inode.directory.opened or inode.directory.pending):
        return True
    state = inode.state
    return state is not None and (
        state.handles > 0 or state.closing or state.failing or state.changing > 0 or state.file is not None
    )
