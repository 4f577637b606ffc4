"""From a name in a directory to its inode: out of what is known, or by asking the store once.

One round trip: HEAD of the key and LIST below it together, for a name may be both; or one LIST page of the parent,
when names of it are asked for repeatedly. Only NotFound is an absence; every other failure is raised (an error is
never an answer). While the store is away, and changes are acknowledged nevertheless, what was known is believed on.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from s3mount.config import S3_KEY_MAX_BYTES
from s3mount.errors import NoEntry, NotFound, S3MountError, Unavailable
from s3mount.store.base import ObjectInfo, Page
from s3mount.vfs.flags import FLAG, learn_flag
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import BEGIN, DIRECTORY, END, TWIN_SUFFIX, Entry, is_name, is_reserved, read_subtree
from s3mount.vfs.listings import AWAY_SECONDS
from s3mount.vfs.pages import list_around
from s3mount.vfs.spans import Span
from s3mount.vfs.tree import Tree
from s3mount.vfs.walking import look_ahead

Look = Callable[[Inode, str], Awaitable[tuple[Inode | None, float]]]
"""How a name is looked up for the kernel: with attributes that it may be told."""
PROBE_KEYS = 10
"""How many keys below a name are asked for: enough to know small directories whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store said of a key: the object there, and the keys below it when there are any."""

    file: ObjectInfo | None
    below: Page | None

    @property
    def exists(self) -> bool:
        return self.file is not None or self.below is not None


async def resolve(tree: Tree, parent: Inode, name: str) -> tuple[Inode | None, float]:
    """The name's inode, or None, and until when that is believed. Raises what the store raises, but for NotFound."""
    directory = parent.contents
    if name in directory.pending:
        await tree.deleting.settle_name(parent, name)
    await tree.transits.passed(directory.prefix)
    now = trio.current_time()
    found = known(tree, parent, name, now)
    if found is not None:
        tree.listings.names_known += 1
        return found
    tree.listings.names_asked += 1
    if directory.removed or not is_name(name) or is_reserved(name):
        return None, now + tree.config.negative_ttl_seconds
    try:
        return await _find_out(tree, parent, name)
    except Unavailable:
        # What was too old to be told may be all there is by now.
        found = known(tree, parent, name, trio.current_time()) if tree.store.away else None
        if found is None:
            raise
        return found


async def _find_out(tree: Tree, parent: Inode, name: str) -> tuple[Inode | None, float]:
    """By one page of the parent, or by the name alone, of which more is known in an outage."""
    directory, now = parent.contents, trio.current_time()
    if tree.store.away:
        return await _ask(tree, parent, name)
    if directory.fetching is not None:
        directory.count_miss(now)
        await directory.fetching.wait()
    else:
        if not directory.pages and await look_ahead(tree, parent):
            found = known(tree, parent, name, trio.current_time())
            if found is not None:
                return found
        after = directory.where_to_list(name, now)
        if after is None:
            return await _ask(tree, parent, name)
        await list_around(tree, directory, after)
    # One page is waited for, not a series of them: what it did not tell is asked for by name.
    return known(tree, parent, name, trio.current_time()) or await _ask(tree, parent, name)


def known(tree: Tree, parent: Inode, name: str, now: float) -> tuple[Inode | None, float] | None:
    """The answer out of memory; None when the store must be asked."""
    child = parent.dentries.get(name)
    if child is not None:
        if child.state is not None and child.state.held:
            return child, now + tree.config.metadata_ttl_seconds
        if child.fresh_until > now:
            return child, child.fresh_until
    recalled = tree.recall(parent, name, now)
    if recalled is not None:
        return recalled, recalled.fresh_until
    found = parent.contents.find(name, now)
    if found is None:
        # No listing tells of it: in an outage what was asked for by name will do.
        return (child, now + AWAY_SECONDS) if child is not None and tree.store.away else None
    entry, until = found
    if entry is not None:
        return tree.adopt(parent, name, entry), until
    if child is not None:
        tree.inodes.detach(child)
    return None, until


