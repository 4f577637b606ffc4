"""What waits for the bucket against a naive model: what the mount shows at each step, and what the bucket ends with."""

import hashlib
import json
import random
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import given, settings

from s3mount.errors import AccessDenied
from s3mount.store.base import ABSENT, ALWAYS, Condition, Headers, Stored
from s3mount.writeback import metas
from s3mount.writeback.metas import Meta, Named, Own, Part
from s3mount.writeback.operations import Content, Operation, Place
from s3mount.writeback.pending import Gone, Pending, Seen
from tests.unit.restoring import Record, restore

KEYS = ["a", "b", "d/", "d/.s3mount-attrs", "d/x", "d/e/", "d/e/y", ".s3mount-attrs"]
ACTS = [
    "put",
    "put",
    "append",
    "delete",
    "delete",
    "rename",
    "rename",
    "copy",
    "restate",
    "begin",
    "begin",
    "land",
    "land",
]


@dataclass(frozen=True)
class Object:
    body: bytes
    label: str
    """What its headers say."""
    etag: str
    modified_ns: int = 0


@dataclass
class Journal:
    """Bodies and records, as long as they are held."""

    bodies: dict[Place, bytes] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    over: dict[int, int] = field(default_factory=dict)
    """Of records that are over, how many records there were by then; likewise of places."""
    freed: dict[Place, tuple[int, bytes]] = field(default_factory=dict)
    seq: int = 0
    durable: int = 0
    """How many records a crash has left: those are not lost any more."""

    def append(self, meta: Meta, body: bytes = b"") -> Record:
        self.seq += 1
        place = Place(1, self.seq, len(body), 0) if body else None
        if place is not None:
            self.bodies[place] = body
        record = Record(self.seq, json.loads(json.dumps(meta)), place)
        self.records.append(record)
        return record

    def free(self, places: list[Place]) -> None:
        for place in places:
            self.freed[place] = len(self.records), self.bodies.pop(place)

    def end(self, seq: int) -> None:
        assert seq not in self.over
        self.over[seq] = len(self.records)

    def record(self, seq: int) -> Record:
        return next(record for record in self.records if record.seq == seq)

    def crash(self, drawn: random.Random) -> None:
        """What was appended last may be lost as far as nobody waited for it; what came first, as far as it is over."""
        lost = 0
        while (
            lost < len(self.records) - self.durable and "done" in self.records[-1 - lost].meta and drawn.random() < 0.5
        ):
            lost += 1
        kept = len(self.records) - lost
        first = drawn.randrange(self.seq + 1)
        needed = [record.seq for record in self.records[:kept] if self.over.get(record.seq, kept + 1) > kept]
        needed = [seq for seq in needed if metas.fact(self.record(seq).meta) is None]
        self.records = [record for record in self.records[:kept] if record.seq >= min([first, *needed])]
        self.bodies |= {place: body for place, (count, body) in self.freed.items() if count > kept}
        bodies = {record.place: b"" for record in self.records if record.place is not None}
        self.bodies = bodies | self.bodies
        self.over, self.freed = {}, {}
        self.durable = len(self.records)


