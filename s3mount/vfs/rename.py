"""rename(2): what may go where, what is replaced, and the move of a file. A directory's is in `moving`.

A file is renamed by the store where it can and the new name is nobody's: in one step. Else it is a copy of exactly the
version we know, then a delete on condition of it: also onto a file of that name, for what a late open of that one still
stores must be found while the source is there. A crash or failure between leaves both names, never none; a failed copy
leaves the source alone. RENAME_NOREPLACE is a condition of the store too, where it keeps it for copies.

A file that is open moves through its File, which sends later uploads to the new key; one that is replaced stores none
under the name it had.
"""

import logging
from functools import partial

import trio

from s3mount.data.file import File
from s3mount.data.version import HalfMoved, Version
from s3mount.errors import (
    Exists,
    Invalid,
    IsADirectory,
    LostReply,
    NotADirectory,
    NotFound,
    PreconditionFailed,
    S3MountError,
    Stale,
    Unavailable,
)
from s3mount.store.base import ABSENT, ALWAYS, Condition, Headers
from s3mount.vfs import keys
from s3mount.vfs.attributes import PLAIN
from s3mount.vfs.carrying import carried_by_copy, give_back, lend
from s3mount.vfs.entries import check_empty, keep_directory
from s3mount.vfs.flags import lower_flag, pay_flag, raise_flag, raised, restore_flag
from s3mount.vfs.inodes import Inode
from s3mount.vfs.keys import DIRECTORY, LOCAL, escaped
from s3mount.vfs.lookup import ask_store, require, resolve
from s3mount.vfs.moving import move_directory
from s3mount.vfs.told import is_node
from s3mount.vfs.tree import Tree
from s3mount.vfs.versions import as_listed, copy_version, move_version

log = logging.getLogger(__name__)


async def rename(
    tree: Tree, old_parent: Inode, old_name: bytes, new_parent: Inode, new_name: bytes, *, no_replace: bool
) -> None:
    """rename(2). Raises Stale when the source is another version than the kernel knows: Linux then looks it up
    again."""
    tree.check_writable()
    await tree.transits.passed(old_parent.contents.prefix)
    await tree.transits.passed(new_parent.contents.prefix)
    old, new = keys.old_name(old_name), keys.new_name(new_name)
    inode = await require(tree, old_parent, old)
    key = tree.check_new(new_parent, new, "/" if inode.children is not None else "")
    target, _ = await resolve(tree, new_parent, new)
    if target is inode:
        return
    if target is not None and no_replace:
        raise Exists(target.path)
    if no_replace and await _is_taken(tree, key.rstrip("/")):
        # What a listing told may be older than another client's file of that name.
        new_parent.contents.forget_all()
        raise Exists(f"{new_parent.path}/{new}")
    if target is not None and target.directory is not None:
        await tree.deleting.settle_below(target.directory.prefix)
    await _check_target(tree, inode, target, new_parent)
    if new_parent is not old_parent:
        await keep_directory(tree, old_parent, old)
        if _may_be_special(inode, old_parent):
            await raise_flag(tree, new_parent.contents, nodes=_may_be_node(tree, inode, old_parent))
    if inode.children is None:
        lent = await lend(tree, inode, new_parent)
        condition = ABSENT if no_replace else ALWAYS
        try:
            with tree.transits.leaving(inode.key):
                await _move_file(tree, inode, target, key, condition, None if lent is None else lent[1])
        except BaseException as error:
            if lent is not None:
                give_back(inode, lent[0])
            if isinstance(error, LostReply | PreconditionFailed | Stale):
                # It may have had its effect; or the new name is another client's, whom nobody here has seen.
                tree.distrust(old_parent, old)
                tree.distrust(new_parent, new)
            raise
        if lent is not None:
            carried_by_copy(tree, inode, *lent)
        entry = LOCAL if inode.known is None else inode.known
    else:
        await _move_directory(tree, inode, target, key)
        entry = DIRECTORY
    if target is not None and target.directory is not None:
        target.directory.removed = True
    inode.own.ctime_ns = tree.wall_ns()
    tree.inodes.move(inode, new_parent, new)
    tree.note(old_parent, old, None)
    tree.note(new_parent, new, entry)
    tree.touched(old_parent)
    tree.touched(new_parent)
    if new_parent is not old_parent and _may_be_special(inode, old_parent):
        await pay_flag(tree, new_parent.contents)  # it may have gone while this took long


async def _is_taken(tree: Tree, key: str) -> bool:
    """Whether the store has something there; in an outage what is known will do, and the store decides later."""
    try:
        return (await ask_store(tree, key)).exists
    except Unavailable:
        if tree.store.away:
            return False
        raise


async def _check_target(tree: Tree, inode: Inode, target: Inode | None, new_parent: Inode) -> None:
    above: Inode | None = new_parent
    while above is not None:
        if above is inode:
            raise Invalid("a directory cannot be moved below itself")
        above = above.parent
    if target is None:
        return
    if target.children is None:
        if inode.children is not None:
            raise NotADirectory(target.path)
    elif inode.children is None:
        raise IsADirectory(target.path)
    else:
        await check_empty(tree, target)


