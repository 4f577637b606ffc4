"""Another client's object is never lost to a late write of ours, nor ours to it (DESIGN 4, issue 8)."""

import logging

import pytest
import trio

from s3mount.errors import PreconditionFailed, Stale
from s3mount.store.base import ABSENT
from s3mount.writeback.metas import Named, Own
from tests.running import run_virtual
from tests.unit.writing_back import Life, idle


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
