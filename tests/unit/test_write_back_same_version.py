"""Versions that keep their etag while the same file is changed once more, and those that nobody knows any more."""

from pathlib import Path

import pytest
import trio

from s3mount.errors import NotFound, PreconditionFailed
from s3mount.store.base import ABSENT, ALWAYS, Condition, Headers
from s3mount.writeback import aliases
from s3mount.writeback.opening import Opened
from tests.memory_store import Call, MemoryStore
from tests.running import run_trio
from tests.store.places import written_back

PLAIN = Headers(content_type="text/plain")
HTML = Headers(content_type="text/html")


async def bytes_of(opened: Opened, key: str) -> bytes:
    into = memoryview(bytearray(3))
    await opened.store.get(key, 0, into)
    return bytes(into)


class Gate:
    """A bucket whose first request of a kind takes until it is opened."""

    def __init__(self, bucket: MemoryStore, operation: str) -> None:
        self.reached, self.opened = trio.Event(), trio.Event()
        self._operation = operation
        bucket.before = self._wait

    async def _wait(self, call: Call) -> None:
        if call.operation == self._operation and not self.reached.is_set():
            self.reached.set()
            await self.opened.wait()


@run_trio
async def test_a_file_is_described_anew_while_it_is_sent(tmp_path: Path) -> None:
    bucket = MemoryStore(renaming="kept")
    async with written_back(bucket, tmp_path, write_back_delay_seconds=0.0) as opened:
        store = opened.store
        gate = Gate(bucket, "put")
        stored = await store.put("a", (b"one",), PLAIN, ABSENT)
        await gate.reached.wait()
        again = await store.copy("a", "a", source_etag=stored.etag, source_size=3, headers=HTML)
        await store.copy("a", "a", source_etag=again.etag, source_size=3, headers=PLAIN)
        gate.opened.set()
        await store.settle("a")
        assert bucket.objects["a"].headers.content_type == "text/plain"
        assert await bytes_of(opened, "a") == b"one"


@run_trio
async def test_an_object_of_the_bucket_is_described_anew_twice_at_once(tmp_path: Path) -> None:
    bucket = MemoryStore(renaming="kept")
    etag = bucket.place("a", b"one").etag
    async with written_back(bucket, tmp_path, write_back_delay_seconds=0.0) as opened:
        store = opened.store
        gate = Gate(bucket, "copy")
        again = await store.copy("a", "a", source_etag=etag, source_size=3, headers=HTML)
        await gate.reached.wait()
        await store.copy("a", "a", source_etag=again.etag, source_size=3, headers=PLAIN)
        gate.opened.set()
        await store.settle("a")
        assert bucket.objects["a"].headers.content_type == "text/plain"


@run_trio
async def test_a_file_is_renamed_there_and_back_while_it_is_sent(tmp_path: Path) -> None:
    bucket = MemoryStore(renaming="kept")
    async with written_back(bucket, tmp_path, write_back_delay_seconds=0.0) as opened:
        store = opened.store
        gate = Gate(bucket, "put")
        stored = await store.put("a", (b"one",), PLAIN, ABSENT)
        await gate.reached.wait()
        for source, target in (("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")):
            await store.rename(source, target, source_etag=stored.etag, source_size=3)
        assert await bytes_of(opened, "a") == b"one"
        assert (await store.head("a")).etag == stored.etag
        with pytest.raises(NotFound):
            await store.head("b")
        gate.opened.set()
        await store.settle_below("")
        assert {key: stored.body for key, stored in bucket.objects.items()} == {"a": b"one"}
        assert (await store.head("a")).etag == stored.etag
        assert opened.pending.idle


@run_trio
async def test_a_version_whose_name_nobody_remembers_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliases, "LANDED_MAX", 1)
    bucket = MemoryStore(renaming="kept")
    async with written_back(bucket, tmp_path, write_back_delay_seconds=0.0) as opened:
        store = opened.store
        stored = await store.put("a", (b"one",), PLAIN, ABSENT)
        await store.settle("a")
        await store.put("b", (b"two",), PLAIN, ABSENT)
        await store.settle("b")
        then = Condition(etag=stored.etag)
        with pytest.raises(PreconditionFailed):
            await store.delete("a", then)
        with pytest.raises(PreconditionFailed):
            await store.put("a", (b"new",), PLAIN, then)
        with pytest.raises(PreconditionFailed):
            await store.rename("a", "c", source_etag=stored.etag, source_size=3)
        with pytest.raises(PreconditionFailed):
            await store.copy("a", "c", source_etag=stored.etag, source_size=3, condition=ALWAYS)
        (left,) = await store.delete_many([("a", stored.etag)])
        assert isinstance(left.error, PreconditionFailed)
        await store.delete("a", Condition(etag=(await store.head("a")).etag))
        await store.settle("a")
        assert bucket.keys() == ["b"]
