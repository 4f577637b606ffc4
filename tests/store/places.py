"""The stores that the contract suite runs on: one fixture value each, the bucket behind it, what is known to differ.

A difference is named once, in DIFFERENCES, by server and test: the test is then expected to fail there, so that a
server which learns the rule is noticed.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from s3mount.config import GIB, MIB, Config
from s3mount.data.conflict import CopiesKept
from s3mount.store.abilities import as_s3_says
from s3mount.store.base import ObjectStore
from s3mount.store.outage import Outage
from s3mount.store.s3 import S3Store
from s3mount.writeback.opening import Opened, open_write_back
from tests.memory_store import MemoryStore
from tests.servers import Server

MOTO_COPIES = "moto ignores all conditions of CopyObject, UploadPartCopy"
PROVISIONAL_ETAGS = "etags are write-back's own, another for each version"
LOCAL_UPLOADS = "uploads to write-back stay on this host: no bucket lists them, and parts have any size"
MOTO_RENAMES = "moto takes RenameObject for a PUT of nothing"

DIFFERENCES: dict[tuple[str, str], str] = {
    ("moto", "test_a_copy_is_of_exactly_its_source"): MOTO_COPIES,
    ("moto", "test_a_copy_is_conditional_on_its_target"): MOTO_COPIES,
    ("moto", "test_a_part_is_copied_from_exactly_its_source"): MOTO_COPIES,
    ("moto", "test_a_completion_is_conditional_on_an_etag"): "moto ignores If-Match of CompleteMultipartUpload",
    ("moto", "test_a_key_over_1024_bytes_is_too_long"): "moto counts characters instead of bytes",
    ("moto", "test_parts_must_be_those_that_were_stored_and_in_order"): "moto accepts parts in any order",
    ("moto", "test_a_renamed_object_is_what_it_was_at_its_new_key_alone"): MOTO_RENAMES,
    ("moto", "test_a_rename_is_of_exactly_its_source"): MOTO_RENAMES,
    ("moto", "test_a_rename_is_conditional_on_its_target"): MOTO_RENAMES,
    (
        "moto",
        "test_a_list_of_uploads_tells_when_each_was_initiated",
    ): "moto tells the same time in 2010 for every upload",
    (
        "moto",
        "test_an_upload_that_was_aborted_is_gone_and_aborting_again_is_success",
    ): "moto answers 500 to a part of an upload that is gone",
    ("write-back", "test_what_is_put_is_read_back_with_all_its_headers"): PROVISIONAL_ETAGS,
    ("write-back", "test_the_parts_of_an_upload_are_listed_by_number_with_what_they_are"): PROVISIONAL_ETAGS,
    ("write-back", "test_an_upload_by_parts_appears_whole_when_it_is_completed"): LOCAL_UPLOADS,
    ("write-back", "test_parts_but_the_last_have_at_least_5_mib"): LOCAL_UPLOADS,
    ("write-back", "test_a_list_of_uploads_tells_when_each_was_initiated"): LOCAL_UPLOADS,
    ("write-back", "test_an_upload_that_was_aborted_is_gone_and_aborting_again_is_success"): LOCAL_UPLOADS,
    (
        "seaweedfs",
        "test_keys_come_in_utf8_order_across_directories",
    ): "SeaweedFS keeps a tree: a/x is listed right after a, before a! and a-b",
}
"""What a server does against the contract, by test."""


@dataclass
class Place:
    """One kind of store and a fresh bucket on it. `name` is memory, seaweedfs, moto or write-back, whose journal is in
    `directory` and whose bucket is in memory."""

    name: str
    bucket: str = "bucket"
    server: Server | None = None
    directory: Path | None = None
    memory: MemoryStore = field(default_factory=lambda: MemoryStore(renaming="kept"))

    @asynccontextmanager
    async def open(self, **options: object) -> AsyncIterator[ObjectStore]:
        """The store, running; `options` are fields of Config."""
        if self.directory is not None:
            async with written_back(self.memory, self.directory, **options) as opened_store:
                yield opened_store.store
            return
        if self.server is None:
            yield self.memory
            return
        async with opened(self.config(**options)) as store:
            yield store

    def config(self, **options: object) -> Config:
        assert self.server is not None
        base = Config(bucket=self.bucket, endpoint_url=self.server.endpoint_url, region=self.server.region)
        return replace(base, ca_bundle=self.server.ca, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def written_back(real: MemoryStore, directory: Path, **options: object) -> AsyncIterator[Opened]:
    """Write-back before a store in memory, its journal in `directory`."""
    config = replace(Config(bucket="bucket", write_back=True), **options)  # type: ignore[arg-type]  # as above
    async with trio.open_nursery() as nursery:
        opened = await open_write_back(
            real,
            config,
            directory,
            nursery,
            outage=Outage(real.now_ns),
            now_ns=real.now_ns,
            limit_bytes=GIB,
            memory_bytes=64 * MIB,
            copies_kept=CopiesKept(),
            find_out=as_s3_says,
        )
        yield opened
        await opened.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened(config: Config, clock_ns: Callable[[], int] | None = None) -> AsyncIterator[S3Store]:
    """An S3Store whose driver runs inside the block."""
    store = S3Store(config) if clock_ns is None else S3Store(config, clock_ns=clock_ns)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()
