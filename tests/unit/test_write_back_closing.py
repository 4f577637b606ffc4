"""The end of a mount that writes back, while something is on its way to the bucket."""

import logging
from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount.store.base import ABSENT, Headers
from tests.memory_store import Call, MemoryStore
from tests.running import run_trio
from tests.store.places import written_back

PLAIN = Headers(content_type="text/plain")


@run_trio
async def test_what_is_sent_when_the_journal_is_closed_is_recognised_by_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = MemoryStore(renaming="kept")
    stored, going_on = trio.Event(), trio.Event()

    async def answer_late(call: Call) -> None:
        if call.operation == "put" and not stored.is_set():
            stored.set()
            await going_on.wait()

    bucket.after = answer_late
    with caplog.at_level(logging.WARNING):
        async with written_back(bucket, tmp_path, write_back_delay_seconds=0.0) as opened:
            await opened.store.put("a", (b"one",), PLAIN, ABSENT)
            await stored.wait()
            going_on.set()
            await opened.close()
            await trio.testing.wait_all_tasks_blocked()
        async with written_back(bucket, tmp_path, write_back_delay_seconds=0.0) as opened:
            await opened.store.settle("a")
            assert opened.pending.idle
    assert bucket.body("a") == b"one"
    assert bucket.keys() == ["a"]
    assert not caplog.records
