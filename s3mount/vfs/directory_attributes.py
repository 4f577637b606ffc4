"""A directory's own special attributes: the metadata of the flag inside it, whose parent is flagged first.

No state. Each change is stored before it is answered.
"""

import stat

import trio

from s3mount.errors import Exists, NotFound, PreconditionFailed, Unavailable
from s3mount.store.base import ABSENT, Condition, Headers
from s3mount.vfs.carrying import Fields, headers_with, special_in
from s3mount.vfs.flags import FLAG, FLAG_HEADERS, flag_body, is_put, raise_flag
from s3mount.vfs.inodes import Inode
from s3mount.vfs.tree import Tree

KEPT = ("mode", "uid", "gid", "mtime_ns", "atime_ns", "xattrs")
TRIES_MAX = 5
"""How often another client may be quicker with the same flag."""


async def describe_new(tree: Tree, parent: Inode, prefix: str, fields: Fields) -> Headers | None:
    """Before the marker of a new directory: store what is special about it; None: nothing is. Raises Exists."""
    headers = headers_with(tree, FLAG_HEADERS, fields, kind=stat.S_IFDIR)
    if headers is FLAG_HEADERS:
        return None
    await _flag_parent(tree, parent)
    try:
        await tree.store.put(prefix + FLAG, flag_body(tree.store, nodes=False), headers, ABSENT)
    except PreconditionFailed as error:
        parent.contents.forget_all()
        raise Exists(prefix) from error
    return headers


async def describe_directory(tree: Tree, inode: Inode, fields: Fields) -> None:
    """Store changed attributes of a directory that is there."""
    directory = inode.contents
    for _ in range(TRIES_MAX):
        key = directory.prefix + FLAG
        try:
            info = await tree.store.head(key)
            former, condition = info.headers, Condition(etag=info.etag)
            nodes, date_ns = info.size > 0, info.date_ns
            said: Fields = {}
        except NotFound:
            former, condition = FLAG_HEADERS, ABSENT
            nodes, date_ns = directory.flag_owed, 0
            # The marker may have said more, of which no notice is taken beside a flag.
            said = {} if inode.special is None else {name: getattr(inode.special, name) for name in KEPT}
        headers = headers_with(tree, former, {**said, **fields, "ctime_ns": None}, kind=stat.S_IFDIR)
        if headers is not former:
            if inode.parent is not None:
                await _flag_parent(tree, inode.parent)
            try:
                body = flag_body(tree.store, nodes=nodes or directory.nodes_owed)
                stored = await tree.store.put(key, body, headers, condition)
                nodes, date_ns = bool(body), stored.last_modified_ns
            except PreconditionFailed:
                continue
        if directory.removed or directory.prefix + FLAG != key:
            # It went, or moved without this.
            await tree.store.delete(key)
            if directory.removed:
                return
            continue
        if condition is not ABSENT or headers is not former:
            is_put(directory, date_ns, nodes=nodes)
        told(tree, inode, headers)
        return
    raise Unavailable(f"{inode.path}: others change its attributes again and again")


async def look_at_directory(tree: Tree, inode: Inode) -> None:
    """Learn what is special about a directory."""
    try:
        headers = (await tree.store.head(inode.contents.prefix + FLAG)).headers
    except NotFound:
        headers = FLAG_HEADERS
    told(tree, inode, headers)


def told(tree: Tree, inode: Inode, headers: Headers) -> None:
    """The directory's flag carries these headers, if there is one."""
    inode.special = special_in(tree, headers, kind=stat.S_IFDIR)
    known = tree.told.note_directory(inode.contents.prefix, inode.special, trio.current_time())
    inode.exact_until = known.until


async def _flag_parent(tree: Tree, parent: Inode) -> None:
    if tree.config.attributes == "auto":
        await raise_flag(tree, parent.contents, nodes=False)
