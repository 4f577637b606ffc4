"""Another client's object is never lost to a late write of ours, nor ours to it (DESIGN 4, issue 8)."""

import logging
from dataclasses import replace

import pytest
import trio

from s3mount.errors import PreconditionFailed, Stale, Unavailable
from s3mount.store.base import ABSENT, ALWAYS
from s3mount.writeback.metas import Named, Own
from tests.running import run_virtual
from tests.unit.kinds_of_operations import LARGE
from tests.unit.kinds_of_operations import life as life_of_small_parts
from tests.unit.writing_back import Life, idle, nothing, virtual_ns


def copies(life: Life) -> dict[str, bytes]:
    return {key: life.store.body(key) for key in life.store.keys(".s3mount/conflicts/")}


@run_virtual
async def test_what_lost_its_key_is_kept_beside_and_told(caplog: pytest.LogCaptureFixture) -> None:
    life = Life()
    life.put("a", b"ours", ABSENT)
    life.store.place("a", b"theirs")
    async with life.daemon():
        await idle(life)
    assert life.store.body("a") == b"theirs"
    assert list(copies(life).values()) == [b"ours"]
    (name,) = copies(life)
    assert name.endswith("/a")
    assert [record.levelno for record in caplog.records if "conflict" in record.getMessage()] == [logging.ERROR]
    assert life.kept.figures["count"] == 1


@run_virtual
async def test_a_base_that_is_gone_leaves_a_partial_copy() -> None:
    life = Life()
    life.store.place("log", b"0123456789")
    etag, size = life.seen("log")
    pieces = Named(0, size, "log", etag, size, 0), Own(10, 13, 0)
    life.put("log", b"new", life.stands("log"), pieces)
    life.store.place("log", b"theirs")
    async with life.daemon():
        await idle(life)
    assert life.store.body("log") == b"theirs"
    ((name, body),) = copies(life).items()
    assert name.endswith("/log.partial")
    assert body == bytes(10) + b"new"


@run_virtual
async def test_a_deletion_leaves_what_another_client_has_stored(caplog: pytest.LogCaptureFixture) -> None:
    life = Life()
    life.store.place("a", b"old")
    life.delete("a", life.stands("a"))
    life.store.place("a", b"theirs")
    async with life.daemon():
        await idle(life)
    assert life.store.body("a") == b"theirs"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@run_virtual
async def test_an_unconditional_put_that_comes_late_spares_what_is_younger() -> None:
    life = Life()
    life.store.placed_seconds_ago = 0
    life.put("a", b"ours")
    await trio.sleep(10)
    life.store.place("a", b"theirs")
    async with life.daemon() as sender:
        with pytest.raises(Stale):
            await sender.settle("a")
    assert life.store.body("a") == b"theirs"
    assert list(copies(life).values()) == [b"ours"]


@run_virtual
async def test_settle_waits_for_what_is_there_and_tells_a_refusal() -> None:
    life = Life(delay_seconds=1000.0)
    life.store.fail("put", PreconditionFailed("no", status=412), key="b", times=1)
    async with life.daemon() as sender:
        life.put("a", b"a")
        life.put("b", b"b")
        with trio.fail_after(20):
            await sender.settle("a")
            assert life.store.keys() == ["a"]
            await sender.settle_below("")
        assert life.store.keys() == ["a", "b"]


@run_virtual
async def test_a_directory_that_another_client_made_as_well_is_no_conflict(caplog: pytest.LogCaptureFixture) -> None:
    life = Life()
    life.put("d/", b"", ABSENT)
    life.put("d/.s3mount-attrs", b"", mode="16877")
    life.put("d/f", b"ours", ABSENT)
    await trio.sleep(10)
    life.store.placed_seconds_ago = 0
    life.store.place("d/")
    life.store.place("d/.s3mount-attrs")
    async with life.daemon() as sender:
        await sender.settle_below("d/")
    assert life.store.keys() == ["d/", "d/.s3mount-attrs", "d/f"]
    assert life.store.objects["d/.s3mount-attrs"].headers.metadata == {"mode": "16877"}
    assert not caplog.records


