"""The flag of a directory: what raising it costs, and that none is ever overwritten."""

from pathlib import Path

import pytest
import trio

from s3mount.errors import LostReply
from s3mount.store.base import Headers
from s3mount.vfs.directory import Directory
from s3mount.vfs.flags import FLAG, raise_flag
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual

OWN = Headers(metadata={"mode": "16832"})


async def listed(kernel: Kernel, path: str) -> Directory:
    """The directory, its flag known from a listing."""
    await kernel.listdir(path)
    kernel.store.reset_counts()
    return kernel.fs._inodes.get(await kernel.ino(path)).contents


@run_virtual
async def test_the_first_flag_of_a_listed_directory_is_one_put_and_the_next_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f")
    async with mounted(store, tmp_path) as kernel:
        directory = await listed(kernel, "d")
        for _ in range(2):
            await raise_flag(kernel.fs._tree, directory, nodes=False)
        assert store.counts == {"put": 1}
        assert store.keys() == [f"d/{FLAG}", "d/f"]


@run_virtual
async def test_a_flag_known_long_ago_is_looked_for_and_put_again(tmp_path: Path) -> None:
    """Another client's rmdir may have taken it."""
    store = MemoryStore()
    store.place("d/f")
    store.place(f"d/{FLAG}")
    async with mounted(store, tmp_path) as kernel:
        directory = await listed(kernel, "d")
        await raise_flag(kernel.fs._tree, directory, nodes=False)
        assert store.counts == {}
        store.remove(f"d/{FLAG}")
        await trio.sleep(6)
        await raise_flag(kernel.fs._tree, directory, nodes=False)
        assert store.counts == {"head": 1, "put": 1}
        assert f"d/{FLAG}" in store.objects


@pytest.mark.parametrize("conditions", ["kept", "ignored", "refused"])
@run_virtual
async def test_a_flag_that_is_there_keeps_its_metadata_whatever_the_store_makes_of_conditions(
    tmp_path: Path, conditions: str
) -> None:
    store = MemoryStore(conditions=conditions)  # type: ignore[arg-type]
    store.place("d/f")
    store.place("e/f")
    async with mounted(store, tmp_path) as kernel:
        old, new = await listed(kernel, "d"), await listed(kernel, "e")
        await raise_flag(kernel.fs._tree, new, nodes=False)
        assert f"e/{FLAG}" in store.objects
        store.place(f"d/{FLAG}", b"", OWN)
        await trio.sleep(6)
        await raise_flag(kernel.fs._tree, old, nodes=False)
        assert store.objects[f"d/{FLAG}"].headers == OWN
        await raise_flag(kernel.fs._tree, old, nodes=True)
        assert (store.body(f"d/{FLAG}"), store.objects[f"d/{FLAG}"].headers) == (b"1", OWN)
        assert store.body(f"e/{FLAG}") == (b"" if conditions == "kept" else b"1")


@run_virtual
async def test_a_flag_whose_put_lost_its_reply_is_put_again_by_the_next_who_needs_it(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f")
    async with mounted(store, tmp_path) as kernel:
        directory = await listed(kernel, "d")
        store.fail("put", LostReply("no reply"), when="after")
        with pytest.raises(LostReply):
            await raise_flag(kernel.fs._tree, directory, nodes=False)
        await raise_flag(kernel.fs._tree, directory, nodes=False)
        assert (store.counts["put"], directory.flag) == (2, True)


@run_virtual
async def test_a_listing_that_was_on_its_way_does_not_take_a_new_flag_back(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f")
    async with mounted(store, tmp_path) as kernel:
        directory = await listed(kernel, "d")
        await trio.sleep(61)

        async def raise_meanwhile(call: object) -> None:
            store.after = None
            await raise_flag(kernel.fs._tree, directory, nodes=False)

        store.after = raise_meanwhile
        await kernel.listdir("d")
        assert directory.flag is True
