"""Two mounts of one bucket, and clients that are none: what one changes of attributes the other shows and keeps."""

import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from s3mount.store.base import Headers
from s3mount.vfs.attributes import SECOND_NS, Changes
from tests.kernel_model import Kernel
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.test_changing import FLAG, change, chmod, metadata, mode_text, mounting

LATER_SECONDS = 10.0
"""Longer than names and attributes are believed."""


@asynccontextmanager
async def two_mounts(tmp_path: Path) -> AsyncIterator[tuple[MemoryStore, Kernel, Kernel]]:
    began_ns = time.time_ns()
    store = MemoryStore(
        clock_ns=lambda: began_ns + int((trio.current_time() - began) * SECOND_NS), placed_seconds_ago=0
    )
    began = trio.current_time()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with mounting(store, tmp_path / "a") as a, mounting(store, tmp_path / "b") as b:
        yield store, a, b


async def later(seconds: float = LATER_SECONDS) -> None:
    await trio.sleep(seconds)


async def shown(kernel: Kernel, path: str) -> tuple[int, int, int]:
    attributes = await kernel.stat(path)
    return stat.S_IMODE(attributes.mode), attributes.uid, attributes.gid


# what another changes is shown


@run_virtual
async def test_a_change_of_another_mount_is_shown_of_a_file_that_was_changed_here(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, a, b):
        await a.write("f", b"x")
        await chmod(a, "f", 0o755)
        await later()
        await chmod(b, "f", 0o700)
        await change(b, "f", uid=5, gid=5)
        await later()
        assert await shown(a, "f") == (0o700, 5, 5)


@run_virtual
async def test_a_change_of_another_mount_is_shown_of_a_file_that_was_listed_since_it_was_changed_here(
    tmp_path: Path,
) -> None:
    async with two_mounts(tmp_path) as (_, a, b):
        await a.write("f", b"x")
        await chmod(a, "f", 0o755)
        await later()
        await a.listdir()
        assert (await shown(a, "f"))[0] == 0o755
        await chmod(b, "f", 0o700)
        await later()
        await a.listdir()
        assert (await shown(a, "f"))[0] == 0o700


@run_virtual
async def test_a_change_of_another_mount_is_shown_of_a_file_that_was_written_here_in_the_same_second(
    tmp_path: Path,
) -> None:
    async with two_mounts(tmp_path) as (store, a, _):
        await a.write("f", b"x")
        store.place(FLAG)
        store.place("f", b"x", Headers(metadata={"mode": mode_text(0o700)}))
        await later()
        assert (await shown(a, "f"))[0] == 0o700


@run_virtual
async def test_a_change_of_another_mount_is_shown_of_a_directory_that_was_made_here(tmp_path: Path) -> None:
    for mode in (0o755, 0o711):
        path = tmp_path / str(mode)
        path.mkdir()
        async with two_mounts(path) as (_, a, b):
            await a.mkdir("d", mode)
            await later()
            await chmod(b, "d", 0o700)
            await change(b, "d", uid=5, gid=5)
            await later()
            assert await shown(a, "d") == (0o700, 5, 5)
            await chmod(a, "d", 0o750)
            await later()
            await chmod(b, "d", 0o701)
            await later()
            assert await shown(a, "d") == (0o701, 5, 5)


