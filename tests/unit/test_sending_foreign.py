"""Another client writes or deletes between any two requests of ours: its object stays, and our bytes are kept.

Each kind of operation goes through a run in which that happens before its first request, one in which it happens before
the second, and so on.
"""

from collections.abc import Callable

import pytest
import trio

from tests.memory_store import Call
from tests.running import run_virtual
from tests.unit import kinds_of_operations as kinds
from tests.unit.kinds_of_operations import KINDS, LARGE, NEW, OLD, Expected, life
from tests.unit.writing_back import Life, idle

THEIRS = b"another client's"
LOCAL = {
    kinds.creation: NEW, kinds.overwriting: NEW, kinds.replacing: NEW, kinds.restating_by_put: OLD, kinds.edit: NEW,
    kinds.creation_by_parts: LARGE, kinds.two_of_one_key: NEW, kinds.twice_whatever_is_there: NEW,
    kinds.appended_to: NEW, kinds.stored_and_renamed: OLD, kinds.renamed_and_made_anew: NEW,
}  # fmt: skip
"""The bytes that are nowhere but here."""


def holding(one: Life, local: bytes) -> int:
    """How many objects have these bytes."""
    return sum(local in stored.body for stored in one.store.objects.values())


async def with_another(
    kind: Callable[[Life], Expected], number: int, key: str, act: Callable[[Life, str], None], *, dies: bool
) -> bool:
    """A run in which another client acts before request `number`, after which the daemon may die; whether there were so
    many."""
    one = life()
    one.store.placed_seconds_ago = 0
    kind(one)
    await trio.sleep(5)
    count = 0
    stored_before = False
    acted = trio.Event()

    async def intrude(_call: Call) -> None:
        nonlocal count, stored_before
        count += 1
        if count == number:
            stored_before = kind in LOCAL and holding(one, LOCAL[kind]) > 0
            act(one, key)
            acted.set()
        if dies and acted.is_set():
            await trio.sleep_forever()

    one.store.before = intrude
    if dies:
        async with one.daemon(), trio.open_nursery() as nursery:

            async def finish() -> None:
                await idle(one)
                nursery.cancel_scope.cancel()

            nursery.start_soon(finish)
            await acted.wait()
            nursery.cancel_scope.cancel()
        one.store.before = None
        one.killed()
    async with one.daemon():
        await idle(one)
        await trio.sleep(1000)
    assert not one.store.uploads
    assert one.pending.idle
    assert not one.buffers.used_bytes
    bodies = [stored.body for stored in one.store.objects.values()]
    if kind in LOCAL and not stored_before:  # what the bucket had he may take away
        # A rename of a version that lost its key has its bytes, too: at the new name, where nobody else is.
        assert 1 <= holding(one, LOCAL[kind]) <= 1 + (kind is kinds.stored_and_renamed)
    if acted.is_set() and act is replace:
        assert one.store.objects[key].body == THEIRS
        assert bodies.count(THEIRS) == 1
    return acted.is_set()


def replace(one: Life, key: str) -> None:
    one.store.place(key, THEIRS)


def remove(one: Life, key: str) -> None:
    if key in one.store.objects:
        one.store.remove(key)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dies", [False, True])
@run_virtual
async def test_what_another_client_stores_meanwhile_stays_and_our_bytes_are_kept_once(
    kind: Callable[[Life], Expected], dies: bool
) -> None:
    for key in ("k", "l"):
        number = 1
        while await with_another(kind, number, key, replace, dies=dies):
            number += 1
        assert number > 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in LOCAL])
@run_virtual
async def test_what_another_client_deletes_meanwhile_costs_none_of_our_bytes(kind: Callable[[Life], Expected]) -> None:
    number = 1
    while await with_another(kind, number, "k", remove, dies=False):
        number += 1
    assert number > 1
