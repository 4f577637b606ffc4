"""Asking the store what a directory holds: pages of a walk, windows for lookups, whether a prefix has keys.

Turns replies into `Span`s and hands them to the directory. Each request carries an overlay of the own changes made
while it was under way. Prefixes that this mount removed and a store goes on listing are asked for before they are
shown.
"""

import trio

from s3mount.data.parallel import each
from s3mount.store.base import Listed
from s3mount.vfs.directory import Directory
from s3mount.vfs.flags import ask_flag, learn_flag
from s3mount.vfs.keys import BEGIN, DIRECTORY, TWIN_SUFFIX, Piece, hidden_behind, read_page
from s3mount.vfs.spans import FIRST_STEP, Span, Step
from s3mount.vfs.told import said_plain
from s3mount.vfs.tree import Tree

GHOST_REQUESTS_MAX = 16


async def fetch_page(tree: Tree, directory: Directory, step: Step) -> Span:
    """The page of a walk that begins at `step`, or a window in the middle; it is the directory's from now on."""
    start, token, carry = step
    prefix = directory.prefix
    holes = frozenset[str]() if carry is not None else hidden_behind(start)
    fetched = trio.current_time()
    told = False
    with directory.overlay() as changes:
        while True:
            await tree.transits.passed(prefix)
            with tree.transits.watched(prefix) as watch:
                page = await tree.store.list_page(
                    prefix,
                    delimiter="/",
                    start_after=prefix + start if start != BEGIN and token is None else "",
                    token=token,
                )
            if watch.crossed:
                continue
            if directory.prefix != prefix:
                break
            piece = read_page(prefix, page, start, carry or {})
            told = learn_flag(directory, page, start, fetched) or told
            token = page.token
            # A page may be all reserved names or all of one prefix that was told already.
            if piece.stop > start or token is None:
                break
            carry = piece.carry
        if directory.prefix == prefix and not told and _wants_flag(tree, directory, piece, fetched):
            await ask_flag(tree, directory, page.date_ns)
        if tree.earlier is not None and (directory.flag or tree.config.attributes == "always"):
            await tree.earlier.page(prefix, [entry for entry in piece.entries.values() if isinstance(entry, Listed)])
        if directory.prefix == prefix:
            await _learn(tree, directory, piece, start)
        if directory.prefix != prefix:
            # The directory was moved meanwhile: keys and token are those of its former prefix.
            return await fetch_page(tree, directory, step if step.carry is None else FIRST_STEP)
        span = Span(start, piece.stop, piece.entries, fetched=fetched, token=token, carry=piece.carry, holes=holes)
        directory.corrected(span, changes)
    if holes:
        directory.add_window(span)
    else:
        directory.add_page(span)
    return span


async def list_around(tree: Tree, directory: Directory, after: str) -> None:
    """List one page from `after` on for lookups; those that come meanwhile wait for it at `directory.fetching`."""
    directory.fetching = done = trio.Event()
    try:
        await fetch_page(tree, directory, Step(after, None, FIRST_STEP.carry if after == BEGIN else None))
    finally:
        directory.fetching = None
        done.set()


def _wants_flag(tree: Tree, directory: Directory, piece: Piece, fetched: float) -> bool:
    """Whether it pays to ask for the flag that the page does not tell of: nothing is known, or what is known is old and
    there are entries that came since."""
    if tree.config.attributes != "auto":
        return False
    if directory.flag is None:
        return True
    if directory.flag or directory.flag_at + tree.config.metadata_ttl_seconds > fetched:
        return False
    return not all(isinstance(entry, Listed) and said_plain(directory, entry) for entry in piece.entries.values())


async def _learn(tree: Tree, directory: Directory, piece: Piece, start: str) -> None:
    if start == BEGIN and not directory.marker:
        directory.marker = piece.marker is not None
    if piece.hidden:
        tree.report_hidden(directory.prefix, piece.hidden)
    removed = tree.listings.removed
    if not removed:
        return
    ghosts = [
        name for name, entry in piece.entries.items() if entry is DIRECTORY and _prefix(directory, name) in removed
    ]

    async def settle(name: str) -> None:
        prefix = _prefix(directory, name)
        now = trio.current_time()
        if removed.get(prefix, now) + tree.config.metadata_ttl_seconds <= now:
            found = await tree.store.list_page(prefix, max_keys=1)
            if found.objects:
                tree.listings.prefix_exists(prefix)
                return
            tree.listings.prefix_removed(prefix, now)
        if prefix in removed:
            del piece.entries[name]
            twin = piece.entries.pop(name + TWIN_SUFFIX, None) or piece.carry.pop(name + TWIN_SUFFIX, None)
            if twin is not None:
                piece.entries[name] = twin

    await each(ghosts, settle, at_once=GHOST_REQUESTS_MAX)


def _prefix(directory: Directory, name: str) -> str:
    return directory.prefix + name + "/"