@run_virtual
async def test_a_change_here_lays_itself_over_one_of_another_mount(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (store, a, b):
        await a.write("f", b"x")
        await chmod(a, "f", 0o755)
        await later()
        await chmod(b, "f", 0o600)
        await change(b, "f", uid=5, gid=5)
        await later()
        await change(a, "f", uid=7)
        await later()
        said = metadata(store, "f")
        assert (said["mode"], said["uid"], said["gid"]) == (mode_text(0o600), "7", "5")


@run_virtual
async def test_a_change_to_what_was_set_here_long_ago_is_stored_where_another_mount_has_changed_it(
    tmp_path: Path,
) -> None:
    async with two_mounts(tmp_path) as (store, a, b):
        await a.write("f", b"x")
        await chmod(a, "f", 0o755)
        await later()
        await chmod(b, "f", 0o600)
        await later()
        await chmod(a, "f", 0o755)
        await later()
        assert metadata(store, "f")["mode"] == mode_text(0o755)


@run_virtual
async def test_a_change_through_a_handle_is_judged_by_what_the_bucket_has(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (store, a, b):
        await a.write("f", b"x")
        await chmod(a, "f", 0o755)
        await later()
        fh = await a.open("f")
        ino = await a.ino("f")
        await chmod(b, "f", 0o600)
        await later()
        await a.fs.setattr(ino, Changes(mode=0o755), fh)
        await later()
        assert metadata(store, "f")["mode"] == mode_text(0o755)
        await a.close(fh)


@run_virtual
async def test_a_file_that_has_become_a_fifo_of_the_same_etag_is_shown_as_one(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (store, a, b):
        await a.write("f", b"")
        await chmod(a, "f", 0o755)
        await later()
        store.place("f", b"", Headers(metadata={"mode": str(stat.S_IFIFO | 0o644)}))
        await later()
        assert stat.S_ISFIFO((await a.stat("f")).mode)
        assert stat.S_ISFIFO((await b.stat("f")).mode)


@run_virtual
async def test_the_same_bytes_put_again_with_other_metadata_are_shown_with_it(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (store, a, _):
        await a.write("f", b"x")
        await chmod(a, "f", 0o755)
        await later()
        await a.listdir()
        store.place("f", b"x", Headers(metadata={"mode": mode_text(0o640), "uid": "9"}))
        await later()
        mode, uid, _ = await shown(a, "f")
        assert (mode, uid) == (0o640, 9)


# files that are open meanwhile


@run_virtual
async def test_a_file_that_was_open_for_writing_keeps_what_another_mount_has_changed_since(tmp_path: Path) -> None:
    for held_seconds in (3.0, 30.0):
        path = tmp_path / str(held_seconds)
        path.mkdir()
        async with two_mounts(path) as (store, a, b):
            await a.write("f", b"x")
            await later(2)
            fh = await a.open("f", os.O_WRONLY)
            await chmod(b, "f", 0o600)
            await change(b, "f", uid=5)
            await later(held_seconds)
            await a.fs.write(fh, 1, b"more")
            await a.close(fh)
            said = metadata(store, "f")
            assert store.body("f") == b"xmore"
            assert (said["mode"], said["uid"], "mtime" in said) == (mode_text(0o600), "5", False)
            await later()
            assert (await shown(a, "f"))[:2] == (0o600, 5)


@run_virtual
async def test_what_is_changed_through_a_handle_lies_over_what_another_mount_has_changed_since(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (store, a, b):
        await a.write("f", b"x")
        await later(2)
        fh = await a.open("f", os.O_WRONLY)
        await chmod(b, "f", 0o600)
        await change(b, "f", uid=5)
        await later()
        await a.fs.write(fh, 1, b"more")
        await a.fs.setattr(await a.ino("f"), Changes(uid=7), fh)
        await a.close(fh)
        said = metadata(store, "f")
        assert (said["mode"], said["uid"]) == (mode_text(0o600), "7")


# changes of the same moment


@run_virtual
async def test_changes_of_two_mounts_within_a_second_are_both_stored(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (store, a, b):
        for kernel, name in ((a, "first"), (b, "second")):
            await kernel.write(name, b"")
            await chmod(kernel, name, 0o600)
        for name, first, second in (("f", a, b), ("g", b, a)):
            await a.write(name, b"x")
            await later(2)
            await b.stat(name)
            await chmod(first, name, 0o600)
            await later(0.4)
            await change(second, name, uid=5)
            await later()
            said = metadata(store, name)
            assert (said["mode"], said["uid"]) == (mode_text(0o600), "5")


@run_virtual
async def test_a_change_that_was_acknowledged_is_stored_with_the_version_another_mount_has_written_since(
    tmp_path: Path,
) -> None:
    async with two_mounts(tmp_path) as (store, a, b):
        await a.write("first", b"")
        await chmod(a, "first", 0o600)
        await a.write("f", b"x")
        await later(2)
        await chmod(a, "f", 0o600)
        await later(0.4)
        await b.write("f", b"other bytes")
        await later()
        assert (store.body("f"), metadata(store, "f")["mode"]) == (b"other bytes", mode_text(0o600))
        assert (await shown(a, "f"))[0] == 0o600
        assert await a.read("f") == b"other bytes"
        assert a.fs.figures["attributes_that_failed"] == []


@run_virtual
async def test_a_change_whose_copy_meets_another_version_is_stored_with_that_one_and_keeps_what_it_says(
    tmp_path: Path,
) -> None:
    async with two_mounts(tmp_path) as (store, a, _):
        await a.write("first", b"")
        await chmod(a, "first", 0o600)
        await a.write("f", b"x")
        await later(2)
        await chmod(a, "f", 0o600)

        async def quick(call: Call) -> None:
            if call.operation == "copy":
                store.before = None
                store.place("f", b"", Headers(metadata={"mode": str(stat.S_IFIFO | 0o644), "gid": "5"}))

        store.before = quick
        await later()
        said = metadata(store, "f")
        assert (said["mode"], said["gid"]) == (str(stat.S_IFIFO | 0o600), "5")
        assert a.fs.figures["attributes_that_failed"] == []


@run_virtual
async def test_a_change_of_a_file_that_another_client_removes_meanwhile_is_a_failure_that_is_shown(
    tmp_path: Path,
) -> None:
    async with two_mounts(tmp_path) as (store, a, _):
        await a.write("first", b"")
        await chmod(a, "first", 0o600)
        await a.write("f", b"x")
        await later(2)
        await chmod(a, "f", 0o600)
        store.remove("f")
        await later()
        assert "f" not in store.objects
        failures = a.fs.figures["attributes_that_failed"]
        assert isinstance(failures, list)
        assert [failure["path"] for failure in failures] == ["f"]
