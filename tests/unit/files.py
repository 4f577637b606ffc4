"""What the tests of File share: a storage on the in-memory store, and files in it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from s3mount.config import MIB, Config
from s3mount.data.file import File
from s3mount.data.storage import Storage
from s3mount.data.version import Version
from s3mount.store.abilities import FindOut, as_s3_says
from s3mount.store.base import ALWAYS, Body, Condition, Headers, Part, Stored, Upload
from tests.memory_store import MemoryStore, journal_of

PART = 5 * MIB


class InjectedBug(Exception):
    """What a test raises where nothing of the kind may be raised."""


class CheckingStore(MemoryStore):
    """A store that sends again at the very end: a body must not change while its request is in flight."""

    async def put(self, key: str, body: Body, headers: Headers, condition: Condition = ALWAYS) -> Stored:
        before = b"".join(body)
        try:
            return await super().put(key, body, headers, condition)
        finally:
            assert b"".join(body) == before

    async def upload_part(self, upload: Upload, number: int, body: Body) -> Part:
        before = b"".join(body)
        try:
            return await super().upload_part(upload, number, body)
        finally:
            assert b"".join(body) == before


async def inline(call: Callable[[], None]) -> None:
    """A worker thread for tests on a virtual clock."""
    await trio.lowlevel.checkpoint()
    call()


@asynccontextmanager
async def storage_on(
    store: MemoryStore, *, limit: int = 256 * MIB, directory: Path = Path("/nowhere"), **options: object
) -> AsyncIterator[Storage]:
    """A storage; after the block its budgets must be back at zero."""
    config = Config(bucket="b", **options)  # type: ignore[arg-type]  # names and values are the test's business
    async with storage_of(store, config, as_s3_says, limit=limit, directory=directory) as storage:
        yield storage


@asynccontextmanager
async def storage_of(
    store: MemoryStore,
    config: Config,
    find_out: FindOut,
    *,
    limit: int = 256 * MIB,
    directory: Path = Path("/nowhere"),
) -> AsyncIterator[Storage]:
    """As `storage_on`; `find_out` is asked what the store can do."""
    async with trio.open_nursery() as nursery:
        storage = Storage(
            store,
            config,
            nursery,
            staging_dir=directory,
            staging_limit_bytes=limit,
            journal=journal_of(store),
            run_in_thread=inline,
            find_out=find_out,
        )
        yield storage
        await trio.sleep(1000)
        resting(storage)


def resting(storage: Storage) -> None:
    """With no file open and nothing under way every budget is back at zero."""
    assert storage.budget.live_bytes == 0, storage
    assert storage.budget.reserved_bytes == 0, storage
    assert storage.budget.freeing == 0, storage
    assert storage.staging.chunks <= 1, storage
    assert storage.blocks._in_flight_bytes == 0, storage
    assert storage.loader._taken_bytes == 0
    assert not storage._offers
    assert storage._parts_ahead == 0
    assert len(storage.windows) == 0
    assert storage.buffers.used_bytes == storage.blocks.used_bytes + storage.staging.chunks_in_memory * MIB


def ignore(_file: File, _stored: Stored) -> None:
    return


def ignore_conflict(_file: File) -> None:
    return


def created(storage: Storage, key: str = "k") -> File:
    return File(storage, key, None, Headers(), on_stored=ignore, on_conflict=ignore_conflict)


def opened(storage: Storage, store: MemoryStore, key: str = "k") -> File:
    found = store.objects[key]
    base = Version(key, found.etag, len(found.body))
    return File(storage, key, base, found.headers, on_stored=ignore, on_conflict=ignore_conflict)


def pattern(size: int, seed: int = 0) -> bytes:
    block = bytes((index * 31 + seed) % 251 for index in range(251))
    return (block * (size // 251 + 1))[:size]
