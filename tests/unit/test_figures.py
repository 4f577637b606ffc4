"""What `s3mount status` tells of a mount: each figure while there is something to tell, and not after it."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from s3mount.control.status import status_text
from s3mount.errors import AccessDenied, Stale, Unavailable
from s3mount.vfs.attributes import Changes
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.test_finishing import undertakings


def figures(kernel: Kernel) -> dict[str, Any]:
    """Everything, as JSON would have it."""
    return dict(kernel.fs.figures)


async def chmod(kernel: Kernel, path: str) -> None:
    await kernel.fs.setattr(await kernel.ino(path), Changes(mode=stat.S_IFREG | 0o600), None)


@run_virtual
async def test_nothing_is_told_of_a_mount_at_rest(tmp_path: Path) -> None:
    async with mounted(MemoryStore(), tmp_path) as kernel:
        told = figures(kernel)
        names = (
            "renames",
            "renames_unfinished",
            "renames_elsewhere",
            "attributes_that_failed",
            "deletions_that_failed",
        )
        assert [told[name] for name in names] == [[]] * len(names)
        assert told["attributes_held"] == {"count": 0, "paths": []}
        assert told["walks"] == {"under_way": 0, "directories_ahead": 0, "refused": False}


@run_virtual
async def test_the_rename_of_a_directory_tells_how_far_it_is(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(40):
        store.place(f"p/d/{number}", b"x")
    async with mounted(store, tmp_path, prefix="p/") as kernel:
        seen = []

        async def look(call: Call) -> None:
            if call.operation == "copy":
                seen.extend(figures(kernel)["renames"])

        store.before = look
        await kernel.rename("d", "e")
        done = [told.pop("done") for told in seen]
        assert seen == [{"from": "d/", "to": "e/", "total": 40}] * 40
        assert done == sorted(done)
        assert (done[0], done[-1] > 20) == (0, True)
        assert figures(kernel)["renames"] == []


@run_virtual
async def test_renames_that_others_have_left_and_own_ones_that_could_not_end_are_told(tmp_path: Path) -> None:
    store = MemoryStore()
    for name in ("a", "b"):
        store.place(f"p/d/{name}", b"x")
    async with undertakings(store, "theirs") as other:
        await other.begin("p/x/", "p/y/", {})
    async with mounted(store, tmp_path, prefix="p/") as kernel:
        await kernel.fs.recover()
        (foreign,) = figures(kernel)["renames_elsewhere"]
        assert (foreign["from"], foreign["to"], foreign["phase"]) == ("x/", "y/", "moving")
        assert foreign["host"]
        store.undeletable["p/d/a"] = AccessDenied("403", status=403)
        await kernel.rename("d", "e")
        (unfinished,) = figures(kernel)["renames_unfinished"]
        assert (unfinished["from"], unfinished["to"], unfinished["phase"]) == ("d/", "e/", "deleting")
        store.undeletable.clear()
        await trio.sleep(100)
        assert figures(kernel)["renames_unfinished"] == []


@run_virtual
async def test_a_change_of_attributes_is_told_while_it_is_held_and_when_it_has_failed(tmp_path: Path) -> None:
    store = MemoryStore()
    for name in ("proof", "f"):
        store.place(name, b"x")
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        await chmod(kernel, "proof")
        store.fail("copy", Unavailable("the store answered 503", status=503))
        await chmod(kernel, "f")
        assert figures(kernel)["attributes_held"] == {"count": 1, "paths": ["f"]}
        await trio.sleep(2)
        assert figures(kernel)["attributes_held"]["count"] == 0
        assert figures(kernel)["attributes_that_failed"] == [{"path": "f", "reason": "the store answered 503"}]


@run_virtual
async def test_a_walk_and_what_it_knows_ahead_are_told(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(12):
        store.place(f"d/{number:02}/f", b"x")
    async with mounted(store, tmp_path) as kernel:
        for number in range(4):
            await kernel.listdir(f"d/{number:02}")
        assert figures(kernel)["walks"] == {"under_way": 1, "directories_ahead": 8, "refused": False}


def test_each_item_of_a_list_is_a_line_that_names_its_parts() -> None:
    renames = [
        {"from": "a/", "to": "b/", "done": 3, "total": 500},
        {"from": "c/", "to": "d\n/", "phase": "moving", "host": "h", "began_ns": 1_600_000_000_000_000_000},
    ]
    text = status_text({"files": {"renames": renames, "renames_elsewhere": []}})
    shown = [line.split(maxsplit=1) for line in text.splitlines()][-2:]
    assert shown == [
        ["renames", "from a/, to b/, done 3, total 500"],
        ["from", "c/, to d\\n/, phase moving, host h, began 2020-09-13 12:26:40 UTC"],
    ]


@run_virtual
async def test_a_conflicts_copy_and_the_file_that_has_its_path_now_are_two_files_with_bytes_of_their_own(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    store.place("a", b"old")
    async with mounted(store, tmp_path) as kernel:
        loser = await kernel.open("a", os.O_RDWR)
        await kernel.fs.write(loser, 0, b"lost")
        store.place("a", b"theirs")
        with pytest.raises(Stale):
            await kernel.fs.flush(loser)
        await trio.sleep(10)  # the path is looked up anew
        writer = await kernel.open("a", os.O_RDWR)
        await kernel.fs.write(loser, 0, b"lost again")
        await kernel.fs.write(writer, 0, b"here")
        told = figures(kernel)
        assert told["dirty_files"] == {"count": 2, "paths": ["a", "a"]}
        assert told["dirty"]["bytes"] == len(b"lost again") + len(b"here")
        assert len(told["dirty"]["files"]) == 2
