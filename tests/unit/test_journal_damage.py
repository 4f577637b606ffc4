"""Damage of the write-back journal: what is before it is replayed, nothing else, it is named, and the rest is kept."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from s3mount.writeback import oplog
from s3mount.writeback.reading import Journal, read_journal, told_by_found
from s3mount.writeback.records import Identity
from s3mount.writeback.replay import Replayed, replay
from tests.power import PowerDisk
from tests.unit.test_power_loss import bodies
from tests.writeback_table import SmallTable

OURS = Identity("http://store", "bucket", "", 1000)
NOWHERE = Path("/nonexistent")
SMALL = 8 * 1024


@dataclass
class Written:
    """A journal as a daemon has left it. `puts` by seq, and by which seq they were done."""

    disk: PowerDisk
    puts: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)


async def written(draw: random.Random) -> Written:
    made = Written(PowerDisk())
    replayed = await replay(NOWHERE, OURS, SmallTable, disk=made.disk, segment_bytes=SMALL)
    async with trio.open_nursery() as nursery:
        await nursery.start(replayed.log.run)
        for number in range(60):
            key, body = f"key {number}", draw.randbytes(draw.choice((0, 10, 600, 2000)))
            appended = await replayed.log.append({"put": key}, (body,))
            replayed.pending.apply(appended.seq, {"put": key}, appended.place)
            made.puts[appended.seq] = key, body
            if draw.random() < 0.6:
                seq = draw.choice([operation.seq for operation in replayed.pending.operations])
                made.done[seq] = (await replayed.log.append({"done": seq})).seq
                replayed.pending.end(seq)
        if draw.random() < 0.5:
            await replayed.log.close()
        nursery.cancel_scope.cancel()
    made.journal = read_journal(made.disk, OURS)
    assert made.journal.damage is None
    assert made.journal.torn is None
    return made


def hit(disk: PowerDisk, draw: random.Random) -> tuple[PowerDisk, int, int, bool]:
    """The disk with one flipped byte, or one file cut; where, and whether it was cut."""
    number = draw.choice(disk.numbers())
    content = bytearray(disk.files[number])
    used = len(bytes(content).rstrip(b"\0")) if draw.random() < 0.9 else len(content)
    offset = draw.randrange(used)
    cut = draw.random() < 0.3
    if cut:
        del content[offset + 1 :]
    content[offset] ^= draw.randrange(1, 256)
    return (
        PowerDisk({**{each: bytes(disk.files[each]) for each in disk.files}, number: bytes(content)}),
        number,
        offset,
        cut,
    )


def expected(made: Written, number: int, offset: int, *, cut: bool) -> tuple[int, set[int], set[int]]:
    """The first seq that is lost when its body is needed or its head is hit, and the seqs of the records hit."""
    first = made.journal.cut_seq
    spoilt = set()
    bodies_hit = set()
    for found in made.journal.records:
        record = found.record
        if record.segment != number or record.stop <= offset or (record.start > offset and not cut):
            continue
        spoilt.add(record.seq)
        if record.body_start <= offset < record.stop:
            bodies_hit.add(record.seq)
        else:
            first = min(first, record.seq)
    header = min((found.record.start for found in made.journal.records if found.record.segment == number), default=0)
    if offset < header:
        first = min(
            (found.record.seq for found in made.journal.records if found.record.segment >= number), default=first
        )
    return first, spoilt, bodies_hit


async def check(made: Written, draw: random.Random) -> str:
    disk, number, offset, cut = hit(made.disk, draw)
    before = dict(disk.files)
    first, spoilt, bodies_hit = expected(made, number, offset, cut=cut)
    carriers = {told_by_found(found).seq: found.record.seq for found in made.journal.records}
    replayed = await replay(NOWHERE, OURS, SmallTable, disk=disk, segment_bytes=SMALL)
    found = {seq: (key, body) for seq, key, body in bodies(replayed, disk)}
    assert found.items() <= made.puts.items(), "something wrong was replayed"
    for seq in found:
        fact = made.done.get(seq)
        assert fact is None or carriers.get(fact) in spoilt, f"{seq} was done"
    lost = {seq for seq in made.puts if seq not in made.done} - found.keys()
    told = {seq for seq, fact in made.done.items() if carriers.get(fact) not in spoilt}
    hit_bodies = {seq for seq in made.puts if carriers.get(seq) in bodies_hit and seq not in told}
    cut_at = min([first, *hit_bodies])
    for seq in lost:
        assert seq >= cut_at or carriers[seq] in spoilt, f"{seq} is before the damage at {cut_at}"
    for seq in found:
        assert seq < cut_at or not lost, f"{seq} is behind the damage at {cut_at}"
    if any(seq <= made.journal.proven_seq for seq in lost):
        assert replayed.damage is not None, "the damage was not named"
    if replayed.damage is not None:
        await _kept(replayed, disk, before, made, lost, spoilt, carriers)
    again = await replay(NOWHERE, OURS, SmallTable, disk=disk, segment_bytes=SMALL)
    assert again.damage is None
    assert {seq: (key, body) for seq, key, body in bodies(again, disk)} == found
    return "damaged" if replayed.damage is not None else "torn" if lost else "nothing lost"


async def _kept(
    replayed: Replayed[SmallTable],
    disk: PowerDisk,
    before: dict[int, bytearray],
    made: Written,
    lost: set[int],
    spoilt: set[int],
    carriers: dict[int, int],
) -> None:
    """All from the damage on is there as it was, and what can be read of it is named."""
    damage = replayed.damage
    assert damage is not None
    assert damage.kept is not None
    kept = disk.aside[damage.kept.name]
    assert kept == {number: content for number, content in before.items() if number >= damage.segment}
    readable = {made.puts[seq][0] for seq in lost if carriers[seq] not in spoilt}
    assert readable <= set(damage.keys)
    async with trio.open_nursery() as nursery:  # and the journal goes on
        await nursery.start(replayed.log.run)
        await replayed.log.close()


@pytest.mark.parametrize("seed", range(3))
def test_wherever_it_is_hit_what_is_before_is_replayed_and_the_rest_is_kept(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a journal has is a matter of the seed, not of how fast the machine is.
    monkeypatch.setattr(oplog, "MARK_AFTER_SECONDS", float("inf"))
    monkeypatch.setattr(oplog, "UNSYNCED_MAX_SECONDS", float("inf"))

    async def test() -> None:
        draw = random.Random(seed)
        outcomes = []
        for _ in range(3):
            made = await written(draw)
            outcomes += [await check(made, draw) for _ in range(60)]
        assert outcomes.count("damaged") > 40

    trio.run(test)
