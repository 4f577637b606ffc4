"""A GET that validates an open and is never answered: given up for another, once, and seldom."""

import pytest
import trio

from s3mount.data.patience import AT_ONCE_MAX
from s3mount.data.version import Changed, Version
from s3mount.errors import Unavailable
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.test_blocks import cache, put

SILENCE_SECONDS = 5.0
"""The most, and what is believed before anything is known."""


def silent(store: MemoryStore, *, times: int, then: BaseException | None = None) -> list[float]:
    """The next `times` GETs hang, for a stall time-out if `then` ends them; when each was begun."""
    begun: list[float] = []

    async def before(call: Call) -> None:
        if call.operation == "get":
            begun.append(trio.current_time())
            if len(begun) <= times:
                if then is None:
                    await trio.sleep_forever()
                await trio.sleep(20.0)
                raise then

    store.before = before
    return begun


@pytest.mark.parametrize("held", [False, True], ids=["unknown", "held"])
@run_virtual
async def test_a_validation_that_is_never_answered_is_asked_again_once(*, held: bool) -> None:
    store = MemoryStore()
    version = await put(store, "k", b"body")
    async with cache(store) as blocks:
        if held:
            await blocks.validate(version)
        begun = silent(store, times=1)
        began = trio.current_time()
        info = await blocks.validate(version)
        assert (info is None) == held
        assert [round(seconds - began) for seconds in begun] == [0, SILENCE_SECONDS]
        assert blocks.figures["asked_again"] == 1
        assert bytes(await blocks.view(version, 0, 4)) == b"body"


@run_virtual
async def test_the_second_request_is_left_to_the_store() -> None:
    store = MemoryStore()
    version = await put(store, "k", b"body")
    async with cache(store) as blocks:
        begun = silent(store, times=2, then=Unavailable("silent"))
        with pytest.raises(Unavailable):
            await blocks.validate(version)
        assert len(begun) == 2
        assert trio.current_time() == pytest.approx(SILENCE_SECONDS + 20.0)


@run_virtual
async def test_a_body_that_has_begun_is_waited_for() -> None:
    store = MemoryStore()
    body = bytes(128 * 1024)
    version = await put(store, "k", body)
    store.piece_bytes, store.latency_seconds = 64 * 1024, 0.0

    async def after(call: Call) -> None:
        if call.operation == "get":
            await trio.sleep(3 * SILENCE_SECONDS)

    store.after = after
    async with cache(store) as blocks:
        store.reset_counts()
        await blocks.validate(version)
        assert store.counts["get"] == 1


@run_virtual
async def test_when_all_are_silent_few_are_asked_again() -> None:
    store = MemoryStore()
    version = await put(store, "k", b"body")
    async with cache(store) as blocks:
        begun = silent(store, times=100, then=Unavailable("silent"))
        for _ in range(10):
            with pytest.raises(Unavailable):
                await blocks.validate(version)
        assert len(begun) == 10 + AT_ONCE_MAX


@run_virtual
async def test_the_second_answer_decides() -> None:
    store = MemoryStore()
    version = await put(store, "k", b"body")
    await put(store, "k", b"other")
    async with cache(store) as blocks:
        silent(store, times=1)
        with pytest.raises(Changed) as caught:
            await blocks.validate(version)
        assert caught.value.info is not None
        now = Version("k", caught.value.info.etag, 5)
        assert bytes(await blocks.view(now, 0, 5)) == b"other"
