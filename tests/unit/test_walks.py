"""Tree walks: about a LIST per thousand objects, however many directories, and never anything untrue (DESIGN 8, 9)."""

import random
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pytest
import trio

from s3mount.config import MIB
from s3mount.errors import AccessDenied, NoEntry
from s3mount.store.base import Listed, Page
from s3mount.vfs.deleting import PROOFS
from s3mount.vfs.keys import TWIN_SUFFIX
from s3mount.vfs.subtree import read_walk
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual

Order = Literal["utf8", "tree"]
BOTH = pytest.mark.parametrize("order", ["utf8", "tree"])


def bucket(keys: Iterable[str], *, order: Order = "utf8", page_max: int = 1000) -> MemoryStore:
    store = MemoryStore(order=order, page_max=page_max)
    for key in keys:
        store.place(key, b"" if key.endswith("/") else b"x")
    return store


def pages_of(store: MemoryStore) -> int:
    """How many whole pages were asked for."""
    return sum(call.operation == "list" and call.size == 1000 for call in store.calls)


def tree_of(directories: int, files: int, root: str = "t/") -> list[str]:
    return [f"{root}d{one:04}/f{two:03}" for one in range(directories) for two in range(files)]


async def find(kernel: Kernel, path: str = "", *, skip: Iterable[str] = (), pause: float = 0) -> list[str]:
    """Every path below, as find(1) asks: a directory to its end, then what is in it; directories with a slash."""
    found = []
    try:
        names = [(name, stat.S_ISDIR(attributes.mode)) async for name, attributes in kernel.scan(path)]
    except NoEntry:  # it went meanwhile
        return []
    for name, is_directory in names:
        below = f"{path}/{name}" if path else name
        if pause:
            await trio.sleep(pause)
        if is_directory and below not in skip:
            found.append(below + "/")
            found += await find(kernel, below, skip=skip, pause=pause)
        else:
            found.append(below)
    return found


def paths(keys: Iterable[str]) -> set[str]:
    """What `find` must tell of these keys."""
    found = set()
    for key in keys:
        components = key.split("/")
        found |= {"/".join(components[:stop]) + "/" for stop in range(1, len(components))}
        if components[-1]:
            found.add(key)
    return found


@BOTH
@run_virtual
async def test_a_walk_over_10000_objects_in_1000_directories_sends_at_most_25_requests(
    tmp_path: Path, order: Order
) -> None:
    keys = tree_of(1000, 10)
    store = bucket(keys, order=order)
    async with mounted(store, tmp_path) as kernel:
        assert set(await find(kernel)) == paths(keys)
        assert set(store.counts) == {"list"}
        assert store.counts["list"] <= 16


@run_virtual
async def test_a_walk_over_few_large_directories_costs_no_more_than_their_listings(tmp_path: Path) -> None:
    keys = tree_of(20, 1000)
    store = bucket(keys)
    async with mounted(store, tmp_path) as kernel:
        assert set(await find(kernel)) == paths(keys)
        assert store.counts == {"list": 21}


@BOTH
@pytest.mark.parametrize(("shape", "requests_max"), [((10, 10, 10), 10), ((4, 4, 4, 4, 4), 16), ((3, 100, 10), 12)])
@run_virtual
async def test_nested_trees_cost_about_a_request_per_thousand_and_a_few_per_level(
    tmp_path: Path, shape: tuple[int, ...], requests_max: int, order: Order
) -> None:
    keys = [""]
    for count in shape:
        keys = [f"{key}{number:03}/" for key in keys for number in range(count)]
    keys = [key.rstrip("/") for key in keys]
    store = bucket(keys, order=order)
    async with mounted(store, tmp_path) as kernel:
        assert set(await find(kernel)) == paths(keys)
        assert set(store.counts) == {"list"}
        assert store.counts["list"] <= requests_max


