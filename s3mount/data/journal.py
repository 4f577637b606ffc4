"""The journal of one mount: what it is about to leave in the bucket besides files, until that is gone again.

An entry is a multipart upload, or an object of our own: a copy of one whose name went while a file was open, or a
scratch object of a probe. It is written down
before the request that makes the thing, and struck off when the thing is gone; an upload gets its id in between. So
whatever a daemon that died has left is named here, or was never made. Synchronous; sends nothing, knows no store.

One line per record (`lines`). A line that is cut or damaged counts as not written: the
worst that comes of it is a look for what is gone already, or one line's upload left to the bucket's lifecycle rules.
No fsync: what was written survives the death of the process, and a machine that lost power has larger worries than a
leftover upload. The file is written anew at each start, after a write that failed (tried again at most every
RETRY_SECONDS: it is written in the event loop, and the disk may be full for hours), and when most of it is history.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, get_args

from s3mount.data.lines import line_of, records_in
from s3mount.store.base import Upload

log = logging.getLogger(__name__)

REWRITE_BYTES = 256 * 1024
"""History up to here is not worth writing the file anew."""
RETRY_SECONDS = 60.0
ENTRIES_MAX = 10_000
"""What cannot be removed must not pile up for ever: beyond, the oldest is left to the bucket's lifecycle rules."""

