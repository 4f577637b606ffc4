"""The file in which attributes are remembered: one SQLite table, shared by the mounts of a host. Blocks.

One row a key: the special attributes of its last known version. Rows are found by directory; the longest unused go
when there are too many. Everything here is called in worker threads, by one at a time, and raises sqlite3.Error or
OSError; an OperationalError or OSError is of the moment or of the disk, any other means that the file is not ours or
is damaged. Such a file is moved aside, but by a process that is alone with it only: SQLite finds its write-ahead log by
name, so a name must not come to mean another file while somebody has it open. Who has it open holds a shared lock on
the file `.lock` beside it, and nobody else does.
"""

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from s3mount.vfs.attributes import PLAIN, Special
from s3mount.vfs.metadata import metadata_with, special_of

log = logging.getLogger(__name__)

FORMAT = 1
APPLICATION = int.from_bytes(b"s3ma", "big")
BUSY_SECONDS = 5.0
"""How long another process may write before we give up."""
LOCK_ATTEMPTS, LOCK_PAUSE_SECONDS = 40, 0.05
BEHIND_ALL = b"\xff"
"""Behind every name: no UTF-8 text has this byte."""
USE_KNOWN_TO_SECONDS = 86_400
"""A directory that is read again within this time is not written for it."""
LOADED_MAX = 200_000
"""Rows that are read at once; those behind are as if unknown."""

_CREATE = """
CREATE TABLE attributes (
    directory BLOB NOT NULL, name BLOB NOT NULL, etag TEXT NOT NULL, modified_ns INTEGER NOT NULL, mode INTEGER,
    uid INTEGER, gid INTEGER, mtime_ns INTEGER, atime_ns INTEGER, ctime_ns INTEGER, rdev INTEGER, xattr TEXT,
    used INTEGER NOT NULL, PRIMARY KEY (directory, name)
) WITHOUT ROWID
"""
_WRITE = "INSERT OR REPLACE INTO attributes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_READ = """
SELECT name, used, etag, modified_ns, mode, uid, gid, mtime_ns, atime_ns, ctime_ns, rdev, xattr
FROM attributes WHERE directory = ? AND name BETWEEN ? AND ? LIMIT ?
"""
_USE = "UPDATE attributes SET used = ? WHERE directory = ? AND used < ?"
_EVICT = """
DELETE FROM attributes WHERE (directory, name) IN (SELECT directory, name FROM attributes ORDER BY used LIMIT ?)
"""


class Known(NamedTuple):
    """What was learnt of one version of an object."""

    etag: str
    last_modified_ns: int
    special: Special


def is_busy(error: Exception) -> bool:
    """Whether another process was writing for too long: that is no trouble, and passes."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


class Damaged(sqlite3.DatabaseError):
    """The file is a database, and not ours."""


