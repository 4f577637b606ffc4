"""The failing store: which call it hits, what of that call reaches the bucket, and what the caller sees."""

import pytest
import trio

from s3mount.errors import AccessDenied, LostReply, S3MountError, Unavailable
from s3mount.store.base import Headers
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.sim.failing_store import FailingStore, Mode


async def put_three(store: FailingStore) -> list[S3MountError]:
    """Three PUTs with a HEAD before each; what they raise."""
    errors = []
    for key in ("a", "b", "c"):
        for call in (lambda: store.head("there"), lambda key=key: store.put(key, (b"x",), Headers())):
            try:
                await call()
            except S3MountError as error:
                errors.append(error)
    return errors


@pytest.mark.parametrize(
    ("mode", "number", "kind", "stored"),
    [
        ("fail", 4, Unavailable, ["a", "c"]),
        ("fail", 3, Unavailable, ["a", "b", "c"]),
        ("refuse", 4, AccessDenied, ["a", "c"]),
        ("lost", 2, LostReply, ["a", "b", "c"]),
    ],
)
@run_virtual
async def test_exactly_the_nth_call_goes_wrong_and_its_effect_is_there_only_when_the_reply_was_lost(
    mode: Mode, number: int, kind: type[S3MountError], stored: list[str]
) -> None:
    bucket = MemoryStore()
    bucket.place("there")
    store = FailingStore(bucket)
    store.arm(mode, number)
    assert [type(error) for error in await put_three(store)] == [kind]
    assert bucket.keys() == [*stored, "there"]
    assert [hit.number for hit in store.hits] == [number]


@pytest.mark.parametrize(
    ("mode", "number", "kinds", "stored"),
    [
        ("down", 4, [Unavailable] * 3, ["a"]),
        ("cut", 2, [LostReply, Unavailable, Unavailable], ["a", "b"]),
    ],
)
@run_virtual
async def test_a_store_that_is_down_or_cut_off_stays_so_until_it_is_healed(
    mode: Mode, number: int, kinds: list[type[S3MountError]], stored: list[str]
) -> None:
    bucket = MemoryStore()
    bucket.place("there")
    store = FailingStore(bucket)
    store.arm(mode, number)
    assert [type(error) for error in await put_three(store)] == kinds
    assert bucket.keys() == [*stored, "there"]
    store.heal()
    assert not await put_three(store)


@pytest.mark.parametrize(("mode", "stored"), [("crash-before", []), ("crash-after", ["a"])])
@run_virtual
async def test_a_crash_never_comes_back_and_no_later_call_has_an_effect(mode: Mode, stored: list[str]) -> None:
    bucket = MemoryStore()
    bucket.place("there")
    store = FailingStore(bucket)
    store.arm(mode, 2 if mode == "crash-before" else 1)
    with trio.move_on_after(100) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_three, store)
            await store.crashed.wait()
            await store.put("late", (b"x",), Headers())
    assert scope.cancelled_caught
    assert bucket.keys() == [*stored, "there"]


@run_virtual
async def test_it_knows_the_uploads_that_only_a_later_start_can_abort() -> None:
    bucket = MemoryStore()
    store = FailingStore(bucket)
    store.arm("lost", 1)
    with pytest.raises(LostReply):
        await store.create_upload("k", Headers())
    assert store.left_open == bucket.uploads.keys()
    known = await store.create_upload("k", Headers())
    store.arm("fail", 1)
    with pytest.raises(Unavailable):
        await store.abort_upload(known)
    assert store.left_open == bucket.uploads.keys()
    assert len(store.left_open) == 2
