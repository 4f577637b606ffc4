"""With a store that answers before the bucket has it, fsync and its like wait for the bucket: `ObjectStore.settle`."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from s3mount.config import Config
from s3mount.control import keeping_texts
from s3mount.control.keeping import Keeping
from s3mount.control.server import Progress
from s3mount.errors import AccessDenied, NoEntry, S3MountError, Stale, Unavailable
from s3mount.heartbeat import Heartbeat
from s3mount.inside import Inside
from s3mount.notify import Reports
from s3mount.stopping import Stopping
from s3mount.vfs.journaled import Journaled
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.journal_tables import Spool, Table

DENIED = AccessDenied("403, AccessDenied", status=403)


class SettlingStore(MemoryStore):
    """A bucket that has everything at once and says so when it is told to: `settled` has what was asked for."""

    def __init__(self) -> None:
        super().__init__(renaming="kept")
        self.settled: list[str] = []
        self.open = trio.Event()
        self.open.set()
        self.error: S3MountError | None = None

    async def settle(self, key: str) -> None:
        self.settled.append(key)
        await self.open.wait()
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error

    async def settle_below(self, prefix: str) -> None:
        await self.settle(f"{prefix}*")


@asynccontextmanager
async def journaling(tmp_path: Path, *refused: str) -> AsyncIterator[tuple[Kernel, SettlingStore, Table]]:
    """A mount, its bucket, and what waits: changes of the keys that are `refused`."""
    store, table = SettlingStore(), Table()
    spool = Spool(table)
    for key in refused:
        spool.park(table.add(key, 1), DENIED)
    store.place("d/")
    store.place("d/old", b"old")
    async with mounted(store, tmp_path) as kernel:
        kernel.fs._tree.journaled = Journaled(table, spool, "")
        yield kernel, store, table


@run_virtual
async def test_fsync_of_a_file_waits_for_its_key_and_close_does_not(tmp_path: Path) -> None:
    async with journaling(tmp_path) as (kernel, store, _), trio.open_nursery() as nursery:
        store.open = trio.Event()
        fh = await kernel.open("d/new", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"x")
        await kernel.fs.flush(fh)
        assert store.settled == []
        nursery.start_soon(kernel.fs.fsync, fh)
        await trio.testing.wait_all_tasks_blocked()
        assert store.settled == ["d/new"]
        assert nursery.child_tasks
        store.open.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks
        await kernel.close(fh)


@run_virtual
async def test_fsync_waits_for_the_name_that_the_file_has_now(tmp_path: Path) -> None:
    async with journaling(tmp_path) as (kernel, store, _):
        fh = await kernel.open("d/draft", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"x")
        await kernel.fs.flush(fh)
        await kernel.rename("d/draft", "final")
        await kernel.fs.fsync(fh)
        assert store.settled == ["final"]
        reader = await kernel.open("d/old")
        await kernel.rename("d", "e")
        await kernel.fs.fsync(reader)
        assert store.settled == ["final", "e/old"], "one that nothing was written to waits for what its rename owes"
        await kernel.fs.release(reader)
        await kernel.unlink("final")
        await kernel.fs.fsync(fh)
        assert store.settled[2:] == [], "of a file without a name nothing is to be in the bucket"
        await kernel.close(fh)


@run_virtual
@pytest.mark.parametrize("error", [DENIED, Stale("another client's")])
async def test_what_the_bucket_refuses_is_the_failure_of_fsync(tmp_path: Path, error: S3MountError) -> None:
    async with journaling(tmp_path) as (kernel, store, _):
        fh = await kernel.open("d/new", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"x")
        store.error = error
        for _ in range(2):
            with pytest.raises(type(error)):
                await kernel.fs.fsync(fh)
        store.error = None
        await kernel.fs.fsync(fh)
        await kernel.close(fh)


@run_virtual
async def test_fsync_of_a_directory_waits_for_what_is_below_it(tmp_path: Path) -> None:
    async with journaling(tmp_path) as (kernel, store, _):
        fh = await kernel.fs.opendir(await kernel.ino("d"))
        await kernel.fs.fsyncdir(fh)
        assert store.settled == ["d/*"]
        store.error = DENIED
        with pytest.raises(AccessDenied):
            await kernel.fs.fsyncdir(fh)
        store.error = None
        await kernel.unlink("d/old")
        await kernel.rmdir("d")
        await kernel.fs.fsyncdir(fh)
        assert store.settled == ["d/*"] * 2
        kernel.fs.releasedir(fh)
        with pytest.raises(NoEntry):
            await kernel.ino("d")


async def hands_over(_paths: list[str]) -> None:
    await trio.lowlevel.checkpoint()


async def synced(kernel: Kernel, progress: Progress, **request: object) -> dict[str, Any]:
    answer = await Keeping(kernel.fs, drain=hands_over).table()["sync"](request, progress)
    assert isinstance(answer, dict)
    return answer


@run_virtual
async def test_sync_waits_for_the_journal_and_names_what_the_bucket_refuses(tmp_path: Path) -> None:
    async with journaling(tmp_path, "d/refused") as (kernel, store, table), trio.open_nursery() as nursery:
        table.add("d/a", 1000)
        table.add("d/b", 24)
        store.open = trio.Event()
        progress = Progress()
        answers = []

        async def sync() -> None:
            answers.append(await synced(kernel, progress))

        nursery.start_soon(sync)
        await trio.testing.wait_all_tasks_blocked()
        assert progress.reach == (0, 3, {"bytes": 0, "bytes_total": 1025})
        del table.operations_of[1]
        assert progress.reach == (1, 3, {"bytes": 1000, "bytes_total": 1025})
        del table.operations_of[1]
        store.error = DENIED
        store.open.set()
    (answer,) = answers
    assert store.settled == ["*"]
    assert answer["failed"] == [{"path": "d/refused", "reason": "403, AccessDenied"}]
    assert answer["waiting"] == []
    assert answer["in_time"]
    assert list(keeping_texts.not_stored(answer, "")) == ["d/refused: 403, AccessDenied"]


@run_virtual
async def test_a_sync_that_is_not_waited_for_any_longer_names_what_waits(tmp_path: Path) -> None:
    async with journaling(tmp_path) as (kernel, store, table):
        for number in range(103):
            table.add(f"d/{number:03}", 1)
        store.open = trio.Event()
        answer = await synced(kernel, Progress(), timeout_seconds=5)
        assert not answer["in_time"]
        lines = list(keeping_texts.not_stored(answer, "5s"))
        assert lines[0] == "d/000: not stored within 5s; it goes on"
        assert lines[-1] == "3 others: not stored within 5s; it goes on"
        assert len(lines) == 101
        store.open.set()


@run_virtual
async def test_a_sync_of_an_empty_journal_waits_for_nothing(tmp_path: Path) -> None:
    async with journaling(tmp_path) as (kernel, store, _):
        store.open = trio.Event()
        answer = await synced(kernel, Progress())
        assert (answer["count"], answer["failed"]) == (0, [])
        assert store.settled == []


class Place:
    """As much of `Inside` as a stop touches."""

    life = "serving"


def stopping(seconds: float) -> Stopping:
    config = Config(bucket="b", stop_timeout_seconds=seconds)
    reports = Reports(None, Heartbeat())
    return Stopping(config, cast("Inside", Place()), reports, terminate=lambda: None)


@run_virtual
async def test_the_end_of_a_mount_sends_the_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with journaling(tmp_path) as (kernel, store, _):
        stop = stopping(60)
        began = trio.current_time()
        assert await stop.last_sync(kernel.fs) == began + 60
        assert trio.current_time() == began
        assert store.settled == ["*"]
        assert not stop.lost
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@run_virtual
async def test_what_waits_when_the_time_is_over_is_told_and_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with journaling(tmp_path) as (kernel, store, table):
        store.open = trio.Event()
        table.add("d/first one", 1000)
        table.add("d/second", 24)
        stop = stopping(60)
        began = trio.current_time()
        await stop.last_sync(kernel.fs)
        assert trio.current_time() == began + 60
        assert not stop.lost
        (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert said.endswith("changes=2 bytes=1024 example=d/first\\x20one")
        store.open.set()


@run_virtual
async def test_what_the_bucket_refuses_does_not_keep_a_mount_from_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with journaling(tmp_path) as (kernel, store, table):
        store.error = DENIED
        table.add("d/refused", 1)
        stop = stopping(60)
        began = trio.current_time()
        await stop.last_sync(kernel.fs)
        assert trio.current_time() == began
        assert not stop.lost
    assert "changes=1 bytes=1 example=d/refused" in caplog.text


@run_virtual
async def test_a_sync_that_an_outage_ends_says_so_beside_what_is_refused(tmp_path: Path) -> None:
    async with journaling(tmp_path, "d/refused") as (kernel, store, _):
        store.error = Unavailable("'d/refused' waits for the bucket: the store is unreachable")
        answer = await synced(kernel, Progress())
        assert list(keeping_texts.not_stored(answer, "")) == [
            "d/refused: 403, AccessDenied",
            "the mount: 'd/refused' waits for the bucket: the store is unreachable",
        ]
