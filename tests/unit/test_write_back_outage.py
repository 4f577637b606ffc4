"""A mount with write-back, on its real journal, whose bucket goes away and comes back: what programs see, and what the
bucket has in the end. Everything is known for no time at all, so that each look would ask the bucket if it could."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from s3mount.config import GIB, MIB, Config
from s3mount.data.conflict import CopiesKept
from s3mount.data.removals import Removals
from s3mount.data.storage import Storage
from s3mount.errors import Unavailable
from s3mount.store.abilities import as_s3_says
from s3mount.store.outage import Outage
from s3mount.vfs.filesystem import FileSystem
from s3mount.vfs.journaled import journaled_of
from s3mount.writeback.opening import open_write_back
from tests.kernel_model import Kernel
from tests.memory_store import MemoryStore, journal_of
from tests.paper import PaperInMemory
from tests.running import run_trio


class Bucket(MemoryStore):
    """Its outage is known at once, and over at once."""

    def __init__(self) -> None:
        super().__init__(renaming="kept")
        self.outage = Outage(self.now_ns)

    def go(self) -> None:
        self.away = True
        self.outage.failed("refused", silent_seconds=0.0, usable_before=self.outage.usable, lasting=True)

    def come_back(self) -> None:
        self.away = False
        self.outage.answered()


@asynccontextmanager
async def writing_back(bucket: Bucket, directory: Path, *, delay_seconds: float = 0.01) -> AsyncIterator[Kernel]:
    config = Config(
        bucket="bucket", write_back=True, metadata_ttl_seconds=0.0, negative_ttl_seconds=0.0, neighbour_ttl_seconds=0.0,
        write_back_delay_seconds=delay_seconds,
    )  # fmt: skip
    (directory / "staging").mkdir(exist_ok=True)
    async with trio.open_nursery() as nursery:
        opened = await open_write_back(
            bucket,
            config,
            directory / "write-back",
            nursery,
            outage=bucket.outage,
            now_ns=bucket.now_ns,
            limit_bytes=GIB,
            memory_bytes=64 * MIB,
            copies_kept=CopiesKept(),
            find_out=as_s3_says,
        )
        storage = Storage(
            opened.store, config, nursery, staging_dir=directory / "staging", staging_limit_bytes=GIB,
            journal=journal_of(bucket),
        )  # fmt: skip
        journaled = journaled_of(opened, config, bytes_max=GIB)
        fs = FileSystem(opened.store, storage, config, nursery, removals=Removals(PaperInMemory()), journaled=journaled)
        await fs.start()
        yield Kernel(fs, bucket)
        await opened.log.close()
        nursery.cancel_scope.cancel()


@run_trio
async def test_an_outage_is_worked_through_and_the_bucket_follows_when_it_is_over(tmp_path: Path) -> None:
    bucket = Bucket()
    for number in range(20):
        bucket.place(f"d/old{number:02}", b"old")
    async with writing_back(bucket, tmp_path) as kernel:
        await kernel.listdir("d")
        before = dict(bucket.objects)
        bucket.go()
        await kernel.mkdir("d/sub")
        for number in range(40):
            kernel.expire()
            await kernel.write(f"d/new{number:02}", b"%d" % number)
            await kernel.write(f"d/sub/{number:02}", b"sub %d" % number)
        for number in range(20):
            kernel.expire()
            await kernel.rename(f"d/new{number:02}", f"d/moved{number:02}", no_replace=True)
            await kernel.unlink(f"d/sub/{number:02}")
        await kernel.mkdir("draft")
        await kernel.write("draft/file", b"published")
        await kernel.rename("draft", "d/published")
        for number in range(10):
            kernel.expire()
            await kernel.unlink(f"d/old{number:02}")
            await kernel.rename(f"d/old{number + 10:02}", f"d/sub/old{number:02}")
        kernel.expire()
        names = [
            *(f"moved{number:02}" for number in range(20)),
            *(f"new{number:02}" for number in range(20, 40)),
            "published",
            "sub",
        ]
        assert await kernel.listdir("d") == names
        assert await kernel.read("d/moved07") == b"7"
        assert bucket.objects == before
        journaled = kernel.fs.journaled
        assert journaled is not None
        assert journaled.waiting.files > 0
        with pytest.raises(Unavailable):
            await kernel.read("d/sub/old00")
        bucket.come_back()
        await kernel.fs.settle_all()
        assert journaled.left is None
        kernel.expire()
        assert await kernel.listdir("d") == names
        expected = {f"d/moved{number:02}": b"%d" % number for number in range(20)}
        expected |= {f"d/new{number:02}": b"%d" % number for number in range(20, 40)}
        expected |= {f"d/sub/{number:02}": b"sub %d" % number for number in range(20, 40)}
        expected |= {f"d/sub/old{number:02}": b"old" for number in range(10)}
        expected["d/published/file"] = b"published"
        stored = {key: stored.body for key, stored in bucket.objects.items() if not key.endswith("/")}
        assert stored == expected
        for path, body in expected.items():
            assert await kernel.read(path) == body


@run_trio
async def test_fsync_brings_a_file_that_was_renamed_while_it_waited(tmp_path: Path) -> None:
    bucket = Bucket()
    async with writing_back(bucket, tmp_path, delay_seconds=3600.0) as kernel:
        fh = await kernel.open("draft", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"content")
        await kernel.fs.flush(fh)
        await kernel.rename("draft", "final")
        assert bucket.keys() == []
        await kernel.fs.fsync(fh)
        assert bucket.body("final") == b"content"
        assert bucket.keys() == ["final"]
        await kernel.close(fh)
        await kernel.mkdir("d")
        await kernel.write("d/file", b"x")
        assert bucket.keys() == ["final"]
        directory = await kernel.fs.opendir(await kernel.ino("d"))
        await kernel.fs.fsyncdir(directory)
        assert bucket.keys() == ["d/", "d/file", "final"]
        await kernel.rename("d/file", "away")
        assert bucket.keys() == ["d/", "d/file", "final"]
        await kernel.fs.fsyncdir(directory)
        assert bucket.keys() == ["away", "d/", "final"], "a name that has gone is gone from the bucket"
        kernel.fs.releasedir(directory)


@run_trio
async def test_a_start_over_a_journal_shows_what_waits_and_sends_it(tmp_path: Path) -> None:
    bucket = Bucket()
    bucket.place("d/old", b"old")
    async with writing_back(bucket, tmp_path, delay_seconds=3600.0) as kernel:
        await kernel.write("d/new", b"new")
        await kernel.unlink("d/old")
    assert bucket.keys() == ["d/old"]
    async with writing_back(bucket, tmp_path, delay_seconds=3600.0) as kernel:
        assert await kernel.listdir("d") == ["new"]
        assert await kernel.read("d/new") == b"new"
        backlog = kernel.fs.backlog()

        async def hands_over(_paths: list[str]) -> None:
            await trio.lowlevel.checkpoint()

        await backlog.store(hands_over)
        assert (backlog.failures, backlog.done, backlog.waiting) == ([], backlog.total, [])
        assert "d/old" not in bucket.objects
        assert bucket.body("d/new") == b"new"
