"""One of two directories that are compared: each method of a `Side` is one system call or one small program on it.

Knows nothing of mounts; what is not compared (see DIFFERENCES in `differential`) is not in the answers.
"""

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

Tree = dict[str, bytes | str]
DIRECTORY = "directory"
LINK = "-> "
SET_BEFORE_NS = 1_600_000_000 * 1_000_000_000
"""What a program sets here is before it, what follows from writing is behind it."""


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

    def open_truncating(self, name: str) -> None:
        """open(2) with O_TRUNC and nothing after it."""
        os.close(os.open(self.path(name), os.O_WRONLY | os.O_TRUNC))

    def truncate_open(self, name: str, size: int) -> None:
        """ftruncate(2)."""
        fd = os.open(self.path(name), os.O_WRONLY)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def fsync(self, handle: int) -> None:
        os.fsync(self.fds[handle])

    def fdatasync(self, handle: int) -> None:
        os.fdatasync(self.fds[handle])

    def fstat(self, handle: int) -> tuple[int, int]:
        return shown(os.fstat(self.fds[handle]))

    def stat(self, name: str) -> tuple[int, int]:
        return shown(os.stat(self.path(name)))

    def attributes(self, name: str) -> "Attributes":
        return attributes(os.lstat(self.path(name)))

    def handle_attributes(self, handle: int) -> "Attributes":
        return attributes(os.fstat(self.fds[handle]))

    def create(self, handle: int, name: str, flags: int, mode: int) -> None:
        self.fds[handle] = os.open(self.path(name), flags, mode)

    def mkdir_with(self, name: str, mode: int) -> None:
        os.mkdir(self.path(name), mode)

    def chmod(self, name: str, mode: int) -> None:
        os.chmod(self.path(name), mode)

    def fchmod(self, handle: int, mode: int) -> None:
        os.fchmod(self.fds[handle], mode)

    def chown(self, name: str, uid: int, gid: int) -> None:
        os.lchown(self.path(name), uid, gid)

    def utimens(self, name: str, atime_ns: int, mtime_ns: int) -> int:
        os.utime(self.path(name), ns=(atime_ns, mtime_ns), follow_symlinks=False)
        return os.lstat(self.path(name)).st_mtime_ns

    def touch(self, name: str) -> None:
        os.utime(self.path(name))

    def symlink(self, target: str, name: str) -> None:
        os.symlink(target, self.path(name))

    def readlink(self, name: str) -> str:
        return os.readlink(self.path(name))

    def mkfifo(self, name: str, mode: int) -> None:
        os.mknod(self.path(name), stat.S_IFIFO | mode)

    def setxattr(self, name: str, attribute: str, value: bytes, flags: int) -> None:
        os.setxattr(self.path(name), attribute, value, flags)

    def getxattr(self, name: str, attribute: str) -> bytes:
        return os.getxattr(self.path(name), attribute)

    def listxattr(self, name: str) -> list[str]:
        return sorted(found for found in os.listxattr(self.path(name)) if found.startswith("user."))

    def removexattr(self, name: str, attribute: str) -> None:
        os.removexattr(self.path(name), attribute)

    def write_file(self, name: str, data: bytes, mode: int) -> None:
        fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def access(self, name: str, wanted: int) -> bool:
        return os.access(self.path(name), wanted)

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


class Attributes(NamedTuple):
    """What is compared of an inode; `mtime_ns` None: it follows from writing, or is a directory's."""

    mode: str
    uid: int
    gid: int
    mtime_ns: int | None


def attributes(found: os.stat_result) -> Attributes:
    told = not stat.S_ISDIR(found.st_mode) and found.st_mtime_ns < SET_BEFORE_NS
    return Attributes(oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns if told else None)


def tree(root: Path) -> Tree:
    """Every path below `root`: the bytes of a regular file, a word for anything else."""
    found: Tree = {}
    for name, entry in _below(root):
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISREG(mode):
            found[name] = Path(entry.path).read_bytes()
        elif stat.S_ISLNK(mode):
            found[name] = f"{LINK}{os.readlink(entry.path)}"
        else:
            found[name] = DIRECTORY if stat.S_ISDIR(mode) else f"special {stat.S_IFMT(mode):o}"
    return found


def attribute_differences(left: Path, right: Path) -> list[str]:
    """What differs in modes, owners, times and extended attributes of two equal trees, the roots included."""
    names = ["", *(name for name, _ in _below(right))]
    pairs = [(name, _all_attributes(left / name), _all_attributes(right / name)) for name in names]
    return [f"{name!r}: {here} instead of {there}" for name, here, there in pairs if here != there]


def _all_attributes(path: Path) -> tuple[object, ...]:
    return (*attributes(path.lstat()), user_xattrs(path))


def user_xattrs(path: Path) -> dict[str, bytes]:
    """Those that programs have given it; none where there are none at all."""
    try:
        names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _below(root: Path, prefix: str = "") -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    with os.scandir(root / prefix) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        yield prefix + entry.name, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _below(root, f"{prefix}{entry.name}/")
