"""The daemon is killed at its first request that changes the bucket, at its second, ...: the next start cleans up."""

import os
from pathlib import Path
from typing import Literal

import pytest
import trio

from s3mount.config import MIB, Config
from s3mount.data.journal import Journal
from s3mount.data.leftovers import Leftovers
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.paper import PaperInMemory
from tests.running import run_virtual
from tests.unit.files import pattern

OLD = pattern(17 * MIB, 1)
NEW = pattern(17 * MIB, 2)
HARMLESS = ("head", "get", "list", "upload_part", "copy_part")
EDITED = OLD[:MIB] + b"edited" + OLD[MIB + 6 :]


class Kill:
    """A7: death at one request: nothing has an effect after it, and the journal is what it was."""

    def __init__(self, store: MemoryStore, paper: PaperInMemory, number: int, when: Literal["before", "after"]) -> None:
        self.left = PaperInMemory()
        self.came = False
        self.scope = trio.CancelScope()
        self._paper = paper
        self._number = number
        store.before = self._before
        store.after = self._after
        self._when = when

    async def _before(self, call: Call) -> None:
        await self._pass("before", call)

    async def _after(self, call: Call) -> None:
        await self._pass("after", call)

    async def _pass(self, when: str, call: Call) -> None:
        if when == self._when and call.operation not in HARMLESS:
            self._number -= 1
            if self._number == 0:
                self.came = True
                self.left.content[:] = self._paper.content
                self.scope.cancel()
        if self.came:
            await trio.sleep_forever()


async def work(kernel: Kernel) -> None:
    """Upload by parts, edit by copied parts, unlink and replace what is open."""
    await kernel.write("new", NEW)
    edited = await kernel.open("edited", os.O_RDWR)
    await kernel.fs.write(edited, MIB, b"edited")
    await kernel.close(edited)
    readers = [await kernel.open("edited"), await kernel.open("replaced")]
    await kernel.unlink("edited")
    await kernel.rename("new", "replaced")
    assert await kernel.pread(readers[0], 0, 1 << 30) == EDITED
    assert await kernel.pread(readers[1], 0, 1 << 30) == OLD
    for reader in readers:
        await kernel.close(reader)
    await trio.sleep(1)


@pytest.mark.parametrize("when", ["before", "after"])
@run_virtual
async def test_wherever_the_daemon_is_killed_the_next_start_leaves_files_only(
    tmp_path: Path, when: Literal["before", "after"]
) -> None:
    number = 0
    killed = True
    while killed:
        number += 1
        store, paper = MemoryStore(), PaperInMemory()
        store.place("edited", OLD)
        store.place("replaced", OLD)
        store.upload_log = Journal(paper)
        directory = tmp_path / str(number)
        directory.mkdir()
        async with mounted(store, directory) as kernel:
            kill = Kill(store, paper, number, when)
            with kill.scope:
                await work(kernel)
        killed = kill.came
        store.before = store.after = None
        store.upload_log = journal = Journal(kill.left if killed else paper)
        store.reset_counts()
        async with trio.open_nursery() as nursery:
            await Leftovers(store, journal, Config(bucket="bucket"), nursery, now_ns=store.now_ns).recover()
        assert not store.uploads, number
        assert not store.keys(".s3mount"), number
        assert len(journal) == 0, number
        bodies = {"new": [NEW], "edited": [OLD, EDITED], "replaced": [OLD, NEW]}
        for key in store.objects:
            assert store.body(key) in bodies[key], (number, key)
        assert killed or not store.calls
    assert number == 12, "eleven requests make or remove something"
