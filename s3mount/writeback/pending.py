"""What was acknowledged and is not in the bucket yet: the truth of the mount about its keys. Synchronous.

Records go in by `apply`, live and at a start; what the sender finds goes in by calls, and at a start as facts. Knows no
request and no disk; time by a clock that is handed in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from s3mount.errors import S3MountError
from s3mount.store.base import Headers, Listed, ObjectInfo, Stored
from s3mount.writeback import metas
from s3mount.writeback.aliases import GONE, Gone
from s3mount.writeback.joining import Joining
from s3mount.writeback.ledger import Table
from s3mount.writeback.operations import Content, Operation, Place

__all__ = ["GONE", "Gone", "Pending", "Seen"]


@dataclass(frozen=True, slots=True)
class Seen:
    """A version that programs see. `headers` None: those of the version that the content is of, whole."""

    key: str
    etag: str
    size: int
    at_ns: int
    headers: Headers | None
    content: Content


def _ignore() -> None:
    return


class Pending:
    def __init__(
        self,
        *,
        clock: Callable[[], float],
        delay_seconds: float,
        on_free: Callable[[Iterable[Place]], None],
        on_over: Callable[[int], None],
    ) -> None:
        # The mutable state is the table's, the parts of uploads that no put has named yet, and whom to wake.
        self._table = Table(on_free=on_free, on_over=on_over)
        self._clock = clock
        self._joining = Joining(self._table, due=lambda: clock() + delay_seconds)
        self._parts: dict[str, list[tuple[int, Place]]] = {}
        self.changed: Callable[[], None] = _ignore

    def apply(self, seq: int, meta: Mapping[str, Any], place: Place | None) -> Operation | None:
        """Take what a record says, `place` being its body; the operation that came of it, if one is left."""
        fact = metas.fact(meta)
        if fact is not None:
            self._fact(*fact, meta)
            return None
        self._table.holdings.arrived(seq, place)
        if "bytes" in meta:
            assert place is not None
            self._parts.setdefault(meta["bytes"], []).append((seq, place))
            return None
        record = metas.mutation(meta)
        operation: Operation | None
        if record.kind == "put":
            operation = self._joining.put(seq, record, place)
        elif record.kind == "delete":
            operation = self._joining.delete(seq, record)
        elif record.kind == "rename":
            operation = self._joining.rename(seq, record)
        else:
            operation = self._joining.copy(seq, record)
        self._table.holdings.settled(seq, place)
        self.changed()
        return operation

    def close_upload(self, upload: str) -> None:
        """A program's multipart upload is complete or aborted: of its parts only what a put has named is kept."""
        for seq, place in self._parts.pop(upload, ()):
            self._table.holdings.settled(seq, place)

    def replace_part(self, upload: str, old: Place) -> None:
        """A part of an open upload was sent anew: nobody will name the bytes that it had."""
        parts = self._parts[upload]
        for index, (seq, place) in enumerate(parts):
            if place == old:
                del parts[index]
                self._table.holdings.settled(seq, place)
                return

    # What programs see.

    def find(self, key: str) -> Seen | Gone | None:
        """None: what the bucket has is what there is."""
        writer = self._table.order.writer(key)
        if writer is None:
            return None
        if writer.kind == "delete" or writer.key != key:
            return GONE
        headers, content = self._table.readable(writer)
        return Seen(key, writer.etag, writer.size, writer.at_ns, headers, content)

    def below(self, prefix: str, after: str = "") -> Iterator[tuple[str, Seen | Gone]]:
        """What is pending of the keys below the prefix and above `after`, in the order of their UTF-8."""
        for key in self._table.order.keys(prefix, after):
            seen = self.find(key)
            if seen is not None:
                yield key, seen

    def listed(self, prefix: str, after: str = "") -> Iterator[tuple[str, Listed | Gone]]:
        """As `below`, as a LIST tells it."""
        for key in self._table.order.keys(prefix, after):
            writer = self._table.order.writer(key)
            if writer is None or writer.kind == "delete" or writer.key != key:
                yield key, GONE
            else:
                yield key, Listed(key, writer.size, writer.etag, writer.at_ns)

    def makes(self, key: str, etag: str) -> bool:
        """Whether something that waits makes that version."""
        return self._table.made(key, etag) is not None

    def real_etag(self, key: str, etag: str) -> str:
        """The bucket's etag of a version that was told with a provisional one and has landed; else the same."""
        return self._table.aliases.real_etag(key, etag)

    def told(self, key: str, etag: str, modified_ns: int) -> tuple[str, int]:
        """Etag and time with which the mount tells a version that it met in a reply."""
        return self._table.aliases.told(key, etag, modified_ns)

    def landed_headers(self, key: str) -> ObjectInfo | None:
        """What is remembered of the version that landed last at that key."""
        return self._table.aliases.info(key)

    @property
    def ended(self) -> int:
        """How many operations have ended: `since` tells what became of the keys of those after that."""
        return self._table.aliases.ended

    def since(self, number: int) -> dict[str, Listed | Gone]:
        return self._table.aliases.since(number)

    @contextmanager
    def pinned(self, content: Content) -> Iterator[None]:
        """The places of a content stay for as long, whatever becomes of the operation that it is of: for who reads it,
        or names its places in a record on its way to the journal."""
        holder = Operation(0, "put", "", 0, content=tuple(piece for piece in content if piece.place is not None))
        self._table.holdings.hold(holder)
        try:
            yield
        finally:
            self._table.holdings.release(holder)

    # What the sender does.

    def ready(self, now: float) -> list[Operation]:
        """What may be sent, a thousand at most. One that is begun already was begun by an earlier daemon."""
        return self._table.order.ready(now)

    def next_due(self) -> float | None:
        """When the next may be sent of those that wait for nothing else; it may be past."""
        return self._table.order.next_due()

    def begin(self, operation: Operation) -> None:
        """It is the sender's until it is ended or parked: nothing is joined with it any more."""
        assert operation.state in ("waiting", "begun"), operation.state
        operation.state = "begun"
        self._table.order.take(operation)

    def ending(self, operation: Operation) -> list[int]:
        """The records that are over once it has landed, for `done_meta`: others of them may be gone before it is
        replayed, and what is left of them would then mean something else."""
        return self._table.holdings.sole(operation)

    def landed(self, operation: Operation, stored: Stored | None) -> None:
        """The bucket has it. None: the deletion is done, or the rename kept etag and time."""
        self._table.land(operation, stored)
        self.changed()

    def parted(self, operation: Operation) -> None:
        """Its key is another client's: what programs see there is the bucket's, or what came later."""
        self._table.part(operation)
        self.changed()

    def park(self, operation: Operation, error: S3MountError) -> None:
        """No repetition helps. What touches its keys waits with it."""
        operation.state, operation.error = "parked", error
        self._table.order.park(operation)
        self.changed()

    def unpark(self, operation: Operation) -> None:
        """Once more, at once; as one that is begun."""
        assert operation.state == "parked", operation.state
        operation.state, operation.error = "begun", None
        operation.due_at = self._clock()
        self._table.order.give_back(operation)
        self.changed()

    def drop(self, operation: Operation) -> None:
        """Its effect is not wanted any more; that of what came later is."""
        self._table.drop(operation)
        self.changed()

    def hurry(self, prefix_or_key: str, *, below: bool) -> list[Operation]:
        """What touches the key, or any key below the prefix, is due now, with all that it waits for; those meant."""
        order = self._table.order
        keys = list(order.keys(prefix_or_key)) if below else [prefix_or_key]
        meant = list(dict.fromkeys(operation for key in keys for operation in order.writers(key)))
        order.hurry(meant, self._clock())
        self.changed()
        return meant

    @property
    def files(self) -> int:
        """How many operations wait."""
        return len(self._table.order)

    @property
    def bytes(self) -> int:
        """How many bytes of the journal they, and parts of open uploads, hold."""
        return self._table.holdings.bytes

    @property
    def oldest_ns(self) -> int | None:
        return next((operation.at_ns for operation in self._table.order), None)

    @property
    def parked(self) -> list[Operation]:
        return [operation for operation in self._table.order if operation.state == "parked"]

    @property
    def operations(self) -> Iterator[Operation]:
        """In the order in which they came."""
        return iter(self._table.order)

    def named(self, number: int) -> Operation | None:
        """The operation that facts speak of by this number."""
        return self._table.named.get(number)

    # What a replay does before and after it applies the records.

    def expect(self, meta: Mapping[str, Any]) -> None:
        """A fact to come: what is begun is not joined whatever is applied before that is said; and where versions are
        is known to records that name them, should those that made them be gone."""
        if "begun" in meta:
            self._table.begun.setdefault(int(meta["begun"]), {}).update(meta)
        elif "was" in meta and "etag" in meta:
            landed = meta["key"], meta["etag"]
            self._table.aliases.named(meta["key"], meta["was"], meta["etag"])
            self._table.holdings.moved((meta["key"], meta["was"]), landed)
            if "from" in meta:
                key, etag = meta["from"]
                self._table.holdings.moved((key, etag), landed)

    def skip(self, seq: int, place: Place | None) -> None:
        """A record that nothing needs."""
        self._table.holdings.arrived(seq, place)
        self._table.holdings.settled(seq, place)

    def replayed(self) -> None:
        """All is applied: parts of uploads that no put has named are given back."""
        for upload in list(self._parts):
            self.close_upload(upload)
        self._table.begun.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing of the journal is held."""
        return self._table.idle and not self._parts

    def _fact(self, name: str, number: int, meta: Mapping[str, Any]) -> None:
        operation = self._table.named.get(number)
        if operation is None:
            return
        if name == "begun":
            self._table.clear(operation)
            operation.state = "begun"
            if "upload" in meta:
                operation.upload_id, operation.part_bytes = meta["upload"], meta["part_bytes"]
        elif name == "done":
            self.landed(operation, metas.stored(meta))
        elif name == "parted":
            self.parted(operation)
        elif name == "parked":
            self.park(operation, metas.error(meta))
        elif name == "unparked":
            self.unpark(operation)
        elif name == "dropped":
            self.drop(operation)
