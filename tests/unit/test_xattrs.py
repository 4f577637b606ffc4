"""Extended attributes: what is stored of them, what each costs, how long they last, and what the kernel's edge says."""

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pyfuse3
import pytest
import trio
from pyfuse3 import FUSEError

from s3mount.errors import AccessDenied, MetadataFull, NoAttribute, ReadOnly, S3MountError, Stale, Unavailable
from s3mount.fuse import Operations, OperationsWithXattrs
from s3mount.store.base import Headers
from s3mount.vfs.attributes import Changes, Special
from s3mount.vfs.filesystem import FileSystem
from s3mount.vfs.metadata import metadata_with, special_of
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.test_changing import FLAG, FOREIGN, costs, metadata, place
from tests.unit.test_changing_failures import Fault, told

ANYTHING = {"user.a": b'\0\xff,:"', "user.empty": b"", "user.\u00e4 b+%": b"2", "user.raw\udcff": b"3"}
REFUSED = AccessDenied("no", code="AccessDenied", status=403)


@asynccontextmanager
async def mounting(store: MemoryStore, tmp_path: Path, **options: object) -> AsyncIterator[Kernel]:
    async with mounted(
        store, tmp_path, started=True, learnt=None, paper=None, uid=ME.uid, gid=ME.gid, xattr=True, **options
    ) as kernel:
        yield kernel


async def put(kernel: Kernel, path: str, name: str, value: bytes) -> None:
    await kernel.fs.setxattr(await kernel.ino(path), os.fsencode(name), value)


async def drop(kernel: Kernel, path: str, name: str) -> None:
    await kernel.fs.removexattr(await kernel.ino(path), os.fsencode(name))


async def shown(kernel: Kernel, path: str) -> dict[str, bytes]:
    """All of a path, as listxattr and getxattr tell them."""
    ino = await kernel.ino(path)
    return {os.fsdecode(name): await kernel.fs.getxattr(ino, name) for name in await kernel.fs.listxattr(ino)}


def stored(store: MemoryStore, key: str) -> dict[str, bytes]:
    """As s3fs would read them."""
    return dict(special_of(metadata(store, key)).xattrs or {})


async def prove(kernel: Kernel) -> None:
    """A first change, which is stored before it is answered, and raises the flag."""
    place(kernel, "proof", b"")
    await put(kernel, "proof", "user.proof", b"1")
    kernel.store.reset_counts()


def carrying(xattrs: dict[str, bytes], **others: Any) -> Headers:
    return Headers(metadata=metadata_with({"who": "me"}, Special(xattrs=xattrs, **others)))


# what is stored


