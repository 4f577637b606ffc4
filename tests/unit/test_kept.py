"""What an object carries besides its bytes survives every way of changing it (DESIGN section 3), and at what cost."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount.config import MIB
from s3mount.data.version import Changed
from s3mount.errors import AccessDenied, BadReply, Stale
from s3mount.store.base import Headers, ObjectInfo
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.files import opened, pattern, storage_on

CARRIED = Headers(
    "text/x-foreign", "max-age=1", "inline", "gzip", "de", {"who": "me", "case": "é"}, tags="team=a%20b&empty="
)
LARGE = 25 * MIB
DENIED = AccessDenied("grant s3:GetObjectTagging", code="AccessDenied", status=403)


@asynccontextmanager
async def holding(body: bytes, tmp_path: Path, headers: Headers = CARRIED) -> AsyncIterator[tuple[Kernel, MemoryStore]]:
    """A mount whose bucket has the object `f`, its directory freshly listed."""
    store = MemoryStore()
    store.place("f", body, headers)
    async with mounted(store, tmp_path) as kernel:
        yield kernel, store


def costs(store: MemoryStore) -> dict[str, int]:
    counted = dict(store.counts)
    store.reset_counts()
    return counted


async def append(kernel: Kernel, store: MemoryStore) -> None:
    fh = await kernel.open("f", os.O_WRONLY | os.O_APPEND)
    await kernel.fs.write(fh, (await kernel.stat("f")).size, b"appended")
    await kernel.close(fh)
    assert store.body("f").endswith(b"appended")


async def edit(kernel: Kernel, store: MemoryStore) -> None:
    fh = await kernel.open("f", os.O_RDWR)
    middle = (await kernel.stat("f")).size // 2
    await kernel.fs.write(fh, middle, b"EDITED")
    await kernel.close(fh)
    assert store.body("f")[middle : middle + 6] == b"EDITED"


async def overwrite(kernel: Kernel, store: MemoryStore) -> None:
    await kernel.write("f", b"new")
    assert store.body("f") == b"new"


async def overwrite_by_parts(kernel: Kernel, store: MemoryStore) -> None:
    fh = await kernel.open("f", os.O_WRONLY | os.O_TRUNC)
    for offset in range(0, LARGE, MIB):
        await kernel.fs.write(fh, offset, pattern(MIB))
    await kernel.close(fh)
    assert len(store.body("f")) == LARGE
    assert store.counts["complete_upload"] == 1


async def truncate(kernel: Kernel, store: MemoryStore) -> None:
    await kernel.truncate("f", 4)
    await kernel.truncate("f", 8)
    assert store.body("f")[4:] == bytes(4)


async def truncate_to_nothing(kernel: Kernel, store: MemoryStore) -> None:
    await kernel.truncate("f", 0)
    assert store.body("f") == b""


async def lengthen_by_parts(kernel: Kernel, store: MemoryStore) -> None:
    await kernel.truncate("f", LARGE + 3 * MIB)
    await trio.testing.wait_all_tasks_blocked()
    assert len(store.body("f")) == LARGE + 3 * MIB


async def rename(kernel: Kernel, store: MemoryStore) -> None:
    await kernel.rename("f", "g.html")
    await kernel.rename("g.html", "f")
    assert store.keys() == ["f"]


async def rename_while_dirty(kernel: Kernel, store: MemoryStore) -> None:
    fh = await kernel.open("f", os.O_WRONLY)
    await kernel.fs.write(fh, 0, b"dirty")
    await kernel.rename("f", "g.html")
    await kernel.close(fh)
    await kernel.rename("g.html", "f")
    assert store.body("f")[:5] == b"dirty"


async def rename_its_directory(kernel: Kernel, store: MemoryStore) -> None:
    await kernel.mkdir("d")
    await kernel.rename("f", "d/f")
    await kernel.rename("d", "e")
    await kernel.rename("e/f", "f")


async def overwrite_while_renamed(kernel: Kernel, store: MemoryStore) -> None:
    """A stream is given up by a rename, and another upload is opened at the new key."""
    fh = await kernel.open("f", os.O_WRONLY | os.O_TRUNC)
    for offset in range(0, LARGE, MIB):
        await kernel.fs.write(fh, offset, pattern(MIB))
    await trio.testing.wait_all_tasks_blocked()
    assert store.counts["create_upload"] == 1
    await kernel.rename("f", "g.html")
    await kernel.close(fh)
    assert len(store.body("g.html")) == LARGE
    await kernel.rename("g.html", "f")


Way = Callable[[Kernel, MemoryStore], Awaitable[None]]
WAYS: list[tuple[Way, int]] = [
    (append, 7), (append, LARGE), (edit, 1000), (edit, LARGE), (overwrite, 7), (overwrite_by_parts, 7), (truncate, 100),
    (truncate, LARGE), (truncate_to_nothing, 7), (lengthen_by_parts, LARGE), (rename, 7), (rename_while_dirty, 7),
    (rename_its_directory, 7), (overwrite_while_renamed, 7),
]  # fmt: skip


@pytest.mark.parametrize(("change", "size"), WAYS)
@run_virtual
async def test_headers_metadata_and_tags_survive(tmp_path: Path, change: Way, size: int) -> None:
    async with holding(pattern(size), tmp_path) as (kernel, store):
        before = store.objects["f"]
        await change(kernel, store)
        assert store.objects["f"] is not before
        assert store.objects["f"].headers == CARRIED
        assert store.uploads == {}


@run_virtual
async def test_overwriting_costs_one_get_more_if_the_object_has_tags_and_only_then(tmp_path: Path) -> None:
    async with holding(b"old", tmp_path) as (kernel, store):
        await kernel.write("f", b"new")
        assert costs(store) == {"head": 1, "get_tags": 1, "put": 1}
        await append(kernel, store)
        assert costs(store) == {"head": 1, "get_tags": 1, "get": 1, "put": 1}
    async with holding(b"old", tmp_path, replace(CARRIED, tags="")) as (kernel, store):
        await kernel.write("f", b"new")
        assert costs(store) == {"head": 1, "put": 1}


@run_virtual
async def test_a_file_whose_tags_may_not_be_read_is_not_opened_for_writing(tmp_path: Path) -> None:
    """The upload would delete them. Reading it, and replacing it by a rename, asks for no tags."""
    async with holding(b"old", tmp_path) as (kernel, store):
        store.fail("get_tags", DENIED, times=3)
        for flags in (os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(AccessDenied):
                await kernel.open("f", flags)
        assert await kernel.read("f") == b"old"
        assert store.body("f") == b"old"
        await kernel.write("new", b"new")
        await kernel.rename("new", "f")
        assert store.body("f") == b"new"


@run_virtual
async def test_the_open_after_estale_takes_the_new_versions_headers_and_tags(tmp_path: Path) -> None:
    newer = replace(CARRIED, content_type="text/x-newer", tags="newer=1")
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_TRUNC):
        async with holding(b"old", tmp_path) as (kernel, store):
            await kernel.stat("f")
            store.place("f", b"newer, longer", newer)
            fh = await kernel.open("f", flags)
            await kernel.fs.write(fh, 0, b"mine")
            await kernel.close(fh)
            assert store.objects["f"].headers == newer
            assert costs(store) == {"head": 1, "get_tags": 1, "put": 1} | ({} if flags & os.O_TRUNC else {"get": 1})


@run_virtual
async def test_a_writer_that_meets_what_a_reader_has_just_fetched_still_takes_the_tags(tmp_path: Path) -> None:
    newer = replace(CARRIED, tags="newer=1")
    async with holding(b"old", tmp_path) as (kernel, store):
        ino = await kernel.ino("f")
        store.place("f", b"newer, longer", newer)
        with pytest.raises(Stale):
            await kernel.fs.open(ino, os.O_RDONLY)
        kernel.expire()
        await kernel.write("f", b"mine")
        assert store.objects["f"].headers == newer


@run_virtual
async def test_a_file_that_is_gone_when_it_is_overwritten_is_a_new_one(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f.css", b"old", CARRIED)
    async with mounted(store, tmp_path, tags="a=1") as kernel:
        await kernel.stat("f.css")
        store.remove("f.css")
        await kernel.write("f.css", b"new")
        assert store.objects["f.css"].headers == Headers("text/css", tags="a=1")


@run_virtual
async def test_tags_of_the_mount_are_those_of_new_files_only(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("old", b"x", Headers("text/plain"))
    store.place("tagged", b"x", CARRIED)
    async with mounted(store, tmp_path, tags="mount=yes") as kernel:
        for name in ("old", "tagged", "new.html"):
            await kernel.write(name, b"content")
        await kernel.mkdir("d")
        fh = await kernel.open("large", os.O_WRONLY | os.O_CREAT)
        for offset in range(0, LARGE, MIB):
            await kernel.fs.write(fh, offset, pattern(MIB))
        await kernel.close(fh)
    assert {key: found.headers.tags for key, found in store.objects.items()} == {
        "d/": "", "large": "mount=yes", "new.html": "mount=yes", "old": "", "tagged": CARRIED.tags,
    }  # fmt: skip
    assert store.objects["new.html"].headers.content_type == "text/html"


@pytest.mark.parametrize("name", ["a.html", "b.css", "c.jpg", "d.unknown"])
@run_virtual
async def test_content_types_are_right_for_put_and_for_parts_and_kept_by_append_and_rename(
    tmp_path: Path, name: str
) -> None:
    """B15"""
    expected = {"html": "text/html", "css": "text/css", "jpg": "image/jpeg"}
    content_type = expected.get(name.rpartition(".")[2], "application/octet-stream")
    store = MemoryStore()
    async with mounted(store, tmp_path) as kernel:
        for size in (10, LARGE):
            fh = await kernel.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            for offset in range(0, size, MIB):
                await kernel.fs.write(fh, offset, pattern(min(size, MIB)))
            await kernel.close(fh)
            assert store.objects[name].headers.content_type == content_type
            fh = await kernel.open(name, os.O_WRONLY | os.O_APPEND)
            await kernel.fs.write(fh, size, b"more")
            await kernel.close(fh)
            await kernel.rename(name, "other.png")
            assert store.objects["other.png"].headers.content_type == content_type
            assert len(store.body("other.png")) == size + 4
            await kernel.unlink("other.png")
        assert store.counts["complete_upload"] == 2


@run_virtual
async def test_headers_that_change_after_parts_were_sent_ahead_are_those_of_the_object() -> None:
    """A stream's upload carries what it was opened with; it is given up for another."""
    store = MemoryStore()
    store.place("k", b"old", Headers("text/x-old"))
    async with storage_on(store) as storage:
        file = opened(storage, store)
        await file.overwrite()
        for offset in range(0, LARGE, MIB):
            await file.write(offset, pattern(MIB))
        await trio.testing.wait_all_tasks_blocked()
        assert store.counts["upload_part"] > 0
        file.headers = Headers("text/x-new")
        await file.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert store.objects["k"].headers == Headers("text/x-new")
        assert len(store.body("k")) == LARGE
        assert store.uploads == {}
        file.close()


