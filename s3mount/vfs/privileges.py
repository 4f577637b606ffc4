"""Setuid and setgid bits: who may not set them takes them from a file whose content or owner he changes.

Knows nothing of the store; no state. The kernel does most of it, by the mode in a SETATTR of its own, and leaves two
things to us: an open that truncates, for which it sends no SETATTR; and the setgid bit of a file that its group may not
execute, which goes by whether the caller is of the group. WRITE tells no caller and pages are written when it suits
the kernel: who opened the file for writing stands for who writes, and one outsider among them is enough.
"""

import stat
from collections.abc import Iterable
from dataclasses import replace

from s3mount.vfs.attributes import Attributes, Caller, Changes
from s3mount.vfs.inodes import Inode

BITS = stat.S_ISUID | stat.S_ISGID


def kept_mode(mode: int, gid: int, caller: Caller) -> int:
    """What is left of a file's mode when the caller changes the file."""
    if caller.uid == 0:
        return mode
    if mode & stat.S_ISGID and (mode & stat.S_IXGRP or not _is_member(caller, gid)):
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID


def lessened(shown: Attributes, changes: Changes, caller: Caller) -> Changes:
    """A SETATTR of this caller with the mode that it leaves a file of these attributes."""
    if not stat.S_ISREG(shown.mode) or (changes.size, changes.uid, changes.gid) == (None, None, None):
        return changes
    asked = shown.mode if changes.mode is None else changes.mode
    mode = kept_mode(asked, shown.gid, caller)
    return changes if mode == asked else replace(changes, mode=mode)


def may_be_privileged(inode: Inode) -> bool:
    """Whether a look at its mode is needed; costs next to nothing, for each WRITE asks."""
    state, special = inode.state, inode.special
    mode = None if special is None else special.mode
    if state is not None and state.mode is not None:
        mode = state.mode
    return mode is not None and bool(mode & BITS)


def mode_after_write(mode: int, gid: int, writers: Iterable[Caller]) -> int:
    """What a WRITE leaves, whoever of these sent it: the kernel has taken all other bits before."""
    if mode & (stat.S_ISGID | stat.S_IXGRP) != stat.S_ISGID:
        return mode
    outsider = any(writer.uid != 0 and not _is_member(writer, gid) for writer in writers)
    return mode & ~stat.S_ISGID if outsider else mode


def _is_member(caller: Caller, gid: int) -> bool:
    return caller.gid == gid or gid in caller.groups()