async def require(tree: Tree, parent: Inode, name: str) -> Inode:
    """The inode of a name that must exist. Raises NoEntry."""
    inode, _ = await resolve(tree, parent, name)
    if inode is None:
        raise NoEntry(f"{parent.path}/{name}")
    return inode


async def ask_store(tree: Tree, key: str) -> Answer:
    """HEAD and LIST at once. A failure of either is raised, unless the LIST alone settles the question."""
    head: ObjectInfo | S3MountError | None = None
    page: Page | None = None
    failure: S3MountError | None = None

    async def ask_head() -> None:
        nonlocal head
        try:
            head = await tree.store.head(key)
        except NotFound:
            head = None
        except S3MountError as error:
            head = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_head)
        if len(key.encode()) < S3_KEY_MAX_BYTES:
            try:
                page = await tree.store.list_page(key + "/", max_keys=PROBE_KEYS)
            except S3MountError as error:
                failure = error
    if failure is not None and not (tree.store.away and isinstance(head, ObjectInfo)):
        raise failure  # in an outage only what was stored here is described: there is such a file
    below = page if page is not None and page.objects else None
    if tree.earlier is not None and below is not None and _is_flagged(tree, key + "/", below):
        await tree.earlier.page(key + "/", below.objects)
    if isinstance(head, ObjectInfo):
        return Answer(head, below)
    if head is not None and below is None:
        raise head
    return Answer(None, below)


def _is_flagged(tree: Tree, prefix: str, below: Page) -> bool:
    """Whether anything in the directory may be special; a flag comes early among the names."""
    return tree.config.attributes == "always" or any(listed.key == prefix + FLAG for listed in below.objects)


async def _ask(tree: Tree, parent: Inode, name: str) -> tuple[Inode | None, float]:
    directory = parent.contents
    prefix = directory.prefix + name
    changes_before = tree.changes
    asked = trio.current_time()
    with directory.overlay() as changes:
        with tree.transits.watched(prefix) as watch:
            answer = await ask_store(tree, prefix)
        if watch.crossed:
            await tree.transits.passed(prefix)
            return await _ask(tree, parent, name)
        if directory.prefix + name != prefix:
            return await _ask(tree, parent, name)  # the directory was moved meanwhile
        entry: Entry | None = None
        if answer.below is not None:
            tree.exists(prefix + "/")
            entry = DIRECTORY
            twin = name + TWIN_SUFFIX
            if answer.file is not None and is_name(twin) and twin not in changes:
                directory.note(twin, tree.learn(parent, twin, answer.file, asked), own=False)
        elif answer.file is not None:
            if name not in changes:
                entry = tree.learn(parent, name, answer.file, asked)
        elif name.endswith(TWIN_SUFFIX) and name != TWIN_SUFFIX:
            behind = await ask_store(tree, prefix[: -len(TWIN_SUFFIX)])
            if directory.prefix + name != prefix:
                return await _ask(tree, parent, name)
            if behind.below is not None and behind.file is not None and name not in changes:
                entry = tree.learn(parent, name, behind.file, asked)
        if name in changes:
            entry = changes[name]
        else:
            directory.note(name, entry, own=False)
    until = asked + tree.config.metadata_ttl_seconds
    if entry is None:
        child = parent.dentries.get(name)
        if child is not None and not child.held:
            tree.inodes.detach(child)
        elif child is not None:
            return child, until
        return None, until
    inode = tree.adopt(parent, name, entry, until)
    if (
        inode is not None
        and inode.directory is not None
        and answer.below is not None
        and changes_before == tree.changes
    ):
        learn_small(tree, inode, answer.below, asked)
    return inode, until


def learn_small(tree: Tree, inode: Inode, below: Page, asked: float) -> None:
    """Take over what a LIST of the first keys below a directory tells: its marker, and all of it when that was all."""
    directory = inode.contents
    learn_flag(directory, below, BEGIN, asked)
    piece = read_subtree(directory.prefix, below.objects)
    directory.marker = piece.marker is not None
    if below.token is None:
        if piece.hidden:
            tree.report_hidden(directory.prefix, piece.hidden)
        directory.add_page(directory.corrected(Span(BEGIN, END, piece.entries, fetched=asked), {}))
