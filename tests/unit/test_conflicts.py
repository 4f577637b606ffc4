"""Two clients and one key: what the loser's file does, where its bytes go, and what programs see of the path."""

import logging
import os
import random
import re
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from s3mount.config import KIB, MIB, S3_KEY_MAX_BYTES, Config
from s3mount.data.conflict import CONFLICTS, PARTIAL, copy_key, sweep
from s3mount.data.file import File
from s3mount.errors import AccessDenied, Exists, LostReply, S3MountError, Stale, Unavailable
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.files import created, opened, pattern, storage_on

THEIRS = b"what another client has stored"
SECOND_NS = 1_000_000_000
DAY_SECONDS = 86400
NAME = re.compile(r"\.s3mount/conflicts/\d{8}T\d{6}Z-[0-9a-f]{8}/")


def copies(store: MemoryStore) -> dict[str, bytes]:
    """The conflict copies by the path that lost."""
    return {NAME.sub("", key, count=1): store.body(key) for key in store.keys(CONFLICTS)}


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def close_stale(kernel: Kernel, fh: int) -> None:
    with pytest.raises(Stale):
        await kernel.close(fh)


# Lost updates are impossible, whatever the pattern. Each opens and changes `f`, and returns how to close it and what
# the file is then.

Changed = tuple[Callable[[], Awaitable[None]], bytes]


async def write_to(kernel: Kernel, flags: int, offset: int, body: bytes) -> Callable[[], Awaitable[None]]:
    fh = await kernel.open("f", flags)
    await kernel.fs.write(fh, offset, body)
    await wait_all_tasks_blocked()  # a write asks for the small base it lies in
    return lambda: kernel.close(fh)


async def rewriting(kernel: Kernel) -> Changed:
    return await write_to(kernel, os.O_RDWR, 0, b"all of it anew"), b"all of it anew"


async def appending(kernel: Kernel) -> Changed:
    fh = await kernel.open("f", os.O_WRONLY | os.O_APPEND)
    await wait_all_tasks_blocked()  # the open asks for a small base
    return lambda: append_and_close(kernel, fh), b"the base and more"


async def append_and_close(kernel: Kernel, fh: int) -> None:
    """The kernel hands over what was written when the file is closed."""
    await kernel.fs.write(fh, 8, b" and more")
    await kernel.close(fh)


async def editing(kernel: Kernel) -> Changed:
    return await write_to(kernel, os.O_RDWR, 4, b"EDIT"), b"the EDIT"


async def cutting(kernel: Kernel) -> Changed:
    fh = await kernel.open("f", os.O_RDWR)
    assert await kernel.pread(fh, 0, 8) == b"the base"
    await kernel.ftruncate(fh, 3)
    return lambda: kernel.close(fh), b"the"


async def creating(kernel: Kernel) -> Changed:
    return await write_to(kernel, os.O_WRONLY | os.O_CREAT, 0, b"new"), b"new"


async def creating_exclusively(kernel: Kernel) -> Changed:
    return await write_to(kernel, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0, b"lock"), b"lock"


async def streaming(kernel: Kernel) -> Changed:
    fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    body = pattern(MIB)
    for number in range(17):
        await kernel.fs.write(fh, number * MIB, body)
        await trio.lowlevel.checkpoint()
    assert kernel.store.counts["create_upload"] == 1, "parts are sent while it is written"
    return lambda: kernel.close(fh), body * 17


async def renaming_over_before_it_is_stored(kernel: Kernel) -> Changed:
    fh = await kernel.open("new", os.O_WRONLY | os.O_CREAT)
    await kernel.fs.write(fh, 0, b"moved")
    await kernel.rename("new", "f")
    return lambda: kernel.close(fh), b"moved"


