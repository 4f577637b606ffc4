"""The Sender: takes what is ready out of Pending, has it delivered, and says what became of it. One loop, and a task
for each operation under way; it wakes when something changed or is due, and for nothing else.

Order on disk: that an operation was begun is durable before its first request; that it is done is written before its
bytes may be given up. Both are tried until they succeed: a journal that fails stops the sending, never the truth.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from math import inf
from typing import Any

import trio

from s3mount.config import Config
from s3mount.data.buffers import Buffers
from s3mount.data.conflict import CopiesKept
from s3mount.data.grid import PartRules
from s3mount.errors import JournalFailed, JournalFull, S3MountError, Stale, Unavailable
from s3mount.store.base import ObjectStore, Upload
from s3mount.store.outage import Outage
from s3mount.writeback import metas
from s3mount.writeback.bodies import Bodies, Log
from s3mount.writeback.delivering import Delivering
from s3mount.writeback.failing import Trouble, backoff_seconds, passes
from s3mount.writeback.operations import Operation
from s3mount.writeback.parting import Parting
from s3mount.writeback.pending import Pending
from s3mount.writeback.recognising import Recognising
from s3mount.writeback.removing import BATCH_MAX, Fate, Removing
from s3mount.writeback.resuming import Resuming
from s3mount.writeback.settling import Settling, with_blockers
from s3mount.writeback.spool import Spool
from s3mount.writeback.trial import Landed, Trial

log = logging.getLogger(__name__)

BUG_SECONDS = 30.0
GATHER_SECONDS = 1.0
"""Deletions that are due wait so long for others, if anything is held at all: a thousand cost one request."""
DELETE_BATCHES_MAX = 2
"""At a time: what comes meanwhile goes with the next."""
BUG_FAILURES = 10
"""A bug counts as so many: it is seldom tried again."""


class Sender:
    """See the module."""

    def __init__(
        self,
        real: ObjectStore,
        journal: Log,
        pending: Pending,
        config: Config,
        *,
        outage: Outage | None,
        buffers: Buffers,
        rules: Callable[[], Awaitable[PartRules]],
        wall_ns: Callable[[], int],
        draw_token: Callable[[], str],
        copies_kept: CopiesKept,
    ) -> None:
        # The mutable state: trials of operations that were begun and are not over; those under way; what is ready, as
        # it was when it was last asked for, deletions apart, and whether something changed since; those that somebody
        # waits for; batches of deletions under way, and until when the next one gathers; counts.
        self._log = journal
        self._pending = pending
        self._outage = outage
        self._wall_ns = wall_ns
        self._sends_max = config.write_back_sends_max
        self._bodies = Bodies(real, journal, buffers)
        self._resuming = Resuming(real, journal, self._bodies, config, rules)
        recognising = Recognising(real, self._bodies, config)
        parting = Parting(real, self._resuming, config, copies_kept, draw_token=draw_token)
        self._delivering = Delivering(
            real, self._resuming, recognising, parting, config, wall_ns=wall_ns, told=pending.told
        )
        self._removing = Removing(real, self._delivering)
        self._trials: dict[Operation, Trial] = {}
        self._earlier = set(pending.operations)
        self._under_way: set[Operation] = set()
        self._ready: deque[Operation] = deque()
        self._deletions: deque[Operation] = deque()
        self._stale = True
        self._urgent: set[Operation] = set()
        self._sends = self._delete_batches = 0
        self._gather_seconds = min(GATHER_SECONDS, config.write_back_delay_seconds)
        self._gathers_until = inf
        self._sent = self._conflicts = 0
        self._trouble = Trouble()
        self._waits_for_store = False
        self._woken = trio.Event()
        self._settling = Settling(
            trials=self._trials,
            successors=self._successors,
            outage=outage,
            patience_seconds=config.retry_seconds,
        )
        self.spool = Spool(pending, journal, self._bodies, retried=self._retried, forget=self._forget)
        for operation in self._earlier:
            if operation.state == "begun":
                self._trials[operation] = Trial(earlier=True, doubted=True, written=True)
        pending.changed = self._changed

    # What others ask for.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._woken = trio.Event()
                until = self._start_all(nursery)
                with trio.move_on_at(until):
                    await self._woken.wait()

    async def settle(self, key: str) -> None:
        """Wait until the bucket has what was acknowledged of `key`. Raises what keeps it from that."""
        await self._settle(key, below=False)

    async def settle_below(self, prefix: str) -> None:
        """The same of all keys that begin with `prefix`."""
        await self._settle(prefix, below=True)

    def spares(self, upload: Upload) -> bool:
        """Whether an operation goes on with this upload."""
        return any(
            operation.upload_id == upload.id and operation.key == upload.key and operation.state != "parked"
            for operation in self._pending.operations
        )

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows of sending."""
        return {
            "sending": len(self._under_way),
            "retrying": sum(trial.failures > 0 for trial in self._trials.values()),
            "parked": len(self.spool.parked),
            "sent": self._sent,
            "conflicts": self._conflicts,
            "body_bytes": self._bodies.room.used_bytes,
        }

    async def _settle(self, name: str, *, below: bool) -> None:
        meant = self._pending.hurry(name, below=below)
        urgent = with_blockers(meant)
        self._urgent |= urgent
        self._go_first(urgent)
        for operation in urgent:
            trial = self._trials.get(operation)
            if trial is not None and not self._trouble:
                trial.retry_at = 0.0
        self._changed()
        await self._settling.settle(meant)

    def _go_first(self, operations: Iterable[Operation]) -> None:
        """Those that can go, before others that are ready."""
        now = trio.current_time()
        for operation in sorted(operations, key=lambda one: one.at_ns, reverse=True):
            if self._may_go(operation, now):
                (self._deletions if operation.kind == "delete" else self._ready).appendleft(operation)

    # Waking.

    def _changed(self) -> None:
        self._stale = True
        self._settling.look()
        self._woken.set()

    def _successors(self, operation: Operation) -> list[Operation]:
        """What has swallowed an operation that was waited for."""
        if operation.ended:
            return []
        self._urgent.discard(operation)
        seqs = set(operation.seqs)
        found = [one for one in self._pending.operations if seqs.intersection(one.seqs)]
        for one in found:
            self._pending.hurry(one.key, below=False)
        self._urgent |= with_blockers(found)
        self._go_first(self._urgent)
        self._changed()
        return found

    def _retried(self, operation: Operation) -> None:
        self._trials[operation] = Trial(earlier=operation in self._earlier, doubted=True)
        self._changed()

    async def _forget(self, operation: Operation) -> None:
        await self._resuming.give_up(operation, self._trials.get(operation) or Trial())

    # Starting.

    def _start_all(self, nursery: trio.Nursery) -> float:
        """Begin what can be begun; when to look again at the latest."""
        now = trio.current_time()
        self._stale = True
        if self._outage is not None and self._outage.told.is_set():
            if not self._waits_for_store:
                self._waits_for_store = True
                self._settling.look_all()
                nursery.start_soon(self._after, self._outage.ended)
            return inf
        if now < self._trouble.until:
            return self._trouble.until
        batches: list[list[tuple[Operation, Trial]]] = []
        sends_max = 1 if self._trouble else self._sends_max
        while self._sends < sends_max:
            batch = self._next(now)
            if not batch:
                break
            self._sends += 1
            batches.append(batch)
        if batches:
            nursery.start_soon(self._begin, nursery, batches)
        if self._sends >= sends_max:
            return inf
        due = self._pending.next_due()
        times = [self._gathers_until, *(trial.retry_at for trial in self._trials.values())]
        times += [] if due is None else [due]
        # What is due already waits for something that will change.
        return min((time for time in times if time > now), default=inf)

    async def _after(self, ended: trio.Event) -> None:
        await ended.wait()
        self._waits_for_store = False
        self._changed()

    def _next(self, now: float) -> list[tuple[Operation, Trial]]:
        """The next operation, or deletions for one request; what is taken cannot be joined any more."""
        found = self._take(now)
        if not found and self._stale:
            self._refill(now)
            found = self._take(now)
        for operation in found:
            self._under_way.add(operation)
            self._pending.begin(operation)
        return [(operation, self._trial(operation)) for operation in found]

    def _take(self, now: float) -> list[Operation]:
        if self._delete_batches < DELETE_BATCHES_MAX and self._have_gathered(now):
            self._gathers_until = inf
            found = list(self._taken(self._deletions, now, BATCH_MAX))
            if found:
                self._delete_batches += 1
                return found
        return list(self._taken(self._ready, now, 1))

    def _have_gathered(self, now: float) -> bool:
        """Whether deletions wait no longer for company."""
        return (
            now >= self._gathers_until
            or len(self._deletions) >= BATCH_MAX
            or not self._urgent.isdisjoint(self._deletions)
        )

    def _taken(self, queue: deque[Operation], now: float, most: int) -> Iterator[Operation]:
        taken = set[Operation]()  # what goes first is in the queue twice
        while queue and len(taken) < most:
            operation = queue.popleft()
            if operation not in taken and self._may_go(operation, now):
                taken.add(operation)
                yield operation

    def _refill(self, now: float) -> None:
        self._stale = False
        self._urgent = {operation for operation in self._urgent if operation.state != "over"}
        ready = dict.fromkeys([*self._urgent, *self._pending.ready(now), *self._trials])
        chosen = [operation for operation in ready if self._may_go(operation, now)]
        self._deletions = deque(operation for operation in chosen if operation.kind == "delete")
        if self._deletions and self._gathers_until == inf:
            self._gathers_until = now + self._gather_seconds
        self._ready = deque(operation for operation in chosen if operation.kind != "delete")

    def _may_go(self, operation: Operation, now: float) -> bool:
        if operation.state not in ("waiting", "begun") or operation.blockers or operation in self._under_way:
            return False
        trial = self._trials.get(operation)
        return operation.due_at <= now if trial is None else trial.retry_at <= now

    def _trial(self, operation: Operation) -> Trial:
        trial = self._trials.get(operation)
        if trial is None:
            trial = self._trials[operation] = Trial(earlier=operation in self._earlier)
        return trial

    # Under way.

    async def _begin(self, nursery: trio.Nursery, batches: list[list[tuple[Operation, Trial]]]) -> None:
        """Write down that they were begun, all at once, and send them."""
        new = [entry for batch in batches for entry in batch if not entry[1].written]
        async with trio.open_nursery() as writing:
            for operation, trial in new:
                writing.start_soon(self._write, trial, metas.begun_meta(operation), True)
        for _, trial in new:
            trial.written = True
        for batch in batches:
            nursery.start_soon(self._send, batch)

    async def _write(self, trial: Trial, fact: dict[str, Any], durable: bool) -> None:
        failures = 0
        while True:
            try:
                await self._log.append(fact, wait=durable)
                break
            except (JournalFull, JournalFailed) as error:
                failures += 1
                if failures == 1:
                    log.error("the journal takes nothing, what waits is sent when it does reason=%s", error)
                    trial.failed(error, trio.current_time())
                    self._settling.look_all()
                await trio.sleep(backoff_seconds(failures))
        if failures:
            trial.failing_since = None

    async def _send(self, batch: list[tuple[Operation, Trial]]) -> None:
        deletes = batch[0][0].kind == "delete"
        fates = await self._fates(batch)
        async with trio.open_nursery() as nursery:
            for (operation, trial), fate in zip(batch, fates, strict=True):
                nursery.start_soon(self._finish, operation, trial, fate)
        self._sends -= 1
        self._delete_batches -= deletes
        self._changed()

    async def _finish(self, operation: Operation, trial: Trial, fate: Fate) -> None:
        """A bug in here must not end the mount: the operation is looked at again later."""
        try:
            await self._ended(operation, trial, fate)
        except Exception:
            log.exception("the end of an operation met a bug key=%r kind=%s", operation.key, operation.kind)
            self._under_way.discard(operation)
            trial.doubted, trial.retry_at = True, trio.current_time() + BUG_SECONDS

    async def _fates(self, batch: list[tuple[Operation, Trial]]) -> list[Fate]:
        try:
            if batch[0][0].kind == "delete":
                return await self._removing.remove(batch)
            return [await self._delivering.deliver(*batch[0])]
        except S3MountError as error:
            return [error for _ in batch]
        except Exception as bug:
            log.exception("an operation that waits met a bug key=%r kind=%s", batch[0][0].key, batch[0][0].kind)
            for _, trial in batch:
                trial.failures += BUG_FAILURES
            return [Unavailable(f"a bug: {bug!r}") for _ in batch]

    async def _ended(self, operation: Operation, trial: Trial, fate: Fate) -> None:
        if isinstance(fate, S3MountError):
            if passes(fate):
                self._failed(operation, trial, fate)
            else:
                await self._park(operation, trial, fate)
            return
        self._trouble.succeeded()
        if isinstance(fate, Landed):
            over = self._pending.ending(operation)
            await self._write(trial, metas.done_meta(operation, fate.stored, over=over), False)
            following = self._urgent.intersection(operation.dependents)
            self._over(operation)
            self._sent += 1
            self._pending.landed(operation, fate.stored)
            self._go_first(following)
        else:
            await self._write(trial, metas.parted_meta(operation), False)
            self._over(operation)
            self._conflicts += 1
            operation.error = Stale(f"{operation.key!r} was changed by another client")
            self._pending.parted(operation)
        self._settling.look()

    def _over(self, operation: Operation) -> None:
        operation.ended = True
        self._under_way.discard(operation)
        self._trials.pop(operation, None)
        self._earlier.discard(operation)
        self._urgent.discard(operation)

    def _failed(self, operation: Operation, trial: Trial, error: S3MountError) -> None:
        now = trio.current_time()
        trial.failures += 1
        trial.failed(error, now)
        trial.doubted = True
        trial.retry_at = now + backoff_seconds(trial.failures)
        self._under_way.discard(operation)
        level = logging.DEBUG if self._trouble or trial.failures > 1 else logging.WARNING
        self._trouble.failed(error)
        log.log(
            level, "what waits was not stored, it is tried again kind=%s key=%r reason=%s",
            operation.kind, operation.key, error,
        )  # fmt: skip
        self._settling.look_all()

    async def _park(self, operation: Operation, trial: Trial, error: S3MountError) -> None:
        await self._resuming.give_up(operation, trial)
        await self._write(trial, metas.parked_meta(operation, error), False)
        log.error(
            "the bucket refused what waits, it is kept aside until somebody sees to it kind=%s key=%r reason=%s",
            operation.kind, operation.key, error,
        )  # fmt: skip
        self._under_way.discard(operation)
        self._trials.pop(operation, None)
        self._urgent.discard(operation)
        self.spool.note(operation, self._wall_ns())
        self._pending.park(operation, error)
        self._settling.look_all()
