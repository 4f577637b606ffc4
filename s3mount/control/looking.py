"""Looks at a mount from a child process that may be left behind: whoever touches a mount whose daemon hangs may be
beyond killing, so this process never does. No state."""

import errno
import os
import select
import signal

ANSWERED = 0
REAP_SECONDS = 0.5
"""For a child that was killed to end: one whose request the daemon has not read does at once."""


def statfs(mountpoint: str, seconds: float) -> int | None:
    """What statfs(2) of the mount says, asked of its daemon each time: 0 or an errno; None: nothing in time."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _look(mountpoint, theirs)
    os.close(theirs)
    try:
        # The child says nothing: that it has ended shows by the end of the pipe.
        if not select.select([ours], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
            if select.select([ours], [], [], REAP_SECONDS)[0]:
                os.waitpid(child, 0)
            return None
    finally:
        os.close(ours)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _look(mountpoint: str, ended: int) -> None:
    """The child's whole life."""
    status = errno.EIO
    try:
        # It holds nothing that others wait for the end of: a container's runtime reads our output until all have
        # closed it.
        os.dup2(ended, 3)  # first: where a standard stream was closed, it is one of them
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        os.closerange(4, 1024)
        os.statvfs(mountpoint)
        status = ANSWERED
    except OSError as error:
        status = error.errno or errno.EIO
    finally:
        os._exit(min(status, 255))
