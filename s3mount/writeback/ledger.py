"""The operations that wait, by name, by version and by key: what joining, telling and ending them share. Synchronous.

Knows where versions are and which operation makes one; no record and no rule of joining.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from s3mount.store.base import ABSENT, Condition, Headers, Listed, Stored
from s3mount.writeback.aliases import LANDED_MAX, Aliases
from s3mount.writeback.operations import PROVISIONAL, Content, Home, Operation, Piece, Place
from s3mount.writeback.order import Order
from s3mount.writeback.references import Holdings, Version
from s3mount.writeback.slices import cut, homes


class Table:
    def __init__(self, *, on_free: Callable[[Iterable[Place]], None], on_over: Callable[[int], None]) -> None:
        self.order = Order()
        self.aliases = Aliases()
        self.holdings = Holdings(on_free=on_free, on_over=on_over, moved_max=LANDED_MAX)
        # The mutable state besides: operations by their names; by the version that they make, as it is told; for each
        # version in the bucket the keys that pending renames will give it, in that order.
        self.named: dict[int, Operation] = {}
        self._made: dict[Version, Operation] = {}
        self._moving: dict[Version, list[str]] = {}

    def made(self, key: str, etag: str) -> Operation | None:
        """The pending operation that makes that version."""
        return self._made.get((key, etag))

    def add(self, operation: Operation, *, instead: Sequence[Operation] = (), bound: Operation | None = None) -> None:
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
        if operation.kind == "rename":
            home = homes(operation.content)[0]
            self._moving.setdefault((home.key, home.etag), []).append(operation.key)

    def remove(self, operation: Operation) -> None:
        """It is over; nothing is told of what it was."""
        self._unlist(operation)
        self.order.remove(operation)
        operation.state = "over"
        self.holdings.release(operation)

    def land(self, operation: Operation, stored: Stored | None) -> None:
        """The bucket has it."""
        later = list(operation.dependents)
        self._unlist(operation)
        if operation.kind == "delete":
            self.aliases.gone(operation.key)
        else:
            self._landed_version(operation, stored)
        self.order.remove(operation)
        operation.state = "over"
        for other in later:
            if other.after is operation:
                self._follows(other, self._left(operation, other.key))
        self.holdings.release(operation)

    def forsake(self, operation: Operation, *, dropped: bool) -> None:
        """It will never be in the bucket under its key: what was built on its version gets the version's content, and
        is itself conditional on what this was when it was `dropped` by a person, chained to it for good when not."""
        later = [other for other in self.order if other is not operation and self._built_on(other, operation)]
        for other in later:
            self._inherit(other, operation)
        chained = [other for other in self.order if other.after is operation]
        self._unlist(operation)
        self.order.remove(operation)
        operation.state = "over"
        for key in _writes(operation):
            self.aliases.forget(key)
        for other in chained:
            if dropped:
                self._follows(other, self._before(operation, other.key), operation.after)
            elif other.kind == "delete":
                self.remove(other)
        self.holdings.release(operation)

    def resolved(self, content: Content) -> Content:
        """As it can be read now: what the bucket will have only later is read where it comes from."""
        if not any(self._is_future(home) for home in homes(content)):
            return content
        return tuple(self._flat(content))

    def headers(self, operation: Operation) -> Headers | None:
        """Those that its version will have; None: those of the version in the bucket that it is of."""
        while operation.headers is None and operation.content:
            home = operation.content[0].home
            maker = None if home is None or not self._is_future(home) else self._made[home.key, home.etag]
            if maker is None:
                return None
            operation = maker
        return operation.headers

    def flat(self, content: Content, start: int, stop: int, at: int) -> Content:
        return tuple(cut(content, start, stop, at))

    @property
    def idle(self) -> bool:
        """Whether nothing is left of any operation."""
        return not (len(self.order) or self.named or self._made or self._moving) and self.holdings.idle

    def _landed_version(self, operation: Operation, stored: Stored | None) -> None:
        key = operation.key
        if operation.kind == "rename":
            home = homes(operation.content)[0]
            version = home.key, home.etag  # the home itself moves
            stored = stored or Stored(home.etag, operation.at_ns)
            self.holdings.moved(version, (key, stored.etag))
            if moving := self._moving.pop(version, None):
                self._moving.setdefault((key, stored.etag), []).extend(moving)
            assert operation.source is not None
            self.aliases.gone(operation.source)
        assert stored is not None
        self.holdings.moved((key, operation.etag), (key, stored.etag))
        if moving := self._moving.pop((key, operation.etag), None):
            self._moving.setdefault((key, stored.etag), []).extend(moving)
        told = Listed(key, operation.size, operation.etag, operation.at_ns)
        self.aliases.landed(told, operation.headers, stored)

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
            self.remove(operation)

    def _built_on(self, other: Operation, operation: Operation) -> bool:
        return any((home.key, home.etag) == (operation.key, operation.etag) for home in homes(other.content))

    def _inherit(self, other: Operation, operation: Operation) -> None:
        """A version of the operation's that `other` needs will not be: it gets the content instead."""
        before = Operation(other.seq, other.kind, other.key, 0, content=other.content, seqs=other.seqs)
        self._unmove(other)
        if other.kind != "put" and operation.kind == "put":
            other.headers = other.headers or operation.headers
            other.kind = "put"
        elif other.kind == "rename":
            other.kind = "copy"
        other.source = None
        other.content = tuple(
            piece
            for old in other.content
            for piece in (
                cut(operation.content, old.offset, old.offset + old.stop - old.start, old.start)
                if old.home is not None and (old.home.key, old.home.etag) == (operation.key, operation.etag)
                else (old,)
            )
        )
        other.seqs = sorted({*operation.seqs, *other.seqs})
        self.holdings.hold(other)
        self.holdings.release(before)
        self.order.rekey(other, writes=_writes(other), reads=self._reads(other))

    def _flat(self, content: Content) -> Iterator[Piece]:
        for piece in content:
            maker = self._made.get((piece.home.key, piece.home.etag)) if piece.home is not None else None
            if maker is None:
                yield piece
            else:
                yield from self._flat(
                    tuple(cut(maker.content, piece.offset, piece.offset + piece.stop - piece.start, piece.start))
                )

    def _is_future(self, home: Home) -> bool:
        return home.etag.startswith(PROVISIONAL) and (home.key, home.etag) in self._made

    def _reads(self, operation: Operation) -> set[str]:
        found = set()
        for home in homes(operation.content):
            found |= {home.key, *self._moving.get((home.key, home.etag), ())}
        return found - _writes(operation)

    def _unlist(self, operation: Operation) -> None:
        del self.named[operation.seq]
        if operation.kind != "delete":
            del self._made[operation.key, operation.etag]
        self._unmove(operation)

    def _unmove(self, operation: Operation) -> None:
        if operation.kind == "rename":
            home = homes(operation.content)[0]
            version = home.key, home.etag
            self._moving[version].remove(operation.key)
            if not self._moving[version]:
                del self._moving[version]


def _writes(operation: Operation) -> set[str]:
    return (
        {operation.key} if operation.source is None or operation.kind != "rename" else {operation.key, operation.source}
    )
