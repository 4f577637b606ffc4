"""Flags: the object `.s3mount-attrs` in a directory says that attributes of its entries may be special.

A flag is put before the first entry with special attributes is stored in the directory, and looked for again after it.
The directory's own special attributes are the flag's metadata. What is known of a flag is in `Directory`.
"""

from contextlib import suppress

import trio

from s3mount.config import RESERVED
from s3mount.errors import PreconditionFailed
from s3mount.store.base import ABSENT, Headers
from s3mount.vfs.directory import Directory
from s3mount.vfs.tree import Tree

FLAG = f"{RESERVED}-attrs"
FLAG_HEADERS = Headers(content_type="application/octet-stream")


async def raise_flag(tree: Tree, directory: Directory) -> None:
    """The bucket has the directory's flag when this returns; one that is there stays as it is."""
    now = trio.current_time()
    if directory.flag and directory.flag_at + tree.config.metadata_ttl_seconds > now:
        return
    with suppress(PreconditionFailed):
        await tree.store.put(directory.prefix + FLAG, (), FLAG_HEADERS, ABSENT)
    directory.flag, directory.flag_at = True, now
