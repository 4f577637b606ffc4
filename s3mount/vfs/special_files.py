"""Names of what is no regular file: symbolic links, FIFOs, sockets, devices.

Each is an object whose metadata says what it is; of a link the body is its target, the others have none. No state. The
flag of the directory is there before the object, and speaks of such.
"""

import stat
from collections.abc import Mapping
from typing import Any

import trio

from s3mount.errors import Exists, Invalid, NameTooLong, NotPermitted, NotSupported, PreconditionFailed, S3MountError
from s3mount.store.base import ABSENT, Listed
from s3mount.vfs.attributes import Caller
from s3mount.vfs.carrying import born, headers_with, show, stored_as
from s3mount.vfs.flags import raise_flag
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import new_name
from s3mount.vfs.lookup import known, resolve
from s3mount.vfs.tree import Tree

TARGET_MAX_BYTES = 4095
LINK_MODE = stat.S_IFLNK | 0o777


async def symlink(tree: Tree, parent: Inode, name: bytes, target: bytes, caller: Caller) -> Inode:
    """Store a link. Raises Exists, NotPermitted."""
    tree.check_writable()
    if tree.config.attributes == "never":
        raise NotPermitted("--attributes never: a link would be a file everywhere else")
    if not target:
        raise Invalid("a link leads somewhere")
    if len(target) > TARGET_MAX_BYTES:
        raise NameTooLong(f"target of {len(target)} bytes")
    return await _store(tree, parent, name, target, born(tree, parent, LINK_MODE, caller), caller)


async def make_node(tree: Tree, parent: Inode, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
    """Store a FIFO, a socket or a device. Raises Exists, NotSupported."""
    tree.check_writable()
    if tree.config.attributes == "never":
        raise NotSupported("--attributes never: a device would be a file everywhere else")
    fields = born(tree, parent, mode, caller)
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        fields["rdev"] = rdev
    return await _store(tree, parent, name, b"", fields, caller)


async def _store(
    tree: Tree, parent: Inode, name: bytes, body: bytes, fields: Mapping[str, Any], caller: Caller
) -> Inode:
    text = new_name(name)
    tree.deleting.end_burst(caller)
    if await tree.deleting.settle_name(parent, text):
        await resolve(tree, parent, text)
    key = tree.check_new(parent, text)
    found = known(tree, parent, text, trio.current_time())
    if found is not None and found[0] is not None:
        raise Exists(found[0].path)
    headers = headers_with(tree, tree.headers_of_new(text), fields)
    try:
        await _flag(tree, parent)
        stored = await tree.store.put(key, (body,) if body else (), headers, ABSENT)
        await _flag(tree, parent)
    except S3MountError as error:
        tree.distrust(parent, text)  # it may have had its effect
        if isinstance(error, PreconditionFailed):
            raise Exists(f"{parent.path}/{text}") from error
        raise
    if parent.contents.prefix + text != key:
        # A directory above was moved meanwhile, without this.
        await tree.store.delete(key)
        return await _store(tree, parent, name, body, fields, caller)
    inode = tree.inodes.bind_created(parent, text)
    state = inode.own
    inode.lookups += 1
    inode.known = Listed(key, len(body), stored.etag, stored.last_modified_ns)
    stored_as(tree, inode, headers)
    tree.stored_here(inode)
    show(inode, fields)
    state.mtime_ns = state.ctime_ns = state.atime_ns = tree.wall_ns()
    tree.note(parent, text, inode.known)
    tree.touched(parent)
    return inode


async def _flag(tree: Tree, parent: Inode) -> None:
    if tree.config.attributes == "auto":
        await raise_flag(tree, parent.contents, nodes=True)