class AttributeTable:
    """See the module. It opens at its first use."""

    def __init__(
        self,
        path: Path,
        *,
        rows_max: int,
        wall_seconds: Callable[[], float] = time.time,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        # The mutable state: the connection and the lock's descriptor while open; rows in the file, by the last count
        # and what was written since; whether a file was moved aside, which is done once.
        self.path = path
        self._rows_max = rows_max
        self._wall_seconds = wall_seconds
        self._busy_seconds = busy_seconds
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._rows_at_most = 0
        self._moved = False

    def rows(self, directory: str, first: str = "", last: str | None = None) -> tuple[dict[str, Known], bool]:
        """What is known of the keys directly below a prefix, from the name `first` to `last`, and whether it is long
        since somebody asked."""
        names = _bytes(first), BEHIND_ALL if last is None else _bytes(last)
        rows = self._open().execute(_READ, (_bytes(directory), *names, LOADED_MAX)).fetchall()
        fresh = self._wall_seconds() - USE_KNOWN_TO_SECONDS
        stale = any(row[1] < fresh for row in rows)
        return {directory + _text(name): _known(values) for name, _, *values in rows}, stale

    def write(self, known: Mapping[str, Mapping[str, Known]], used: Iterable[str]) -> None:
        """Remember what is known by directory and key, and that the directories in `used` are; one transaction."""
        connection = self._open()
        now = int(self._wall_seconds())
        rows = [
            (_bytes(directory), _bytes(key[len(directory) :]), *_values(one), now)
            for directory, ones in known.items()
            for key, one in ones.items()
        ]
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(_WRITE, rows)
            connection.executemany(_USE, [(now, _bytes(prefix), now - USE_KNOWN_TO_SECONDS) for prefix in used])
            self._rows_at_most += len(rows)
            if self._rows_at_most > self._rows_max:
                self._evict(connection)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def start_over(self, reason: Exception) -> None:
        """Move a damaged file aside, if nobody else has it open; the next use makes a new one."""
        self._disconnect()
        lock = self._lock
        if lock is None:
            raise reason
        try:
            if self._moved or not self._lock_alone(lock):
                raise reason
            self._move_aside(reason)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def close(self) -> None:
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _evict(self, connection: sqlite3.Connection) -> None:
        (count,) = connection.execute("SELECT count(*) FROM attributes").fetchone()
        step = max(1, self._rows_max // 64)
        if count > self._rows_max - step:
            count -= connection.execute(_EVICT, (count - self._rows_max + 2 * step,)).rowcount
        # Other processes write too: we look again after a step at the latest.
        self._rows_at_most = max(count, self._rows_max - step)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._lock is None:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._lock = os.open(self.path.with_suffix(".lock"), flags, 0o600)
            alone = self._hold(self._lock)
            try:
                self._connection = self._connect_anew() if alone else self._connect()
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN if self._connection is None else fcntl.LOCK_SH)
        return self._connection

    def _connect_anew(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            if self._moved:
                raise
            self._move_aside(error)
            return self._connect()

    def _hold(self, lock: int) -> bool:
        """Whether we are alone. Another process that is alone, opening, is waited for."""
        for _ in range(LOCK_ATTEMPTS):
            if self._lock_alone(lock):
                return True
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
            time.sleep(LOCK_PAUSE_SECONDS)
        raise BlockingIOError(f"{self.path} is being opened by another process")

    @staticmethod
    def _lock_alone(lock: int) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=8
        )
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (found_format,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if (application, found_format, tables) == (0, 0, 0):
                self._create(connection)
            elif (application, found_format) != (APPLICATION, FORMAT):
                raise Damaged(f"application {application:#x}, format {found_format}, not ours")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise sqlite3.OperationalError(f"no write-ahead log here, but {mode}")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {4 << 20}")
            (self._rows_at_most,) = connection.execute("SELECT count(*) FROM attributes").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _create(connection: sqlite3.Connection) -> None:
        # One transaction: a file that was only begun has no table, and is begun again.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_CREATE)
        connection.execute("CREATE INDEX by_use ON attributes (used)")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")

    def _move_aside(self, reason: Exception) -> None:
        self._moved = True
        kept = self.path.with_suffix(".bad")
        self.path.replace(kept)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        log.warning("remembered attributes were damaged and are learnt anew path=%s reason=%s", kept, reason)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogatepass")


def _values(known: Known) -> tuple[object, ...]:
    special = known.special
    xattr = metadata_with({}, Special(xattrs=special.xattrs))["xattr"] if special.xattrs else None
    return (
        known.etag,
        known.last_modified_ns,
        special.mode,
        special.uid,
        special.gid,
        special.mtime_ns,
        special.atime_ns,
        special.ctime_ns,
        special.rdev,
        xattr,
    )


def _known(values: Sequence[object]) -> Known:
    etag, modified_ns, *numbers, xattr = values
    if xattr is None and all(number is None for number in numbers):
        special = PLAIN
    else:
        xattrs = special_of({"xattr": xattr}).xattrs if isinstance(xattr, str) else None
        special = Special(*numbers, xattrs)  # type: ignore[arg-type, call-arg]
    return Known(etag, modified_ns, special)  # type: ignore[arg-type]
