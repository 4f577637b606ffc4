"""Closes that wait for room: what they ask of the table of what waits."""

import trio
import trio.testing

from s3mount.store.base import ALWAYS, Headers, Stored
from s3mount.writeback import metas
from s3mount.writeback.operations import Operation
from s3mount.writeback.pending import Pending
from s3mount.writeback.room import Room
from tests.running import run_virtual


class Counting(Pending):
    """Counts how often all of it is looked through."""

    hurried = 0

    def hurry(self, prefix_or_key: str, *, below: bool) -> list[Operation]:
        self.hurried += 1
        return super().hurry(prefix_or_key, below=below)


def table(files: int) -> tuple[Counting, Room]:
    pending = Counting(
        clock=trio.current_time, delay_seconds=1000.0, on_free=lambda _places: None, on_over=lambda _seq: None
    )
    room = Room(pending, bytes_max=1, files_max=files, patience_seconds=10.0)
    pending.changed = room.look_again
    for seq in range(1, files + 1):
        meta = metas.put_meta(
            f"f{seq}", headers=Headers(), condition=ALWAYS, size=0, etag=f'"s3mount-{seq}"', at_ns=seq, pieces=()
        )
        pending.apply(seq, meta, None)
    return pending, room


@run_virtual
async def test_who_waits_for_room_looks_through_what_waits_once_and_not_with_each_file_that_lands() -> None:
    pending, room = table(20)
    entered: list[int] = []

    async def close(number: int) -> None:
        await room.for_bytes(0)
        entered.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(close, number)
        await trio.testing.wait_all_tasks_blocked()
        assert pending.hurried == 1
        assert len(pending.ready(trio.current_time())) == 20
        assert not entered
        for operation in pending.ready(trio.current_time()):
            pending.begin(operation)
            pending.landed(operation, Stored('"e"', 1))
            await trio.testing.wait_all_tasks_blocked()
    assert len(entered) == 5
    assert pending.hurried == 1
