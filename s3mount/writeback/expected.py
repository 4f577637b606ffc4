"""Pending, as far as those know it who bring what waits to the bucket. Each call returns at once."""

from collections.abc import Callable, Iterable
from typing import Protocol

from s3mount.errors import S3MountError
from s3mount.store.base import Stored
from s3mount.writeback.operations import Operation


class Table(Protocol):
    """Pending, as far as the sender knows it."""

    changed: Callable[[], None]

    @property
    def operations(self) -> Iterable[Operation]: ...

    @property
    def parked(self) -> Iterable[Operation]: ...

    def ready(self, now: float) -> list[Operation]: ...

    def next_due(self) -> float | None: ...

    def begin(self, operation: Operation) -> None: ...

    def landed(self, operation: Operation, stored: Stored | None) -> None: ...

    def parted(self, operation: Operation) -> None: ...

    def park(self, operation: Operation, error: S3MountError) -> None: ...

    def unpark(self, operation: Operation) -> None: ...

    def drop(self, operation: Operation) -> None: ...

    def hurry(self, prefix_or_key: str, *, below: bool) -> list[Operation]: ...
