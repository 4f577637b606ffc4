"""What is stored of an inode's attributes: put into the headers of what is sent next, read back from what was stored.

Sends nothing but flags. The state is in the inode and its `State`: `special`, what the bucket keeps of the version it
has; `pending`, the attributes that programs have changed since, by the names of `Special`; `undated`, the headers that
a write found without a time. A pending attribute is laid over what the object says when it is stored, so that what
others have put there and nobody here has seen stays.
"""

import stat
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import trio

from s3mount.data.describe import describe
from s3mount.data.file import File
from s3mount.data.version import Changed, Version
from s3mount.errors import MetadataFull
from s3mount.store.base import Headers, ObjectInfo
from s3mount.vfs.attributes import PLAIN, Caller, Special
from s3mount.vfs.flags import raise_flag
from s3mount.vfs.inodes import NO_HEADERS, Inode
from s3mount.vfs.metadata import METADATA_MAX_BYTES, metadata_bytes, metadata_with, normalized, special_of
from s3mount.vfs.told import is_node
from s3mount.vfs.tree import Tree

Fields = Mapping[str, Any]
"""Attributes by the names of `Special`; None: none of its own, the default."""
FRESH_SECONDS = 1.0
"""Headers that were looked at longer ago are looked at again before they are stored: others may have changed them,
which no condition finds out."""
UNDATED: Fields = {"mtime_ns": None, "atime_ns": None, "ctime_ns": None}


def special_in(tree: Tree, headers: Headers, *, kind: int = stat.S_IFREG) -> Special:
    """What headers say of a file, or of a directory, besides this mount's defaults."""
    if not headers.metadata or tree.config.attributes == "never":
        return PLAIN
    return _normalized(tree, special_of(headers.metadata), kind)


def headers_with(tree: Tree, headers: Headers, fields: Fields, *, kind: int = stat.S_IFREG) -> Headers:
    """`headers` with these attributes laid over what they say; themselves when that changes nothing. Raises
    MetadataFull."""
    if tree.config.attributes == "never":
        return headers
    special = _normalized(tree, replace(special_of(headers.metadata), **fields), kind)
    metadata = metadata_with(headers.metadata, special)
    if metadata == headers.metadata:
        return headers
    try:
        size = metadata_bytes(metadata)
    except ValueError as error:
        raise MetadataFull("no header can carry these attributes") from error
    if size > METADATA_MAX_BYTES:
        raise MetadataFull(f"{size} bytes of metadata, and an object carries {METADATA_MAX_BYTES}")
    return replace(headers, metadata=metadata)


def _normalized(tree: Tree, special: Special, kind: int) -> Special:
    config = tree.config
    mode = config.dir_mode if kind == stat.S_IFDIR else config.file_mode
    return normalized(special, mode=kind | (mode & ~config.umask & 0o7777), uid=config.uid, gid=config.gid)


# new inodes


def born(tree: Tree, parent: Inode, mode: int, caller: Caller) -> dict[str, Any]:
    """Mode and owner of what `caller` creates; below a setgid directory the directory's group."""
    above = tree.shown(parent)
    gid = caller.gid
    if above.mode & stat.S_ISGID:
        gid = above.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
    return {"mode": mode, "uid": caller.uid, "gid": gid}


def show(inode: Inode, fields: Fields) -> None:
    """The inode is shown with these attributes as long as it lives."""
    state = inode.own
    for name in ("mode", "uid", "gid", "mtime_ns", "atime_ns", "xattrs"):
        if name in fields:
            setattr(state, name, fields[name])


# what is sent next


def describes(file: File) -> bool:
    """Whether the file's headers are known to be what its object has, or will be all there is."""
    return file.base is None or file.headers is not NO_HEADERS


def carry(tree: Tree, inode: Inode, file: File) -> None:
    """The next upload brings what is pending."""
    pending = inode.own.pending
    if pending is not None and describes(file):
        headers = headers_with(tree, file.headers, pending)
        if headers is not file.headers:  # a copy that is due for these stays so
            file.headers = headers


def written(tree: Tree, inode: Inode, file: File) -> None:
    """The bytes change: their time is that of the upload, whatever a program has set before."""
    state = inode.own
    set_since = state.pending is not None and not state.pending.keys().isdisjoint(UNDATED)
    if file.headers is state.undated and not set_since:
        return
    if state.pending is not None:
        left = {name: value for name, value in state.pending.items() if name not in UNDATED}
        state.pending = left or None
    if file.headers.metadata and describes(file):
        file.headers = headers_with(tree, file.headers, _of_bytes(special_of(file.headers.metadata)))
    state.undated = file.headers


def _of_bytes(special: Special) -> Fields:
    """What an object says no more when a program has written to it: its times, and that it is anything but a file."""
    kind = stat.S_IFMT(special.mode or 0)
    if special.mode is None or kind in (0, stat.S_IFREG):
        return UNDATED
    return {**UNDATED, "mode": stat.S_IFREG | stat.S_IMODE(special.mode), "rdev": None}


def described(file: File) -> bool:
    """Whether its headers are known to be what its object has now."""
    fresh = trio.current_time() < file.described_at + FRESH_SECONDS
    return file.base is None or (describes(file) and fresh)


async def describe_again(tree: Tree, inode: Inode, file: File) -> None:
    """Lay what was changed here over what the object carries by now, if that was looked at long ago. Another version is
    left for the condition of the upload to find."""
    base, asked = file.base, trio.current_time()
    if base is None or not file.dirty or file.parted or described(file):
        return
    try:
        headers = (await describe(tree.store, base)).headers
    except Changed:
        return
    if file.base is not base:
        return
    state, file.described_at = inode.own, asked
    if headers.metadata:
        headers = headers_with(tree, headers, _of_bytes(special_of(headers.metadata)))
    if state.pending is not None:
        headers = headers_with(tree, headers, state.pending)
    if headers != file.headers:
        file.headers = headers
    state.undated = file.headers


