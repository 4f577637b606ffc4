"""An upload that was killed goes on where it was (issue 8)."""

import pytest
import trio
import trio.testing

from s3mount.config import MIB
from s3mount.data.grid import SendPart
from s3mount.data.plan import CopyPart, Step
from s3mount.errors import AccessDenied, BadReply, StoreError, Unavailable
from s3mount.store.base import ABSENT, Part
from s3mount.writeback.bodies import Room
from s3mount.writeback.resuming import usable
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.writing_back import Life, idle, virtual_ns

PART = 4096
PARTS = 205


def large(life: Life) -> bytes:
    body = b"".join(number.to_bytes(4, "big") * (PART // 4) for number in range(PARTS))
    life.put("large", body, ABSENT)
    return body


def life_of_small_parts() -> Life:
    store = MemoryStore(clock_ns=virtual_ns, part_min_bytes=1)
    store.latency_seconds = 0.01
    life = Life(store, equal_parts="yes", part_copy="yes", parts_max=10_000)
    # Below what a user may ask for: 205 parts of 5 MiB would take a test too long.
    object.__setattr__(life.config, "part_size_bytes", PART)
    return life


async def killed_after(life: Life, parts: int) -> None:
    """The daemon dies when so many parts are stored."""
    enough = trio.Event()

    async def after(call: Call) -> None:
        if call.operation == "upload_part" and life.store.counts["upload_part"] >= parts:
            enough.set()

    life.store.after = after
    async with life.daemon():
        with trio.fail_after(600):
            await enough.wait()
    life.store.after = None
    life.killed()


@run_virtual
async def test_an_upload_killed_after_60_percent_sends_at_most_half_again() -> None:
    life = life_of_small_parts()
    body = large(life)
    await killed_after(life, PARTS * 6 // 10)
    life.store.reset_counts()
    async with life.daemon() as sender:
        (upload,) = await life.store.list_uploads("large")
        assert sender.spares(upload)
        await idle(life)
        assert not sender.spares(upload)
    assert life.store.body("large") == body
    assert life.store.sent_bytes <= len(body) // 2
    assert life.store.counts["create_upload"] == 0
    assert not life.store.uploads


@run_virtual
async def test_an_upload_that_the_store_has_forgotten_begins_anew() -> None:
    life = life_of_small_parts()
    body = large(life)
    await killed_after(life, PARTS * 6 // 10)
    life.store.uploads.clear()
    life.store.reset_counts()
    async with life.daemon():
        await idle(life)
    assert life.store.body("large") == body
    assert life.store.counts["upload_part"] == PARTS
    assert not life.store.uploads


@run_virtual
async def test_a_part_that_fails_is_sent_again_and_no_other() -> None:
    life = life_of_small_parts()
    life.store.fail("upload_part", Unavailable("down"), skip=100)
    body = large(life)
    async with life.daemon():
        await idle(life)
    assert life.store.body("large") == body
    assert PARTS <= life.store.counts["upload_part"] <= PARTS + 8
    assert not life.store.uploads


@run_virtual
async def test_bodies_in_memory_are_bounded() -> None:
    life = Life(MemoryStore(clock_ns=virtual_ns))
    life.store.latency_seconds = 1.0
    body = bytes(6 * MIB)
    life.put("first", body)
    (first,) = life.pending.operations
    for number in range(29):
        life.put(f"k{number}", b"", ABSENT, first.content)
    async with life.daemon():
        await idle(life)
    assert len(life.store.keys()) == 30
    assert life.buffers.most_bytes <= 64 * MIB
    assert life.buffers.used_bytes == 0


@pytest.mark.parametrize("times", [1, 4])
@run_virtual
async def test_a_completion_whose_reply_is_lost_is_recognised(times: int) -> None:
    life = life_of_small_parts()
    life.store.fail("complete_upload", Unavailable("?"), when="after", times=times)
    body = large(life)
    async with life.daemon():
        await idle(life)
    assert life.store.body("large") == body
    assert life.store.counts["complete_upload"] == 1
    assert life.store.keys() == ["large"]


@run_virtual
async def test_an_upload_that_the_store_forgets_on_the_way_begins_anew() -> None:
    life = life_of_small_parts()

    async def forget(call: Call) -> None:
        if call.number == 100 and life.store.counts["create_upload"] == 1:
            life.store.uploads.clear()

    life.store.before = forget
    body = large(life)
    async with life.daemon():
        await idle(life)
    assert life.store.body("large") == body
    assert life.store.counts["create_upload"] == 2
    assert not life.store.uploads


@run_virtual
async def test_an_upload_that_is_not_needed_any_more_is_aborted() -> None:
    """The next daemon has a part size with which all of it is one PUT."""
    life = life_of_small_parts()
    body = large(life)
    await killed_after(life, PARTS * 6 // 10)
    object.__setattr__(life.config, "part_size_bytes", 5 * MIB)
    async with life.daemon():
        await idle(life)
        assert not life.store.uploads
    assert life.store.body("large") == body
    assert life.store.counts["put"] == 1


@run_virtual
async def test_a_body_larger_than_the_bound_is_alone_and_others_have_their_turn() -> None:
    room = Room(100)
    came: list[str] = []

    async def come(name: str, size: int) -> None:
        taken = await room.take(size)
        came.append(name)
        await trio.sleep(1)
        room.give(taken)

    async with trio.open_nursery() as nursery:
        for name, size in (("first", 60), ("huge", 1000), ("small", 10), ("last", 95)):
            nursery.start_soon(come, name, size)
            await trio.testing.wait_all_tasks_blocked()
    assert came == ["first", "huge", "small", "last"]
    assert room.used_bytes == 0


def test_only_parts_that_are_what_would_be_sent_are_kept() -> None:
    def parts(*sizes: int | None) -> list[Part]:
        return [Part(number, "e", size) for number, size in enumerate(sizes, 1) if size is not None]

    def kept(there: list[Part], steps: list[Step]) -> list[int]:
        return [number for number, _ in usable(there, steps)]

    sent: list[Step] = [SendPart(number, number * 10 - 10, number * 10) for number in range(1, 6)]
    copied: list[Step] = [*sent[:2], CopyPart(3, 20, 30), *sent[3:]]
    assert kept(parts(10, 10, 10), sent) == [1, 2, 3]
    assert kept(parts(10, None, 10), sent) == [1, 3]
    assert kept(parts(10, None, 10), copied) == [1]
    assert kept(parts(10, 11, 10), sent) == [1]
    assert kept([Part(9, "e", 10)], sent) == []


@pytest.mark.parametrize("code", ["InvalidPart", "InvalidPartOrder", "EntityTooSmall"])
@run_virtual
async def test_an_upload_whose_parts_the_store_refuses_begins_anew(code: str) -> None:
    """A part whose request was given up may land after its repetition."""
    life = life_of_small_parts()
    life.store.fail("complete_upload", StoreError("parts", code=code, status=400))
    body = large(life)
    async with life.daemon() as sender:
        await idle(life)
        assert not sender.spool.parked
    assert life.store.body("large") == body
    assert life.store.counts["create_upload"] == 2
    assert not life.store.uploads


@pytest.mark.parametrize("error", [AccessDenied("no", status=403), BadReply("what"), StoreError("?", status=400)])
@run_virtual
async def test_an_upload_whose_parts_the_store_does_not_list_begins_anew(error: StoreError) -> None:
    life = life_of_small_parts()
    body = large(life)
    await killed_after(life, PARTS * 6 // 10)
    life.store.fail("list_parts", error, times=-1)
    async with life.daemon() as sender:
        await idle(life)
        assert not sender.spool.parked
    assert life.store.body("large") == body
    assert not life.store.uploads
