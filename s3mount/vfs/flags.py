"""Flags: the object `.s3mount-attrs` in a directory says that attributes of its entries may be special.

A flag is put before the first entry with special attributes is stored in the directory, and looked for again when what
is known of it is older than a lifetime. The directory's own special attributes are the flag's metadata. What is known
of a flag is in `Directory`; only `--attributes auto` reads and writes any. A directory that shows special attributes
without one (another program has stored them) is flagged for us at once, and in the bucket with our next write there.

A flag without a body says that all files are regular ones, so that a LIST, which tells its size, tells the types of
them all. One with a body says that there may be links, FIFOs, sockets and devices (nodes): it is there before the first
of them. A body comes by a PUT on condition that the flag is what it was, whose metadata it keeps, and goes by `rebuild`
alone. A flag that is put back has one, for whoever saw it before may have counted on it; so has one where attributes
were met without a flag, and every one on a store that keeps no conditions, where another client's body could be
replaced unseen. A node met under an empty flag makes types uncertain here at once, and gives the flag its body with our
next write there. An entry that is less than two seconds older than the reply that told of the empty flag may be one.

A flag is put by one task at a time; one that lands when its directory has gone or moved goes after it.
"""

import logging
from bisect import bisect_left
from contextlib import suppress
from dataclasses import replace

import trio

from s3mount.config import RESERVED
from s3mount.errors import (
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    S3MountError,
    Unavailable,
    again,
)
from s3mount.store.base import ABSENT, ALWAYS, Body, Condition, Headers, Listed, ObjectInfo, ObjectStore, Page
from s3mount.vfs.directory import Directory, Raising
from s3mount.vfs.keys import BEGIN, escaped
from s3mount.vfs.metadata import metadata_with, special_of
from s3mount.vfs.tree import Tree

log = logging.getLogger(__name__)

FLAG = f"{RESERVED}-attrs"
FLAG_HEADERS = Headers(content_type="application/octet-stream")
NODES = (b"1",)
"""The body of a flag that says that there may be nodes; only its length counts."""
TRIES_MAX = 5
"""How often another client may be quicker with the same flag."""


async def raise_flag(tree: Tree, directory: Directory, *, nodes: bool) -> None:
    """The bucket has the directory's flag when this returns, one that speaks of `nodes` if there are to be some; what
    else it says stays as it is. Who comes while it is being put waits for it and shares its failure."""
    if tree.config.attributes != "auto":
        return
    while not directory.removed:
        fresh = directory.flag_at + tree.config.metadata_ttl_seconds > trio.current_time() or tree.store.away
        owed = directory.flag_owed or directory.nodes_owed
        if directory.flag and fresh and not owed and (directory.nodes or not nodes):
            return
        raising = directory.raising
        if raising is None:
            await _raise(tree, directory, nodes=nodes, known_absent=fresh and directory.flag is False)
            return
        await raising.over.wait()
        if raising.error is not None:
            raise again(raising.error)


async def _raise(tree: Tree, directory: Directory, *, nodes: bool, known_absent: bool) -> None:
    raising = directory.raising = Raising()
    try:
        # Asked for first where it may be there: not every store keeps the condition, and it may have metadata.
        seen = None if known_absent else await ask_flag(tree, directory)
        nodes = nodes or directory.nodes_owed or (seen is None and directory.flag_owed)
        await _put_flag(tree, directory, seen, _first_headers(tree, directory), nodes=nodes)
    except S3MountError as error:
        raising.error = error
        raise
    finally:
        directory.raising = None
        raising.over.set()


def _first_headers(tree: Tree, directory: Directory) -> Headers:
    """What a directory's first flag carries: what its marker said, of which no notice is taken beside a flag."""
    inode = tree.inodes.directory_at(directory.prefix)
    if inode is None or inode.directory is not directory or not inode.special:
        return FLAG_HEADERS
    return replace(FLAG_HEADERS, metadata=metadata_with({}, inode.special))


async def raised(directory: Directory) -> None:
    """Return when no flag of the directory is on its way, whatever became of it."""
    while directory.raising is not None:
        await directory.raising.over.wait()


async def pay_flag(tree: Tree, directory: Directory) -> None:
    """Put the flag, or the body, if it is only known here, or was seen long ago. A failure is tried again with the next
    write."""
    try:
        await raise_flag(tree, directory, nodes=False)
    except S3MountError as error:
        directory.flag = directory.flag_owed = True
        log.warning("flag not stored prefix=%s reason=%s", escaped(directory.prefix), error)


async def ask_flag(tree: Tree, directory: Directory, date_ns: int = 0) -> ObjectInfo | None:
    """HEAD of the flag: what it carries, None when there is none. `date_ns` is of a reply that came before."""
    asked = trio.current_time()
    prefix = directory.prefix
    try:
        info = await tree.store.head(prefix + FLAG)
    except NotFound:
        info = None
    if directory.prefix == prefix:
        if info is None:
            note_flag(directory, asked, date_ns, size=None)
        else:
            note_flag(directory, asked, info.date_ns, size=info.size)
    return info


