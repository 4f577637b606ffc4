"""One of two directories that are compared: each method of a `Side` is one system call or one small program on it.

Knows nothing of mounts; what is not compared (see DIFFERENCES in `differential`) is not in the answers.
"""

import errno
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned, or the errno it raised."""

    value: object = None
    error: int = 0

    def __str__(self) -> str:
        if self.error:
            return errno.errorcode.get(self.error, str(self.error))
        if isinstance(self.value, bytes) and len(self.value) > 60:
            return f"{len(self.value)} bytes {self.value[:20]!r}..."
        return repr(self.value)


class Side:
    """One of the two directories: each method is one system call or one small program on it.

    The mutable state is the open descriptors, by the driver's handle numbers. Errors are raised as OSError.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fds: dict[int, int] = {}

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def open(self, handle: int, name: str, flags: int) -> None:
        self.fds[handle] = os.open(self.path(name), flags, 0o644)

    def close(self, handle: int) -> None:
        os.close(self.fds.pop(handle))

    def dup_and_close(self, handle: int) -> None:
        os.close(os.dup(self.fds[handle]))

    def write(self, handle: int, data: bytes) -> int:
        return os.write(self.fds[handle], data)

    def pwrite(self, handle: int, offset: int, data: bytes) -> int:
        return os.pwrite(self.fds[handle], data, offset)

    def read(self, handle: int, size: int) -> bytes:
        return os.read(self.fds[handle], size)

    def pread(self, handle: int, offset: int, size: int) -> bytes:
        return os.pread(self.fds[handle], size, offset)

    def seek(self, handle: int, offset: int, whence: int) -> int:
        return os.lseek(self.fds[handle], offset, whence)

    def ftruncate(self, handle: int, size: int) -> None:
        os.ftruncate(self.fds[handle], size)

    def truncate(self, name: str, size: int) -> None:
        os.truncate(self.path(name), size)

    def fsync(self, handle: int) -> None:
        os.fsync(self.fds[handle])

    def fdatasync(self, handle: int) -> None:
        os.fdatasync(self.fds[handle])

    def fstat(self, handle: int) -> tuple[int, int]:
        return shown(os.fstat(self.fds[handle]))

    def stat(self, name: str) -> tuple[int, int]:
        return shown(os.stat(self.path(name)))

    def unlink(self, name: str) -> None:
        os.unlink(self.path(name))

    def rename(self, name: str, target: str) -> None:
        os.rename(self.path(name), self.path(target))

    def mkdir(self, name: str) -> None:
        os.mkdir(self.path(name))

    def rmdir(self, name: str) -> None:
        os.rmdir(self.path(name))

    def listdir(self, name: str) -> list[tuple[str, bool]]:
        with os.scandir(self.path(name)) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries)

    def read_file(self, name: str) -> bytes:
        with open(self.path(name), "rb", buffering=0) as file:
            return file.readall() or b""

    def append_line(self, name: str, line: bytes) -> None:
        fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def map_read(self, handle: int, offset: int, size: int) -> bytes:
        with mmap.mmap(self.fds[handle], 0, prot=mmap.PROT_READ) as mapped:
            return bytes(mapped[offset : offset + size])

    def map_write(self, handle: int, offset: int, data: bytes, flush: int) -> int:
        """Write into a shared mapping where the file is long enough; the number of bytes written."""
        with mmap.mmap(self.fds[handle], 0, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            data = data[: max(len(mapped) - offset, 0)]
            mapped[offset : offset + len(data)] = data
            if flush:
                mapped.flush()
            return len(data)

    def close_all(self) -> None:
        while self.fds:
            os.close(self.fds.popitem()[1])


def shown(found: os.stat_result) -> tuple[int, int]:
    """Type and, of a regular file, size."""
    return stat.S_IFMT(found.st_mode), found.st_size if stat.S_ISREG(found.st_mode) else 0


def tree(root: Path) -> dict[str, bytes | None]:
    """Every path below `root`: the bytes of a file, None of a directory."""
    found: dict[str, bytes | None] = {}
    for folder, directories, files in os.walk(root, onerror=_raise):
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else f"{below}/"
        found.update({prefix + name: None for name in directories})
        found.update({prefix + name: Path(folder, name).read_bytes() for name in files})
    return found


def _raise(error: OSError) -> None:
    raise error