def _may_be_special(inode: Inode, parent: Inode) -> bool:
    """Whether the directory that it moves to needs a flag; what nobody has asked for may be special."""
    return inode.special != PLAIN and (inode.special is not None or parent.contents.flag is not False)


def _may_be_node(tree: Tree, inode: Inode, parent: Inode) -> bool:
    if inode.special is not None or inode.known is None:
        return is_node(inode.special)
    return not tree.lists_file(parent.contents, inode.known)


async def _move_directory(tree: Tree, inode: Inode, target: Inode | None, prefix: str) -> None:
    """Onto an empty directory: the flag of that one says nothing of what comes in its place."""
    replaced = target.contents if target is not None and target.directory is not None else None
    if replaced is not None:
        await raised(replaced)
    if replaced is None or not replaced.flag or replaced.flag_owed:
        await move_directory(tree, inode, prefix, replaces=replaced is not None)
        return
    headers = await lower_flag(tree, replaced)
    try:
        await move_directory(tree, inode, prefix, replaces=True)
    except S3MountError:
        await restore_flag(tree, replaced, headers)
        raise


async def _move_file(
    tree: Tree, inode: Inode, target: Inode | None, key: str, condition: Condition, headers: Headers | None
) -> None:
    """Move it; a copy with other `headers`, if there are. The inode keeps its number and its times: the kernel keeps
    them anyway."""
    state = inode.own
    known = inode.known
    if state.mtime_ns is None and known is not None:
        state.mtime_ns = tree.shown(inode).mtime_ns
    replaced = _opened_meanwhile(target, None)
    if target is None and headers is None and tree.store.renames:
        with tree.transits.of(inode.key):
            await _move_bytes(tree, inode, target, key, condition, headers)
        return
    if replaced is None:
        await _move_bytes(tree, inode, target, key, condition, headers)
        return
    if replaced.busy:
        # An upload that ends after the copy would undo the rename. Whoever asked for it hears of its failure.
        try:
            await replaced.sync()
        except S3MountError as error:
            log.info("upload before a rename onto it failed key=%s reason=%s", escaped(key), error)
    # No upload of the replaced file starts until the new one is in its place.
    assert target is not None
    move = partial(_move_bytes, tree, inode, target, key, condition, headers)
    await replaced.replaced(move, read_on=target.own.handles > 0)


async def _move_bytes(
    tree: Tree, inode: Inode, target: Inode | None, key: str, condition: Condition, headers: Headers | None
) -> None:
    state = inode.own
    known = inode.known
    forsaken = _opened_meanwhile(target, None)
    moves: dict[str, Version] = {}

    async def overtaken() -> bool:
        """Whether the target was opened since: what was stored through it may have replaced the copy."""
        nonlocal forsaken
        late = _opened_meanwhile(target, forsaken)
        if late is None:
            return False
        forsaken = late
        await late.superseded()
        return True

    async def move(version: Version) -> Version:
        if version.key != key and version.etag not in moves:
            if target is None and not moves:
                moves[version.etag] = await _first(tree, key, version, condition, headers)
            else:
                moves[version.etag] = await copy_version(tree, key, version, overtaken=overtaken, headers=headers)
        return moves.get(version.etag, version)

    file, base = state.file, None
    if file is not None:
        await file.rename(key, move)
        base = file.base
    else:
        assert known is not None
        try:
            base = await move(Version(known.key, known.etag, known.size))
        except (NotFound, PreconditionFailed) as error:
            _distrust(tree, inode)
            raise Stale(f"{inode.path}: the object is another version now") from error
        except HalfMoved as half:
            raise half.reason from half
    while state.file is not None and state.file is not file:
        # The last handle went meanwhile, or there was none, and another came: it knows the version by its old key.
        file = state.file
        await file.rename(key, move)
        base = file.base
    inode.known = None if base is None else as_listed(tree, base)
    tree.stored_here(inode)
    inode.fresh_until = trio.current_time() + tree.config.metadata_ttl_seconds
    while await overtaken():
        continue


async def _first(tree: Tree, key: str, version: Version, condition: Condition, headers: Headers | None) -> Version:
    """The move to a name that nobody has, as far as we know."""
    if headers is None and tree.store.renames:
        return await move_version(tree, key, version)
    return await copy_version(tree, key, version, condition=condition, headers=headers)


def _opened_meanwhile(target: Inode | None, forsaken: File | None) -> File | None:
    """The file of who has opened the target since its file was forsaken."""
    file = target.state.file if target is not None and target.state is not None else None
    return None if file is forsaken else file


def _distrust(tree: Tree, inode: Inode) -> None:
    parent = inode.parent
    if parent is not None:
        parent.contents.forget_all()
        tree.inodes.detach(inode)
