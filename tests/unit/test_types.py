"""The types of entries by a flag's size: what `find -type` costs, and that no link is stored under an empty flag."""

import os
import stat
from pathlib import Path

import pytest
import trio

from s3mount.errors import LostReply, NotEmpty, S3MountError, Unavailable
from s3mount.store.base import Headers
from s3mount.vfs.attributes import Changes
from s3mount.vfs.flags import FLAG, raise_flag
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import SECOND_NS, Call, MemoryStore
from tests.running import run_virtual

FILE = Headers(metadata={"mode": str(stat.S_IFREG | 0o600)})
LINK = Headers(metadata={"mode": str(stat.S_IFLNK | 0o777)})
PRIVATE = Headers(metadata={"mode": str(stat.S_IFDIR | 0o700)})


async def find(kernel: Kernel, kind: int, path: str = "d") -> list[str]:
    """`find -type`: by what readdir tells, and by a lookup where it tells no type."""
    found = []
    for name, mode in [(name, shown.mode) async for name, shown in kernel.scan(path)]:
        if stat.S_IFMT(mode or (await kernel.stat(f"{path}/{name}")).mode) == kind:
            found.append(name)
    return sorted(found)


def clocked() -> MemoryStore:
    """A store whose Date goes with the test's clock."""
    return MemoryStore(clock_ns=lambda: 1_700_000_000 * SECOND_NS + int(trio.current_time() * SECOND_NS))


def files(store: MemoryStore, count: int, prefix: str = "d/") -> None:
    for number in range(count):
        store.place(f"{prefix}f{number:04}", b"x", FILE)


async def looked_at(kernel: Kernel, path: str = "d") -> None:
    """The directory is listed; the counts begin."""
    await kernel.listdir(path)
    kernel.store.reset_counts()


def size(store: MemoryStore, prefix: str = "d/") -> int:
    return len(store.body(prefix + FLAG))


