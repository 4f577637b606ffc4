"""What storing a file costs: exact requests and bytes, counted on the in-memory store, probes not among them."""

import pytest

from s3mount.config import GIB, KIB, MIB
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.files import PART, created, opened, pattern, storage_on

BLOCK = 128 * KIB


def large(size: int) -> bytes:
    return pattern(MIB) * (size // MIB)


@run_virtual
async def test_a_small_file_is_one_put() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        await file.write(0, pattern(16 * KIB))
        await file.flush()
        await file.sync()
        file.close()
    assert store.counts == {"put": 1}
    assert store.sent_bytes == 16 * KIB


@run_virtual
async def test_opening_and_closing_without_a_change_sends_nothing() -> None:
    store = MemoryStore()
    store.place("k", pattern(10 * KIB))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_writing()
        await file.flush()
        await file.sync()
        file.close()
    assert store.counts == {"head": 1}


@pytest.mark.parametrize("offset", [0, 3 * MIB, 100 * MIB + 77, 256 * MIB - 4 * KIB])
@run_virtual
async def test_an_edit_of_4_kib_in_256_mib_sends_about_a_part(offset: int) -> None:
    store = MemoryStore()
    before = large(256 * MIB)
    store.place("k", before)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_writing()
        await file.write(offset, b"E" * 4 * KIB)
        await file.flush()
        file.close()
    assert store.body("k") == before[:offset] + b"E" * 4 * KIB + before[offset + 4 * KIB :]
    copies = sum(1 for low, high in ((0, offset), (offset + 4 * KIB, 256 * MIB)) if high - low > PART)
    at_the_end = offset > 256 * MIB - PART
    sent = 256 * MIB - offset if at_the_end else PART
    assert store.sent_bytes == sent
    assert store.received_bytes <= sent + 2 * BLOCK
    reads = 0 if sent == 4 * KIB else 2 if 0 < offset < PART else 1  # one at each rim that is in the part sent
    assert store.counts.pop("get", 0) == reads
    assert store.counts.total() <= 10
    assert store.counts == {"head": 1, "create_upload": 1, "copy_part": copies, "upload_part": 1, "complete_upload": 1}


@run_virtual
async def test_an_append_of_4_kib_to_256_mib_sends_4_kib() -> None:
    store = MemoryStore()
    store.place("k", large(256 * MIB))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_writing()
        await file.write(256 * MIB, b"A" * 4 * KIB)
        await file.flush()
        file.close()
    assert store.body("k") == large(256 * MIB) + b"A" * 4 * KIB
    assert store.counts == {"head": 1, "create_upload": 1, "copy_part": 1, "upload_part": 1, "complete_upload": 1}
    assert store.sent_bytes == 4 * KIB
    assert store.received_bytes == 0


@run_virtual
async def test_a_hundred_appends_each_with_fsync_send_what_was_appended() -> None:
    """100 times 1 KiB: 100 KiB sent, nothing read, four requests each, whatever the size up to 5 GiB."""
    store = MemoryStore()
    store.place("k", large(16 * MIB))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_writing()
        for index in range(100):
            await file.write(16 * MIB + index * KIB, bytes([index]) * KIB)
            await file.sync()
        file.close()
    assert store.body("k") == large(16 * MIB) + b"".join(bytes([index]) * KIB for index in range(100))
    assert store.sent_bytes == 100 * KIB
    assert store.received_bytes == 0
    each = {"create_upload": 100, "copy_part": 100, "upload_part": 100, "complete_upload": 100}
    assert store.counts == {"head": 1, **each}


@run_virtual
async def test_fsync_in_mid_stream_sends_each_byte_once() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        for turn in range(4):
            for index in range(20):
                await file.write((turn * 20 + index) * MIB, pattern(MIB))
            await file.sync()
            assert store.sent_bytes == (turn + 1) * 20 * MIB
        file.close()
    assert store.body("k") == large(80 * MIB)
    assert store.received_bytes == 0
    assert store.counts == {"create_upload": 4, "upload_part": 16, "copy_part": 3, "complete_upload": 4}


@run_virtual
async def test_a_hole_of_a_gibibyte_needs_no_staging() -> None:
    """`truncate -s 1G` of a new file: the zeros are sent, nothing is kept anywhere."""
    store = MemoryStore()

    async def look(call: Call) -> None:
        assert storage.budget.live_bytes == 0
        assert storage.staging.chunks == 0
        assert storage.loader._taken_bytes == 0

    async with storage_on(store) as storage:
        store.before = look
        file = created(storage)
        await file.truncate(GIB)
        await file.sync()
        file.close()
    assert len(store.body("k")) == GIB
    assert store.sent_bytes == GIB
    assert store.received_bytes == 0
    assert store.body("k").count(0) == GIB
