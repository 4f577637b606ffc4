"""The disk of the write-back journal fails: appends say so, what was acknowledged stays, and later ones work."""

import errno
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from s3mount.errors import JournalFailed, JournalFull
from s3mount.writeback import oplog
from s3mount.writeback.records import Identity
from s3mount.writeback.replay import Replayed, replay
from tests.power import PowerDisk
from tests.unit.test_power_loss import bodies
from tests.writeback_table import SmallTable

OURS = Identity("http://store", "bucket", "", 1000)
NOWHERE = Path("/nonexistent")
SMALL = 16 * 1024


class Faults:
    """Calls of one name fail: the `nth`, and with `count` as many more."""

    def __init__(self, name: str, code: int, *, nth: int, count: int) -> None:
        self.name, self.code, self.left, self.count = name, code, nth, count
        self.told = 0

    def __call__(self, name: str) -> None:
        if name == self.name:
            self.left -= 1
            if -self.count < self.left <= 0:
                self.told += 1
                raise OSError(self.code, errno.errorcode[self.code])


def running(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        with trio.fail_after(60):
            await test()

    trio.run(run)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oplog, "RETRY_SECONDS", 0.002)
    monkeypatch.setattr(oplog, "UNSYNCED_MAX_SECONDS", 0.002)


async def put(replayed: Replayed[SmallTable], key: str, body: bytes, *, wait: bool = True) -> int:
    appended = await replayed.log.append({"put": key}, (body,), wait=wait)
    replayed.pending.apply(appended.seq, {"put": key}, appended.place)
    return appended.seq


async def replayed_from(disk: PowerDisk, draw: random.Random) -> dict[str, bytes]:
    """What a start finds after the power has gone."""
    after = disk.after_cut(len(disk.events), "some", draw)
    again = await replay(NOWHERE, OURS, SmallTable, disk=after, segment_bytes=SMALL)
    assert again.damage is None
    return {key: body for _, key, body in bodies(again, after)}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["write", "sync", "create", "sync_names"])
@pytest.mark.parametrize("count", [1, 5])
def test_an_append_that_fails_is_never_believed_and_one_that_returned_always_is(
    name: str, code: int, count: int
) -> None:
    refusal = JournalFull if code == errno.ENOSPC else JournalFailed

    async def lived(nth: int) -> int:
        draw = random.Random(nth)
        disk = PowerDisk()
        replayed = await replay(NOWHERE, OURS, SmallTable, disk=disk, segment_bytes=SMALL)
        disk.fail = faults = Faults(name, code, nth=nth, count=count)
        kept: dict[str, bytes] = {}
        refused: set[str] = set()
        unwaited: set[str] = set()

        async def write(writer: int) -> None:
            for number in range(5):
                key, body = f"{writer}/{number}", draw.randbytes(draw.choice((0, 500, 5000)))
                wait = draw.random() < 0.7
                try:
                    await put(replayed, key, body, wait=wait)
                except refusal:
                    refused.add(key)
                else:
                    (kept.__setitem__(key, body) if wait else unwaited.add(key))

        async with trio.open_nursery() as nursery:
            await nursery.start(replayed.log.run)
            async with trio.open_nursery() as writers:
                for writer in range(3):
                    writers.start_soon(write, writer)
            after_cut = await replayed_from(disk, draw)
            assert kept.items() <= after_cut.items()
            faults.count = 0  # the disk works again
            await put(replayed, "last", b"1")
            kept["last"] = b"1"
            found = await replayed_from(disk, draw)
            assert kept.items() <= found.items()
            assert not found.keys() & refused
            await replayed.log.close()
        found = await replayed_from(disk, draw)
        assert kept.items() <= found.items()
        assert found.keys() <= kept.keys() | unwaited
        return faults.told

    async def test() -> None:
        nth = 1
        while await lived(nth):
            nth += 1
        assert nth > 1

    running(test)


def test_a_full_disk_still_takes_what_is_told_of_operations_and_so_becomes_free_again() -> None:
    async def test() -> None:
        disk = PowerDisk()
        replayed = await replay(NOWHERE, OURS, SmallTable, disk=disk, segment_bytes=SMALL)
        async with trio.open_nursery() as nursery:
            await nursery.start(replayed.log.run)
            seqs = [await put(replayed, f"{number}", b"x" * 5000) for number in range(9)]
            disk.fail = Faults("create", errno.ENOSPC, nth=1, count=1000)
            for _ in range(3):
                with pytest.raises(JournalFull):
                    await put(replayed, "refused", b"y" * 5000)
            before = len(disk.files)
            for seq in seqs:
                await replayed.log.append({"begun": seq})
                await replayed.log.append({"done": seq})
                replayed.pending.end(seq)
            await replayed.log.append({"mark": 0})
            await replayed.log.append({"mark": 0})
            assert len(disk.files) < before
            disk.fail = lambda name: None
            await put(replayed, "taken", b"z" * 5000)
            assert await replayed_from(disk, random.Random(1)) == {"taken": b"z" * 5000}
            await replayed.log.close()

    running(test)


def test_bytes_that_a_failed_fsync_has_lost_are_not_built_on() -> None:
    async def test() -> None:
        disk = PowerDisk()
        replayed = await replay(NOWHERE, OURS, SmallTable, disk=disk, segment_bytes=SMALL)
        async with trio.open_nursery() as nursery:
            await nursery.start(replayed.log.run)
            appended = await replayed.log.append({"bytes": "upload"}, (b"x" * 5000,), wait=False)
            place = appended.place
            assert place is not None

            def fail(name: str) -> None:
                if name == "sync":
                    disk.files[place.segment][place.offset] ^= 1  # what it was to write is gone from memory, too
                    disk.fail = lambda name: None
                    raise OSError(errno.EIO, "EIO")

            disk.fail = fail
            with pytest.raises(JournalFailed):
                await put(replayed, "other", b"")
            await put(replayed, "another", b"")
            with pytest.raises(JournalFailed, match="lost"):
                await replayed.log.append({"put": "key", "pieces": [[0, 5000, *place, 0]]})
            await replayed.log.close()

    running(test)


def test_what_lies_in_the_way_is_not_moved_over_and_over_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try reads it, and takes of the room that is left for facts."""
    monkeypatch.setattr(oplog, "RETRY_SECONDS", 1000.0)

    async def test() -> None:
        disk = PowerDisk()
        replayed = await replay(NOWHERE, OURS, SmallTable, disk=disk, segment_bytes=SMALL)
        async with trio.open_nursery() as nursery:
            await nursery.start(replayed.log.run)
            await put(replayed, "parked", b"p" * 200_000)
            seqs = [await put(replayed, f"{number}", b"x" * 15_000) for number in range(50)]
            await replayed.log.append({"mark": 0}, (b"m" * 15_000,))
            tries = disk.fail = Faults("create", errno.ENOSPC, nth=1, count=10**9)
            for seq in seqs:
                replayed.pending.end(seq)
            for _ in range(4):
                await replayed.log.append({"mark": 0})
            assert tries.told == 2, "a segment of the usual size, and the least one"
            disk.fail = lambda name: None
            await replayed.log.close()
            assert await replayed_from(disk, random.Random(1)) == {"parked": b"p" * 200_000}

    running(test)
