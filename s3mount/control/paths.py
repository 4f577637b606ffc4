"""From a path of the user's to a mount of ours and the path in it, without asking the mount.

The mount table alone decides where a mount begins; links outside of mounts are followed, all of them; inside, nothing
is: a mount whose daemon is dead or hangs must not be touched. What lies behind a link inside a mount is told by the
daemon's ENOTDIR; `followed` then asks the kernel. No state.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from s3mount import kernel
from s3mount.errors import ControlError
from s3mount.kernel import Mount

LINKS_MAX = 40


@dataclass(frozen=True, slots=True)
class Location:
    """A path in a mount; `path` is relative to the file system's root, which a bind mount may not show."""

    mount: Mount
    path: str


def locate(path: str, mounts: Sequence[Mount]) -> Location:
    """Where a path is. Raises ControlError when that is not below a mount of ours."""
    if not path:
        raise ControlError("an empty path names nothing")
    try:
        pending = os.path.join(os.getcwd() if not path.startswith("/") else "/", path).split("/")[::-1]
    except OSError as error:
        raise ControlError(f"the current directory is gone: {error.strerror}") from None
    here, links = "/", 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        if not _is_ours(covering(there, mounts)) and (target := _target(there)) is not None:
            links += 1
            if links > LINKS_MAX:
                raise ControlError(f"{path}: too many symbolic links")
            pending += target.split("/")[::-1]
            here = "/" if target.startswith("/") else here
            continue
        here = there
    mount = covering(here, mounts)
    if mount is None or not _is_ours(mount):
        raise ControlError(f"{path} is not below a mount of s3mount: see `findmnt -t {kernel.FSTYPE}`")
    inside = here[len(mount.mountpoint.rstrip("/")) :]
    return Location(mount, f"{mount.root.rstrip('/')}{inside}".strip("/"))


def followed(path: str) -> str:
    """The path with links in its parents followed by the kernel, which asks the daemon."""
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def covering(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that a path is in: the longest mountpoint above it, of several there the one on top."""
    best: Mount | None = None
    for mount in mounts:
        at = mount.mountpoint.rstrip("/")
        if (path == mount.mountpoint or path.startswith(at + "/")) and (
            best is None or len(mount.mountpoint) >= len(best.mountpoint)
        ):
            best = mount
    return best


def _is_ours(mount: Mount | None) -> bool:
    return mount is not None and mount.fstype == kernel.FSTYPE


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