@run_virtual
async def test_what_we_have_stored_late_ourselves_is_not_another_clients() -> None:
    """Older than what is in the bucket, as its clock goes, and the later one all the same."""
    life = Life()
    life.store.placed_seconds_ago = -60
    life.put("k", b"first", ABSENT)
    async with life.daemon():
        await idle(life)
        life.store.objects["k"] = replace(life.store.objects["k"], last_modified_ns=virtual_ns() + 1_900_000_000)
        life.put("k", b"second")
        life.put("m", b"first", ABSENT)
        await idle(life)
        life.delete("m")
        await idle(life)
    assert life.store.keys() == ["k"]
    assert life.store.body("k") == b"second"
    life.store.objects["k"] = replace(life.store.objects["k"], last_modified_ns=virtual_ns() + 1_900_000_000)
    life.put("k", b"third")
    life.killed()
    await trio.sleep(100)
    async with life.daemon():
        await idle(life)
    assert life.store.body("k") == b"third"


@pytest.mark.parametrize("whatever", [False, True])
@run_virtual
async def test_what_follows_a_version_that_lost_its_key_goes_to_a_copy_of_its_own(whatever: bool) -> None:
    life = Life()
    life.put("k", b"first", ABSENT)
    life.begun()
    life.put("k", b"second", ALWAYS if whatever else life.stands("k"))
    life.store.place("k", b"theirs")
    async with life.daemon():
        await idle(life)
    assert life.store.body("k") == b"theirs"
    assert sorted(copies(life).values()) == [b"first", b"second"]


@run_virtual
async def test_the_last_writer_wins_where_the_user_says_so_and_all_bytes_are_local() -> None:
    life = Life(conflict="overwrite")
    life.store.place("log", b"0123456789")
    etag, size = life.seen("log")
    life.put("log", b"new", life.stands("log"), (Named(0, size, "log", etag, size, 0), Own(size, size + 3, 0)))
    life.put("k", b"ours", ABSENT)
    for key in ("k", "log"):
        life.store.place(key, b"theirs")
    async with life.daemon():
        await idle(life)
    assert life.store.body("k") == b"ours"
    assert life.store.body("log") == b"theirs"
    assert len(copies(life)) == 1


@run_virtual
async def test_a_copy_that_would_need_too_many_zeros_holds_what_is_local_and_says_where() -> None:
    life = Life(conflict_zeros_max_bytes=5)
    life.store.place("log", b"0123456789")
    etag, size = life.seen("log")
    life.put("log", b"new", life.stands("log"), (Named(0, size, "log", etag, size, 0), Own(size, size + 3, 0)))
    life.store.place("log", b"theirs")
    async with life.daemon():
        await idle(life)
    ((name, body),) = copies(life).items()
    assert name.endswith("/log.from-10.partial")
    assert body == b"new"


@run_virtual
async def test_a_daemon_that_dies_while_it_keeps_a_copy_leaves_one_copy() -> None:
    for body in (b"ours", LARGE):
        number = 0
        died = True
        while died:
            number += 1
            died = await dies_in_a_conflict(number, body)
        assert number > 5


@run_virtual
async def test_a_copy_by_parts_that_fails_once_leaves_no_upload() -> None:
    for number in range(1, 8):
        one = life_of_small_parts()
        one.put("k", LARGE, ABSENT)
        one.store.place("k", b"theirs")
        one.store.fail("upload_part", Unavailable("down"), skip=number)
        async with one.daemon():
            await idle(one)
            assert not one.store.uploads
        assert list(copies(one).values()) == [LARGE]
        assert len([fact for fact in one.log.facts if "upload" in fact]) == 1  # of the put itself


async def dies_in_a_conflict(number: int, body: bytes) -> bool:
    life = life_of_small_parts()
    life.put("k", body, ABSENT)
    life.store.place("k", b"theirs")
    count = 0
    died = trio.Event()

    async def die(_event: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            died.set()
        if died.is_set():
            await trio.sleep_forever()

    life.store.before = life.store.after = life.log.hook = die
    async with life.daemon():
        with trio.move_on_after(30):
            await died.wait()
    life.store.before = life.store.after = None
    life.log.hook = nothing
    life.killed()
    async with life.daemon():
        await idle(life)
        await trio.sleep(1000)  # an upload that was perhaps opened is looked for
    assert life.store.body("k") == b"theirs"
    assert list(copies(life).values()) == [body]
    assert life.pending.idle
    assert not life.store.uploads
    return died.is_set()
