"""How a mutation that was recorded becomes an operation: joined with what waits on its keys, or behind it. Synchronous.

Two operations are joined when the bucket has seen nothing of the first, and nothing that came later touches its keys:
the result then comes last in the order, and its condition is the first's. What cannot be joined is chained: its
condition is what the earlier one leaves.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from s3mount.store.base import PROVISIONAL, Condition
from s3mount.writeback.ledger import Table
from s3mount.writeback.metas import Mutation, Named, Own, whole
from s3mount.writeback.operations import Content, Home, Kind, Operation, Piece, Place
from s3mount.writeback.slices import cut, homes

JOINED_MAX = 1000
"""Records of one operation: each join goes through all of them, and they stay in the journal until it has landed."""


class _Expected(NamedTuple):
    """What must be at a key, and the operation that is joined because of it."""

    condition: Condition
    after: Operation | None
    joined: Operation | None

    @property
    def nothing(self) -> bool:
        """Whether the bucket has no object there. A version that nothing makes was joined away with all that came of
        it: a journal may still have records of what was done with it."""
        return self.after is None and (self.condition.absent or _is_provisional(self.condition.etag))


class Joining:
    """Stateless beside the table."""

    def __init__(self, table: Table, *, due: Callable[[], float]) -> None:
        self._table = table
        self._due = due

    def put(self, seq: int, record: Mutation, place: Place | None) -> Operation:
        expected = self._expected(record.key, record.condition)
        content, makers = self._content(record, place, expected.joined)
        assert record.headers is not None
        operation = self._operation(seq, record, "put", content, expected, makers)
        operation.headers = record.headers
        self._table.add(operation, instead=_those(expected.joined))
        return operation

    def delete(self, seq: int, record: Mutation) -> Operation | None:
        moved = self._waiting(record.key)
        if moved is not None and moved.kind == "rename" and moved.key == record.key:
            return self._delete_moved(seq, record, moved)
        expected = self._expected(record.key, record.condition)
        if expected.nothing:
            if expected.joined is not None:
                self._table.remove(expected.joined)
                self._table.holdings.ends(seq, expected.joined.seqs)
            return None
        operation = self._operation(seq, record, "delete", (), expected, ())
        self._table.add(operation, instead=_those(expected.joined))
        return operation

    def rename(self, seq: int, record: Mutation) -> Operation | None:
        assert record.source is not None
        assert record.named is not None
        if self._never_was(record.named):
            return None
        waiting = self._waiting(record.source)
        target = self._expected(record.key, record.condition)
        if waiting is None or waiting.key != record.source or record.key == waiting.source or waiting.kind == "delete":
            home = self._home(record.named, follow=False)
            operation = self._operation(seq, record, "rename", whole(home), target, ())
            operation.source = record.source
            self._table.add(operation, instead=_those(target.joined))
            return operation
        operation = self._operation(seq, record, waiting.kind, waiting.content, target, (waiting,))
        operation.headers = waiting.headers
        operation.source = waiting.source if waiting.kind == "rename" else None
        operation.due_at = min(operation.due_at, waiting.due_at)
        left = _Expected(waiting.condition, waiting.after, waiting)
        self._table.add(operation, instead=[waiting, *_those(target.joined)])
        self._lose(seq, record, record.source, left, operation, bound=True)
        return operation

    def copy(self, seq: int, record: Mutation) -> Operation | None:
        assert record.named is not None
        if self._never_was(record.named):
            return None
        expected = self._expected(record.key, record.condition)
        named = record.named
        maker = self._table.made(named.key, named.etag)
        if maker is not None and maker is expected.joined:
            operation = self._operation(seq, record, maker.kind, maker.content, expected, (maker,))
            operation.headers = maker.headers if record.headers is None else record.headers
        else:
            operation = self._operation(seq, record, "copy", whole(self._home(named, follow=False)), expected, ())
            operation.headers = record.headers
        self._table.add(operation, instead=_those(expected.joined))
        return operation

    def _delete_moved(self, seq: int, record: Mutation, moved: Operation) -> Operation:
        """The target of a rename that waits goes: so its source goes, and what the rename was to replace."""
        home = homes(moved.content)[0]
        assert moved.source is not None
        operation = Operation(
            seq,
            "delete",
            moved.source,
            record.at_ns,
            condition=Condition(etag=home.etag),
            due_at=min(moved.due_at, self._due()),
            seqs=[*moved.seqs, seq],
        )
        replaced = _Expected(moved.condition, moved.after, moved)
        operation.after = self._table.order.writer(moved.source, before=moved)
        self._table.add(operation, instead=[moved])
        self._lose(seq, record, record.key, replaced, operation, bound=False)
        return operation

    def _lose(self, seq: int, record: Mutation, key: str, left: _Expected, beside: Operation, *, bound: bool) -> None:
        """What is in the bucket at a key that was joined away goes by an operation of its own, beside the one that the
        record made, maybe after it. Both are made of all the records: what is left of them is replayed as a whole."""
        if left.nothing:
            return
        assert left.joined is not None
        operation = Operation(
            -seq,
            "delete",
            key,
            record.at_ns,
            condition=left.condition,
            after=left.after,
            due_at=min(left.joined.due_at, self._due()),
            seqs=list(beside.seqs),
        )
        self._table.add(operation, bound=beside if bound else None)

    def _never_was(self, named: Named) -> bool:
        """Whether nothing makes that version, nor has."""
        etag = self._table.aliases.real_etag(named.key, named.etag)
        return _is_provisional(etag) and self._table.made(named.key, named.etag) is None

    def _waiting(self, key: str) -> Operation | None:
        """What may be joined with an operation that touches this key."""
        order = self._table.order
        writer = order.writer(key)
        if writer is None or writer.state != "waiting" or len(writer.seqs) >= JOINED_MAX:
            return None
        if not (order.last(writer, key) and order.reads_stay(writer)):
            return None
        if writer.kind == "rename" and not (
            writer.source is not None and order.last(writer, writer.source) and order.last(writer, writer.key)
        ):
            return None
        return writer

    def _expected(self, key: str, told: Condition) -> _Expected:
        writer = self._table.order.writer(key)
        if writer is None:
            if told.etag is not None:
                told = Condition(etag=self._table.aliases.real_etag(key, told.etag))
            return _Expected(told, None, None)
        waiting = self._waiting(key)
        if waiting is not None and waiting.kind != "rename":
            return _Expected(waiting.condition, waiting.after, waiting)
        return _Expected(told, writer, None)

    def _operation(
        self,
        seq: int,
        record: Mutation,
        kind: Kind,
        content: Content,
        expected: _Expected,
        makers: Iterable[Operation],
    ) -> Operation:
        seqs = {seq}
        due_at = self._due()
        if expected.joined is not None:
            seqs.update(expected.joined.seqs)
            due_at = min(due_at, expected.joined.due_at)
        for maker in makers:
            seqs.update(maker.seqs)
        return Operation(
            seq,
            kind,
            record.key,
            record.at_ns,
            record.etag,
            record.size,
            content=content,
            condition=expected.condition,
            after=expected.after,
            due_at=due_at,
            seqs=sorted(seqs),
        )

    def _home(self, named: Named, *, follow: bool) -> Home:
        """Where the version is, or will be once what makes it has landed; `follow` it where it was renamed meanwhile:
        a record says so of bytes that it took earlier."""
        maker = self._table.made(named.key, named.etag)
        if maker is not None and maker.kind == "rename":
            return homes(maker.content)[0]
        if maker is not None:
            # Of what is described anew the bucket has this version already, with an etag that will go.
            return Home(named.key, named.etag, named.size)
        etag = self._table.aliases.real_etag(named.key, named.etag)
        if not follow and self._table.order.writer(named.key) is None:
            return Home(named.key, etag, named.size)
        return self._table.holdings.home(named.key, etag, named.size)

    def _content(
        self, record: Mutation, place: Place | None, joined: Operation | None
    ) -> tuple[Content, list[Operation]]:
        """The pieces of a put, and the operations whose content went into it."""
        makers: list[Operation] = []
        pieces: list[Piece] = []
        made: dict[tuple[str, str], Home] = {}
        for part in record.pieces:
            if isinstance(part, Own):
                pieces.append(Piece(part.start, part.stop, place, None, part.offset))
                continue
            if isinstance(part, Piece):
                pieces.append(part)
                continue
            maker = self._table.made(part.key, part.etag)
            if maker is not None and maker is joined:
                stop = part.offset + part.stop - part.start
                pieces += cut(maker.content, part.offset, stop, part.start)
                makers.append(maker)
                continue
            if (part.key, part.etag) not in made:
                made[part.key, part.etag] = self._home(part, follow=True)
            pieces.append(Piece(part.start, part.stop, None, made[part.key, part.etag], part.offset))
        return tuple(pieces), makers


def _those(joined: Operation | None) -> list[Operation]:
    return [] if joined is None else [joined]


def _is_provisional(etag: str | None) -> bool:
    return etag is not None and etag.startswith(PROVISIONAL)
