"""The disk under the write-back journal: one directory of files with numbers for names. For worker threads only.

Knows nothing of what records say. Whatever fails raises OSError. What is written is sure after `sync`, and names of
files that were made or deleted are after `sync_names`. One thread at a time writes; any may read."""

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from s3mount.store.base import Body
from s3mount.writeback.records import ReadAt

SUFFIX = ".log"
RESERVE = "reserve"
PUNCH_HOLE_KEEP_SIZE = 0x01 | 0x02
SYNC_FILE_RANGE_WRITE = 2
BUFFERS_MAX = 512
"""Of one pwritev; the kernel takes 1,024."""

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class Disk(Protocol):
    """What the journal needs of a disk."""

    def numbers(self) -> list[int]:
        """The segments there are, ascending."""

    def size(self, number: int) -> int: ...

    def create(self, number: int, size: int) -> None:
        """A new segment of zeros that has its room on the disk already. Nothing is there when it fails."""

    def make_reserve(self, size: int) -> None:
        """A file of that size that is no segment yet, unless there is one."""

    def take_reserve(self, number: int) -> None:
        """As `create`, of the reserve: needs no room."""

    def drop_reserve(self) -> None: ...

    def write(self, number: int, offset: int, buffers: Body) -> None:
        """All of it; after a failure any part of it."""

    def push(self, number: int, offset: int, size: int) -> None:
        """Have the disk begin with what was written, so that `sync` finds less to do."""

    def sync(self, number: int) -> None: ...

    def sync_names(self) -> None: ...

    def read(self, number: int, offset: int, into: memoryview) -> int:
        """How many bytes there were."""

    def punch(self, number: int, offset: int, size: int) -> None:
        """Give room back: zeros are read there from now on. A file system that cannot, does nothing."""

    def unlink(self, number: int) -> None:
        """It may be gone already."""

    def set_aside(self, number: int, directory: str, *, copied: bool) -> None:
        """Put a segment into a directory of its own beside the others: the file itself, or (`copied`) a copy of it."""

    def close(self) -> None: ...


def reader(disk: Disk, number: int) -> ReadAt:
    """What a segment holds; what the disk does not give ends it."""

    def read(offset: int, size: int) -> bytes:
        into = bytearray(size)
        try:
            return bytes(memoryview(into)[: disk.read(number, offset, memoryview(into))])
        except OSError:
            return b""

    return read


def name_of(number: int) -> str:
    return f"{number:08d}{SUFFIX}"


def number_of(name: str) -> int | None:
    stem, suffix = os.path.splitext(name)
    return int(stem) if suffix == SUFFIX and len(stem) == 8 and stem.isascii() and stem.isdecimal() else None


def sync_names_above(directory: Path) -> None:
    """Have the directory itself outlast a loss of power, as the directories that were made for it."""
    with suppress(PermissionError):  # what is above is not ours, and was there
        for above in directory.absolute().parents:
            if above.stat().st_dev != directory.stat().st_dev:
                break
            _sync_directory(above)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Directory:
    """A Disk that is one. The directory is there, and ours alone."""

    def __init__(self, path: Path) -> None:
        # The mutable state: the descriptor of the segment that is written, and its number.
        self._path = path
        self._number = 0
        self._fd = -1

    def __repr__(self) -> str:
        return f"<Directory {self._path}>"

    def numbers(self) -> list[int]:
        return sorted(number for name in os.listdir(self._path) if (number := number_of(name)) is not None)

    def size(self, number: int) -> int:
        return self._file(number).stat().st_size

    def create(self, number: int, size: int) -> None:
        self.close()
        self._fd, self._number = _made(self._file(number), size), number

    def make_reserve(self, size: int) -> None:
        path = self._path / RESERVE
        if path.exists():
            if path.stat().st_size == size:
                return
            path.unlink()
        os.close(_made(path, size))

    def take_reserve(self, number: int) -> None:
        self.close()
        (self._path / RESERVE).rename(self._file(number))

    def drop_reserve(self) -> None:
        (self._path / RESERVE).unlink(missing_ok=True)

    def write(self, number: int, offset: int, buffers: Body) -> None:
        fd = self._opened(number)
        views = [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
        while views:
            batch = views[:BUFFERS_MAX]
            written = os.pwritev(fd, batch, offset)
            offset += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def push(self, number: int, offset: int, size: int) -> None:
        # Only a hint: what fails here fails in `sync`, too.
        libc.sync_file_range(self._opened(number), offset, size, SYNC_FILE_RANGE_WRITE)

    def sync(self, number: int) -> None:
        os.fdatasync(self._opened(number))

    def sync_names(self) -> None:
        _sync_directory(self._path)

    def read(self, number: int, offset: int, into: memoryview) -> int:
        fd = os.open(self._file(number), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(into) and (count := os.preadv(fd, [into[done:]], offset + done)):
                done += count
            return done
        finally:
            os.close(fd)

    def punch(self, number: int, offset: int, size: int) -> None:
        fd = os.open(self._file(number), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            libc.fallocate(fd, PUNCH_HOLE_KEEP_SIZE, offset, size)
        finally:
            os.close(fd)

    def unlink(self, number: int) -> None:
        if number == self._number:
            self.close()
        self._file(number).unlink(missing_ok=True)

    def set_aside(self, number: int, directory: str, *, copied: bool) -> None:
        aside = self._path / directory
        aside.mkdir(mode=0o700, exist_ok=True)
        if copied:
            copy = aside / name_of(number)
            shutil.copyfile(self._file(number), copy, follow_symlinks=False)
            with copy.open("rb") as file:
                os.fsync(file.fileno())
        else:
            self._file(number).rename(aside / name_of(number))
        _sync_directory(aside)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._number = -1, 0

    def _file(self, number: int) -> Path:
        return self._path / name_of(number)

    def _opened(self, number: int) -> int:
        if number != self._number:
            self.close()
            self._fd = os.open(self._file(number), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._number = number
        return self._fd


def _made(path: Path, size: int) -> int:
    """A new file that has its room on the disk for sure, open."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        os.fsync(fd)
    except OSError:
        os.close(fd)
        with suppress(OSError):
            path.unlink()
        raise
    return fd
