"""Where the control socket of a mount is: a rule that needs nothing but the mount table's line of the mount.

The socket is named after the device number of the mount, which no two live mounts of a machine share, bind mounts and
containers included. Its directory is the first that the daemon's user (`user_id` in the mount table) can have: nothing
in the environment decides, so that daemon and client always mean the same one. The directory is opened without
following a link and checked to be that user's alone; everything in it is named relative to the open directory, so that
nobody can put another in its place, and a long path cannot exceed the 107 bytes of a socket's address. No state.
"""

import os
import socket
import stat
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

BACKLOG = 128
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
PEER = (socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
"""What to ask a socket for that tells who is at the other end."""


def directories(uid: int) -> tuple[Path, ...]:
    """Where the sockets of a user's daemons may be, the preferred one first.

    /run is root's, or a service manager has made the directory; a login session has /run/user, until it ends.
    """
    return Path("/run/s3mount"), Path(f"/run/user/{uid}/s3mount"), Path(f"/tmp/s3mount-{uid}")


def name_of(device: str) -> str:
    """The socket of the mount with this device number, as the mount table writes it."""
    return device.replace(":", "-") + ".sock"


@contextmanager
def opened(directory: Path, uid: int) -> Iterator[Path]:
    """A path to the open directory, valid inside the block. Raises OSError when it is not that user's alone."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(handle)
        if info.st_uid != uid or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{directory} is not user {uid}'s alone")
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


class Bound:
    """A listening socket at its place. No state but the file's."""

    def __init__(self, listening: socket.socket, directory: Path, name: str, identity: tuple[int, int]) -> None:
        self.socket = listening
        self.path = directory / name
        self._identity = identity

    def __repr__(self) -> str:
        return f"<Bound {self.path}>"

    @property
    def stands(self) -> bool:
        """Whether a client finds it: it may have been removed, or its name be another daemon's by now."""
        try:
            info = os.lstat(self.path)
        except OSError:
            return False
        return (info.st_dev, info.st_ino) == self._identity

    def remove(self) -> None:
        """Take the name away, unless it is another daemon's: the kernel gives a device number away again."""
        if self.stands:
            with suppress(OSError):
                os.unlink(self.path)


def bind(device: str, *, among: Sequence[Path], uid: int) -> Bound:
    """Listen in the first directory that can be had; a stale socket of that name is replaced. Raises OSError, of the
    last one tried."""
    failure = OSError("there is no place for a socket")
    for directory in among:
        try:
            with suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            with opened(directory, uid) as path:
                return _bind(path, directory, name_of(device))
        except OSError as error:
            failure = error
    raise failure


def sweep(among: Sequence[Path], uid: int, mounted: Collection[str]) -> None:
    """Remove what killed daemons have left: sockets that nobody listens at, of devices that are not `mounted` any more.
    Of one that is, a client says that its daemon has died. A draft stays: nobody listens at it yet."""
    for directory in among:
        with suppress(OSError), opened(directory, uid) as path:
            for left in path.glob("[0-9]*.sock"):
                if left.name in {name_of(device) for device in mounted}:
                    continue
                info = os.lstat(left)
                if stat.S_ISSOCK(info.st_mode) and _is_deaf(left) and os.lstat(left).st_ino == info.st_ino:
                    os.unlink(left)


def _is_deaf(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.setblocking(False)  # its queue may be full
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _bind(path: Path, directory: Path, name: str) -> Bound:
    """It gets its name when it listens: whoever finds it is heard."""
    draft = path / f".{name}-{os.getpid()}"
    with suppress(FileNotFoundError):
        os.unlink(draft)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(draft))
        try:
            os.chmod(draft, 0o600)
            listening.listen(BACKLOG)
            info = os.lstat(draft)
            os.rename(draft, path / name)
        except OSError:
            os.unlink(draft)
            raise
    except OSError:
        listening.close()
        raise
    return Bound(listening, directory, name, (info.st_dev, info.st_ino))


def uid_in(raw: bytes) -> int:
    """The user in what `getsockopt(*PEER)` says of the other end; of a listener whoever it was when it began to
    listen."""
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid
