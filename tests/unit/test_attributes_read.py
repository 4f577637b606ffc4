"""Special attributes as other mounts see them: flags, exact entries, what is asked for and what is not."""

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from s3mount.errors import Invalid, NotEmpty, Unavailable
from s3mount.store.base import Headers
from s3mount.vfs.exact import ROOT_SECONDS
from s3mount.vfs.flags import FLAG
from tests.kernel_model import Kernel, mounted
from tests.memory_store import SECOND_NS, MemoryStore
from tests.running import run_virtual

PRIVATE = {"mode": str(stat.S_IFREG | 0o600), "uid": "1234", "gid": "77", "mtime": "1000000000.500000000"}


def costs(store: MemoryStore) -> dict[str, int]:
    counted = dict(store.counts)
    store.reset_counts()
    return counted


def put(store: MemoryStore, key: str, body: bytes = b"", metadata: Mapping[str, str] | None = None) -> None:
    store.place(key, body, Headers(metadata=metadata or {}))


async def names_only(kernel: Kernel, path: str = "") -> dict[str, int]:
    """What a readdir tells of the type of each entry, and that it tells no more of those that are not exact."""
    return {name: stat.S_IFMT(shown.mode) async for name, shown in kernel.scan(path) if shown.size < 0}


async def stats(kernel: Kernel, path: str = "") -> dict[str, int]:
    """`ls -l`: every name, then what its lookup says of the mode."""
    names = await kernel.listdir(path)
    return {name: (await kernel.stat(f"{path}/{name}")).mode for name in names}


def flagged(store: MemoryStore, prefix: str, count: int, mode: int = 0o600) -> None:
    put(store, f"{prefix}{FLAG}")
    for number in range(count):
        put(store, f"{prefix}f{number:05}", b"x", {"mode": str(stat.S_IFREG | mode)})


