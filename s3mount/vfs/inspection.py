"""What this mount and the store say of one path, and how that knowledge is forgotten: for people who ask the daemon.

The path is walked here, from the root, as the kernel would walk it; the daemon sends no FUSE request to itself. No
state. While a path is looked at its inodes are held by a lookup each, as the kernel holds them.
"""

import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Literal

import trio

from s3mount.errors import Invalid, IsADirectory, NoEntry, NotADirectory, NotFound
from s3mount.store.base import ObjectInfo
from s3mount.vfs.attributes import PLAIN, Attributes, Ino, Special
from s3mount.vfs.flags import FLAG
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import decode, escaped, is_name, is_reserved
from s3mount.vfs.lookup import Look
from s3mount.vfs.metadata import special_of
from s3mount.vfs.rebuild import Progress, rebuild_flags
from s3mount.vfs.tree import Tree

NAMES_AT_ONCE = 10_000
"""Forgotten in one turn of the loop."""

KernelName = tuple[Ino, bytes]
"""A name that the kernel may believe: the number of its directory, and the name."""

State = Literal["stored", "changed", "uploading", "not stored", "gone", "waiting"]
"""What the bucket has of a file; gone: nothing, though this mount has not removed it; waiting: what it is to have is
in the journal of --write-back."""


@dataclass(frozen=True, slots=True)
class About:
    """One path. `info` is the object as the store describes it now, of a directory its marker; None: there is none.

    `version`: the etag of what the mount shows. `special`: what is stored of it besides the defaults, of a directory in
    its flag or its marker. `flag`: whether the directory has one.
    """

    path: str
    key: str
    shown: Attributes
    special: Special
    info: ObjectInfo | None
    state: State = "stored"
    version: str | None = None
    flag: bool | None = None


async def about(tree: Tree, look: Look, path: bytes) -> About:
    """What is known of a path, and a HEAD; of a directory a LIST, a HEAD of its flag, another of its marker if there is
    one. Raises NoEntry."""
    async with _found(tree, look, path) as inode:
        if inode.directory is not None:
            prefix = inode.directory.prefix
            marker = await _marker(tree, prefix) if prefix else None
            flag = await _head(tree, prefix + FLAG)
            shown = tree.shown(inode)
            special = _special(flag) or _special(marker)
            return About(inode.path, prefix, shown, special, marker, flag=flag is not None)
        state = _state_of(tree, inode)
        # The key of an object that is not there would be asked for in vain.
        info = None if state == "not stored" else await _head(tree, inode.key)
        if info is None and state != "not stored":
            state = "gone"
        known = inode.known
        version = known.etag if known is not None else None
        return About(inode.path, inode.key, tree.shown(inode), _special(info), info, state, version)


async def key_of(tree: Tree, look: Look, path: bytes) -> tuple[str, State]:
    """The key of a stored file, for an address. Raises NoEntry, IsADirectory, Invalid for what is no regular file: its
    object is not what programs read here."""
    async with _found(tree, look, path) as inode:
        if inode.directory is not None:
            raise IsADirectory(f"{_shown(path)} is a directory: only files have an address")
        if not stat.S_ISREG(tree.shown(inode).mode):
            raise Invalid(f"{_shown(path)} is a link or special file: only regular files have an address")
        state = _state_of(tree, inode)
        if state == "not stored":
            raise NoEntry(f"{_shown(path)} is not stored yet: its object comes with close or fsync")
        return inode.key, state


async def rebuild(tree: Tree, look: Look, path: bytes, progress: Callable[[Progress], None]) -> Progress:
    """Set the flags of a directory and all below it right, and forget what was known. Raises ReadOnly, Invalid for what
    is no directory and where no attributes are read."""
    tree.check_changeable()
    config = tree.config
    if config.attributes == "never":
        raise Invalid("the mount has --attributes never: it reads and stores none")
    async with _found(tree, look, path) as inode:
        if inode.directory is None:
            raise Invalid(f"{_shown(path)} is not a directory: only directories say what is special in them")
        prefix = inode.contents.prefix
        # A listing that a mount holds for a walk has told it of flags, too.
        settle_seconds = max(config.metadata_ttl_seconds, config.walk_ttl_seconds)
        return await rebuild_flags(
            tree.store, prefix, root=config.prefix, settle_seconds=settle_seconds, progress=progress, learnt=_nothing
        )


