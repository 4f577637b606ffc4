"""Removals whose reply was lost: what a later look finds decides, and until then nothing is given up or mixed."""

import os
from pathlib import Path

import pytest
import trio

from s3mount.config import MIB
from s3mount.data.conflict import CONFLICTS
from s3mount.errors import LostReply, NoEntry, Stale
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.files import opened, pattern, storage_on

ORPHANS = ".s3mount/orphans/"
SIZES = pytest.mark.parametrize("size", [3 * MIB, 24 * MIB], ids=["staged", "copied"])
VERSIONS = pytest.mark.parametrize("versioned", [False, True])


@run_virtual
async def test_an_unlink_in_doubt_never_mixes_the_old_object_into_a_stream_whose_parts_were_dropped() -> None:
    store = MemoryStore()
    size = 60 * MIB
    store.place("k", pattern(size, 1))
    async with storage_on(store, limit=20 * MIB) as storage:
        file = opened(storage, store)
        await file.overwrite()
        body = pattern(size, 2)
        for offset in range(0, size, MIB):
            await file.write(offset, body[offset : offset + MIB])
        stream = file._syncing.stream
        assert stream is not None
        assert stream.dropped
        store.fail("delete", LostReply("?"))
        with pytest.raises(LostReply):
            await file.unlink()
        await file.flush()
        assert store.body("k") == body
        file.close()
    assert not store.uploads


async def unlink_in_doubt(store: MemoryStore, kernel: Kernel, *, effect: bool) -> tuple[int, bytes]:
    """The handle of an edited file whose unlink got no reply, and what it shows."""
    both = await kernel.open("f", os.O_RDWR)
    await kernel.fs.write(both, 5, b"edit")
    expected = store.body("f")[:5] + b"edit" + store.body("f")[9:]
    store.fail("delete", LostReply("?"), key="f", when="after" if effect else "before")
    with pytest.raises(LostReply):
        await kernel.unlink("f")
    assert ("f" in store.objects) is not effect
    assert await kernel.pread(both, 0, 1 << 30) == expected
    return both, expected


@SIZES
@VERSIONS
@pytest.mark.parametrize("effect", [False, True])
@run_virtual
async def test_an_unlink_in_doubt_keeps_the_content_until_it_is_known_and_the_next_flush_stores_it(
    tmp_path: Path, size: int, versioned: bool, effect: bool
) -> None:
    store = MemoryStore(versioned=versioned)
    store.place("f", pattern(size))
    async with mounted(store, tmp_path) as kernel:
        both, expected = await unlink_in_doubt(store, kernel, effect=effect)
        await kernel.fs.fsync(both)
        assert store.body("f") == expected
        assert await kernel.pread(both, 0, 1 << 30) == expected
        await kernel.close(both)
        await trio.sleep(10)
        assert store.keys() == ["f"]


@SIZES
@VERSIONS
@pytest.mark.parametrize("effect", [False, True])
@run_virtual
async def test_an_unlink_in_doubt_that_is_tried_again_leaves_an_orphan(
    tmp_path: Path, size: int, versioned: bool, effect: bool
) -> None:
    store = MemoryStore(versioned=versioned)
    store.place("f", pattern(size))
    async with mounted(store, tmp_path) as kernel:
        both, expected = await unlink_in_doubt(store, kernel, effect=effect)
        await kernel.unlink("f")
        assert await kernel.pread(both, 0, 1 << 30) == expected
        await kernel.fs.fsync(both)
        await kernel.close(both)
        await trio.sleep(10)
        assert store.keys() == []


@SIZES
@run_virtual
async def test_an_open_after_an_unlink_in_doubt_sees_whether_the_name_is_there(tmp_path: Path, size: int) -> None:
    for effect in (False, True):
        for flags in (os.O_RDONLY, os.O_RDWR):
            store = MemoryStore()
            store.place("f", pattern(size))
            async with mounted(store, tmp_path) as kernel:
                reader = await kernel.open("f")
                store.fail("delete", LostReply("?"), key="f", when="after" if effect else "before")
                with pytest.raises(LostReply):
                    await kernel.unlink("f")
                if effect:
                    with pytest.raises(NoEntry):
                        await kernel.open("f", flags)
                else:
                    await kernel.close(await kernel.open("f", flags))
                assert await kernel.pread(reader, 0, 1 << 30) == pattern(size)
                await kernel.close(reader)
                await trio.sleep(10)
                assert store.keys() == ([] if effect else ["f"])


@run_virtual
async def test_an_orphan_is_opened_for_writing_without_asking_for_its_former_key(tmp_path: Path) -> None:
    """As by `>> /proc/PID/fd/N`."""
    for size in (3 * MIB, 24 * MIB):
        store = MemoryStore()
        store.place("f", pattern(size))
        async with mounted(store, tmp_path) as kernel:
            ino = await kernel.ino("f")
            reader = await kernel.open("f")
            await kernel.unlink("f")
            store.reset_counts()
            writer = await kernel.fs.open(ino, os.O_WRONLY | os.O_APPEND)
            assert store.counts["head"] == 0
            await kernel.fs.write(writer, size, b"tail")
            assert await kernel.pread(reader, 0, 1 << 30) == pattern(size) + b"tail"
            await kernel.close(writer)
            await kernel.close(reader)


@SIZES
@VERSIONS
@pytest.mark.parametrize("effect", [False, True])
@run_virtual
async def test_a_rename_over_an_open_file_that_is_in_doubt_loses_none_of_its_content(
    tmp_path: Path, size: int, versioned: bool, effect: bool
) -> None:
    store = MemoryStore(versioned=versioned)
    store.place("f", pattern(size))
    store.place("other", b"new")
    async with mounted(store, tmp_path) as kernel:
        both = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(both, 5, b"edit")
        expected = store.body("f")[:5] + b"edit" + store.body("f")[9:]
        store.fail("copy", LostReply("?"), key="f", when="after" if effect else "before")
        with pytest.raises(LostReply):
            await kernel.rename("other", "f")
        assert await kernel.pread(both, 0, 1 << 30) == expected
        if effect:
            with pytest.raises(Stale):
                await kernel.fs.fsync(both)
            [copy] = store.keys(CONFLICTS)
            assert (store.body("f"), store.body(copy)) == (b"new", expected)
            with pytest.raises(Stale):
                await kernel.close(both)
        else:
            await kernel.fs.fsync(both)
            assert store.body("f") == expected
            assert await kernel.pread(both, 0, 1 << 30) == expected
            await kernel.close(both)
        await trio.sleep(10)
        assert store.keys(ORPHANS) == []
        assert store.body("other") == b"new"