@run_virtual
async def test_an_unflagged_directory_is_exact_without_a_head(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(1500):
        store.place(f"d/f{number:04}", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        assert costs(store) == {}
        assert await names_only(kernel, "d") == {}
        assert set((await stats(kernel, "d")).values()) == {stat.S_IFREG | 0o644}
        assert costs(store) == {"list": 2}


@run_virtual
async def test_a_plain_ls_of_a_flagged_directory_sends_no_head(tmp_path: Path) -> None:
    """C7. A flag with a body tells of no type but that of what is too long for a link."""
    store = MemoryStore()
    flagged(store, "d/", 1500)
    store.place(f"d/{FLAG}", b"1")
    store.place("d/long", b"x" * 4096)
    store.place("d/sub/x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        costs(store)
        told = await names_only(kernel, "d")
        assert len(told) == 1502
        assert (told["f00000"], told["long"], told["sub"]) == (0, stat.S_IFREG, stat.S_IFDIR)
        assert costs(store) == {"list": 2}
        assert len(kernel.fs._inodes) <= 2 + 1502


@run_virtual
async def test_ls_l_of_a_flagged_directory_asks_for_each_version_once(tmp_path: Path) -> None:
    """C7"""
    store = MemoryStore()
    flagged(store, "d/", 1000)
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        costs(store)
        assert set((await stats(kernel, "d")).values()) == {stat.S_IFREG | 0o600}
        assert costs(store) == {"list": 2, "head": 1000}
        for drop in (False, True):
            await trio.sleep(70)
            if drop:
                kernel.drop_caches()
            assert set((await stats(kernel, "d")).values()) == {stat.S_IFREG | 0o600}
            heads = [call.key for call in store.calls if call.operation == "head" and call.key.startswith("d/")]
            assert set(heads) <= {f"d/{FLAG}"}  # what the directory itself has may have changed


@run_virtual
async def test_lookups_in_listing_order_are_answered_by_heads_sent_ahead(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=0.02)
    flagged(store, "d/", 900)
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("d")
        before = trio.current_time()
        for name in names:
            assert (await kernel.stat(f"d/{name}")).mode == stat.S_IFREG | 0o600
        assert trio.current_time() - before < 900 * 0.02 / 15


@run_virtual
async def test_heads_ahead_are_bounded_and_end_with_the_pattern(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=0.02)
    flagged(store, "d/", 900)
    under_way = most = 0

    async def count(change: int) -> None:
        nonlocal under_way, most
        under_way += change
        most = max(most, under_way)

    async with mounted(store, tmp_path, attribute_requests_ahead_max=8) as kernel:
        names = await kernel.listdir("d")
        costs(store)
        store.before, store.after = lambda _call: count(1), lambda _call: count(-1)
        for name in names[:20]:
            await kernel.stat(f"d/{name}")
        assert most <= 9
        await trio.sleep(1)
        assert costs(store)["head"] <= 20 + 8
        for name in (names[700], names[300], names[800], names[100]):
            await kernel.stat(f"d/{name}")
        await trio.sleep(1)
        assert costs(store) == {"head": 4}


@run_virtual
async def test_a_head_ahead_that_fails_is_asked_again_by_the_lookup_which_is_told(tmp_path: Path) -> None:
    store = MemoryStore()
    flagged(store, "d/", 10)
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("d")
        store.fail("head", Unavailable("no"), key="d/f00003", times=100)
        for number in range(3):
            await kernel.stat(f"d/f{number:05}")
        assert [call.key for call in store.calls].count("d/f00003")
        known = len(kernel.fs._inodes)
        with pytest.raises(Unavailable):
            await kernel.stat("d/f00003")
        assert len(kernel.fs._inodes) == known
        store._faults.clear()
        assert (await kernel.stat("d/f00003")).mode == stat.S_IFREG | 0o600


@run_virtual
async def test_all_attributes_are_shown_and_what_is_not_stored_is_each_mounts_default(tmp_path: Path) -> None:
    """E6"""
    store = MemoryStore()
    put(store, FLAG)
    put(store, "f", b"abc", PRIVATE)
    put(store, "owned", b"", {"uid": "5"})
    put(store, "device", b"", {"mode": str(stat.S_IFCHR | 0o660), "rdev": "259"})
    put(store, "fifo", b"", {"mode": str(stat.S_IFIFO | 0o640)})
    put(store, "socket", b"", {"mode": str(stat.S_IFSOCK | 0o700)})
    for uid, umask, mode in ((1, 0o22, 0o644), (9, 0o2, 0o664)):
        async with mounted(store, tmp_path, uid=uid, file_mode=0o666, umask=umask) as kernel:
            shown = await kernel.stat("f")
            assert (shown.mode, shown.uid, shown.gid, shown.size) == (stat.S_IFREG | 0o600, 1234, 77, 3)
            assert shown.mtime_ns == shown.atime_ns == 1_000_000_000_500_000_000
            assert shown.ctime_ns == store.objects["f"].last_modified_ns
            owned = await kernel.stat("owned")
            assert (owned.mode, owned.uid) == (stat.S_IFREG | mode, 5)
            device = await kernel.stat("device")
            assert (device.mode, device.rdev, device.uid) == (stat.S_IFCHR | 0o660, 259, uid)
            assert stat.S_ISFIFO((await kernel.stat("fifo")).mode)
            assert stat.S_ISSOCK((await kernel.stat("socket")).mode)


@run_virtual
async def test_a_type_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, FLAG)
    put(store, "full-fifo", b"x", {"mode": str(stat.S_IFIFO | 0o600)})
    put(store, "no-target", b"", {"mode": str(stat.S_IFLNK | 0o777)})
    put(store, "long-link", b"x" * 4096, {"mode": str(stat.S_IFLNK | 0o777)})
    put(store, "directory", b"x", {"mode": str(stat.S_IFDIR | 0o750)})
    async with mounted(store, tmp_path) as kernel:
        assert {name: oct(mode) for name, mode in (await stats(kernel)).items()} == {
            "full-fifo": oct(stat.S_IFREG | 0o600),
            "no-target": oct(stat.S_IFREG | 0o777),
            "long-link": oct(stat.S_IFREG | 0o777),
            "directory": oct(stat.S_IFREG | 0o750),
        }


@run_virtual
async def test_a_link_leads_where_its_body_says(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, FLAG)
    put(store, "link", b"../elsewhere", {"mode": str(stat.S_IFLNK | 0o777)})
    put(store, "torn", b"a\0b", {"mode": str(stat.S_IFLNK | 0o777)})
    put(store, "geesefs", b"", {"--symlink-target": "some%20where"})
    put(store, "f", b"x")
    async with mounted(store, tmp_path) as kernel:
        link = await kernel.stat("link")
        assert (stat.S_ISLNK(link.mode), link.size) == (True, 12)
        assert await kernel.fs.readlink(link.ino) == b"../elsewhere"
        assert await kernel.fs.readlink(await kernel.ino("geesefs")) == b"some where"
        for name in ("torn", "f"):
            with pytest.raises(Invalid):
                await kernel.fs.readlink(await kernel.ino(name))


@run_virtual
async def test_a_cold_lookup_of_special_attributes_costs_no_more_than_one_of_defaults(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, f"d/{FLAG}")
    put(store, "d/f", b"abc", PRIVATE)
    put(store, f"d/sub/{FLAG}", b"", {"mode": str(stat.S_IFDIR | 0o700)})
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        assert costs(store) == {}
        assert (await kernel.stat("d/f")).mode == stat.S_IFREG | 0o600
        assert costs(store) == {"head": 1, "list": 1}
    async with mounted(store, tmp_path) as kernel:
        assert (await kernel.stat("d/sub")).mode == stat.S_IFDIR | 0o700
        assert costs(store) == {"head": 2, "list": 1}


@run_virtual
async def test_a_directorys_own_attributes_are_those_of_the_flag_inside_it(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, FLAG, b"", {"mode": str(stat.S_IFDIR | 0o711), "uid": "42"})
    put(store, f"d/{FLAG}", b"", {"mode": str(stat.S_IFDIR | 0o2750)})
    put(store, "marked/", b"", {"mode": str(stat.S_IFDIR | 0o1777)})
    put(store, "plain/x", b"")
    async with mounted(store, tmp_path) as kernel:
        root = await kernel.fs.getattr(1)
        assert (root.mode, root.uid) == (stat.S_IFDIR | 0o711, 42)
        assert {name: stat.S_IMODE(mode) for name, mode in (await stats(kernel)).items()} == {
            "d": 0o2750, "marked": 0o1777, "plain": 0o755
        }  # fmt: skip
        put(store, f"d/{FLAG}", b"", {"mode": str(stat.S_IFDIR | 0o700)})
        await trio.sleep(6)
        assert (await kernel.stat("d")).mode == stat.S_IFDIR | 0o700


@run_virtual
async def test_a_flag_that_page_one_does_not_reach_is_asked_for_by_name(tmp_path: Path) -> None:
    store = MemoryStore(page_max=5)
    for number in range(12):
        put(store, f"d/!{number:02}", b"x", {"mode": str(stat.S_IFREG | 0o600)})
        store.place(f"e/!{number:02}", b"x")
    put(store, f"d/{FLAG}")
    async with mounted(store, tmp_path) as kernel:
        assert set((await stats(kernel, "d")).values()) == {stat.S_IFREG | 0o600}
        costs(store)
        assert await names_only(kernel, "e") == {}
        assert costs(store) == {"list": 3, "head": 1}


@run_virtual
async def test_an_entry_younger_than_the_reply_without_a_flag_gets_a_head(tmp_path: Path) -> None:
    """Another client may put flag and entry while the listing is on its way."""
    store = MemoryStore(clock_ns=lambda: 1_700_000_000 * SECOND_NS)  # a real one may pass the entry's second
    store.place("old", b"x")
    store.place("young", b"x", Headers(metadata=PRIVATE), last_modified_ns=store.now_ns() - SECOND_NS)
    async with mounted(store, tmp_path) as kernel:
        assert await names_only(kernel) == {"young": 0}
        assert {name: stat.S_IMODE(mode) for name, mode in (await stats(kernel)).items()} == {
            "old": 0o644, "young": 0o600
        }  # fmt: skip
        assert costs(store) == {"head": 1}


@run_virtual
async def test_an_attribute_version_is_trusted_for_good_two_seconds_after_it_was_made(tmp_path: Path) -> None:
    """Three copies of an object onto itself within one second look alike."""
    seconds = 1_700_000_000
    store = MemoryStore(clock_ns=lambda: seconds * SECOND_NS)
    put(store, f"d/{FLAG}")
    store.place("d/f", b"x", Headers(metadata=PRIVATE), last_modified_ns=store.now_ns())
    async with mounted(store, tmp_path) as kernel:
        first = await kernel.stat("d/f")
        again = replace(store.objects["d/f"], headers=Headers(metadata=PRIVATE | {"mode": str(stat.S_IFREG | 0o640)}))
        store.objects["d/f"] = again
        seconds += 10
        await trio.sleep(10)
        second = await kernel.stat("d/f")
        assert (first.mode & 0o777, second.mode & 0o777) == (0o600, 0o640)
        assert first.ino != second.ino
        kernel.drop_caches()
        await kernel.listdir("d")
        costs(store)
        await kernel.stat("d/f")
        assert "head" not in costs(store)


@run_virtual
async def test_a_foreign_change_of_attributes_gives_the_path_a_new_inode(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, f"d/{FLAG}")
    put(store, "d/f", b"x", PRIVATE)
    async with mounted(store, tmp_path) as kernel:
        first = await kernel.stat("d/f")
        store.place("d/f", b"x", Headers(), last_modified_ns=store.now_ns() - 60 * SECOND_NS)
        await trio.sleep(6)
        second = await kernel.stat("d/f")
        assert (first.uid, second.uid) == (1234, os.getuid())
        assert first.ino != second.ino


@run_virtual
async def test_special_attributes_met_without_a_flag_are_shown_and_flag_the_directory(tmp_path: Path) -> None:
    """A bucket that s3fs writes: locally at once, in the bucket with our next write there."""
    store = MemoryStore()
    for number in range(40):
        put(store, f"d/f{number:02}", b"x", PRIVATE)
    async with mounted(store, tmp_path) as kernel:
        assert (await kernel.stat("d/f00")).mode == stat.S_IFREG | 0o600
        assert set((await stats(kernel, "d")).values()) == {stat.S_IFREG | 0o600}
        assert f"d/{FLAG}" not in store.objects
        await kernel.write("d/new", b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert f"d/{FLAG}" in store.objects
    async with mounted(store, tmp_path) as kernel:
        assert set((await stats(kernel, "d")).values()) == {stat.S_IFREG | 0o600, stat.S_IFREG | 0o644}


@run_virtual
async def test_what_an_open_finds_instead_is_shown_with_its_attributes_and_not_asked_again(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f", b"old")
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("d")
        put(store, "d/f", b"newer", PRIVATE)
        costs(store)
        assert await kernel.read("d/f") == b"newer"
        shown = await kernel.stat("d/f")
        assert (shown.mode, shown.size) == (stat.S_IFREG | 0o600, 5)
        assert costs(store) == {"get": 1}


@run_virtual
async def test_an_own_upload_keeps_what_is_known_of_the_attributes(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, f"d/{FLAG}")
    put(store, "d/f", b"x", PRIVATE)
    async with mounted(store, tmp_path) as kernel:
        before = await kernel.stat("d/f")
        await kernel.write("d/f", b"longer")
        for _ in range(2):
            await trio.sleep(6)
            await kernel.listdir("d")
            after = await kernel.stat("d/f")
            assert (after.ino, after.mode, after.uid) == (before.ino, before.mode, before.uid)


@run_virtual
async def test_always_asks_for_each_entry_and_needs_no_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(30):
        put(store, f"d/f{number:02}", b"x", PRIVATE)
    put(store, "marked/", b"", {"mode": str(stat.S_IFDIR | 0o700)})
    async with mounted(store, tmp_path, attributes="always") as kernel:
        assert len(await names_only(kernel, "d")) == 30
        assert set((await stats(kernel, "d")).values()) == {stat.S_IFREG | 0o600}
        assert (await kernel.stat("marked")).mode == stat.S_IFDIR | 0o700
        await kernel.write("d/new", b"x")
        assert f"d/{FLAG}" not in store.objects


@run_virtual
async def test_never_reads_no_attributes_and_asks_for_none(tmp_path: Path) -> None:
    store = MemoryStore()
    flagged(store, "d/", 30)
    put(store, FLAG, b"", {"mode": str(stat.S_IFDIR | 0o700)})
    put(store, "link", b"target", {"mode": str(stat.S_IFLNK | 0o777)})
    async with mounted(store, tmp_path, attributes="never") as kernel:
        assert (await kernel.fs.getattr(1)).mode == stat.S_IFDIR | 0o755
        assert (await kernel.stat("link")).mode == stat.S_IFREG | 0o644
        assert set((await stats(kernel, "d")).values()) == {stat.S_IFREG | 0o644}
        assert "head" not in costs(store)


@run_virtual
async def test_rm_r_of_a_flagged_directory_leaves_no_key(tmp_path: Path) -> None:
    store = MemoryStore()
    flagged(store, "d/", 3)
    store.place("d/")
    flagged(store, "implicit/", 3)
    async with mounted(store, tmp_path) as kernel:
        for directory in ("d", "implicit"):
            for name in await kernel.listdir(directory):
                await kernel.unlink(f"{directory}/{name}")
            assert await kernel.exists(directory)
            await kernel.rmdir(directory)
        assert store.keys() == []
        assert await kernel.listdir() == []


@run_virtual
async def test_rmdir_puts_the_flag_back_when_something_came_meanwhile(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, f"d/{FLAG}", b"", {"mode": str(stat.S_IFDIR | 0o700)})
    store.place("d/")
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")

        async def write_meanwhile(call: object) -> None:
            if getattr(call, "operation", "") == "delete":
                put(store, "d/f", b"x", PRIVATE)

        store.before = write_meanwhile
        with pytest.raises(NotEmpty):
            await kernel.rmdir("d")
        assert store.keys() == [f"d/{FLAG}", "d/f"]
        assert store.objects[f"d/{FLAG}"].headers.metadata == {"mode": str(stat.S_IFDIR | 0o700)}
        assert (await kernel.stat("d/f")).mode == stat.S_IFREG | 0o600


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("victim", [f"d/{FLAG}", "d/"])
@run_virtual
async def test_an_rmdir_that_fails_leaves_the_directory_its_attributes(tmp_path: Path, victim: str, when: str) -> None:
    store = MemoryStore()
    put(store, f"d/{FLAG}", b"", {"mode": str(stat.S_IFDIR | 0o700)})
    store.place("d/")
    put(store, FLAG)
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        store.fail("delete", Unavailable("no"), key=victim, when=when)  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            await kernel.rmdir("d")
        assert store.objects[f"d/{FLAG}"].headers.metadata == {"mode": str(stat.S_IFDIR | 0o700)}
        await trio.sleep(6)
        assert (await kernel.stat("d")).mode == stat.S_IFDIR | 0o700
        await kernel.rmdir("d")
        assert store.keys() == [FLAG]


@run_virtual
async def test_a_special_entry_takes_a_flag_to_the_directory_it_moves_to(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, f"d/{FLAG}")
    put(store, "d/f", b"x", PRIVATE)
    put(store, "d/plain", b"x")
    store.place("e/x")
    store.place("g/x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d/plain", "g/plain")
        assert f"g/{FLAG}" not in store.objects
        store.reset_counts()
        await kernel.rename("d/f", "e/f")
        changes = [call.key for call in store.calls if call.operation in ("put", "copy", "delete")]
        assert changes == [f"e/{FLAG}", "d/", "e/f", "d/f"] or changes == ["d/", f"e/{FLAG}", "e/f", "d/f"]
    async with mounted(store, tmp_path) as kernel:
        assert (await stats(kernel, "e"))["f"] == stat.S_IFREG | 0o600


@run_virtual
async def test_a_directory_moves_with_its_flags_which_are_there_before_what_they_speak_of(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, FLAG)
    put(store, f"d/{FLAG}", b"", {"mode": str(stat.S_IFDIR | 0o700)})
    put(store, "d/f", b"x", PRIVATE)
    put(store, f"d/sub/{FLAG}")
    put(store, "d/sub/f", b"x", PRIVATE)
    store.place("e/x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d", "e/d")
        assert store.keys() == [FLAG, f"e/{FLAG}", f"e/d/{FLAG}", "e/d/f", f"e/d/sub/{FLAG}", "e/d/sub/f", "e/x"]
        copied = [call.key for call in store.calls if call.operation == "copy"]
        assert {key.endswith(FLAG) for key in copied[:2]} == {True}
        assert (await kernel.stat("e/d")).mode == stat.S_IFDIR | 0o700
    async with mounted(store, tmp_path) as kernel:
        assert (await kernel.stat("e/d")).mode == stat.S_IFDIR | 0o700
        assert (await kernel.stat("e/d/sub/f")).mode == stat.S_IFREG | 0o600


@pytest.mark.parametrize("onto", ["an empty directory", "the place of one that moved"])
@run_virtual
async def test_what_was_told_of_a_directory_ends_with_it(tmp_path: Path, onto: str) -> None:
    store = MemoryStore()
    put(store, FLAG)
    put(store, f"new/{FLAG}", b"", {"uid": "1"})
    put(store, f"new/sub/{FLAG}", b"", {"uid": "3"})
    put(store, "new/sub/f", b"x")
    put(store, f"old/{FLAG}", b"", {"uid": "2"})
    put(store, f"old/sub/{FLAG}", b"", {"uid": "4"})
    if onto == "an empty directory":
        store.remove(f"old/sub/{FLAG}")
    async with mounted(store, tmp_path) as kernel:
        for path in ("new", "new/sub", "old", "old/sub"):
            if path != "old/sub" or onto != "an empty directory":
                await kernel.stat(path)
        kernel.drop_caches()
        if onto != "an empty directory":
            await kernel.rename("old", "elsewhere")
        await kernel.rename("new", "old")
        kernel.drop_caches()
        assert (await kernel.stat("old")).uid == 1
        assert (await kernel.stat("old/sub")).uid == 3


@run_virtual
async def test_a_directory_moved_onto_an_empty_one_does_not_get_its_attributes(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, FLAG)
    put(store, "d/f", b"x")
    put(store, f"e/{FLAG}", b"", {"mode": str(stat.S_IFDIR | 0o700)})
    async with mounted(store, tmp_path) as kernel:
        assert (await kernel.stat("e")).mode == stat.S_IFDIR | 0o700
        await kernel.rename("d", "e")
        assert store.keys() == [FLAG, "e/f"]
    async with mounted(store, tmp_path) as kernel:
        assert (await kernel.stat("e")).mode == stat.S_IFDIR | 0o755


@run_virtual
async def test_a_page_that_ends_with_our_own_prefix_has_come_past_the_flag(tmp_path: Path) -> None:
    """`.s3mount-attrs` sorts before `.s3mount/`, and behind the name `.s3mount`."""
    store = MemoryStore(page_max=2, latency_seconds=0.1)
    store.place(f"{FLAG}", b"1")
    store.place(".s3mount/conflicts/copy")
    store.place("d/file")
    store.place("link", b"target", Headers(metadata={"mode": str(stat.S_IFLNK | 0o777)}))
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.listdir() == ["d", "link"]
        assert stat.S_ISLNK((await kernel.stat("link")).mode)


@run_virtual
async def test_the_root_is_shown_as_it_was_known_when_the_store_is_long_in_answering(tmp_path: Path) -> None:
    """D2: `df` opens the root, and waits a second at most."""
    store = MemoryStore()
    put(store, FLAG, metadata={"mode": str(stat.S_IFDIR | 0o700)})
    async with mounted(store, tmp_path) as kernel:
        before = await kernel.fs.getattr(1)
        store.latency_seconds = 3600.0
        await trio.sleep(kernel.fs._tree.config.metadata_ttl_seconds + 1)
        began = trio.current_time()
        assert (await kernel.fs.getattr(1)).mode == before.mode == stat.S_IFDIR | 0o700
        assert trio.current_time() - began == ROOT_SECONDS
