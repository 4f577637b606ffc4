"""`s3mount sync`: all that is to be stored is, whoever waits for it, and whoever is told of a failure."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount.config import MIB
from s3mount.errors import AccessDenied, FileSystemError, Unavailable
from s3mount.vfs.attributes import PRIVILEGED, Changes
from s3mount.vfs.backlog import Backlog
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.files import pattern

DOWN = Unavailable("500", status=500)


class Drainer:
    """Has the kernel hand over nothing; notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def __call__(self, paths: list[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(paths)


async def stored(kernel: Kernel) -> Backlog:
    backlog = kernel.fs.backlog()
    await backlog.store(Drainer())
    return backlog


@asynccontextmanager
async def busy_mount(tmp_path: Path) -> AsyncIterator[tuple[Kernel, MemoryStore, int]]:
    """A mount with `open` written and open, `kept` to be tried again, `changed` held, and `gone0` ... to be deleted."""
    store = MemoryStore()
    for number in range(12):
        store.place(f"gone{number:02}", b"x")
    for name in ("changed", "proof"):
        store.place(name, b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir()
        for name in ("proof", "changed"):
            await kernel.fs.setattr(await kernel.ino(name), Changes(mode=0o600), None)
        store.fail("put", DOWN, key="kept")
        fh = await kernel.open("kept", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"kept")
        await kernel.fs.release(fh)
        writer = await kernel.open("open", os.O_RDWR | os.O_CREAT)
        await kernel.fs.write(writer, 0, b"open")
        for number in range(12):
            await kernel.unlink(f"gone{number:02}")
        assert "gone11" in store.objects
        yield kernel, store, writer


@run_virtual
async def test_files_attributes_and_deletions_are_in_the_bucket_when_it_returns(tmp_path: Path) -> None:
    async with busy_mount(tmp_path) as (kernel, store, writer):
        drainer = Drainer()
        backlog = kernel.fs.backlog()
        await backlog.store(drainer)
        assert (backlog.failures, backlog.waiting) == ([], [])
        assert backlog.done == backlog.total == 3 + 4
        assert (backlog.bytes_done, backlog.bytes_total) == (8, 8)
        assert drainer.asked == [["open"]]
        assert (store.body("open"), store.body("kept")) == (b"open", b"kept")
        assert store.objects["changed"].headers.metadata["mode"] == str(0o100600)
        assert not [key for key in store.objects if key.startswith("gone")]
        store.reset_counts()
        await kernel.close(writer)
        assert (await stored(kernel)).total == 0
        assert store.counts.total() == 0


@run_virtual
async def test_each_thing_that_failed_is_named_with_its_reason(tmp_path: Path) -> None:
    async with busy_mount(tmp_path) as (kernel, store, _):
        store.fail("put", DOWN, times=10)
        store.fail("copy", AccessDenied("403", status=403), key="changed", times=10)
        store.fail("delete_many", DOWN, times=10)
        backlog = await stored(kernel)
        reasons = {failure.path: failure.reason for failure in backlog.failures}
        assert reasons == {"open": "500", "kept": "500", "changed": "403"} | {
            f"gone{number:02}": "500" for number in range(8, 12)
        }
        store.heal()
        # What could not be deleted is there again, and what could not be changed is as it was; both were told.
        assert {path for path, _ in (await stored(kernel)).failures} == set()
        assert (store.body("open"), store.body("kept")) == (b"open", b"kept")


@run_virtual
async def test_a_failure_that_is_told_here_is_told_to_the_program_too(tmp_path: Path) -> None:
    async with busy_mount(tmp_path) as (kernel, store, writer):
        fh = await kernel.open("changed")
        store.fail("copy", AccessDenied("403", status=403), key="changed", times=10)
        store.fail("put", DOWN, key="open", times=2)
        await stored(kernel)
        with pytest.raises(AccessDenied):
            await kernel.fs.fsync(fh)
        with pytest.raises(Unavailable):
            await kernel.fs.fsync(writer)
        await kernel.close(writer)
        assert store.body("open") == b"open"


@run_virtual
async def test_a_failure_that_only_this_heard_of_does_not_lose_what_the_last_release_could_store(
    tmp_path: Path,
) -> None:
    async with busy_mount(tmp_path) as (kernel, store, writer):
        store.fail("put", DOWN, key="open")
        assert [failure.path for failure in (await stored(kernel)).failures] == ["open"]
        await kernel.fs.release(writer)
        await trio.testing.wait_all_tasks_blocked()
        assert store.body("open") == b"open"


@run_virtual
async def test_who_does_not_wait_any_longer_stops_no_upload(tmp_path: Path) -> None:
    async with busy_mount(tmp_path) as (kernel, store, _):
        store.latency_seconds = 10
        backlog = kernel.fs.backlog()
        with trio.move_on_after(5) as scope:
            await backlog.store(Drainer())
        assert scope.cancelled_caught
        assert backlog.waiting == ["changed", "deletions", "kept", "open"]
        await trio.sleep(60)
        assert backlog.waiting == []
        assert (store.body("open"), store.body("kept")) == (b"open", b"kept")
        assert [call.key for call in store.calls if call.operation == "put"].count("open") == 1


@run_virtual
async def test_an_fsync_by_who_asks_the_kernel_stores_nothing(tmp_path: Path) -> None:
    """So that all files are stored side by side, and no failure is told to nobody."""
    async with busy_mount(tmp_path) as (kernel, store, _):
        fh = await kernel.fs.open(await kernel.ino("open"), os.O_RDONLY, replace(PRIVILEGED, pid=77))
        store.reset_counts()
        with kernel.fs.drained_by(77):
            await kernel.fs.fsync(fh)
        assert store.counts.total() == 0
        await kernel.fs.fsync(fh)
        assert store.body("open") == b"open"


@run_virtual
async def test_a_file_that_is_renamed_meanwhile_is_asked_for_again(tmp_path: Path) -> None:
    async with busy_mount(tmp_path) as (kernel, store, writer):
        asked: list[list[str]] = []

        async def drain(paths: list[str]) -> None:
            asked.append(paths)
            if len(asked) == 1:
                await kernel.rename("open", "moved")
                await kernel.open("later", os.O_RDWR | os.O_CREAT)
            else:
                await kernel.fs.write(writer, 4, b" late")

        await kernel.fs.backlog().store(drain)
        assert asked == [["open"], ["moved"]]
        assert store.body("moved") == b"open late"


@run_virtual
async def test_a_kernel_that_could_not_be_asked_is_a_failure_and_the_rest_is_stored(tmp_path: Path) -> None:
    async with busy_mount(tmp_path) as (kernel, store, _):

        async def drain(_paths: list[str]) -> None:
            await trio.lowlevel.checkpoint()
            raise FileSystemError("no process could be started")

        backlog = kernel.fs.backlog()
        await backlog.store(drain)
        assert backlog.failures == [("", "no process could be started")]
        assert store.body("open") == b"open"


@run_virtual
async def test_parts_count_as_soon_as_they_are_sent(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=1.0)
    async with mounted(store, tmp_path, file_parts_max=1) as kernel:
        store.place("large", pattern(30 * MIB))
        fh = await kernel.open("large", os.O_RDWR)
        await kernel.fs.write(fh, 0, pattern(30 * MIB, 1))
        backlog = kernel.fs.backlog()
        reached = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backlog.store, Drainer())
            while not backlog.done:
                await trio.sleep(1)
                reached.append(backlog.bytes_done)
        assert sorted(reached) == reached
        assert {5 * MIB, 10 * MIB, 25 * MIB} <= set(reached)
        assert reached[-1] == backlog.bytes_total == 30 * MIB


@pytest.mark.parametrize("fails", [False, True])
@run_virtual
async def test_a_file_that_is_closed_while_the_kernel_is_asked_is_stored_or_named(tmp_path: Path, fails: bool) -> None:
    """What a mapping left dirty after the last flush only the release stores, and no program is told how that went."""
    async with busy_mount(tmp_path) as (kernel, store, writer), trio.open_nursery() as nursery:
        if fails:
            store.fail("put", DOWN, key="open", times=2)
        store.latency_seconds = 1.0

        async def drain(_paths: list[str]) -> None:
            await trio.sleep(10)  # all else is stored by now
            nursery.start_soon(kernel.fs.release, writer)
            await trio.sleep(1.5 if fails else 0.5)

        backlog = kernel.fs.backlog()
        await backlog.store(drain)
        assert [failure.path for failure in backlog.failures] == (["open"] if fails else [])
        assert ("open" in store.objects) is not fails