@run_virtual
async def test_a_huge_directory_that_is_never_entered_is_not_listed(tmp_path: Path) -> None:
    keys = [*tree_of(5, 3), *(f"t/d0005-huge/f{number:06}" for number in range(20_000)), *tree_of(200, 3, "t/e")]
    store = bucket(keys)
    async with mounted(store, tmp_path) as kernel:
        told = await find(kernel, "t", skip=["t/d0005-huge"])
        assert len(told) == 205 * 4 + 1
        assert store.counts["list"] <= 10


@run_virtual
async def test_directories_whose_subdirectories_are_not_entered_cost_little_more_than_a_listing_each(
    tmp_path: Path,
) -> None:
    keys = [f"t/d{one:03}/{two:02}/f{three:03}" for one in range(60) for two in range(3) for three in range(400)]
    store = bucket(keys)
    async with mounted(store, tmp_path) as kernel:
        for name in await kernel.listdir("t"):
            assert await kernel.listdir(f"t/{name}") == ["00", "01", "02"]
        assert store.counts["list"] <= 62 * 1.5


@run_virtual
async def test_a_walk_that_stops_asks_for_nothing_more_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store = bucket(f"t/d{one:04}/s/f{two}" for one in range(1000) for two in range(10))
    async with mounted(store, tmp_path) as kernel:
        for name in (await kernel.listdir("t"))[:10]:
            await kernel.listdir(f"t/{name}")
        asked = store.counts["list"]
        assert asked <= 6
        assert len(kernel.fs._tree.listings.shelf) > 80
        await trio.sleep(125)
        assert store.counts["list"] == asked
        assert len(kernel.fs._tree.listings.shelf) == 0
        kernel.drop_caches()
        assert kernel.fs._tree.listings.names <= 2  # the mount's root


@run_virtual
async def test_three_directories_read_at_leisure_are_no_walk(tmp_path: Path) -> None:
    store = bucket(tree_of(100, 10))
    async with mounted(store, tmp_path) as kernel:
        for number in range(6):
            await kernel.listdir(f"t/d{number:04}")
            await trio.sleep(61)
        assert all(call.key != "t/" or call.size <= 10 for call in store.calls if call.operation == "list")


@run_virtual
async def test_knowledge_of_a_walk_holds_while_it_goes_on_and_no_longer_than_60_seconds(tmp_path: Path) -> None:
    store = bucket(tree_of(40, 10))
    async with mounted(store, tmp_path) as kernel:
        held = await kernel.fs.opendir(await kernel.ino("t"))  # as du holds it
        names = await kernel.listdir("t")
        for name in names[:3]:
            await kernel.listdir(f"t/{name}")
        asked = pages_of(store)
        for name in names[3:17]:
            await trio.sleep(3.9)
            await kernel.listdir(f"t/{name}")
        assert pages_of(store) == asked
        store.place("t/d0020/new", b"x")
        await trio.sleep(3.9)
        assert "new" not in await kernel.listdir("t/d0019")
        await trio.sleep(2)
        assert "new" in await kernel.listdir("t/d0020")
        kernel.fs.releasedir(held)


@run_virtual
async def test_a_walk_that_takes_longer_than_a_lifetime_looks_up_no_directory_anew(tmp_path: Path) -> None:
    """The listing of the directory that is walked holds as long as what the walk fetches: 30 seconds here."""
    keys = tree_of(300, 10, root="")
    store = bucket(keys)
    async with mounted(store, tmp_path) as kernel:
        assert set(await find(kernel, pause=0.01)) == paths(keys)
        assert trio.current_time() > 30
        assert set(store.counts) == {"list"}
        assert store.counts["list"] <= 8


