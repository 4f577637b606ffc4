"""What nobody was told could not be stored: how much is kept, when it is tried, what becomes of it (DESIGN 5)."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount.config import MIB
from s3mount.errors import AccessDenied, Busy, NoEntry, Stale, Unavailable
from s3mount.vfs import closing
from s3mount.vfs.kept import Kept
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.files import pattern

DOWN = Unavailable("500", status=500)
OLD = pattern(3 * MIB)


async def leave(kernel: Kernel, path: str, body: bytes) -> None:
    """Change a file so that only its last RELEASE can store it, as a mapping does."""
    fh = await kernel.open(path, os.O_WRONLY | os.O_CREAT)
    await kernel.fs.write(fh, 0, body)
    await kernel.fs.release(fh)


@asynccontextmanager
async def keeping(tmp_path: Path, *, down: int = 10_000) -> AsyncIterator[tuple[Kernel, MemoryStore]]:
    """A mount that keeps `d/old`, of which the first bytes were changed, for a store whose next PUTs fail."""
    store = MemoryStore()
    store.place("d/old", OLD)
    store.place("d/other", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("d")
        store.fail("put", DOWN, times=down)
        await leave(kernel, "d/old", b"new")
        yield kernel, store


def only(kernel: Kernel) -> Kept:
    (kept,) = kernel.fs.failed.find([])
    assert isinstance(kept, Kept)
    return kept


async def in_bucket(kernel: Kernel, store: MemoryStore) -> bytes:
    await trio.testing.wait_all_tasks_blocked()
    return store.body("d/old")


@run_virtual
async def test_what_is_kept_says_since_when_why_and_when_it_is_tried_next(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, store):
        kept = only(kernel)
        assert (kept.inode.path, kept.tries, kept.staged_bytes, str(kept.error)) == ("d/old", 1, 3, "500")
        await trio.testing.wait_all_tasks_blocked()
        assert kept.next_at == trio.current_time() + closing.RETRY_FIRST_SECONDS
        with pytest.raises(Unavailable):
            await kernel.open("d/old")
        await trio.sleep(1000)
        assert kept.tries == 22
        assert kept.next_at is not None
        assert kept.next_at <= trio.current_time() + closing.RETRY_MAX_SECONDS
        assert await in_bucket(kernel, store) == OLD
        store.heal()
        await trio.sleep(closing.RETRY_MAX_SECONDS)
        assert await in_bucket(kernel, store) == b"new" + OLD[3:]
        assert kept.outcome == "stored"
        assert kernel.fs.failed.find([]) == []
        assert await kernel.read("d/old") == b"new" + OLD[3:]


@run_virtual
async def test_a_change_of_a_few_bytes_in_a_file_larger_than_the_limit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "KEPT_BYTES_MAX", MIB)
    async with keeping(tmp_path) as (kernel, _):
        assert only(kernel).inode.path == "d/old"


@run_virtual
async def test_more_than_the_limit_is_dropped_and_its_place_is_free_again_once_others_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "KEPT_BYTES_MAX", 5)
    async with keeping(tmp_path) as (kernel, store):
        await leave(kernel, "d/other", b"yyy")
        assert only(kernel).inode.path == "d/old"
        kernel.expire()
        assert await kernel.read("d/other") == b"x"
        store.heal()
        await trio.sleep(100)
        store.fail("put", DOWN)
        await leave(kernel, "d/other", b"yyy")
        assert only(kernel).inode.path == "d/other"


@run_virtual
async def test_empty_files_have_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "KEPT_FILES_MAX", 2)
    async with keeping(tmp_path) as (kernel, _):
        for name in ("one", "two"):
            await kernel.write(name, b"")
        assert [kept.path for kept in kernel.fs.failed.find([])] == ["d/old", "one"]
        kernel.expire()
        assert sorted(await kernel.listdir()) == ["d", "one"]


@run_virtual
async def test_what_is_kept_goes_along_with_a_rename_of_it_and_of_its_directory(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, store):
        await kernel.rename("d/old", "d/moved")
        assert only(kernel).inode.path == "d/moved"
        store.heal()  # what is going to be moved is written down
        await kernel.rename("d", "e")
        assert only(kernel).inode.path == "e/moved"
        await kernel.fs.failed.retry(only(kernel))
        assert store.body("e/moved") == b"new" + OLD[3:]
        assert not [key for key in store.objects if key.startswith("d/")]


@run_virtual
async def test_a_try_at_once_tells_what_became_of_it_and_goes_on_without_who_asked(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, store):
        kept = only(kernel)
        await kernel.fs.failed.retry(kept)
        assert (kept.outcome, kept.tries) == (None, 2)
        store.heal()
        store.latency_seconds = 0.5
        with trio.move_on_after(0.1) as left:
            await kernel.fs.failed.retry(kept)
        assert left.cancelled_caught
        await trio.sleep(5)  # it fetches what was not changed, and stores
        assert kept.outcome == "stored"
        assert await in_bucket(kernel, store) == b"new" + OLD[3:]
        await kernel.fs.failed.retry(kept)  # it is over, and that is told at once


@run_virtual
async def test_what_is_dropped_gives_the_path_another_inode_with_the_old_content(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, store):
        before = await kernel.ino("d/old")
        kept = only(kernel)
        await kernel.fs.failed.drop(kept)
        assert kept.outcome == "dropped"
        kernel.expire()
        assert await kernel.read("d/old") == OLD
        assert await kernel.ino("d/old") != before
        store.heal()
        await trio.sleep(1000)
        assert store.body("d/old") == OLD


@run_virtual
async def test_a_file_that_was_never_stored_is_gone_when_it_is_dropped(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, _):
        await leave(kernel, "d/made", b"made")
        (kept,) = kernel.fs.failed.find(["d/made"])
        await kernel.fs.failed.drop(kept)
        kernel.expire()
        assert await kernel.listdir("d") == ["old", "other"]


@run_virtual
async def test_a_file_that_is_open_is_not_dropped(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, store):
        fh = await kernel.open("d/old", os.O_WRONLY)
        with pytest.raises(Busy):
            await kernel.fs.failed.drop(only(kernel))
        store.heal()
        await kernel.close(fh)
        assert await in_bucket(kernel, store) == b"new" + OLD[3:]


@run_virtual
async def test_a_file_that_is_opened_while_its_drop_waits_for_a_try_is_not_dropped(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, store):
        kept = only(kernel)
        store.latency_seconds = 2.0
        refused: list[Busy] = []

        async def drop() -> None:
            with pytest.raises(Busy) as caught:
                await kernel.fs.failed.drop(kept)
            refused.append(caught.value)

        async with trio.open_nursery() as nursery:
            await trio.sleep(1.5)  # a try is under way
            nursery.start_soon(drop)
            await trio.testing.wait_all_tasks_blocked()
            fh = await kernel.open("d/old", os.O_WRONLY)
        assert len(refused) == 1
        store.heal()
        await kernel.close(fh)
        assert await in_bucket(kernel, store) == b"new" + OLD[3:]


@run_virtual
async def test_a_drop_that_comes_while_a_try_succeeds_finds_the_file_stored(tmp_path: Path) -> None:
    async with keeping(tmp_path, down=1) as (kernel, store):
        kept = only(kernel)
        store.latency_seconds = 2.0
        await trio.sleep(1.5)
        await kernel.fs.failed.drop(kept)
        assert kept.outcome == "stored"
        assert await in_bucket(kernel, store) == b"new" + OLD[3:]


@run_virtual
async def test_what_is_kept_is_handed_out_as_the_program_has_left_it_until_it_is_not_kept_any_more(
    tmp_path: Path,
) -> None:
    async with keeping(tmp_path) as (kernel, store):
        failed, kept = kernel.fs.failed, only(kernel)
        whole = b""
        while len(whole) < len(OLD):
            again, data = await failed.read(kept.number, len(whole), MIB)
            assert again is kept
            whole += bytes(data)
        assert whole == b"new" + OLD[3:]
        store.heal()
        await failed.retry(kept)
        with pytest.raises(Stale):
            await failed.read(kept.number, 0, MIB)


@run_virtual
async def test_a_path_names_a_file_or_all_below_it_and_nothing_else(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, _):
        failed = kernel.fs.failed
        for path in ("made", "d/old2"):
            await leave(kernel, path, b"made")

        def names(*paths: str) -> list[str]:
            return [kept.path for kept in failed.find(paths)]

        assert names() == names("") == ["d/old", "made", "d/old2"]
        assert names("d/old") == ["d/old"]
        assert names("d", "d/old") == ["d/old", "d/old2"]
        for path in ("d/other", "ma", "x"):
            with pytest.raises(NoEntry):
                failed.find([path])


@run_virtual
async def test_a_program_may_take_over_what_is_kept(tmp_path: Path) -> None:
    """It stores it by its own close, or removes it; nobody else tries any more then."""
    async with keeping(tmp_path) as (kernel, store):
        kept = only(kernel)
        await leave(kernel, "made", b"made")
        (made,) = kernel.fs.failed.find(["made"])
        store.heal()
        await kernel.write("d/old", b"by a program")
        await kernel.unlink("made")
        assert kernel.fs.failed.find([]) == []
        await trio.sleep(100)
        assert (kept.outcome, made.outcome) == ("stored", "gone")
        assert await in_bucket(kernel, store) == b"by a program"
        assert store.counts["put"] == 3  # two that failed, and the program's


@run_virtual
async def test_what_another_client_has_changed_meanwhile_becomes_a_copy(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kernel, store):
        kept = only(kernel)
        store.heal()
        store.place("d/old", b"theirs")
        await kernel.fs.failed.retry(kept)
        assert kept.outcome == "conflict"
        assert isinstance(kept.error, Stale)
        assert store.body("d/old") == b"theirs"
        (copy,) = [key for key in store.objects if "/conflicts/" in key]
        assert store.body(copy).startswith(b"new")
        kernel.expire()
        assert await kernel.read("d/old") == b"theirs"


@run_virtual
async def test_a_permission_that_comes_back_stores_it_without_being_asked(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        store.fail("put", AccessDenied("403", status=403), times=3)
        await leave(kernel, "f", b"new")
        await trio.sleep(100)
        assert store.body("f") == b"new"
