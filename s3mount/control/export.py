"""Writes what a daemon keeps of a file into a directory of the user's, with the user's rights.

The names come from a daemon that may be another user's: nothing outside of the directory is made or followed, and
nothing that is there is written over. A file that could not be written whole is removed again. No state.
"""

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from s3mount import kernel
from s3mount.control import paths
from s3mount.errors import ControlError

PIECE_BYTES = 2 * 1024 * 1024
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Fetch = Callable[[int, int], dict[str, object]]
"""A piece by offset and size, as the daemon tells it."""


@contextmanager
def opened(directory: str) -> Iterator[int]:
    """The directory, made if it is not there. Raises ControlError, also for one in a mount of ours: what is kept would
    be stored where it could not be."""
    try:
        paths.locate(directory, kernel.mounts())
    except ControlError:
        pass
    else:
        raise ControlError(f"{directory} is in a mount of s3mount: export to a local disk")
    try:
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ControlError(f"{directory}: {error.strerror}") from None
    try:
        yield handle
    finally:
        os.close(handle)


def export(directory: int, path: str, fetch: Fetch) -> int:
    """Write one file below the open directory; its size. Raises ControlError."""
    *parents, name = _names(path)
    try:
        with _parent(directory, parents) as parent:
            handle = os.open(name, NEW_FILE, 0o600, dir_fd=parent)
            try:
                with open(handle, "wb") as file:
                    size = 0
                    for piece in _pieces(fetch):
                        file.write(piece)
                        size += len(piece)
                    file.flush()
                    os.fsync(handle)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name, dir_fd=parent)
                raise
    except FileExistsError:
        raise ControlError("is there already: nothing is written over") from None
    except OSError as error:
        raise ControlError(f"was not written: {error.strerror}") from None
    return size


def export_directory(directory: int, path: str) -> None:
    """Make one directory below the open one, unless it is there. Raises ControlError."""
    try:
        with _parent(directory, _names(path)):
            pass
    except OSError as error:
        raise ControlError(f"was not made: {error.strerror}") from None


def _names(path: str) -> list[str]:
    names = path.split("/")
    if any(part in ("", ".", "..") for part in names) or not _is_encodable(path):
        raise ControlError("the daemon has named a path that no file can have")
    return names


def _is_encodable(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


@contextmanager
def _parent(directory: int, names: list[str]) -> Iterator[int]:
    here = os.dup(directory)
    try:
        for name in names:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=here)
            below = os.open(name, DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _pieces(fetch: Fetch) -> Iterator[bytes]:
    offset = 0
    first: tuple[object, object] | None = None
    while True:
        answer = fetch(offset, PIECE_BYTES)
        version = answer.get("size"), answer.get("changed_ns")
        if first is None:
            first = version
        if version != first:
            raise ControlError("a program has changed it meanwhile")
        try:
            data = base64.b64decode(str(answer.get("data")), validate=True)
        except ValueError:
            raise ControlError("the daemon said what cannot be understood") from None
        yield data
        offset += len(data)
        size = answer.get("size")
        if not isinstance(size, int) or offset >= size:
            return
        if not data:
            raise ControlError(f"the daemon has {offset} bytes of {size}")