async def forget(tree: Tree, path: bytes) -> list[KernelName]:
    """Forget what is known of a path and all below it, but for what only this mount has; asks nothing.

    Returns the names that the kernel is to forget too. Directories are not among them: who stands in one would lose his
    way. Raises NoEntry for what cannot be a path, NotADirectory below a file.
    """
    parent, inode, name = None, tree.inodes.root, ""
    tree.storage.foreseen.drop_all()
    tree.repeats.clear()
    names = list(_names(path))
    _forget_unasked(tree, names)
    for name in names:
        if inode.children is None:
            raise NotADirectory(inode.path)
        child = inode.children.get(name)
        parent = inode
        if child is None:
            parent.contents.forget_all()
            return [(parent.ino, name.encode())]
        inode = child
    if parent is not None:
        parent.contents.forget_all()
        parent.contents.flag = None
    if inode.children is None:
        assert parent is not None
        return list(_forget_file(tree, parent, inode))
    inode.fresh_until = 0.0
    return await _forget_below(tree, inode)


async def _forget_below(tree: Tree, top: Inode) -> list[KernelName]:
    names: list[KernelName] = []
    waiting, done = [top], 0
    while waiting:
        parent = waiting.pop()
        directory = parent.directory
        if directory is None or parent.children is None:
            continue
        directory.forget_all()
        directory.flag = None
        parent.exact_until = 0.0
        if parent.parent is not None:
            directory.marker = None
        for child in list(parent.children.values()):
            done += 1
            if done % NAMES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            if child.children is not None:
                child.fresh_until = 0.0
                waiting.append(child)
            elif child.linked:
                names += _forget_file(tree, child.parent or parent, child)
    # A prefix that is thought to be without keys is looked at again.
    removed, prefix = tree.listings.removed, top.contents.prefix
    removed.update(dict.fromkeys([known for known in removed if known.startswith(prefix)], -inf))
    return names


def _forget_unasked(tree: Tree, names: list[str]) -> None:
    """What walks and HEADs have told of what may have no inode, at this path and below, or are about to tell."""
    shelf = tree.listings.shelf
    above = tree.config.prefix + "".join(f"{name}/" for name in names[:-1])
    if names:
        tree.told.forget_unsettled(f"{above}{names[-1]}/")
        shelf.discard(above)  # it tells of the last name
        shelf.changed(above, names[-1])
    else:
        tree.told.forget_unsettled(above)
        shelf.clear()
        shelf.moved(above)


def _forget_file(tree: Tree, parent: Inode, inode: Inode) -> Iterator[KernelName]:
    state = inode.state
    if state is not None and (state.held or state.handles):
        return  # what it is, this mount knows best
    inode.fresh_until = 0.0
    if inode.known is not None and inode.exact_until != inf:
        inode.exact_until = 0.0
        tree.told.forget(inode.known)
    if state is not None:
        state.validated_until = 0.0
    yield parent.ino, inode.name.encode()


@asynccontextmanager
async def _found(tree: Tree, look: Look, path: bytes) -> AsyncIterator[Inode]:
    """The inode of a path, held while it is looked at. Raises NoEntry, NotADirectory."""
    held: list[Ino] = []
    inode = tree.inodes.root
    try:
        for name in _names(path):
            child, _ = await look(inode, name)
            if child is None:
                raise NoEntry(f"there is no {_shown(path)}")
            child.lookups += 1
            held.append(child.ino)
            inode = child
        yield inode
    finally:
        for ino in reversed(held):
            tree.inodes.forget(ino, 1)


def _names(path: bytes) -> Iterator[str]:
    """The components of a path. Raises NoEntry, NameTooLong."""
    for component in path.split(b"/"):
        if component:
            name = decode(component)
            if name is None or not is_name(name) or is_reserved(name):
                raise NoEntry(f"there is no {_shown(path)}")
            yield name


def _state_of(tree: Tree, inode: Inode) -> State:
    file = inode.state.file if inode.state is not None else None
    if file is not None and file.base is None:
        return "not stored"
    if file is not None and (file.busy or file.dirty):
        return "uploading" if file.busy else "changed"
    journaled = tree.journaled
    return "waiting" if journaled is not None and journaled.waiting.find(inode.key) is not None else "stored"


def _nothing(_info: ObjectInfo) -> None:
    return


def _special(info: ObjectInfo | None) -> Special:
    return PLAIN if info is None else special_of(info.headers.metadata)


async def _marker(tree: Tree, prefix: str) -> ObjectInfo | None:
    """The directory's marker. SeaweedFS answers a HEAD of any prefix that has keys as if there were one; its LIST
    tells."""
    page = await tree.store.list_page(prefix, max_keys=1)
    return await _head(tree, prefix) if any(listed.key == prefix for listed in page.objects) else None


async def _head(tree: Tree, key: str) -> ObjectInfo | None:
    try:
        return await tree.store.head(key)
    except NotFound:
        return None


def _shown(path: bytes) -> str:
    return escaped(path.decode(errors="backslashreplace")) or "the root of the mount"
