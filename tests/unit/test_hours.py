"""A file that is held open for hours: lifetimes end, and what was learnt of it is old, but it is its writer's."""

import os
import random
from pathlib import Path

import pytest
import trio

from tests.kernel_model import mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual

MIB = 1024 * 1024


@pytest.mark.parametrize("base", [b"", b"log " * 3 * MIB], ids=["new", "large"])
@run_virtual
async def test_each_fsync_of_a_file_held_open_for_hours_stores_it_whole(tmp_path: Path, base: bytes) -> None:
    """A14: a file held open for hours with fsync now and then: the object is complete after each fsync, and writing
    goes on."""
    store, draws, expected = MemoryStore(), random.Random(14), bytearray(base)
    if base:
        store.place("log", base)
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("log", os.O_RDWR | os.O_CREAT)
        for _ in range(8):
            await trio.sleep(draws.uniform(0.5, 5) * 3600)
            more = draws.randbytes(draws.randrange(1, 2 * MIB))
            await kernel.fs.write(fh, len(expected), more)
            expected += more
            await trio.sleep(3600)
            await kernel.fs.fsync(fh)
            assert store.body("log") == expected
            assert await kernel.fs.read(fh, len(expected) - 1000, 1000) == expected[-1000:]
        await kernel.close(fh)
    assert store.body("log") == expected
    assert store.keys() == ["log"]
