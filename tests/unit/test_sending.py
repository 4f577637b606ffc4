"""What was acknowledged reaches the bucket, exactly once, whatever fails on the way (issue 8)."""

import pytest
import trio

from s3mount.config import MIB
from s3mount.errors import AccessDenied, JournalFull, Lost, LostReply, Unavailable
from s3mount.store.base import ABSENT, Headers
from tests.running import run_virtual
from tests.unit.writing_back import Life, idle, nothing


@run_virtual
async def test_a_put_is_one_request_after_its_begin_is_durable() -> None:
    life = Life()
    async with life.daemon():
        life.put("a", b"hello", ABSENT, mode="33188")
        await idle(life)
    assert life.store.body("a") == b"hello"
    assert dict(life.store.counts) == {"put": 1}
    assert [next(iter(fact)) for fact in life.log.facts] == ["begun", "done"]
    assert [next(iter(fact)) for fact in life.log.waited] == ["begun"]


@run_virtual
async def test_every_kind_of_operation_lands() -> None:
    life = Life()
    for name in ("old", "doomed", "dull"):
        life.store.place(name, name.encode())
    async with life.daemon():
        life.rename("old", "new")
        life.delete("doomed", life.stands("doomed"))
        life.copy("dull", "twin", None, ABSENT)
        await trio.sleep(5)
    assert life.store.keys() == ["dull", "new", "twin"]


@run_virtual
async def test_a_refusal_of_one_key_holds_nobody_up() -> None:
    life = Life()
    life.store.fail("put", AccessDenied("no", status=403), key="secret", times=-1)
    async with life.daemon() as sender:
        life.put("secret", b"x")
        for number in range(40):
            life.put(f"k{number}", b"y")
        await idle(life)
        assert len(life.store.keys()) == 40
        assert [parked.key for parked in sender.spool.parked] == ["secret"]
        life.store.heal()
        await sender.spool.retry(sender.spool.parked[0].number)
        await idle(life)
    assert life.store.body("secret") == b"x"


@run_virtual
async def test_a_thousand_deletions_are_one_request() -> None:
    life = Life()
    for number in range(1000):
        life.store.place(f"k{number:04}", b"x")
    for number in range(1000):
        life.delete(f"k{number:04}", life.stands(f"k{number:04}"))
    async with life.daemon():
        await idle(life)
    assert dict(life.store.counts) == {"delete_many": 1}
    assert not life.store.objects


@run_virtual
async def test_a_lost_reply_is_no_second_request_and_no_conflict() -> None:
    life = Life()
    life.store.fail("put", LostReply("?"), when="after")
    async with life.daemon():
        life.put("a", b"hello", ABSENT)
        await idle(life)
    assert life.store.keys() == ["a"]
    assert dict(life.store.counts) == {"put": 1, "head": 1}


@run_virtual
async def test_an_outage_ends_and_everything_is_stored_once() -> None:
    life = Life()
    life.store.fail("put", Unavailable("down"), times=3)
    async with life.daemon():
        for number in range(20):
            life.put(f"k{number}", b"y", ABSENT)
        await idle(life)
    assert len(life.store.keys()) == 20


@run_virtual
async def test_who_waits_is_told_that_the_journal_takes_nothing() -> None:
    life = Life()

    async def full(_meta: object) -> None:
        raise JournalFull("the disk is full")

    life.log.hook = full
    async with life.daemon() as sender:
        life.put("a", b"hello", ABSENT)
        with trio.fail_after(600), pytest.raises(Unavailable, match="the disk is full"):
            await sender.settle("a")
        life.log.hook = nothing
        await idle(life)
        await sender.settle("a")
    assert life.store.body("a") == b"hello"


@run_virtual
async def test_the_same_bytes_with_other_attributes_are_not_what_a_lost_request_has_stored() -> None:
    life = Life()
    life.store.place("a", b"hello", Headers(metadata={"mode": "33188"}))
    life.store.fail("put", LostReply("?"), when="before")
    async with life.daemon():
        life.put("a", b"hello", mode="33152")
        await idle(life)
    assert dict(life.store.objects["a"].headers.metadata) == {"mode": "33152"}
    assert life.store.keys() == ["a"]


@run_virtual
async def test_bytes_that_the_disk_has_garbled_since_are_not_sent() -> None:
    """They are read in pieces, and the checksum is of all."""
    life, size = Life(), 3 * MIB + 5
    life.put("whole", bytes(size))
    life.put("garbled", bytes(size))
    life.log.bodies[2] = bytes(size - 1) + b"\1"
    async with life.daemon() as sender:
        await idle(life)
        assert [type(parked.error) for parked in sender.spool.parked] == [Lost]
    assert life.store.keys() == ["whole"]
