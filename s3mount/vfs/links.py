"""Where symbolic links point: the body of the object, or what some programs keep in its metadata instead. No state."""

import stat

from s3mount.data.version import Version
from s3mount.errors import Invalid, NotFound, Stale
from s3mount.vfs.inodes import Inode
from s3mount.vfs.metadata import link_target_of
from s3mount.vfs.told import PATH_MAX_BYTES
from s3mount.vfs.tree import Tree


async def read_link(tree: Tree, inode: Inode) -> bytes:
    """readlink(2). Raises Invalid when it is no link or says nothing a path can be, Stale when the object is another
    version: Linux then looks the path up again."""
    listed = inode.known
    if not stat.S_ISLNK(tree.shown(inode).mode) or listed is None or listed.size >= PATH_MAX_BYTES:
        raise Invalid(f"{inode.path}: not a symbolic link")
    try:
        if listed.size:
            target = bytearray(listed.size)
            version = Version(listed.key, listed.etag, listed.size)
            await tree.storage.blocks.read_into(version, 0, memoryview(target))
            found = bytes(target)
        else:
            found = link_target_of((await tree.store.head(listed.key)).headers.metadata) or b""
    except (NotFound, Stale) as error:
        if inode.parent is not None and inode.linked:
            inode.parent.contents.doubt(inode.name)
            tree.inodes.detach(inode)
        raise Stale(f"{inode.path}: the object is another version now") from error
    if not found or b"\0" in found:
        raise Invalid(f"{inode.path}: the target of the link is no path")
    return found