Kind = Literal["upload", "copy"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the bucket that has to go. `at_ns`: when an upload was about to be opened, by the server's clock."""

    number: int
    kind: Kind
    key: str
    at_ns: int
    upload_id: str | None = None


class Paper(Protocol):
    """What a journal is written on. Raises OSError."""

    def read(self) -> bytes:
        """All of it."""

    def append(self, line: bytes) -> None:
        """Add to the end, at once or not at all if the process dies."""

    def rewrite(self, content: bytes) -> None:
        """Replace all of it, at once or not at all."""


class PaperFile:
    """A file in the instance's directory, which only the holder of its lock may open."""

    def __init__(self, path: Path) -> None:
        # The mutable state: the descriptor of the file that `path` names.
        self._path = path
        self._fd = self._open(path, os.O_RDWR)

    def read(self) -> bytes:
        return self._path.read_bytes()

    def append(self, line: bytes) -> None:
        if os.write(self._fd, line) != len(line):
            raise OSError(f"{self._path} took a part of a line only")

    def rewrite(self, content: bytes) -> None:
        following = self._path.with_suffix(".new")
        following.unlink(missing_ok=True)
        fd = self._open(following, os.O_WRONLY | os.O_EXCL)
        try:
            if os.write(fd, content) != len(content):
                raise OSError(f"{following} took a part only")
            following.replace(self._path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd

    def _open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class Journal:
    """See the module; a `store.base.UploadLog`. `left` are the entries of earlier daemons. Raises OSError when the
    paper cannot be used; later failures to write are logged, and the work goes on."""

    def __init__(self, paper: Paper, *, clock: Callable[[], float] = time.monotonic) -> None:
        # The mutable state: entries by number; those of uploads whose id is known, by key and id; uploads that are
        # being opened now; bytes on the paper, whether its end may be cut, and when it is tried again then; who hears
        # of an upload in doubt.
        self._paper = paper
        self._clock = clock
        self.on_doubt: Callable[[Entry], None] = _nobody
        self._entries = _read(paper.read())
        self._uploads = {
            (entry.key, entry.upload_id): entry.number
            for entry in self._entries.values()
            if entry.upload_id is not None
        }
        self._opening: set[int] = set()
        self.left = tuple(self._entries.values())
        self._last = max(self._entries, default=0)
        self._size = 0
        self._cut = False
        self._retry_at = 0.0
        self._rewrite()

    def __repr__(self) -> str:
        return f"<Journal {len(self._entries)} entries, {self._size} bytes>"

    def __len__(self) -> int:
        return len(self._entries)

    # looking

    def knows(self, key: str, upload_id: str) -> bool:
        """Whether this upload has an entry of its own."""
        return (key, upload_id) in self._uploads

    def opening(self, key: str) -> bool:
        """Whether an upload of this key is being opened: it may be in the bucket with an id that is not known yet."""
        return any(self._entries[number].key == key for number in self._opening)

    # uploads

    def begin(self, key: str, now_ns: int) -> int:
        """An upload of `key` is about to be opened; the number of its entry."""
        number = self._add("upload", key, now_ns)
        self._opening.add(number)
        return number

    def opened(self, number: int, upload: Upload) -> None:
        self._opening.discard(number)
        entry = self._entries.get(number)
        if entry is None:
            return
        self._entries[number] = replace(entry, upload_id=upload.id)
        self._uploads[upload.key, upload.id] = number
        self._write({"entry": number, "id": upload.id})

    def refused(self, number: int) -> None:
        """The upload was not opened."""
        self._opening.discard(number)
        self.strike(number)

    def doubted(self, number: int) -> None:
        """Nobody knows whether the upload was opened."""
        self._opening.discard(number)
        entry = self._entries.get(number)
        if entry is not None:
            self.on_doubt(entry)

    def ended(self, upload: Upload) -> None:
        """The upload is complete or aborted."""
        number = self._uploads.get((upload.key, upload.id))
        if number is not None:
            self.strike(number)

    # copies

    def begin_copy(self, key: str) -> int:
        """A copy is about to be made, at a key that is nobody else's; the number of its entry."""
        return self._add("copy", key, 0)

    # both

    def strike(self, number: int) -> None:
        """What the entry names is gone, or not ours to remove."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return
        self._opening.discard(number)
        if entry.upload_id is not None:
            self._uploads.pop((entry.key, entry.upload_id), None)
        self._write({"entry": number, "done": True})

    # inside

    def _add(self, kind: Kind, key: str, at_ns: int) -> int:
        while len(self._entries) >= ENTRIES_MAX:
            self.strike(next(iter(self._entries)))
        self._last += 1
        entry = self._entries[self._last] = Entry(self._last, kind, key, at_ns)
        self._write(_record(entry))
        return self._last

    def _write(self, record: dict[str, object]) -> None:
        """The state has changed already: whatever fails here, a later rewrite has all of it."""
        line = line_of(record)
        if self._cut and self._clock() < self._retry_at:
            return
        try:
            if self._cut or self._size > REWRITE_BYTES:
                self._rewrite()
                return
            self._paper.append(line)
            self._size += len(line)
        except OSError as error:
            if not self._cut:
                log.warning("journal was not written, a leftover of this run may not be found reason=%s", error)
            self._cut = True
            self._retry_at = self._clock() + RETRY_SECONDS

    def _rewrite(self) -> None:
        content = b"".join(
            line_of(_record(entry) if entry.upload_id is None else {**_record(entry), "id": entry.upload_id})
            for entry in self._entries.values()
        )
        self._paper.rewrite(content)
        # Counted from here, so that a journal of many live entries is not written anew each time.
        self._size = 0
        self._cut = False


def _nobody(_entry: Entry) -> None:
    return


def _record(entry: Entry) -> dict[str, object]:
    return {"entry": entry.number, "kind": entry.kind, "key": entry.key, "at": entry.at_ns}


def _read(content: bytes) -> dict[int, Entry]:
    """The entries that nothing has struck off, in the order of their numbers."""
    found: dict[int, Entry] = {}
    for record in records_in(content):
        number = record["entry"]
        if record.get("kind") in get_args(Kind):
            found[number] = Entry(number, record["kind"], record["key"], record["at"], record.get("id"))
        elif "done" in record:
            found.pop(number, None)
        elif number in found and "id" in record:
            found[number] = replace(found[number], upload_id=record["id"])
    return dict(sorted(found.items()))
