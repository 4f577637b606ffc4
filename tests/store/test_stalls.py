"""The block cache on a real wire: a GET that is swallowed on its way costs its reader a moment."""

import pytest
import trio

from s3mount.config import KIB, MIB, Config
from s3mount.data.blocks import BlockCache
from s3mount.data.buffers import Buffers
from s3mount.data.lanes import Lanes
from s3mount.data.version import Version
from s3mount.store.base import Headers
from s3mount.store.s3 import S3Store
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.store.places import opened

SIZE = 8 * MIB
BODY = bytes(range(251)) * (SIZE // 251 + 1)
STALL_SECONDS = 60.0
"""What the store itself waits before it gives a transfer up."""


def cache(store: S3Store, nursery: trio.Nursery) -> BlockCache:
    return BlockCache(
        store,
        nursery,
        Buffers(idle_max_bytes=32 * MIB),
        Lanes(),
        limit_bytes=64 * MIB,
        block_bytes=128 * KIB,
        get_max_bytes=8 * MIB,
        silence_max_seconds=2.0,
    )


@pytest.mark.parametrize("ahead", [False, True])
@run_trio
async def test_a_get_that_is_never_answered_is_asked_again_on_another_connection(
    *, ahead: bool, proxy: FaultProxy, bucket: str
) -> None:
    config = Config(
        bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1", stall_timeout_seconds=STALL_SECONDS
    )
    async with opened(config) as store, trio.open_nursery() as nursery:
        stored = await store.put("k", [BODY[:SIZE]], Headers())
        version = Version("k", stored.etag, SIZE)
        blocks = cache(store, nursery)
        for number in range(4):
            assert blocks.fetch_ahead(version, number * MIB, (number + 1) * MIB)
        assert bytes(await blocks.view(version, 0, 4 * MIB)) == BODY[: 4 * MIB]
        proxy.forget()
        proxy.add(Rule(fault="black_hole", kind="get", times=1))
        if ahead:
            assert blocks.fetch_ahead(version, 4 * MIB, 6 * MIB)
        with trio.fail_after(STALL_SECONDS / 2):
            assert bytes(await blocks.view(version, 4 * MIB, 6 * MIB)) == BODY[4 * MIB : 6 * MIB]
        asked = [request.range for request in proxy.requests()]
        assert asked == [f"bytes={4 * MIB}-{6 * MIB - 1}"] * 2
        assert blocks.figures["asked_again"] == 1
        # What was given up touches nothing any more: its memory is used for other bytes.
        blocks.forget(version)
        proxy.clear()
        assert bytes(await blocks.view(version, 6 * MIB, 8 * MIB)) == BODY[6 * MIB : 8 * MIB]
        assert store.counts["get"] == 4 + 2 + 1
        nursery.cancel_scope.cancel()
