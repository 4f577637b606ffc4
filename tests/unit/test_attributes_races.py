"""Attributes when things happen at the same time, or one after another at the same name: none is lost, none is
another's."""

import os
import stat
from pathlib import Path

import pytest
import trio

from s3mount.errors import LostReply, Unavailable
from s3mount.store.base import Headers
from s3mount.vfs.attributes import Changes
from s3mount.vfs.flags import FLAG
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.test_changing import PAST, change, chmod, metadata, mode_text, mounting, place, prove

DIR = stat.S_IFDIR


def directory(store: MemoryStore, prefix: str, mode: int) -> None:
    """Another client's, with a mode of its own."""
    store.place(FLAG)
    store.place(prefix)
    store.place(prefix + FLAG, b"", Headers(metadata={"mode": str(DIR | mode)}))


async def mode_of(kernel: Kernel, path: str) -> int:
    return stat.S_IMODE((await kernel.stat(path)).mode)


# directories


@run_virtual
async def test_a_directory_moved_to_where_another_was_shows_its_own_attributes_at_once(tmp_path: Path) -> None:
    store = MemoryStore()
    directory(store, "d/", 0o700)
    directory(store, "d/below/", 0o711)
    store.place("x/below/f", b"")
    async with mounted(store, tmp_path) as kernel:
        assert (await mode_of(kernel, "d"), await mode_of(kernel, "d/below")) == (0o700, 0o711)
        assert await mode_of(kernel, "x") == 0o755
        await kernel.rename("d", "e")
        await kernel.rename("x", "d")
        kernel.expire()
        await kernel.listdir()
        await kernel.listdir("d")
        assert (await mode_of(kernel, "e"), await mode_of(kernel, "d")) == (0o700, 0o755)
        assert await mode_of(kernel, "d/below") == 0o755


@run_virtual
async def test_a_directory_moved_to_where_another_was_removed_shows_its_own_attributes_at_once(tmp_path: Path) -> None:
    store = MemoryStore()
    directory(store, "d/", 0o700)
    store.place("x/f", b"")
    async with mounted(store, tmp_path) as kernel:
        assert (await mode_of(kernel, "d"), await mode_of(kernel, "x")) == (0o700, 0o755)
        await kernel.rmdir("d")
        await kernel.rename("x", "d")
        kernel.expire()
        await kernel.listdir()
        assert await mode_of(kernel, "d") == 0o755


@run_virtual
async def test_what_another_client_changes_of_a_directory_is_shown_although_it_was_changed_here_before(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    store.place("d/f", b"")
    async with mounting(store, tmp_path) as kernel:
        await chmod(kernel, "d", 0o700)
        await change(kernel, "d", mtime_ns=PAST, atime_ns=PAST)
        store.place(f"d/{FLAG}", b"", Headers(metadata={"mode": str(DIR | 0o711), "uid": "7", "mtime": "5"}))
        await trio.sleep(20)
        shown = await kernel.stat("d")
        assert (stat.S_IMODE(shown.mode), shown.uid, shown.mtime_ns) == (0o711, 7, 5_000_000_000)


@run_virtual
async def test_an_answer_that_was_on_its_way_does_not_take_a_change_of_a_directory_back(tmp_path: Path) -> None:
    store = MemoryStore()
    directory(store, "d/", 0o711)
    async with mounting(store, tmp_path) as kernel:
        ino = await kernel.ino("d")
        await trio.sleep(20)

        async def late(call: Call) -> None:
            if call.operation == "head" and call.key == f"d/{FLAG}":
                store.after = None
                await trio.sleep(2)

        store.after = late
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.fs.getattr, ino)
            await trio.sleep(1)
            await kernel.fs.setattr(ino, Changes(mode=0o700), None)
        assert stat.S_IMODE((await kernel.fs.getattr(ino)).mode) == 0o700
        kernel.drop_caches()
        assert await mode_of(kernel, "d") == 0o700


