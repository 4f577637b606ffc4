"""The write-back journal on a real directory: what was appended is there after a start, and room is given back."""

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from s3mount.errors import JournalFailed, Lost, StartError
from s3mount.writeback.operations import Place
from s3mount.writeback.oplog import OperationLog
from s3mount.writeback.records import Identity
from s3mount.writeback.replay import Replayed, replay
from tests.writeback_table import SmallTable

OURS = Identity("http://store", "bucket", "prefix/", os.getuid())
SMALL = 64 * 1024
"""Segments that a test fills."""


@asynccontextmanager
async def opened(directory: Path, identity: Identity = OURS, **options: Any) -> AsyncIterator[Replayed[SmallTable]]:
    """A journal that is closed in the end."""
    replayed = await replay(directory, identity, SmallTable, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(replayed.log.run)
        yield replayed
        await replayed.log.close()


def running(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        with trio.fail_after(60):
            await test()

    trio.run(run)


async def put(replayed: Replayed[SmallTable], key: str, body: bytes = b"", *, wait: bool = True) -> int:
    appended = await replayed.log.append({"put": key}, (body,), wait=wait)
    replayed.pending.apply(appended.seq, {"put": key}, appended.place)
    return appended.seq


async def done(replayed: Replayed[SmallTable], seq: int) -> None:
    await replayed.log.append({"done": seq}, wait=False)
    replayed.pending.end(seq)


async def body_of(log: OperationLog, place: Place | None) -> bytes:
    assert place is not None
    into = bytearray(place.size)
    await log.read(place, 0, memoryview(into))
    return bytes(into)


async def content(replayed: Replayed[SmallTable]) -> dict[str, bytes]:
    return {
        operation.key: b"".join([await body_of(replayed.log, piece.place) for piece in operation.content])
        for operation in replayed.pending.operations
    }


def test_what_was_appended_is_there_after_a_start(tmp_path: Path) -> None:
    bodies = {f"key ö {number}": os.urandom(number * 777) for number in range(40)}

    async def test() -> None:
        async with opened(tmp_path / "log", segment_bytes=SMALL) as first:
            async with trio.open_nursery() as nursery:
                for key, body in bodies.items():
                    nursery.start_soon(put, first, key, body)
            assert await content(first) == bodies
        for _ in range(2):
            async with opened(tmp_path / "log", segment_bytes=SMALL) as again:
                assert await content(again) == bodies
                assert again.damage is None

    running(test)


def test_the_names_of_the_directories_above_a_new_journal_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        fsync(fd)
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", noted)
    journal = tmp_path / "instances" / "one" / "write-back"
    journal.parent.mkdir(parents=True)

    async def test() -> None:
        async with opened(journal) as first:
            assert {str(journal.parent), str(journal.parent.parent), str(tmp_path)} <= set(synced)
            synced.clear()
            await put(first, "key")
            assert str(journal) in synced

    running(test)


def test_what_is_done_is_not_replayed_and_leaves_no_file(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path / "log", segment_bytes=SMALL) as first:
            seqs = [await put(first, f"{number}", os.urandom(10_000)) for number in range(40)]
            for seq in seqs[:-1]:
                await done(first, seq)
        async with opened(tmp_path / "log", segment_bytes=SMALL) as again:
            assert again.pending.keys == ["39"]
            await done(again, seqs[-1])
        assert os.listdir(tmp_path / "log") == []

    running(test)


def test_one_that_waits_for_ever_does_not_keep_what_came_after_it(tmp_path: Path) -> None:
    parked = os.urandom(5000)

    async def test() -> None:
        async with opened(tmp_path / "log", segment_bytes=SMALL) as first:
            await put(first, "parked", parked)
            for number in range(400):
                await done(first, await put(first, f"{number}", os.urandom(3000)))
            assert await content(first) == {"parked": parked}
        assert len(os.listdir(tmp_path / "log")) <= 5
        async with opened(tmp_path / "log", segment_bytes=SMALL) as again:
            assert await content(again) == {"parked": parked}

    running(test)


def test_a_body_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    large = os.urandom(5 * SMALL + 1)

    async def test() -> None:
        async with opened(tmp_path / "log", segment_bytes=SMALL) as first:
            await put(first, "small", b"1")
            await put(first, "large", large, wait=False)
            await put(first, "smaller", b"2")
        async with opened(tmp_path / "log", segment_bytes=SMALL) as again:
            assert await content(again) == {"small": b"1", "large": large, "smaller": b"2"}
            operation = list(again.pending.operations)[1]
            place = operation.content[0].place
            assert place is not None
            into = bytearray(1000)
            await again.log.read(place, 777, memoryview(into))
            assert into == large[777:1777]

    running(test)


def test_bytes_that_no_content_names_are_given_back_at_the_start(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path / "log") as first:
            await first.log.append({"bytes": "upload"}, (b"part",))
            await put(first, "key", b"body")
        async with opened(tmp_path / "log") as again:
            assert again.pending.keys == ["key"]
            assert again.log.figures["live"] == 1
            assert again.log.figures["held_bytes"] < 100

    running(test)


def test_bytes_that_were_given_up_are_lost(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path / "log") as first:
            appended = await first.log.append({"bytes": "upload"}, (b"part",))
            assert appended.place is not None
            first.log.free([appended.place])
            await put(first, "key", b"body")
            with pytest.raises(Lost):
                await body_of(first.log, appended.place)

    running(test)


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path / "log") as first:
            pass
        with pytest.raises(JournalFailed):
            await first.log.append({"put": "late"})

    running(test)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (Identity("http://other", "bucket", "prefix/", os.getuid()), "another bucket"),
        (Identity("http://store", "other", "prefix/", os.getuid()), "another bucket"),
        (Identity("http://store", "bucket", "other/", os.getuid()), "another bucket"),
        (Identity("http://store", "bucket", "prefix/", os.getuid() + 1), "belongs to user"),
    ],
)
def test_a_journal_of_somebody_else_is_refused_and_untouched(tmp_path: Path, theirs: Identity, words: str) -> None:
    directory = tmp_path / "log"

    async def test() -> None:
        async with opened(directory) as first:
            await put(first, "key", b"body")
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}
        with pytest.raises(StartError, match=words):
            async with opened(directory, theirs):
                pass
        assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()} == before

    running(test)


def test_a_flipped_byte_stops_the_replay_and_the_rest_is_kept_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    directory = tmp_path / "log"

    async def test() -> None:
        async with opened(directory) as first:
            await put(first, "before", b"1" * 100)
            await put(first, "hit", b"2" * 100)
            await put(first, "after", b"3" * 100)
        (path,) = directory.iterdir()
        raw = bytearray(path.read_bytes())
        raw[raw.index(b'{"put":"hit"}') + 3] ^= 1
        path.write_bytes(raw)
        async with opened(directory) as again:
            assert await content(again) == {"before": b"1" * 100}
            assert again.damage is not None
            assert again.damage.keys == ("after",)
            assert again.damage.kept is not None
            assert (again.damage.kept / path.name).read_bytes() == raw
            await put(again, "new", b"4")
        async with opened(directory) as later:
            assert later.damage is None
            assert await content(later) == {"before": b"1" * 100, "new": b"4"}

    running(test)
    assert any("was damaged" in record.getMessage() for record in caplog.records)