@run_virtual
async def test_the_attributes_of_the_directory_that_is_walked_hold_as_long_as_its_listing(tmp_path: Path) -> None:
    """The kernel asks for them again and again; its flag is asked for once the walk is over."""
    store = bucket(tree_of(100, 10))

    def flags_asked() -> int:
        return sum(call.operation == "head" and call.key == "t/.s3mount-attrs" for call in store.calls)

    async with mounted(store, tmp_path) as kernel:
        ino = await kernel.ino("t")
        for name in await kernel.listdir("t"):
            # Below an open directory, as du goes: nobody looks `t` itself up.
            below = (await kernel._step(ino, name.encode())).ino
            fh = await kernel.fs.opendir(below)
            assert len((await kernel.getdents(fh, below, 0, 100))[0]) == 12
            kernel.fs.releasedir(fh)
            await kernel.fs.getattr(ino)
            await trio.sleep(0.2)
        assert flags_asked() == 0
        await trio.sleep(11)
        await kernel.fs.getattr(ino)
        assert flags_asked() == 1


@run_virtual
async def test_who_only_asks_for_names_of_a_directory_that_was_walked_sees_changes_after_a_lifetime(
    tmp_path: Path,
) -> None:
    store = bucket(tree_of(40, 10, root=""))
    async with mounted(store, tmp_path) as kernel:
        for name in (await kernel.listdir())[:4]:
            await kernel.listdir(name)
        for number in range(10):
            store.remove(f"d0031/f{number:03}")
        for _ in range(4):
            await trio.sleep(2)
            assert await kernel.exists("d0030")
        assert not await kernel.exists("d0031")


@run_virtual
async def test_knowledge_of_a_walk_that_has_ended_is_not_believed_longer_than_any(tmp_path: Path) -> None:
    store = bucket(tree_of(40, 10))
    async with mounted(store, tmp_path) as kernel:
        for name in (await kernel.listdir("t"))[:4]:
            await kernel.listdir(f"t/{name}")
        store.place("t/d0020/new", b"x")
        await trio.sleep(5.1)
        assert "new" in await kernel.listdir("t/d0020")


@run_virtual
async def test_names_looked_up_in_one_directory_after_another_are_answered_by_pages_too(tmp_path: Path) -> None:
    store = bucket(tree_of(500, 4))
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("t")
        store.reset_counts()
        for number in range(500):
            assert (await kernel.stat(f"t/d{number:04}/f002")).size == 1
        assert store.counts["list"] <= 14
        assert store.counts["head"] <= 7


@run_virtual
async def test_names_looked_up_here_and_there_fetch_no_pages(tmp_path: Path) -> None:
    store = bucket(tree_of(500, 4))
    draw = random.Random(5)
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("t")
        store.reset_counts()
        for number in draw.sample(range(500), 100):
            await kernel.stat(f"t/d{number:04}/f002")
        assert all(call.size <= 10 for call in store.calls if call.operation == "list")


# What is told is true.

ODD = [
    "t/a", "t/a/x", "t/a!/x", "t/a!", "t/a-b", "t/a//hidden", "t/a/./hidden", "t/b/", "t/b/.s3mount-attrs", "t/b/c/d",
    "t/.s3mount-attrs", "t/c/x/y/z", "t/c/x!", "t/c/x-", "t/e/", "t/f/1", "t/f/2", "t/f!/1", "t/g/h/", "t/" + "n" * 300,
]  # fmt: skip
SHOWN = {
    "t/", "t/a/", "t/a/x", f"t/a{TWIN_SUFFIX}", "t/a!/", "t/a!/x", f"t/a!{TWIN_SUFFIX}", "t/a-b", "t/b/", "t/b/c/",
    "t/b/c/d", "t/c/", "t/c/x/", "t/c/x/y/", "t/c/x/y/z", "t/c/x!", "t/c/x-", "t/e/", "t/f/", "t/f/1", "t/f/2", "t/f!/",
    "t/f!/1", "t/g/", "t/g/h/",
}  # fmt: skip


@pytest.mark.parametrize("page_max", [2, 3, 5, 1000])
@run_virtual
async def test_twins_markers_hidden_and_reserved_keys_are_shown_as_by_listings(tmp_path: Path, page_max: int) -> None:
    store = bucket(ODD, page_max=page_max)
    async with mounted(store, tmp_path) as kernel:
        assert set(await find(kernel)) == SHOWN


