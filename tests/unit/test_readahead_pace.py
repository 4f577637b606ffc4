"""How fast a large file is read over links of several kinds, by a virtual clock: which GETs go out when decides it."""

from collections.abc import Callable

import trio

from s3mount.config import GIB, MIB
from s3mount.data.file import File
from s3mount.data.version import Version
from s3mount.store.base import Headers, ObjectInfo
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.files import ignore, ignore_conflict, storage_on

PIECE_BYTES = 256 * 1024
READ_BYTES = 1 * MIB
READ_SECONDS = READ_BYTES / 2e9
"""What the kernel and the program take for a read."""
EIGHT_THREADS = 8 * 8 * MIB / (8 * MIB / 60e6 + 0.02)
"""What eight threads reach 20 ms away, at 60 MB/s a connection, in GETs of 8 MiB: 420 MB/s."""


class Link(MemoryStore):
    """One large object at the end of a link: each GET waits `latency`, then brings `rate(GETs under way)` a second.
    What the bytes are does not matter here."""

    def __init__(self, latency: float, rate: Callable[[int], float], size: int) -> None:
        super().__init__()
        self.latency, self.rate, self.size = latency, rate, size
        self.under_way = self.most = 0
        self.ranges: list[tuple[int, int]] = []

    async def get(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        version_id: str | None = None,
        arrived: Callable[[int], None] | None = None,
    ) -> ObjectInfo | None:
        assert arrived is not None
        self.ranges.append((start, start + len(into)))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await trio.sleep(self.latency)
        for stop in range(PIECE_BYTES, len(into) + PIECE_BYTES, PIECE_BYTES):
            await trio.sleep(PIECE_BYTES / self.rate(self.under_way))
            arrived(min(stop, len(into)))
        self.under_way -= 1
        return ObjectInfo(key, self.size, "e", 0, 0)


async def pace(link: Link, *, readers: int = 1) -> float:
    """Bytes a second of a whole file read in sequence, by this many readers from places of their own."""
    began = trio.current_time()
    async with storage_on(link) as storage:
        base = Version("k", "e", link.size)
        file = File(storage, "k", base, Headers(), on_stored=ignore, on_conflict=ignore_conflict)

        async def read(start: int, stop: int) -> None:
            for offset in range(start, stop, READ_BYTES):
                assert len(await file.read(offset, READ_BYTES)) == READ_BYTES
                await trio.sleep(READ_SECONDS)
                assert storage.windows.held_bytes <= storage.config.memory_bytes // 4
                assert storage.blocks.used_bytes <= storage.config.memory_bytes // 2

        each = link.size // readers
        async with trio.open_nursery() as nursery:
            for number in range(readers):
                nursery.start_soon(read, number * each, (number + 1) * each)
        seconds = trio.current_time() - began
        file.close()
    covered = sorted(link.ranges)
    assert (covered[0][0], max(stop for _, stop in covered)) == (0, link.size)
    if readers == 1:
        assert [stop for _, stop in covered[:-1]] == [start for start, _ in covered[1:]], "each byte was asked for once"
    else:  # where one reader's window ends and the next one began, a block may be asked for by both
        assert sum(stop - start for start, stop in covered) < 1.02 * link.size
    return link.size / seconds


@run_virtual
async def test_a_link_with_a_rate_per_connection_is_read_faster_than_by_eight_threads() -> None:
    link = Link(0.02, lambda _count: 60e6, GIB)
    assert await pace(link) > 1.25 * EIGHT_THREADS
    assert 16 <= link.most <= 32


@run_virtual
async def test_four_streams_of_one_file_share_such_a_link() -> None:
    link = Link(0.02, lambda _count: 60e6, GIB)
    assert await pace(link, readers=4) > 1.25 * EIGHT_THREADS


@run_virtual
async def test_a_server_next_door_gets_few_large_requests() -> None:
    link = Link(0.0005, lambda count: 600e6 / count, GIB)
    assert await pace(link) > 0.95 * 600e6
    assert len(link.ranges) < 200
    assert link.most <= 12


@run_virtual
async def test_a_slow_and_distant_link_is_used_without_opening_all_lanes() -> None:
    link = Link(0.1, lambda count: min(10e6, 40e6 / count), GIB // 4)
    assert await pace(link) > 0.65 * 40e6
    assert link.most <= 12