async def lower_flag(tree: Tree, directory: Directory) -> Headers:
    """Delete the flag of a directory that has one and is to go; returns what puts it back."""
    headers = FLAG_HEADERS
    with suppress(NotFound):
        headers = (await tree.store.head(directory.prefix + FLAG)).headers
    try:
        await tree.store.delete(directory.prefix + FLAG)
    except S3MountError:
        directory.flag = None  # it may have had its effect
        with suppress(S3MountError):
            await restore_flag(tree, directory, headers)
        raise
    directory.flag, directory.flag_owed, directory.flag_at = None, False, trio.current_time()
    directory.nodes_owed = False
    return headers


async def restore_flag(tree: Tree, directory: Directory, headers: Headers) -> None:
    """Put back a flag whose directory stays after all. One that came meanwhile has it, and gets the body."""
    await _put_flag(tree, directory, None, headers, nodes=True)


def flag_body(store: ObjectStore, *, nodes: bool) -> Body:
    """What a flag holds."""
    return NODES if nodes or not store.keeps_conditions else ()


async def _put_flag(
    tree: Tree, directory: Directory, seen: ObjectInfo | None, headers: Headers, *, nodes: bool
) -> None:
    """Put the flag, with these headers if it is absent; or give the one that was `seen` its body."""
    for _ in range(TRIES_MAX):
        if seen is not None and (seen.size or not nodes):
            return
        prefix = directory.prefix
        body = flag_body(tree.store, nodes=nodes)
        condition, said = (ABSENT, headers) if seen is None else (Condition(etag=seen.etag), seen.headers)
        try:
            try:
                stored = await tree.store.put(prefix + FLAG, body, said, condition)
            except NotImplementedByStore:
                body = NODES
                stored = await tree.store.put(prefix + FLAG, body, said, ALWAYS)
        except (NotFound, PreconditionFailed):
            # Another client's, which may say something of the directory; or our own, whose reply was lost.
            if nodes or directory.prefix != prefix:
                seen = await ask_flag(tree, directory)
                continue
            is_put(directory, 0, nodes=True)
            return
        if directory.removed or directory.prefix != prefix:
            # It went, or moved without this, or with it.
            await tree.store.delete(prefix + FLAG)
            if directory.removed:
                return
            seen = await ask_flag(tree, directory)
            continue
        tree.told.note_directory(prefix, special_of(said.metadata), trio.current_time())
        is_put(directory, stored.last_modified_ns, nodes=bool(body))
        return
    raise Unavailable(f"{directory.prefix}: others change its flag again and again")


def is_put(directory: Directory, date_ns: int, *, nodes: bool) -> None:
    """The bucket has the flag from now on; `date_ns` is of the reply that says so."""
    directory.flag, directory.flag_owed, directory.flag_at = True, False, trio.current_time()
    _learn_nodes(directory, date_ns, nodes=nodes)


def _learn_nodes(directory: Directory, date_ns: int, *, nodes: bool) -> None:
    directory.nodes_owed = directory.nodes_owed and not nodes
    directory.nodes, directory.flag_date_ns = nodes or directory.nodes_owed, date_ns


def learn_flag(directory: Directory, page: Page, start: str, asked: float) -> bool:
    """Take over what a LIST below the directory tells of its flag, if it has come to that name; whether it did. `start`
    is the position behind which the page begins."""
    key = directory.prefix + FLAG
    objects = page.objects
    index = bisect_left(objects, key, key=_key)
    size = objects[index].size if index < len(objects) and objects[index].key == key else None
    if size is None:
        last = max(objects[-1].key if objects else "", page.prefixes[-1] if page.prefixes else "")
        # Where the page before ended with the prefix `.s3mount/`, it ended behind the flag, which sorts before that
        # slash, and with a name that sorts before the flag.
        behind = start != BEGIN and f"{start}/" > FLAG
        if behind or (page.token is not None and last <= key):
            return False
    note_flag(directory, asked, page.date_ns, size=size)
    return True


def note_flag(directory: Directory, asked: float, date_ns: int, *, size: int | None) -> None:
    """What a reply of this Date, to a request sent at `asked`, says of the flag: its size, None when there is none."""
    if directory.flag is not None:
        says_less = size is None or (not size and directory.nodes)
        if directory.flag_at > asked or (directory.flag and directory.flag_at == asked and says_less):
            return  # it was put, or asked for, since
    directory.flag_at = asked
    if size is not None:
        directory.flag, directory.flag_owed = True, False
        _learn_nodes(directory, date_ns, nodes=size > 0)
    elif directory.flag_owed or directory.nodes_owed:
        directory.flag_owed = True
    else:
        directory.flag, directory.flag_date_ns = False, date_ns


def is_kept_beside(prefix: str, listed: Listed) -> bool:
    """Whether a key below a directory is no entry of it: its marker, if that has no bytes, or its flag."""
    return (listed.key == prefix and not listed.size) or listed.key == prefix + FLAG


def _key(listed: Listed) -> str:
    return listed.key
