"""What `s3mount status` shows of the names and files of a mount: counts, limits, paths; asks no store. No state."""

from math import inf

import trio

from s3mount.data.intents import Intent
from s3mount.data.progress import Backlog, Progress
from s3mount.vfs.changing import Changing
from s3mount.vfs.closing import named, unstored
from s3mount.vfs.tree import Tree

PATHS_MAX = 100
"""A list for people; the count beside it is whole."""


def figures(tree: Tree, changing: Changing) -> dict[str, object]:
    """Files that are not stored and why, what was answered and then failed, renames, and what memory holds of names
    against its limits."""
    return {**_files(tree), **_failures(tree, changing), **_renames(tree), **_names(tree)}


def counts(tree: Tree, handles: int) -> dict[str, int]:
    """How much is held for the kernel, quickly."""
    return {
        "handles": handles,
        "inodes": len(tree.inodes),
        "listed_names": tree.listings.names,
        "attributes_remembered": len(tree.told),
    }


def _files(tree: Tree) -> dict[str, object]:
    dirty: list[tuple[str, Backlog, bool]] = []  # a conflict's copy may have the path of another
    failing: list[str] = []
    conflicts: list[str] = []
    uploads: list[tuple[str, Progress]] = []
    writers = 0
    for inode in tree.with_files:
        state = inode.state
        if state is None or state.file is None or not named(inode):
            continue
        writers += state.writers
        backlog = state.file.backlog
        if unstored(state):
            dirty.append((inode.path, backlog, state.handles > 0))
        if backlog.upload is not None:
            uploads.append((inode.path, backlog.upload))
        if state.failing:
            failing.append(inode.path)
        if state.file.parted:
            conflicts.append(inode.path)
    now = trio.current_time()
    aged = sorted([(_age(backlog.since, now), path, backlog.bytes, is_open) for path, backlog, is_open in dirty])[::-1]
    return {
        "dirty_files": _paths([path for path, _, _ in dirty]),
        "dirty": {
            "bytes": sum([backlog.bytes for _, backlog, _ in dirty]),
            "oldest_seconds": aged[0][0] if aged else 0.0,
            "files": [
                {"path": path, "bytes": unsent_bytes, "seconds": seconds, "open": is_open}
                for seconds, path, unsent_bytes, is_open in aged[:PATHS_MAX]
            ],
        },
        "uploads": {
            "count": len(uploads),
            "under_way": [_upload(path, upload, now) for path, upload in sorted(uploads, key=_began)[:PATHS_MAX]],
        },
        "files_not_stored": _paths(failing),
        "conflicts_open": _paths(conflicts),
        "handles_for_writing": writers,
        "stopping": tree.refuses_writers,
    }


def _age(since: float | None, now: float) -> float:
    return 0.0 if since is None else round(now - since, 1)


def _began(upload: tuple[str, Progress]) -> float:
    """Those that a program waits for come first, the longest wait at the top."""
    return inf if upload[1].began is None else upload[1].began


def _upload(path: str, upload: Progress, now: float) -> dict[str, object]:
    return {
        "path": path,
        "done_bytes": upload.done_bytes,
        "total_bytes": upload.total_bytes,
        "parts_done": upload.parts_done,
        "parts_total": upload.parts_total,
        "seconds": None if upload.began is None else _age(upload.began, now),
        "still_written": upload.began is None,
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
        "hidden_examples": dict(list(tree.hidden_examples.items())[:PATHS_MAX]),
        "names": {"inodes": len(tree.inodes)},
        "listed_names": {"held": listings.names, "max": listings.names_max},
        "cache_of_names": {"hits": listings.names_known, "misses": listings.names_asked},
        "cache_of_listings": {"hits": listings.pages_known, "misses": listings.pages_asked},
        "cache_of_attributes": {"hits": tree.told.lookups_known, "misses": tree.told.lookups_asked},
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
