"""Operations that no repetition helps: what `s3mount failed` shows of them, and does.

The state is Pending's; here is only when each was parked, as far as this daemon knows.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from s3mount.errors import NoEntry, S3MountError, Unavailable
from s3mount.writeback import metas
from s3mount.writeback.bodies import Bodies, Log
from s3mount.writeback.operations import Operation
from s3mount.writeback.pending import Pending


@dataclass(frozen=True, slots=True)
class Parked:
    """One of them; `number` is its record's."""

    number: int
    key: str
    kind: str
    since_ns: int
    error: S3MountError
    size: int


class Spool:
    """See the module. `forget` is called with what will not be sent any more, before it is dropped."""

    def __init__(
        self,
        pending: Pending,
        log: Log,
        bodies: Bodies,
        *,
        retried: Callable[[Operation], None],
        forget: Callable[[Operation], Awaitable[None]],
    ) -> None:
        self._pending = pending
        self._log = log
        self._bodies = bodies
        self._retried = retried
        self._forget = forget
        self._since_ns: dict[int, int] = {}

    def note(self, operation: Operation, now_ns: int) -> None:
        self._since_ns[operation.seq] = now_ns

    @property
    def parked(self) -> list[Parked]:
        found = sorted(self._pending.parked, key=lambda operation: operation.seq)
        self._since_ns = {op.seq: self._since_ns[op.seq] for op in found if op.seq in self._since_ns}
        return [
            Parked(
                operation.seq,
                operation.key,
                operation.kind,
                self._since_ns.get(operation.seq, operation.at_ns),
                operation.error or Unavailable("an earlier run could not store it"),
                operation.size,
            )
            for operation in found
        ]

    async def retry(self, number: int) -> None:
        """Have it sent again. Raises NoEntry."""
        operation = self._named(number)
        await self._log.append(metas.unparked_meta(operation))
        if operation.state == "parked":
            self._pending.unpark(operation)
            self._retried(operation)

    async def drop(self, number: int) -> None:
        """Forget what programs were told is stored; what waited for it goes on. Raises NoEntry."""
        operation = self._named(number)
        await self._forget(operation)
        await self._log.append(metas.dropped_meta(operation))
        if operation.state == "parked":
            self._pending.drop(operation)

    async def read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of its content, as far as they can be had. Raises NoEntry, HomeGone, Lost."""
        operation = self._named(number)
        async with self._bodies.body(operation.content, offset, min(offset + size, operation.size)) as body:
            return b"".join(body)

    def _named(self, number: int) -> Operation:
        operation = self._pending.named(number)
        if operation is not None and operation.state == "parked":
            return operation
        raise NoEntry(f"nothing that failed has the number {number}")
