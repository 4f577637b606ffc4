"""Pieces in files under the cache directory: read, written, evicted. Blocks: for worker threads only.

All mounts of a user on a host share the directory. A piece is written aside and renamed into place; one that is there
is never written again. One writer at a time, over all mounts, holds the lock file, in which stands how many bytes all
pieces take: counted up before a piece is written and down after pieces were deleted. So what a kill leaves is a number
too high, which the next look at everything puts right. Readers take no lock: what is deleted under them stays theirs.
Nothing is synced: what a power cut tears has another checksum, and who meets it deletes it.

The time of last use is a file's mtime, set anew at most every TOUCH_SECONDS. Who finds the limit passed deletes the
least recently used pieces down to nine tenths of it, in two walks: one counts bytes by age, one deletes what is older
than the age found. So a million pieces cost no memory here, but some seconds of a thread for each walk.
"""

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import log2
from pathlib import Path
from typing import NamedTuple

from s3mount.data.belief import PARTS, Belief
from s3mount.data.pieces import (
    PAGE_BYTES,
    Content,
    Piece,
    direct,
    disk_bytes,
    head_bytes,
    intact,
    name_of,
    pack_head,
    parse_name,
    sums,
    unpack_head,
)

DIRECTORY = "blocks"
TOUCH_SECONDS = 600.0
KEEP_FREE_PART = 20
KEEP_FREE_MAX_BYTES = 1024 * 1024 * 1024
"""A twentieth of the disk, at most so much, is left to others: to bytes that are not in the bucket, first of all."""
_TOTAL = struct.Struct("<8sQ")
_TOTAL_MAGIC = b"s3mtotal"
_NEW = "new"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Bad(Exception):
    """A file that is no piece of ours."""


class Job(NamedTuple):
    """A piece to write: its bytes in buffers of whole blocks. `aligned`: each begins at a page."""

    content: Content
    piece: Piece
    views: Sequence[memoryview]
    aligned: bool


