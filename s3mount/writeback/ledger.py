"""The operations that wait, by name, by version and by key: what joining, telling and ending them share. Synchronous.

Knows where versions are and which operation makes one; no record and no rule of joining.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from s3mount.store.base import ABSENT, PROVISIONAL, Condition, Headers, Listed, Stored
from s3mount.writeback.aliases import Aliases
from s3mount.writeback.metas import whole
from s3mount.writeback.operations import Content, Home, Operation, Piece, Place
from s3mount.writeback.order import Order
from s3mount.writeback.references import Holdings, Version
from s3mount.writeback.slices import cut, homes

DROPPED = 1 << 48
"""What the names of deletions begin below that a drop has made of renames."""
MOVED_MAX = 1000
"""Versions that were renamed in the bucket, known by their old names to records that were written meanwhile."""


class Table:
    def __init__(self, *, on_free: Callable[[Iterable[Place]], None], on_over: Callable[[int], None]) -> None:
        self.order = Order()
        self.aliases = Aliases()
        self.holdings = Holdings(on_free=on_free, on_over=on_over, moved_max=MOVED_MAX)
        # The mutable state besides: operations by their names; by the version that they make, as it is told; for each
        # version in the bucket the keys that pending renames will give it, in that order.
        self.named: dict[int, Operation] = {}
        self._made: dict[Version, Operation] = {}
        # What renames there and back make anew while it is still to land: the name it has instead among versions.
        self._aside: dict[Operation, Version] = {}
        self._moving: dict[Version, list[str]] = {}
        # Deletions beside the operation that their records made, by each of those records.
        self._beside: dict[int, set[Operation]] = {}
        # During a replay: what is said of operations that were begun, by their names.
        self.begun: dict[int, dict[str, Any]] = {}

    def made(self, key: str, etag: str) -> Operation | None:
        """The pending operation that makes that version."""
        return self._made.get((key, etag))

    def version(self, operation: Operation) -> Version:
        """What the operation makes, as homes name it until it lands."""
        return self._aside.get(operation, (operation.key, operation.etag))

    def add(self, operation: Operation, *, instead: Sequence[Operation] = (), bound: Operation | None = None) -> None:
        if said := self.begun.get(operation.seq):
            operation.state = "begun"
            operation.upload_id, operation.part_bytes = said.get("upload"), said.get("part_bytes", 0)
        made = self._made.get((operation.key, operation.etag)) if operation.kind != "delete" else None
        if made is not None and made not in instead:
            self._set_aside(made)
        self.holdings.hold(operation)
        for old in instead:
            self._unlist(old)
        self.order.add(operation, writes=_writes(operation), reads=self._reads(operation), instead=instead, bound=bound)
        for old in instead:
            old.state = "over"
            self.holdings.release(old)
        self.named[operation.seq] = operation
        if operation.kind != "delete":
            self._made[operation.key, operation.etag] = operation
        self._moves(operation)
        sharing = {other for seq in operation.seqs for other in self._beside.get(seq, ())} if instead else set()
        for other in sharing:
            self._add_records(other, operation)
        if operation.seq < 0:
            for seq in operation.seqs:
                self._beside.setdefault(seq, set()).add(operation)

    def remove(self, operation: Operation) -> None:
        """It is over; nothing is told of what it was."""
        self._unlist(operation)
        self.order.remove(operation)
        operation.state = "over"
        self.holdings.release(operation)

    def land(self, operation: Operation, stored: Stored | None) -> None:
        """The bucket has it."""
        later = list(operation.dependents)
        version = self.version(operation)
        self._unlist(operation)
        if operation.kind == "delete":
            self.aliases.gone(operation.key)
        else:
            self._landed_version(operation, version, stored)
        self.order.remove(operation)
        operation.state = "over"
        for other in later:
            if other.after is operation:
                self._follows(other, self._left(operation, other.key))
        self.holdings.release(operation)

    def part(self, operation: Operation) -> None:
        """Its key is another client's. What was built on its version gets the content; what was chained to it at that
        key stays so for good, and what it removed elsewhere is taken for removed."""
        self._bequeath(operation, dropped=False)
        chained = self._chained(operation)
        for other in chained:
            self._add_records(other, operation)
        self._forget(operation)
        for other in chained:
            if other.key != operation.key:
                self._follows(other, ABSENT)
            elif other.kind == "delete":
                for last in self._chained(other):
                    self._add_records(last, other)
                    last.after = operation
                self.remove(other)

    def clear(self, operation: Operation) -> None:
        """In a replay: it was begun, so all that it waits for was over by then. What is not, was joined: something that
        landed while the record was on its way to the journal is still here as it is applied."""
        while operation.blockers:
            self.drop(next(iter(operation.blockers)))

    def drop(self, operation: Operation) -> None:
        """A person wants it no more. What was built on its version gets the content; what was chained to it comes after
        what it came after itself."""
        self._bequeath(operation, dropped=True)
        chained = self._chained(operation)
        for other in chained:
            self._add_records(other, operation)
        self._forget(operation)
        for other in chained:
            self._follows(other, self._before(operation, other.key), operation.after)

    def readable(self, operation: Operation) -> tuple[Headers | None, Content]:
        """What programs see of its version: what the bucket will have only later is read where it comes from."""
        headers, content = operation.headers, operation.content
        if not any(self._is_future(home) for home in homes(content)):
            return headers, content
        if headers is None:
            maker = self._made[content[0].home.key, content[0].home.etag] if content[0].home is not None else operation
            headers, _ = self.readable(maker)
        return headers, tuple(self._flat(content))

    @property
    def idle(self) -> bool:
        """Whether nothing is left of any operation."""
        return (
            not (len(self.order) or self.named or self._made or self._aside or self._moving or self._beside)
            and self.holdings.idle
        )

    def _set_aside(self, operation: Operation) -> None:
        """Another operation makes a version of the same name: etags stay as they are where files go."""
        version, aside = self.version(operation), (operation.key, f"{operation.etag} of {operation.seq}")
        self._made[aside] = self._made.pop(version)
        self._aside[operation] = aside
        if operation.etag.startswith(PROVISIONAL):
            self._move(version, aside)

    def _landed_version(self, operation: Operation, version: Version, stored: Stored | None) -> None:
        key, headers = operation.key, operation.headers
        if operation.kind == "rename":
            home = homes(operation.content)[0]
            headers = self.aliases.headers(home.key, home.etag)
            stored = stored or Stored(home.etag, operation.at_ns)
            self._move((home.key, home.etag), (key, stored.etag))
            assert operation.source is not None
            self.aliases.gone(operation.source)
        assert stored is not None
        self._move(version, (key, stored.etag))
        told = Listed(key, operation.size, operation.etag, operation.at_ns)
        self.aliases.landed(told, headers, stored)

    def _move(self, old: Version, new: Version) -> None:
        self.holdings.moved(old, new)
        if moving := self._moving.pop(old, None):
            self._moving.setdefault(new, []).extend(moving)

    def _left(self, operation: Operation, key: str) -> Condition:
        """What an operation that has landed has left at one of its keys."""
        if operation.kind == "delete" or key != operation.key:
            return ABSENT
        return Condition(etag=self.aliases.real_etag(key, operation.etag))

    def _before(self, operation: Operation, key: str) -> Condition:
        """What was to be at one of its keys before an operation that never landed."""
        if key == operation.key:
            return operation.condition
        return Condition(etag=homes(operation.content)[0].etag)

    def _follows(self, operation: Operation, condition: Condition, after: Operation | None = None) -> None:
        operation.condition, operation.after = condition, after
        if operation.kind == "delete" and condition.absent and after is None:
            self.land(operation, None)

    def _chained(self, operation: Operation) -> list[Operation]:
        return [other for other in self.order if other.after is operation]

    def _forget(self, operation: Operation) -> None:
        for key in _writes(operation):
            self.aliases.forget(key)
        self.remove(operation)

    def _bequeath(self, operation: Operation, *, dropped: bool) -> None:
        """Its version will not be at its key: what takes it from there takes it from where the content is."""
        version = self.version(operation)
        if operation.kind == "rename":
            home = homes(operation.content)[0]
            version = home.key, home.etag
        built = [other for other in self.order if other is not operation and version in _versions(other)]
        moved = next((other for other in built if other.source == operation.key), None)
        unjoined = moved is not None and len(moved.seqs) == 1
        for other in built:
            if other.kind == "rename" and other is not moved:
                if moved is not None:
                    self._change(other, whole(Home(moved.key, moved.etag, moved.size)))
            elif operation.kind != "rename" or other is moved:
                self._inherit(other, operation, version)
        if moved is not None and dropped:
            self._lose(operation, moved, -moved.seq if unjoined else -moved.seq - DROPPED)

    def _lose(self, operation: Operation, moved: Operation, name: int) -> None:
        """`moved` was to take away what the dropped operation left at its key: now it is what was there before."""
        chained = [other for other in self._chained(moved) if other.key == operation.key]
        for other in chained:
            self._add_records(other, operation)
            self._follows(other, operation.condition, operation.after)
        if not chained and not (operation.condition.absent and operation.after is None):
            deletion = Operation(name, "delete", operation.key, moved.at_ns, due_at=moved.due_at)
            deletion.condition, deletion.after = operation.condition, operation.after
            deletion.seqs = list(moved.seqs)
            self.add(deletion, bound=moved)

    def _inherit(self, other: Operation, operation: Operation, version: Version) -> None:
        content: list[Piece] = []
        for piece in other.content:
            if piece.home is None or (piece.home.key, piece.home.etag) != version or operation.kind == "rename":
                content.append(piece)
            elif piece.start == piece.stop:
                content += operation.content
            else:
                content += cut(operation.content, piece.offset, piece.offset + piece.stop - piece.start, piece.start)
        self._unmove(other)
        if other.kind != "put":
            other.headers = other.headers or operation.headers
            other.kind = "put" if operation.kind == "put" else "copy"
        other.source = None
        self._change(other, tuple(content))
        self._add_records(other, operation)

    def _change(self, other: Operation, content: Content) -> None:
        before = Operation(other.seq, "put", other.key, 0, content=other.content, seqs=list(other.seqs))
        self._unmove(other)
        other.content = content
        self._moves(other)
        self.holdings.hold(other)
        self.holdings.release(before)
        self.order.rekey(other, writes=_writes(other), reads=self._reads(other))

    def _add_records(self, other: Operation, operation: Operation) -> None:
        before = Operation(other.seq, "put", other.key, 0, seqs=list(other.seqs))
        more = Operation(other.seq, "put", other.key, 0, seqs=sorted({*other.seqs, *operation.seqs}))
        self.holdings.hold(more)
        self.holdings.release(before)
        other.seqs = more.seqs
        if other.seq < 0:
            for seq in other.seqs:
                self._beside.setdefault(seq, set()).add(other)

    def _flat(self, content: Content) -> Iterator[Piece]:
        for piece in content:
            home = piece.home
            maker = self._made[home.key, home.etag] if home is not None and self._is_future(home) else None
            if home is None or maker is None:
                yield piece
            elif (piece.start, piece.stop) == (0, home.size):
                yield from self._flat(maker.content)
            else:
                stop = piece.offset + piece.stop - piece.start
                yield from self._flat(tuple(cut(maker.content, piece.offset, stop, piece.start)))

    def _is_future(self, home: Home) -> bool:
        return home.etag.startswith(PROVISIONAL) and (home.key, home.etag) in self._made

    def _reads(self, operation: Operation) -> set[str]:
        found = set()
        for home in homes(operation.content):
            found |= {home.key, *self._moving.get((home.key, home.etag), ())}
        return found - _writes(operation)

    def _unlist(self, operation: Operation) -> None:
        del self.named[operation.seq]
        if operation.seq < 0:
            for seq in operation.seqs:
                self._beside[seq].discard(operation)
                if not self._beside[seq]:
                    del self._beside[seq]
        if operation.kind != "delete":
            del self._made[self.version(operation)]
            self._aside.pop(operation, None)
        self._unmove(operation)

    def _moves(self, operation: Operation) -> None:
        if operation.kind == "rename":
            home = homes(operation.content)[0]
            self._moving.setdefault((home.key, home.etag), []).append(operation.key)

    def _unmove(self, operation: Operation) -> None:
        if operation.kind == "rename":
            home = homes(operation.content)[0]
            version = home.key, home.etag
            self._moving[version].remove(operation.key)
            if not self._moving[version]:
                del self._moving[version]


def _versions(operation: Operation) -> list[Version]:
    return [(home.key, home.etag) for home in homes(operation.content)]


def _writes(operation: Operation) -> set[str]:
    return (
        {operation.key} if operation.source is None or operation.kind != "rename" else {operation.key, operation.source}
    )
