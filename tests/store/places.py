"""The stores that the contract suite runs on: one fixture value each, the bucket behind it, what is known to differ.

A difference is named once, in DIFFERENCES, by server and test: the test is then expected to fail there, so that a
server which learns the rule is noticed.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from s3mount.config import Config
from s3mount.store.base import ObjectStore
from s3mount.store.s3 import S3Store
from tests.memory_store import MemoryStore
from tests.servers import Server

MOTO_COPIES = "moto ignores all conditions of CopyObject, UploadPartCopy"
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
    (
        "seaweedfs",
        "test_keys_come_in_utf8_order_across_directories",
    ): "SeaweedFS keeps a tree: a/x is listed right after a, before a! and a-b",
}
"""What a server does against the contract, by test."""


@dataclass
class Place:
    """One kind of store and a fresh bucket on it. `name` is memory, seaweedfs or moto."""

    name: str
    bucket: str = "bucket"
    server: Server | None = None
    memory: MemoryStore = field(default_factory=lambda: MemoryStore(renaming="kept"))

    @asynccontextmanager
    async def open(self, **options: object) -> AsyncIterator[ObjectStore]:
        """The store, running; `options` are fields of Config."""
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
async def opened(config: Config, clock_ns: Callable[[], int] | None = None) -> AsyncIterator[S3Store]:
    """An S3Store whose driver runs inside the block."""
    store = S3Store(config) if clock_ns is None else S3Store(config, clock_ns=clock_ns)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()
