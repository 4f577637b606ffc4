"""Setuid and setgid bits go when somebody who may not set them changes the file."""

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from s3mount.errors import AccessDenied
from s3mount.fuse import supplementary_groups
from s3mount.vfs.attributes import PRIVILEGED, Caller, Changes
from s3mount.vfs.privileges import kept_mode
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual

GROUP = 2001
NOBODY = Caller(uid=65534, gid=65534, pid=1, umask=0)
MEMBER = Caller(uid=1003, gid=1003, pid=1, umask=0, groups=lambda: {GROUP})
PRIMARY = Caller(uid=1003, gid=GROUP, pid=1, umask=0)
Act = Callable[[Kernel, Caller], Awaitable[None]]


@asynccontextmanager
async def mounting(tmp_path: Path, mode: int) -> AsyncIterator[Kernel]:
    """A mount with a stored file `f` of this mode, whose change of attributes is stored, too."""
    async with mounted(MemoryStore(), tmp_path, started=True) as kernel:
        await kernel.write("f", b"program")
        await kernel.fs.setattr(await kernel.ino("f"), Changes(mode=mode, uid=1001, gid=GROUP), None)
        await trio.sleep(3)
        kernel.store.reset_counts()
        yield kernel


async def mode_of(kernel: Kernel) -> int:
    return stat.S_IMODE((await kernel.stat("f")).mode)


def stored_mode(kernel: Kernel) -> int:
    return stat.S_IMODE(int(kernel.store.objects["f"].headers.metadata["mode"]))


async def open_truncating(kernel: Kernel, caller: Caller) -> None:
    await kernel.close(await kernel.fs.open(await kernel.ino("f"), os.O_WRONLY | os.O_TRUNC, caller))


async def create_over(kernel: Kernel, caller: Caller) -> None:
    """The kernel believes that there is no such name."""
    fh, _ = await kernel.fs.create(1, b"f", stat.S_IFREG | 0o644, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, caller)
    await kernel.close(fh)


async def write(kernel: Kernel, caller: Caller) -> None:
    fh = await kernel.fs.open(await kernel.ino("f"), os.O_WRONLY, caller)
    await kernel.fs.write(fh, 0, b"x")
    await kernel.close(fh)


async def write_through_another_handle(kernel: Kernel, caller: Caller) -> None:
    """The kernel sends a page by whichever handle can write."""
    theirs = await kernel.fs.open(await kernel.ino("f"), os.O_WRONLY, PRIVILEGED)
    own = await kernel.fs.open(await kernel.ino("f"), os.O_WRONLY, caller)
    await kernel.fs.write(theirs, 0, b"x")
    await kernel.close(own)
    await kernel.close(theirs)


async def truncate(kernel: Kernel, caller: Caller) -> None:
    await kernel.fs.setattr(await kernel.ino("f"), Changes(size=1), None, caller)


async def give_away(kernel: Kernel, caller: Caller) -> None:
    await kernel.fs.setattr(await kernel.ino("f"), Changes(gid=caller.gid), None, caller)


async def look(kernel: Kernel, caller: Caller) -> None:
    await kernel.close(await kernel.fs.open(await kernel.ino("f"), os.O_RDONLY, caller))


WRITES = [write, write_through_another_handle]
CHANGES = [open_truncating, create_over, truncate, give_away]


@pytest.mark.parametrize(
    ("mode", "outsiders", "members"),
    [
        (0o6777, 0o777, 0o777),
        (0o2767, 0o767, 0o2767),
        (0o6767, 0o767, 0o2767),
        (0o4755, 0o755, 0o755),
        (0o2755, 0o755, 0o755),
        (0o1777, 0o1777, 0o1777),
    ],
)
def test_the_setuid_bit_goes_and_the_setgid_bit_of_a_program_or_of_a_group_not_ones_own(
    mode: int, outsiders: int, members: int
) -> None:
    assert kept_mode(mode, GROUP, NOBODY) == outsiders
    assert kept_mode(mode, GROUP, MEMBER) == kept_mode(mode, GROUP, PRIMARY) == members
    assert kept_mode(mode, GROUP, PRIVILEGED) == mode


@pytest.mark.parametrize("mode", [0o6777, 0o2767])
@pytest.mark.parametrize("act", CHANGES)
@run_virtual
async def test_a_change_takes_the_privileges_in_the_tree_and_in_the_bucket(tmp_path: Path, act: Act, mode: int) -> None:
    async with mounting(tmp_path, mode) as kernel:
        await act(kernel, NOBODY)
        assert await mode_of(kernel) == mode & 0o777
        await trio.sleep(3)
        assert stored_mode(kernel) == mode & 0o777


@pytest.mark.parametrize("act", WRITES)
@run_virtual
async def test_a_write_takes_the_setgid_bit_that_the_kernel_leaves(tmp_path: Path, act: Act) -> None:
    async with mounting(tmp_path, 0o2767) as kernel:
        await act(kernel, NOBODY)
        assert (await mode_of(kernel), stored_mode(kernel)) == (0o767, 0o767)


@pytest.mark.parametrize("act", [open_truncating, write])
@run_virtual
async def test_what_is_taken_goes_with_the_upload_of_the_content(tmp_path: Path, act: Act) -> None:
    async with mounting(tmp_path, 0o2767) as kernel:
        await act(kernel, NOBODY)
        await trio.sleep(3)
        assert (kernel.store.counts["put"], kernel.store.counts["copy"]) == (1, 0)


@pytest.mark.parametrize("act", [*CHANGES[:3], *WRITES, look])
@run_virtual
async def test_who_may_set_them_leaves_them_and_so_does_who_only_looks(tmp_path: Path, act: Act) -> None:
    async with mounting(tmp_path, 0o2767) as kernel:
        await act(kernel, NOBODY if act is look else MEMBER)
        await act(kernel, PRIVILEGED)
        await trio.sleep(3)
        assert (await mode_of(kernel), stored_mode(kernel)) == (0o2767, 0o2767)


@run_virtual
async def test_a_new_file_keeps_the_mode_it_is_created_with(tmp_path: Path) -> None:
    async with mounted(MemoryStore(), tmp_path, started=True) as kernel:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        fh, shown = await kernel.fs.create(1, b"new", stat.S_IFREG | 0o6767, flags, NOBODY)
        await kernel.close(fh)
        assert stat.S_IMODE(shown.mode) == stat.S_IMODE((await kernel.stat("new")).mode) == 0o6767


@run_virtual
async def test_an_open_that_cannot_take_them_leaves_no_handle(tmp_path: Path) -> None:
    """What a later open is told is why an earlier change was not stored."""
    async with mounting(tmp_path, 0o4755) as kernel:
        refused = AccessDenied("no", code="AccessDenied", status=403)

        async def refuse(call: Call) -> None:
            if call.operation == "copy":
                raise refused

        kernel.store.before = refuse
        await kernel.fs.setattr(await kernel.ino("f"), Changes(uid=7), None)
        await trio.sleep(3)
        with pytest.raises(AccessDenied):
            await open_truncating(kernel, NOBODY)
        await trio.sleep(3)
        assert kernel.fs._handles._handles == {}
        await open_truncating(kernel, NOBODY)
        assert await mode_of(kernel) == 0o755


def test_a_process_that_is_gone_is_of_no_group() -> None:
    assert set(supplementary_groups(os.getpid())) == set(os.getgroups())
    assert list(supplementary_groups(2**31 - 1)) == []
