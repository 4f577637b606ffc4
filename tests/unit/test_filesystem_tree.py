"""Names: lookup, listing, mkdir, rmdir, unlink, create, and what each may cost (DESIGN section 9)."""

import os
import stat
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
import trio

from s3mount.errors import (
    IllegalName,
    NameTooLong,
    NoEntry,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    ReadOnly,
    Unavailable,
)
from s3mount.store.base import Headers, Page
from s3mount.vfs.attributes import Changes
from s3mount.vfs.keys import TWIN_SUFFIX
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual


def costs(store: MemoryStore) -> dict[str, int]:
    counted = dict(store.counts)
    store.reset_counts()
    return counted


@run_virtual
async def test_a_cold_path_costs_a_head_and_a_list_per_component(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(20):
        store.place(f"a/b/f{number}", b"x")
        store.place(f"other{number:04}", b"x")
    async with mounted(store, tmp_path, started=False) as kernel:
        await kernel.ino("a/b/f1")
        assert costs(store) == {"head": 3, "list": 3}
        await kernel.ino("a/b/f1")
        assert costs(store) == {}


@run_virtual
async def test_names_of_a_fresh_listing_cost_nothing_present_or_absent(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("a", b"12345")
    store.place("d/x", b"")
    async with mounted(store, tmp_path) as kernel:
        assert (await kernel.stat("a")).size == 5
        assert stat.S_ISDIR((await kernel.stat("d")).mode)
        assert not await kernel.exists("b")
        assert costs(store) == {}


@run_virtual
async def test_an_absence_is_believed_no_longer_than_the_negative_lifetime(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        assert await kernel.listdir() == []
        assert not await kernel.exists("new")
        store.place("new", b"x")
        await trio.sleep(1.01)
        assert await kernel.exists("new")


@run_virtual
async def test_the_second_miss_lists_one_page_and_further_names_cost_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(500):
        store.place(f"d/f{number:03}", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d/f000")
        assert costs(store) == {"head": 1, "list": 1}
        for number in range(1, 500):
            await kernel.ino(f"d/f{number:03}")
        assert costs(store) == {"list": 1, "head": 1}  # the directory's flag, which stands before the page
        assert not await kernel.exists("d/e")
        assert costs(store) == {"list": 1}


@run_virtual
async def test_an_upload_into_a_huge_directory_lists_at_most_one_page_of_it(tmp_path: Path) -> None:
    """B14"""
    store = MemoryStore()
    for number in range(80_000):
        store.place(f"d/f{number:05}", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.write("d/phpXYZ", b"picture", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        await kernel.rename("d/phpXYZ", "d/f01234.jpg")
        await kernel.fs.setattr(await kernel.ino("d/f01234.jpg"), Changes(mode=0o600), None)
        pages = [call for call in store.calls if call.operation == "list" and call.key == "d/" and call.size > 10]
        assert len(pages) <= 1


@run_virtual
async def test_random_names_of_a_huge_directory_are_asked_for_one_by_one(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(5000):
        store.place(f"d/f{number:05}", b"x")
    async with mounted(store, tmp_path) as kernel:
        for number in (4000, 100, 3000, 2000, 4900, 50):
            await kernel.ino(f"d/f{number:05}")
        pages = [call for call in store.calls if call.operation == "list" and call.key == "d/"]
        assert len(pages) == 1


@pytest.mark.parametrize("count", [0, 1, 30, 999, 1000, 1001, 3500])
@run_virtual
async def test_ls_of_n_entries_costs_a_list_per_thousand(tmp_path: Path, count: int) -> None:
    store = MemoryStore()
    store.place("d/", b"")
    for number in range(count):
        store.place(f"d/f{number:05}", b"x" * (number % 7))
    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d")
        costs(store)
        listed = [(name, attributes.size) async for name, attributes in kernel.scan("d")]
        assert listed == [(f"f{number:05}", number % 7) for number in range(count)]
        rows = count + 1  # the marker is a key too
        assert costs(store) == {"list": -(-rows // 1000)}
        assert len([name async for name, _ in kernel.scan("d")]) == count
        for number in range(0, count, 97):
            await kernel.stat(f"d/f{number:05}")
        assert costs(store) == {}


@pytest.mark.parametrize("order", ["utf8", "tree"])
@run_virtual
async def test_a_listing_is_whole_wherever_its_pages_end_and_in_either_order(
    tmp_path: Path, order: Literal["utf8", "tree"]
) -> None:
    for page_max in range(1, 9):
        store = MemoryStore(page_max=page_max, order=order)
        for key in ["a!", "a!b/x", "a-b", "a/1", "a0", "b", "c!", "c/1", "c/2", "d "]:
            store.place(key)
        async with mounted(store, tmp_path, started=False) as kernel:
            assert await kernel.listdir() == ["a!", "a!b", "a-b", "a", "a0", "b", "c!", "c", "d "]


@run_virtual
async def test_what_is_made_while_a_directory_is_read_is_told_by_what_is_read_later(tmp_path: Path) -> None:
    store = MemoryStore(page_max=2)
    for key in ["a/1", "b/1", "m/1", "n/1", "o/1", "p/1"]:
        store.place(key)
    async with mounted(store, tmp_path) as kernel:
        told = []
        async for name, _ in kernel.scan(batch=1):
            told.append(name)
            if name == "a":
                # Before the place from which the store goes on, and after what the page tells.
                await kernel.mkdir("b!")
                await kernel.rmdir("b!")
                await kernel.mkdir("b-")
        assert told == ["a", "b-", "b", "m", "n", "o", "p"]


@run_virtual
async def test_the_first_entries_are_told_before_the_last_page_is_asked_for(tmp_path: Path) -> None:
    """C1"""
    store = MemoryStore()
    for number in range(5000):
        store.place(f"f{number:05}", b"x")
    async with mounted(store, tmp_path, started=False) as kernel:
        told, _ = await kernel.getdents(await kernel.fs.opendir(1), 1, 0, 3)
        assert told[-1][0] == b"f00000"
        assert costs(store) == {"list": 1}


@run_virtual
async def test_listings_over_the_bound_are_not_kept_whole_and_still_told_whole(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(6000):
        store.place(f"f{number:05}", b"x")
    async with mounted(store, tmp_path, listed_names_max=2500) as kernel:
        assert await kernel.listdir() == [f"f{number:05}" for number in range(6000)]
        assert costs(store) == {"list": 5}  # the first page was listed at the start
        assert kernel.fs._tree.listings.names <= 2500


@pytest.mark.parametrize("count", [30, 3000])
@run_virtual
async def test_entries_that_exist_throughout_are_told_exactly_once_while_others_come_and_go(
    tmp_path: Path, count: int
) -> None:
    """C6"""
    store = MemoryStore()
    stable = [f"k{number:05}" for number in range(count)]
    for name in stable:
        store.place(name, b"x")
    for number in range(0, count, 3):
        store.place(f"k{number:05}-gone", b"x")
    async with mounted(store, tmp_path, metadata_ttl_seconds=0.5) as kernel:
        told: Counter[str] = Counter()
        step = 0
        async for name, _ in kernel.scan(batch=7):
            told[name] += 1
            step += 1
            if step % 5 == 0:
                await kernel.write(f"k{(step * 7919) % count:05}+new", b"")
                gone = f"k{(step * 104729) % count // 3 * 3:05}-gone"
                if await kernel.exists(gone):
                    await kernel.unlink(gone)
                if step % 500 == 0:
                    await trio.sleep(1)
        assert [name for name in stable if told[name] != 1] == []
        assert max(told.values()) == 1


@run_virtual
async def test_a_directory_told_again_from_any_offset_goes_on_with_the_next_entry(tmp_path: Path) -> None:
    store = MemoryStore()
    names = [f"f{number:05}" for number in range(2500)]
    for name in names:
        store.place(name, b"x")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.fs.opendir(1)
        offsets: dict[str, int] = {}

        def emit(name: bytes, attributes: object, next_id: int) -> bool:
            offsets[name.decode()] = next_id
            return True

        await kernel.fs.readdir(fh, 0, emit)
        assert list(offsets)[:2] == [".", ".."]
        for name in ("f00000", "f00998", "f00999", "f01000", "f02498"):
            told, _ = await kernel.getdents(fh, 1, offsets[name], 1)
            assert told[0][0].decode() == names[names.index(name) + 1]
        assert (await kernel.getdents(fh, 1, offsets["f02499"], 1))[0] == []
        await trio.sleep(100)
        await kernel.write("f00000-new", b"")
        told, _ = await kernel.getdents(fh, 1, offsets["f01998"], 3)
        assert [name for name, _ in told] == [b"f01999", b"f02000", b"f02001"]
        told, _ = await kernel.getdents(fh, 1, 0, 5)
        assert [name for name, _ in told] == [b".", b"..", b"f00000-new", b"f00000", b"f00001"]
        kernel.fs.releasedir(fh)


@run_virtual
async def test_inodes_are_dropped_when_the_kernel_forgets_them(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(300):
        store.place(f"a/b{number}/c", b"x")
    async with mounted(store, tmp_path) as kernel:
        for name in await kernel.listdir("a"):
            await kernel.read(f"a/{name}/c")
        assert len(kernel.fs._inodes) == 602
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@run_virtual
async def test_hostile_keys_never_break_a_listing_and_what_can_be_a_path_reads_exactly(tmp_path: Path) -> None:
    """C4"""
    store = MemoryStore()
    good = ["\n", "\x01", "\U0001f600", "é", "e\u0301", "%41", "a+b", "a b", "~", "-", "a.", "..."]
    for name in good:
        store.place(name, name.encode())
    for key in ["a//b", "/lead", ".", "x/../y", "n" * 300, "x/./z", ".s3mount-attrs", ".s3mount/journal"]:
        store.place(key, b"hidden")
    async with mounted(store, tmp_path) as kernel:
        assert set(await kernel.listdir()) == {*good, "a", "x"}
        for name in good:
            assert await kernel.read(name) == name.encode()
        assert await kernel.listdir("x") == []
        assert await kernel.listdir("a") == []
        assert kernel.fs.hidden_count >= 6
        with pytest.raises(NotEmpty):
            await kernel.rmdir("x")
        assert not await kernel.exists(".s3mount-attrs")


@run_virtual
async def test_a_key_that_is_both_shows_as_the_directory_and_the_file_stays_reachable(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("a", b"file")
    store.place("a/b", b"below")
    for started in (True, False):
        async with mounted(store, tmp_path, started=started) as kernel:
            assert stat.S_ISDIR((await kernel.stat("a")).mode)
            assert await kernel.read("a" + TWIN_SUFFIX) == b"file"
            assert await kernel.listdir() == ["a", "a" + TWIN_SUFFIX]
    async with mounted(store, tmp_path) as kernel:
        await kernel.unlink("a" + TWIN_SUFFIX)
        assert store.keys() == ["a/b"]


@run_virtual
async def test_the_file_behind_a_directory_gets_its_name_back_when_the_directory_goes(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("a", b"file")
    store.place("a/", b"")
    async with mounted(store, tmp_path) as kernel:
        await kernel.rmdir("a")
        assert await kernel.listdir() == ["a"]
        assert await kernel.read("a") == b"file"


@run_virtual
async def test_a_failed_head_is_an_error_and_never_an_absence(tmp_path: Path) -> None:
    """A4"""
    store = MemoryStore()
    store.place("f", b"x")
    async with mounted(store, tmp_path, started=False) as kernel:
        store.fail("head", Unavailable("503", status=503))
        with pytest.raises(Unavailable):
            await kernel.ino("f")
        store.fail("list", Unavailable("503", status=503))
        with pytest.raises(Unavailable):
            await kernel.ino("g")
        assert await kernel.exists("f")


@run_virtual
async def test_a_refused_listing_is_an_error_of_readdir(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path, started=False) as kernel:
        store.fail("list", Unavailable("503", status=503))
        with pytest.raises(Unavailable):
            await kernel.listdir()
        assert await kernel.listdir() == []


@run_virtual
async def test_mkdir_writes_a_marker_and_the_new_directory_is_known_to_be_empty(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        await kernel.mkdir("d")
        assert costs(store) == {"put": 1}
        assert store.objects["d/"].body == b""
        assert store.objects["d/"].headers == Headers(content_type="application/x-directory")
        assert await kernel.listdir("d") == []
        assert await kernel.listdir() == ["d"]
        await kernel.write("d/f", b"x")
        assert costs(store) == {"put": 1}


@run_virtual
async def test_rmdir_of_a_directory_with_anything_below_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    for key in ("full/", "full/f", "implicit/deep/f", "foreign/"):
        store.place(key, b"body" if key == "foreign/" else b"")
    async with mounted(store, tmp_path) as kernel:
        for name in ("full", "implicit", "foreign"):
            with pytest.raises(NotEmpty):
                await kernel.rmdir(name)
        fh = await kernel.open("d", os.O_CREAT | os.O_WRONLY)
        with pytest.raises(NotADirectory):
            await kernel.rmdir("d")
        await kernel.close(fh)
        await kernel.mkdir("open")
        fh = await kernel.open("open/f", os.O_CREAT | os.O_WRONLY)
        with pytest.raises(NotEmpty):
            await kernel.rmdir("open")
        await kernel.close(fh)


@run_virtual
async def test_a_directory_survives_its_last_entry_and_rm_r_leaves_no_key(tmp_path: Path) -> None:
    """B13"""
    store = MemoryStore()
    store.place("implicit/f", b"x")
    store.place("two/f", b"x")
    store.place("two/g", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.unlink("implicit/f")
        assert store.keys() == ["implicit/", "two/f", "two/g"]
        await kernel.unlink("two/f")
        assert store.keys() == ["implicit/", "two/g"]
        await kernel.mkdir("d")
        await kernel.write("d/f", b"")
        await kernel.unlink("d/f")
        kernel.drop_caches()
        assert await kernel.listdir() == ["d", "implicit", "two"]
        await kernel.unlink("two/g")
        for name in ("d", "implicit", "two"):
            await kernel.rmdir(name)
        assert store.keys() == []
        assert await kernel.listdir() == []


@run_virtual
async def test_removing_files_of_a_listed_directory_costs_a_delete_each(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(50):
        store.place(f"d/f{number}", b"x")
    async with mounted(store, tmp_path, unlink="sync") as kernel:
        names = await kernel.listdir("d")
        costs(store)
        for name in names[:-1]:
            await kernel.unlink(f"d/{name}")
        assert costs(store) == {"delete": 49}
        await kernel.unlink(f"d/{names[-1]}")
        assert costs(store) == {"put": 1, "delete": 1}
        await kernel.rmdir("d")
        assert costs(store)["delete"] == 1
        assert store.keys() == []


@run_virtual
async def test_names_in_a_removed_directory_cannot_be_created(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        ino = (await kernel.mkdir("d")).ino
        await kernel.rmdir("d")
        with pytest.raises(NoEntry):
            await kernel.fs.create(ino, b"f", 0o644, os.O_WRONLY, ME)
        with pytest.raises(NoEntry):
            await kernel.fs.mkdir(ino, b"e", 0o755, ME)
        assert (await kernel.fs.lookup(ino, b"f")).ino == 0


class GhostStore(MemoryStore):
    """Goes on listing prefixes whose keys are gone, as SeaweedFS does."""

    def __init__(self) -> None:
        super().__init__()
        self.prefixes: set[str] = set()

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        page = await super().list_page(
            prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
        )
        if not delimiter:
            return page
        ghosts = {
            prefix + ghost[len(prefix) :].split("/")[0] + "/"
            for ghost in self.prefixes
            if ghost.startswith(prefix) and ghost != prefix
        }
        return Page(page.objects, tuple(sorted({*page.prefixes, *ghosts})), page.token, page.date_ns)


@run_virtual
async def test_a_removed_directory_stays_hidden_on_a_store_that_lists_prefixes_without_keys(tmp_path: Path) -> None:
    store = GhostStore()
    async with mounted(store, tmp_path) as kernel:
        await kernel.mkdir("d")
        await kernel.mkdir("d/e")
        store.prefixes |= {"d/", "d/e/"}
        await kernel.rmdir("d/e")
        assert await kernel.listdir("d") == []
        await kernel.rmdir("d")
        for _ in range(3):
            assert await kernel.listdir() == []
            assert not await kernel.exists("d")
            await trio.sleep(10)
            kernel.drop_caches()
        store.place("d/from-elsewhere", b"x")
        await trio.sleep(10)
        assert await kernel.listdir() == ["d"]
        await kernel.unlink("d/from-elsewhere")
        await kernel.rmdir("d")
        await trio.sleep(10)
        await kernel.write("d", b"now a file")
        assert await kernel.listdir() == ["d"]
        await kernel.unlink("d")
        await kernel.mkdir("d")
        assert await kernel.listdir() == ["d"]


@run_virtual
async def test_illegal_names_are_refused_with_their_own_error(tmp_path: Path) -> None:
    """C5"""
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        fs = kernel.fs
        assert (await fs.lookup(1, b"\xff")).ino == 0
        with pytest.raises(IllegalName):
            await fs.create(1, b"\xff", 0o644, os.O_WRONLY, ME)
        with pytest.raises(NotPermitted):
            await fs.mkdir(1, b".s3mount", 0o755, ME)
        with pytest.raises(NameTooLong):
            await fs.lookup(1, b"n" * 256)
        path = ""
        for _ in range(5):
            path += "/" + "d" * 200
            await kernel.mkdir(path)
        with pytest.raises(NameTooLong):
            await kernel.write(path + "/" + "f" * 30, b"x")


@run_virtual
async def test_a_read_only_mount_refuses_every_change(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x")
    store.place("d/", b"")
    async with mounted(store, tmp_path, read_only=True) as kernel:
        for change in (
            kernel.write("new", b"x"),
            kernel.open("f", os.O_RDWR),
            kernel.mkdir("e"),
            kernel.unlink("f"),
            kernel.rmdir("d"),
            kernel.rename("f", "g"),
            kernel.truncate("f", 0),
        ):
            with pytest.raises(ReadOnly):
                await change
        assert await kernel.read("f") == b"x"


@run_virtual
async def test_a_foreign_change_gives_a_path_a_new_inode_and_an_unchanged_object_keeps_its(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"one")
    store.place("same", b"same")
    async with mounted(store, tmp_path) as kernel:
        before, same = await kernel.stat("f"), await kernel.stat("same")
        store.place("f", b"two, longer")
        await trio.sleep(6)
        after = await kernel.stat("f")
        assert after.ino != before.ino
        assert after.size == 11
        assert (await kernel.stat("same")).ino == same.ino
        assert (await kernel.fs.getattr(before.ino)).size == 3


@run_virtual
async def test_an_object_that_went_away_is_gone_after_the_lifetime(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"one")
    async with mounted(store, tmp_path) as kernel:
        await kernel.stat("f")
        store.remove("f")
        await trio.sleep(6)
        assert not await kernel.exists("f")


@run_virtual
async def test_default_attributes_come_from_the_options(tmp_path: Path) -> None:
    """E6"""
    store = MemoryStore()
    store.place("d/f", b"x")
    async with mounted(store, tmp_path, uid=7, gid=8, file_mode=0o666, dir_mode=0o777, umask=0o027) as kernel:
        file, directory = await kernel.stat("d/f"), await kernel.stat("d")
        assert (file.mode, file.uid, file.gid, file.nlink) == (stat.S_IFREG | 0o640, 7, 8, 1)
        assert (directory.mode, directory.uid, directory.gid, directory.nlink) == (stat.S_IFDIR | 0o750, 7, 8, 2)
        assert file.mtime_ns == store.objects["d/f"].last_modified_ns


@run_virtual
async def test_an_own_file_stored_while_a_lookup_of_it_is_under_way_is_not_undone_by_the_old_answer(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    store.place("f", b"old")
    async with mounted(store, tmp_path, started=False) as kernel:
        await kernel.ino("f")
        held, parked = trio.Event(), trio.Event()

        async def after(call: Call) -> None:
            if call.operation == "head" and not held.is_set():
                held.set()
                await parked.wait()

        await trio.sleep(6)
        store.after = after
        async with trio.open_nursery() as nursery:
            kernel.expire()
            nursery.start_soon(kernel.ino, "f")
            await held.wait()
            ino = (await kernel.fs.getattr(_known(kernel, "f"))).ino
            fh = await kernel.fs.open(ino, os.O_WRONLY | os.O_TRUNC)
            await kernel.fs.write(fh, 0, b"brand new")
            await kernel.close(fh)
            parked.set()
        assert await kernel.read("f") == b"brand new"
        assert (await kernel.stat("f")).ino == ino


def _known(kernel: Kernel, name: str) -> int:
    return kernel.fs._inodes.root.dentries[name].ino


@run_virtual
async def test_concurrent_lookups_of_one_name_find_one_inode(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=0.01)
    for number in range(30):
        store.place(f"d/f{number}", b"x")
    async with mounted(store, tmp_path) as kernel:
        parent = await kernel.ino("d")
        found: list[tuple[int, int]] = []

        async def look(number: int) -> None:
            found.append((number, (await kernel.fs.lookup(parent, f"f{number}".encode())).ino))

        async with trio.open_nursery() as nursery:
            for number in [*range(30), *range(30)]:
                nursery.start_soon(look, number)
        assert len(set(found)) == 30
        assert len({ino for _, ino in found}) == 30


@run_virtual
async def test_a_walk_keeps_its_knowledge_and_leaves_none_behind(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(20):
        store.place(f"f{number:02}", b"x")
    async with mounted(store, tmp_path) as kernel:
        fh = await kernel.fs.opendir(1)
        await kernel.getdents(fh, 1, 0, 100)
        costs(store)
        await trio.sleep(30)
        for number in range(20):
            await kernel.stat(f"f{number:02}")
        assert costs(store) == {}
        kernel.fs.releasedir(fh)
        store.place("f07", b"changed")
        await trio.sleep(6)
        assert (await kernel.stat("f07")).size == 7


@run_virtual
async def test_expired_entries_of_a_directory_are_renewed_by_one_list(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(300):
        store.place(f"d/f{number:03}", b"x")
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("d")
        await kernel.stat("d/f000")
        await trio.sleep(10)
        await kernel.ino("d")
        costs(store)
        for name in names:
            await kernel.stat(f"d/{name}")
        assert costs(store) == {"head": 1, "list": 2}


@run_virtual
async def test_a_cancelled_lookup_leaves_no_trace_and_the_next_one_asks_anew(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=1)
    for number in range(20):
        store.place(f"d/f{number:02}", b"x")
    async with mounted(store, tmp_path) as kernel:
        parent = await kernel.ino("d")
        for number in range(4):
            with trio.move_on_after(0.5) as scope:
                await kernel.fs.lookup(parent, f"f{number:02}".encode())
            assert scope.cancelled_caught
        assert (await kernel.fs.lookup(parent, b"f05")).size == 1
        assert kernel.fs._inodes.get(parent).contents._overlays == {}


@run_virtual
async def test_a_directory_is_not_empty_because_its_first_page_has_only_what_is_kept_beside(tmp_path: Path) -> None:
    """A store may tell less than it was asked for, and that there is more."""
    store = MemoryStore(page_max=2)
    for key in ("d/", "d/.s3mount-attrs", "d/file", "other/"):
        store.place(key)
    async with mounted(store, tmp_path) as kernel:
        with pytest.raises(NotEmpty):
            await kernel.rmdir("d")
        with pytest.raises(NotEmpty):
            await kernel.rename("other", "d")
    assert store.keys() == ["d/", "d/.s3mount-attrs", "d/file", "other/"]
