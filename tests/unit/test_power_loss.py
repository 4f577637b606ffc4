"""Power loss: whenever it goes, what was acknowledged is replayed, in order, and nothing that never was appended."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from s3mount.writeback import needed
from s3mount.writeback.records import Identity
from s3mount.writeback.replay import Replayed, replay
from tests.power import Left, PowerDisk
from tests.writeback_table import SmallTable

OURS = Identity("http://store", "bucket", "", 1000)
NOWHERE = Path("/nonexistent")
SMALL = 16 * 1024
LEFT: tuple[tuple[Left, ...], ...] = (("some", "nothing"), ("some", "everything"))
"""In turns, event by event."""


@dataclass
class Promise:
    """One operation, and after how many events of the disk it was appended, acknowledged, over, and surely over."""

    key: str
    body: bytes
    appended: int
    acknowledged: float = float("inf")
    over: float = float("inf")
    surely_over: float = float("inf")


@dataclass
class Life:
    """A daemon at work on a disk, with drawn operations."""

    disk: PowerDisk
    draw: random.Random
    promises: dict[int, Promise] = field(default_factory=dict)
    since: int = 0
    """How many events of the disk there were before."""

    async def live(self) -> None:
        replayed = await replay(NOWHERE, OURS, SmallTable, disk=self.disk, segment_bytes=SMALL)
        assert replayed.damage is None
        self.since = len(self.disk.events)
        found = {operation.seq for operation in replayed.pending.operations}
        self.promises = {seq: promise for seq, promise in self.promises.items() if seq in found}
        for promise in self.promises.values():
            promise.acknowledged = min(promise.acknowledged, self.since)
        async with trio.open_nursery() as nursery:
            await nursery.start(replayed.log.run)
            async with trio.open_nursery() as workers:
                for _ in range(4):
                    workers.start_soon(self._work, replayed)
            if self.draw.random() < 0.5:
                await replayed.log.close()
            nursery.cancel_scope.cancel()

    async def _work(self, replayed: Replayed[SmallTable]) -> None:
        draw = self.draw
        for _ in range(12):
            chosen = draw.random()
            if chosen < 0.6:
                await self._put(replayed)
            elif chosen < 0.7:
                appended = await replayed.log.append({"bytes": "u"}, (draw.randbytes(2000),), wait=False)
                assert appended.place is not None
                replayed.log.free([appended.place])
            elif self.promises:
                await self._end(replayed, draw.choice(list(self.promises)))

    async def _put(self, replayed: Replayed[SmallTable]) -> None:
        draw = self.draw
        size = draw.choice((0, 5, 700, 3000, 3000, 9000, SMALL + 77))
        promise = Promise(f"key {draw.random()}", draw.randbytes(size), len(self.disk.events))
        wait = draw.random() < 0.7
        log = replayed.log
        expected = log.last_seq + 1
        self.promises[expected] = promise
        appended = await log.append({"put": promise.key}, (promise.body,), wait=wait)
        assert appended.seq == expected
        replayed.pending.apply(appended.seq, {"put": promise.key}, appended.place)
        if wait:
            promise.acknowledged = len(self.disk.events)

    async def _end(self, replayed: Replayed[SmallTable], seq: int) -> None:
        promise = self.promises[seq]
        if seq not in {operation.seq for operation in replayed.pending.operations} or promise.over < float("inf"):
            return
        wait = self.draw.random() < 0.3
        promise.over = len(self.disk.events)
        await replayed.log.append({"done": seq}, wait=wait)
        if wait:
            promise.surely_over = len(self.disk.events)
        replayed.pending.end(seq)


def bodies(replayed: Replayed[SmallTable], disk: PowerDisk) -> Iterator[tuple[int, str, bytes]]:
    for operation in replayed.pending.operations:
        body = b""
        for piece in operation.content:
            assert piece.place is not None
            where = replayed.log._holdings.where(piece.place)
            assert where is not None
            body += disk.files[where.segment][where.offset : where.offset + where.size]
        yield operation.seq, operation.key, body


async def found_after(life: Life, count: int, left: Left) -> tuple[PowerDisk, set[int]]:
    """What a start finds when the power goes after so many events, and that it is right."""
    disk = life.disk.after_cut(count, left, life.draw)
    replayed = await replay(NOWHERE, OURS, SmallTable, disk=disk, segment_bytes=SMALL)
    assert replayed.damage is None
    found = list(bodies(replayed, disk))
    seqs = [seq for seq, _, _ in found]
    assert seqs == sorted(seqs)
    for seq, key, body in found:
        promise = life.promises[seq]
        assert (promise.key, promise.body) == (key, body)
        assert promise.appended <= count < promise.surely_over
    for seq, promise in life.promises.items():
        if promise.acknowledged <= count < promise.over:
            assert seq in seqs, f"{promise.key} was acknowledged"
    return disk, set(seqs)


@pytest.mark.parametrize("seed", range(2))
def test_whenever_the_power_goes_what_was_acknowledged_is_there(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needed, "PUNCH_LEAST_BYTES", 600)

    async def test() -> None:
        draw = random.Random(seed)
        life = Life(PowerDisk(), draw)
        for _ in range(3):
            await life.live()
            for count in range(life.since, len(life.disk.events) + 1):
                for left in LEFT[count % 2]:
                    await found_after(life, count, left)
            if draw.random() < 0.7:  # else it was the process that died
                disk, seqs = await found_after(life, draw.randint(life.since, len(life.disk.events)), "some")
                kept = {seq: life.promises[seq] for seq in seqs}
                life = Life(disk, draw, {seq: Promise(each.key, each.body, 0, 0) for seq, each in kept.items()})

    trio.run(test)