@run_virtual
async def test_names_and_values_of_any_bytes_are_stored_in_the_encoding_of_s3fs_and_come_back(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.write("f", b"x")
        await kernel.mkdir("d")
        for path, key in (("f", "f"), ("d", f"d/{FLAG}"), ("", FLAG)):
            for name, value in ANYTHING.items():
                await put(kernel, path, name, value)
            await trio.sleep(2)
            assert stored(store, key) == ANYTHING
            assert await shown(kernel, path) == ANYTHING
        assert all(text.isascii() for text in metadata(store, "f").values())
    async with mounting(store, tmp_path) as kernel:
        assert [await shown(kernel, path) for path in ("f", "d", "")] == [ANYTHING] * 3


@run_virtual
async def test_what_the_object_carries_besides_stays(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", FOREIGN)
    async with mounting(store, tmp_path) as kernel:
        await put(kernel, "f", "user.a", b"1")
        await drop(kernel, "f", "user.a")
        await trio.sleep(2)
        assert stored(store, "f") == {}
        found = store.objects["f"].headers
        assert (found.content_type, found.cache_control, found.tags) == ("text/x-foreign", "max-age=1", "a=1")
        assert {name: found.metadata.get(name) for name in ("who", "xattr")} == {"who": "me", "xattr": None}


@run_virtual
async def test_names_that_are_not_user_are_not_shown_and_stay(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", carrying({"security.selinux": b"label", "user.a": b"1"}))
    store.place(FLAG)
    async with mounting(store, tmp_path) as kernel:
        assert await shown(kernel, "f") == {"user.a": b"1"}
        await put(kernel, "f", "user.b", b"2")
        assert stored(store, "f") == {"security.selinux": b"label", "user.a": b"1", "user.b": b"2"}


@run_virtual
async def test_a_link_has_none_whatever_its_object_carries(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("link", b"f", carrying({"user.a": b"1"}, mode=stat.S_IFLNK | 0o777))
    store.place(FLAG)
    async with mounting(store, tmp_path) as kernel:
        assert await kernel.fs.listxattr(await kernel.ino("link")) == []


# what it costs


@run_virtual
async def test_attributes_of_a_file_that_is_being_written_ride_in_its_one_put(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        costs(store)
        await put(kernel, "f", "user.a", b"1")
        assert await shown(kernel, "f") == {"user.a": b"1"}
        await kernel.fs.write(fh, 0, b"x")
        await put(kernel, "f", "user.b", b"2")
        await kernel.close(fh)
        await trio.sleep(5)
        assert costs(store) == {"put": 1}
        assert stored(store, "f") == {"user.a": b"1", "user.b": b"2"}


@run_virtual
async def test_many_changes_of_a_clean_file_are_one_copy_with_a_head_before_the_first_and_one_before_it(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x", Headers(metadata={"who": "me"}))
        await kernel.ino("f")
        costs(store)
        for number in range(10):
            await put(kernel, "f", f"user.{number}", b"1")
        await kernel.fs.setattr(await kernel.ino("f"), Changes(mode=stat.S_IFREG | 0o600), None)
        await drop(kernel, "f", "user.0")
        assert await shown(kernel, "f") == {f"user.{number}": b"1" for number in range(1, 10)}
        await trio.sleep(2)
        assert costs(store) == {"head": 2, "copy": 1}
        assert stored(store, "f") == {f"user.{number}": b"1" for number in range(1, 10)}
        assert special_of(metadata(store, "f")).mode == stat.S_IFREG | 0o600


@run_virtual
async def test_a_value_that_is_there_already_costs_nothing_and_neither_does_reading(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.mkdir("d")
        await kernel.write("f", b"x")
        for path in ("f", "d"):
            await put(kernel, path, "user.a", b"1")
        costs(store)
        for path in ("f", "d"):
            await put(kernel, path, "user.a", b"1")
            assert await shown(kernel, path) == {"user.a": b"1"}
            for call in (kernel.fs.getxattr, kernel.fs.removexattr):
                with pytest.raises(NoAttribute):
                    await call(await kernel.ino(path), b"user.none")
        await trio.sleep(2)
        assert costs(store) == {}


@run_virtual
async def test_a_directory_is_one_head_and_one_put_for_each_change(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        await kernel.mkdir("d")
        costs(store)
        for number in range(3):
            await put(kernel, "d", f"user.{number}", b"1")
        assert costs(store) == {"head": 3, "put": 3}
        assert sorted(stored(store, f"d/{FLAG}")) == ["user.0", "user.1", "user.2"]


# how long they last


@run_virtual
async def test_they_outlast_overwrite_append_rename_and_chmod(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.write("f", b"first")
        await put(kernel, "f", "user.a", b"1")
        await trio.sleep(2)

        async def overwrite() -> None:
            await kernel.write("f", b"second")

        async def append() -> None:
            fh = await kernel.open("f", os.O_WRONLY | os.O_APPEND)
            await kernel.fs.write(fh, 6, b" third")
            await kernel.close(fh)

        async def chmod() -> None:
            await kernel.fs.setattr(await kernel.ino("f"), Changes(mode=stat.S_IFREG | 0o600), None)

        async def rename() -> None:
            await put(kernel, "f", "user.held", b"2")
            await drop(kernel, "f", "user.held")
            await kernel.rename("f", "g")
            await kernel.rename("g", "f")

        for change in (overwrite, append, chmod, rename):
            for forgotten in (False, True):
                if forgotten:
                    kernel.drop_caches()
                await change()
                assert await shown(kernel, "f") == {"user.a": b"1"}
                await trio.sleep(2)
                assert stored(store, "f") == {"user.a": b"1"}
                assert await shown(kernel, "f") == {"user.a": b"1"}


@run_virtual
async def test_a_file_renamed_over_another_brings_its_own(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        for name in ("old", "new"):
            await kernel.write(name, b"x")
            await put(kernel, name, f"user.{name}", b"1")
        await kernel.rename("new", "old")
        assert await shown(kernel, "old") == {"user.new": b"1"}
        await trio.sleep(2)
        assert stored(store, "old") == {"user.new": b"1"}


@run_virtual
async def test_while_a_rename_carries_a_change_it_is_shown(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        await put(kernel, "f", "user.a", b"1")
        seen = []

        async def look(call: Call) -> None:
            if call.operation in ("copy", "rename"):
                seen.append(await kernel.fs.getxattr(ino, b"user.a"))

        ino = await kernel.ino("f")
        store.before = look
        await kernel.rename("f", "g")
        assert seen == [b"1"]
        await trio.sleep(2)
        assert stored(store, "g") == {"user.a": b"1"}
        assert costs(store)["copy"] == 1


@run_virtual
async def test_an_open_file_without_a_name_has_attributes_and_the_bucket_does_not(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.write("f", b"x")
        fh = await kernel.open("f", os.O_RDWR)
        ino = await kernel.ino("f")
        await kernel.unlink("f")
        costs(store)
        await kernel.fs.setxattr(ino, b"user.a", b"1")
        assert await kernel.fs.getxattr(ino, b"user.a") == b"1"
        await kernel.close(fh)
        await trio.sleep(2)
        assert costs(store) == {}


@run_virtual
async def test_what_another_client_stores_of_them_is_shown_after_a_lifetime(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place(FLAG)
    async with mounting(store, tmp_path) as kernel:
        place(kernel, "f", b"x", carrying({"user.a": b"1"}))
        assert await shown(kernel, "f") == {"user.a": b"1"}
        store.placed_seconds_ago = 60
        store.place("f", b"x", carrying({"user.a": b"2", "user.b": b""}))
        await trio.sleep(6)
        assert await shown(kernel, "f") == {"user.a": b"2", "user.b": b""}


# limits and failures


@run_virtual
@pytest.mark.parametrize("kind", ["unlisted", "open", "new", "directory"])
async def test_what_metadata_cannot_hold_is_refused_at_once_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x", Headers(metadata={"who": "m" * 1200}))
        if kind == "directory":
            await kernel.mkdir("d")
        path = {"directory": "d", "new": "new"}.get(kind, "f")
        fh = None
        if kind in ("open", "new"):
            fh = await kernel.open(path, os.O_RDWR | os.O_CREAT)
        await put(kernel, path, "user.a", b"1")
        with pytest.raises(MetadataFull):
            await put(kernel, path, "user.large", bytes(1700 if path != "f" else 600))
        assert await shown(kernel, path) == {"user.a": b"1"}
        await put(kernel, path, "user.b", b"2")
        if fh is not None:
            await kernel.fs.fsync(fh)
            await kernel.close(fh)
        await trio.sleep(2)
        key = f"d/{FLAG}" if kind == "directory" else path
        assert stored(store, key) == {"user.a": b"1", "user.b": b"2"}


@run_virtual
async def test_there_is_room_to_the_last_byte_and_what_is_accepted_is_stored(tmp_path: Path) -> None:
    """Whatever its time, which the copy adds to what it stores."""
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x", last_modified_ns=1_700_000_000_123_456_789)
        size = 1600
        with pytest.raises(MetadataFull):
            for size in range(1000, 1600):
                await put(kernel, "f", "user.a", bytes(size))
        await trio.sleep(2)
        assert stored(store, "f") == {"user.a": bytes(size - 1)}


@run_virtual
async def test_a_first_change_that_is_refused_is_told_and_undone(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", carrying({"user.a": b"1"}))
    store.place(FLAG)
    store.fail("copy", REFUSED)
    async with mounting(store, tmp_path) as kernel:
        with pytest.raises(AccessDenied):
            await put(kernel, "f", "user.a", b"2")
        assert await shown(kernel, "f") == {"user.a": b"1"}
        await put(kernel, "f", "user.a", b"3")
        assert stored(store, "f") == {"user.a": b"3"}


@run_virtual
async def test_a_held_change_that_fails_is_undone_and_told_to_the_next_change(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x", carrying({"user.a": b"1"}))
        store.fail("copy", Unavailable("503", status=503))
        await put(kernel, "f", "user.b", b"2")
        await drop(kernel, "f", "user.a")
        assert await shown(kernel, "f") == {"user.b": b"2"}
        await trio.sleep(2)
        assert await shown(kernel, "f") == {"user.a": b"1"}
        with pytest.raises(Unavailable):
            await put(kernel, "f", "user.c", b"3")
        await put(kernel, "f", "user.c", b"3")
        await trio.sleep(2)
        assert stored(store, "f") == {"user.a": b"1", "user.c": b"3"}


@run_virtual
async def test_a_directory_that_cannot_be_changed_says_so_and_shows_what_is_stored(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        await kernel.mkdir("d")
        await put(kernel, "d", "user.a", b"1")
        store.fail("put", REFUSED)
        with pytest.raises(AccessDenied):
            await drop(kernel, "d", "user.a")
        assert await shown(kernel, "d") == {"user.a": b"1"}
        await drop(kernel, "d", "user.a")
        assert await shown(kernel, "d") == {}
        assert stored(store, f"d/{FLAG}") == {}


@run_virtual
async def test_a_file_that_was_replaced_elsewhere_sends_the_kernel_round_again(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        ino = await kernel.ino("f")
        store.place("f", b"other", FOREIGN)
        with pytest.raises(Stale):
            await kernel.fs.setxattr(ino, b"user.a", b"1")
        kernel.expire()
        await put(kernel, "f", "user.a", b"1")
        await trio.sleep(2)
        assert stored(store, "f") == {"user.a": b"1"}
        assert store.body("f") == b"other"


@run_virtual
async def test_a_mount_that_may_not_write_shows_them_and_changes_none(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", carrying({"user.a": b"1"}))
    store.place(FLAG)
    async with mounting(store, tmp_path, read_only=True) as kernel:
        assert await shown(kernel, "f") == {"user.a": b"1"}
        for change in (put(kernel, "f", "user.a", b"2"), drop(kernel, "f", "user.a")):
            with pytest.raises(ReadOnly):
                await change


async def give(kernel: Kernel) -> None:
    """Change a file that is clean, one that is open, and a directory."""
    await put(kernel, "d", "user.d", b"1")
    await put(kernel, "f", "user.a", b"1")
    await put(kernel, "f", "user.b", b"2")
    await drop(kernel, "f", "user.old")
    await told(kernel, "f")
    fh = await kernel.open("f", os.O_RDWR)
    try:
        await put(kernel, "f", "user.c", b"3")
        await kernel.fs.write(fh, 0, b"content")
    finally:
        await kernel.close(fh)


@pytest.mark.parametrize("lost", [False, True])
@run_virtual
async def test_whatever_request_fails_a_second_try_succeeds(tmp_path: Path, lost: bool) -> None:
    number = 0
    while True:
        number += 1
        store = MemoryStore()
        store.place("f", b"content", carrying({"user.old": b"0", "security.x": b"s"}))
        store.place("d/", b"")
        store.place(FLAG)
        async with mounting(store, tmp_path) as kernel:
            fault = Fault(store, number, lost=lost)
            for turn in range(2):
                try:
                    await give(kernel)
                    break
                except S3MountError:
                    assert turn == 0
                store.before = store.after = None
                await trio.sleep(10)
                kernel.expire()
                if "user.old" not in await shown(kernel, "f"):  # it went, although nobody heard of it
                    await put(kernel, "f", "user.old", b"0")
            store.before = store.after = None
            await trio.sleep(10)
            expected = {"user.a": b"1", "user.b": b"2", "user.c": b"3"}
            assert stored(store, "f") == {**expected, "security.x": b"s"}, (number, store.calls)
            assert stored(store, f"d/{FLAG}") == {"user.d": b"1"}, number
            assert await shown(kernel, "f") == expected, number
            assert (store.body("f"), metadata(store, "f")["who"]) == (b"content", "me")
        if fault.count < number:
            return


# the kernel's edge

NOBODY = cast(pyfuse3.RequestContext, None)


class Recorder:
    """Stands where the FileSystem is; nothing of it may be called."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called")


Ask = Callable[[pyfuse3.Operations, bytes], Coroutine[Any, Any, object]]
ASKS: dict[str, Ask] = {
    "get": lambda operations, name: operations.getxattr(cast(Any, 1), cast(Any, name), NOBODY),
    "set": lambda operations, name: operations.setxattr(cast(Any, 1), cast(Any, name), b"1", NOBODY),
    "remove": lambda operations, name: operations.removexattr(cast(Any, 1), cast(Any, name), NOBODY),
    "list": lambda operations, _name: operations.listxattr(cast(Any, 1), NOBODY),
}


def answer(operations: pyfuse3.Operations, ask: str, name: bytes = b"") -> str:
    with pytest.raises(FUSEError) as caught:
        trio.run(ASKS[ask], operations, name)
    return errno.errorcode[caught.value.errno]


@pytest.mark.parametrize(
    ("name", "got", "set_", "removed"),
    [
        (b"security.capability", "ENODATA", "ENOTSUP", "ENODATA"),
        (b"security.selinux", "ENODATA", "ENOTSUP", "ENODATA"),
        (b"trusted.overlay.opaque", "ENODATA", "ENOTSUP", "ENODATA"),
        (b"system.posix_acl_access", "ENOTSUP", "ENOTSUP", "ENOTSUP"),
        (b"other", "ENOTSUP", "ENOTSUP", "ENOTSUP"),
        (b"user.", "EINVAL", "EINVAL", "EINVAL"),
    ],
)
def test_what_is_not_user_is_answered_without_the_file_system(name: bytes, got: str, set_: str, removed: str) -> None:
    """As by a file system that has none of these, which is what ls, cp, rsync, getcap and overlayfs take quietly."""
    operations = OperationsWithXattrs(cast(FileSystem, Recorder()))
    assert [answer(operations, ask, name) for ask in ("get", "set", "remove")] == [got, set_, removed]


@pytest.mark.parametrize("ask", sorted(ASKS))
def test_without_the_option_all_four_say_that_they_do_not_exist(ask: str) -> None:
    """ENOSYS, on which the kernel never asks again."""
    assert answer(Operations(cast(FileSystem, Recorder())), ask, b"user.a") == "ENOSYS"
