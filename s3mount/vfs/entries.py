"""Names that come and go: create, mknod, mkdir, unlink, rmdir.

No state. The kernel holds the directory for the whole handler and has looked the name up; what it was told is not
asked again. Each change of the bucket is followed, with no checkpoint between, by the change of dentries and
listings.
"""

import os
import stat
from dataclasses import replace

import trio

from s3mount.data.file import File
from s3mount.errors import Exists, IsADirectory, NotADirectory, NotEmpty, PreconditionFailed, S3MountError
from s3mount.store.base import ABSENT, Listed, Page
from s3mount.vfs.attributes import Caller, Fh
from s3mount.vfs.carrying import Fields, born, headers_with, show, special_in
from s3mount.vfs.directory_attributes import describe_new, told
from s3mount.vfs.flags import (
    FLAG,
    FLAG_HEADERS,
    flag_body,
    is_kept_beside,
    learn_flag,
    lower_flag,
    note_flag,
    raise_flag,
    raised,
    restore_flag,
)
from s3mount.vfs.handles import Handles
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import BEGIN, DIRECTORY, DIRECTORY_HEADERS, END, LOCAL, TWIN_SUFFIX, new_name, old_name
from s3mount.vfs.lookup import Look, known, require, resolve
from s3mount.vfs.pages import fetch_page
from s3mount.vfs.spans import FIRST_STEP, Span
from s3mount.vfs.tree import Tree

KEYS_BESIDE = 4
"""The marker, the flag, the entry that is about to go, and one that stays."""
NOT_EMPTY_KEYS = 3
"""The marker, the flag and one more key: enough to see that a directory is not empty."""
PENDING_LISTED_MAX = 1000 - NOT_EMPTY_KEYS
"""So many pending keys, and what shows that there are others, fit in one page."""


async def create(
    tree: Tree, handles: Handles, look: Look, parent: Inode, name: bytes, mode: int, flags: int, caller: Caller
) -> tuple[Fh, Inode]:
    """Create and open a regular file. Nothing is sent, for whether it exists is known from the lookup before; but with
    O_EXCL and `--exclusive-create open` the empty object is stored, and that decides. What is there nevertheless is
    opened, after a `look` at its attributes. Raises Exists."""
    tree.check_writable()
    text = new_name(name)
    tree.deleting.end_burst(caller)
    if await tree.deleting.settle_name(parent, text):
        await resolve(tree, parent, text)
    key = tree.check_new(parent, text)
    found = known(tree, parent, text, trio.current_time())
    there = None if found is None else found[0]
    if there is not None and flags & os.O_EXCL:
        raise Exists(there.path)
    if there is not None and not tree.is_exact(there, trio.current_time()):
        there, _ = await look(parent, text)
        key = tree.check_new(parent, text)
    if there is not None:
        return await handles.open(there, flags, caller), there
    if flags & os.O_EXCL and tree.config.exclusive_create == "open":
        inode = await _create_stored(tree, handles, parent, text, key, mode, caller)
        return handles.add_created(inode, flags, caller), inode
    inode, file = _make(tree, handles, parent, text, key, mode, caller)
    fh = handles.add_created(inode, flags, caller)
    if flags & os.O_TRUNC and not flags & os.O_EXCL:
        await file.overwrite()
    return fh, inode


async def mknod(tree: Tree, handles: Handles, parent: Inode, name: bytes, mode: int, caller: Caller) -> Inode:
    """Create a regular file without opening it: it is stored before the answer, which decides whether it was there, and
    its lookup counted. Raises Exists."""
    tree.check_writable()
    text = new_name(name)
    tree.deleting.end_burst(caller)
    if await tree.deleting.settle_name(parent, text):
        await resolve(tree, parent, text)
    key = tree.check_new(parent, text)
    found = known(tree, parent, text, trio.current_time())
    if found is not None and found[0] is not None:
        raise Exists(found[0].path)
    inode = await _create_stored(tree, handles, parent, text, key, mode, caller)
    inode.lookups += 1
    await handles.release(handles.add_created(inode, os.O_RDONLY, caller))
    return inode


async def _create_stored(
    tree: Tree, handles: Handles, parent: Inode, name: str, key: str, mode: int, caller: Caller
) -> Inode:
    """Store an empty object where there is none, and bind it. Raises Exists."""
    fields = born(tree, parent, stat.S_IFREG | stat.S_IMODE(mode), caller)
    headers = headers_with(tree, tree.headers_of_new(name), fields)
    flagged = tree.config.attributes == "auto" and bool(special_in(tree, headers))
    try:
        if flagged:
            await raise_flag(tree, parent.contents, nodes=False)
        stored = await tree.store.put(key, (), headers, ABSENT)
        if flagged:
            await raise_flag(tree, parent.contents, nodes=False)
    except PreconditionFailed as error:
        tree.distrust(parent, name)
        raise Exists(f"{parent.path}/{name}") from error
    except S3MountError:
        tree.distrust(parent, name)  # it may have had its effect
        raise
    moved = parent.contents.prefix + name
    if moved != key:
        # A directory above was moved meanwhile, without this.
        await tree.store.delete(key)
        return await _create_stored(tree, handles, parent, name, moved, mode, caller)
    inode = tree.inodes.bind_created(parent, name)
    listed = Listed(key, 0, stored.etag, stored.last_modified_ns)
    handles.make_stored(inode, listed, headers)
    own(tree, inode, fields)
    tree.note(parent, name, listed)
    tree.touched(parent)
    return inode


