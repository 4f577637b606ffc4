"""Which operation waits for which, and which may be sent. Synchronous; knows no content and no rule of joining.

An operation waits for earlier ones that touch a key which one of the two changes; below a directory, for the puts of
its marker and flag and its parents'; the removal of a marker or flag, for all that is below that directory. Stores that
keep a tree have a name for a file or for a directory, not for both: what makes the one waits for what changes the
other. One that is parked keeps only those waiting that touch its keys. Edges go to what was there before, so there
are no cycles; an operation that takes another's place in front of a third takes it unless it waits for that third.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice

from s3mount.config import RESERVED
from s3mount.writeback.operations import Operation

FLAG = f"{RESERVED}-attrs"
READY_MAX = 1000


class Order:
    def __init__(self) -> None:
        # The mutable state. Per key, those that change it and those that need it as it is, each in the order they came;
        # the changed keys, sorted; per operation its number and its keys; which one may never overtake which; what is
        # due or will be, once nothing blocks it; what is due; what was handed out.
        self._writers: dict[str, dict[Operation, None]] = {}
        self._readers: dict[str, dict[Operation, None]] = {}
        self._sorted: list[str] = []
        self._keys: dict[Operation, tuple[int, frozenset[str], frozenset[str]]] = {}
        self._bound: dict[Operation, Operation] = {}
        self._due: list[tuple[float, int, Operation]] = []
        self._ready: dict[Operation, None] = {}
        self._taken: set[Operation] = set()
        self._number = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._keys)

    def __contains__(self, operation: Operation) -> bool:
        return operation in self._keys

    def add(
        self,
        operation: Operation,
        *,
        writes: Iterable[str],
        reads: Iterable[str],
        instead: Sequence[Operation] = (),
        bound: Operation | None = None,
    ) -> None:
        """The latest one. What it is `instead` of goes; it never overtakes the one that it is `bound` to."""
        heirs = [
            heir
            for old in instead
            for heir in old.dependents
            if heir not in instead and (old.key == operation.key or self._bound.get(heir) is old)
        ]
        bounds = {heir for heir in heirs if self._bound.get(heir) in instead}
        for old in instead:
            self.remove(old)
        self._number += 1
        written, read = frozenset(writes), frozenset(reads)
        blockers = self._blockers(operation, written, read)
        if bound is not None:
            self._bound[operation] = bound
            blockers.add(bound)
        self._keys[operation] = self._number, written, read
        for key in written:
            changing = self._writers.setdefault(key, {})
            if not changing:
                insort(self._sorted, key)
            changing[operation] = None
        for key in read:
            self._readers.setdefault(key, {})[operation] = None
        operation.blockers = blockers
        for blocker in blockers:
            blocker.dependents.add(operation)
        for heir in bounds:
            self._bound[heir] = operation
        if heirs:
            before = self._closure([operation])
            for heir in heirs:
                if heir in self._keys and heir not in before:
                    self._wait(heir, operation)
        self._offer(operation)

    def rekey(self, operation: Operation, *, writes: Iterable[str], reads: Iterable[str]) -> None:
        """It touches other keys than it did; it keeps its place."""
        number, written, read = self._keys[operation]
        self._unlist(operation, written, read)
        written, read = frozenset(writes), frozenset(reads)
        self._keys[operation] = number, written, read
        for key in written:
            changing = self._writers.setdefault(key, {})
            if not changing:
                insort(self._sorted, key)
            self._place(changing, operation)
        for key in read:
            self._place(self._readers.setdefault(key, {}), operation)

    def remove(self, operation: Operation) -> None:
        """It is over; what waited for it waits for what it was waiting for itself."""
        _, written, read = self._keys.pop(operation)
        self._unlist(operation, written, read)
        self._bound.pop(operation, None)
        self._ready.pop(operation, None)
        self._taken.discard(operation)
        for blocker in operation.blockers:
            blocker.dependents.discard(operation)
        for dependent in operation.dependents:
            dependent.blockers.discard(operation)
            for blocker in operation.blockers:
                self._wait(dependent, blocker)
            self._offer(dependent)
        operation.blockers = set()
        operation.dependents = set()

    def writer(self, key: str, *, before: Operation | None = None) -> Operation | None:
        """The latest that changes it, of those that are there without `before`."""
        changing = self._writers.get(key, ())
        return next((operation for operation in reversed(changing) if operation is not before), None)

    def reads_stay(self, operation: Operation) -> bool:
        """Whether nothing later changes what it needs as it is: it may then come later itself."""
        number, _, read = self._keys[operation]
        return all(self._keys[writer][0] < number for key in read if (writer := self.writer(key)) is not None)

    def last(self, operation: Operation, key: str) -> bool:
        """Whether nothing later touches that key."""
        if self.writer(key) is not operation:
            return False
        reading = self._readers.get(key)
        return not reading or self._keys[next(reversed(reading))][0] <= self._keys[operation][0]

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        """The keys below the prefix that something changes, those above `after`, in order. The caller may change the
        order between two of them."""
        index = max(bisect_left(self._sorted, prefix), bisect_right(self._sorted, after))
        while index < len(self._sorted) and (key := self._sorted[index]).startswith(prefix):
            yield key
            index += 1
            if index > len(self._sorted) or self._sorted[index - 1] is not key:
                index = bisect_right(self._sorted, key)

    def writers(self, key: str) -> Iterable[Operation]:
        return self._writers.get(key, {})

    def ready(self, now: float) -> list[Operation]:
        """What may be sent, the first READY_MAX."""
        while self._due and self._due[0][0] <= now:
            due_at, _, operation = heappop(self._due)
            if self._may_come(operation) and operation.due_at == due_at:
                self._ready[operation] = None
        return list(islice(self._ready, READY_MAX))

    def next_due(self) -> float | None:
        for operation in self._ready:
            return operation.due_at
        while self._due:
            due_at, _, operation = self._due[0]
            if self._may_come(operation) and operation.due_at == due_at:
                return due_at
            heappop(self._due)
        return None

    def take(self, operation: Operation) -> None:
        assert not operation.blockers
        self._taken.add(operation)
        self._ready.pop(operation, None)

    def taken(self, operation: Operation) -> bool:
        return operation in self._taken

    def give_back(self, operation: Operation) -> None:
        self._taken.discard(operation)
        self._offer(operation)

    def park(self, operation: Operation) -> None:
        """Those that waited for it only because of where it stands in the tree need not any more."""
        self._taken.discard(operation)
        self._ready.pop(operation, None)
        _, written, read = self._keys[operation]
        for dependent in list(operation.dependents):
            _, changed, needed = self._keys[dependent]
            if written & (changed | needed) or read & changed or self._bound.get(dependent) is operation:
                continue
            dependent.blockers.discard(operation)
            operation.dependents.discard(dependent)
            self._offer(dependent)

    def hurry(self, operations: Iterable[Operation], now: float) -> None:
        """Them, and all they wait for."""
        for operation in self._closure(operations):
            if operation.due_at > now:
                operation.due_at = now
                self._offer(operation)

    def _wait(self, later: Operation, earlier: Operation) -> None:
        later.blockers.add(earlier)
        earlier.dependents.add(later)
        self._ready.pop(later, None)

    def _closure(self, operations: Iterable[Operation]) -> set[Operation]:
        reached = set[Operation]()
        waiting = list(operations)
        while waiting:
            operation = waiting.pop()
            if operation not in reached:
                reached.add(operation)
                waiting += operation.blockers
        return reached

    def _offer(self, operation: Operation) -> None:
        if self._may_come(operation):
            if len(self._due) > 2 * len(self._keys) + READY_MAX:
                # Nobody takes what is due while the store is away: what was rewritten since would stay for as long.
                self._due = list(
                    {entry for entry in self._due if self._may_come(entry[2]) and entry[2].due_at == entry[0]}
                )
                heapify(self._due)
            heappush(self._due, (operation.due_at, self._keys[operation][0], operation))

    def _may_come(self, operation: Operation) -> bool:
        return (
            operation in self._keys
            and not operation.blockers
            and operation.state in ("waiting", "begun")
            and operation not in self._taken
        )

    def _blockers(self, operation: Operation, written: frozenset[str], read: frozenset[str]) -> set[Operation]:
        found = set[Operation]()
        for key in written | read:
            writer = self.writer(key)
            if writer is not None:
                found.add(writer)
        for key in written:
            found.update(self._readers.get(key, ()))
            for guard in _guards(key):
                writer = self.writer(guard)
                if writer is not None and writer.state != "parked" and writer.key == guard and writer.kind != "delete":
                    found.add(writer)
            for file in _files_above(key):
                writer = self.writer(file)
                if writer is not None and writer.state != "parked":
                    found.add(writer)
        if operation.kind != "delete" and not operation.key.endswith("/"):
            for key in self.keys(operation.key + "/"):
                found.update(other for other in self._writers[key] if other.state != "parked")
        lost = operation.key if operation.kind == "delete" else operation.source
        directory = _directory(lost) if lost is not None else None
        if directory is not None:
            for key in self.keys(directory):
                found.update(other for other in self._writers[key] if other.state != "parked")
        found.discard(operation)
        return found

    def _unlist(self, operation: Operation, written: frozenset[str], read: frozenset[str]) -> None:
        for key in written:
            changing = self._writers[key]
            del changing[operation]
            if not changing:
                del self._writers[key]
                del self._sorted[bisect_left(self._sorted, key)]
        for key in read:
            reading = self._readers[key]
            del reading[operation]
            if not reading:
                del self._readers[key]

    def _place(self, listed: dict[Operation, None], operation: Operation) -> None:
        number = self._keys[operation][0]
        later = [other for other in listed if self._keys[other][0] > number]
        listed[operation] = None
        for other in later:
            del listed[other]
            listed[other] = None


def _guards(key: str) -> Iterator[str]:
    """The markers and flags of the directories that the key is in; of a marker its own directory's flag as well:
    SeaweedFS loses a marker that it stores while the directory comes to be by another key."""
    if key != FLAG:
        yield FLAG
    at = key.find("/")
    while at >= 0:
        directory = key[: at + 1]
        if directory != key:
            yield directory
        if directory + FLAG != key:
            yield directory + FLAG
        at = key.find("/", at + 1)


def _files_above(key: str) -> Iterator[str]:
    """The files that would have to go before the key's directories can be, in a tree."""
    at = key.find("/")
    while at >= 0:
        if at:
            yield key[:at]
        at = key.find("/", at + 1)


def _directory(key: str) -> str | None:
    """The prefix of the directory whose marker or flag it is."""
    if key.endswith("/"):
        return key
    head, slash, name = key.rpartition("/")
    return head + slash if name == FLAG else None
