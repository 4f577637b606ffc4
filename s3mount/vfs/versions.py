"""One version goes to another key: by a rename where the store has it, else by a copy of exactly it and a delete on
condition of it.

Knows no inode and no directory. A crash or failure between copy and delete leaves both keys, never none. A rename is
conditional on the absence of its target, so that what nobody here has seen is not replaced; who means to replace
something copies.
"""

import logging
from collections.abc import Awaitable, Callable

from s3mount.data.version import HalfMoved, Version
from s3mount.errors import LostReply, NotImplementedByStore, PreconditionFailed
from s3mount.store.base import ABSENT, ALWAYS, Condition, Headers, Listed
from s3mount.vfs.keys import escaped
from s3mount.vfs.tree import Tree

log = logging.getLogger(__name__)


async def _never() -> bool:
    return False


async def move_version(tree: Tree, key: str, version: Version) -> Version:
    """Move one version to a key that has none. Raises NotFound and PreconditionFailed before anything changed,
    HalfMoved."""
    if version.key == key:
        return version  # an earlier try had done it all
    if not tree.store.renames:
        return await copy_version(tree, key, version)
    moved = Version(key, version.etag, version.size)
    try:
        await tree.store.rename(version.key, key, source_etag=version.etag, source_size=version.size, condition=ABSENT)
    except NotImplementedByStore:
        return await copy_version(tree, key, version)
    except LostReply as error:
        raise HalfMoved(moved, error) from error
    return moved


async def copy_version(
    tree: Tree,
    key: str,
    version: Version,
    *,
    condition: Condition = ALWAYS,
    overtaken: Callable[[], Awaitable[bool]] = _never,
    headers: Headers | None = None,
) -> Version:
    """Copy one version to another key, with other `headers` if there are, and delete it; copy again as long as the copy
    may have been `overtaken` by what another wrote there. Raises NotFound and PreconditionFailed before anything
    changed, HalfMoved."""
    if version.key == key:
        return version
    stored = await tree.store.copy(
        version.key, key, source_etag=version.etag, source_size=version.size, headers=headers, condition=condition
    )
    while await overtaken():
        # the source is still there
        stored = await tree.store.copy(
            version.key, key, source_etag=version.etag, source_size=version.size, headers=headers
        )
    moved = Version(key, stored.etag, version.size, stored.version_id)
    try:
        await tree.store.delete(version.key, Condition(etag=version.etag))
    except LostReply as error:
        raise HalfMoved(moved, error) from error
    except PreconditionFailed:
        log.warning("rename left a newer object at its old name key=%s", escaped(version.key))
    return moved


def as_listed(tree: Tree, version: Version) -> Listed:
    """What a listing would tell of a version that was stored just now."""
    return Listed(version.key, version.size, version.etag, tree.wall_ns())