class Lying(MemoryStore):
    """The next HEADs tell the sizes in `lies`."""

    def __init__(self) -> None:
        super().__init__()
        self.lies: list[int] = []

    async def head(self, key: str) -> ObjectInfo:
        info = await super().head(key)
        return replace(info, size=self.lies.pop(0)) if self.lies else info


@run_virtual
async def test_a_size_that_was_damaged_on_its_way_is_never_appended_at(tmp_path: Path) -> None:
    """One etag has one size: another one is asked for again. Told twice, it was the listing that lied."""
    store = Lying()
    store.place("f", b"0123456789")
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir()
        costs(store)
        store.lies = [11]
        with pytest.raises(BadReply):
            await append(kernel, store)
        assert costs(store) == {"head": 2}
        await append(kernel, store)
        assert store.body("f") == b"0123456789appended"
    async with storage_on(store) as storage:
        file = opened(storage, store, "f")
        store.lies = [11, 11]
        with pytest.raises(Changed):
            await file.validate_for_writing()
        file.close()


@pytest.mark.parametrize("size", [12 * MIB, 16 * MIB + 1, LARGE])
@run_virtual
async def test_a_low_copy_limit_does_not_cut_copied_parts_below_their_least_size(tmp_path: Path, size: int) -> None:
    store = MemoryStore()
    store.place("f", pattern(size), CARRIED)
    async with mounted(store, tmp_path, copy_max_bytes=5 * MIB) as kernel:
        await append(kernel, store)
        assert store.body("f") == pattern(size) + b"appended"
        assert store.objects["f"].headers == CARRIED
        assert store.counts["copy_part"] > 0
