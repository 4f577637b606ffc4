"""Flags: the object `.s3mount-attrs` in a directory says that attributes of its entries may be special.

A flag is put before the first entry with special attributes is stored in the directory, and looked for again when what
is known of it is older than a lifetime. The directory's own special attributes are the flag's metadata. What is known
of a flag is in `Directory`; only `--attributes auto` reads and writes any. A directory that shows special attributes
without one (another program has stored them) is flagged for us at once, and in the bucket with our next write there.
A flag is put by one task at a time; one that lands when its directory has gone or moved goes after it.
"""

import logging
from bisect import bisect_left
from contextlib import suppress

import trio

from s3mount.config import RESERVED
from s3mount.errors import NotFound, NotImplementedByStore, PreconditionFailed, S3MountError, again
from s3mount.store.base import ABSENT, Headers, Listed, ObjectInfo, Page
from s3mount.vfs.directory import Directory, Raising
from s3mount.vfs.keys import escaped
from s3mount.vfs.metadata import special_of
from s3mount.vfs.tree import Tree

log = logging.getLogger(__name__)

FLAG = f"{RESERVED}-attrs"
FLAG_HEADERS = Headers(content_type="application/octet-stream")


async def raise_flag(tree: Tree, directory: Directory) -> None:
    """The bucket has the directory's flag when this returns; one that is there stays as it is. Who comes while it is
    being put waits for it and shares its failure."""
    if tree.config.attributes != "auto":
        return
    while not directory.removed:
        fresh = directory.flag_at + tree.config.metadata_ttl_seconds > trio.current_time()
        if directory.flag and fresh and not directory.flag_owed:
            return
        raising = directory.raising
        if raising is None:
            await _raise(tree, directory, known_absent=fresh and directory.flag is False)
            return
        await raising.over.wait()
        if raising.error is not None:
            raise again(raising.error)


async def _raise(tree: Tree, directory: Directory, *, known_absent: bool) -> None:
    raising = directory.raising = Raising()
    try:
        # Asked for first where it may be there: not every store keeps the condition, and it may have metadata.
        if known_absent or await ask_flag(tree, directory) is None:
            await _put_flag(tree, directory, FLAG_HEADERS)
    except S3MountError as error:
        raising.error = error
        raise
    finally:
        directory.raising = None
        raising.over.set()


async def raised(directory: Directory) -> None:
    """Return when no flag of the directory is on its way, whatever became of it."""
    while directory.raising is not None:
        await directory.raising.over.wait()


async def pay_flag(tree: Tree, directory: Directory) -> None:
    """Put the flag if it is only known here, or was seen long ago. A failure is tried again with the next write."""
    try:
        await raise_flag(tree, directory)
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
        note_flag(directory, asked, date_ns, present=info is not None)
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
    return headers


async def restore_flag(tree: Tree, directory: Directory, headers: Headers) -> None:
    """Put back a flag whose directory stays after all. One that came meanwhile has it."""
    await _put_flag(tree, directory, headers)


async def _put_flag(tree: Tree, directory: Directory, headers: Headers) -> None:
    prefix = directory.prefix
    try:
        try:
            await tree.store.put(prefix + FLAG, (), headers, ABSENT)
        except NotImplementedByStore:
            await tree.store.put(prefix + FLAG, (), headers)
        if directory.removed or directory.prefix != prefix:
            # It went, or moved without this, or with it.
            await tree.store.delete(prefix + FLAG)
            if not directory.removed:
                await _put_flag(tree, directory, headers)
            return
        tree.told.note_directory(prefix, special_of(headers.metadata), trio.current_time())
    except PreconditionFailed:
        if directory.prefix != prefix:
            await _put_flag(tree, directory, headers)
            return
        # another client's, which may say something of the directory
    directory.flag, directory.flag_owed, directory.flag_at = True, False, trio.current_time()


def learn_flag(directory: Directory, page: Page, start: str, asked: float) -> bool:
    """Take over what a LIST below the directory tells of its flag, if it has come to that name; whether it did. `start`
    is the position behind which the page begins."""
    key = directory.prefix + FLAG
    objects = page.objects
    index = bisect_left(objects, key, key=_key)
    present = index < len(objects) and objects[index].key == key
    if not present:
        last = max(objects[-1].key if objects else "", page.prefixes[-1] if page.prefixes else "")
        if start >= FLAG or (page.token is not None and last <= key):
            return False
    note_flag(directory, asked, page.date_ns, present=present)
    return True


def note_flag(directory: Directory, asked: float, date_ns: int, *, present: bool) -> None:
    """What a reply of this Date, to a request sent at `asked`, says of the flag."""
    if directory.flag is not None and (directory.flag_at > asked or (directory.flag and directory.flag_at == asked)):
        return  # it was put, or asked for, since
    directory.flag_at = asked
    if present:
        directory.flag, directory.flag_owed = True, False
    elif not directory.flag_owed:
        directory.flag, directory.flag_date_ns = False, date_ns


def is_kept_beside(prefix: str, listed: Listed) -> bool:
    """Whether a key below a directory is no entry of it: its marker, if that has no bytes, or its flag."""
    return (listed.key == prefix and not listed.size) or listed.key == prefix + FLAG


def _key(listed: Listed) -> str:
    return listed.key
