"""The kernel's own end of a FUSE mount: how its connection to a daemon is ended when the daemon does not answer.

Every request that waits fails, later ones too, and the mountpoint is dead: only a new mount helps. The switch is a file
of fusectl, which is mounted for us alone where nobody has mounted it; that takes root. No state.
"""

import ctypes
import errno
import os
from pathlib import Path

from s3mount.errors import ControlError
from s3mount.kernel import FUSECTL, Mount

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def end(mount: Mount) -> None:
    """End the connection of a mount. Raises ControlError with what would help."""
    switch = FUSECTL / mount.device.partition(":")[2] / "abort"
    try:
        failure = _press(switch)
        if failure == errno.ENOENT and not os.path.ismount(FUSECTL):
            failure = _press_alone(switch)
    except OSError as error:
        failure = error.errno or errno.EIO
    if failure == errno.ENOENT:
        raise ControlError(f"{mount.mountpoint} has no connection any more: nothing waits for its daemon")
    if failure in (errno.EPERM, errno.EACCES):
        raise ControlError(
            f"only root ends the connection of {mount.mountpoint}: as root, `s3mount abort --force {mount.mountpoint}`"
        )
    if failure:
        raise ControlError(f"the connection of {mount.mountpoint} was not ended: {os.strerror(failure)}")


def _press(switch: Path) -> int:
    """0, or the errno."""
    try:
        switch.write_text("1\n")
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _press_alone(switch: Path) -> int:
    """The same with fusectl mounted for a process of its own, whose mounts nobody else sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        failure = errno.EIO
        try:
            failure = _mounted(libc) or _press(switch)
        finally:
            os._exit(min(failure, 255))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256


def _mounted(libc: ctypes.CDLL) -> int:
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return ctypes.get_errno()
    if libc.mount(b"none", os.fsencode(FUSECTL), b"fusectl", 0, None):
        return ctypes.get_errno()
    return 0