def _make(
    tree: Tree, handles: Handles, parent: Inode, name: str, key: str, mode: int, caller: Caller
) -> tuple[Inode, File]:
    inode = tree.inodes.bind_created(parent, name)
    file = handles.make_created(inode, key, tree.headers_of_new(name))
    fields = born(tree, parent, stat.S_IFREG | stat.S_IMODE(mode), caller)
    own(tree, inode, fields)
    file.headers = headers_with(tree, file.headers, fields)
    tree.note(parent, name, LOCAL)
    tree.touched(parent)
    return inode, file


def own(tree: Tree, inode: Inode, fields: Fields) -> None:
    """Show a new inode with the mode and owner it was created with, and the time of now."""
    show(inode, fields)
    state = inode.own
    state.mtime_ns = state.ctime_ns = state.atime_ns = tree.wall_ns()


async def mkdir(tree: Tree, parent: Inode, name: bytes, mode: int, caller: Caller) -> Inode:
    """Write the marker of a new directory."""
    tree.check_writable()
    text = new_name(name)
    if await tree.deleting.settle_name(parent, text):
        await resolve(tree, parent, text)
    key = tree.check_new(parent, text, "/")
    started = trio.current_time()
    found = known(tree, parent, text, started)
    if found is not None and found[0] is not None:
        raise Exists(found[0].path)
    fields = born(tree, parent, stat.S_IFDIR | stat.S_IMODE(mode), caller)
    described = await describe_new(tree, parent, key, fields)
    stored = await tree.store.put(key, (), DIRECTORY_HEADERS)
    while (place := f"{parent.contents.prefix}{text}/") != key:
        # A directory above was moved meanwhile, without this, or without the marker.
        if described is not None:
            await tree.store.put(place + FLAG, (), described)
            await tree.store.delete(key + FLAG)
        await tree.store.put(place, (), DIRECTORY_HEADERS)
        await tree.store.delete(key)
        key = place
    tree.note(parent, text, DIRECTORY)
    tree.exists(key)
    tree.touched(parent)
    inode = tree.inodes.bind_directory(parent, text, started + tree.config.metadata_ttl_seconds)
    directory = inode.contents
    directory.marker = True
    fresh = not directory.pages
    if fresh:
        # The name was absent a moment ago, so nothing is in there but what comes through us.
        directory.add_page(directory.corrected(Span(BEGIN, END, {}, fetched=started), {}))
    if fresh or described is not None:
        size = None if described is None else len(flag_body(tree.store, nodes=False))
        note_flag(directory, started, stored.last_modified_ns, size=size)
    told(tree, inode, FLAG_HEADERS if described is None else described)
    own(tree, inode, fields)
    return inode


async def unlink(tree: Tree, parent: Inode, name: bytes, caller: Caller) -> None:
    """Remove a file; one that is open becomes an orphan. Sent at once, or with others (see `deleting`)."""
    tree.check_writable()
    text = old_name(name)
    inode = await require(tree, parent, text)
    if inode.children is not None:
        raise IsADirectory(inode.path)
    await keep_directory(tree, parent, text)
    if not tree.deleting.defer(inode, caller):
        try:
            with tree.transits.leaving(inode.key):
                await _remove(tree, inode)
        except S3MountError:
            tree.deleting.end_burst(caller)
            raise
        tree.deleting.proved(caller)
    gone(tree, parent, text, inode)


async def _remove(tree: Tree, inode: Inode) -> None:
    state, deleted = inode.own, inode.known
    file = state.file
    if file is not None:
        await file.unlink(read_on=state.handles > 0)
        deleted = inode.known
    elif deleted is not None:
        await tree.store.delete(deleted.key)
        if await tree.transits.passed(deleted.key) and inode.known is deleted:
            # It was elsewhere when the deletion came, and the move has been undone.
            await tree.store.delete(deleted.key)
    while (state.file is not None and state.file is not file) or inode.known is not deleted:
        # Meanwhile another open came, and may have stored; or a directory above was moved.
        if state.file is not None and state.file is not file:
            file = state.file
            await file.superseded()
        if inode.known is not None and inode.known is not deleted:
            deleted = inode.known
            await tree.store.delete(deleted.key)


