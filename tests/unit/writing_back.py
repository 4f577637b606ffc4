"""A journal and a table of operations in memory, for tests of the sender: the smallest that keep the agreed rules."""

import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio
import trio.testing

from s3mount.config import Config
from s3mount.data.buffers import Buffers
from s3mount.data.conflict import CopiesKept
from s3mount.data.grid import S3_RULES, PartRules
from s3mount.errors import S3MountError, Unavailable
from s3mount.store.base import ALWAYS, Body, Condition, Headers, Stored
from s3mount.store.outage import Outage
from s3mount.writeback.operations import PROVISIONAL, Content, Home, Operation, Piece, Place
from s3mount.writeback.sending import Sender
from tests.memory_store import MemoryStore

EPOCH_NS = 1_700_000_000_000_000_000


def virtual_ns() -> int:
    return EPOCH_NS + int(trio.current_time() * 1e9)


class MemoryLog:
    """Records in memory. `commits` are the times something was made durable, `facts` all that was appended."""

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self.waited: list[dict[str, Any]] = []
        self.bodies: dict[int, bytes] = {}
        self.seq = 0
        self.read_bytes = 0
        self.before: Callable[[dict[str, Any]], None] = lambda _meta: None

    async def append(self, meta: dict[str, Any], body: Body = (), *, wait: bool = True) -> int:
        await trio.lowlevel.checkpoint()
        self.before(meta)
        self.facts.append(meta)
        if wait:
            self.waited.append(meta)
            await trio.lowlevel.checkpoint()
        return self.next_seq()

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def place(self, body: bytes) -> Place:
        number = len(self.bodies) + 1
        self.bodies[number] = body
        return Place(number, 0, len(body), zlib.crc32(body))

    async def read(self, place: Place, offset: int, into: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        into[:] = self.bodies[place.segment][place.offset + offset : place.offset + offset + len(into)]
        self.read_bytes += len(into)


class Table:
    """Pending without joining: operations in order, each behind earlier ones that touch one of its keys."""

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.table: list[Operation] = []
        self.parted_keys: list[str] = []
        self.moved = trio.Event()

    def _tell(self) -> None:
        self.changed()
        self.moved.set()
        self.moved = trio.Event()

    @property
    def operations(self) -> Iterator[Operation]:
        return iter(list(self.table))

    @property
    def parked(self) -> list[Operation]:
        return [operation for operation in self.table if operation.state == "parked"]

    def add(self, operation: Operation) -> Operation:
        for earlier in self.table:
            if _keys(earlier) & _keys(operation):
                operation.blockers.add(earlier)
                earlier.dependents.add(operation)
                if earlier.key == operation.key or earlier.source == operation.key:
                    operation.after = earlier
        self.table.append(operation)
        self._tell()
        return operation

    def ready(self, now: float) -> list[Operation]:
        return [op for op in self.table if not op.blockers and op.due_at <= now and op.state in ("waiting", "begun")]

    def next_due(self) -> float | None:
        return min((op.due_at for op in self.table if not op.blockers and op.state == "waiting"), default=None)

    def begin(self, operation: Operation) -> None:
        operation.state = "begun"

    def landed(self, operation: Operation, stored: Stored | None) -> None:
        if operation.kind in ("rename", "copy") and stored is not None:
            for later in self.table:
                for piece in later.content:
                    if later is not operation and piece.home is not None and piece.home.etag == operation.etag:
                        piece.home.key, piece.home.etag = operation.key, stored.etag
        for later in self.table:
            if later.after is operation:
                later.after = None
                gone = stored is None or later.key == operation.source
                later.condition = Condition(absent=True) if gone or stored is None else Condition(etag=stored.etag)
            for piece in later.content:
                if stored is not None and piece.home is not None and piece.home.etag == operation.etag:
                    piece.home.etag = stored.etag
        self._end(operation)

    def parted(self, operation: Operation) -> None:
        for later in self.table:
            if later.after is operation:
                later.after, later.condition = None, operation.condition
        self.parted_keys.append(operation.key)
        self._end(operation)

    def park(self, operation: Operation, error: S3MountError) -> None:
        operation.state, operation.error = "parked", error
        self._tell()

    def unpark(self, operation: Operation) -> None:
        operation.state, operation.error = "begun", None
        self._tell()

    def drop(self, operation: Operation) -> None:
        self._end(operation)

    def hurry(self, prefix_or_key: str, *, below: bool) -> list[Operation]:
        meant = [op for op in self.table if (op.key.startswith(prefix_or_key) if below else prefix_or_key in _keys(op))]
        todo = list(meant)
        while todo:
            operation = todo.pop()
            operation.due_at = 0.0
            todo += operation.blockers
        return meant

    def _end(self, operation: Operation) -> None:
        operation.state = "over"
        self.table.remove(operation)
        for dependent in operation.dependents:
            dependent.blockers.discard(operation)
        self._tell()


def _keys(operation: Operation) -> set[str]:
    homes = {piece.home.key for piece in operation.content if piece.home is not None}
    return {operation.key, *homes} | ({operation.source} if operation.source is not None else set())


class Life:
    """One bucket, one journal, any number of daemons after one another."""

    def __init__(self, store: MemoryStore | None = None, **config: object) -> None:
        self.store = store or MemoryStore(clock_ns=virtual_ns, placed_seconds_ago=3600)
        self.log = MemoryLog()
        self.table = Table()
        self.config = Config(bucket="b", **config)  # type: ignore[arg-type]
        self.buffers = Buffers(idle_max_bytes=1 << 24)
        self.kept = CopiesKept()
        self.outage: Outage | None = None
        self.rules: PartRules = S3_RULES
        self.asked_rules = 0
        self.tokens = 0

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Sender]:
        """Killed at the end of the block."""
        sender = Sender(
            self.store, self.log, self.table, self.config,
            outage=self.outage, buffers=self.buffers, rules=self._find_out, wall_ns=virtual_ns,
            draw_token=self._draw, copies_kept=self.kept,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            await nursery.start(sender.run)
            yield sender
            nursery.cancel_scope.cancel()

    def killed(self) -> None:
        """What the next daemon makes of the journal: operations anew, begun where that was durable."""
        begun: dict[int, dict[str, Any]] = {}
        over: set[int] = set()
        parked: dict[int, str] = {}
        for fact in self.log.facts:
            if "begun" in fact:
                begun.setdefault(fact["begun"], {}).update(fact)
            for word in ("done", "parted", "dropped"):
                if word in fact:
                    over.add(fact[word])
            if "parked" in fact:
                parked[fact["parked"]] = fact["reason"]
            if "unparked" in fact:
                del parked[fact["unparked"]]
        earlier, self.table = self.table, Table()
        for old in earlier.table:
            if old.seq in over:
                continue
            new = replace(old, state="waiting", error=None, blockers=set(), dependents=set(), after=None, due_at=0.0)
            new.upload_id, new.part_bytes = None, 0
            if old.seq in begun:
                new.state = "begun"
                new.upload_id = begun[old.seq].get("upload")
                new.part_bytes = begun[old.seq].get("part_bytes", 0)
            if old.seq in parked:
                new.state, new.error = "parked", Unavailable(parked[old.seq])
            self.table.add(new)

    async def _find_out(self) -> PartRules:
        self.asked_rules += 1
        return self.rules

    def _draw(self) -> str:
        self.tokens += 1
        return f"drawn{self.tokens}"

    # what programs do

    def put(self, key: str, body: bytes = b"", condition: Condition = ALWAYS, **metadata: str) -> Operation:
        content: Content = (Piece(0, len(body), self.log.place(body), None, 0),) if body else ()
        return self.put_content(key, content, len(body), condition, Headers(metadata=metadata))

    def put_content(
        self, key: str, content: Content, size: int, condition: Condition = ALWAYS, headers: Headers | None = None
    ) -> Operation:
        return self._add("put", key, content, size, condition, headers or Headers())

    def delete(self, key: str, condition: Condition = ALWAYS) -> Operation:
        return self._add("delete", key, (), 0, condition, None)

    def rename(
        self, source: str, target: str, home: Home, condition: Condition = ALWAYS, headers: Headers | None = None
    ) -> Operation:
        content = (Piece(0, home.size, None, home, 0),)
        return self._add("rename", target, content, home.size, condition, headers, source)

    def copy(self, target: str, home: Home, headers: Headers | None, condition: Condition = ALWAYS) -> Operation:
        content = (Piece(0, home.size, None, home, 0),)
        return self._add("copy", target, content, home.size, condition, headers)

    def home(self, key: str) -> Home:
        found = self.store.objects[key]
        return Home(key, found.etag, len(found.body))

    def _add(
        self,
        kind: Any,
        key: str,
        content: Content,
        size: int,
        condition: Condition,
        headers: Headers | None,
        source: str | None = None,
    ) -> Operation:
        seq = self.log.next_seq()
        return self.table.add(
            Operation(
                seq, kind, key, virtual_ns(), f'{PROVISIONAL}token{seq}"', size, headers, content, source, condition,
                seqs=[seq],
            )
        )  # fmt: skip


async def idle(life: Life, seconds: float = 600.0) -> None:
    """Until nothing waits but what is parked."""
    with trio.fail_after(seconds):
        while any(operation.state != "parked" for operation in life.table.table):
            await life.table.moved.wait()
    await trio.testing.wait_all_tasks_blocked()
