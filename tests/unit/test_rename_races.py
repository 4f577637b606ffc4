"""What programs do while a rename is under way: what was acknowledged is found at the new name."""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from s3mount.errors import Stale, Unavailable
from tests.kernel_model import mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual


def once(operation: str, action: Callable[[], Awaitable[None]], key: str = "") -> Callable[[Call], Awaitable[None]]:
    """A hook that runs `action` at the first such request, of a copy with this source."""
    done = False

    async def hook(call: Call) -> None:
        nonlocal done
        if not done and call.operation == operation and key in (call.source, call.key, ""):
            done = True
            await action()

    return hook


def directory() -> MemoryStore:
    store = MemoryStore()
    for key, body in (("d/", b""), ("d/a", b"a1"), ("d/b", b"b1")):
        store.place(key, body)
    return store


# files


@run_virtual
async def test_a_file_that_an_open_lets_go_of_while_it_is_moved_has_its_new_name(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"content")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("f")

        async def open_at_the_old_key() -> None:
            with pytest.raises(Stale):
                await kernel.fs.open(ino, os.O_RDONLY)

        store.after = once("delete", open_at_the_old_key)
        await kernel.rename("f", "g")
        assert await kernel.read("g") == b"content"
        assert await kernel.listdir() == ["g"]


@pytest.mark.parametrize("operation", ["copy", "delete"])
@run_virtual
async def test_a_target_opened_for_writing_while_it_is_replaced_is_never_stored(tmp_path: Path, operation: str) -> None:
    store = MemoryStore()
    store.place("f", b"new")
    store.place("target", b"old")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("target")
        handles: list[int] = []

        async def open_target() -> None:
            handles.append(await kernel.fs.open(ino, os.O_WRONLY | os.O_TRUNC))

        store.before = once(operation, open_target)
        await kernel.rename("f", "target")
        await kernel.fs.write(handles[0], 0, b"orphan")
        await kernel.close(handles[0])
        assert store.body("target") == b"new"
        assert store.keys() == ["target"]


@run_virtual
async def test_a_target_stored_right_after_the_copy_does_not_take_the_place_of_the_source(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"new")
    store.place("target", b"old")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("target")

        async def write_target() -> None:
            fh = await kernel.fs.open(ino, os.O_WRONLY | os.O_TRUNC)
            await kernel.fs.write(fh, 0, b"late")
            await kernel.fs.flush(fh)
            assert store.body("target") == b"late"

        store.after = once("copy", write_target)
        await kernel.rename("f", "target")
        assert await kernel.read("target") == b"new"


