"""A journal and a table of operations in memory, for tests of the sender: the smallest that keep the agreed rules."""

import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import trio
import trio.testing

from s3mount.config import Config
from s3mount.data.buffers import Buffers
from s3mount.data.conflict import CopiesKept
from s3mount.data.grid import S3_RULES, PartRules
from s3mount.data.journal import Journal
from s3mount.data.leftovers import Leftovers
from s3mount.store.base import ALWAYS, PROVISIONAL, Body, Condition, Headers
from s3mount.store.outage import Outage
from s3mount.writeback import metas
from s3mount.writeback.metas import Meta, Own, Part
from s3mount.writeback.operations import Place
from s3mount.writeback.pending import Pending, Seen
from s3mount.writeback.sending import Sender
from s3mount.writeback.settling import with_blockers
from tests.memory_store import MemoryStore
from tests.paper import PaperInMemory

EPOCH_NS = 1_700_000_000_000_000_000


def virtual_ns() -> int:
    return EPOCH_NS + int(trio.current_time() * 1e9)


async def nothing(_meta: Meta) -> None:
    await trio.lowlevel.checkpoint()


class MemoryLog:
    """Records in memory: all `records` with their places, those `waited` for, how many are `durable`. The hook is
    awaited before a fact is written and after."""

    def __init__(self) -> None:
        self.records: list[tuple[int, Meta, Place | None]] = []
        self.facts: list[Meta] = []
        self.waited: list[Meta] = []
        self.bodies: dict[int, bytes] = {}
        self.seq = 0
        self.durable = 0
        self.read_bytes = 0
        self.hook: Callable[[Meta], Awaitable[None]] = nothing

    async def append(self, meta: Meta, body: Body = (), *, wait: bool = True) -> int:
        await trio.lowlevel.checkpoint()
        await self.hook(meta)
        self.facts.append(meta)
        seq = self.add(meta, durable=wait)[0]
        if wait:
            self.waited.append(meta)
        await self.hook(meta)
        return seq

    def add(self, meta: Meta, body: bytes = b"", *, durable: bool = True) -> tuple[int, Meta, Place | None]:
        self.seq += 1
        if body:
            self.bodies[self.seq] = body
        place = Place(self.seq, 0, len(body), zlib.crc32(body)) if body else None
        record = self.seq, json.loads(json.dumps(meta)), place
        self.records.append(record)
        if durable:
            self.durable = len(self.records)
        return record

    async def read(self, place: Place, offset: int, into: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        into[:] = self.bodies[place.segment][place.offset + offset : place.offset + offset + len(into)]
        self.read_bytes += len(into)


class Life:
    """One bucket, one journal, any number of daemons after one another."""

    def __init__(self, store: MemoryStore | None = None, *, delay_seconds: float = 0.0, **config: object) -> None:
        self.store = store or MemoryStore(clock_ns=virtual_ns, placed_seconds_ago=3600)
        self.log = MemoryLog()
        self.delay_seconds = delay_seconds
        self.pending = self._pending()
        config = {"write_back_delay_seconds": delay_seconds, **config}
        self.config = Config(bucket="b", **config)  # type: ignore[arg-type]
        self.buffers = Buffers(idle_max_bytes=1 << 24)
        self.kept = CopiesKept()
        self.outage: Outage | None = None
        self.rules: PartRules = S3_RULES
        self.asked_rules = 0
        self.tokens = 0
        self.paper = PaperInMemory()
        self.moved = trio.Event()

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Sender]:
        """Killed at the end of the block. Uploads that are left behind are its business, too."""
        self.store.upload_log = journal = Journal(self.paper)
        sender = Sender(
            self.store, self.log, self.pending, self.config,
            outage=self.outage, buffers=self.buffers, rules=self._find_out, wall_ns=virtual_ns,
            draw_token=self._draw, copies_kept=self.kept,
        )  # fmt: skip
        wake = self.pending.changed

        def changed() -> None:
            wake()
            self.moved.set()
            self.moved = trio.Event()

        self.pending.changed = changed
        async with trio.open_nursery() as nursery:
            leftovers = Leftovers(
                self.store, journal, self.config, nursery, now_ns=virtual_ns, spares=sender.spares
            )  # fmt: skip
            nursery.start_soon(leftovers.recover)
            await nursery.start(sender.run)
            yield sender
            nursery.cancel_scope.cancel()

    def killed(self, *, power: bool = False) -> None:
        """What the next daemon makes of the journal. Without power only what was made durable is there of it."""
        if power:
            del self.log.records[self.log.durable :]
        self.pending = self._pending()
        for record in self.log.records:
            self.pending.apply(*record)

    def _pending(self) -> Pending:
        return Pending(
            clock=trio.current_time,
            delay_seconds=self.delay_seconds,
            on_free=lambda _places: None,
            on_over=lambda _seq: None,
        )

    async def _find_out(self) -> PartRules:
        self.asked_rules += 1
        return self.rules

    def _draw(self) -> str:
        self.tokens += 1
        return f"drawn{self.tokens}"

    # what programs do

    def put(
        self, key: str, body: bytes = b"", condition: Condition = ALWAYS, pieces: Iterable[Part] = (), **metadata: str
    ) -> str:
        """The etag that programs are told."""
        told = list(pieces) or ([Own(0, len(body), 0)] if body else [])
        return self._apply(
            metas.put_meta(
                key,
                headers=Headers(metadata=metadata),
                condition=condition,
                size=told[-1].stop if told else 0,
                etag=self._etag(),
                at_ns=virtual_ns(),
                pieces=told,
            ),
            body,
        )

    def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        self._apply(metas.delete_meta(key, condition=condition, at_ns=virtual_ns()))

    def rename(self, source: str, target: str, condition: Condition = ALWAYS) -> str:
        etag, size = self.seen(source)
        return self._apply(
            metas.rename_meta(
                source,
                target,
                source_etag=etag,
                size=size,
                condition=condition,
                etag=self._etag(),
                at_ns=virtual_ns(),
            )
        )

    def copy(self, source: str, target: str, headers: Headers | None = None, condition: Condition = ALWAYS) -> str:
        etag, size = self.seen(source)
        return self._apply(
            metas.copy_meta(
                source,
                target,
                source_etag=etag,
                size=size,
                headers=headers,
                condition=condition,
                etag=self._etag(),
                at_ns=virtual_ns(),
            )
        )

    def begun(self) -> None:
        """What waits was begun by an earlier daemon: it is joined with nothing any more."""
        for operation in list(self.pending.operations):
            self._apply(metas.begun_meta(operation))

    def seen(self, key: str) -> tuple[str, int]:
        """Etag and size, as the mount tells them."""
        found = self.pending.find(key)
        if isinstance(found, Seen):
            return found.etag, found.size
        stored = self.store.objects[key]
        return self.pending.told(key, stored.etag, 0)[0], len(stored.body)

    def stands(self, key: str) -> Condition:
        """That the key is as the mount tells it."""
        return Condition(etag=self.seen(key)[0])

    def _etag(self) -> str:
        return f'{PROVISIONAL}token{self.log.seq}"'

    def _apply(self, meta: Meta, body: bytes = b"") -> str:
        self.pending.apply(*self.log.add(meta, body))
        return str(meta.get("etag", ""))


def waits(life: Life) -> bool:
    """Whether something waits that is not parked, nor waits for what is."""
    return any(all(one.state != "parked" for one in with_blockers([each])) for each in life.pending.operations)


async def idle(life: Life, seconds: float = 600.0) -> None:
    """Until nothing waits."""
    with trio.fail_after(seconds):
        while waits(life):
            await life.moved.wait()
    await trio.testing.wait_all_tasks_blocked()