@run_virtual
async def test_a_change_of_a_directory_to_what_it_was_long_ago_is_stored(tmp_path: Path) -> None:
    store = MemoryStore()
    directory(store, "d/", 0o755)
    async with mounting(store, tmp_path) as kernel:
        ino = await kernel.ino("d")
        directory(store, "d/", 0o700)
        await trio.sleep(20)
        await kernel.fs.setattr(ino, Changes(mode=0o755), None)
        assert metadata(store, f"d/{FLAG}").get("mode", str(DIR | 0o755)) == str(DIR | 0o755)
        assert await mode_of(kernel, "d") == 0o755


@run_virtual
async def test_a_directory_made_while_one_above_is_moved_is_where_the_other_is_then(tmp_path: Path) -> None:
    for mode in (0o755, 0o700):
        store = MemoryStore()
        store.place("d/sub/f", b"")
        async with mounting(store, tmp_path) as kernel:
            parent = await kernel.ino("d/sub")

            async def slow(call: Call) -> None:
                if call.operation == "put" and call.key == "d/sub/new/":
                    await trio.sleep(10)

            store.before = slow
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kernel.fs.mkdir, parent, b"new", DIR | mode, ME)
                await trio.sleep(1)
                await kernel.rename("d", "e")
            assert not store.keys("d/")
            assert "e/sub/new/" in store.objects
            assert await mode_of(kernel, "e/sub/new") == mode
            assert (f"e/sub/new/{FLAG}" in store.objects) is (mode == 0o700)


# flags


