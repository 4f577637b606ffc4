"""What is below a directory that moves: its inodes here, and where each object is now.

No state. Sends nothing, and knows nothing of the order of a move.
"""

from typing import NamedTuple

from s3mount.data.file import File
from s3mount.store.base import Listed
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import BEGIN, END, Entry
from s3mount.vfs.spans import Span
from s3mount.vfs.tree import Tree


class Copy(NamedTuple):
    """One object that is at its new key; `renamed`: and at its former one no more."""

    source: Listed
    target: str
    etag: str
    renamed: bool = False


def files_below(inode: Inode) -> list[tuple[Inode, File]]:
    found = []
    for child in inode.dentries.values():
        if child.children is not None:
            found.extend(files_below(child))
        elif child.state is not None and child.state.file is not None:
            found.append((child, child.state.file))
    return found


def forget(inode: Inode) -> None:
    """What was listed below while objects were on their way is not believed."""
    inode.contents.forget_all()
    for child in inode.dentries.values():
        if child.children is not None:
            forget(child)


def _moved_page(inode: Inode, copies: dict[str, Copy]) -> Span | None:
    """The listing of a directory as it is once it has moved, for an outage in which it cannot be asked for; None when
    it is not whole."""
    directory = inode.contents
    if not directory.is_whole:
        return None
    entries: dict[str, Entry] = {}
    for name, entry in [each for span in directory.pages for each in span.entries.items()]:
        entries[name] = entry
        if isinstance(entry, Listed):
            copied, child = copies.get(entry.key), inode.dentries.get(name)
            if copied is not None:
                entries[name] = Listed(copied.target, entry.size, copied.etag, entry.last_modified_ns)
            elif child is not None and child.known is not None:
                entries[name] = child.known  # moved while it was open
            else:
                return None
    return Span(BEGIN, END, entries, fetched=min(span.fetched for span in directory.pages))


def repoint(tree: Tree, inode: Inode, prefix: str, copies: dict[str, Copy]) -> None:
    """Point the inodes below to their new keys; listings of the old ones go, or in an outage along."""
    directory = inode.contents
    page = _moved_page(inode, copies) if tree.store.away else None
    directory.forget_all()
    directory.prefix = prefix
    tree.exists(prefix)
    if page is not None:
        directory.add_page(page)
    for name, child in list(inode.dentries.items()):
        if child.children is not None:
            repoint(tree, child, f"{prefix}{name}/", copies)
        elif child.state is None or child.state.file is None:
            copied = copies.get(child.key)
            if copied is None and child.key == prefix + name:
                continue  # moved while it was open
            if copied is None:
                tree.inodes.detach(child)
                continue
            state = child.own
            if state.mtime_ns is None:
                state.mtime_ns = tree.shown(child).mtime_ns
            tree.stored_here(child)
            child.known = Listed(copied.target, copied.source.size, copied.etag, copied.source.last_modified_ns)
