"""Rename of files and directories on a store that renames: one request each, and no moment at which a program misses a
file."""

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount.errors import AccessDenied, Busy, Exists, LostReply, NoEntry, Stale, TooMany, Unavailable
from s3mount.store.base import Headers
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.test_rename import costs
from tests.unit.test_rename_races import once

HEADERS = Headers(content_type="text/x-mine", metadata={"who": "me"})


def directory(count: int = 2) -> MemoryStore:
    store = MemoryStore(renaming="kept")
    store.place("d/", b"")
    for number in range(count):
        store.place(f"d/s{number % 3}/f{number}", f"body {number}".encode(), HEADERS)
    return store


@run_virtual
async def test_mv_of_a_file_costs_one_request_and_keeps_number_and_headers(tmp_path: Path) -> None:
    store = MemoryStore(renaming="kept")
    store.place("f", b"content", HEADERS)
    async with mounted(store, tmp_path) as kernel:
        before = await kernel.stat("f")
        await kernel.rename("f", "g")
        assert costs(store) == {"rename": 1}
        after = await kernel.stat("g")
        assert (after.ino, after.mtime_ns, after.size) == (before.ino, before.mtime_ns, 7)
        await trio.sleep(10)
        assert (await kernel.stat("g")).ino == before.ino
        assert await kernel.read("g") == b"content"
        assert await kernel.listdir() == ["g"]
        assert store.objects["g"].headers == HEADERS


@run_virtual
async def test_mv_onto_a_file_copies_so_that_a_late_open_of_it_cannot_store_over_the_only_one(tmp_path: Path) -> None:
    store = MemoryStore(renaming="kept")
    store.place("f", b"new")
    store.place("target", b"old")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("target")

        async def write_target() -> None:
            fh = await kernel.fs.open(ino, os.O_WRONLY | os.O_TRUNC)
            await kernel.fs.write(fh, 0, b"late")
            await kernel.fs.flush(fh)

        store.after = once("copy", write_target)
        await kernel.rename("f", "target")
        assert await kernel.read("target") == b"new"
        assert store.keys() == ["target"]


@run_virtual
async def test_a_target_that_nobody_here_has_seen_is_replaced_only_once_it_is_seen(tmp_path: Path) -> None:
    store = MemoryStore(renaming="kept")
    store.place("f", b"new")
    async with mounted(store, tmp_path) as kernel:
        assert not await kernel.exists("g")
        store.place("g", b"foreign")
        await kernel.rename("f", "g")
        assert [call.operation for call in store.calls if call.operation in ("rename", "copy")] == ["rename", "copy"]
        assert store.keys() == ["g"]
        assert store.body("g") == b"new"


@run_virtual
async def test_noreplace_holds_against_a_file_that_comes_in_the_last_moment(tmp_path: Path) -> None:
    for renaming, operation in (("kept", "rename"), ("refused", "copy")):
        store = MemoryStore(renaming=renaming)  # type: ignore[arg-type]
        store.place("f", b"new")

        async def other(store: MemoryStore = store) -> None:
            store.place("g", b"foreign")

        store.before = once(operation, other)
        async with mounted(store, tmp_path) as kernel:
            with pytest.raises(Exists):
                await kernel.rename("f", "g", no_replace=True)
        assert (store.body("f"), store.body("g")) == (b"new", b"foreign")


@run_virtual
async def test_a_store_that_stops_renaming_is_sent_copies(tmp_path: Path) -> None:
    store = directory(5)
    store.place("f", b"content")
    async with mounted(store, tmp_path) as kernel:
        store.stop_renaming()
        await kernel.rename("f", "g")
        assert costs(store) == {"rename": 1, "copy": 1, "delete": 1}
        await kernel.rename("d", "e")
        assert store.counts["rename"] == 0
        assert (len(store.keys("e/")), store.keys("d/")) == (6, [])


