"""Operations as somebody else: a child that gives up root, goes below a directory, and says what it was told.

The child holds the directory before it changes, because what lies above may be closed to others. Needs root.
"""

import errno
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.sides import Answer, Side

HERE = Path()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    umask: int = 0o022


CALLERS = (Caller(1001, 1001), Caller(1002, 1002, (2001,)), Caller(1001, 1001, (2001, 1002)), Caller(1003, 2001, (), 0))


def ask_as(caller: Caller, root: Path, operation: str, arguments: tuple[object, ...]) -> Answer:
    """What an operation of a Side at `root` answers to this caller."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        status = 1
        try:
            os.fchdir(folder)
            os.setgroups(caller.groups)
            os.setresgid(caller.gid, caller.gid, caller.gid)
            os.setresuid(caller.uid, caller.uid, caller.uid)
            os.umask(caller.umask)
            try:
                told = Answer(getattr(Side(HERE), operation)(*arguments))
            except OSError as error:
                told = Answer(error=error.errno or errno.EIO)
            os.write(sender, pickle.dumps(told))
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    os.close(folder)
    with open(receiver, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child of {caller} ended with {status}"
    found: Answer = pickle.loads(said)
    return found
