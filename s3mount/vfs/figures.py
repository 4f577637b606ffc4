"""What `s3mount status` shows of the names and files of a mount: counts, limits, paths; asks no store. No state."""

from s3mount.vfs.closing import named, unstored
from s3mount.vfs.tree import Tree

PATHS_MAX = 100
"""A list for people; the count beside it is whole."""


def figures(tree: Tree) -> dict[str, object]:
    """Dirty files, files that could not be stored or deleted, conflicts, hidden keys, names against their limits."""
    dirty: list[str] = []
    failing: list[str] = []
    conflicts: list[str] = []
    writers = 0
    for inode in tree.inodes:
        state = inode.state
        if state is None or not named(inode):
            continue
        writers += state.writers
        if unstored(state):
            dirty.append(inode.path)
        if state.failing:
            failing.append(inode.path)
        if state.file is not None and state.file.parted:
            conflicts.append(inode.path)
    return {
        "dirty_files": _paths(dirty),
        "files_not_stored": _paths(failing),
        "conflicts_open": _paths(conflicts),
        "deletions_that_failed": [failure._asdict() for failure in tree.deleting.failures],
        "handles_for_writing": writers,
        "stopping": tree.refuses_writers,
        "hidden_keys": {"count": tree.hidden_count, "prefixes": dict(list(tree.hidden.items())[:PATHS_MAX])},
        "names": {"inodes": len(tree.inodes), "inodes_max": tree.config.names_max},
        "listed_names": {"held": tree.listings.names, "max": tree.listings.names_max},
    }


def _paths(paths: list[str]) -> dict[str, object]:
    return {"count": len(paths), "paths": sorted(paths)[:PATHS_MAX]}