async def renaming_over(kernel: Kernel) -> Changed:
    fh = await kernel.open("new", os.O_WRONLY | os.O_CREAT)
    await kernel.fs.write(fh, 0, b"moved")
    await kernel.fs.fsync(fh)
    await kernel.rename("new", "f")
    await kernel.fs.write(fh, 5, b" and written")
    await wait_all_tasks_blocked()
    return lambda: kernel.close(fh), b"moved and written"


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize(
    ("pattern_of", "base"),
    [
        (rewriting, b"the base"),
        (appending, b"the base"),
        (editing, b"the base"),
        (cutting, b"the base"),
        (creating, None),
        (creating_exclusively, None),
        (streaming, None),
        (renaming_over_before_it_is_stored, b"the base"),
        (renaming_over, b"the base"),
    ],
)
@run_virtual
async def test_no_update_is_lost_whatever_the_pattern(
    tmp_path: Path, pattern_of: Callable[[Kernel], Awaitable[Changed]], base: bytes | None, removed: bool
) -> None:
    """The foreign object stays, the local content is in the conflict's copy, close answers ESTALE."""
    store = MemoryStore()
    if base is not None:
        store.place("f", base)
    async with mounted(store, tmp_path) as kernel:
        close, content = await pattern_of(kernel)
        if removed and base is not None:
            store.remove("f")
        else:
            store.place("f", THEIRS)
        foreign = store.objects.get("f")
        with pytest.raises(Stale):
            await close()
        assert store.objects.get("f") is foreign
        assert copies(store) == {"f": content}
        await wait_all_tasks_blocked()
        assert not store.uploads
        if foreign is None:
            with pytest.raises(Stale):
                await kernel.fs.open(await kernel.ino("f"), os.O_RDONLY)
            kernel.expire()
            assert not await kernel.exists("f")
        else:
            assert await kernel.read("f") == THEIRS
            assert await kernel.listdir() == ["f"]
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@run_virtual
async def test_a_truncate_by_path_that_meets_a_foreign_change_is_repeated_on_that(tmp_path: Path) -> None:
    """The VFS walks the path again on ESTALE; what the file would have been is kept all the same."""
    store = MemoryStore()
    store.place("f", b"the base")
    async with mounted(store, tmp_path) as kernel:

        async def change(call: Call) -> None:
            if call.operation == "put":
                store.before = None
                store.place("f", THEIRS)

        store.before = change
        await kernel.truncate("f", 4)
        assert store.body("f") == THEIRS[:4]
        assert copies(store) == {"f": b"the "}


@run_virtual
async def test_o_trunc_builds_on_nothing_and_wins(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"the base")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_TRUNC)
        await kernel.fs.write(fh, 0, b"mine")
        store.place("f", THEIRS)
        await kernel.close(fh)
        assert store.keys() == ["f"]
        assert store.body("f") == b"mine"


# the detached handle


@run_virtual
async def test_after_a_conflict_every_sync_answers_estale_and_later_writes_go_to_the_same_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.place("f", b"the base")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR)
        assert await kernel.pread(fh, 0, 100) == b"the base"
        other = await kernel.open("f", os.O_RDONLY)
        await kernel.fs.write(fh, 8, b" one")
        store.place("f", THEIRS)
        for call in (kernel.fs.flush, kernel.fs.fsync, kernel.fs.fsync, kernel.fs.flush):
            with pytest.raises(Stale):
                await call(fh)
        assert store.counts["put"] == 2, "what is stored is not stored again"
        assert copies(store) == {"f": b"the base one"}
        await kernel.fs.write(fh, 12, b" two")
        assert await kernel.pread(other, 0, 100) == b"the base one two"
        assert await kernel.read("f") == THEIRS, "who opens the path now gets what is there"
        with pytest.raises(Stale):
            await kernel.fs.fsync(fh)
        assert copies(store) == {"f": b"the base one two"}
        await kernel.fs.write(fh, 16, b" three")
        await kernel.fs.release(fh)
        await kernel.fs.release(other)
        assert copies(store) == {"f": b"the base one two three"}, "the last release has nobody to tell, but stores"
        assert store.body("f") == THEIRS
    [line] = errors(caplog)
    [copy] = store.keys(CONFLICTS)
    assert "key='f'" in line
    assert f"copy='{copy}'" in line
    assert "missing_bytes=0" in line


