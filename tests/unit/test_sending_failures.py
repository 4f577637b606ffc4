"""Whatever fails, and wherever the daemon dies: the bucket ends with what was acknowledged, once (issue 8).

Each kind of operation goes through a run in which the first request fails, one in which the second does, and so on
until none is left; and so do deaths, before and after each request and each record.
"""

from collections.abc import Callable

import pytest
import trio

from s3mount.errors import AccessDenied, LostReply, StoreError, Unavailable
from tests.memory_store import Call
from tests.running import run_virtual
from tests.unit.kinds_of_operations import (
    KINDS,
    Expected,
    life,
    renamed_and_made_anew,
    renaming,
    renaming_over_anything,
    renaming_over_its_twin,
    stored_and_renamed,
    swapped,
)
from tests.unit.writing_back import Life, idle

DOUBTS_SECONDS = 1000.0
"""By then an upload that was perhaps opened is looked for."""

every_kind = pytest.mark.parametrize("kind", KINDS)
RENAMES = [swapped, stored_and_renamed, renamed_and_made_anew, renaming, renaming_over_its_twin, renaming_over_anything]


def check(one: Life, expected: Expected) -> None:
    found = {key: (stored.body, dict(stored.headers.metadata)) for key, stored in one.store.objects.items()}
    assert found == expected
    assert not one.store.uploads
    assert one.pending.idle
    assert not one.buffers.used_bytes
    assert not one.kept.figures["count"]


async def with_failure(
    make: Callable[[], Life], kind: Callable[[Life], Expected], number: int, when: str, error: StoreError
) -> bool:
    """A run whose request `number` fails; whether there were so many."""
    one = make()
    expected = kind(one)
    count = 0

    async def fail(_call: Call) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise error

    setattr(one.store, when, fail)
    async with one.daemon() as sender:
        await idle(one)
        if sender.spool.parked:
            assert not one.store.uploads
        for parked in sender.spool.parked:
            await sender.spool.retry(parked.number)
        await idle(one)
        await trio.sleep(DOUBTS_SECONDS)
    check(one, expected)
    return count >= number


async def with_death(make: Callable[[], Life], kind: Callable[[Life], Expected], number: int, *, power: bool) -> bool:
    """A daemon that dies at event `number`, and the next one; whether there were so many."""
    one = make()
    expected = kind(one)
    await trio.sleep(5)
    count = 0
    died = trio.Event()

    async def die(_event: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            died.set()
        if died.is_set():
            await trio.sleep_forever()

    one.store.before = one.store.after = one.log.hook = die
    async with one.daemon(), trio.open_nursery() as nursery:

        async def finish() -> None:
            await idle(one)
            nursery.cancel_scope.cancel()

        nursery.start_soon(finish)
        await died.wait()
        nursery.cancel_scope.cancel()
    if died.is_set():
        count = -1_000_000
        died = trio.Event()
        one.killed(power=power)
        await trio.sleep(100)
        async with one.daemon():
            await idle(one)
            await trio.sleep(DOUBTS_SECONDS)
    check(one, expected)
    return died.is_set() or count < 0


@every_kind
@pytest.mark.parametrize(("when", "error"), [("before", Unavailable), ("after", LostReply)])
@run_virtual
async def test_a_request_that_fails_is_made_up_for(
    kind: Callable[[Life], Expected], when: str, error: type[StoreError]
) -> None:
    number = 1
    while await with_failure(life, kind, number, when, error("injected")):
        number += 1
    assert number > 1


@every_kind
@run_virtual
async def test_what_was_refused_is_stored_when_somebody_has_seen_to_it(kind: Callable[[Life], Expected]) -> None:
    number = 1
    while await with_failure(life, kind, number, "before", AccessDenied("injected", status=403)):
        number += 1
    assert number > 1


@every_kind
@pytest.mark.parametrize("power", [False, True])
@run_virtual
async def test_a_daemon_that_dies_anywhere_is_made_up_for_by_the_next(
    kind: Callable[[Life], Expected], power: bool
) -> None:
    number = 1
    while await with_death(life, kind, number, power=power):
        number += 1
    assert number > 4


@pytest.mark.parametrize("kind", RENAMES)
@run_virtual
async def test_all_of_this_holds_where_the_store_renames(kind: Callable[[Life], Expected]) -> None:
    def renames() -> Life:
        return life(renaming="kept")

    number = 1
    while await with_death(renames, kind, number, power=False):
        number += 1
    for when in ("before", "after"):
        number = 1
        while await with_failure(renames, kind, number, when, LostReply("injected")):
            number += 1
