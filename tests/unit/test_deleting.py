"""Unlinks that are sent together: what they cost, what is seen meanwhile, what becomes of them (DESIGN 5, 9)."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from s3mount.data.removals import Removals, finish
from s3mount.errors import AccessDenied, LostReply, NoEntry, NotEmpty, ReadOnly
from s3mount.vfs.deleting import BATCH_MAX, BATCHES_MAX, PENDING_MAX, PROOFS
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.paper import PaperInMemory
from tests.running import run_virtual
from tests.unit.test_removals import FullPaper

REFUSED = AccessDenied("403", code="AccessDenied", status=403)


def filled(count: int, directory: str = "d/", **switches: object) -> MemoryStore:
    store = MemoryStore(**switches)  # type: ignore[arg-type]
    for number in range(count):
        store.place(f"{directory}f{number:04}", b"%d" % number)
    return store


async def rm_r(kernel: Kernel, path: str) -> None:
    """As rm -r does it: names in the order of the listing, then the directory."""
    for name in await kernel.listdir(path):
        below = f"{path}/{name}"
        if (await kernel.stat(below)).mode & 0o040000:
            await rm_r(kernel, below)
        else:
            await kernel.unlink(below)
    await kernel.rmdir(path)


async def unlink_all(kernel: Kernel, path: str = "d") -> list[str]:
    names = await kernel.listdir(path)
    for name in names:
        await kernel.unlink(f"{path}/{name}")
    return names


# what it costs


@pytest.mark.parametrize("marked", [False, True])
@run_virtual
async def test_rm_r_of_a_thousand_files_costs_fifteen_requests(tmp_path: Path, marked: bool) -> None:
    store = filled(1000)
    if marked:
        store.place("d/")
    async with mounted(store, tmp_path, started=False) as kernel:
        await rm_r(kernel, "d")
    assert store.keys() == []
    assert store.counts["delete"] == PROOFS
    assert store.counts["delete_many"] == 1
    assert store.counts["put"] == (0 if marked else 1)
    assert store.counts.total() <= 15, store.counts


@run_virtual
async def test_rm_r_of_files_in_directories_costs_at_most_four_requests_a_directory(tmp_path: Path) -> None:
    """N/1000 + 4 D, implicit directories and such with markers."""
    store = MemoryStore()
    for number in range(40):
        for name in range(25):
            store.place(f"t/d{number}/f{name}", b"x")
        if number % 2:
            store.place(f"t/d{number}/")
    async with mounted(store, tmp_path, started=False) as kernel:
        await rm_r(kernel, "t")
    assert store.keys() == []
    assert store.counts.total() <= 1 + 4 * 41 + PROOFS + 2, store.counts


@run_virtual
async def test_unlinks_are_gathered_for_a_tenth_of_a_second_at_first_or_up_to_a_thousand(tmp_path: Path) -> None:
    store = filled(PROOFS + 2 * BATCH_MAX + 5)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("d")
        store.reset_counts()
        for name in names[: PROOFS + 1]:
            await kernel.unlink(f"d/{name}")
        assert store.counts == {"delete": PROOFS}
        await trio.sleep(0.09)
        assert store.counts == {"delete": PROOFS}
        await trio.sleep(0.02)
        assert f"d/{names[PROOFS]}" not in store.objects
        store.reset_counts()
        for name in names[PROOFS + 1 :]:
            await kernel.unlink(f"d/{name}")
        await trio.sleep(1)
        assert [call.number for call in store.calls] == [BATCH_MAX, BATCH_MAX, 4]
        assert store.keys() == ["d/"]


@run_virtual
async def test_a_slow_rm_r_costs_as_little_as_a_fast_one(tmp_path: Path) -> None:
    store = filled(1000)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("d")
        store.reset_counts()
        for name in names:
            await kernel.unlink(f"d/{name}")
            await trio.sleep(0.004)
        await kernel.rmdir("d")
        assert store.keys() == []
        assert store.counts == {"delete": PROOFS, "delete_many": 7, "list": 1}


@run_virtual
async def test_each_process_proves_first_that_it_may_delete(tmp_path: Path) -> None:
    store = filled(60)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("d")
        store.reset_counts()
        for index, name in enumerate(names[:40]):
            kernel.caller = replace(ME, pid=1 + index % 2)
            await kernel.unlink(f"d/{name}")
        assert store.counts["delete"] == 2 * PROOFS
        await trio.sleep(10)
        assert store.counts == {"delete": 2 * PROOFS, "delete_many": 1}
        kernel.expire()
        for name in names[40:]:  # another burst
            await kernel.unlink(f"d/{name}")
        assert store.counts["delete"] == 3 * PROOFS


@run_virtual
async def test_who_creates_and_unlinks_in_turn_has_each_unlink_sent_at_once(tmp_path: Path) -> None:
    """A lock file, or the rollback journal of SQLite, whose unlink is the commit."""
    store = filled(20)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        for _ in range(30):
            await kernel.write("lock", b"mine")
            assert "lock" in store.objects
            await kernel.unlink("lock")
            assert "lock" not in store.objects


@run_virtual
async def test_with_unlink_sync_each_deletion_is_in_the_bucket_when_it_returns(tmp_path: Path) -> None:
    store = filled(30)
    store.place("d/")
    async with mounted(store, tmp_path, unlink="sync") as kernel:
        for name in await kernel.listdir("d"):
            await kernel.unlink(f"d/{name}")
            assert f"d/{name}" not in store.objects


@run_virtual
async def test_deleting_from_a_huge_implicit_directory_lists_it_once_a_lifetime(tmp_path: Path) -> None:
    store = filled(3000)
    async with mounted(store, tmp_path) as kernel:
        names = [f"f{number:04}" for number in range(1500)]
        for name in names:
            await kernel.ino(f"d/{name}")
        store.reset_counts()
        for name in names:
            await kernel.unlink(f"d/{name}")
            await trio.sleep(0.001)
        assert store.counts["list"] <= 3, store.counts
        assert store.counts["put"] == 0


# what is seen meanwhile


@run_virtual
async def test_a_pending_name_is_gone_from_listings_and_lookups(tmp_path: Path) -> None:
    store = filled(30)
    store.place("d/")
    store.place("d/stays", b"x")
    async with mounted(store, tmp_path) as kernel:
        names = [name for name in await kernel.listdir("d") if name != "stays"]
        store.latency_seconds = 0.05
        for name in names:
            await kernel.unlink(f"d/{name}")
        kernel.drop_caches()
        kernel.fs._tree.inodes.get(await kernel.ino("d")).contents.forget_all()
        assert await kernel.listdir("d") == ["stays"]
        assert len(store.keys("d/f")) == 30 - PROOFS, "a listing waits for nothing"
        assert not await kernel.exists(f"d/{names[-1]}")
        assert store.keys("d/f") == [], "a lookup of the name waits"


@run_virtual
async def test_a_listing_under_way_while_its_names_go_does_not_show_them(tmp_path: Path) -> None:
    """The answer was made before the batch had its effect, and comes after that."""
    store = filled(20)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        directory = kernel.fs._tree.inodes.get(await kernel.ino("d")).contents
        directory.forget_all()

        async def delay(call: Call) -> None:
            if call.operation == "list":
                await trio.sleep(1)

        store.after = delay
        assert await kernel.listdir("d") == []
        assert store.keys() == ["d/"]


@pytest.mark.parametrize("how", ["write", "exclusive", "mkdir", "rename", "mknod"])
@run_virtual
async def test_a_pending_name_can_be_taken_at_once(tmp_path: Path, how: str) -> None:
    store = filled(20)
    store.place("d/")
    store.place("other", b"other")
    async with mounted(store, tmp_path) as kernel:
        name = "d/" + (await unlink_all(kernel))[-1]
        assert name in store.objects
        if how == "write":
            await kernel.write(name, b"new")
            assert store.body(name) == b"new"
        elif how == "exclusive":
            await kernel.write(name, b"new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            assert store.body(name) == b"new"
        elif how == "mkdir":
            await kernel.mkdir(name)
            assert f"{name}/" in store.objects
        elif how == "mknod":
            await kernel.fs.mknod(*await kernel._new(name), 0o100644, ME)
            assert store.body(name) == b""
        else:
            await kernel.rename("other", name)
            assert store.body(name) == b"other"
        await trio.sleep(1)
        assert len(store.keys("d/f")) == 1
        assert (name in store.objects) is (how != "mkdir")


@run_virtual
async def test_a_create_without_a_lookup_waits_too_and_finds_what_came_back(tmp_path: Path) -> None:
    """The kernel may know that the name is gone."""
    store = filled(20)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        names = await unlink_all(kernel)
        parent = await kernel.ino("d")
        store.undeletable[f"d/{names[-1]}"] = REFUSED
        fh, attributes = await kernel.fs.create(parent, names[-1].encode(), 0o100644, os.O_WRONLY, ME)
        assert attributes.size == 2
        await kernel.close(fh)
        fh, attributes = await kernel.fs.create(parent, names[-2].encode(), 0o100644, os.O_WRONLY, ME)
        assert attributes.size == 0
        await kernel.close(fh)
        assert store.keys("d/f") == [f"d/{names[-2]}", f"d/{names[-1]}"]


@run_virtual
async def test_an_open_file_is_deleted_at_once_and_stays_readable(tmp_path: Path) -> None:
    store = filled(20)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        *names, last = await kernel.listdir("d")
        for name in names:
            await kernel.unlink(f"d/{name}")
        fh = await kernel.open(f"d/{last}")
        await kernel.unlink(f"d/{last}")
        assert f"d/{last}" not in store.objects
        assert await kernel.pread(fh, 0, 10) == b"19"
        await kernel.close(fh)


@run_virtual
async def test_renaming_the_directory_waits_for_what_is_pending_below(tmp_path: Path) -> None:
    store = filled(20)
    store.place("d/")
    store.place("d/stays", b"x")
    async with mounted(store, tmp_path) as kernel:
        for name in await kernel.listdir("d"):
            if name != "stays":
                await kernel.unlink(f"d/{name}")
        await kernel.rename("d", "e")
        assert store.keys() == ["e/", "e/stays"]
        assert await kernel.listdir("e") == ["stays"]
        assert [call.source for call in store.calls if call.operation == "copy"] == ["d/stays"]


@run_virtual
async def test_a_directory_may_be_renamed_onto_one_whose_files_are_pending(tmp_path: Path) -> None:
    store = filled(20)
    store.place("d/")
    store.place("e/f", b"x")
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        await kernel.rename("e", "d")
        assert store.keys() == ["d/", "d/f"]


# directories


@run_virtual
async def test_an_implicit_directory_outlives_its_last_entry_however_it_goes(tmp_path: Path) -> None:
    """B13"""
    store = filled(30, "d/e/")
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel, "d/e")
        await trio.sleep(1)
        assert store.keys() == ["d/e/"]
        await kernel.rmdir("d/e")
        assert store.keys() == ["d/"]
        assert await kernel.listdir() == ["d"]


@run_virtual
async def test_the_marker_of_a_directory_that_is_not_known_whole_is_right_too(tmp_path: Path) -> None:
    store = filled(30)
    async with mounted(store, tmp_path, metadata_ttl_seconds=0.0) as kernel:
        for number in range(30):
            await kernel.unlink(f"d/f{number:04}")
        await trio.sleep(2)
        assert store.keys() == ["d/"]


@run_virtual
async def test_rmdir_of_a_directory_with_another_clients_file_deletes_what_was_unlinked_and_says_so(
    tmp_path: Path,
) -> None:
    store = filled(20)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        store.place("d/new", b"x")
        with pytest.raises(NotEmpty):
            await kernel.rmdir("d")
        await trio.sleep(10)
        assert store.keys() == ["d/", "d/new"]
        kernel.expire()
        assert await kernel.listdir("d") == ["new"]


@run_virtual
async def test_more_pending_than_a_page_holds_does_not_confuse_rmdir(tmp_path: Path) -> None:
    store = filled(PROOFS + 999)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        await rm_r(kernel, "d")
        assert store.keys() == []


@run_virtual
async def test_rmdir_is_right_on_a_store_with_small_pages(tmp_path: Path) -> None:
    store = filled(40, page_max=10)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        store.place("d/z", b"another client's")
        with pytest.raises(NotEmpty):
            await kernel.rmdir("d")
        assert store.keys() == ["d/", "d/z"]
        store.remove("d/z")
        await kernel.rmdir("d")
        assert store.keys() == []


@run_virtual
async def test_the_directory_is_kept_in_mind_though_the_kernel_forgets_it(tmp_path: Path) -> None:
    store = filled(20)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        kernel.drop_caches()
        assert await kernel.listdir("d") == []
        await trio.sleep(1)
        kernel.drop_caches()
        assert len(kernel.fs._tree.inodes) == 1


# what goes wrong


@run_virtual
async def test_a_key_that_could_not_be_deleted_is_there_again_and_rmdir_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(20)
    store.place("d/")
    store.undeletable["d/f0015"] = REFUSED
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        with pytest.raises(AccessDenied) as caught:
            await kernel.rmdir("d")
        assert caught.value.errno == errno.EACCES
        assert "d/f0015" in store.objects
        assert await kernel.listdir("d") == ["f0015"]
        assert await kernel.read("d/f0015") == b"15"
        assert [failure.path for failure in kernel.fs.undeleted] == ["d/f0015"]
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert line.startswith("files were not deleted, they are there again count=1 example=d/f0015 reason=")
        with pytest.raises(AccessDenied):
            await kernel.unlink("d/f0015")  # it has to prove again
        with pytest.raises(NotEmpty):
            await kernel.rmdir("d")


@run_virtual
async def test_fsync_of_the_directory_waits_and_says_what_was_not_deleted_once(tmp_path: Path) -> None:
    store = filled(20)
    store.place("d/")
    store.undeletable["d/f0015"] = REFUSED
    async with mounted(store, tmp_path) as kernel:
        await unlink_all(kernel)
        fh = await kernel.fs.opendir(await kernel.ino("d"))
        with pytest.raises(AccessDenied):
            await kernel.fs.fsyncdir(fh)
        assert store.keys() == ["d/", "d/f0015"]
        await kernel.fs.fsyncdir(fh)
        kernel.fs.releasedir(fh)


@run_virtual
async def test_an_object_that_another_client_has_put_there_meanwhile_survives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(20)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        names = await unlink_all(kernel)
        store.place(f"d/{names[-1]}", b"another client's")
        await trio.sleep(1)
        assert store.keys() == ["d/", f"d/{names[-1]}"]
        assert await kernel.read(f"d/{names[-1]}") == b"another client's"
        assert "another client had changed count=1" in caplog.text
        assert kernel.fs.undeleted == ()


@run_virtual
async def test_a_lost_reply_of_a_batch_makes_its_names_be_asked_for_again(tmp_path: Path) -> None:
    store = filled(20)
    store.place("d/")
    store.fail("delete_many", LostReply("lost"), when="after")
    async with mounted(store, tmp_path) as kernel:
        names = await unlink_all(kernel)
        with pytest.raises(LostReply):
            await kernel.rmdir("d")
        assert not await kernel.exists(f"d/{names[-1]}")
        assert await kernel.listdir("d") == []
        await kernel.rmdir("d")
        assert store.keys() == []


@run_virtual
async def test_a_burst_that_is_refused_is_told_file_by_file(tmp_path: Path) -> None:
    store = filled(20)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        for name in await kernel.listdir("d"):
            store.undeletable[f"d/{name}"] = REFUSED
            with pytest.raises(AccessDenied):
                await kernel.unlink(f"d/{name}")
        assert len(await kernel.listdir("d")) == 20


@run_virtual
async def test_on_a_full_disk_each_deletion_is_sent_before_it_is_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, paper = filled(40), FullPaper()
    store.place("d/")
    async with mounted(store, tmp_path, paper=paper) as kernel:
        paper.full = True
        await unlink_all(kernel)
        assert store.keys() == ["d/"]
        assert caplog.text.count("cannot be written down") == 1
        paper.full = False
    assert Removals(paper).left == ()


@run_virtual
async def test_no_more_are_pending_than_the_limit(tmp_path: Path) -> None:
    store = filled(PENDING_MAX + 100)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("d")
        store.reset_counts()

        async def hold(call: Call) -> None:
            if call.operation == "delete_many":
                await trio.sleep(5)

        store.before = hold
        for name in names:
            await kernel.unlink(f"d/{name}")
            assert len(kernel.fs._tree.deleting._pending) <= PENDING_MAX
        assert store.counts["delete"] == 100
        await trio.sleep(100)
        assert store.keys() == ["d/"]


# the end of the mount


@run_virtual
async def test_the_end_of_the_mount_sends_what_is_pending(tmp_path: Path) -> None:
    store, paper = filled(20), PaperInMemory()
    store.place("d/")
    async with mounted(store, tmp_path, paper=paper) as kernel:
        await unlink_all(kernel)
        kernel.fs.refuse_new_writers()
        assert await kernel.fs.sync_all() == []
        assert store.keys() == ["d/"]
        with pytest.raises(ReadOnly):
            await kernel.fs.unlink(await kernel.ino(""), b"d", ME)
    assert Removals(paper).left == ()


@pytest.mark.parametrize("when", ["before", "after"])
@run_virtual
async def test_a_daemon_killed_around_its_batch_has_deleted_what_it_acknowledged_after_the_next_start(
    tmp_path: Path, when: str
) -> None:
    store, paper = filled(20), PaperInMemory()
    store.place("d/")
    killed = trio.Event()

    async def kill(call: Call) -> None:
        if call.operation == "delete_many":
            killed.set()
            await trio.sleep_forever()

    setattr(store, when, kill)
    async with mounted(store, tmp_path, paper=paper) as kernel:
        names = await unlink_all(kernel)
        await killed.wait()
    store.before = store.after = None
    assert len(store.keys("d/f")) == (20 - PROOFS if when == "before" else 0)
    store.place(f"d/{names[-1]}", b"another client's")
    await finish(store, Removals(paper))
    assert store.keys() == ["d/", f"d/{names[-1]}"]
    async with mounted(store, tmp_path, paper=paper) as kernel:
        assert await kernel.listdir("d") == [names[-1]]


@run_virtual
async def test_what_was_refused_or_is_another_clients_is_no_business_of_the_next_start(tmp_path: Path) -> None:
    store, paper = filled(20), PaperInMemory()
    store.place("d/")
    store.undeletable["d/f0015"] = REFUSED
    async with mounted(store, tmp_path, paper=paper) as kernel:
        await unlink_all(kernel)
        store.place("d/f0016", b"another client's")
        await trio.sleep(1)
    assert Removals(paper).left == ()


@run_virtual
async def test_two_processes_delete_one_tree(tmp_path: Path) -> None:
    """rm -r twice at the same time: each may miss what the other has removed, together they leave nothing."""
    store = MemoryStore()
    for number in range(200):
        store.place(f"t/d{number % 4}/f{number}", b"x")
    async with mounted(store, tmp_path) as kernel:

        async def remove(pid: int, names: list[str]) -> None:
            for name in names:
                await trio.lowlevel.checkpoint()
                try:
                    await kernel.fs.unlink(*await kernel._old(name), replace(ME, pid=pid))
                except NoEntry:
                    pass
                kernel.dentries.clear()

        names = [key for key in store.keys("t/") if not key.endswith("/")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove, 1, names)
            nursery.start_soon(remove, 2, names[::-1])
        for number in range(4):
            await kernel.rmdir(f"t/d{number}")
        await kernel.rmdir("t")
        await trio.sleep(1)
        assert store.keys() == []


@run_virtual
async def test_what_is_unlinked_while_a_rename_replaces_a_flagged_directory_does_not_come_back(tmp_path: Path) -> None:
    store = filled(PROOFS + 2)
    store.place("d/")
    store.place("e/")
    store.place("e/.s3mount-attrs")
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("d")
        for name in names[:PROOFS]:
            await kernel.unlink(f"d/{name}")

        async def unlink(call: Call) -> None:
            if call.operation == "delete" and call.key == "e/.s3mount-attrs":
                await kernel.unlink(f"d/{names[-1]}")

        store.after = unlink
        await kernel.rename("d", "e")
        await trio.sleep(10)
        assert await kernel.listdir("e") == names[PROOFS:-1]
    assert store.keys() == ["e/", f"e/{names[PROOFS]}"]


@run_virtual
async def test_the_next_start_lets_stand_what_another_client_has_put_back_byte_for_byte(tmp_path: Path) -> None:
    store, paper = filled(20), PaperInMemory()
    store.place("d/")
    killed = trio.Event()

    async def kill(call: Call) -> None:
        if call.operation == "delete_many":
            killed.set()
            await trio.sleep_forever()

    store.before = kill
    async with mounted(store, tmp_path, paper=paper) as kernel:
        names = await unlink_all(kernel)
        await killed.wait()
    store.before = None
    store.placed_seconds_ago = 0
    store.place(f"d/{names[-1]}", store.body(f"d/{names[-1]}"))
    await finish(store, Removals(paper))
    assert store.keys() == ["d/", f"d/{names[-1]}"]


@run_virtual
async def test_a_marker_overtakes_no_full_batch_when_all_that_were_under_way_land_at_once(tmp_path: Path) -> None:
    """Some stores keep a marker, and say nothing, while keys lie below it."""
    for _ in range(8):  # the order of tasks is drawn
        await rmdir_behind_full_batches(tmp_path)


async def rmdir_behind_full_batches(tmp_path: Path) -> None:
    store = filled(PROOFS + BATCHES_MAX * BATCH_MAX + 600, "x/")
    for number in range(400):
        store.place(f"d/f{number:04}", b"x")
    for marker in ("x/", "d/"):
        store.place(marker)
    below: list[int] = []
    go_on = trio.Event()

    async def hold(call: Call) -> None:
        if call.operation == "delete_many":
            await go_on.wait()
        if call.operation == "delete" and call.key == "d/":
            below.append(len(store.keys("d/f")))

    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("d")
        store.before = hold
        await unlink_all(kernel, "x")
        await unlink_all(kernel, "d")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.rmdir, "d")
            await trio.sleep(0.01)
            go_on.set()
        assert below == [0]


@run_virtual
async def test_a_link_takes_the_name_of_a_file_whose_deletion_is_pending(tmp_path: Path) -> None:
    store = filled(PROOFS + 1)
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        names = await unlink_all(kernel)
        parent = await kernel.ino("d")
        assert f"d/{names[-1]}" in store.objects
        await kernel.fs.symlink(parent, names[-1].encode(), b"target", ME)
        await trio.sleep(10)
        assert store.body(f"d/{names[-1]}") == b"target"
        assert await kernel.listdir("d") == [names[-1]]
        await kernel.unlink(f"d/{names[-1]}")
        assert store.keys("d/f") == []  # a link may be a lock: who made it means its end to be seen