@run_virtual
async def test_keys_that_are_no_paths_are_passed_over_at_the_top_of_the_bucket_too(tmp_path: Path) -> None:
    hidden = ["/lead", "//two", "/", "d5//x", "d5/./x", "d6/..", ".s3mount/own", "d7/" + "n" * 300 + "/x"]
    keys = [f"d{one}/f{two}" for one in range(9) for two in range(3)]
    store = bucket([*keys, *hidden])
    async with mounted(store, tmp_path) as kernel:
        assert set(await find(kernel)) == paths(keys)
        assert store.counts["list"] <= 4
        assert kernel.fs.hidden_count >= 5


def test_a_page_with_keys_that_were_not_asked_for_tells_of_those_that_were() -> None:
    objects = tuple(Listed(key, 1, '"e"', 0) for key in ["a", "s/x", "t/d1/f", "t/d2/f", "u/x/y", "zz"])
    told = read_walk("t/", Page(objects, (), None, 0), "t/d1/", {})
    assert [directory.prefix for directory in told] == ["t/d1/", "t/d2/"]


@BOTH
@run_virtual
async def test_random_trees_are_told_whole_and_each_entry_once(tmp_path: Path, order: Order) -> None:
    draw = random.Random(11)
    for turn in range(25):
        names = ["a", "a!", "a-", "a0", "b", "b.c", "\u00e9", "\U0001f600", "\uffee"]
        keys: set[str] = set()
        for _ in range(draw.randint(1, 120)):
            key = "/".join(draw.choices(names, k=draw.randint(1, 5)))
            # No file of a directory's name: SeaweedFS has none.
            if not any(other.startswith(key + "/") or key.startswith(other + "/") for other in keys):
                keys.add(key)
        store = bucket(keys, order=order, page_max=draw.choice([1, 2, 3, 7, 50]))
        async with mounted(store, tmp_path) as kernel:
            told = await find(kernel)
            assert len(told) == len(set(told))
            assert set(told) == paths(keys), (turn, sorted(keys))


@BOTH
@run_virtual
async def test_own_changes_during_a_walk_are_told_as_they_are(tmp_path: Path, order: Order) -> None:
    """Files and directories come, go and move here while others walk over them; each walk tells what is there."""
    draw = random.Random(3)
    store = bucket(tree_of(30, 4), order=order, page_max=20)
    store.latency_seconds = 0.02
    async with mounted(store, tmp_path) as kernel:
        done = trio.Event()

        async def walk() -> None:
            while not done.is_set():
                await find(kernel, "t", pause=0.01)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(walk)
            nursery.start_soon(walk)
            for turn in range(80):
                await trio.sleep(draw.random() * 0.2)
                directory = f"t/d{draw.randrange(30):04}"
                listed = await kernel.listdir(directory) if await kernel.exists(directory) else []
                if turn % 5 == 0 and listed:
                    await kernel.rename(directory, f"t/d{draw.randrange(30):04}-moved{turn}")
                elif turn % 5 == 1:
                    await kernel.mkdir(f"t/d{draw.randrange(30):04}-made{turn}")
                elif turn % 5 == 2 and listed:
                    await kernel.unlink(f"{directory}/{listed[0]}")
                elif listed:
                    await kernel.write(f"{directory}/new{turn}", b"x")
                below = {path for path in paths(store.keys()) if path != "t/" and ".s3mount" not in path}
                if turn % 10 == 9:
                    assert set(await find(kernel, "t")) == below
            done.set()
        await trio.sleep(61)
        assert set(await find(kernel)) == paths(store.keys())


