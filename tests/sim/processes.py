"""The life of one process of s3mount without kernel and boto3: its start, its rest, its end, and the start after."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from s3mount.config import Config
from s3mount.data.journal import Journal
from s3mount.data.leftovers import Leftovers
from s3mount.data.removals import Removals
from s3mount.data.storage import Storage
from s3mount.store.base import ObjectStore
from s3mount.vfs.filesystem import FileSystem
from tests.kernel_model import Kernel
from tests.memory_store import MemoryStore, journal_of
from tests.paper import PaperInMemory
from tests.unit.files import inline, resting

STAGING_LIMIT_BYTES = 1 << 30
OWNER = "0123456789abcdef"
REST_SECONDS = 1000.0
"""Longer than any background work of a process goes on when the store is well."""


@asynccontextmanager
async def process(store: ObjectStore, bucket: MemoryStore) -> AsyncIterator[Kernel]:
    """A process that reaches `bucket` through `store`, with the journal that `bucket` tells of its uploads. Leaving the
    block kills it."""
    config = Config(bucket="bucket")
    async with trio.open_nursery() as nursery:
        storage = Storage(
            store,
            config,
            nursery,
            staging_dir=Path("/nowhere"),
            staging_limit_bytes=STAGING_LIMIT_BYTES,
            journal=journal_of(bucket),
            run_in_thread=inline,
        )
        fs = FileSystem(store, storage, config, nursery, removals=Removals(PaperInMemory()), owner=OWNER)
        await fs.start()
        await fs.recover()
        yield Kernel(fs, bucket)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def next_start(store: ObjectStore, bucket: MemoryStore, paper: PaperInMemory) -> AsyncIterator[Kernel]:
    """The process that starts after another one, whose journal is on `paper`; what that one has left is removed."""
    journal = bucket.upload_log = Journal(paper)
    async with trio.open_nursery() as nursery, process(store, bucket) as kernel:
        await Leftovers(store, journal, Config(bucket="bucket"), nursery, now_ns=bucket.now_ns).recover()
        yield kernel


async def rest(kernel: Kernel) -> None:
    """Wait until nothing goes on; with no file open, every budget must be back at zero then."""
    await trio.sleep(REST_SECONDS)
    resting(kernel.fs._tree.storage)
    kernel.expire()
