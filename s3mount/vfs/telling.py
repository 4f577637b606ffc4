"""Telling the entries of a page: inodes for those that have none, and what the kernel is told of each.

Synchronous: nothing changes while a page is told. Most entries of most listings are files that nobody knows yet and
whose attributes are the defaults for good; for them this is all the daemon does, ten thousand times for an `ls -l`, so
they go a short way of their own, on which everything that is the same for all of them is found out once. All others,
and what this mount knows better, take the way of single names (`Tree.adopt`, `Tree.show`).
"""

from collections.abc import Callable

import trio

from s3mount.store.base import Listed
from s3mount.vfs.attributes import Attributes
from s3mount.vfs.inodes import Inode
from s3mount.vfs.spans import Span
from s3mount.vfs.tree import Tree

Emit = Callable[[bytes, Attributes, int], bool]


def tell(tree: Tree, parent: Inode, span: Span, position: str, emit: Emit, next_id: int) -> tuple[list[str], bool]:
    """Tell the span's entries after `position`; the names told, and whether that was all: `emit` refuses when its
    reply is full."""
    directory, dentries, entries = parent.contents, parent.dentries, span.entries
    now = trio.current_time()
    entry_seconds = tree.entry_seconds(directory.until(span), now)
    plain_until_ns = tree.plain_until_ns(directory)
    remembered, bind_plain, show_plain = tree.told, tree.inodes.bind_plain, tree.show_plain
    names = span.after(position)
    told: list[str] = []
    for name in names:
        child = dentries.get(name)
        if (
            child is None
            and type(entry := entries[name]) is Listed
            and entry.last_modified_ns <= plain_until_ns
            and (not remembered or remembered.find(entry, now) is None)
        ):
            child = bind_plain(parent, name, entry)
            shown = show_plain(child.ino, entry, entry_seconds)
        else:
            if child is None or not child.held:
                child = tree.adopt(parent, name, entries[name])
                if child is None:
                    continue
            shown = tree.show(child, entry_seconds) if tree.is_exact(child, now) else tree.show_name(child)
        child.lookups += 1
        if not emit(name.encode(), shown, next_id):
            child.lookups -= 1
            tree.inodes.release(child)
            return told, False
        next_id += 1
        told.append(name)
    return told, True
