"""Deleting many: unlinks that are acknowledged when they are written down, and sent together.

The first PROOFS unlinks of a process in a row are sent one by one and prove that they may be. Later ones are noted in
the local journal, shown at once, and gathered for GATHER_SECONDS (longer as the burst goes on) or up to a request's
limit; each is on condition of its etag, so that an object another client has put there meanwhile survives. While a
batch is under way the next one goes on gathering, unless it is full. Who needs a pending name, or a directory without
pending names, has its batch sent and waits for it. A key that was not deleted reappears: the log says so, and the next
rmdir or fsync of its directory.

The mutable state: deletions that are pending by key (their names are in `Directory.pending` as well, which keeps the
directory's inode), the batch that gathers, for how long and since when, the batches that are not under way yet in their
order and how many are, the bursts by process, the failures that a directory has not been told, and the latest ones for
`status`; whether the journal could not be written.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import trio

from s3mount.data.removals import Removals
from s3mount.errors import FileSystemError, NotEmpty, NotFound, PreconditionFailed, S3MountError, again
from s3mount.store.acknowledged import acknowledge
from s3mount.store.base import ObjectStore
from s3mount.vfs.attributes import Caller
from s3mount.vfs.directory import Directory
from s3mount.vfs.inodes import Inode, Inodes
from s3mount.vfs.keys import escaped

log = logging.getLogger(__name__)

PROOFS = 8
BURST_SECONDS = 5.0
"""Between two unlinks of one burst."""
BURSTS_MAX = 1_000
GATHER_SECONDS = 0.1
GATHER_MAX_SECONDS = 1.0
"""Each batch of a burst gathers twice as long as the one before, up to this: a slow rm -r costs no more requests than a
fast one."""
BATCH_MAX = 1_000
BATCHES_MAX = 4
"""Under way at the same time."""
PENDING_MAX = 8_000
"""Beyond, unlinks are sent one by one until a batch has landed."""
FAILURES_MAX = 1_000
SHOWN_MAX = 100


class Failure(NamedTuple):
    """What was answered and did not last, a deletion or a change: the path, and why."""

    path: str
    reason: str


class Pending:
    """One deletion that is not settled. A marker has no etag and no number, for nobody was told that it is gone."""

    __slots__ = ("batch", "error", "etag", "key", "name", "number", "parent")

    def __init__(
        self, batch: "Batch", key: str, etag: str | None, parent: Inode, name: str, number: int | None
    ) -> None:
        self.batch = batch
        self.key = key
        self.etag = etag
        self.parent = parent
        self.name = name
        self.number = number
        self.error: S3MountError | None = None


class Batch:
    """Deletions that are sent together: `hurry` once nobody should wait any longer, `landed` when they are settled."""

    __slots__ = ("hurry", "landed", "pending")

    def __init__(self) -> None:
        self.pending: list[Pending] = []
        self.hurry = trio.Event()
        self.landed = trio.Event()

    @property
    def full(self) -> bool:
        return len(self.pending) >= BATCH_MAX

    @property
    def has_marker(self) -> bool:
        return any(pending.etag is None for pending in self.pending)


class Deleting:
    """See the module. `distrust` makes a name be asked for again, `moving` has the prefixes that a rename is moving."""

    def __init__(
        self,
        store: ObjectStore,
        removals: Removals,
        inodes: Inodes,
        *,
        batches: bool,
        moving: Mapping[str, int],
        distrust: Callable[[Inode, str], None],
        background: Callable[..., None],
    ) -> None:
        self._store = store
        self._removals = removals
        self._inodes = inodes
        self._batches = batches
        self._moving = moving
        self._distrust = distrust
        self._background = background
        self._pending: dict[str, Pending] = {}
        self._gathering: Batch | None = None
        self._gather_seconds = 0.0
        self._gathered_at = 0.0
        self._queue: deque[Batch] = deque()
        self._flying = 0
        self._moved = trio.Event()
        self._bursts: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._untold: OrderedDict[str, S3MountError] = OrderedDict()
        self._shown: deque[Failure] = deque(maxlen=SHOWN_MAX)
        self._unwritten = False

    def __repr__(self) -> str:
        return f"<Deleting {len(self._pending)} pending, {self._flying} batches under way>"

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The latest files that reappeared, the newest last."""
        return tuple(self._shown)

    # unlink

    def proved(self, caller: Caller) -> None:
        """An unlink of this process was done by the store."""
        count, _ = self._burst(caller)
        self._note_burst(caller, count + 1)

    def end_burst(self, caller: Caller) -> None:
        """The process was refused, or creates a file: its next unlinks are sent one by one again.

        Who creates and unlinks in turn (lock files, a database's rollback journal) means each unlink to be seen.
        """
        self._bursts.pop(caller.pid, None)

    def defer(self, inode: Inode, caller: Caller) -> bool:
        """Whether the deletion is written down, and will be done: then the name is to be taken away in this step."""
        known, parent = inode.known, inode.parent
        state = inode.state
        if not self._batches or known is None or not known.etag or parent is None or not inode.linked:
            return False
        if state is not None and (state.file is not None or state.handles or state.held):
            return False
        directory = parent.contents
        if known.key != directory.prefix + inode.name or known.key in self._pending:
            return False  # the file of a name that is a directory too
        if len(self._pending) >= PENDING_MAX or any(known.key.startswith(prefix) for prefix in self._moving):
            return False
        count, _ = self._burst(caller)
        if count < PROOFS:
            return False
        try:
            unsure = state is not None and state.unsure
            number = self._removals.begin(known.key, known.etag, 0 if unsure else known.last_modified_ns // 10**9)
        except OSError as error:
            if not self._unwritten:
                log.warning("deletions cannot be written down, they are sent one by one reason=%s", error)
            self._unwritten = True
            return False
        self._unwritten = False
        self._note_burst(caller, count)
        directory.pending.add(inode.name)
        self._add(known.key, known.etag, parent, inode.name, number)
        return True

    def _burst(self, caller: Caller) -> tuple[int, float]:
        count, last = self._bursts.get(caller.pid, (0, 0.0))
        return (count, last) if trio.current_time() - last <= BURST_SECONDS else (0, 0.0)

    def _note_burst(self, caller: Caller, count: int) -> None:
        self._bursts[caller.pid] = min(count, PROOFS), trio.current_time()
        self._bursts.move_to_end(caller.pid)
        if len(self._bursts) > BURSTS_MAX:
            self._bursts.popitem(last=False)

    # waiting

    async def settle_name(self, parent: Inode, name: str) -> bool:
        """Wait until the name is pending no more. Whether it is there again."""
        directory = parent.contents
        back = False
        while name in directory.pending:
            pending = self._pending[directory.prefix + name]
            await self._land([pending.batch])
            back = pending.error is not None
        return back

    async def settle(self, directory: Directory) -> None:
        """Wait until what is pending in the directory itself is so no more; what comes meanwhile is not waited for."""
        await self._land(pending.batch for pending in self._in(directory))

    async def settle_all(self) -> list[Failure]:
        """Wait until none that is pending now is so any more; those that failed."""
        waited_for = [pending for pending in self._pending.values() if pending.name]
        await self._land(pending.batch for pending in waited_for)
        return [
            Failure(_path(pending), str(pending.error))
            for pending in waited_for
            if pending.error is not None and not isinstance(pending.error, PreconditionFailed)
        ]

    @property
    def pending_count(self) -> int:
        """How many files are gone here and not yet in the bucket."""
        return sum(bool(pending.name) for pending in self._pending.values())

    async def settle_below(self, prefix: str) -> None:
        """Wait until no key below is pending."""
        while batches := [pending.batch for key, pending in self._pending.items() if key.startswith(prefix)]:
            await self._land(batches)

    def going(self, directory: Directory) -> dict[str, str | None]:
        """The keys in the directory that are pending, with their etags."""
        return {pending.key: pending.etag for pending in self._in(directory)}

    def tell(self, directory: Directory) -> None:
        """Raises what kept a key in the directory from being deleted, once."""
        error = self._untold.pop(directory.prefix, None)
        if error is not None:
            raise again(error)

    async def remove(self, inode: Inode) -> None:
        """Delete what is pending in the directory and then its marker, by one request where that can be; a marker
        that is not there, too, where the store goes on listing what has no keys.

        Raises what kept a key from being deleted, NotEmpty when that was another client's.
        """
        directory = inode.contents
        self.tell(directory)
        marked = directory.marker or self._store.ghosts
        if not directory.pending:
            if marked:
                await self._store.delete(directory.prefix)
            return
        pending = self._in(directory)
        if marked:
            pending.append(self._add(directory.prefix, None, inode, "", None))
        await self._land(deletion.batch for deletion in pending)
        if marked and pending[-1].error is None:
            directory.marker = False
        self.tell(directory)
        for deletion in pending:
            if isinstance(deletion.error, PreconditionFailed):
                raise NotEmpty(inode.path)
            if deletion.error is not None:
                raise again(deletion.error)

    def _in(self, directory: Directory) -> list[Pending]:
        return [self._pending[directory.prefix + name] for name in directory.pending]

    async def _land(self, batches: Iterable[Batch]) -> None:
        waited_for = list(batches)
        for batch in waited_for:
            batch.hurry.set()
        for batch in waited_for:
            await batch.landed.wait()

    # sending

    def _add(self, key: str, etag: str | None, parent: Inode, name: str, number: int | None) -> Pending:
        batch = self._gathering
        if batch is None or batch.full:
            batch = self._gathering = Batch()
            now = trio.current_time()
            following = now - self._gathered_at <= 2 * GATHER_MAX_SECONDS and self._gather_seconds
            self._gather_seconds = min(2 * following, GATHER_MAX_SECONDS) if following else GATHER_SECONDS
            self._gathered_at = now
            self._queue.append(batch)
            self._background(self._send, batch, self._gather_seconds)
        pending = Pending(batch, key, etag, parent, name, number)
        batch.pending.append(pending)
        self._pending[key] = pending
        if batch.full:
            batch.hurry.set()
        return pending

    async def _send(self, batch: Batch, seconds: float) -> None:
        acknowledge()
        with trio.move_on_after(seconds):
            await batch.hurry.wait()
        # A marker goes after everything below it: also when that is in a batch which still waits for its turn.
        while self._queue[0] is not batch or (
            self._flying and (self._flying >= BATCHES_MAX or not batch.full or batch.has_marker)
        ):
            await self._moved.wait()
        self._queue.popleft()
        if self._gathering is batch:
            self._gathering = None
        self._flying += 1
        self._wake()
        try:
            left = await self._store.delete_many([(pending.key, pending.etag) for pending in batch.pending])
            errors: dict[str, S3MountError] = {undeleted.key: undeleted.error for undeleted in left}
        except Exception as error:
            log.exception("batch of deletions met a bug")
            bug = error if isinstance(error, S3MountError) else FileSystemError(str(error))
            errors = {pending.key: bug for pending in batch.pending}
        finally:
            self._flying -= 1
            self._wake()
        self._settle(batch, errors)

    def _wake(self) -> None:
        """A batch has left the queue or landed: those that wait look again."""
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    def _settle(self, batch: Batch, errors: dict[str, S3MountError]) -> None:
        for pending in batch.pending:
            del self._pending[pending.key]
            error = errors.get(pending.key)
            pending.error = None if isinstance(error, NotFound) else error
            if pending.name:
                pending.parent.contents.landed(pending.name)
                if pending.error is not None:
                    self._distrust(pending.parent, pending.name)
        self._tell([pending for pending in batch.pending if pending.error is not None])
        self._removals.strike([pending.number for pending in batch.pending if pending.number is not None])
        for parent in {pending.parent for pending in batch.pending}:
            self._inodes.release(parent)
        batch.landed.set()

    def _tell(self, left: list[Pending]) -> None:
        changed = [pending for pending in left if isinstance(pending.error, PreconditionFailed)]
        if changed:
            log.warning(
                "unlink left objects that another client had changed count=%d example=%s",
                len(changed), escaped(changed[0].key),
            )  # fmt: skip
        failed = [pending for pending in left if pending.name and not isinstance(pending.error, PreconditionFailed)]
        if not failed:
            return
        self._bursts.clear()
        for pending in failed:
            assert pending.error is not None
            self._untold[pending.parent.contents.prefix] = pending.error
            self._shown.append(Failure(_path(pending), str(pending.error)))
        while len(self._untold) > FAILURES_MAX:
            self._untold.popitem(last=False)
        log.error(
            "files were not deleted, they are there again count=%d example=%s reason=%s",
            len(failed), escaped(failed[0].key), failed[0].error,
        )  # fmt: skip


def _path(pending: Pending) -> str:
    return f"{pending.parent.path}/{pending.name}".lstrip("/")
