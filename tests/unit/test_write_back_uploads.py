"""Uploads by parts that stay on this host: what of them is held, and what they name of other objects."""

from pathlib import Path

import pytest
import trio

from s3mount.errors import PreconditionFailed
from s3mount.store.base import ABSENT, Condition, Headers
from s3mount.writeback import aliases
from tests.memory_store import MemoryStore
from tests.running import run_trio
from tests.store.places import written_back

PLAIN = Headers(content_type="text/plain")


@run_trio
async def test_a_part_that_is_sent_anew_takes_no_more_room(tmp_path: Path) -> None:
    bucket = MemoryStore(renaming="kept")
    async with written_back(bucket, tmp_path, write_back_delay_seconds=0.0) as opened:
        store, pending = opened.store, opened.pending
        upload = await store.create_upload("a", PLAIN)
        for turn in range(9):
            await store.upload_part(upload, 1, (b"%d" % turn * 1000,))
            assert pending.bytes == 1000
        part = await store.upload_part(upload, 1, (b"9" * 1000,))
        last = await store.upload_part(upload, 2, (b"",))
        await store.complete_upload(upload, [part, last], ABSENT)
        await store.settle("a")
        assert bucket.body("a") == b"9" * 1000
        assert pending.idle


@run_trio
async def test_a_part_that_is_sent_anew_twice_at_once_is_held_once(tmp_path: Path) -> None:
    bucket = MemoryStore(renaming="kept")
    async with written_back(bucket, tmp_path, write_back_delay_seconds=0.0) as opened:
        store, pending = opened.store, opened.pending
        upload = await store.create_upload("a", PLAIN)
        async with trio.open_nursery() as nursery:
            for body in (b"one", b"two", b"six"):
                nursery.start_soon(store.upload_part, upload, 1, (body,))
        assert pending.bytes == 3
        await store.abort_upload(upload)
        assert pending.idle


@run_trio
async def test_an_upload_names_the_version_that_landed_while_it_took_long(tmp_path: Path) -> None:
    bucket = MemoryStore(renaming="kept")
    async with written_back(bucket, tmp_path, write_back_delay_seconds=0.1) as opened:
        store = opened.store
        base = await store.put("a", (b"one",), PLAIN, ABSENT)
        upload = await store.create_upload("a", PLAIN)
        first = await store.copy_part(upload, 1, "a", 0, 3, source_etag=base.etag)
        second = await store.upload_part(upload, 2, (b"two",))
        await store.settle("a")
        await store.complete_upload(upload, [first, second], Condition(etag=base.etag))
        await store.settle("a")
        assert bucket.body("a") == b"onetwo"


@run_trio
async def test_an_upload_of_a_version_that_nobody_knows_any_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliases, "LANDED_MAX", 1)
    bucket = MemoryStore(renaming="kept")
    async with written_back(bucket, tmp_path, write_back_delay_seconds=0.1) as opened:
        store = opened.store
        base = await store.put("a", (b"one",), PLAIN, ABSENT)
        upload = await store.create_upload("a", PLAIN)
        part = await store.copy_part(upload, 1, "a", 0, 3, source_etag=base.etag)
        await store.settle("a")
        await store.put("b", (b"two",), PLAIN, ABSENT)
        await store.settle("b")
        with pytest.raises(PreconditionFailed):
            await store.complete_upload(upload, [part])
        await store.abort_upload(upload)
