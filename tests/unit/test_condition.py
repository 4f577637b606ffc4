"""The line that a service manager shows of a mount."""

import os
from pathlib import Path

from s3mount.errors import AccessDenied, Unavailable
from s3mount.vfs.condition import Condition
from s3mount.vfs.journaled import Journaled
from tests.kernel_model import mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.journal_tables import Spool, Table
from tests.unit.test_deleting import filled, unlink_all


@run_virtual
async def test_a_file_counts_from_its_first_byte_until_it_is_in_the_bucket(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        seen = []

        async def look(call: Call) -> None:
            if call.operation == "put":
                seen.append(kernel.fs.condition)

        store.before = look
        assert str(kernel.fs.condition) == "everything written is in the bucket"
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"content")
        assert kernel.fs.condition == Condition(unstored=1)
        assert str(kernel.fs.condition) == "1 files not in the bucket yet, 0 being uploaded"
        await kernel.close(fh)
        assert seen == [Condition(unstored=1, uploading=1)]
        assert kernel.fs.condition == Condition()


@run_virtual
async def test_an_upload_that_failed_unseen_counts_until_it_has_succeeded(tmp_path: Path) -> None:
    """What RELEASE alone has stored, as after munmap, no program is told of."""
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        store.fail("put", Unavailable("the store answered 503", status=503))
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"content")
        await kernel.fs.release(fh)
        assert kernel.fs.condition == Condition(unstored=1, failing=1)
        assert str(kernel.fs.condition).endswith("; 1 uploads failed and are tried again")
        await kernel.fs.sync_all()
        assert store.body("f") == b"content"
        assert kernel.fs.condition == Condition()


@run_virtual
async def test_a_deletion_that_failed_after_it_was_answered_counts(tmp_path: Path) -> None:
    store = filled(20)
    store.undeletable["d/f0015"] = AccessDenied("403", status=403)
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        await kernel.fs.sync_all()
        assert kernel.fs.condition == Condition(failed=1)
        assert str(kernel.fs.condition).endswith("; 1 deletions or attributes failed, see s3mount status")


@run_virtual
async def test_what_waits_in_the_journal_is_not_said_to_be_in_the_bucket(tmp_path: Path) -> None:
    async with mounted(MemoryStore(), tmp_path) as kernel:
        table = Table()
        spool = Spool(table)
        kernel.fs._tree.journaled = Journaled(table, spool, "")
        assert str(kernel.fs.condition) == "everything written is in the bucket"
        table.add("a", 1)
        assert str(kernel.fs.condition) == "1 changes safe in the journal, not in the bucket yet"
        spool.park(table.add("b", 1), AccessDenied("403", status=403))
        assert kernel.fs.condition == Condition(waiting=2, refused=1)
        assert str(kernel.fs.condition).endswith("; 1 changes are refused by the bucket, see s3mount failed list")