@run_virtual
async def test_find_type_f_over_flagged_entries_is_a_request_per_thousand_names(tmp_path: Path) -> None:
    store = MemoryStore()
    files(store, 1500)
    store.place(f"d/{FLAG}")
    store.place("d/sub/x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        store.reset_counts()
        assert len(await find(kernel, stat.S_IFREG)) == 1500
        assert store.counts == {"list": 2}
        assert await find(kernel, stat.S_IFDIR) == ["sub"]
        assert await find(kernel, stat.S_IFLNK) == []
        assert store.counts == {"list": 2}
        assert (await kernel.stat("d/f0007")).mode == stat.S_IFREG | 0o600
        assert store.counts["head"] == 1


@run_virtual
async def test_where_there_are_links_only_what_is_small_enough_for_one_is_asked_for(tmp_path: Path) -> None:
    store = MemoryStore()
    files(store, 20)
    for number in range(30):
        store.place(f"d/long{number}", b"x" * 4096, FILE)
    store.place("d/link", b"f0001", LINK)
    store.place(f"d/{FLAG}", b"1")
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        store.reset_counts()
        assert len(await find(kernel, stat.S_IFREG)) == 50
        assert store.counts == {"list": 1, "head": 21}
        assert await find(kernel, stat.S_IFLNK) == ["link"]
        assert store.counts == {"list": 1, "head": 21}


@run_virtual
async def test_a_walk_tells_types_below_every_directory_by_its_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(20):
        files(store, 5, f"d/{number:02}/")
        store.place(f"d/{number:02}/{FLAG}", b"1" if number == 13 else b"")
    async with mounted(store, tmp_path) as kernel:
        for name in await kernel.listdir("d"):
            told = {stat.S_IFMT(shown.mode) async for _, shown in kernel.scan(f"d/{name}")}
            assert told == {0 if name == "13" else stat.S_IFREG}
        assert store.counts["head"] < 20
        assert store.counts["list"] < 20


@pytest.mark.parametrize("attributes", ["always", "never"])
@run_virtual
async def test_without_flags_types_are_asked_for_or_all_are_files(tmp_path: Path, attributes: str) -> None:
    store = MemoryStore()
    files(store, 3)
    store.place("d/link", b"x", LINK)
    store.place(f"d/{FLAG}")
    async with mounted(store, tmp_path, attributes=attributes) as kernel:
        found = await find(kernel, stat.S_IFLNK)
        assert found == (["link"] if attributes == "always" else [])
        assert sum(call.operation == "head" and call.key.startswith("d/") for call in store.calls) == (
            5 if attributes == "always" else 0
        )


@pytest.mark.parametrize("age", [0, 1, 3])
@run_virtual
async def test_an_entry_as_young_as_the_look_at_the_flag_may_be_a_link(tmp_path: Path, age: int) -> None:
    """Its flag may have got a body after the listing had passed it."""
    store = clocked()
    store.place(f"d/{FLAG}")
    store.placed_seconds_ago = age
    store.place("d/f", b"x")
    async with mounted(store, tmp_path) as kernel:
        told = {name: stat.S_IFMT(shown.mode) async for name, shown in kernel.scan("d")}
        assert told == {"f": stat.S_IFREG if age > 2 else 0}


# the body is there first


@pytest.mark.parametrize("kind", ["link", "fifo", "socket", "device", "renamed link", "renamed by another name"])
@pytest.mark.parametrize("flag", ["absent", "empty", "with a body"])
@run_virtual
async def test_the_flag_has_a_body_before_a_node_is_stored(tmp_path: Path, flag: str, kind: str) -> None:
    store = MemoryStore()
    store.place("d/f")
    store.place("e/link", b"x", LINK)
    store.place("e/other")
    store.place(f"e/{FLAG}", b"1")
    if flag != "absent":
        store.place(f"d/{FLAG}", b"" if flag == "empty" else b"1", PRIVATE)
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        await looked_at(kernel, "e")
        await looked_at(kernel)
        parent = await kernel.ino("d")
        if kind.startswith("renamed"):
            await kernel.stat("e/link")
        store.reset_counts()
        first = len(store.calls)
        match kind:
            case "link":
                await kernel.fs.symlink(parent, b"n", b"x", ME)
            case "renamed link" | "renamed by another name":
                await kernel.rename("e/link", "d/n" if kind == "renamed link" else "d/f")
            case _:
                kinds = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFCHR}
                await kernel.fs.mknod(parent, b"n", kinds[kind] | 0o600, ME, rdev=os.makedev(1, 3))
        assert size(store) == 1
        assert store.objects[f"d/{FLAG}"].headers.metadata == ({} if flag == "absent" else PRIVATE.metadata)
        sent = [(call.operation, call.key) for call in store.calls[first:]]
        about_flag = [operation for operation, key in sent if key == f"d/{FLAG}"]
        assert about_flag == {"absent": ["put"], "empty": ["head", "put"], "with a body": []}[flag]
        if flag != "with a body":
            stored = next(
                at for at, (operation, key) in enumerate(sent) if key in ("d/n", "d/f") and operation != "head"
            )
            assert sent.index(("put", f"d/{FLAG}")) < stored


