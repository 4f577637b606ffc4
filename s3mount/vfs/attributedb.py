"""What mounts of this host have learnt of objects' attributes, kept across restarts: notes in, directories out.

It saves HEADs and is never needed: whatever befalls its file costs one log line, and then nothing is known for a while.
A note is trusted when it was learnt at least two seconds after Last-Modified by the server's own clock: until then
another version may come to look the same. Nothing here waits for the disk in the loop. Notes are gathered for a second
and written as one transaction; of what comes faster than a queue holds the rest is learnt again another time.
"""

import functools
import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import trio

from s3mount.data.spill import RunInThread
from s3mount.vfs.attributes import SECOND_NS, Special, whole_seconds
from s3mount.vfs.attributetable import BUSY_SECONDS, AttributeTable, Known, is_busy

log = logging.getLogger(__name__)

TRUSTED_AFTER_NS = 2 * SECOND_NS
ROWS_MAX = 1_000_000
"""About 150 MB."""
QUEUE_MAX = 10_000
WRITE_SECONDS = 1.0
"""From one transaction to the next."""
REST_SECONDS = 60.0
"""After a failure, before the file is tried again."""
LOAD_SECONDS = 2.0
"""A slower disk is worse than the HEADs it would save."""
CLOSE_SECONDS = 2.0


def path_in(cache_dir: Path, *, endpoint: str, bucket: str) -> Path:
    """Where the mounts of a bucket keep what they learnt."""
    identity = f"{endpoint}\0{bucket}".encode("utf-8", "surrogateescape")
    return cache_dir / "attributes" / f"{hashlib.sha256(identity).hexdigest()[:32]}.sqlite"


def _in_threads() -> RunInThread:
    """One thread at a time, which is left to itself by a caller that gives up."""
    return functools.partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


class AttributeDb:
    """See the module. `run` writes; without it nothing is kept."""

    def __init__(
        self,
        path: Path,
        *,
        rows_max: int = ROWS_MAX,
        run_in_thread: RunInThread | None = None,
        wall_seconds: Callable[[], float] = time.time,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        # The mutable state: notes by directory and key, those waiting and those being written, and how many wait;
        # directories to be marked as used; when the file is tried again for reading and for writing, and whether its
        # present trouble was told.
        self._table = AttributeTable(path, rows_max=rows_max, wall_seconds=wall_seconds, busy_seconds=busy_seconds)
        self._run_in_thread = run_in_thread or _in_threads()
        self._noted: dict[str, dict[str, Known]] = {}
        self._writing: dict[str, dict[str, Known]] = {}
        self._waiting = 0
        self._used: set[str] = set()
        self._wake = trio.Event()
        self._read_again_at = self._write_again_at = float("-inf")
        self._told = False

    def __repr__(self) -> str:
        return f"<AttributeDb {self._waiting} notes waiting>"

    def note(self, key: str, etag: str, last_modified_ns: int, date_ns: int, special: Special) -> None:
        """An object was seen to have these attributes in a reply of `date_ns`."""
        last_modified_ns = whole_seconds(last_modified_ns)
        if date_ns - last_modified_ns < TRUSTED_AFTER_NS or not etag.isascii() or self._waiting >= QUEUE_MAX:
            return
        notes = self._noted.setdefault(directory_of(key), {})
        self._waiting += key not in notes
        notes[key] = Known(etag, last_modified_ns, special)
        self._wake.set()

    async def load(self, prefix: str, first: str = "", last: str | None = None) -> dict[str, Known]:
        """What is known of the objects directly below a prefix, which ends in a slash or is empty, by key; at least of
        the names from `first` to `last`. It holds for an object that has this etag and, in whole seconds, this
        Last-Modified."""
        found: dict[str, Known] = {}
        if trio.current_time() >= self._read_again_at:
            rows, stale = await self._rows(prefix, first, last)
            found.update(rows)
            if stale and len(self._used) < QUEUE_MAX:
                self._used.add(prefix)
                self._wake.set()
        for notes in (self._writing, self._noted):
            found.update(notes.get(prefix, {}))
        return found

    async def run(self) -> None:
        """Write what is noted until cancelled, then what is left."""
        try:
            while True:
                await self._wake.wait()
                await self._write()
                await trio.sleep(WRITE_SECONDS)
        finally:
            with trio.move_on_after(CLOSE_SECONDS) as last:
                last.shield = True
                await self._write()
                await self._attempt(self._table.close)

    async def _rows(self, prefix: str, first: str, last: str | None) -> tuple[dict[str, Known], bool]:
        answer: list[tuple[dict[str, Known], bool]] = []
        error: Exception | None = TimeoutError(f"the disk took more than {LOAD_SECONDS:.0f} s")
        with trio.move_on_after(LOAD_SECONDS):
            error = await self._attempt(lambda: answer.append(self._table.rows(prefix, first, last)))
        if error is not None:
            self._read_again_at = trio.current_time() + REST_SECONDS
            self._tell(error)
        return answer[0] if answer else ({}, False)

    async def _write(self) -> None:
        self._wake = trio.Event()
        self._writing, self._noted, self._waiting = self._noted, {}, 0
        writing, used, self._used = self._writing, self._used, set()
        if (writing or used) and trio.current_time() >= self._write_again_at:
            try:
                error = await self._attempt(lambda: self._table.write(writing, used))
            except trio.Cancelled:
                self._take_back(writing)
                raise
            if error is None:
                self._told = False
            elif is_busy(error):
                self._take_back(writing)
                self._wake.set()
            else:
                self._write_again_at = trio.current_time() + REST_SECONDS
                self._tell(error)
        self._writing = {}

    def _take_back(self, notes: dict[str, dict[str, Known]]) -> None:
        """These may not have been written; what was noted since is newer."""
        for directory, newer in self._noted.items():
            notes[directory] = notes.get(directory, {}) | newer
        self._noted, self._writing = notes, {}
        self._waiting = sum(map(len, notes.values()))

    async def _attempt(self, call: Callable[[], object]) -> Exception | None:
        """Run this in a thread; the reason if the file did not let it."""
        errors: list[Exception] = []

        def guarded() -> None:
            try:
                try:
                    call()
                except sqlite3.OperationalError:
                    raise
                except sqlite3.DatabaseError as error:
                    self._table.start_over(error)
            except (sqlite3.Error, OSError) as error:
                errors.append(error)
            except Exception as error:
                # In the background it would end the mount, in a handler a program would be refused.
                log.exception("memory of attributes met a bug")
                errors.append(error)

        await self._run_in_thread(guarded)
        return errors[0] if errors else None

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            # A machine under load is slow for a while; a disk that refuses needs somebody.
            level = logging.INFO if isinstance(error, TimeoutError) or is_busy(error) else logging.WARNING
            log.log(level, "attributes could not be remembered path=%s reason=%s", self._table.path, error)


def directory_of(key: str) -> str:
    """The prefix that a key is directly below; a directory's own key is below its parent's."""
    return key[: key.rfind("/", 0, len(key) - 1) + 1]
