"""What `s3mount status` shows of the names and files of a mount: counts, limits, paths; asks no store. No state."""

from s3mount.data.intents import Intent
from s3mount.vfs.changing import Changing
from s3mount.vfs.closing import named, unstored
from s3mount.vfs.tree import Tree

PATHS_MAX = 100
"""A list for people; the count beside it is whole."""


def figures(tree: Tree, changing: Changing) -> dict[str, object]:
    """Files that are not stored and why, what was answered and then failed, renames, and what memory holds of names
    against its limits."""
    return {**_files(tree), **_failures(tree, changing), **_renames(tree), **_names(tree)}


def _files(tree: Tree) -> dict[str, object]:
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
        "handles_for_writing": writers,
        "stopping": tree.refuses_writers,
    }


def _failures(tree: Tree, changing: Changing) -> dict[str, object]:
    return {
        "attributes_held": _paths(changing.paths()),
        "attributes_that_failed": [failure._asdict() for failure in changing.failures],
        "deletions_that_failed": [failure._asdict() for failure in tree.deleting.failures],
    }


def _renames(tree: Tree) -> dict[str, object]:
    """Of directories: those under way here, those that could not end, those of other instances as the start saw
    them."""
    return {
        "renames": [
            {"from": _path(tree, move.former), "to": _path(tree, move.target), "done": move.done, "total": move.total}
            for move in tree.transits.progress.values()
        ],
        "renames_unfinished": [_intent(tree, intent) for intent in tree.undertakings.unfinished.values()][:PATHS_MAX],
        "renames_elsewhere": [_intent(tree, intent) for intent in tree.undertakings.foreign[:PATHS_MAX]],
    }


def _names(tree: Tree) -> dict[str, object]:
    config, listings = tree.config, tree.listings
    return {
        "hidden_keys": {"count": tree.hidden_count, "prefixes": dict(list(tree.hidden.items())[:PATHS_MAX])},
        "names": {"inodes": len(tree.inodes)},
        "listed_names": {"held": listings.names, "max": listings.names_max},
        "attributes_remembered": {"versions": len(tree.told), "max": config.attributes_remembered_max},
        "walks": {
            "under_way": tree.walks.under_way,
            "directories_ahead": len(listings.shelf),
            "refused": tree.walks.refused,
        },
    }


def _intent(tree: Tree, intent: Intent) -> dict[str, object]:
    return {
        "from": _path(tree, intent.former),
        "to": _path(tree, intent.target),
        "phase": intent.phase,
        "host": intent.host,
        "began_ns": intent.at_ns,
    }


def _path(tree: Tree, key: str) -> str:
    """As the mount shows it; what another mount's prefix has stays a key."""
    return key.removeprefix(tree.config.prefix)


def _paths(paths: list[str]) -> dict[str, object]:
    return {"count": len(paths), "paths": sorted(paths)[:PATHS_MAX]}