@run_virtual
async def test_a_dirty_target_that_is_closed_during_the_copy_is_never_stored(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"new")
    store.place("target", b"old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("target", os.O_WRONLY | os.O_TRUNC)
        await kernel.fs.write(fh, 0, b"dirty")
        async with trio.open_nursery() as nursery:

            async def close_target() -> None:
                nursery.start_soon(kernel.fs.flush, fh)
                await trio.sleep(1)

            async def before(call: Call) -> None:
                if call.operation == "put":
                    await trio.sleep(5)
                await closing(call)

            closing = once("copy", close_target)
            store.before = before
            await kernel.rename("f", "target")
        await kernel.fs.release(fh)
        assert store.body("target") == b"new"


@run_virtual
async def test_a_rename_that_fails_leaves_the_dirty_target_to_be_stored(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"new")
    store.place("target", b"old")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("target", os.O_WRONLY | os.O_TRUNC)
        await kernel.fs.write(fh, 0, b"dirty")
        store.fail("copy", Unavailable("500", status=500))
        with pytest.raises(Unavailable):
            await kernel.rename("f", "target")
        await kernel.close(fh)
        assert (store.body("f"), store.body("target")) == (b"new", b"dirty")


# directories


@pytest.mark.parametrize("operation", ["copy", "delete_many"])
@pytest.mark.parametrize("name", ["a", "new"])
@run_virtual
async def test_a_file_closed_in_a_directory_that_moves_is_found_at_the_new_name(
    tmp_path: Path, operation: str, name: str
) -> None:
    store = directory()
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d/a")

        async def write() -> None:
            await kernel.write(f"d/{name}", b"acknowledged")

        hook = once(operation, write, "d/a" if operation == "copy" else "")
        store.after, store.before = (hook, None) if operation == "copy" else (None, hook)
        await kernel.rename("d", "e")
        assert await kernel.read(f"e/{name}") == b"acknowledged"
        assert store.keys() == sorted({"e/", "e/a", "e/b", f"e/{name}"})


@pytest.mark.parametrize("operation", ["copy", "delete_many"])
@run_virtual
async def test_a_file_unlinked_in_a_directory_that_moves_does_not_come_back(tmp_path: Path, operation: str) -> None:
    store = directory()
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d/a")

        async def unlink() -> None:
            await kernel.unlink("d/a")

        store.after = once(operation, unlink, "d/a" if operation == "copy" else "")
        await kernel.rename("d", "e")
        assert store.keys() == ["e/", "e/b"]
        assert await kernel.listdir("e") == ["b"]


@run_virtual
async def test_an_unlink_in_flight_while_its_directory_moves_removes_the_file(tmp_path: Path) -> None:
    store = directory()
    async with mounted(store, tmp_path) as kernel, trio.open_nursery() as nursery:
        await kernel.ino("d/a")
        store.before = once("copy", partial(trio.sleep, 3), "d/b")
        store.after = once("delete", partial(trio.sleep, 60), "d/a")
        nursery.start_soon(kernel.rename, "d", "e")
        await trio.sleep(1)
        nursery.start_soon(kernel.unlink, "d/a")
        await trio.sleep(10)
        assert await kernel.exists("e/b")
        await trio.sleep(60)
        assert store.keys() == ["e/", "e/b"]
        assert await kernel.listdir("e") == ["b"]


@run_virtual
async def test_a_reader_that_goes_while_its_directory_moves_leaves_no_file_behind(tmp_path: Path) -> None:
    store = directory()
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.open("d/a")

        async def close() -> None:
            await kernel.close(fh)

        store.after = once("copy", close, "d/b")
        await kernel.rename("d", "e")
        assert store.keys() == ["e/", "e/a", "e/b"]
        assert await kernel.read("e/a") == b"a1"


@run_virtual
async def test_a_directory_in_which_nothing_changed_is_listed_once(tmp_path: Path) -> None:
    store = directory()
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d/a")
        assert not await kernel.exists("e")
        store.reset_counts()

        async def write_elsewhere() -> None:
            await kernel.write("elsewhere", b"x")

        store.after = once("copy", write_elsewhere)
        await kernel.rename("d", "e")
        # The marker is written anew; one delete asks whether we may, one ends the intent.
        assert (store.counts["copy"], store.counts["put"], store.counts["delete"]) == (2, 4, 3)
        assert store.counts["delete_many"] == 1
        assert sum(call.operation == "list" and call.key == "d/" for call in store.calls) <= 1


@run_virtual
async def test_a_directory_move_that_fails_puts_open_files_back(tmp_path: Path) -> None:
    store = directory()
    async with mounted(store, tmp_path) as kernel:
        first, second = await kernel.open("d/a", os.O_RDWR), await kernel.open("d/b")
        store.fail("copy", Unavailable("500", status=500), key="e/b")
        with pytest.raises(Unavailable):
            await kernel.rename("d", "e")
        assert store.keys() == ["d/", "d/a", "d/b"]
        await kernel.fs.write(first, 0, b"A")
        await kernel.close(first)
        await kernel.close(second)
        assert store.body("d/a") == b"A1"
        assert await kernel.read("d/b") == b"b1"
        assert store.keys() == ["d/", "d/a", "d/b"]


@run_virtual
async def test_a_lookup_in_flight_while_its_directory_moves_finds_the_new_key(tmp_path: Path) -> None:
    store = directory()
    async with mounted(store, tmp_path) as kernel:
        above = await kernel.ino("d")
        found: list[int] = []

        async def look() -> None:
            found.append((await kernel.fs.lookup(above, b"a")).ino)

        async def after(call: Call) -> None:
            if call.operation == "head" and call.key == "d/a":
                await trio.sleep(5)

        store.after = after
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await trio.sleep(1)
            await kernel.rename("d", "e")
        fh = await kernel.fs.open(found[0], os.O_WRONLY | os.O_TRUNC)
        await kernel.fs.write(fh, 0, b"x")
        await kernel.close(fh)
        assert store.keys() == ["e/", "e/a", "e/b"]
        assert store.body("e/a") == b"x"


@pytest.mark.parametrize("pages_before", [0, 2])
@run_virtual
async def test_a_readdir_in_flight_while_its_directory_moves_tells_the_new_keys(
    tmp_path: Path, pages_before: int
) -> None:
    store = MemoryStore(page_max=4)
    for number in range(20):
        store.place(f"d/{number:02}", b"x")
    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("d")
        fh = await kernel.fs.opendir(ino)
        names: list[str] = []
        position = 0
        for _ in range(pages_before):
            told, position = await kernel.getdents(fh, ino, position, 4)
            names += [name.decode() for name, _ in told]
        store.after = once("list", partial(trio.sleep, 5), "d/")

        async def read() -> None:
            nonlocal position
            while True:
                told, position = await kernel.getdents(fh, ino, position, 4)
                names.extend(name.decode() for name, _ in told)
                if not told:
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            await kernel.rename("d", "e")
        kernel.fs.releasedir(fh)
        assert names == [".", "..", *(f"{number:02}" for number in range(20))]
        await kernel.write("e/07", b"written")
        assert store.keys("d/") == []
        assert store.body("e/07") == b"written"
