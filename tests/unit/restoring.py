"""The records that a start finds, in the order in which they meant what they say. Synchronous, no disk.

An operation's record may have been written anew behind later ones: its number says where it belongs. That an operation
was begun is told to it before any later record: live, nothing was joined with it from then on, though a record may have
been on its way to the journal meanwhile. Where some records of an operation that is done are gone already, those others
that nothing else needs are not applied: alone they would mean something else.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from s3mount.writeback.operations import Place
from s3mount.writeback.pending import Pending


class Record(NamedTuple):
    """What the journal has: `place` is its body, if it has one."""

    seq: int
    meta: Mapping[str, Any]
    place: Place | None


def restore(pending: Pending, records: Iterable[Record]) -> None:
    """Apply all, in whatever order they are handed in. Parts of uploads that no put names are given back."""
    kept = sorted(records, key=lambda record: record.seq)
    void = {record.meta["void"] for record in kept if "void" in record.meta}
    numbers = {record.meta.get("op", record.seq) for record in kept}
    over = {seq for record in kept if not numbers.issuperset(record.meta.get("of", ())) for seq in record.meta["over"]}
    for record in kept:
        pending.expect(record.meta)
    for record in sorted(kept, key=lambda record: (record.meta.get("op", record.seq), record.seq)):
        number = record.meta.get("op", record.seq)
        if record.seq in void or number in over:
            pending.skip(number, record.place)
        elif "void" not in record.meta:
            pending.apply(number, record.meta, record.place)
    pending.replayed()