@run_virtual
async def test_a_file_made_while_a_page_is_on_its_way_is_told(tmp_path: Path) -> None:
    store = bucket(tree_of(20, 4))
    made = []

    async with mounted(store, tmp_path) as kernel:

        async def after(call: Call) -> None:
            """The reply is written, and has not arrived yet."""
            if call.operation == "list" and call.key == "t/" and call.size == 1000 and len(kernel.dentries) > 24:
                store.after = None
                await kernel.write("t/d0010/new", b"x")
                await kernel.unlink("t/d0011/f001")
                await kernel.mkdir("t/d0012/sub")
                made.append(call)

        names = await kernel.listdir("t")
        for number in (10, 11, 12):
            await kernel.exists(f"t/d{number:04}/new")
            await kernel.exists(f"t/d{number:04}/sub")
            await kernel.exists(f"t/d{number:04}/f001")
        store.after = after
        told = {name: await kernel.listdir(f"t/{name}") for name in names}
        assert made
        assert told["d0010"] == ["f000", "f001", "f002", "f003", "new"]
        assert told["d0011"] == ["f000", "f002", "f003"]
        assert told["d0012"] == ["f000", "f001", "f002", "f003", "sub"]


@run_virtual
async def test_a_directory_moved_or_removed_takes_what_a_walk_told_below_it_along(tmp_path: Path) -> None:
    store = bucket([f"t/d{one}/s/{two}" for one in range(9) for two in range(3)])
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("t")
        for name in ("d0", "d1", "d2"):
            await kernel.listdir(f"t/{name}")
        assert len(kernel.fs._tree.listings.shelf) > 5
        await kernel.rename("t/d5", "t/moved")
        await kernel.mkdir("t/d5")
        await kernel.mkdir("t/d5/s")
        assert await kernel.listdir("t/d5/s") == []
        assert await kernel.listdir("t/moved/s") == ["0", "1", "2"]
        for number in range(3):
            await kernel.unlink(f"t/d6/s/{number}")
        await kernel.rmdir("t/d6/s")
        assert await kernel.listdir("t/d6") == []


@run_virtual
async def test_a_directory_removed_here_is_not_told_of_by_a_late_page(tmp_path: Path) -> None:
    store = bucket(tree_of(20, 1))
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("t")
        await kernel.unlink("t/d0010/f000")
        await kernel.rmdir("t/d0010")
        store.place("t/d0010/again", b"x")
        told = [await kernel.listdir(f"t/{name}") for name in names if name != "d0010"]
        assert told == [["f000"]] * 19
        await trio.sleep(6)
        assert await kernel.listdir("t/d0010") == ["again"]


@run_virtual
async def test_a_walk_tells_of_each_directory_whether_it_has_a_flag_and_a_marker(tmp_path: Path) -> None:
    store = bucket([*tree_of(9, 2), "t/d0004/.s3mount-attrs", "t/d0005/", "t/d0006/deep/.s3mount-attrs"])
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("t")
        for number in range(9):
            await kernel.listdir(f"t/d{number:04}")
        tree = kernel.fs._tree
        known = {name: child.contents for name, child in (tree.inodes.get(await kernel.ino("t"))).dentries.items()}
        assert [name for name, directory in known.items() if directory.flag] == ["d0004"]
        assert all(known[f"d000{number}"].flag is False for number in (3, 5, 6, 7, 8))
        assert known["d0004"].flag_at <= trio.current_time()
        assert [name for name, directory in known.items() if directory.marker] == ["d0005"]
        assert (tree.inodes.get(await kernel.ino("t/d0006/deep"))).contents.flag is True
        store.reset_counts()
        assert await kernel.listdir("t/d0006/deep") == []
        assert not store.counts


@run_virtual
async def test_names_held_for_a_walk_stay_within_the_limit(tmp_path: Path) -> None:
    keys = tree_of(300, 20)
    store = bucket(keys)
    async with mounted(store, tmp_path, listed_names_max=1500) as kernel:
        assert set(await find(kernel)) == paths(keys)
        assert kernel.fs._tree.listings.names <= 1500
        assert store.counts["list"] <= 40


@run_virtual
async def test_a_store_that_refuses_lists_without_a_delimiter_is_walked_by_listings(tmp_path: Path) -> None:
    class Refusing(MemoryStore):
        async def list_page(
            self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None,
            max_keys: int = 1000,
        ) -> Page:  # fmt: skip
            page = await super().list_page(
                prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
            )
            if not delimiter and max_keys == 1000:
                raise AccessDenied("only with a delimiter", code="AccessDenied", status=403)
            return page

    store = Refusing()
    for key in tree_of(30, 2):
        store.place(key, b"x")
    async with mounted(store, tmp_path) as kernel:
        assert set(await find(kernel)) == paths(store.keys())
        assert store.counts == {"list": 32}


