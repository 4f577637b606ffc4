"""Subtree listing: one LIST without a delimiter tells a walk of all the directories that it will come by next.

Asked when a walker needs a directory that is not known, and then once it has read a part of what the latest page told:
the next page comes while the daemon tells of this one. So a directory that is never entered costs nothing, and a walk
that stops one page at most. A page that is cut in the directory needed is followed by a few more, then by the
directory's own listing. What a reply tells of directories in which something was changed here meanwhile is not taken
over, nor what may belong to directories that were moved.
"""

import logging

import trio

from s3mount.errors import AccessDenied, S3MountError
from s3mount.store.base import Page
from s3mount.vfs.directory import Directory
from s3mount.vfs.flags import FLAG, note_flag
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import BEGIN, DIRECTORY, escaped
from s3mount.vfs.shelf import Meanwhile, Shelved
from s3mount.vfs.spans import Span
from s3mount.vfs.subtree import Told, read_walk
from s3mount.vfs.tree import Tree
from s3mount.vfs.walks import Walk

log = logging.getLogger(__name__)

PAGES_OF_ONE_MAX = 3
"""So many pages cut in one directory, and its own listing tells the rest: below it lies more than it holds."""


async def ask_walk(tree: Tree, inode: Inode, position: str) -> bool:
    """Whether a walk may have told what follows `position` in a directory of which that is not known."""
    walk = tree.walks.read(inode.contents.prefix, trio.current_time())
    if walk is None:
        return False
    _lend(tree, walk)
    return await _ask(tree, walk, inode, position)


async def look_ahead(tree: Tree, inode: Inode) -> bool:
    """The same for a directory in which a name is looked up, when others before it were looked into in their order."""
    walk = tree.walks.looked_into(inode.contents.prefix, trio.current_time())
    if walk is None:
        return False
    _lend(tree, walk)
    return await _ask(tree, walk, inode, BEGIN)


def _lend(tree: Tree, walk: Walk) -> None:
    """The directory that is walked was listed before the walk was known for one: that listing serves it as well."""
    root = tree.inodes.root
    inode = root if walk.prefix == root.contents.prefix else tree.inodes.directory_at(walk.prefix)
    for span in inode.contents.pages if inode is not None else ():
        span.lent = walk.lease


def walk_ahead(tree: Tree, directory: Directory, span: Span) -> None:
    """A walk was told of a directory: ask for its next page once a part of its latest one was used."""
    walk = tree.walks.of(span)
    if walk is not None and walk.is_used(directory.prefix) and not walk.lock.locked():
        tree.background(_ask_ahead, tree, walk, walk.token)


async def _ask_ahead(tree: Tree, walk: Walk, token: str) -> None:
    walk.earn()
    if walk.credit < 1 or walk.token != token or walk.lock.locked() or tree.moving:
        return
    walk.credit -= 1
    async with walk.lock:
        await _next_page(tree, walk)


async def _ask(tree: Tree, walk: Walk, inode: Inode, position: str) -> bool:
    prefix = inode.contents.prefix
    if walk.lock.locked():
        async with walk.lock:
            return True  # another page has come, with this directory perhaps
    cut = walk.cuts.get(prefix)
    if cut is not None and (cut.start != position or cut.pages >= PAGES_OF_ONE_MAX):
        del walk.cuts[prefix]
        return False
    if walk.credit < 1 or tree.moving or (cut is None and position != BEGIN):
        return False
    if cut is None:
        walk.begin(prefix)
    walk.credit -= 1
    walk.lock.acquire_nowait()
    try:
        await _next_page(tree, walk)
    finally:
        walk.lock.release()
    cut = walk.cuts.get(prefix)
    if cut is not None and cut.start == position:
        del walk.cuts[prefix]  # all of the page lay below one entry
        return False
    return True


