"""Questions of a mount that writes back which only the bucket can answer, when it goes away."""

from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount.errors import Unavailable
from s3mount.store.base import Headers
from tests.memory_store import Call, MemoryStore
from tests.running import run_trio
from tests.store.places import written_back

TAGGED = Headers(content_type="text/plain", tags="a=1")


@run_trio
async def test_what_is_asked_of_a_renamed_object_is_given_up_when_an_outage_is_told(tmp_path: Path) -> None:
    bucket = MemoryStore(renaming="kept")
    etag = bucket.place("a", b"one", TAGGED).etag
    async with written_back(bucket, tmp_path, write_back_delay_seconds=3600.0) as opened:
        store, outage = opened.store, opened.store._outage
        await store.rename("a", "b", source_etag=etag, source_size=3)
        assert (await store.head("b")).tag_count == 1
        assert await store.tags("b") == "a=1"

        async def hang(_call: Call) -> None:
            await trio.sleep_forever()

        bucket.before = hang
        asked = 0

        async def ask(question: object) -> None:
            nonlocal asked
            with pytest.raises(Unavailable):
                await question("b")  # type: ignore[operator]
            asked += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, store.head)
            nursery.start_soon(ask, store.tags)
            await trio.testing.wait_all_tasks_blocked()
            assert asked == 0
            outage.failed("refused", silent_seconds=0.0, usable_before=outage.usable, lasting=True)
            assert store.away
        assert asked == 2
        bucket.before = None
        outage.answered()
