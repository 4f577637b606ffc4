"""Attributes learnt by an earlier mount of this host are shown by the next one without asking for them again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from s3mount.store.base import Headers
from s3mount.vfs.attributedb import AttributeDb
from s3mount.vfs.flags import FLAG
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.files import inline
from tests.unit.test_attributes_read import flagged, stats

PRIVATE = Headers(metadata={"mode": str(0o100640)})
AGE_NS = 10 * 10**9


@asynccontextmanager
async def life(store: MemoryStore, path: Path, **options: object) -> AsyncIterator[Kernel]:
    """A mount that remembers in `path`, from its start to its end."""
    db = AttributeDb(path / "attributes.sqlite", run_in_thread=inline)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(db.run)
        async with mounted(store, path, learnt=db, **options) as kernel:  # type: ignore[arg-type]
            yield kernel
        nursery.cancel_scope.cancel()


def heads(store: MemoryStore) -> list[str]:
    return [call.key for call in store.calls if call.operation == "head"]


@pytest.mark.parametrize("count", [3, 1500])
@run_virtual
async def test_after_a_remount_ls_l_of_a_flagged_directory_asks_for_no_file(tmp_path: Path, count: int) -> None:
    """C7"""
    store = MemoryStore()
    flagged(store, "d/", count)
    for asked in (count, 0):
        async with life(store, tmp_path) as kernel:
            assert set((await stats(kernel, "d")).values()) == {0o100600}
            assert len([key for key in heads(store) if key.startswith("d/f")]) == asked


@run_virtual
async def test_a_version_that_changed_between_is_asked_for_and_no_other(tmp_path: Path) -> None:
    store = MemoryStore()
    flagged(store, "d/", 20)
    async with life(store, tmp_path) as kernel:
        await stats(kernel, "d")
    store.place("d/f00003", b"x", PRIVATE, last_modified_ns=store.now_ns() - AGE_NS)
    store.place("d/f00004", b"other", PRIVATE)
    async with life(store, tmp_path) as kernel:
        shown = await stats(kernel, "d")
        assert [key for key in heads(store) if key.startswith("d/f")] == ["d/f00003", "d/f00004"]
    assert [name for name, mode in shown.items() if mode == 0o100640] == ["f00003", "f00004"]


@run_virtual
async def test_what_an_unflagged_directory_is_read_for_is_not_kept(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/plain", b"x")
    flagged(store, "f/", 1)
    async with life(store, tmp_path) as kernel:
        for path in ("d/plain", "f/f00000"):
            assert await kernel.read(path) == b"x"
    db = AttributeDb(tmp_path / "attributes.sqlite", run_in_thread=inline)
    assert (await db.load("d/")).keys() == set()
    assert (await db.load("f/")).keys() == {"f/f00000"}


@run_virtual
async def test_what_is_younger_than_two_seconds_is_asked_for_again(tmp_path: Path) -> None:
    store = MemoryStore(clock_ns=lambda: 1_700_000_000 * 10**9)
    flagged(store, "d/", 5)
    for key, stored in list(store.objects.items()):
        store.place(key, stored.body, stored.headers, last_modified_ns=store.now_ns())
    for _ in range(2):
        async with life(store, tmp_path) as kernel:
            await stats(kernel, "d")
            assert len([key for key in heads(store) if key.startswith("d/f")]) == 5


@run_virtual
async def test_with_attributes_always_no_flag_is_needed(tmp_path: Path) -> None:
    store = MemoryStore()
    flagged(store, "d/", 30)
    store.remove(f"d/{FLAG}")
    for asked in (30, 0):
        async with life(store, tmp_path, attributes="always") as kernel:
            assert set((await stats(kernel, "d")).values()) == {0o100600}
            assert len([key for key in heads(store) if key.startswith("d/f")]) == asked
