"""Whatever request goes wrong while attributes change: no byte is lost or parted with, and a second try succeeds."""

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from s3mount.errors import LostReply, S3MountError, StoreError, Unavailable
from s3mount.store.base import Headers
from s3mount.vfs.attributes import Changes
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual

PAST = 1_000_000_000_000_000_000
CARRIED = {"who": "me"}


class Fault:
    """The `number`-th request fails, before its effect or after it."""

    def __init__(self, store: MemoryStore, number: int, *, lost: bool) -> None:
        self.count = 0
        self._number = number
        self._error: StoreError = LostReply("lost") if lost else Unavailable("503", status=503)
        if lost:
            store.after = self._meet
        else:
            store.before = self._meet

    async def _meet(self, _call: Call) -> None:
        self.count += 1
        if self.count == self._number:
            raise self._error


async def change(kernel: Kernel, path: str, **changes: int) -> None:
    await kernel.fs.setattr(await kernel.ino(path), Changes(**changes), None)


async def told(kernel: Kernel, path: str) -> None:
    """What failed after it was answered is told by fsync."""
    await trio.sleep(3)
    fh = await kernel.open(path)
    try:
        await kernel.fs.fsync(fh)
    finally:
        await kernel.fs.release(fh)


async def held_and_renamed(kernel: Kernel) -> None:
    if await kernel.exists("f"):
        await change(kernel, "f", mode=0o600)
        await change(kernel, "f", uid=7, mtime_ns=PAST, atime_ns=PAST)
        await kernel.rename("f", "g")
    await change(kernel, "g", mode=0o640, uid=7, mtime_ns=PAST, atime_ns=PAST)
    await told(kernel, "g")


async def changed_while_open(kernel: Kernel) -> None:
    name = "f" if await kernel.exists("f") else "g"
    await change(kernel, name, mode=0o600)
    fh = await kernel.open(name, os.O_RDWR)
    try:
        await change(kernel, name, mode=0o640, uid=7)
        await kernel.fs.fsync(fh)
        await kernel.fs.write(fh, 0, b"content")
        await change(kernel, name, mtime_ns=PAST, atime_ns=PAST)
    finally:
        await kernel.close(fh)
    await told(kernel, name)
    if name == "f":
        await kernel.rename("f", "g")


async def changed_during_the_upload(kernel: Kernel) -> None:
    errors: list[S3MountError] = []

    async def again() -> None:
        try:
            await trio.sleep(0.5)
            await change(kernel, "g", mode=0o640, uid=7, mtime_ns=PAST, atime_ns=PAST)
        except S3MountError as error:
            errors.append(error)

    async def flush() -> None:
        try:
            await kernel.fs.flush(fh)
        except S3MountError as error:
            errors.append(error)

    kernel.store.latency_seconds = 1.0
    fh = await kernel.open("g", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        await kernel.fs.write(fh, 0, b"content")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again)
            nursery.start_soon(flush)
    finally:
        await kernel.fs.release(fh)
    if errors:
        raise errors[0]
    await change(kernel, "g", mode=0o640, uid=7, mtime_ns=PAST, atime_ns=PAST)
    await told(kernel, "g")


@pytest.mark.parametrize("act", [held_and_renamed, changed_while_open, changed_during_the_upload])
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("etag", ['"0123-2"', None])
@run_virtual
async def test_whatever_request_fails_a_second_try_succeeds_and_nothing_is_parted_with(
    tmp_path: Path, act: Callable[[Kernel], Awaitable[None]], lost: bool, etag: str | None
) -> None:
    number = 0
    while True:
        number += 1
        store = MemoryStore()
        placed = store.place("f", b"content", Headers(metadata=CARRIED))
        if etag is not None:
            store.objects["f"] = store.place("f", b"content", placed.headers, etag=etag)
        async with mounted(store, tmp_path, started=True, uid=ME.uid, gid=ME.gid) as kernel:
            fault = Fault(store, number, lost=lost)
            for turn in range(2):
                try:
                    await act(kernel)
                    break
                except S3MountError:
                    assert turn == 0
                store.before = store.after = None
                await trio.sleep(10)
                kernel.expire()
            store.before = store.after = None
            await trio.sleep(10)
            assert not any("conflicts" in key for key in store.objects), number
            assert store.body("g") == b"content", number
            found = dict(store.objects["g"].headers.metadata)
            assert found.pop("who", "me") == "me"
            assert found == {
                "mode": str(stat.S_IFREG | 0o640), "uid": "7", "mtime": "1000000000", "atime": "1000000000",
            }, (number, store.calls)  # fmt: skip
            assert stat.S_IMODE((await kernel.stat("g")).mode) == 0o640
        if fault.count < number:
            return


@pytest.mark.parametrize("slow", ["delete", "head", "copy"])
@pytest.mark.parametrize("when", ["before", "after"])
@run_virtual
async def test_a_change_that_is_held_when_its_file_is_deleted_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str, slow: str
) -> None:
    """The hold ends while the deletion is under way, or the deletion comes while the change is stored: before the store
    has done what takes long, or after."""
    store = MemoryStore()
    for name in "fg":
        store.place(f"d/{name}", b"content")

    async def wait(call: Call) -> None:
        if call.operation == slow and call.key == "d/f":
            await trio.sleep(5)

    async with mounted(store, tmp_path) as kernel:
        await change(kernel, "d/g", mode=0o600)
        await change(kernel, "d/f", mode=0o600)
        setattr(store, when, wait)
        if slow != "delete":
            await trio.sleep(3)
        await kernel.unlink("d/f")
        await trio.sleep(10)
        assert not await kernel.exists("d/f")
        assert not kernel.fs._changing.failures
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
    assert store.keys("d/") == ["d/.s3mount-attrs", "d/g"]
