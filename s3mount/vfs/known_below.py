"""All objects below a directory: what the store lists, or in an outage what is known here, if that is all of it. No
state."""

from s3mount.data.finishing import list_all
from s3mount.errors import NotFound, Unavailable
from s3mount.store.base import Listed
from s3mount.vfs.directory import Directory
from s3mount.vfs.flags import FLAG
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import DIRECTORY
from s3mount.vfs.tree import Tree


async def list_below(tree: Tree, inode: Inode) -> list[Listed]:
    """In the order of keys. Raises TooMany, Unavailable."""
    try:
        return await list_all(tree.store, inode.contents.prefix, objects_max=tree.config.rename_objects_max)
    except Unavailable:
        if not tree.store.away:
            raise
        return sorted(await _known_below(tree, inode))


async def _known_below(tree: Tree, top: Inode) -> list[Listed]:
    """Raises Unavailable when it may not be all."""
    found: list[Listed] = []
    waiting = [top]
    while waiting:
        inode = waiting.pop()
        directory = inode.contents
        if not directory.is_whole or directory.prefix in tree.hidden:
            for unneeded in [inode, *waiting]:
                tree.inodes.release(unneeded)
            raise Unavailable(f"{inode.path}: what is in it is not known, and the store is away")
        for span in directory.pages:
            for name, entry in span.entries.items():
                if isinstance(entry, Listed):
                    found.append(entry)
                elif entry is DIRECTORY:
                    waiting.append(tree.inodes.bind_directory(inode, name))
        found += await _kept_beside(tree, directory)
        tree.inodes.release(inode)
    return found


async def _kept_beside(tree: Tree, directory: Directory) -> list[Listed]:
    """Marker and flag: no listing that is kept has them, but of those that were put here the store can tell."""
    found: list[Listed] = []
    for key, known in ((directory.prefix, directory.marker), (directory.prefix + FLAG, directory.flag)):
        if known is not False:
            try:
                info = await tree.store.head(key)
            except NotFound:
                continue
            found.append(Listed(info.key, info.size, info.etag, info.last_modified_ns))
    return found