class World:
    """A bucket, a mount of it, and what the mount ought to show."""

    def __init__(self, drawn: random.Random) -> None:
        self.drawn = drawn
        self.bucket: dict[str, Object] = {}
        self.shown: dict[str, Object] = {}
        self.journal = Journal()
        self.now = 0.0
        self.serial = 0
        self.flying: list[Operation] = []
        self.executed: dict[int, Stored | None] = {}
        self.pending = self.table()

    def table(self) -> Pending:
        return Pending(
            clock=lambda: self.now,
            delay_seconds=self.drawn.choice([0.0, 1.0]),
            on_free=lambda places: self.journal.free(list(places)),
            on_over=self.journal.end,
        )

    def fresh(self) -> int:
        self.serial += 1
        return self.serial

    # Programs.

    def body(self) -> bytes:
        return self.drawn.choice([b"", b"same", f"<{self.fresh()}>".encode()])

    def condition(self, key: str) -> Condition:
        shown = self.shown.get(key)
        return self.drawn.choice([ALWAYS, ABSENT if shown is None else Condition(etag=self.real(key, shown.etag))])

    def real(self, key: str, etag: str) -> str:
        """As a record names a version: as the bucket does, once it has it."""
        return self.pending.real_etag(key, etag)

    def show(self, key: str, body: bytes, label: str, etag: str | None = None) -> Object:
        shown = self.shown[key] = Object(body, label, etag or f'"s3mount-{self.fresh()}"', self.fresh())
        return shown

    def put(self, key: str, *, append: bool) -> None:
        condition, source = self.condition(key), self.drawn.choice(KEYS)
        before = self.shown.get(source) if append else None
        if append and before is None:
            return
        body, label = self.body(), f"h{self.fresh()}"
        pieces: list[Part] = []
        kept = b""
        if before is not None and before.body:
            start = self.drawn.randrange(len(before.body))
            kept = before.body[start:]
            pieces.append(Named(0, len(kept), source, self.real(source, before.etag), len(before.body), start))
        size = len(kept) + len(body)
        if body:
            pieces.append(Own(len(kept), size, 0))
        shown = self.show(key, kept + body, label)
        meta = metas.put_meta(
            key,
            headers=Headers(content_type=label),
            condition=condition,
            size=size,
            etag=shown.etag,
            at_ns=shown.modified_ns,
            pieces=pieces,
        )
        self.apply(self.journal.append(meta, body))

    def delete(self, key: str) -> None:
        if key in self.shown:
            condition = self.condition(key)
            del self.shown[key]
            self.apply(self.journal.append(metas.delete_meta(key, condition=condition, at_ns=self.fresh())))

    def rename(self, source: str, target: str) -> None:
        if source in self.shown and source != target:
            condition, old = self.condition(target), self.shown.pop(source)
            shown = self.show(target, old.body, old.label, old.etag)
            meta = metas.rename_meta(
                source,
                target,
                source_etag=self.real(source, old.etag),
                size=len(old.body),
                condition=condition,
                etag=shown.etag,
                at_ns=shown.modified_ns,
            )
            self.apply(self.journal.append(meta))

    def copy(self, source: str, target: str) -> None:
        if source in self.shown:
            condition, old = self.condition(target), self.shown[source]
            label = f"h{self.fresh()}" if source == target or self.drawn.random() < 0.5 else None
            shown = self.show(target, old.body, label or old.label)
            meta = metas.copy_meta(
                source,
                target,
                source_etag=self.real(source, old.etag),
                size=len(old.body),
                headers=Headers(content_type=label) if label else None,
                condition=condition,
                etag=shown.etag,
                at_ns=shown.modified_ns,
            )
            self.apply(self.journal.append(meta))

    def apply(self, record: Record) -> None:
        for _ in range(self.drawn.choice([0, 0, 0, 1, 2])):
            self.drawn.choice([self.begin, self.land])()  # while the record was on its way to the journal
        self.pending.apply(record.seq, record.meta, record.place)

    # The sender.

    def begin(self) -> None:
        self.now += self.drawn.choice([0.0, 2.0])
        ready = self.pending.ready(self.now)
        if ready:
            operation = self.drawn.choice(ready)
            self.pending.begin(operation)
            self.journal.append(metas.begun_meta(operation))
            self.flying.append(operation)

    def land(self) -> None:
        if self.flying:
            operation = self.flying.pop(self.drawn.randrange(len(self.flying)))
            stored = self.execute(operation)
            self.journal.append(metas.done_meta(operation, stored, over=self.pending.ending(operation)))
            self.pending.landed(operation, stored)

    def execute(self, operation: Operation) -> Stored | None:
        """Once: a later daemon recognises what was done."""
        if operation.seq not in self.executed:
            self.executed[operation.seq] = self.effect(operation)
        return self.executed[operation.seq]

    def park(self) -> None:
        if self.flying:
            operation = self.flying.pop(self.drawn.randrange(len(self.flying)))
            error = AccessDenied("no")
            self.journal.append(metas.parked_meta(operation, error))
            self.pending.park(operation, error)

    def unpark(self) -> None:
        for operation in self.pending.parked[:1]:
            self.journal.append(metas.unparked_meta(operation))
            self.pending.unpark(operation)

    def drop(self) -> None:
        """What it was to change shows as the bucket has it, where nothing came later."""
        if self.pending.parked:
            operation = self.drawn.choice(self.pending.parked)
            local = all(piece.home is None for piece in operation.content)
            if operation.dependents and not local:
                return  # what later operations have of it is in the bucket, where others may wait to change it
            keys = [key for key in KEYS if self.pending._table.order.writer(key) is operation]
            self.journal.append(metas.dropped_meta(operation))
            self.pending.drop(operation)
            self.show_bucket(keys)

    def show_bucket(self, keys: list[str]) -> None:
        for key in keys:
            there = self.bucket.get(key)
            self.shown.pop(key, None)
            if there is not None:
                etag, at_ns = self.pending.told(key, there.etag, there.modified_ns)
                self.shown[key] = Object(there.body, there.label, etag, at_ns)

    def crash(self) -> None:
        """The daemon and its memory go; programs begin anew with what the mount shows then."""
        for operation in self.flying:
            if self.drawn.random() < 0.5:
                self.execute(operation)
        self.flying = []
        self.journal.crash(self.drawn)
        self.pending = self.table()
        restore(self.pending, self.drawn.sample(self.journal.records, len(self.journal.records)))
        self.now += 10
        for operation in self.pending.ready(self.now):
            if operation.seq in self.executed:
                # Until then its content is where the view does not expect it.
                assert operation.state == "begun"
                self.pending.begin(operation)
                self.flying.append(operation)
        while self.flying:
            self.land()
        for key in KEYS:
            there, shown = self.look(key), self.shown.get(key)
            assert (there and (there.body, there.label)) == (shown and (shown.body, shown.label)), key
            if there is not None:
                self.shown[key] = there

    def effect(self, operation: Operation) -> Stored | None:
        assert operation.after is None
        there, condition = self.bucket.get(operation.key), operation.condition
        assert not (condition.absent and there), operation
        assert condition.etag is None or (there and there.etag == condition.etag), operation
        if operation.kind == "delete":
            self.bucket.pop(operation.key, None)
            return None
        body = self.read(operation.content)
        label = operation.headers.content_type if operation.headers else None
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if operation.kind != "put":
            home = operation.content[0].home
            assert home is not None
            label = label or self.bucket[home.key].label
            if operation.kind == "rename":
                assert operation.source == home.key
                del self.bucket[home.key]
                if self.drawn.random() < 0.5:
                    etag = home.etag
        assert label is not None
        self.bucket[operation.key] = Object(body, label, etag, self.fresh() * 10**10)
        return Stored(etag, self.bucket[operation.key].modified_ns)

    def read(self, content: Content) -> bytes:
        body = b""
        for piece in content:
            assert piece.start == len(body)
            if piece.place is not None:
                source = self.journal.bodies[piece.place]
            else:
                assert piece.home is not None
                assert self.bucket[piece.home.key].etag == piece.home.etag, piece
                source = self.bucket[piece.home.key].body
                assert len(source) == piece.home.size
            body += source[piece.offset : piece.offset + piece.stop - piece.start]
        return body

    # What the mount shows.

    def look(self, key: str) -> Object | None:
        seen = self.pending.find(key)
        if isinstance(seen, Gone):
            return None
        if isinstance(seen, Seen):
            home = seen.content[0].home if seen.content else None
            if seen.headers is None:
                assert home is not None
                label = self.bucket[home.key].label
            else:
                assert seen.headers.content_type is not None
                label = seen.headers.content_type
            body = self.read(seen.content)
            assert len(body) == seen.size
            return Object(body, label, seen.etag, seen.at_ns)
        there = self.bucket.get(key)
        if there is None:
            return None
        etag, at_ns = self.pending.told(key, there.etag, there.modified_ns)
        return Object(there.body, there.label, etag, at_ns)

    def check(self) -> None:
        for key in KEYS:
            assert self.look(key) == self.shown.get(key), key
        assert dict(self.pending.below("")).keys() == {key for key in KEYS if self.pending.find(key) is not None}

    def finish(self) -> None:
        """Everything lands: always something is ready."""
        while self.flying:
            self.land()
        while self.pending.files:
            self.now += 10
            while self.pending.parked:
                self.unpark() if self.drawn.random() < 0.5 else self.drop()
            if not self.pending.files:
                break
            assert self.pending.ready(self.now)
            self.begin()
            self.land()
        assert {key: (there.body, there.label) for key, there in self.bucket.items()} == {
            key: (shown.body, shown.label) for key, shown in self.shown.items()
        }
        assert self.pending.idle
        assert self.pending.bytes == 0
        assert not self.journal.bodies

    def act(self, what: str) -> None:
        key = self.drawn.choice(KEYS)
        if what in ("put", "append"):
            self.put(key, append=what == "append")
        elif what == "delete":
            self.delete(key)
        elif what == "rename":
            self.rename(key, self.drawn.choice(KEYS))
        elif what == "copy":
            self.copy(key, self.drawn.choice(KEYS))
        elif what == "restate":
            self.copy(key, key)
        else:
            getattr(self, what)()

    def placed(self) -> None:
        """What the bucket has before the mount comes."""
        for key in KEYS:
            if self.drawn.random() < 0.4:
                body = self.body()
                there = Object(body, f"h{self.fresh()}", f'"{hashlib.md5(body).hexdigest()}"', self.fresh() * 10**10)
                self.bucket[key] = self.shown[key] = there