async def ready(tree: Tree, inode: Inode) -> None:
    """Before a file is stored, and after it."""
    file = inode.own.file
    if file is not None:
        await describe_again(tree, inode, file)
    await announce(tree, inode)


async def announce(tree: Tree, inode: Inode) -> None:
    """If what the file carries is special its directory has a flag."""
    state, parent = inode.own, inode.parent
    if state.file is None or parent is None or tree.config.attributes != "auto":
        return
    special = PLAIN if state.file.parted else special_in(tree, state.file.headers)
    if special:
        await raise_flag(tree, parent.contents, nodes=is_node(special))


# what was stored


def stored(tree: Tree, inode: Inode, file: File) -> None:
    """The file's object, which is `inode.known`, carries `stored_headers` now."""
    state = inode.own
    stored_as(tree, inode, file.stored_headers)
    if file.headers == file.stored_headers:
        state.pending = None


def stored_as(tree: Tree, inode: Inode, headers: Headers) -> None:
    """The object `inode.known` was stored with these headers."""
    known = inode.known
    assert known is not None
    inode.own.carried = (known.etag, headers, trio.current_time())
    if tree.config.attributes == "never":
        inode.special = PLAIN
        return
    # What was told of an object before may look like this one: the same bytes, stored in the same second.
    date_ns = known.last_modified_ns
    info = ObjectInfo(known.key, known.size, known.etag, known.last_modified_ns, date_ns, headers)
    former, special = inode.special, _normalized(tree, tree.told.note(info, trio.current_time()), stat.S_IFREG)
    inode.special = special
    for name in ("mode", "uid", "gid", "xattrs"):
        if name not in (inode.own.pending or {}) and getattr(former, name, None) != getattr(special, name):
            setattr(inode.own, name, None)  # others have changed it, and it was stored with that


def undo(tree: Tree, inode: Inode) -> None:
    """What is pending will not be stored: show what the bucket keeps, and carry that."""
    state, special = inode.own, inode.special or PLAIN
    pending, state.pending = state.pending, None
    if pending is None:
        return
    show(inode, {name: getattr(special, name) for name in pending})
    if state.file is not None and describes(state.file):
        kept = {name: getattr(special, name) for name in {*pending, *UNDATED}}
        if state.file.dirty:
            kept |= UNDATED  # other bytes than those whose time the bucket keeps
        state.file.headers = headers_with(tree, state.file.headers, kept)


# renames


async def known_headers(tree: Tree, inode: Inode) -> Headers:
    """What the object carries, asked for if need be. Raises Changed."""
    state, known = inode.own, inode.known
    file = state.file
    if file is not None and (described(file) or (describes(file) and (file.dirty or file.busy))):
        return file.headers
    assert known is not None
    carried = state.carried
    if carried is not None and carried[0] == known.etag and trio.current_time() < carried[2] + FRESH_SECONDS:
        return carried[1]
    return (await describe(tree.store, Version(known.key, known.etag, known.size))).headers


def dated(tree: Tree, inode: Inode, fields: Fields, headers: Headers) -> dict[str, Any]:
    """`fields` for a copy of bytes that nobody has written: their time is not that of the copy. What the kernel was
    told of it stays."""
    state, shown = inode.own, tree.shown(inode)
    if state.mtime_ns is None:
        state.mtime_ns, state.atime_ns = shown.mtime_ns, shown.atime_ns
    if "mtime_ns" in fields or special_of(headers.metadata).mtime_ns is not None:
        return dict(fields)
    return {**fields, "mtime_ns": shown.mtime_ns}


async def lend(tree: Tree, inode: Inode, parent: Inode) -> tuple[Fields, Headers] | None:
    """What is pending, and the headers with which a copy below `parent` brings it; None when the copy shall keep what
    is there. Ends with `carried_by_copy` or `give_back`."""
    state, file = inode.own, inode.own.file
    pending = state.pending
    if pending is None or inode.known is None or (file is not None and (file.dirty or file.busy)):
        return None
    try:
        headers = await known_headers(tree, inode)
    except Changed:
        return None  # the move will find it out, too
    if state.pending is not pending:
        return None  # stored meanwhile
    headers = headers_with(tree, headers, dated(tree, inode, pending, headers))
    state.pending, state.lent = None, trio.Event()
    try:
        if special := special_in(tree, headers):
            await raise_flag(tree, parent.contents, nodes=is_node(special))
    except BaseException:
        give_back(inode, pending)
        raise
    return pending, headers


def give_back(inode: Inode, pending: Fields) -> None:
    """The copy was not made."""
    state = inode.own
    state.pending = {**pending, **(state.pending or {})}
    _end_of_loan(inode)


def _end_of_loan(inode: Inode) -> None:
    state = inode.own
    lent, state.lent = state.lent, None
    assert lent is not None
    lent.set()


def carried_by_copy(tree: Tree, inode: Inode, pending: Fields, headers: Headers) -> None:
    """The copy was made with these headers."""
    state, file = inode.own, inode.own.file
    _end_of_loan(inode)
    if file is not None and (file.dirty or file.busy):
        # Somebody has written meanwhile, and what he stores brings them too.
        state.pending = {**{name: pending[name] for name in pending if name not in UNDATED}, **(state.pending or {})}
        carry(tree, inode, file)
        return
    stored_as(tree, inode, headers)
    if file is not None:
        file.headers = headers
        carry(tree, inode, file)