def gone(tree: Tree, parent: Inode, name: str, inode: Inode) -> None:
    """The name leads nowhere any more."""
    inode.own.ctime_ns = tree.wall_ns()
    tree.inodes.detach(inode)
    tree.note(parent, name, None)
    tree.touched(parent)


async def rmdir(tree: Tree, parent: Inode, name: bytes) -> None:
    """Remove an empty directory: nothing but its marker may lie below, and that must be a marker of no bytes."""
    tree.check_writable()
    text = old_name(name)
    inode = await require(tree, parent, text)
    directory = inode.contents
    await check_empty(tree, inode)
    await keep_directory(tree, parent, text)
    await _delete_directory(tree, inode)
    directory.removed = True
    tree.listings.prefix_removed(directory.prefix, trio.current_time())
    tree.told.forget_directory(directory.prefix)
    directory.forget_all()
    gone(tree, parent, text, inode)
    _uncover_twin(parent, text)


async def _delete_directory(tree: Tree, inode: Inode) -> None:
    """Delete what is pending, flag and marker, in this order: entries count on the flag, and some stores keep a marker,
    and say nothing, while keys lie below it. What came meanwhile may have counted on the flag: it is put back then.
    Raises NotEmpty, and what kept a key from being deleted."""
    directory = inode.contents
    await raised(directory)
    if not directory.flag or directory.flag_owed:
        await tree.deleting.remove(inode)
        return
    await tree.deleting.settle(directory)
    headers = await lower_flag(tree, directory)
    try:
        await tree.deleting.remove(inode)
        await check_empty(tree, inode)
    except S3MountError:
        await restore_flag(tree, directory, headers)
        raise


async def check_empty(tree: Tree, inode: Inode) -> None:
    """Raises NotEmpty, also for keys below that are hidden; learns whether there are marker and flag."""
    directory = inode.contents
    if inode.children is None:
        raise NotADirectory(inode.path)
    tree.deleting.tell(directory)
    holds = directory.holds_other("", trio.current_time()) if tree.store.away else None
    if holds is False:
        return  # as far as can be known in an outage
    if not directory.local and not holds:
        if len(directory.pending) > PENDING_LISTED_MAX:
            await tree.deleting.settle(directory)
        going = tree.deleting.going(directory)
        asked = trio.current_time()
        page = await tree.store.list_page(directory.prefix, max_keys=NOT_EMPTY_KEYS + len(going))
        if going and page.token is not None and len(page.objects) < NOT_EMPTY_KEYS + len(going):
            # Its pages are smaller: what is not pending may be on the next one.
            await tree.deleting.settle(directory)
            page = await tree.store.list_page(directory.prefix, max_keys=NOT_EMPTY_KEYS)
        page = await _filled(tree, directory.prefix, page)
        others = [listed for listed in page.objects if going.get(listed.key) != listed.etag]
        if all(is_kept_beside(directory.prefix, listed) for listed in others):
            directory.marker = any(listed.key == directory.prefix for listed in others)
            learn_flag(directory, page, BEGIN, asked)
            if not directory.local:
                return
    raise NotEmpty(inode.path)


async def _filled(tree: Tree, prefix: str, page: Page) -> Page:
    """What a page has, and what follows where it is smaller than was asked for: a marker and a flag alone do not tell
    that nothing else is there."""
    while page.token is not None and len(page.objects) < NOT_EMPTY_KEYS:
        following = await tree.store.list_page(prefix, token=page.token, max_keys=NOT_EMPTY_KEYS)
        page = replace(page, objects=page.objects + following.objects, token=following.token)
    return page


async def keep_directory(tree: Tree, parent: Inode, name: str) -> None:
    """Write the marker of an implicit directory whose last entry is about to go: directories do not vanish."""
    directory = parent.contents
    if directory.marker:
        return
    others = directory.holds_other(name, trio.current_time())
    if others is None:
        # A page that is remembered answers for the next entries too.
        await fetch_page(tree, directory, FIRST_STEP)
        others = directory.holds_other(name, trio.current_time())
    if others or directory.marker:
        return
    if others is None or directory.marker is None:
        await tree.deleting.settle(directory)
        page = await tree.store.list_page(directory.prefix, max_keys=KEYS_BESIDE)
        directory.marker = any(listed.key == directory.prefix for listed in page.objects)
        below = directory.prefix + name
        entries = [listed.key for listed in page.objects if not is_kept_beside(directory.prefix, listed)]
        if directory.marker or any(key not in (below, below + "/") for key in entries):
            return
    await tree.store.put(directory.prefix, (), DIRECTORY_HEADERS)
    directory.marker = True


def _uncover_twin(parent: Inode, name: str) -> None:
    """A file that stood behind the directory under another name is asked for again, by its own."""
    directory = parent.contents
    found = directory.find(name + TWIN_SUFFIX, trio.current_time())
    if found is not None and found[0] is not None:
        directory.forget_all()