@run_virtual
async def test_nobody_joins_the_file_that_lost_its_path(tmp_path: Path) -> None:
    """The kernel may still send an OPEN of the old inode: it is sent round again, to the other client's object."""
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR | os.O_CREAT)
        ino = await kernel.ino("f")
        await kernel.fs.write(fh, 0, b"mine")
        store.place("f", THEIRS)
        with pytest.raises(Stale):
            await kernel.fs.fsync(fh)
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(Stale):
                await kernel.fs.open(ino, flags)
        assert await kernel.read("f") == THEIRS
        await kernel.write("f", b"on top of theirs")
        await kernel.unlink("f")
        assert await kernel.listdir() == []
        await kernel.fs.write(fh, 4, b"!")
        await close_stale(kernel, fh)
        assert copies(store) == {"f": b"mine!"}
        assert store.keys() == store.keys(CONFLICTS)


@run_virtual
async def test_an_open_that_waits_while_the_path_is_lost_does_not_join(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"the base")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("f")
        asked, parked = trio.Event(), trio.Event()
        outcomes: list[type[BaseException]] = []

        async def before(call: Call) -> None:
            if call.operation == "head" and not asked.is_set():
                asked.set()
                await parked.wait()

        async def truncating_open() -> None:
            try:
                await kernel.fs.open(ino, os.O_WRONLY | os.O_TRUNC)
            except S3MountError as error:
                outcomes.append(type(error))

        store.before = before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(truncating_open)
            await asked.wait()
            writer = await kernel.fs.open(ino, os.O_RDWR)
            await kernel.fs.write(writer, 0, b"mine, longer than the base")
            store.place("f", THEIRS)
            with pytest.raises(Stale):
                await kernel.fs.fsync(writer)
            await kernel.fs.release(writer)
            parked.set()
        assert outcomes == [Stale]
        await wait_all_tasks_blocked()
        assert copies(store) == {"f": b"mine, longer than the base"}
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@pytest.mark.parametrize("change", ["rename", "rename onto", "unlink"])
@run_virtual
async def test_a_name_that_changes_while_the_conflict_is_found_takes_nothing_along(tmp_path: Path, change: str) -> None:
    store = MemoryStore()
    store.place("f", b"the base")
    store.place("other", b"other")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(fh, 0, b"mine, longer than the base")
        store.place("f", THEIRS)
        store.latency_seconds = 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_stale, kernel, fh)
            await trio.sleep(0.5)
            if change == "rename":
                await kernel.rename("f", "g")
            elif change == "rename onto":
                await kernel.rename("other", "f")
            else:
                await kernel._twice(lambda: kernel.unlink("f"))
        assert copies(store) == {"f": b"mine, longer than the base"}
        expected = {"rename": {"g": THEIRS, "other": b"other"}, "rename onto": {"f": b"other"}}
        found = {key: stored.body for key, stored in store.objects.items() if not key.startswith(CONFLICTS)}
        assert found == expected.get(change, {"other": b"other"})


# copies that cannot be stored


@run_virtual
async def test_a_copy_that_cannot_be_stored_is_tried_again_by_the_next_sync(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"mine")
        store.place("f", THEIRS)
        store.fail("put", Unavailable("down"), skip=1, times=2)
        for _ in range(2):
            with pytest.raises(Stale):
                await kernel.fs.fsync(fh)
            assert copies(store) == {}
        assert kernel.fs.paths_not_stored() == ["f"]
        with pytest.raises(Stale):
            await kernel.fs.flush(fh)
        assert copies(store) == {"f": b"mine"}
        assert kernel.fs.paths_not_stored() == []
        await kernel.fs.release(fh)
    lines = errors(caplog)
    assert ["was not stored" in line for line in lines] == [True, True, False]
    assert "was kept" in lines[-1]


@pytest.mark.parametrize("told", [False, True])
@run_virtual
async def test_the_last_release_tries_once_more_and_then_says_that_the_bytes_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, told: bool
) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"mine")
        store.place("f", THEIRS)
        store.fail("put", Unavailable("down"), skip=1, times=1000)
        if told:
            await close_stale(kernel, fh)
        else:
            await kernel.fs.release(fh)
        assert store.counts["put"] == 3, "one for the key, one for the copy, one more"
        assert store.keys() == ["f"]
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1
    assert "file content dropped after a conflict path=f bytes=4" in errors(caplog)[-1]