@run_virtual
async def test_a_failed_page_of_a_walk_is_no_failure_of_the_directory(tmp_path: Path) -> None:
    store = bucket(tree_of(30, 2))
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("t")
        await kernel.listdir("t/d0000")
        await kernel.listdir("t/d0001")
        store.fail("list", AccessDenied("not now", code="AccessDenied", status=403))
        assert await kernel.listdir("t/d0002") == ["f000", "f001"]


@run_virtual
async def test_a_store_whose_order_tears_directories_apart_is_walked_by_listings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Torn(MemoryStore):
        """Every other key of a subtree comes in a later page."""

        async def list_page(
            self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None,
            max_keys: int = 1000,
        ) -> Page:  # fmt: skip
            if delimiter or max_keys < 1000:
                return await super().list_page(
                    prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
                )
            page = await super().list_page(prefix, start_after=start_after)
            half = page.objects[len(token or "") :: 2]
            return Page(half, (), "." if token is None else None, page.date_ns)

    store = Torn()
    for key in tree_of(30, 20):
        store.place(key, b"x")
    async with mounted(store, tmp_path) as kernel:
        names = await kernel.listdir("t")
        for name in names[:2]:
            await kernel.listdir(f"t/{name}")
        tree = kernel.fs._tree
        await kernel.listdir(f"t/{names[2]}")
        refused_before = tree.walks.refused
        await kernel.listdir(f"t/{names[-1]}")
        assert (refused_before, tree.walks.refused) == (False, True)
        assert len(tree.listings.shelf) == 0
        assert "order" in caplog.text
        caplog.clear()
        await trio.sleep(61)
        assert set(await find(kernel)) == paths(store.keys())


@run_virtual
async def test_two_walks_at_once_over_one_tree_share_their_pages(tmp_path: Path) -> None:
    keys = tree_of(400, 10)
    store = bucket(keys)
    store.latency_seconds = 0.05
    async with mounted(store, tmp_path) as kernel:
        told: list[list[str]] = []

        async def walk() -> None:
            told.append(await find(kernel))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(walk)
            nursery.start_soon(walk)
        assert all(set(found) == paths(keys) for found in told)
        assert store.counts["list"] <= 16


@run_virtual
async def test_without_a_lifetime_nothing_is_fetched_for_a_walk(tmp_path: Path) -> None:
    store = bucket(tree_of(20, 2))
    async with mounted(store, tmp_path, metadata_ttl_seconds=0.0, memory_limit_bytes=64 * MIB) as kernel:
        assert len(await find(kernel)) == 61
        assert store.counts["list"] >= 22


@run_virtual
async def test_a_page_that_was_under_way_when_a_deletion_landed_does_not_bring_the_name_back(tmp_path: Path) -> None:
    store = bucket([*tree_of(10, 3), "t/d0005/", *(f"x/f{number}" for number in range(PROOFS + 1))])
    async with mounted(store, tmp_path) as kernel:
        for number in range(PROOFS):
            await kernel.unlink(f"x/f{number}")
        await kernel.listdir("t")
        await kernel.listdir("t/d0000")
        await kernel.unlink("t/d0005/f000")
        assert "t/d0005/f000" in store.objects  # written down, and not sent yet

        async def dawdle(call: Call) -> None:
            if call.operation == "list" and call.key == "t/":
                await trio.sleep(2)  # the answer was given before

        store.after = dawdle
        for number in (1, 2, 3):
            await kernel.listdir(f"t/d{number:04}")
        assert "t/d0005/f000" not in store.objects
        kernel.expire()
        assert await kernel.listdir("t/d0005") == ["f001", "f002"]
        assert not await kernel.exists("t/d0005/f000")
