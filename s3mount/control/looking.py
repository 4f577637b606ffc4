"""Looks at a mount from a child process that may be left behind: whoever touches a mount whose daemon hangs cannot even
be killed, so this process never does. No state."""

import errno
import os
import select
import signal
import time

ANSWERED = 0


def statfs(mountpoint: str, seconds: float) -> int | None:
    """What statfs(2) of the mount says, asked of its daemon each time: 0 or an errno; None: nothing in time."""
    child = os.fork()
    if child == 0:
        status = errno.EIO
        try:
            _let_go()
            os.statvfs(mountpoint)
            status = ANSWERED
        except OSError as error:
            status = error.errno or errno.EIO
        finally:
            os._exit(min(status, 255))
    ended = os.pidfd_open(child)
    try:
        deadline = time.monotonic() + seconds
        if select.select([ended], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(ended)
    os.kill(child, signal.SIGKILL)  # it goes when the kernel lets it, and is not waited for
    return None


def _let_go() -> None:
    """Hold nothing that others wait for the end of: a container's runtime reads our output until all have closed it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.closerange(3, 1024)
    os.chdir("/")