async def _next_page(tree: Tree, walk: Walk) -> None:
    """One more page of the walk. A failure is left to the listing of the directory that is needed."""
    fetched = trio.current_time()
    token = walk.token
    with tree.listings.shelf.request() as meanwhile:
        try:
            start_after = walk.began if token is None else ""
            page = await tree.store.list_page(walk.prefix, start_after=start_after, token=token)
        except S3MountError as error:
            log.info("subtree listing was given up prefix=%s reason=%s", escaped(walk.prefix), error)
            tree.walks.refused = isinstance(error, AccessDenied)
            walk.begin(walk.prefix)
            walk.credit = 0.0
            return
        if tree.moving:
            walk.begin(walk.prefix)
            return
        _take(tree, walk, page, fetched, meanwhile)
    sweep_later(tree)


def sweep_later(tree: Tree) -> None:
    """See that the shelf is swept as long as anything is on it."""
    if len(tree.listings.shelf) and not tree.walks.sweeping:
        tree.walks.sweeping = True
        tree.background(_sweep, tree)


def _take(tree: Tree, walk: Walk, page: Page, fetched: float, meanwhile: Meanwhile) -> None:
    told = read_walk(walk.prefix, page, walk.began, walk.cuts)
    if any(directory.prefix in walk.whole for directory in told):
        log.warning("store lists keys in an order that cannot be used: no subtree listing prefix=%s", walk.prefix)
        tree.walks.refused = True
        tree.listings.shelf.clear()
        return
    walk.token = page.token
    walk.cuts = {}
    walk.whole = {directory.prefix for directory in told if directory.cut is None}
    walk.used = 0
    for directory in told:
        if meanwhile.touches(directory.prefix) or _ghosts(tree, directory):
            continue
        if directory.cut is not None:
            walk.cuts[directory.prefix] = directory.cut
        if directory.stop != BEGIN:
            _keep(tree, walk, directory, fetched, page.date_ns)


def _keep(tree: Tree, walk: Walk, told: Told, fetched: float, date_ns: int) -> None:
    """Hand the entries to their directory; to the shelf when nobody has asked for it yet."""
    inode = tree.inodes.directory_at(told.prefix)
    known: Directory | Shelved
    if inode is None:
        known = tree.listings.shelf.at(told.prefix)
        pages = known.spans
    else:
        known = inode.contents
        pages = known.pages
        if known.removed or known.prefix != told.prefix or any(span.fetched > fetched for span in pages):
            return
    if told.start == BEGIN:
        if told.prefix != walk.began:
            known.marker = told.marker is not None
        flag = told.reserved.get(FLAG)
        if flag is not None or told.stop > FLAG:
            if isinstance(known, Directory):
                note_flag(known, fetched, date_ns, size=None if flag is None else flag.size)
            else:
                known.flag, known.flag_at, known.flag_date_ns = flag is not None, fetched, date_ns
                known.nodes = flag is not None and flag.size > 0
    if told.hidden:
        tree.report_hidden(told.prefix, told.hidden)
    if told.stop == told.start:
        return
    span = Span(told.start, told.stop, told.entries, fetched=fetched, carry=told.carry, lease=walk.lease)
    if isinstance(known, Directory):
        known.add_page(known.corrected(span, {}))
    else:
        for old in [old for old in pages if old.start < span.stop and span.start < old.stop]:
            tree.listings.drop(old)
        pages.append(span)
        tree.listings.added(pages, span)


def _ghosts(tree: Tree, told: Told) -> bool:
    """Whether directories are among the entries that were removed here: their own listing settles what they are."""
    removed = tree.listings.removed
    return bool(removed) and (
        told.prefix in removed
        or any(entry is DIRECTORY and f"{told.prefix}{name}/" in removed for name, entry in told.entries.items())
    )


async def _sweep(tree: Tree) -> None:
    """Forget what a walk has left on the shelf, once nobody may believe it any more."""
    shelf, seconds = tree.listings.shelf, tree.config.walk_ttl_seconds
    try:
        while len(shelf):
            await trio.sleep(seconds)
            if not tree.store.away:
                shelf.purge(trio.current_time() - seconds)
    finally:
        tree.walks.sweeping = False
