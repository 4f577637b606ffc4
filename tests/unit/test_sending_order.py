"""What is sent when: order, delay, company, outages, and what settling waits for (issue 8)."""

import logging
from typing import Any

import pytest
import trio
import trio.testing

from s3mount.errors import AccessDenied, JournalFull, NoSuchBucket, Stale, StoreError, Unavailable
from s3mount.store.base import ABSENT, Condition
from s3mount.store.outage import Outage
from tests.memory_store import Call
from tests.running import run_virtual
from tests.unit.writing_back import Life, idle, virtual_ns


def sent(life: Life) -> list[tuple[str, str]]:
    return [(call.operation, call.key) for call in life.store.calls if call.operation not in ("head", "get", "list")]


@run_virtual
async def test_a_file_rewritten_within_the_delay_is_sent_once_and_not_later_than_that() -> None:
    life = Life(delay_seconds=1.0)
    async with life.daemon():
        began = trio.current_time()
        life.put("k", b"version 0", ABSENT)
        for number in range(1, 10):
            await trio.sleep(0.05)
            life.put("k", f"version {number}".encode(), life.stands("k"))
        await idle(life)
        assert trio.current_time() - began == pytest.approx(1.0)
    assert dict(life.store.counts) == {"put": 1}
    assert life.store.body("k") == b"version 9"


@run_virtual
async def test_a_file_made_renamed_and_deleted_within_the_delay_is_no_request() -> None:
    life = Life(delay_seconds=1.0)
    async with life.daemon():
        life.put("k", b"x", ABSENT)
        life.rename("k", "l", ABSENT)
        life.delete("l", life.stands("l"))
        await trio.sleep(10)
    assert not life.store.calls
    assert life.pending.idle


@run_virtual
async def test_versions_of_one_key_and_what_is_in_a_directory_go_in_order() -> None:
    life = Life()
    life.store.latency_seconds = 0.1
    async with life.daemon():
        for key in ("d/", "d/.s3mount-attrs", "d/f"):
            life.put(key, b"", ABSENT)
        await trio.sleep(0.25)
        life.put("d/f", b"second", life.stands("d/f"))
        life.rename("d/f", "d/g", ABSENT)
        life.delete("d/g", life.stands("d/g"))
        life.delete("d/.s3mount-attrs")
        life.delete("d/")
        await idle(life)
    order = sent(life)
    assert order[:3] == [("put", "d/"), ("put", "d/.s3mount-attrs"), ("put", "d/f")]
    assert order.index(("delete", "d/.s3mount-attrs")) > max(order.index(each) for each in order if "d/f" in each)
    assert order[-1] == ("delete", "d/")
    assert not life.store.objects


@run_virtual
async def test_what_is_ready_together_is_begun_with_one_wait_and_sent_side_by_side() -> None:
    life = Life()
    life.store.latency_seconds = 1.0
    for number in range(40):
        life.put(f"k{number}", b"x", ABSENT)
    times: list[float] = []

    async def note(_meta: Any) -> None:
        times.append(trio.current_time())
        await trio.lowlevel.checkpoint()

    life.log.hook = note
    most = 0

    async def count(_call: Call) -> None:
        nonlocal most
        most = max(most, int(str(sender.figures["sending"])))

    life.store.before = count
    began = trio.current_time()
    async with life.daemon() as sender:
        await idle(life)
    assert most == 16
    assert len({when - began for when in times[:32]}) == 1
    assert trio.current_time() - began == pytest.approx(3.0)


@run_virtual
async def test_nothing_is_looked_at_while_nothing_changes() -> None:
    life = Life()
    looked = 0
    ready = life.pending.ready

    def counted(now: float) -> Any:
        nonlocal looked
        looked += 1
        return ready(now)

    life.pending.ready = counted  # type: ignore[method-assign]
    life.store.fail("put", AccessDenied("no", status=403), key="refused")
    async with life.daemon():
        life.put("k", b"x", ABSENT)
        life.put("refused", b"x", ABSENT)
        await idle(life)
        before = looked
        await trio.sleep(3600)
        assert looked == before


@run_virtual
async def test_nothing_is_begun_in_an_outage_and_all_goes_when_it_ends() -> None:
    life = Life()
    life.outage = Outage(virtual_ns)
    async with life.daemon():
        life.outage.failed("down", silent_seconds=0.0, usable_before=0, lasting=True)
        for number in range(100):
            life.put(f"k{number}", b"x", ABSENT)
        await trio.sleep(600)
        assert not life.store.calls
        assert not life.log.facts
        life.outage.answered()
        await idle(life)
    assert dict(life.store.counts) == {"put": 100}