RANDOM = st.randoms(use_true_random=False)


@settings(max_examples=100, derandomize=True)
@given(drawn=RANDOM, acts=st.lists(st.sampled_from(ACTS), max_size=40))
def test_the_mount_shows_what_programs_did_and_the_bucket_gets_it(drawn: random.Random, acts: list[str]) -> None:
    world = World(drawn)
    world.placed()
    for what in acts:
        world.act(what)
        world.check()
    world.finish()
    world.check()
    mutations = {record.seq for record in world.journal.records if metas.fact(record.meta) is None}
    assert world.journal.over.keys() == mutations


@settings(max_examples=100, derandomize=True)
@given(drawn=RANDOM, acts=st.lists(st.sampled_from([*ACTS, "park", "unpark", "drop"]), max_size=40))
def test_what_is_parked_and_dropped_leaves_what_came_later(drawn: random.Random, acts: list[str]) -> None:
    world = World(drawn)
    world.placed()
    for what in acts:
        world.act(what)
        world.check()
    world.finish()
    world.check()


@settings(max_examples=100, derandomize=True)
@given(drawn=RANDOM, acts=st.lists(st.sampled_from([*ACTS, "park", "crash", "crash"]), max_size=40))
def test_a_replay_of_the_journal_shows_the_same_and_ends_the_same(drawn: random.Random, acts: list[str]) -> None:
    world = World(drawn)
    world.placed()
    for what in acts:
        world.act(what)
        world.check()
    world.crash()
    world.finish()
    world.check()