@run_virtual
async def test_a_directory_on_a_store_that_stops_renaming_is_moved_all_the_same(tmp_path: Path) -> None:
    store = directory(5)
    async with mounted(store, tmp_path) as kernel:

        async def stop() -> None:
            store.stop_renaming()

        store.after = once("rename", stop)
        await kernel.rename("d", "e")
        assert (len(store.keys("e/")), store.keys("d/")) == (6, [])
        assert store.keys(".s3mount") == []


@pytest.mark.parametrize("synced", [False, True])
@run_virtual
async def test_mv_of_a_file_still_open_for_writing(tmp_path: Path, synced: bool) -> None:
    """B5"""
    store = MemoryStore(renaming="kept")
    async with mounted(store, tmp_path) as kernel:
        writer = await kernel.open("tmp", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        await kernel.fs.write(writer, 0, b"first ")
        if synced:
            await kernel.fs.fsync(writer)
        await kernel.rename("tmp", "target")
        await kernel.fs.write(writer, 6, b"second")
        await kernel.close(writer)
        assert store.keys() == ["target"]
        assert store.body("target") == b"first second"


@pytest.mark.parametrize("renaming", ["kept", "refused"])
@run_virtual
async def test_a_read_in_flight_while_its_file_is_moved_is_answered(tmp_path: Path, renaming: str) -> None:
    store = MemoryStore(renaming=renaming)  # type: ignore[arg-type]
    store.place("f", b"0123456789" * 100_000)
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        reader = await kernel.open("f")

        async def slow(call: Call) -> None:
            if call.operation in ("rename", "delete"):
                await trio.sleep(5)

        store.after = slow
        nursery.start_soon(kernel.rename, "f", "g")
        await trio.sleep(1)
        assert bytes(await kernel.fs.read(reader, 900_000, 10)) == b"0123456789"
        await kernel.close(reader)


@pytest.mark.parametrize("again", [False, True])
@run_virtual
async def test_a_rename_that_lost_its_reply_loses_no_byte_and_is_no_conflict(tmp_path: Path, again: bool) -> None:
    store = MemoryStore(renaming="kept")
    store.place("f", b"old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(fh, 3, b", new")
        store.fail("rename", LostReply("lost"), when="after")
        with pytest.raises(LostReply):
            await kernel.rename("f", "g")
        assert bytes(await kernel.fs.read(fh, 0, 100)) == b"old, new"
        if again:
            await kernel.rename("f", "g")
        await kernel.close(fh)
        assert store.body("g" if again else "f") == b"old, new"


@pytest.mark.parametrize("when", ["before", "after"])
@run_virtual
async def test_programs_find_a_closed_file_where_it_is_after_a_rename_without_a_reply(
    tmp_path: Path, when: str
) -> None:
    store = MemoryStore(renaming="kept")
    store.place("f", b"content")
    async with mounted(store, tmp_path) as kernel:
        assert not await kernel.exists("g")
        store.fail("rename", LostReply("lost"), when=when)  # type: ignore[arg-type]
        with pytest.raises(LostReply):
            await kernel.rename("f", "g")
        kernel.expire()
        where, nowhere = ("f", "g") if when == "before" else ("g", "f")
        assert await kernel.read(where) == b"content"
        with pytest.raises(NoEntry):
            await kernel.read(nowhere)


# directories


@run_virtual
async def test_mv_of_a_directory_of_500_costs_a_request_each_and_a_few(tmp_path: Path) -> None:
    store = MemoryStore(renaming="kept")
    for number in range(500):
        store.place(f"d/f{number}", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        assert not await kernel.exists("e")
        store.reset_counts()
        await kernel.rename("d", "e")
        assert store.counts["rename"] == 500
        assert store.counts.total() <= 520
        assert (len(store.keys("e/")), store.keys("d/")) == (500, [])


async def _look(kernel: Kernel, seen: list[tuple[list[str], bytes]], path: str) -> None:
    names = sorted(await kernel.listdir("d/s0"))
    seen.append((names, await kernel.read(path)))


@run_virtual
async def test_who_looks_into_a_directory_that_moves_waits_and_finds_all_of_it(tmp_path: Path) -> None:
    """Keys go one by one: half a listing, or ENOENT for a file that is there, would be a wrong answer."""
    store = directory(60)
    store.latency_seconds = 0.1
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        known = await kernel.ino("d/s1/f1")
        inside = await kernel.ino("d/s0")
        nursery.start_soon(kernel.rename, "d", "e")
        await trio.sleep(0.65)
        moved = len(store.keys("e/"))
        assert 1 < moved < 60
        found: dict[str, object] = {}

        async def look_up() -> None:
            found["lookup"] = (await kernel.fs.lookup(inside, b"f3")).size

        async def open_known() -> None:
            fh = await kernel.fs.open(known, os.O_RDONLY)
            found["open"] = bytes(await kernel.fs.read(fh, 0, 100))
            await kernel.fs.release(fh)

        async def listing() -> None:
            fh = await kernel.fs.opendir(inside)
            told, _ = await kernel.getdents(fh, inside, 0, 100)
            kernel.fs.releasedir(fh)
            found["listing"] = len(told)

        for action in (look_up, open_known, listing):
            nursery.start_soon(action)
    assert found == {"lookup": 6, "open": b"body 1", "listing": 2 + 20}
    assert store.keys("d/") == []


@run_virtual
async def test_a_listing_in_flight_when_a_directory_begins_to_move_tells_all_of_it(tmp_path: Path) -> None:
    store = directory(60)
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        inside = await kernel.ino("d/s0")
        names: list[bytes] = []

        async def listing() -> None:
            fh = await kernel.fs.opendir(inside)
            told, _ = await kernel.getdents(fh, inside, 0, 100)
            kernel.fs.releasedir(fh)
            names.extend(name for name, _ in told)

        async def late(call: Call) -> None:
            if call.operation == "list" and call.key == "d/s0/":
                await trio.sleep(1)

        store.before = late
        nursery.start_soon(listing)
        await trio.sleep(0.5)
        await kernel.rename("d", "e")
    assert len(names) == 2 + 20


@run_virtual
async def test_what_is_open_dirty_or_new_below_a_directory_moves_along(tmp_path: Path) -> None:
    store = directory(10)
    async with mounted(store, tmp_path) as kernel:
        fresh = await kernel.open("d/new", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fresh, 0, b"unsaved")
        dirty = await kernel.open("d/s1/f1", os.O_WRONLY | os.O_APPEND)
        await kernel.fs.write(dirty, 6, b" and more")
        reader = await kernel.open("d/s2/f2")
        await kernel.rename("d", "e")
        assert store.keys("d/") == []
        assert await kernel.pread(reader, 0, 100) == b"body 2"
        for fh in (fresh, dirty, reader):
            await kernel.close(fh)
        assert store.body("e/new") == b"unsaved"
        assert store.body("e/s1/f1") == b"body 1 and more"
        assert await kernel.read("e/s1/f1") == b"body 1 and more"
        assert store.keys(".s3mount") == []


@pytest.mark.parametrize("when", ["before", "after"])
@run_virtual
async def test_a_file_unlinked_in_the_moment_its_directory_moves_does_not_come_back(tmp_path: Path, when: str) -> None:
    store = directory(10)
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        await kernel.ino("d/s1/f1")

        async def slow(call: Call) -> None:
            if call.operation == "delete" and call.key == "d/s1/f1":
                await trio.sleep(1)
            elif call.operation == "rename" and call.key == "e/s2/f2":
                await trio.sleep(3)

        setattr(store, when, slow)
        nursery.start_soon(kernel.unlink, "d/s1/f1")
        await trio.sleep(0.1)
        nursery.start_soon(kernel.rename, "d", "e")
        await trio.sleep(10)
        assert "e/s1/f1" not in store.objects
        assert not await kernel.exists("e/s1/f1")


@pytest.mark.parametrize("error", [Unavailable("500", status=500), LostReply("lost")])
@run_virtual
async def test_a_directory_move_that_fails_is_undone(tmp_path: Path, error: Exception) -> None:
    store = directory(60)
    before = store.keys()
    async with mounted(store, tmp_path) as kernel:
        opened = await kernel.open("d/s0/f0", os.O_RDWR)
        store.fail("rename", error, skip=30, when="after" if isinstance(error, LostReply) else "before")
        with pytest.raises(type(error)):
            await kernel.rename("d", "e")
        assert store.keys() == before
        assert len(await kernel.listdir("d/s1")) == 20
        assert not await kernel.exists("e")
        await kernel.fs.write(opened, 0, b"BODY")
        await kernel.close(opened)
        assert store.body("d/s0/f0") == b"BODY 0"


@run_virtual
async def test_a_directory_over_the_limit_is_not_moved(tmp_path: Path) -> None:
    store = directory(30)
    before = store.keys()
    async with mounted(store, tmp_path, rename_objects_max=30) as kernel:
        with pytest.raises(TooMany, match="--rename-limit"):
            await kernel.rename("d", "e")
        assert store.keys() == before
        store.remove("d/s0/f0")
        await kernel.rename("d", "e")
        assert len(store.keys("e/")) == 30


@run_virtual
async def test_progress_is_shown_while_a_directory_moves(tmp_path: Path) -> None:
    for renaming in ("kept", "refused"):
        store = directory(20)
        if renaming == "refused":
            store.stop_renaming()
            store.renames = False
        async with mounted(store, tmp_path) as kernel:
            seen: list[tuple[int, int]] = []
            transits = kernel.fs._tree.transits

            async def look(call: Call, transits=transits, seen=seen) -> None:  # type: ignore[no-untyped-def]
                if call.operation in ("rename", "copy"):
                    (progress,) = transits.progress.values()
                    assert (progress.former, progress.target) == ("d/", "e/")
                    seen.append((progress.done, progress.total))

            store.before = look
            await kernel.rename("d", "e")
            assert {total for _, total in seen} == {21}
            assert max(done for done, _ in seen) >= 4
            assert not transits.progress


@run_virtual
async def test_a_file_changed_elsewhere_is_moved_as_it_is_now(tmp_path: Path) -> None:
    store = MemoryStore(renaming="kept")
    store.place("f", b"one")
    async with mounted(store, tmp_path) as kernel:
        await kernel.stat("f")
        store.place("f", b"two, longer")
        await kernel.rename("f", "g")
        assert store.keys() == ["g"]
        assert await kernel.read("g") == b"two, longer"
        ino = await kernel.ino("g")
        store.place("g", b"three")
        with pytest.raises(Stale):
            await kernel.fs.open(ino, os.O_RDONLY)


@run_virtual
async def test_renames_elsewhere_without_a_pause_hold_up_neither_a_listing_nor_a_lookup(tmp_path: Path) -> None:
    store = MemoryStore(renaming="kept")
    for key in ("d/a", "d/b", *(f"other{number}/f" for number in range(16))):
        store.place(key, b"x")
    seconds = {"list": 0.05, "head": 0.05, "rename": 0.01}

    async def take_time(call: Call) -> None:
        await trio.sleep(seconds[call.operation])

    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:

        async def rename_on_and_on(number: int) -> None:
            here, there = f"other{number}/f", f"other{number}/g"
            while True:
                await kernel.rename(here, there)
                here, there = there, here

        store.before = take_time
        for number in range(16):
            nursery.start_soon(rename_on_and_on, number)
            await trio.sleep(0.01)
        with trio.fail_after(5):
            assert await kernel.listdir("d") == ["a", "b"]
            assert not await kernel.exists("e/x")
            await trio.sleep(2)
            assert await kernel.exists("d/a")
        nursery.cancel_scope.cancel()


@run_virtual
async def test_a_store_that_is_found_to_rename_while_a_directory_is_copied_is_sent_copies_to_the_end(
    tmp_path: Path,
) -> None:
    """Programs have not been told to wait: each file is at its former key until all are at their new one."""
    store = directory(40)
    store.renames = False
    async with mounted(store, tmp_path) as kernel:

        async def found() -> None:
            store.renames = True

        store.after = once("copy", found)
        await kernel.rename("d", "e")
        assert store.counts["rename"] == 0
        assert (len(store.keys("e/")), store.keys("d/")) == (41, [])


@run_virtual
async def test_what_was_unlinked_while_it_was_on_its_way_does_not_come_back_when_the_move_is_undone(
    tmp_path: Path,
) -> None:
    store = directory(4)
    renamed, deleted = trio.Event(), trio.Event()

    async def before(call: Call) -> None:
        if (call.operation, call.key) == ("delete", "d/s0/f0"):
            await renamed.wait()
        if (call.operation, call.key) == ("rename", "e/s2/f2"):
            await deleted.wait()
            raise AccessDenied("403", code="AccessDenied", status=403)

    async def after(call: Call) -> None:
        if (call.operation, call.key) == ("rename", "e/s0/f0"):
            renamed.set()
        if (call.operation, call.key) == ("delete", "d/s0/f0"):
            deleted.set()

    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("d/s0")
        store.before, store.after = before, after
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.unlink, "d/s0/f0")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(AccessDenied):
                await kernel.rename("d", "e")
        assert store.keys("e/") == []
        assert [key for key in store.keys("d/") if not key.endswith("/")] == ["d/s0/f3", "d/s1/f1", "d/s2/f2"]
        assert not await kernel.exists("d/s0/f0")


@pytest.mark.parametrize("taken", ["f1", "all"])
@run_virtual
async def test_a_move_whose_objects_another_client_takes_is_refused_and_undone(
    tmp_path: Path, taken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two machines rename one directory: each would have a part of it, and both would say that all went well."""
    store = directory(5)
    whole = sorted(key for key in list(store.objects) if not key.endswith("/"))

    async def take() -> None:
        for key in [key for key in whole if key in store.objects and (taken == "all" or key.endswith(taken))]:
            store.place("theirs/" + key, store.body(key), HEADERS)
            store.remove(key)

    store.before = once("rename", take)
    async with mounted(store, tmp_path) as kernel:
        with pytest.raises(Busy):
            await kernel.rename("d", "e")
        assert not await kernel.exists("e")
    assert "another client took objects out of it" in caplog.text
    left = sorted(
        key.removeprefix("theirs/") for key in list(store.objects) if not key.endswith("/") and ".s3mount" not in key
    )
    assert left == whole


@pytest.mark.parametrize("renaming", ["kept", "refused"])
@run_virtual
async def test_two_machines_that_move_one_directory_lose_nothing_and_at_most_one_is_told_that_it_has_all(
    tmp_path: Path, renaming: str
) -> None:
    store = MemoryStore(renaming=renaming, latency_seconds=0.01)  # type: ignore[arg-type]
    for number in range(60):
        store.place(f"src/f{number}", f"{number}".encode())
    told: dict[str, bool] = {}
    other = tmp_path / "other"
    other.mkdir()

    async with mounted(store, tmp_path) as first, mounted(store, other) as second:

        async def move(kernel: Kernel, target: str) -> None:
            try:
                await kernel.rename("src", target)
                told[target] = True
            except Busy:
                told[target] = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move, first, "X")
            nursery.start_soon(move, second, "Y")
    names = {key.partition("/")[2] for key in list(store.objects) if key.startswith(("src/f", "X/f", "Y/f"))}
    assert names == {f"f{number}" for number in range(60)}
    if renaming == "kept":
        assert not all(told.values())