@run_virtual
async def test_a_conflict_that_only_the_background_meets_keeps_the_content(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"mine")
        store.fail("put", Unavailable("down"))
        await kernel.fs.release(fh)
        store.place("f", THEIRS)
        await trio.sleep(100)
        assert copies(store) == {"f": b"mine"}
        assert await kernel.read("f") == THEIRS
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@run_virtual
async def test_a_mount_that_stops_keeps_the_content_of_a_conflict(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        one, two = [await kernel.open(name, os.O_WRONLY | os.O_CREAT) for name in ("one", "two")]
        for fh in (one, two):
            await kernel.fs.write(fh, 0, b"mine")
        store.place("one", THEIRS)
        assert await kernel.fs.sync_all() == [], "nothing is lost"
        store.place("two", b"mine")
        await kernel.fs.write(one, 4, b" too")
        assert kernel.fs.paths_open_for_writing() == ["one", "two"]
        assert await kernel.fs.sync_all() == []
        assert copies(store) == {"one": b"mine too"}


@run_virtual
async def test_a_copy_whose_reply_is_lost_is_stored_by_the_next_sync() -> None:
    store = MemoryStore()
    for when in ("before", "after"):
        async with storage_on(store) as storage:
            file = created(storage)
            await file.write(0, b"mine")
            store.place("k", THEIRS)
            store.fail("put", LostReply("?"), skip=1, when=when)
            for _ in range(3):
                with pytest.raises(Stale):
                    await file.flush()
            assert copies(store)["k"] == b"mine"
            assert not file.dirty
            file.close()


# bases that are gone


def large() -> bytes:
    return pattern(12 * MIB, 3)


@run_virtual
async def test_what_nobody_has_any_more_is_zeros_and_the_copy_says_so(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    base = large()
    store.place("k", base)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        assert bytes(await file.read(MIB, 10)) == base[MIB : MIB + 10]
        await wait_all_tasks_blocked()
        await file.write(len(base), b"appended")
        assert file.base is not None
        cached = [storage.blocks.peek(file.base, at, at + 128 * KIB) for at in range(0, len(base), 128 * KIB)]
        store.place("k", THEIRS)
        with pytest.raises(Stale):
            await file.flush()
        [key] = store.keys(CONFLICTS)
        assert key.endswith("/k" + PARTIAL)
        there = [block is not None for block in cached]
        assert 0 < sum(there) < len(there)
        expected = b"".join(
            base[number * 128 * KIB : (number + 1) * 128 * KIB] if here else bytes(128 * KIB)
            for number, here in enumerate(there)
        )
        assert store.body(key) == expected + b"appended"
        assert f"missing_bytes={there.count(False) * 128 * KIB}" in errors(caplog)[0]
        # Zeros are for the copy; a program never reads them in the place of what was there.
        assert bytes(await file.read(MIB, 10)) == base[MIB : MIB + 10]
        missing = there.index(False) * 128 * KIB
        with pytest.raises(Stale):
            await file.read(missing, 10)
        await file.write(missing, b"written since")
        with pytest.raises(Stale):
            await file.sync()
        assert store.keys(CONFLICTS) == [key]
        assert store.body(key)[missing : missing + 13] == b"written since"
        assert bytes(await file.read(missing, 13)) == b"written since"
        with pytest.raises(Stale):
            await file.read(missing, 14)
        file.close()


@run_virtual
async def test_a_copy_that_would_be_zeros_for_the_most_part_is_cut_to_the_local_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a few lines at the end of a large log."""
    store = MemoryStore()
    base = pattern(24 * MIB)
    store.place("k", base)
    async with storage_on(store, conflict_zeros_max_bytes=16 * MIB) as storage:
        file = opened(storage, store)
        assert bytes(await file.read(0, 10)) == base[:10], "what is cached far away does not make the copy longer"
        await wait_all_tasks_blocked()
        end = len(base)
        await file.write(end, b"appended")
        store.place("k", THEIRS)
        store.reset_counts()
        with pytest.raises(Stale):
            await file.flush()
        [key] = store.keys(CONFLICTS)
        assert key.endswith(f"/k.from-{end}{PARTIAL}")
        assert store.body(key) == b"appended"
        assert f"offset={end} bytes=8 missing_bytes={end}" in errors(caplog)[0]
        assert store.sent_bytes in (8, 16), "a part of the first try may have been sent"
        assert not file.dirty
        assert bytes(await file.read(end, 8)) == b"appended"
        with pytest.raises(Stale):
            await file.read(end - 1, 9)
        sent = store.counts["put"]
        with pytest.raises(Stale):
            await file.sync()
        assert store.counts["put"] == sent, "nothing has changed"
        await file.write(end + 8, b" and more")
        await file.write(end, b"A")
        store.fail("put", LostReply("?"), when="after")
        for _ in range(2):
            with pytest.raises(Stale):
                await file.sync()
        assert store.keys(CONFLICTS) == [key]
        assert store.body(key) == b"Appended and more"
        await file.write(end - 100, b"earlier")
        with pytest.raises(Stale):
            await file.sync()
        other = store.keys(CONFLICTS)[0]
        assert other == key.replace(f"from-{end}", f"from-{end - 100}")
        assert store.body(other) == b"earlier" + bytes(93) + b"Appended and more"
        file.close()


@run_virtual
async def test_a_cut_copy_of_a_file_that_changes_while_it_is_stored_is_stored_again() -> None:
    store = MemoryStore()
    store.place("k", pattern(24 * MIB))
    async with storage_on(store, conflict_zeros_max_bytes=16 * MIB) as storage, trio.open_nursery() as nursery:
        file = opened(storage, store)
        await file.write(20 * MIB, pattern(12 * MIB, 7))
        store.place("k", THEIRS)
        store.latency_seconds = 10.0
        nursery.start_soon(settle, file)
        while not store.counts["complete_upload"]:
            await trio.sleep(1)
            if file.busy and store.uploads:
                await file.write(21 * MIB, b"meanwhile")
        await file.truncate(31 * MIB)
        await settle(file)
        assert not file.dirty
        [copy] = copies(store).values()
        expected = bytearray(pattern(12 * MIB, 7)[: 11 * MIB])
        expected[MIB : MIB + 9] = b"meanwhile"
        assert copy == expected
        await file.truncate(0)
        await file.write(0, b"anew")
        await settle(file)
        assert b"anew" in copies(store).values()
        file.close()


@pytest.mark.parametrize("size", [5, 30 * MIB])
@run_virtual
async def test_a_large_base_that_is_gone_and_nothing_local_leave_no_copy(size: int) -> None:
    store = MemoryStore()
    store.place("k", pattern(24 * MIB))
    async with storage_on(store, conflict_zeros_max_bytes=4) as storage:
        file = opened(storage, store)
        await file.truncate(size)
        store.place("k", THEIRS)
        await settle(file)
        assert copies(store) == {}
        assert store.body("k") == THEIRS
        file.close()


@run_virtual
async def test_of_a_versioned_bucket_the_base_is_had_by_its_version_id() -> None:
    store = MemoryStore(versioned=True)
    base = large()
    store.place("k", base)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.validate_for_writing()
        await file.write(5, b"edited")
        store.place("k", THEIRS)
        assert bytes(await file.read(MIB, 10)) == base[MIB : MIB + 10]
        with pytest.raises(Stale):
            await file.flush()
        assert copies(store) == {"k": base[:5] + b"edited" + base[11:]}
        assert store.body("k") == THEIRS
        file.close()


@run_virtual
async def test_a_copy_that_was_removed_is_made_again_as_far_as_its_bytes_are_here() -> None:
    store = MemoryStore()
    async with storage_on(store) as storage:
        file = created(storage)
        await file.write(0, b"mine")
        store.place("k", THEIRS)
        with pytest.raises(Stale):
            await file.flush()
        store.remove(store.keys(CONFLICTS)[0])
        await file.write(4, b" again")
        with pytest.raises(Stale):
            await file.flush()
        assert copies(store) == {"k.partial": bytes(4) + b" again"}
        file.close()


@run_virtual
async def test_a_large_edit_whose_base_is_removed_while_it_is_copied_is_a_conflict() -> None:
    store = MemoryStore()
    base = large()
    store.place("k", base)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(5, b"edited")

        async def remove(call: Call) -> None:
            if call.operation == "copy_part":
                store.before = None
                store.remove("k")

        store.before = remove
        with pytest.raises(Stale):
            await file.flush()
        assert list(copies(store)) == ["k" + PARTIAL]
        assert not store.uploads
        file.close()


@run_virtual
async def test_a_stream_that_has_left_staging_is_given_up_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    async with storage_on(store, limit=40 * MIB) as storage:
        file = created(storage)
        body = pattern(MIB)
        for number in range(60):
            await file.write(number * MIB, body)
        assert file._syncing.stream is not None
        assert file._syncing.stream.dropped
        store.place("k", THEIRS)
        for call in (file.flush, file.sync):
            with pytest.raises(Stale):
                await call()
        assert file.parted
        with pytest.raises(Stale):
            await file.write(0, b"x")
        assert store.keys() == ["k"]
        assert store.body("k") == THEIRS
        other = created(storage, "other")
        await other.write(35 * MIB, b"x")
        for number in range(35):
            await other.write(number * MIB, body)
        await other.sync()
        assert store.body("other") == body * 35 + b"x", "what can never be stored makes room"
        other.close()
        file.close()
    assert not store.uploads
    [line] = errors(caplog)
    assert "nothing was kept" in line


# --conflict overwrite


@run_virtual
async def test_overwrite_lets_the_last_writer_win_where_all_bytes_are_local(tmp_path: Path) -> None:
    for pattern_of in (creating, streaming):
        store = MemoryStore()
        async with mounted(store, tmp_path, conflict="overwrite") as kernel:
            close, content = await pattern_of(kernel)
            store.place("f", THEIRS)
            await close()
            assert store.keys() == ["f"]
            assert store.body("f") == content


@run_virtual
async def test_overwrite_keeps_what_was_built_on_another_version(tmp_path: Path) -> None:
    # A rewrite from start to end is what the kernel makes of a small append, too.
    for pattern_of in (appending, editing, cutting, rewriting):
        store = MemoryStore()
        store.place("f", b"the base")
        async with mounted(store, tmp_path, conflict="overwrite") as kernel:
            close, content = await pattern_of(kernel)
            store.place("f", THEIRS)
            with pytest.raises(Stale):
                await close()
            assert store.body("f") == THEIRS
            assert copies(store) == {"f": content}


# --exclusive-create open


@run_virtual
async def test_an_exclusive_create_in_the_open_has_one_winner_and_shows_it_to_the_loser(tmp_path: Path) -> None:
    store = MemoryStore()
    exclusive = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    async with (
        mounted(store, tmp_path, exclusive_create="open") as first,
        mounted(store, tmp_path, exclusive_create="open") as second,
    ):
        assert not await second.exists("lock")
        store.reset_counts()
        won = await first.open("lock", exclusive)
        assert store.counts == {"put": 1}
        assert store.body("lock") == b""
        assert store.objects["lock"].headers.content_type is not None
        with pytest.raises(Exists):
            await second.open("lock", exclusive)
        assert (await second.stat("lock")).size == 0
        assert await second.listdir() == ["lock"]
        await first.fs.write(won, 0, b"pid 1")
        await first.close(won)
        assert (await first.stat("lock")).mode == stat.S_IFREG | 0o644
        assert await second.read("lock") == b"pid 1"
        await first.unlink("lock")
        second.expire()
        await trio.sleep(10)
        await second.close(await second.open("lock", exclusive))
        assert store.body("lock") == b""
        assert copies(store) == {}


@run_virtual
async def test_an_exclusive_create_at_close_tells_the_loser_who_has_written(tmp_path: Path) -> None:
    store = MemoryStore()
    exclusive = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    async with mounted(store, tmp_path) as first, mounted(store, tmp_path) as second:
        handles = [(kernel, await kernel.open("lock", exclusive)) for kernel in (first, second)]
        for number, (kernel, fh) in enumerate(handles):
            await kernel.fs.write(fh, 0, b"%d" % number)
        await first.close(handles[0][1])
        await close_stale(*handles[1])
        assert store.body("lock") == b"0"
        assert copies(store) == {"lock": b"1"}


@run_virtual
async def test_mknod_is_decided_by_its_request_whatever_the_option(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        assert not await kernel.exists("f")
        store.place("f", THEIRS)
        with pytest.raises(Exists):
            await kernel.fs.mknod(1, b"f", stat.S_IFREG | 0o600, ME)
        kernel.expire()
        assert await kernel.read("f") == THEIRS
        assert copies(store) == {}
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@run_virtual
async def test_an_exclusive_create_below_a_directory_that_moves_follows_it(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path, exclusive_create="open") as kernel:
        await kernel.mkdir("d")
        parent = await kernel.ino("d")
        store.latency_seconds = 1
        slow = trio.Event()

        async def before(call: Call) -> None:
            if call.operation == "put" and call.key == "d/lock":
                store.before = None
                await slow.wait()

        store.before = before
        async with trio.open_nursery() as nursery:
            exclusive = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            nursery.start_soon(kernel.fs.create, parent, b"lock", stat.S_IFREG | 0o644, exclusive, ME)
            await trio.sleep(5)
            await kernel.rename("d", "e")
            slow.set()
        assert store.keys() == ["e/", "e/lock"]


# names and sweeping


def test_a_copy_s_key_tells_when_and_of_which_path() -> None:
    key = copy_key("pre/", "pre/dir/é.txt", 1_795_268_820 * SECOND_NS + 5, "0123abcd")
    assert key == "pre/.s3mount/conflicts/20261121T134700Z-0123abcd/dir/é.txt"


def test_a_copy_s_key_keeps_the_end_of_a_path_that_is_too_long() -> None:
    for size in range(900, 1020):
        path = "é" * (size // 2) + "/" + "x" * (1 + size % 2) + "/end"
        key = copy_key("", path, 0, "0123abcd")
        assert key.endswith("/end")
        assert "//" not in key
        assert len((key + PARTIAL).encode()) <= S3_KEY_MAX_BYTES
        head = ".s3mount/conflicts/19700101T000000Z-0123abcd/"
        assert key.startswith(head)
        assert path.endswith(key.removeprefix(head))


def place_copies(store: MemoryStore, now_ns: int) -> None:
    for number, days in enumerate((60, 31, 29, 0)):
        key = f"pre/{CONFLICTS}2026-{number}/f"
        store.place(key, b"x", last_modified_ns=now_ns - days * DAY_SECONDS * SECOND_NS)
    for key in ("pre/.s3mount/other", "pre/.s3mount/conflicts", "pre/f", f"{CONFLICTS}2026/f"):
        store.place(key, b"x", last_modified_ns=0)


@run_virtual
async def test_old_copies_are_swept_by_one_list_and_nothing_else_is_touched() -> None:
    now_ns = 1_795_268_820 * SECOND_NS
    store = MemoryStore(clock_ns=lambda: now_ns)
    place_copies(store, now_ns)
    before = set(store.keys())
    await sweep(store, Config(bucket="b", prefix="pre/"))
    assert before - set(store.keys()) == {f"pre/{CONFLICTS}2026-0/f", f"pre/{CONFLICTS}2026-1/f"}
    assert store.counts == {"list": 1, "delete": 2}


@run_virtual
async def test_a_sweep_looks_at_a_bounded_number_of_pages() -> None:
    store = MemoryStore(page_max=1)
    for number in range(20):
        store.place(f"{CONFLICTS}{number:02}/f", b"x", last_modified_ns=0)
    await sweep(store, Config(bucket="b"))
    assert store.counts == {"list": 10, "delete": 10}


@pytest.mark.parametrize("operation", ["list", "delete"])
@run_virtual
async def test_a_sweep_that_is_refused_costs_one_line(operation: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = MemoryStore()
    place_copies(store, 100 * DAY_SECONDS * SECOND_NS)
    store.fail(operation, AccessDenied("403", status=403), times=10)  # type: ignore[arg-type]
    await sweep(store, Config(bucket="b", prefix="pre/"))
    [record] = caplog.records
    assert record.levelno == logging.INFO
    assert "were not removed" in record.getMessage()


# what else a conflict meets


@run_virtual
async def test_a_file_unlinked_after_a_rename_over_another_takes_that_along(tmp_path: Path) -> None:
    """What it was to replace is still in the bucket, for it was not stored yet."""
    store = MemoryStore()
    store.place("f", b"the base")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("new", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"moved")
        await kernel.rename("new", "f")
        await kernel.unlink("f")
        await kernel.close(fh)
        assert store.keys() == []
        assert not await kernel.exists("f")


@run_virtual
async def test_a_small_base_is_asked_for_by_the_first_write_into_it() -> None:
    """The upload needs it anyway; an append that finds another client's object then keeps all of its content."""
    store = MemoryStore()
    base = pattern(MIB)
    store.place("k", base)
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.write(len(base), b"tail")
        await wait_all_tasks_blocked()
        assert store.counts == {"get": 1}
        await file.write(len(base) + 4, b" and more")
        await file.flush()
        assert store.counts == {"get": 1, "put": 1}
        file.close()
        other = opened(storage, store)
        await other.write(0, pattern(2 * MIB))
        await other.flush()
        assert store.counts == {"get": 1, "put": 2}, "what is wholly rewritten is not fetched"
        other.close()


@run_virtual
async def test_a_parted_file_says_so_and_tells_its_owner_once() -> None:
    store = MemoryStore()
    told: list[File] = []
    async with storage_on(store) as storage:
        file = created(storage)
        file._syncing._on_conflict = lambda: told.append(file)
        await file.write(0, b"mine")
        store.place("k", THEIRS)
        for _ in range(2):
            with pytest.raises(Stale):
                await file.sync()
        assert told == [file]
        assert "parted" in repr(file)
        await file.truncate(0)
        await file.write(0, b"anew")
        with pytest.raises(Stale):
            await file.sync()
        assert copies(store) == {"k": b"anew"}
        with pytest.raises(Stale):
            await file.unlink()
        file.close()


# a random life beside another client


async def live(seed: int) -> None:
    """Random changes and syncs of a file while another client now and then takes the key: whatever it stored last
    stays, and what the file was at its last sync is at the key or in the copy, zeros where a base had gone unread."""
    draw = random.Random(seed)
    store = MemoryStore(versioned=draw.random() < 0.2, latency_seconds=draw.choice([0.0, 0.5]))
    content = bytearray(pattern(draw.choice([0, 1000, 300 * KIB, MIB]), seed % 251) if draw.random() < 0.7 else b"")
    if content:
        store.place("k", bytes(content))
    foreign: object = None
    unsent = False
    async with storage_on(store, conflict=draw.choice(["keep", "keep", "overwrite"])) as storage:
        file = opened(storage, store) if content else created(storage)
        if draw.random() < 0.3:
            store.fail("put", draw.choice([Unavailable("503"), LostReply("?")]), when=draw.choice(["before", "after"]))
        for _ in range(draw.randrange(1, 12)):
            action = draw.choice(["write", "write", "append", "truncate", "sync", "foreign", "wait"])
            if action == "truncate":
                size = draw.randrange(1, len(content) + 2)
                content[size:] = bytes(max(0, size - len(content)))
                unsent |= size != file.size
                await file.truncate(size)
            elif action == "sync":
                await settle(file)
            elif action == "foreign" and foreign is None:
                foreign, unsent = store.place("k", THEIRS), file.dirty
            elif action == "wait":
                await trio.sleep(draw.random() * 3)
            elif action in ("write", "append"):
                offset = len(content) if action == "append" else draw.randrange(len(content) + 1)
                body = draw.randbytes(draw.randrange(1, 2000))
                content[offset : offset + len(body)] = body
                await file.write(offset, body)
                unsent = True
        for _ in range(3):
            await settle(file)
        assert not file.dirty
        where = store.keys(CONFLICTS)[-1] if file.parted else "k"
        if file.parted:
            assert store.objects["k"] is foreign
        if foreign is not None and not unsent:
            content[:] = THEIRS  # after all that was ours
        found = store.body(where)
        if where.endswith(PARTIAL):
            assert len(found) == len(content)
            assert all(theirs in (0, ours) for theirs, ours in zip(found, content, strict=True))
        else:
            assert found == content
        assert len(store.keys(CONFLICTS)) == file.parted
        file.close()
    assert not store.uploads


async def settle(file: File) -> None:
    try:
        await file.sync()
    except (Stale, Unavailable, LostReply):
        pass


@pytest.mark.parametrize("block", range(10))
@run_virtual
async def test_a_random_life_beside_another_client_loses_neither_s_bytes(block: int) -> None:
    for seed in range(block * 60, block * 60 + 60):
        try:
            await live(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error
