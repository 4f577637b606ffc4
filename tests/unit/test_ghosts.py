"""Stores that go on listing directories whose keys are gone: what this mount has emptied is gone for everybody."""

from pathlib import Path

import pytest
import trio

from s3mount.data.finishing import finish
from s3mount.data.intents import Intent, Source
from s3mount.errors import AccessDenied
from tests.haunted_store import HauntedStore
from tests.kernel_model import mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.test_rename import costs


def haunted() -> HauntedStore:
    store = HauntedStore()
    for key in ("d/sub/f", "d/g", "d/other/deep/h"):
        store.place(key, key.encode())
    return store


@run_virtual
async def test_a_renamed_directory_is_gone_after_a_restart_too(tmp_path: Path) -> None:
    store = haunted()
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d", "e")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.listdir() == ["e"]
        assert not await kernel.exists("d")
        assert await kernel.read("e/other/deep/h") == b"d/other/deep/h"
    assert not any(place.startswith("d/") for place in store.skeleton)


@run_virtual
async def test_what_is_listed_on_costs_a_rename_one_request_more(tmp_path: Path) -> None:
    plain, store = MemoryStore(renaming="kept"), haunted()
    for key in list(store.objects):
        plain.place(key, key.encode())
    for bucket in (plain, store):
        async with mounted(bucket, tmp_path) as kernel:
            await kernel.rename("d", "e")
    more = {name: count for name, count in (store.counts - plain.counts).items() if count}
    assert more == {"delete_many": 1}


@run_virtual
async def test_a_directory_whose_key_another_client_has_put_meanwhile_stays(tmp_path: Path) -> None:
    store = haunted()

    async def come(call: Call) -> None:
        if call.operation == "delete_many":
            store.before = None
            store.place("d/sub/theirs", b"theirs")

    store.before = come
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d", "e")
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.listdir("d") == ["sub"]
        assert await kernel.read("d/sub/theirs") == b"theirs"


@run_virtual
async def test_a_rename_succeeds_when_the_store_does_not_let_go_of_its_directories(tmp_path: Path) -> None:
    store = haunted()

    async def refuse(call: Call) -> None:
        if call.operation == "delete_many":
            raise AccessDenied("no", status=403)

    store.before = refuse
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d", "e")
        assert await kernel.listdir() == ["e"]
        assert await kernel.read("e/g") == b"d/g"


@run_virtual
async def test_a_rename_that_fails_leaves_no_directories_at_the_new_name(tmp_path: Path) -> None:
    store = haunted()

    async def refuse(call: Call) -> None:
        if call.operation == "rename" and call.source == "d/sub/f":
            raise AccessDenied("no", status=403)

    store.before = refuse
    async with mounted(store, tmp_path) as kernel:
        with pytest.raises(AccessDenied):
            await kernel.rename("d", "e")
        await trio.sleep(10)
        assert sorted(store.keys()) == ["d/g", "d/other/deep/h", "d/sub/f"]
        assert not any(place.startswith("e/") for place in store.skeleton)


@run_virtual
async def test_a_rename_that_a_crash_cut_short_leaves_no_directories_either(tmp_path: Path) -> None:
    store = haunted()
    sources = {}
    for key in list(store.objects):
        found = store.objects[key]
        sources[key[2:]] = Source(found.etag, len(found.body), found.last_modified_ns // 10**9)
    outcome = await finish(store, Intent("i", "mine", "host", "d/", "e/", 0, "moving", 0, sources))
    assert (outcome.moved, outcome.kept) == (3, [])
    assert not any(place.startswith("d/") for place in store.skeleton)


@run_virtual
async def test_rmdir_ends_a_directory_that_another_client_has_emptied(tmp_path: Path) -> None:
    store = haunted()
    for key in list(store.objects):
        await store.delete(key)
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.listdir("d") == ["other", "sub"]
        assert await kernel.listdir("d/other") == ["deep"]
        for path in ("d/other/deep", "d/other", "d/sub", "d"):
            await kernel.rmdir(path)
    assert store.skeleton == set()


@run_virtual
async def test_rm_of_a_tree_leaves_nothing_that_is_listed(tmp_path: Path) -> None:
    store = haunted()
    async with mounted(store, tmp_path) as kernel:
        for path in ("d/sub/f", "d/g", "d/other/deep/h"):
            await kernel.unlink(path)
        for path in ("d/other/deep", "d/other", "d/sub", "d"):
            await kernel.rmdir(path)
        await trio.sleep(2)
    assert (store.keys(), store.skeleton) == ([], set())
    assert costs(store)["delete"] <= 7
