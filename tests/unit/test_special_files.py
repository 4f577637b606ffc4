"""Links, FIFOs, sockets and devices in the bucket."""

import os
import stat
from pathlib import Path

import pytest

from s3mount.errors import Exists, Invalid, LostReply, NotPermitted, NotSupported
from s3mount.vfs.attributes import Changes
from tests.kernel_model import ME, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual

FLAG = ".s3mount-attrs"


@run_virtual
async def test_a_link_is_an_object_with_its_target_for_a_body_behind_a_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        shown = await kernel.fs.symlink(1, b"l", b"some/where", ME)
        assert (shown.mode, shown.size) == (stat.S_IFLNK | 0o777, 10)
        assert store.body("l") == b"some/where"
        assert dict(store.objects["l"].headers.metadata) == {"mode": str(stat.S_IFLNK | 0o777)}
        assert [call.key for call in store.calls] == [FLAG, "l"]
        assert await kernel.listdir() == ["l"]
        with pytest.raises(Exists):
            await kernel.fs.symlink(1, b"l", b"x", ME)
        with pytest.raises(Invalid):
            await kernel.fs.symlink(1, b"m", b"", ME)


@run_virtual
async def test_the_owner_of_a_link_can_be_changed_and_its_target_stays(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        shown = await kernel.fs.symlink(1, b"l", b"some/where", ME)
        store.reset_counts()
        shown = await kernel.fs.setattr(shown.ino, Changes(uid=5, mtime_ns=5_000_000_000), None)
        assert (shown.mode, shown.uid) == (stat.S_IFLNK | 0o777, 5)
        assert dict(store.counts) == {"copy": 1}
        assert store.body("l") == b"some/where"
        assert dict(store.objects["l"].headers.metadata) == {
            "mode": str(stat.S_IFLNK | 0o777), "uid": "5", "mtime": "5",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "rdev"),
    [
        (stat.S_IFIFO | 0o644, 0),
        (stat.S_IFSOCK | 0o755, 0),
        (stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        (stat.S_IFBLK | 0o660, os.makedev(8, 300)),
    ],
)
@run_virtual
async def test_what_holds_no_data_is_an_empty_object_that_says_what_it_is(tmp_path: Path, mode: int, rdev: int) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        shown = await kernel.fs.mknod(1, b"n", mode, ME, rdev=rdev)
        assert shown.mode == mode
        assert store.body("n") == b""
        assert dict(store.objects["n"].headers.metadata) == {"mode": str(mode)} | ({"rdev": str(rdev)} if rdev else {})
        await kernel.unlink("n")
        assert store.keys() == [FLAG]


@run_virtual
async def test_a_name_that_another_client_was_quicker_with_exists(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        store.place("l", b"theirs")
        with pytest.raises(Exists):
            await kernel.fs.symlink(1, b"l", b"mine", ME)
        assert store.body("l") == b"theirs"
        assert await kernel.read("l") == b"theirs"


@run_virtual
async def test_a_link_whose_reply_was_lost_is_found_by_the_next_look(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        store.fail("put", LostReply("lost"), when="after", key="l")
        with pytest.raises(LostReply):
            await kernel.fs.symlink(1, b"l", b"x", ME)
        kernel.expire()
        assert await kernel.exists("l")


@run_virtual
async def test_with_attributes_never_there_are_none(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path, attributes="never") as kernel:
        with pytest.raises(NotPermitted):
            await kernel.fs.symlink(1, b"l", b"x", ME)
        with pytest.raises(NotSupported):
            await kernel.fs.mknod(1, b"n", stat.S_IFIFO | 0o644, ME)
        assert store.keys() == []
