"""Extended attributes of files and directories: `user.*`, stored with the other attributes, in the encoding of s3fs.

No state: what is shown is `State.xattrs` of a file that was changed here, else what the bucket keeps (`Inode.special`).
The kernel holds an inode for the whole of a change, so two changes of one inode do not overlap. Names that are not
`user.*` are neither shown nor changed, and stay as other programs have stored them. Whether a change has room is found
out before it is answered.
"""

import stat
from collections.abc import Mapping

import trio

from s3mount.data.version import Changed
from s3mount.errors import NoAttribute
from s3mount.store.base import Headers
from s3mount.vfs.attributes import PLAIN
from s3mount.vfs.carrying import describes, headers_with, known_headers, special_in
from s3mount.vfs.changing import Changing
from s3mount.vfs.directory_attributes import look_at_directory
from s3mount.vfs.exact import Exact
from s3mount.vfs.inodes import Inode
from s3mount.vfs.tree import Tree

USER = "user."


class Xattrs:
    """See the module. Names are bytes of any kind but NUL; the kernel has seen to their length."""

    def __init__(self, tree: Tree, changing: Changing, exact: Exact) -> None:
        self._tree = tree
        self._changing = changing
        self._exact = exact

    async def get(self, inode: Inode, name: bytes) -> bytes:
        """Raises NoAttribute."""
        await self._look(inode)
        return _value(inode, _text(name))

    async def names(self, inode: Inode) -> list[bytes]:
        """Of what has such attributes: a link or a device has none, whatever its object carries."""
        await self._look(inode)
        if inode.children is None and not stat.S_ISREG(self._tree.shown(inode).mode):
            return []
        return [name.encode(errors="surrogateescape") for name in sorted(_shown(inode)) if name.startswith(USER)]

    async def set(self, inode: Inode, name: bytes, value: bytes) -> None:
        """One request at most where others are held for company. Raises MetadataFull."""
        await self._begin(inode)
        text = _text(name)
        if _shown(inode).get(text) != value:
            await self._store(inode, {**_shown(inode), text: value})

    async def remove(self, inode: Inode, name: bytes) -> None:
        """Raises NoAttribute."""
        await self._begin(inode)
        text = _text(name)
        _value(inode, text)
        await self._store(inode, {other: value for other, value in _shown(inode).items() if other != text})

    # inside

    async def _begin(self, inode: Inode) -> None:
        self._tree.check_changeable()
        self._changing.report(inode)
        await self._look(inode)

    async def _look(self, inode: Inode) -> None:
        """Know what is shown of the inode."""
        await self._exact.renew(inode)
        if inode.special is not None:
            return
        if inode.children is not None:
            await look_at_directory(self._tree, inode)
        elif inode.known is not None:
            inode.special = special_in(self._tree, await self._headers(inode))

    async def _store(self, inode: Inode, xattrs: Mapping[str, bytes]) -> None:
        tree, state = self._tree, inode.own
        if inode.children is None and inode.linked and inode.known is not None:
            # The copy that stores them says the time of the bytes, too.
            others = {**(state.pending or {}), "mtime_ns": tree.shown(inode).mtime_ns}
            headers_with(tree, await self._headers(inode), {**others, "xattrs": xattrs})
        await self._changing.store_special(inode, {"xattrs": xattrs})
        if inode.children is None:
            state.xattrs = xattrs
        state.ctime_ns = tree.wall_ns()

    async def _headers(self, inode: Inode) -> Headers:
        """What the object of a file carries; remembered for the copy that follows. Raises Stale."""
        known, state = inode.known, inode.own
        assert known is not None
        try:
            headers = await known_headers(self._tree, inode)
        except Changed as changed:
            raise self._tree.remember(inode, changed.info) from changed
        if inode.known is known and (state.file is None or not describes(state.file)):
            state.carried = known.etag, headers, trio.current_time()
        return headers


def _shown(inode: Inode) -> Mapping[str, bytes]:
    own = inode.state.xattrs if inode.state is not None else None
    return own if own is not None else (inode.special or PLAIN).xattrs or {}


def _value(inode: Inode, name: str) -> bytes:
    value = _shown(inode).get(name)
    if value is None:
        raise NoAttribute(f"{inode.path}: no attribute {name!r}")
    return value


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
