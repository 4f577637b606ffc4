"""What is told of a path and what it costs, and what forgetting leaves: `s3mount stat`, `refresh`, `status`."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from s3mount.errors import Invalid, IsADirectory, NoEntry, NotADirectory, ReadOnly
from s3mount.store.base import Headers
from s3mount.vfs.attributes import ROOT
from s3mount.vfs.journaled import Journaled
from s3mount.vfs.rebuild import Progress
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.journal_tables import Spool, Table
from tests.unit.test_filesystem_tree import costs


def ignore(_progress: Progress) -> None:
    return


def table_size(kernel: Kernel) -> int:
    return len(kernel.fs._inodes)


@run_virtual
async def test_a_known_file_costs_one_head_and_leaves_no_inode(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("a", b"12345", Headers(metadata={"mode": str(0o100600), "colour": "red"}))
    async with mounted(store, tmp_path) as kernel:
        about = await kernel.fs.about(b"a")
        assert costs(store) == {"head": 1}
        assert about.info is not None
        assert (about.key, about.info.size, about.version) == ("a", 5, about.info.etag)
        assert about.special.mode == 0o100600
        assert table_size(kernel) == 1


@run_virtual
async def test_what_waits_in_the_journal_is_not_said_to_be_stored(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("a", b"12345")
    async with mounted(store, tmp_path) as kernel:
        table = Table()
        kernel.fs._tree.journaled = Journaled(table, Spool(table), "")
        assert (await kernel.fs.about(b"a")).state == "stored"
        table.add("a", 5)
        about = await kernel.fs.about(b"a")
        assert about.state == "waiting"
        assert about.info is not None, "it is described as it will be"
        assert await kernel.fs.key_of(b"a") == ("a", "waiting")
        fh = await kernel.open("a", os.O_WRONLY)
        await kernel.fs.write(fh, 0, b"x")
        assert (await kernel.fs.about(b"a")).state == "changed"
        await kernel.close(fh)


@run_virtual
async def test_a_directory_tells_of_marker_flag_and_its_own_attributes(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/", b"")
    store.place("d/.s3mount-attrs", b"", Headers(metadata={"mode": str(0o040700)}))
    store.place("e/f", b"")
    async with mounted(store, tmp_path) as kernel:
        made, implicit, root = [await kernel.fs.about(path) for path in (b"d/", b"/e", b"")]
        assert made.info is not None
        assert (made.key, made.flag, made.special.mode) == ("d/", True, 0o040700)
        assert (implicit.info, implicit.flag, bool(implicit.special)) == (None, False, False)
        assert (root.key, root.info, root.flag) == ("", None, False)
        assert costs(store) == {"head": 4, "list": 2}


@run_virtual
@pytest.mark.parametrize("path", [b"none", b"d/none/x", b"\xff", b".s3mount/conflicts", b"..", b"a\0b"])
async def test_what_does_not_exist_in_the_mount_is_told_so(tmp_path: Path, path: bytes) -> None:
    store = MemoryStore()
    store.place("d/f", b"")
    async with mounted(store, tmp_path) as kernel:
        with pytest.raises(NoEntry):
            await kernel.fs.about(path)
        assert table_size(kernel) == 1


@run_virtual
async def test_a_file_that_is_not_stored_is_told_without_a_request_and_has_no_address(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("old", b"old")
    async with mounted(store, tmp_path) as kernel:
        new = await kernel.open("new", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(new, 0, b"bytes")
        old = await kernel.open("old", os.O_WRONLY)
        await kernel.fs.write(old, 0, b"OLD")
        costs(store)
        about = await kernel.fs.about(b"new")
        assert (about.state, about.info, about.shown.size) == ("not stored", None, 5)
        assert costs(store) == {}
        with pytest.raises(NoEntry, match="not stored yet"):
            await kernel.fs.key_of(b"new")
        assert await kernel.fs.key_of(b"old") == ("old", "changed")
        figures = kernel.fs.figures
        assert figures["dirty_files"] == {"count": 2, "paths": ["new", "old"]}
        await kernel.close(new)
        await kernel.close(old)
        assert await kernel.fs.key_of(b"new") == ("new", "stored")
        assert kernel.fs.figures["dirty_files"] == {"count": 0, "paths": []}


@run_virtual
async def test_an_address_is_of_a_file(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"")
    async with mounted(store, tmp_path) as kernel:
        with pytest.raises(IsADirectory):
            await kernel.fs.key_of(b"d")
        with pytest.raises(IsADirectory, match="the root of the mount is a directory"):
            await kernel.fs.key_of(b"")
        await kernel.ino("d/f")
        for ask in (kernel.fs.about, kernel.fs.refresh):
            with pytest.raises(NotADirectory):
                await ask(b"d/f/below")


@run_virtual
async def test_a_link_has_no_address_for_its_object_is_not_what_programs_read(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place(".s3mount-attrs", b"\n")
    for name, kind, body in (("link", stat.S_IFLNK, b"target"), ("fifo", stat.S_IFIFO, b"")):
        store.place(name, body, Headers(metadata={"mode": str(kind | 0o644)}))
    async with mounted(store, tmp_path) as kernel:
        for path in (b"link", b"fifo"):
            with pytest.raises(Invalid, match="is a link or special file"):
                await kernel.fs.key_of(path)


@run_virtual
async def test_what_was_forgotten_is_asked_for_at_the_next_look(tmp_path: Path) -> None:
    store = MemoryStore()
    for name in ("d/a", "d/sub/b", "e/c"):
        store.place(name, b"1")
    async with mounted(store, tmp_path, metadata_ttl_seconds=600.0, negative_ttl_seconds=600.0) as kernel:
        for path in ("d/a", "d/sub/b", "e/c"):
            await kernel.ino(path)
        assert not await kernel.exists("d/new")
        for name in ("d/a", "d/sub/b", "e/c", "d/new"):
            store.place(name, b"22")
        kernel.expire()
        assert (await kernel.stat("d/a")).size == 1
        names = await kernel.fs.refresh(b"d")
        d, sub = await kernel.ino("d"), await kernel.ino("d/sub")
        assert sorted(names) == sorted([(d, b"a"), (sub, b"b")])
        kernel.expire()
        assert [(await kernel.stat(path)).size for path in ("d/a", "d/sub/b", "d/new", "e/c")] == [2, 2, 2, 1]
        assert await kernel.fs.refresh(b"e/c") == [(await kernel.ino("e"), b"c")]
        kernel.expire()
        assert (await kernel.stat("e/c")).size == 2


@run_virtual
async def test_forgetting_asks_nothing_and_names_what_the_kernel_may_think_absent(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.fs.refresh(b"absent/below") == [(ROOT, b"absent")]
        assert await kernel.fs.refresh(b"") == []
        assert costs(store) == {}


@run_virtual
async def test_what_only_the_mount_has_is_not_forgotten(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("new", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"bytes")
        assert await kernel.fs.refresh(b"") == []
        kernel.expire()
        assert await kernel.listdir() == ["new"]
        await kernel.close(fh)
        assert store.body("new") == b"bytes"


@run_virtual
async def test_a_directory_removed_here_stays_hidden_though_what_was_known_of_it_is_asked_again(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        await kernel.mkdir("gone")
        await kernel.rmdir("gone")
        await kernel.fs.refresh(b"")
        kernel.expire()
        assert await kernel.listdir() == []


@run_virtual
async def test_hidden_keys_are_counted_with_their_prefixes(tmp_path: Path) -> None:
    store = MemoryStore()
    for key in ("a//b", "a/../c", "ok"):
        store.place(key, b"")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.listdir("a") == []
        assert kernel.fs.figures["hidden_keys"] == {"count": 2, "prefixes": {"a/": 2}}


@run_virtual
async def test_flags_are_rebuilt_and_the_mount_that_cannot_refuses(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/special", b"", Headers(metadata={"uid": "7"}))
    async with mounted(store, tmp_path) as kernel:
        told: list[Progress] = []
        done = await kernel.fs.rebuild_flags(b"d", told.append)
        assert (done.objects, done.flags_put, told[-1]) == (1, 1, done)
        assert "d/.s3mount-attrs" in store.keys("d/")
        with pytest.raises(Invalid, match="d/special is not a directory"):
            await kernel.fs.rebuild_flags(b"d/special", ignore)
    for options, error in (({"read_only": True}, ReadOnly), ({"attributes": "never"}, Invalid)):
        async with mounted(store, tmp_path, **options) as kernel:
            with pytest.raises(error):
                await kernel.fs.rebuild_flags(b"d", ignore)


@run_virtual
async def test_a_directory_that_goes_while_it_is_walked_leaves_no_inode_behind(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"")
    async with mounted(store, tmp_path) as kernel:
        store.latency_seconds = 1.0
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                with suppress(NoEntry):
                    await kernel.fs.about(b"d/f")

            nursery.start_soon(look)
            await trio.sleep(0.5)
            kernel.drop_caches()
            store.remove("d/f")
        assert table_size(kernel) == 1
