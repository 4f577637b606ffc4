"""The least table of operations that a replay can fill: puts and deletes of keys, joined by nothing."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from s3mount.writeback.operations import Operation, Piece, Place


class SmallTable:
    """What was applied, in order, and what of it is not done."""

    def __init__(self, on_free: Callable[[Iterable[Place]], None], on_over: Callable[[int], None]) -> None:
        self._on_free = on_free
        self._on_over = on_over
        self._operations: dict[int, Operation] = {}
        self.applied: list[tuple[int, dict[str, Any], Place | None]] = []

    @property
    def operations(self) -> Iterator[Operation]:
        return iter(self._operations.values())

    @property
    def keys(self) -> list[str]:
        return [operation.key for operation in self.operations]

    def expect(self, meta: Mapping[str, Any]) -> None:
        """Nothing is joined here."""

    def replayed(self) -> None:
        """Parts are nobody's here."""

    def apply(self, seq: int, meta: Mapping[str, Any], place: Place | None) -> Operation | None:
        self.applied.append((seq, dict(meta), place))
        if "put" in meta:
            content = () if place is None else (Piece(0, place.size, place, None, 0),)
            operation = Operation(seq, "put", meta["put"], 0, content=content, seqs=[seq])
        elif "delete" in meta:
            operation = Operation(seq, "delete", meta["delete"], 0, seqs=[seq])
        else:
            if "done" in meta or "dropped" in meta:
                self.end(meta["done"] if "done" in meta else meta["dropped"])
            return None
        self._operations[seq] = operation
        return operation

    def end(self, seq: int) -> None:
        operation = self._operations.pop(seq, None)
        if operation is not None:
            self._on_over(seq)
            self._on_free([piece.place for piece in operation.content if piece.place is not None])
