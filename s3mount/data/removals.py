"""The journal of deletions that were acknowledged and are not done yet, and their end after a crash.

A deletion is written down before it is acknowledged, and struck off when it is settled: done, or given up because the
object is another one by now, or because the store refused, which is told otherwise. What a daemon that died has left is
finished by the next start, before it serves: once programs can write, an object with the etag of a deleted one may be
theirs. Only an object that has the etag and, where that is known, the age of the deleted one goes: one that another
client has put back byte for byte is younger. What cannot be finished is given up, and the log says so. Lines are as in
`journal`, without fsync: they survive the death of the process. Knows no directory.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import trio

from s3mount.data.journal import Paper
from s3mount.data.lines import line_of, records_in
from s3mount.errors import NotFound, PreconditionFailed, S3MountError
from s3mount.store.base import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

REWRITE_BYTES = 256 * 1024
"""History up to here is not worth writing the file anew."""
LOOKS_MAX = 32
"""HEADs at a time."""
FINISH_SECONDS = 60.0
"""A start does not wait longer for what an earlier run has left."""


@dataclass(frozen=True, slots=True)
class Removal:
    """One deletion: of the object at `key` that has this etag and Last-Modified, since the epoch; 0: not known."""

    number: int
    key: str
    etag: str
    modified_seconds: int = 0

    @property
    def line(self) -> bytes:
        return line_of({"delete": self.number, "key": self.key, "etag": self.etag, "modified": self.modified_seconds})

    def still(self, found: ObjectInfo) -> bool:
        """Whether this is what was deleted."""
        return found.etag == self.etag and self.modified_seconds in (0, found.last_modified_ns // 10**9)


class Removals:
    """See the module. `left` are the deletions of earlier daemons. Raises OSError when the paper cannot be used."""

    def __init__(self, paper: Paper) -> None:
        # The mutable state: the deletions that are not settled by number, bytes of history on the paper, and whether
        # its end may be cut: nothing is acknowledged on such a paper before it is written anew.
        self._paper = paper
        self._live = _read(paper.read())
        self.left = tuple(self._live.values())
        self._last = max(self._live, default=0)
        self._size = 0
        self._cut = False
        self._rewrite()

    def __repr__(self) -> str:
        return f"<Removals {len(self._live)} live, {self._size} bytes>"

    def __len__(self) -> int:
        return len(self._live)

    def begin(self, key: str, etag: str, modified_seconds: int = 0) -> int:
        """Write a deletion down; its number. Raises OSError: it must not be acknowledged then."""
        removal = Removal(self._last + 1, key, etag, modified_seconds)
        if self._cut:
            self._rewrite()
        self._append(removal.line)
        self._last = removal.number
        self._live[removal.number] = removal
        return removal.number

    def strike(self, numbers: Iterable[int]) -> None:
        """These are settled. Raises nothing: what cannot be written now is when the paper is written anew."""
        struck = [number for number in numbers if self._live.pop(number, None) is not None]
        if not struck:
            return
        try:
            if self._cut or self._size > REWRITE_BYTES:
                self._rewrite()
            else:
                self._append(line_of({"settled": struck}))
        except OSError as error:
            log.warning("settled deletions were not struck off the journal count=%d reason=%s", len(struck), error)

    def _append(self, line: bytes) -> None:
        try:
            self._paper.append(line)
        except OSError:
            self._cut = True
            raise
        self._size += len(line)

    def _rewrite(self) -> None:
        self._paper.rewrite(b"".join(removal.line for removal in self._live.values()))
        self._size = 0
        self._cut = False


def _read(content: bytes) -> dict[int, Removal]:
    found: dict[int, Removal] = {}
    for record in records_in(content):
        if "delete" in record:
            number, key, etag = record["delete"], record["key"], record["etag"]
            found[number] = Removal(number, key, etag, record.get("modified", 0))
        for number in record.get("settled", ()):
            found.pop(number, None)
    return found


async def finish(store: ObjectStore, removals: Removals) -> None:
    """Delete what an earlier daemon had acknowledged as deleted. Raises nothing of the store's."""
    if not removals.left:
        return
    same: list[Removal] = []
    latest = {removal.key: removal for removal in removals.left}
    unfinished = set(latest)
    changed = 0
    reason: S3MountError | None = None
    limit = trio.Semaphore(LOOKS_MAX)

    async def look(removal: Removal) -> None:
        nonlocal changed, reason
        async with limit:
            try:
                # Not every store keeps the etag of a deletion, and this one may be days old.
                found = await store.head(removal.key)
            except NotFound:
                unfinished.discard(removal.key)
            except S3MountError as error:
                reason = error
            else:
                if removal.still(found):
                    same.append(removal)
                else:
                    unfinished.discard(removal.key)
                    changed += 1

    with trio.move_on_after(FINISH_SECONDS):
        async with trio.open_nursery() as nursery:
            for removal in latest.values():
                nursery.start_soon(look, removal)
        left = await store.delete_many([(removal.key, removal.etag) for removal in same]) if same else ()
        failed = {undeleted.key: undeleted.error for undeleted in left}
        for removal in same:
            error = failed.get(removal.key)
            if error is None or isinstance(error, PreconditionFailed):
                unfinished.discard(removal.key)
                changed += error is not None
            else:
                reason = error
    removals.strike([removal.number for removal in removals.left])
    log.info(
        "deletions of an earlier run were finished deleted=%d changed=%d",
        len(latest) - changed - len(unfinished), changed,
    )  # fmt: skip
    if unfinished:
        log.warning(
            "deletions of an earlier run were given up, the files are there again count=%d last_reason=%s",
            len(unfinished), reason,
        )  # fmt: skip