@run_virtual
async def test_a_store_that_is_down_is_asked_by_one_at_a_time() -> None:
    life = Life()
    life.store.fail("put", Unavailable("down"), times=10**9)
    async with life.daemon():
        for number in range(1000):
            life.put(f"k{number}", b"x", ABSENT)
        await trio.sleep(600)
        assert life.store.counts["put"] < 16 + 60
        life.store.heal()
        await idle(life)
    assert len(life.store.keys()) == 1000


@pytest.mark.parametrize(
    "error", [NoSuchBucket("gone", status=404), StoreError("old", code="ExpiredToken", status=400)]
)
@run_virtual
async def test_what_is_refused_to_everybody_is_told_once_and_sent_when_it_is_over(
    error: StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life()
    life.store.fail("put", error, times=10**9)
    caplog.set_level(logging.WARNING, "s3mount.writeback")
    async with life.daemon() as sender:
        for number in range(100):
            life.put(f"k{number}", b"x", ABSENT)
        await trio.sleep(600)
        assert not sender.spool.parked
        life.store.heal()
        await idle(life)
    assert len(life.store.keys()) == 100
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert len(caplog.records) <= 3


@run_virtual
async def test_a_journal_that_is_full_stops_sending_and_loses_nothing() -> None:
    life = Life()
    full = True

    async def fail(_meta: Any) -> None:
        await trio.lowlevel.checkpoint()
        if full:
            raise JournalFull("no room")

    life.log.hook = fail
    async with life.daemon():
        life.put("k", b"x", ABSENT)
        await trio.sleep(100)
        assert not life.store.calls
        full = False
        await idle(life)
    assert dict(life.store.counts) == {"put": 1}


@run_virtual
async def test_what_has_landed_keeps_its_bytes_until_the_journal_says_so() -> None:
    life = Life()
    full = True

    async def fail(meta: Any) -> None:
        await trio.lowlevel.checkpoint()
        if full and "done" in meta:
            raise JournalFull("no room")

    life.log.hook = fail
    async with life.daemon():
        life.put("k", b"x", ABSENT)
        await trio.sleep(100)
        assert life.store.body("k") == b"x"
        assert life.pending.files == 1
        full = False
        await idle(life)
    assert life.pending.idle
    assert dict(life.store.counts) == {"put": 1}


# Settling.


@run_virtual
async def test_settling_sends_at_once_what_waits_for_its_delay_and_nothing_else() -> None:
    life = Life(delay_seconds=60.0)
    async with life.daemon() as sender:
        life.put("d/", b"", ABSENT)
        life.put("d/k", b"x", ABSENT)
        life.put("other", b"x", ABSENT)
        with trio.fail_after(1):
            await sender.settle("d/k")
        assert life.store.keys() == ["d/", "d/k"]
        with trio.fail_after(1):
            await sender.settle_below("")
        assert life.store.keys() == ["d/", "d/k", "other"]
        with trio.fail_after(1):
            await sender.settle("nothing")


@run_virtual
async def test_what_somebody_waits_for_goes_before_a_backlog() -> None:
    life = Life()
    life.store.latency_seconds = 1.0
    async with life.daemon() as sender:
        for number in range(3000):
            life.put(f"k{number}", b"x", ABSENT)
        await trio.sleep(5)
        for key in ("d/", "d/e/", "d/e/wanted"):
            life.put(key, b"", ABSENT)
        with trio.fail_after(8):
            await sender.settle("d/e/wanted")
        assert len(life.store.keys()) < 300


@run_virtual
async def test_settling_follows_what_was_swallowed_by_a_later_operation() -> None:
    life = Life()
    life.store.fail("put", Unavailable("down"), key="first", times=3)
    life.store.latency_seconds = 1.0
    async with life.daemon() as sender, trio.open_nursery() as nursery:
        life.put("first/", b"", ABSENT)
        life.put("first/k", b"x", ABSENT)
        await trio.testing.wait_all_tasks_blocked()
        settled = trio.Event()

        async def settle() -> None:
            await sender.settle("first/k")
            settled.set()

        nursery.start_soon(settle)
        await trio.testing.wait_all_tasks_blocked()
        life.rename("first/k", "first/l", ABSENT)
        life.put("first/l", b"joined", life.stands("first/l"))
        await settled.wait()
        assert life.store.body("first/l") == b"joined"


@run_virtual
async def test_settling_raises_what_keeps_the_bucket_from_having_it() -> None:
    life = Life()
    life.store.fail("put", AccessDenied("no", status=403), key="refused", times=10**9)
    life.store.place("theirs", b"theirs")
    async with life.daemon() as sender:
        life.put("refused", b"x", ABSENT)
        life.put("theirs", b"x", ABSENT)
        life.put("fine", b"x", ABSENT)
        with pytest.raises(AccessDenied):
            await sender.settle("refused")
        life.rename("refused", "behind", ABSENT)
        with pytest.raises(AccessDenied):
            await sender.settle("behind")
        await trio.sleep(10)
        life.store.place("other", b"theirs")
        life.put("other", b"x", ABSENT)
        with pytest.raises((AccessDenied, Stale)):
            await sender.settle_below("")
        await sender.settle("fine")
        await sender.settle("theirs")


@run_virtual
async def test_settling_gives_up_as_early_as_a_close_would_without_write_back() -> None:
    life = Life()
    life.store.fail("put", Unavailable("down"), times=10**9)
    async with life.daemon() as sender:
        life.put("k", b"x", ABSENT)
        began = trio.current_time()
        with pytest.raises(Unavailable, match="down"):
            await sender.settle("k")
        assert trio.current_time() - began == pytest.approx(life.config.retry_seconds, abs=1)
        life.store.heal()
        await idle(life)
    assert life.store.keys() == ["k"]


@run_virtual
async def test_settling_gives_up_in_an_outage_too() -> None:
    life = Life()
    life.outage = Outage(virtual_ns)
    async with life.daemon() as sender:
        life.outage.failed("down", silent_seconds=0.0, usable_before=0, lasting=True)
        life.put("k", b"x", ABSENT)
        with trio.fail_after(life.config.retry_seconds + 1), pytest.raises(Unavailable):
            await sender.settle("k")


# The spool.


@run_virtual
async def test_what_was_parked_is_shown_read_and_dropped_and_what_waits_for_it_goes_on() -> None:
    life = Life()
    life.store.fail("put", AccessDenied("no", status=403), key="k", times=10**9)
    async with life.daemon():
        life.put("k", b"0123456789", ABSENT)
        await idle(life)
        life.rename("k", "l", ABSENT)
    life.killed()
    async with life.daemon() as sender:
        await idle(life)
        (parked,) = sender.spool.parked
        assert (parked.key, parked.kind, parked.size) == ("k", "put", 10)
        assert isinstance(parked.error, AccessDenied)
        assert await sender.spool.read(parked.number, 2, 5) == b"23456"
        assert sender.figures["parked"] == 1
        await sender.spool.drop(parked.number)
        await idle(life)
        assert not sender.spool.parked
    assert life.store.body("l") == b"0123456789"
    assert life.pending.idle


@run_virtual
async def test_a_marker_whose_time_moves_with_what_is_below_it_goes_all_the_same() -> None:
    life = Life()
    life.store.place("d/")
    life.delete("d/")
    await trio.sleep(60)
    life.store.placed_seconds_ago = 0
    life.store.place("d/")  # as SeaweedFS tells it after a change below
    async with life.daemon():
        await idle(life)
    assert "d/" not in life.store.objects


@run_virtual
async def test_deletions_that_come_one_after_another_go_in_few_requests() -> None:
    life = Life(delay_seconds=1.0)
    for number in range(1000):
        life.store.place(f"k{number}")
    async with life.daemon():
        for number in range(1000):
            life.delete(f"k{number}", Condition(etag=life.store.objects[f"k{number}"].etag))
            await trio.sleep(0.005)
        await idle(life)
    assert not life.store.objects
    assert 5 <= life.store.counts["delete_many"] <= 7


@run_virtual
async def test_deletions_that_somebody_comes_to_wait_for_while_they_gather_are_sent_once() -> None:
    life = Life(delay_seconds=1.0)
    for number in range(3):
        life.store.place(f"k{number}")
    async with life.daemon() as sender:
        for number in range(3):
            life.delete(f"k{number}", Condition(etag=life.store.objects[f"k{number}"].etag))
        await trio.sleep(1.5)
        await sender.settle_below("")
    assert not life.store.objects
    assert [call.operation for call in life.store.calls] == ["delete_many"]
    assert life.pending.idle


@run_virtual
async def test_a_directory_without_a_key_that_the_store_goes_on_listing_goes_late_as_well() -> None:
    life = Life()
    life.store.ghosts = True
    life.delete("d/")
    await trio.sleep(60)
    async with life.daemon():
        await idle(life)
    assert [call.key for call in life.store.calls if call.operation in ("delete", "delete_many")] == ["d/"]