class PieceFiles:
    """See the module."""

    def __init__(
        self,
        cache_dir: Path,
        *,
        limit_bytes: int,
        block_bytes: int,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        # The mutable state: what is believed to be there, and of which mtime each part was when it was listed; whether
        # the file system reads past its page cache; bytes of all pieces when we last knew; how many files were deleted
        # because they were none of ours, and what was wrong with the last one.
        self.directory = cache_dir / DIRECTORY
        self.limit_bytes = limit_bytes
        self.belief = Belief()
        self.total_bytes = 0
        self.damaged = 0
        self.damage = ""
        self._block_bytes = block_bytes
        self._wall_seconds = wall_seconds
        self._listed: list[int] = [-1] * PARTS
        self._direct = True
        self._heads = threading.local()
        self._counting = threading.Lock()
        self._root = os.fspath(self.directory)

    # reading

    def read(self, content: Content, start: int, into: memoryview, *, aligned: bool) -> int:
        """Bytes of a version from `start` on, which begins a block: how many were found before the first that was
        not. Raises OSError."""
        done = 0
        while done < len(into):
            piece = self.belief.covering(content, (start + done) // self._block_bytes)
            count = 0
            while piece is not None and not count:
                count = self._read_piece(content, piece, start + done, into[done:], aligned=aligned)
                if not count:
                    piece = self.belief.covering(content, (start + done) // self._block_bytes, below=piece.level)
            if not count:
                return done
            done += count
        return done

    def _read_piece(self, content: Content, piece: Piece, at: int, into: memoryview, *, aligned: bool) -> int:
        """How many of the bytes this piece had; none if it is not there. One that is not ours is deleted."""
        size = piece.size(content, self._block_bytes)
        offset = at - piece.start * self._block_bytes
        into = into[: size - offset]
        path = self._path(content, piece)
        past_cache = self._direct and aligned and direct(size)
        try:
            fd = os.open(path, _READ | (os.O_DIRECT if past_cache else 0))
            try:
                self._read_checked(fd, content, piece, offset, into)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return 0
        except Bad as error:
            self._remove(path, error)
            return 0
        except OSError as error:
            if error.errno == errno.EINVAL and past_cache:
                self._direct = False
                return self._read_piece(content, piece, at, into, aligned=aligned)
            if error.errno != errno.ELOOP:
                raise
            self._remove(path, error)
            return 0
        return len(into)

    def _read_checked(self, fd: int, content: Content, piece: Piece, offset: int, into: memoryview) -> None:
        size = piece.size(content, self._block_bytes)
        length = head_bytes(size, self._block_bytes)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size != length + size:
            raise Bad(f"{found.st_size} bytes instead of {length + size}")
        head = self._head(length)
        if not offset:
            _fill(fd, [head, into], 0)
        else:
            _fill(fd, [head], 0)
            _fill(fd, [into], length + offset)
        checksums = unpack_head(head, content, piece, self._block_bytes)
        if checksums is None:
            raise Bad("no head of this piece")
        if not intact(into, offset, checksums, self._block_bytes):
            raise Bad("a checksum differs")
        now = self._wall_seconds()
        if abs(now - found.st_mtime) > TOUCH_SECONDS:
            with suppress(OSError):
                os.utime(fd, (now, now))

    def _head(self, size: int) -> memoryview:
        """Memory for a head, at a page, of this thread's own."""
        head = getattr(self._heads, "view", None)
        if head is None:
            head = self._heads.view = memoryview(mmap.mmap(-1, PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        assert isinstance(head, memoryview)
        return head[:size]

    def _remove(self, path: str, reason: Exception) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return  # another reader has met it too
        except OSError as error:
            reason = error
        with self._counting:
            self.damaged += 1
            self.damage = f"{path}: {reason}"

    # writing

    def write(self, jobs: Sequence[Job]) -> int:
        """Write pieces that are not there, evicting others; how many bytes. Raises OSError when the disk takes none."""
        with self._locked() as lock:
            written = 0
            total = self._read_total(lock)
            for job in jobs:
                size = job.piece.size(job.content, self._block_bytes)
                needed = disk_bytes(size, self._block_bytes)
                path = self._path(job.content, job.piece)
                if needed > self.limit_bytes or os.path.lexists(path):
                    continue
                if total + needed > self.limit_bytes:
                    total = self._evict(self._goal - needed)
                    self._write_total(lock, total)
                self._check_free(lock, needed)
                total += needed
                self._write_total(lock, total)
                try:
                    self._write_piece(job, size, path)
                except OSError:
                    self._write_total(lock, total - needed)
                    raise
                self.belief.note(job.content, job.piece)
                written += size
            return written

    def _write_piece(self, job: Job, size: int, path: str) -> None:
        checksums = sums(job.views, self._block_bytes)
        head = self._head(head_bytes(size, self._block_bytes))
        head[:] = pack_head(job.content, job.piece, self._block_bytes, checksums)
        new = f"{self._root}/{_NEW}"
        try:
            try:
                self._write_file(new, [head, *job.views], past_cache=self._direct and job.aligned and direct(size))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False
                self._write_file(new, [head, *job.views], past_cache=False)
            try:
                os.rename(new, path)
            except FileNotFoundError:
                os.mkdir(os.path.dirname(path), 0o700)
                os.rename(new, path)
        except OSError:
            with suppress(OSError):
                os.unlink(new)
            raise

    @staticmethod
    def _write_file(path: str, views: list[memoryview], *, past_cache: bool) -> None:
        fd = os.open(path, _WRITE | (os.O_DIRECT if past_cache else 0), 0o600)
        try:
            wanted = sum(map(len, views))
            if os.writev(fd, views) != wanted:
                raise OSError(errno.ENOSPC, "the file was not written whole", path)
        finally:
            os.close(fd)

    def _check_free(self, lock: int, needed: int) -> None:
        disk = os.fstatvfs(lock)
        kept = min(disk.f_blocks * disk.f_frsize // KEEP_FREE_PART, KEEP_FREE_MAX_BYTES)
        if disk.f_bavail * disk.f_frsize - needed < kept:
            raise OSError(errno.ENOSPC, f"less than {kept >> 20} MiB would be left free", self._root)

    # taking stock

    def look(self) -> None:
        """Learn what is there, the first time with its size. Raises OSError."""
        if all(mtime < 0 for mtime in self._listed):
            with self._locked() as lock:
                total = sum(size for _, size in self._walk())
                self._write_total(lock, self._evict(self._goal) if total > self.limit_bytes else total)
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._root}/{_NEW}")
            return
        for part in range(PARTS):
            path = f"{self._root}/{part:02x}"
            try:
                mtime_ns = os.stat(path, follow_symlinks=False).st_mtime_ns
                if mtime_ns != self._listed[part]:
                    self.belief.renew(part, [found for found in map(parse_name, os.listdir(path)) if found])
            except (FileNotFoundError, NotADirectoryError):
                mtime_ns = 0
                self.belief.renew(part, ())
            self._listed[part] = mtime_ns

    @property
    def _goal(self) -> int:
        """What eviction leaves, so that it is rare."""
        return self.limit_bytes * 9 // 10

    def _walk(self) -> Iterator[tuple[os.DirEntry[str], int]]:
        """Every piece with what it takes of the disk; what is there is believed then."""
        for part in range(PARTS):
            path = f"{self._root}/{part:02x}"
            names = []
            try:
                mtime_ns = os.stat(path, follow_symlinks=False).st_mtime_ns
                with os.scandir(path) as entries:
                    for entry in entries:
                        found = parse_name(entry.name)
                        if found is not None:
                            with suppress(FileNotFoundError):
                                size = entry.stat(follow_symlinks=False).st_size
                                names.append(found)
                                yield entry, -(-size // PAGE_BYTES) * PAGE_BYTES
            except (FileNotFoundError, NotADirectoryError):
                mtime_ns = 0
            self.belief.renew(part, names)
            self._listed[part] = mtime_ns

    def _evict(self, goal: int) -> int:
        """Delete the least recently used until no more than `goal` bytes are left; how many are."""
        now = self._wall_seconds()
        ages: Counter[int] = Counter()
        for entry, size in self._walk():
            ages[_age(now, entry)] += size
        total = sum(ages.values())
        excess, oldest = total - goal, 0
        left = excess
        for oldest in sorted(ages, reverse=True):
            if left <= ages[oldest]:
                break
            left -= ages[oldest]
        for entry, size in self._walk():
            age = _age(now, entry)
            if age < oldest or (age == oldest and left <= 0):
                continue
            with suppress(FileNotFoundError):
                os.unlink(entry.path)
            total -= size
            left -= size if age == oldest else 0
        return total

    # the lock and the number in it

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The lock of all writers, and a directory that nobody else can look into."""
        try:
            os.makedirs(os.path.dirname(self._root), 0o700, exist_ok=True)
            os.mkdir(self._root, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(self._root)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(errno.EPERM, "this is no directory of ours alone", self._root)
        fd = os.open(f"{self._root}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _read_total(self, lock: int) -> int:
        raw = os.pread(lock, _TOTAL.size, 0)
        if len(raw) == _TOTAL.size:
            magic, total = _TOTAL.unpack(raw)
            if magic == _TOTAL_MAGIC:
                self.total_bytes = total
                return int(total)
        return sum(size for _, size in self._walk())

    def _write_total(self, lock: int, total: int) -> None:
        self.total_bytes = total
        os.pwrite(lock, _TOTAL.pack(_TOTAL_MAGIC, total), 0)

    def _path(self, content: Content, piece: Piece) -> str:
        return f"{self._root}/{content.digest[0]:02x}/{name_of(content, piece)}"


def _fill(fd: int, views: list[memoryview], offset: int) -> None:
    """Raises Bad when the file ends early."""
    wanted = sum(map(len, views))
    count = os.preadv(fd, views, offset)
    if count != wanted:
        raise Bad(f"{count} bytes instead of {wanted}")


def _age(now: float, entry: os.DirEntry[str]) -> int:
    """In steps of 2%; of a file that is gone, the oldest there is."""
    try:
        mtime = entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 1 << 20
    return int(32 * log2(max(0.0, now - mtime) * 10 + 1))