@run_virtual
async def test_a_flag_that_is_put_while_its_directory_is_moved_goes_along(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"")
    async with mounting(store, tmp_path) as kernel:
        await kernel.listdir("d")

        async def slow(call: Call) -> None:
            if call.operation == "put" and call.key == f"d/{FLAG}":
                await trio.sleep(10)

        store.before = slow
        fh = await kernel.open("d/g", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        await kernel.fs.write(fh, 0, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.close, fh)
            await trio.sleep(1)
            await kernel.rename("d", "e")
        assert store.keys() == [f"e/{FLAG}", "e/f", "e/g"]
        assert metadata(store, "e/g") == {"mode": mode_text(0o600)}


@run_virtual
async def test_what_the_marker_of_a_directory_says_outlives_a_flag_for_an_entry(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place(FLAG)
    store.place("d/", b"", Headers(metadata={"mode": str(DIR | 0o711), "uid": "7"}))
    async with mounting(store, tmp_path) as kernel:
        assert await mode_of(kernel, "d") == 0o711
        await kernel.write("d/g", b"x")
        await chmod(kernel, "d/g", 0o600)
        assert metadata(store, f"d/{FLAG}") == {"mode": str(DIR | 0o711), "uid": "7"}
        await trio.sleep(30)
        assert await mode_of(kernel, "d") == 0o711


@run_virtual
async def test_rm_r_where_nobody_has_put_a_flag_puts_none_and_leaves_no_key(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/")
    for number in range(5):
        store.place(f"d/f{number}", b"x", Headers(metadata={"mode": mode_text(0o600)}))
    async with mounting(store, tmp_path, attributes="auto") as kernel:
        for number in range(5):
            await kernel.read(f"d/f{number}")
        store.latency_seconds = 0.1
        store.reset_counts()
        for name in await kernel.listdir("d"):
            await kernel.unlink(f"d/{name}")
        await kernel.rmdir("d")
        await trio.sleep(10)
        assert store.keys() == []
        assert store.counts["put"] == 0


@run_virtual
async def test_a_flag_that_lands_when_its_directory_is_gone_goes_too(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/")
    store.place("d/f", b"x", Headers(metadata={"mode": mode_text(0o600)}))
    async with mounting(store, tmp_path) as kernel:
        await kernel.read("d/f")

        async def slow(call: Call) -> None:
            if call.operation == "put" and call.key == f"d/{FLAG}":
                await trio.sleep(10)

        store.before = slow
        await kernel.write("d/g", b"x")
        for name in ("d/f", "d/g"):
            await kernel.unlink(name)
        await kernel.rmdir("d")
        await trio.sleep(60)
        assert store.keys() == []


@run_virtual
async def test_many_writes_put_a_flag_that_is_owed_once(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"x", Headers(metadata={"mode": mode_text(0o600)}))
    async with mounting(store, tmp_path) as kernel:
        await kernel.read("d/f")
        await kernel.listdir("d")
        store.latency_seconds = 0.1
        store.reset_counts()
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(kernel.write, f"d/g{number}", b"x")
        await trio.sleep(10)
        assert [call.operation for call in store.calls if call.key == f"d/{FLAG}"] == ["head", "put"]


@run_virtual
async def test_the_flag_is_looked_for_again_after_a_rename_that_took_long(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place(FLAG)
    store.place("f", b"x", Headers(metadata={"mode": mode_text(0o600)}))
    store.place("d/g", b"")
    async with mounting(store, tmp_path) as kernel:
        assert await mode_of(kernel, "f") == 0o600

        async def slow(call: Call) -> None:
            if call.operation == "copy" and call.key == "d/f":
                store.objects.pop(f"d/{FLAG}")
                store._sorted = None
                await trio.sleep(60)

        store.before = slow
        await kernel.rename("f", "d/f")
        await trio.sleep(10)
        assert f"d/{FLAG}" in store.objects


# entries


@run_virtual
async def test_create_of_what_another_client_has_made_meanwhile_shows_its_attributes(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place(FLAG)
    store.place("other", b"")
    async with mounting(store, tmp_path) as kernel:
        root = await kernel.ino("")
        assert not await kernel.exists("f")
        store.place("f", b"hello", Headers(metadata={"mode": mode_text(0o640), "uid": "7"}))
        await trio.sleep(6)
        await kernel.listdir()
        fh, shown = await kernel.fs.create(root, b"f", stat.S_IFREG | 0o600, os.O_RDWR | os.O_CREAT, ME)
        assert (stat.S_IMODE(shown.mode), shown.uid, shown.size) == (0o640, 7, 5)
        await kernel.close(fh)


@run_virtual
async def test_a_link_takes_the_name_of_a_file_whose_deletion_is_pending(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(20):
        store.place(f"f{number:02}", b"")
    async with mounting(store, tmp_path) as kernel:
        root = await kernel.ino("")
        for number in range(20):
            await kernel.unlink(f"f{number:02}")
        assert "f19" in store.objects
        await kernel.fs.symlink(root, b"f19", b"target", ME)
        assert store.body("f19") == b"target"
        store.reset_counts()
        await kernel.unlink("f19")
        assert store.counts["delete"] == 1, "who makes links and removes them in turn means each to be seen"


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFDIR, stat.S_IFLNK])
@run_virtual
async def test_a_file_with_a_type_that_cannot_be_stays_a_file_when_it_is_written_or_changed(
    tmp_path: Path, kind: int
) -> None:
    body = b"" if kind == stat.S_IFLNK else b"hello"
    store = MemoryStore()
    store.place(FLAG)
    for name in ("f", "g"):
        store.place(name, body, Headers(metadata={"mode": str(kind | 0o640)}))
    async with mounting(store, tmp_path) as kernel:
        await kernel.write("f", b"HELLO", os.O_WRONLY)
        await change(kernel, "g", uid=7)
        fh = await kernel.open("g")
        await kernel.fs.fsync(fh)
        await kernel.close(fh)
        for _ in range(2):
            for name in ("f", "g"):
                assert (await kernel.stat(name)).mode == stat.S_IFREG | 0o640, name
            await trio.sleep(20)
            kernel.drop_caches()
        assert metadata(store, "f")["mode"] == mode_text(0o640)


@run_virtual
async def test_a_default_that_another_client_states_within_a_second_is_no_other_version(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place(FLAG)
    placed = store.place("f", b"x")
    async with mounting(store, tmp_path, attribute_requests_ahead_max=1) as kernel:
        kernel.store.placed_seconds_ago = 0
        placed = store.place("f", b"x")
        kernel.fs._inodes.root.contents.forget_all()
        kernel.expire()
        ino = await kernel.ino("f")
        store.place("f", b"x", Headers(metadata={"mode": mode_text(0o644)}), last_modified_ns=placed.last_modified_ns)
        await trio.sleep(10)
        assert await kernel.ino("f") == ino


# one file


@run_virtual
async def test_fsync_returns_when_a_copy_that_is_under_way_is_over(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        await chmod(kernel, "f", 0o600)

        async def slow(call: Call) -> None:
            if call.operation == "head":
                await trio.sleep(10)

        store.before = slow
        await trio.sleep(1.5)
        fh = await kernel.open("f")
        await kernel.fs.fsync(fh)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        await kernel.close(fh)


@run_virtual
async def test_a_rename_that_fails_while_a_copy_is_prepared_loses_no_change(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        await chmod(kernel, "f", 0o600)
        heads: list[Call] = []

        async def slow(call: Call) -> None:
            if call.operation == "head" and call.key == "f" and not heads:
                heads.append(call)
                await trio.sleep(2)
            if call.operation == "copy" and call.key == "g":
                await trio.sleep(5)
                raise Unavailable("503", status=503)

        store.before = slow
        await trio.sleep(1.5)
        with pytest.raises(Unavailable):
            await kernel.rename("f", "g")
        await trio.sleep(10)
        assert metadata(store, "f")["mode"] == mode_text(0o600)


@pytest.mark.parametrize("operation", ["put", "head"])
@run_virtual
async def test_an_open_for_writing_while_a_change_is_about_to_be_stored_loses_nothing(
    tmp_path: Path, operation: str
) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        await chmod(kernel, "f", 0o600)
        await trio.sleep(0.5)
        kernel.fs._inodes.root.contents.flag_at -= 100
        store.remove(FLAG)

        async def slow(call: Call) -> None:
            if call.operation == operation and call.key == FLAG:
                await trio.sleep(10)

        store.before = slow
        await trio.sleep(1)
        fh = await kernel.open("f", os.O_RDWR)
        await trio.sleep(60)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        await kernel.close(fh)
        assert await mode_of(kernel, "f") == 0o600


@run_virtual
async def test_a_change_during_the_upload_outlives_an_open_that_comes_behind_it(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:

        async def slow(call: Call) -> None:
            if call.operation == "put":
                await trio.sleep(10)

        store.before = slow
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        await kernel.fs.write(fh, 0, b"x")
        ino = await kernel.ino("f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.fs.flush, fh)
            await trio.sleep(5)
            await kernel.fs.setattr(ino, Changes(mode=0o600), None)
            await trio.sleep(10)  # the flag is being put
            other = await kernel.fs.open(ino, os.O_RDWR)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        await kernel.close(fh)
        await kernel.close(other)


@run_virtual
async def test_a_change_that_fails_does_not_give_new_bytes_the_time_of_the_old(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x", Headers(metadata={"mtime": "5"}))
        fh = await kernel.open("f", os.O_RDWR)
        await chmod(kernel, "f", 0o600)

        async def slow(call: Call) -> None:
            if call.operation == "copy":
                await trio.sleep(5)
                raise Unavailable("503", status=503)

        store.before = slow
        await trio.sleep(2)
        await kernel.fs.write(fh, 0, b"y")
        await trio.sleep(10)
        with pytest.raises(Unavailable):
            await kernel.close(fh)
        assert store.body("f") == b"y"
        assert "mtime" not in metadata(store, "f")


@run_virtual
async def test_a_file_cut_to_nothing_while_a_change_is_stored_has_a_time_of_its_own(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x", Headers(metadata={"mtime": "5"}))
        await chmod(kernel, "f", 0o600)

        async def late(call: Call) -> None:
            if call.operation == "head":
                store.after = None
                await trio.sleep(10)

        store.after = late
        fh = await kernel.open("f", os.O_WRONLY | os.O_TRUNC)
        await kernel.close(fh)
        assert store.body("f") == b""
        assert metadata(store, "f") == {"mode": mode_text(0o600)}


@run_virtual
async def test_a_lost_reply_is_no_conflict_where_no_etag_is_a_digest(tmp_path: Path) -> None:
    serial = iter(range(1000))
    store = MemoryStore(etag_of=lambda _body: f'"{next(serial):032x}"')
    async with mounting(store, tmp_path) as kernel:
        place(kernel, "f", b"hello")
        fh = await kernel.open("f", os.O_RDWR)
        store.fail("copy", LostReply("lost"), when="after")
        with pytest.raises(LostReply):
            await chmod(kernel, "f", 0o600)
        await kernel.fs.write(fh, 5, b" world")
        await kernel.close(fh)
        assert store.body("f") == b"hello world"
        assert not any("conflicts" in key for key in store.objects)
