"""What the tests have instead of the journal of --write-back: tables of what waits and of what the bucket refuses."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from s3mount.errors import NoEntry, S3MountError
from s3mount.writeback.operations import Kind, Operation


class ParkedChange(NamedTuple):
    """As `Spool` tells one."""

    number: int
    key: str
    kind: str
    since_ns: int
    error: S3MountError
    size: int


@dataclass
class Table:
    """What waits, as `Pending` tells it."""

    operations_of: list[Operation] = field(default_factory=list)

    @property
    def operations(self) -> Iterator[Operation]:
        return iter(self.operations_of)

    @property
    def files(self) -> int:
        return len(self.operations_of)

    @property
    def bytes(self) -> int:
        return sum(operation.size for operation in self.operations_of)

    @property
    def oldest_ns(self) -> int | None:
        return min((operation.at_ns for operation in self.operations_of), default=None)

    def find(self, key: str) -> Operation | None:
        return next((operation for operation in self.operations_of if operation.key == key), None)

    def add(
        self, key: str, size: int = 0, *, kind: Kind = "put", at_ns: int = 0, source: str | None = None
    ) -> Operation:
        operation = Operation(len(self.operations_of) + 1, kind, key, at_ns, size=size, source=source)
        self.operations_of.append(operation)
        return operation


class Spool:
    """What the bucket refuses, `parked`, and what it brings, by number. `asked`: what was asked for."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.parked: list[ParkedChange] = []
        self.bodies: dict[int, bytes] = {}
        self.asked: list[tuple[str, int]] = []

    def park(self, operation: Operation, error: S3MountError, body: bytes = b"") -> None:
        operation.state, operation.error = "parked", error
        self.parked.append(
            ParkedChange(operation.seq, operation.key, operation.kind, operation.at_ns, error, operation.size)
        )
        self.bodies[operation.seq] = body

    async def retry(self, number: int) -> None:
        self._take("retry", number)

    async def drop(self, number: int) -> None:
        self._take("drop", number)
        self._table.operations_of = [one for one in self._table.operations_of if one.seq != number]

    async def read(self, number: int, offset: int, size: int) -> bytes:
        if not any(one.number == number for one in self.parked):
            raise NoEntry(f"{number} is not parked")
        return self.bodies[number][offset : offset + size]

    def _take(self, verb: str, number: int) -> None:
        self.asked.append((verb, number))
        kept = [one for one in self.parked if one.number != number]
        if len(kept) == len(self.parked):
            raise NoEntry(f"{number} is not parked")
        self.parked = kept
