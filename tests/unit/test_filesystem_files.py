"""Open files: what an open proves, what a close stores, what failures do, and what each may cost (DESIGN section 9)."""

import os
import stat
from pathlib import Path

import pytest
import trio

from s3mount.config import MIB
from s3mount.errors import (
    BadHandle,
    FileSystemError,
    IsADirectory,
    PreconditionFailed,
    ReadOnly,
    StagingFull,
    Stale,
    Unavailable,
)
from s3mount.store.base import Headers
from s3mount.vfs.attributes import ROOT, Caller, Changes
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_trio, run_virtual

FOREIGN = Headers(content_type="text/x-foreign", cache_control="max-age=1", metadata={"who": "me"})


def costs(store: MemoryStore) -> dict[str, int]:
    counted = dict(store.counts)
    store.reset_counts()
    return counted


@run_virtual
async def test_reading_a_small_file_costs_one_get(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"hello")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.read("f") == b"hello"
        assert costs(store) == {"get": 1}
        assert await kernel.read("f") == b"hello"
        assert costs(store) == {"get": 1}


@run_virtual
async def test_an_empty_file_is_validated_by_a_head(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.read("f") == b""
        assert sum(costs(store).values()) == 1


@run_virtual
async def test_creating_a_small_file_in_a_listed_directory_costs_one_put(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        await kernel.write("f.html", b"hello", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        assert costs(store) == {"put": 1}
        assert store.body("f.html") == b"hello"
        assert store.objects["f.html"].headers.content_type == "text/html"
        assert await kernel.listdir() == ["f.html"]
        assert (await kernel.stat("f.html")).size == 5
        assert costs(store) == {}


@run_virtual
async def test_overwriting_costs_a_head_and_a_put_and_keeps_foreign_headers(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"old", FOREIGN)
    async with mounted(store, tmp_path) as kernel:
        await kernel.write("f", b"new")
        assert costs(store) == {"head": 1, "put": 1}
        assert store.body("f") == b"new"
        assert store.objects["f"].headers.content_type == "text/x-foreign"
        assert store.objects["f"].headers.metadata["who"] == "me"


@run_virtual
async def test_opening_and_closing_without_a_change_sends_nothing_but_the_validation(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
            await kernel.close(await kernel.open("f", flags))
        assert not costs(store).keys() - {"get", "head"}


@run_virtual
async def test_an_empty_file_is_stored_by_its_last_close(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDONLY | os.O_CREAT)
        await kernel.fs.flush(fh)
        assert store.keys() == []
        await kernel.fs.release(fh)
        assert store.body("f") == b""


@run_virtual
async def test_a_reader_that_closes_publishes_nothing(tmp_path: Path) -> None:
    """A17"""
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_TRUNC)
        await kernel.fs.write(fh, 0, b"half")
        assert await kernel.read("f") == b"half"
        assert store.body("f") == b"old"
        await kernel.fs.write(fh, 4, b" and half")
        await kernel.close(fh)
        assert store.body("f") == b"half and half"
        assert store.counts["put"] == 1


@run_virtual
async def test_a_file_closed_elsewhere_and_opened_here_shows_the_new_content(tmp_path: Path) -> None:
    """C8: the open answers ESTALE once, the repeated lookup and open ask nothing more."""
    store = MemoryStore()
    store.place("f", b"first")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.read("f") == b"first"
        before = (await kernel.stat("f")).ino
        store.place("f", b"second, longer")
        costs(store)
        assert await kernel.read("f") == b"second, longer"
        assert costs(store) == {"get": 1}
        after = await kernel.stat("f")
        assert after.ino != before
        assert after.size == 14
        assert [(name, shown.size) async for name, shown in kernel.scan()] == [("f", 14)]
        assert costs(store) == {}


@run_virtual
async def test_an_append_lands_behind_what_another_host_wrote(tmp_path: Path) -> None:
    """C8"""
    store = MemoryStore()
    store.place("log", b"one\n")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.read("log") == b"one\n"
        store.place("log", b"one\ntwo\n")
        fh = await kernel.open("log", os.O_WRONLY | os.O_APPEND)
        await kernel.fs.write(fh, (await kernel.stat("log")).size, b"three\n")
        await kernel.close(fh)
        assert store.body("log") == b"one\ntwo\nthree\n"


@run_virtual
async def test_a_file_removed_elsewhere_is_gone_when_it_is_opened(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"first")
    async with mounted(store, tmp_path) as kernel:
        await kernel.stat("f")
        store.remove("f")
        with pytest.raises((FileNotFoundError, FileSystemError)) as caught:
            await kernel.open("f")
        assert getattr(caught.value, "errno", 0) in (2, 116)
        assert not await kernel.exists("f")


@run_virtual
async def test_a_path_open_for_writing_keeps_its_inode_and_openers_join_it(tmp_path: Path) -> None:
    """A15"""
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.read("f") == b"old"
        writer = await kernel.open("f", os.O_RDWR)
        ino = (await kernel.stat("f")).ino
        await kernel.fs.write(writer, 3, b" and new")
        store.place("f", b"foreign change underneath")
        await trio.sleep(100)
        kernel.expire()
        shown = await kernel.stat("f")
        assert (shown.ino, shown.size) == (ino, 11)
        assert await kernel.read("f") == b"old and new"
        assert [(name, found.size) async for name, found in kernel.scan()] == [("f", 11)]
        with pytest.raises((PreconditionFailed, Stale)):
            await kernel.close(writer)


@run_virtual
async def test_an_inode_keeps_its_number_and_its_mtime_through_its_own_sync(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"x")
        before = await kernel.stat("f")
        await kernel.close(fh)
        await trio.sleep(100)
        kernel.expire()
        after = await kernel.stat("f")
        assert (after.ino, after.mtime_ns, after.size) == (before.ino, before.mtime_ns, 1)


@run_virtual
async def test_an_unlinked_open_file_stays_usable_and_leaves_nothing(tmp_path: Path) -> None:
    """A10"""
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"before ")
        await kernel.fs.fsync(fh)
        await kernel.unlink("f")
        assert store.keys() == []
        await kernel.fs.write(fh, 7, b"after")
        assert await kernel.pread(fh, 0, 100) == b"before after"
        assert not await kernel.exists("f")
        assert await kernel.listdir() == []
        await kernel.close(fh)
        assert store.keys() == []
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@run_virtual
async def test_a_name_reused_while_its_orphan_lives_is_another_file(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        old = await kernel.open("f", os.O_RDWR | os.O_CREAT)
        await kernel.fs.write(old, 0, b"old")
        await kernel.unlink("f")
        await kernel.write("f", b"new")
        await kernel.close(old)
        assert store.body("f") == b"new"
        assert await kernel.read("f") == b"new"


@run_virtual
async def test_a_failed_close_is_told_again_and_the_last_release_discards(tmp_path: Path) -> None:
    """A2"""
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY)
        ino = (await kernel.stat("f")).ino
        await kernel.fs.write(fh, 0, b"new")
        store.fail("put", Unavailable("500", status=500), times=3)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await kernel.fs.fsync(fh)
        with pytest.raises(Unavailable):
            await kernel.close(fh)
        assert store.body("f") == b"old"
        kernel.expire()
        assert (await kernel.stat("f")).ino != ino
        assert await kernel.read("f") == b"old"


@run_virtual
async def test_a_failed_close_followed_by_a_successful_sync_is_healed(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"new")
        store.fail("put", Unavailable("500", status=500))
        with pytest.raises(Unavailable):
            await kernel.fs.flush(fh)
        await kernel.fs.fsync(fh)
        await kernel.fs.release(fh)
        assert store.body("f") == b"new"
        assert await kernel.read("f") == b"new"


@run_virtual
async def test_a_file_never_stored_whose_close_failed_vanishes(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"new")
        store.fail("put", Unavailable("500", status=500))
        with pytest.raises(Unavailable):
            await kernel.close(fh)
        kernel.expire()
        assert not await kernel.exists("f")
        assert await kernel.listdir() == []


@run_virtual
async def test_a_failure_nobody_was_told_is_tried_again_and_readers_get_an_error_meanwhile(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        store.fail("put", Unavailable("500", status=500), times=3)
        await kernel.close(fh)
        assert store.keys() == []
        with pytest.raises(Unavailable):
            await kernel.open("f")
        assert await kernel.listdir() == ["f"]
        await trio.sleep(100)
        assert store.keys() == ["f"]
        assert await kernel.read("f") == b""
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@run_virtual
async def test_truncate_by_path_stores_before_it_returns(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"0123456789", FOREIGN)
    async with mounted(store, tmp_path) as kernel:
        await kernel.truncate("f", 4)
        assert store.body("f") == b"0123"
        await kernel.truncate("f", 8)
        assert store.body("f") == b"0123\0\0\0\0"
        await kernel.truncate("f", 0)
        assert store.body("f") == b""
        assert store.objects["f"].headers.content_type == "text/x-foreign"
        await trio.testing.wait_all_tasks_blocked()
        assert (await kernel.stat("f")).size == 0


@run_virtual
async def test_a_truncation_that_failed_succeeds_only_when_the_second_try_has_stored_it(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"123456")
    async with mounted(store, tmp_path) as kernel:
        store.fail("put", Unavailable("down"))
        with pytest.raises(Unavailable):
            await kernel.truncate("f", 3)
        await kernel.truncate("f", 3)
        assert store.body("f") == b"123"
        await trio.sleep(100)
        assert await kernel.read("f") == b"123"


@run_virtual
async def test_truncate_of_a_file_changed_elsewhere_applies_to_the_new_content(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"0123456789")
    async with mounted(store, tmp_path) as kernel:
        await kernel.stat("f")
        store.place("f", b"abcdefghij")
        await kernel.truncate("f", 4)
        assert store.body("f") == b"abcd"


@run_virtual
async def test_attributes_that_are_stored_nowhere_last_while_the_inode_lives(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x")
    async with mounted(store, tmp_path, uid=1, gid=1, attributes="never") as kernel:
        ino = await kernel.ino("f")
        changes = Changes(mode=stat.S_IFREG | 0o4600, uid=5, gid=6, atime_ns=7, mtime_ns=8)
        shown = await kernel.fs.setattr(ino, changes, None)
        assert shown == await kernel.stat("f")
        assert (shown.mode, shown.uid, shown.gid, shown.atime_ns, shown.mtime_ns) == (
            stat.S_IFREG | 0o4600, 5, 6, 7, 8,
        )  # fmt: skip
        kernel.drop_caches()
        assert (await kernel.stat("f")).uid == 1
        assert sum(costs(store).values()) == 0


@run_virtual
async def test_a_created_file_shows_the_mode_and_owner_it_was_created_with(tmp_path: Path) -> None:
    store = MemoryStore()
    caller = Caller(uid=50, gid=60, pid=1, umask=0)
    async with mounted(store, tmp_path) as kernel:
        directory = await kernel.fs.mkdir(1, b"d", stat.S_IFDIR | 0o755, caller)
        await kernel.fs.setattr(directory.ino, Changes(mode=stat.S_IFDIR | 0o2775, gid=70), None)
        fh, shown = await kernel.fs.create(directory.ino, b"f", stat.S_IFREG | 0o640, os.O_WRONLY, caller)
        await kernel.close(fh)
        assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFREG | 0o640, 50, 70)
        below = await kernel.fs.mkdir(directory.ino, b"e", stat.S_IFDIR | 0o755, caller)
        assert (below.mode, below.gid) == (stat.S_IFDIR | 0o2755, 70)
        assert kernel.fs.access(shown.ino, 4, Caller(9, 70, 1, 0))
        assert not kernel.fs.access(shown.ino, 2, Caller(9, 70, 1, 0))


@run_virtual
async def test_mknod_stores_an_empty_file(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        shown = await kernel.fs.mknod(1, b"f", stat.S_IFREG | 0o600, ME)
        assert store.body("f") == b""
        assert (await kernel.stat("f")).ino == shown.ino


@run_virtual
async def test_wrong_handles_and_kinds_are_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"x")
    async with mounted(store, tmp_path) as kernel:
        with pytest.raises(BadHandle):
            await kernel.fs.read(99, 0, 1)
        with pytest.raises(IsADirectory):
            await kernel.open("d")
        with pytest.raises(IsADirectory):
            await kernel.unlink("d")
        with pytest.raises(Stale):
            await kernel.fs.getattr(12345)
        fh = await kernel.open("d/f")
        with pytest.raises(BadHandle):
            await kernel.fs.write(fh, 0, b"x")
        await kernel.close(fh)
        kernel.fs.forget([(12345, 1), (1, 1), (await kernel.ino("d"), 1000)])


@run_virtual
async def test_stopping_refuses_writers_then_writes_and_stores_everything(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        one = await kernel.open("one", os.O_WRONLY | os.O_CREAT)
        await kernel.mkdir("d")
        two = await kernel.open("d/two", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(one, 0, b"1")
        await kernel.fs.write(two, 0, b"2")
        kernel.fs.refuse_new_writers()
        with pytest.raises(ReadOnly):
            await kernel.open("three", os.O_WRONLY | os.O_CREAT)
        assert kernel.fs.paths_open_for_writing() == ["d/two", "one"]
        assert kernel.fs.last_write_seconds() <= trio.current_time()
        store.fail("put", Unavailable("500", status=500), key="d/two")
        assert await kernel.fs.sync_all() == ["d/two"]
        assert await kernel.fs.sync_all() == []
        assert store.body("d/two") == b"2"
        kernel.fs.refuse_writes()
        with pytest.raises(FileSystemError):
            await kernel.fs.write(one, 1, b"x")
        with pytest.raises(FileSystemError):
            await kernel.close(one)
        await kernel.close(two)
        assert kernel.fs.paths_open_for_writing() == []


@run_virtual
async def test_a_reader_of_a_version_that_was_replaced_never_gets_mixed_bytes(tmp_path: Path) -> None:
    store = MemoryStore()
    old, new = os.urandom(400_000), os.urandom(400_000)
    store.place("f", old)
    async with mounted(store, tmp_path, readahead_max_bytes=0) as kernel:
        fh = await kernel.open("f")
        assert await kernel.pread(fh, 0, 1000) == old[:1000]
        store.place("f", new)
        try:
            assert await kernel.pread(fh, 0, 400_000) == old
        except Stale:
            pass
        assert await kernel.read("f") == new
        await kernel.close(fh)


@run_virtual
async def test_a_writer_who_comes_while_a_reader_finds_a_new_version_keeps_the_path(tmp_path: Path) -> None:
    """The reader's answer must not take the inode away from under the writer's bytes."""
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("f")
        held, parked = trio.Event(), trio.Event()

        async def before(call: Call) -> None:
            if call.operation == "get" and not held.is_set():
                held.set()
                await parked.wait()

        store.before = before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.fs.open, ino, os.O_RDONLY)
            await held.wait()
            writer = await kernel.fs.open(ino, os.O_WRONLY | os.O_TRUNC)
            await kernel.fs.write(writer, 0, b"mine")
            store.place("f", b"foreign")
            parked.set()
        assert (await kernel.stat("f")).ino == ino
        await kernel.close(writer)
        assert store.body("f") == b"mine"


@run_virtual
async def test_a_cancelled_open_gives_its_handle_back(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("f")
        store.latency_seconds = 5
        with trio.move_on_after(1) as scope:
            await kernel.fs.open(ino, os.O_RDWR)
        assert scope.cancelled_caught
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@pytest.mark.parametrize("access", [os.O_RDWR, os.O_WRONLY])
@run_trio
async def test_a_large_file_is_kept_whole_for_who_can_read_it_while_he_writes(tmp_path: Path, access: int) -> None:
    store = MemoryStore()
    size = 64 * MIB
    async with mounted(store, tmp_path, memory_limit_bytes=128 * MIB) as kernel:
        fh = await kernel.open("f", access | os.O_CREAT)
        for offset in range(0, size, MIB):
            await kernel.fs.write(fh, offset, bytes(MIB))
        if access == os.O_RDWR:
            assert bytes(await kernel.fs.read(fh, 20 * MIB, 10)) == bytes(10)
            await kernel.fs.write(fh, 20 * MIB, b"again")
            await kernel.close(fh)
            assert store.body("f")[20 * MIB :][:10] == b"again" + bytes(5)
        else:
            with pytest.raises(StagingFull):
                await kernel.fs.write(fh, 20 * MIB, b"again")
            with pytest.raises(StagingFull):
                await kernel.close(fh)


@run_virtual
async def test_the_open_that_is_repeated_succeeds_though_its_inode_was_forgotten_between_two_lookups(
    tmp_path: Path,
) -> None:
    """Linux looks up twice after ESTALE, first to find that its dentry is another inode now, which it forgets again."""
    store = MemoryStore()
    store.place("f", b"first")
    async with mounted(store, tmp_path) as kernel:
        former = await kernel.ino("f")
        store.place("f", b"second")
        with pytest.raises(Stale):
            await kernel.fs.open(former, os.O_RDONLY)
        found = await kernel.fs.lookup(ROOT, b"f")
        kernel.fs.forget([(found.ino, 1)])
        store.place("f", b"third")
        costs(store)
        found = await kernel.fs.lookup(ROOT, b"f")
        fh = await kernel.fs.open(found.ino, os.O_RDONLY)
        assert bytes(await kernel.fs.read(fh, 0, 100)) == b"second"
        assert costs(store) == {}
        await kernel.close(fh)
        kernel.fs.forget([(found.ino, 1)])
        kernel.expire()
        assert await kernel.read("f") == b"third"  # what was remembered has served its open


def thread(pid: int) -> Caller:
    return Caller(uid=0, gid=0, pid=pid, umask=0)


async def sent_round(kernel: Kernel, ino: int, pid: int) -> int:
    """An open that meets another version, and the lookup that follows: the inode to open now."""
    with pytest.raises(Stale):
        await kernel.fs.open(ino, os.O_RDONLY, thread(pid))
    return (await kernel.fs.lookup(ROOT, b"f")).ino


async def opened(kernel: Kernel, ino: int, pid: int) -> bytes:
    fh = await kernel.fs.open(ino, os.O_RDONLY, thread(pid))
    content = bytes(await kernel.fs.read(fh, 0, 100))
    await kernel.close(fh)
    return content


@run_virtual
async def test_an_open_of_another_thread_does_not_use_up_what_a_repeated_open_is_owed(tmp_path: Path) -> None:
    """The object is replaced all the time, and Linux repeats an open once: its second ESTALE is the program's."""
    store = MemoryStore()
    store.place("f", b"first")
    async with mounted(store, tmp_path) as kernel:
        former = await kernel.ino("f")
        store.place("f", b"second")
        second = await sent_round(kernel, former, 1)
        costs(store)
        assert await opened(kernel, second, 2) == b"second"
        assert costs(store) == {"get": 1}  # it was not sent round: it asks
        store.place("f", b"third")
        third = await sent_round(kernel, second, 2)
        costs(store)
        assert await opened(kernel, second, 1) == b"second"  # fetched while the first thread waited for this open
        assert await opened(kernel, third, 2) == b"third"
        assert costs(store) == {}
        store.place("f", b"fourth")
        assert await sent_round(kernel, third, 1) != third  # each was owed one


@run_virtual
async def test_opens_that_meet_another_version_at_the_same_time_all_come_again(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"first")
    async with mounted(store, tmp_path) as kernel:
        former = await kernel.ino("f")
        store.place("f", b"second")
        store.latency_seconds = 0.01
        async with trio.open_nursery() as nursery:
            for pid in range(1, 5):
                nursery.start_soon(sent_round, kernel, former, pid)
        await sent_round(kernel, former, 5)  # the kernel had the inode, and the path leads to another
        store.place("f", b"third")
        found = (await kernel.fs.lookup(ROOT, b"f")).ino
        costs(store)
        for pid in range(1, 6):
            assert await opened(kernel, found, pid) == b"second"
        assert costs(store) == {}


@run_virtual
async def test_who_is_owed_an_open_and_has_not_looked_up_yet_finds_the_newest_version(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"first")
    async with mounted(store, tmp_path) as kernel:
        former = await kernel.ino("f")
        store.place("f", b"second")
        with pytest.raises(Stale):
            await kernel.fs.open(former, os.O_RDONLY, thread(1))
        second = (await kernel.fs.lookup(ROOT, b"f")).ino
        store.place("f", b"third")
        third = await sent_round(kernel, second, 2)
        store.place("f", b"fourth")
        costs(store)
        assert await opened(kernel, third, 1) == b"third"
        assert await opened(kernel, third, 2) == b"third"
        assert costs(store) == {}
        with pytest.raises(Stale):
            await kernel.fs.open(third, os.O_RDONLY, thread(1))


@run_virtual
async def test_what_was_remembered_for_an_open_that_did_not_come_is_no_name_after_an_own_change(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"first")
    store.place("g", b"other")
    async with mounted(store, tmp_path) as kernel:
        former = await kernel.ino("f")
        store.place("f", b"second")
        with pytest.raises(Stale):
            await kernel.fs.open(former, os.O_RDONLY)
        kernel.expire()
        await kernel.rename("g", "f")
        kernel.drop_caches()
        assert await kernel.read("f") == b"other"
        await kernel.unlink("f")
        kernel.drop_caches()
        assert not await kernel.exists("f")