@run_virtual
async def test_special_files_need_no_body_and_a_second_link_no_request_for_one(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f")
    store.place("e/f", b"", FILE)
    store.place(f"e/{FLAG}")
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        await looked_at(kernel, "e")
        await looked_at(kernel)
        await kernel.fs.setattr(await kernel.ino("d/f"), Changes(mode=0o600), None)
        await kernel.rename("e/f", "d/g")
        await kernel.fs.mkdir(await kernel.ino("d"), b"sub", stat.S_IFDIR | 0o700, ME)
        assert (size(store), size(store, "d/sub/")) == (0, 0)
        await kernel.fs.symlink(await kernel.ino("d"), b"l", b"x", ME)
        store.reset_counts()
        await kernel.fs.symlink(await kernel.ino("d"), b"m", b"x", ME)
        assert store.counts == {"put": 1}


@run_virtual
async def test_changed_attributes_of_a_directory_leave_the_body_of_its_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f")
    store.place("e/f")
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        await kernel.fs.symlink(await kernel.ino("d"), b"l", b"x", ME)
        for path, body in (("d", 1), ("e", 0)):
            await kernel.fs.setattr(await kernel.ino(path), Changes(mode=0o700), None)
            assert size(store, f"{path}/") == body
            assert store.objects[f"{path}/{FLAG}"].headers.metadata == PRIVATE.metadata
        assert size(store, "") == 0
        await kernel.fs.symlink(await kernel.ino("e"), b"l", b"x", ME)
        assert store.objects[f"e/{FLAG}"].headers.metadata == PRIVATE.metadata


@pytest.mark.parametrize("renaming", ["kept", "refused"])
@run_virtual
async def test_a_renamed_directory_has_a_flag_with_the_same_body(tmp_path: Path, renaming: str) -> None:
    store = MemoryStore(renaming=renaming)  # type: ignore[arg-type]
    store.place("d/f", b"", FILE)
    store.place("d/sub/l", b"x", LINK)
    store.place(f"d/{FLAG}")
    store.place(f"d/sub/{FLAG}", b"1", PRIVATE)
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d", "e")
        assert (size(store, "e/"), size(store, "e/sub/")) == (0, 1)
        kernel.drop_caches()
        assert await find(kernel, stat.S_IFLNK, "e/sub") == ["l"]


@run_virtual
async def test_a_flag_put_back_by_a_failed_rmdir_has_a_body(tmp_path: Path) -> None:
    """Whoever saw it before may have counted on one."""
    store = MemoryStore()
    store.place("d/")
    store.place(f"d/{FLAG}", b"", PRIVATE)

    async def after(call: Call) -> None:
        if call.operation == "delete":
            store.after = None
            store.place(f"d/{FLAG}")  # another client's, for a file
            store.place("d/l", b"x", LINK)  # and one that saw a flag with a body

    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        store.after = after
        with pytest.raises(NotEmpty):
            await kernel.rmdir("d")
        assert size(store) == 1
        assert await find(kernel, stat.S_IFLNK) == ["l"]


# who is met


@run_virtual
async def test_a_link_met_under_an_empty_flag_makes_types_uncertain_at_once_and_in_the_bucket_with_the_next_write(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    store.place("d/f")
    store.place("d/l", b"x", LINK)
    store.place(f"d/{FLAG}", b"", PRIVATE)
    async with mounted(store, tmp_path) as kernel:
        assert await find(kernel, stat.S_IFREG) == ["f", "l"]
        assert stat.S_ISLNK((await kernel.stat("d/l")).mode)
        assert await find(kernel, stat.S_IFREG) == ["f"]
        await trio.sleep(70)
        kernel.drop_caches()
        assert await find(kernel, stat.S_IFLNK) == ["l"]
        assert size(store) == 0
        await kernel.write("d/new", b"x")
        await trio.sleep(1)
        assert size(store) == 1
        assert store.objects[f"d/{FLAG}"].headers.metadata == PRIVATE.metadata


@run_virtual
async def test_attributes_met_without_a_flag_are_paid_with_a_body(tmp_path: Path) -> None:
    """Whoever has stored them flags no links either."""
    store = MemoryStore()
    store.place("d/f", b"", FILE)
    store.place("d/l", b"x", LINK)
    async with mounted(store, tmp_path) as kernel:
        await kernel.stat("d/f")
        assert await find(kernel, stat.S_IFLNK) == ["l"]
        await kernel.write("d/new", b"x")
        await trio.sleep(1)
        assert size(store) == 1


@run_virtual
async def test_a_link_of_another_mount_is_found_once_what_was_known_is_old(tmp_path: Path) -> None:
    store = clocked()
    store.place("d/f", b"x", FILE)
    store.place(f"d/{FLAG}")
    async with (
        mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as one,
        mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as other,
    ):
        assert await find(other, stat.S_IFLNK) == []
        await one.fs.symlink(await one.ino("d"), b"l", b"x", ME)
        await trio.sleep(5.1)
        assert await find(other, stat.S_IFLNK) == ["l"]
        assert await find(other, stat.S_IFREG) == ["f"]
        other.store.reset_counts()
        await other.fs.symlink(await other.ino("d"), b"m", b"x", ME)
        assert store.counts == {"put": 1}


# races and failures


@pytest.mark.parametrize("conditions", ["kept", "ignored"])
@pytest.mark.parametrize("what", ["a file", "the directory", "a link"])
@pytest.mark.parametrize("flag", ["absent", "empty"])
@run_virtual
async def test_two_hosts_flag_at_once_and_the_body_stays(tmp_path: Path, flag: str, what: str, conditions: str) -> None:
    """Whatever request of one comes between whichever two of the other."""
    for delay in range(12):
        store = MemoryStore(conditions=conditions, latency_seconds=0.01)  # type: ignore[arg-type]
        store.place("d/f", b"x")
        if flag == "empty":
            store.place(f"d/{FLAG}")
        async with (
            mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as one,
            mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as other,
        ):
            for kernel in (one, other):
                await kernel.listdir("d")
                await kernel.stat("d/f")

            async def link(name: bytes, kernel: Kernel) -> None:
                await kernel.fs.symlink(await kernel.ino("d"), name, b"x", ME)

            async def change(kernel: Kernel, path: str, mode: int) -> None:
                await kernel.fs.setattr(await kernel.ino(path), Changes(mode=mode), None)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(link, b"l", one)
                await trio.sleep(delay * 0.005)
                if what == "a link":
                    nursery.start_soon(link, b"m", other)
                elif what == "a file":
                    nursery.start_soon(change, other, "d/f", 0o600)
                else:
                    nursery.start_soon(change, other, "d", 0o700)
            assert size(store) == 1
            if conditions == "kept" and what == "the directory" and flag == "absent":
                assert store.objects[f"d/{FLAG}"].headers.metadata == PRIVATE.metadata


@pytest.mark.parametrize("flag", ["absent", "empty"])
@pytest.mark.parametrize("when", ["before", "after"])
@run_virtual
async def test_a_body_whose_put_failed_stores_no_link_and_the_next_try_settles_it(
    tmp_path: Path, when: str, flag: str
) -> None:
    store = MemoryStore()
    store.place("d/f")
    if flag == "empty":
        store.place(f"d/{FLAG}", b"", PRIVATE)
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        await looked_at(kernel)
        store.fail("put", LostReply("no reply"), when=when)  # type: ignore[arg-type]
        with pytest.raises(LostReply):
            await kernel.fs.symlink(await kernel.ino("d"), b"l", b"x", ME)
        assert "d/l" not in store.objects
        await kernel.fs.symlink(await kernel.ino("d"), b"l", b"x", ME)
        assert size(store) == 1
        assert store.objects[f"d/{FLAG}"].headers.metadata == ({} if flag == "absent" else PRIVATE.metadata)
        assert await find(kernel, stat.S_IFLNK) == ["l"]


@run_virtual
async def test_a_put_that_was_sent_twice_has_found_its_own_body(tmp_path: Path) -> None:
    """A retried conditional PUT answers 412 though it was stored."""
    store = MemoryStore()
    store.place("d/f")
    store.place(f"d/{FLAG}")

    async def before(call: Call) -> None:
        if call.operation == "put":
            store.before = None
            store.place(f"d/{FLAG}", b"1")

    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        await looked_at(kernel)
        store.before = before
        await kernel.fs.symlink(await kernel.ino("d"), b"l", b"x", ME)
        assert store.counts == {"head": 2, "put": 2}
        assert size(store) == 1


@run_virtual
async def test_a_flag_that_others_change_again_and_again_fails_the_link_and_not_the_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f")

    async def before(call: Call) -> None:
        if call.operation == "put" and call.key == f"d/{FLAG}":
            if call.key in store.objects:
                store.remove(call.key)
            else:
                store.place(call.key)

    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        await looked_at(kernel)
        store.before = before
        with pytest.raises(Unavailable):
            await kernel.fs.symlink(await kernel.ino("d"), b"l", b"x", ME)
        assert "d/l" not in store.objects


@run_virtual
async def test_a_failure_to_look_at_a_flag_fails_the_link(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f")
    store.place(f"d/{FLAG}")
    async with mounted(store, tmp_path, uid=ME.uid, gid=ME.gid) as kernel:
        await looked_at(kernel)
        store.fail("head", Unavailable("503"))
        with pytest.raises(S3MountError):
            await kernel.fs.symlink(await kernel.ino("d"), b"l", b"x", ME)
        assert store.counts == {"head": 1}


@run_virtual
async def test_a_listing_on_its_way_does_not_take_the_body_back(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/f")
    store.place(f"d/{FLAG}")
    async with mounted(store, tmp_path) as kernel:
        await looked_at(kernel)
        directory = kernel.fs._inodes.get(await kernel.ino("d")).contents
        await trio.sleep(61)

        async def raise_meanwhile(call: object) -> None:
            store.after = None
            await raise_flag(kernel.fs._tree, directory, nodes=True)

        store.after = raise_meanwhile
        await kernel.listdir("d")
        assert (directory.flag, directory.nodes, size(store)) == (True, True, 1)
