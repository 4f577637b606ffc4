"""Changes of attributes: what they cost, where they go, and that none is lost or told wrongly (DESIGN 3 and 5)."""

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from s3mount.config import MIB
from s3mount.errors import AccessDenied, LostReply, MetadataFull, Stale, Unavailable
from s3mount.store.base import Headers
from s3mount.vfs.attributes import Attributes, Changes, Special
from tests.kernel_model import ME, Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual

FLAG = ".s3mount-attrs"
NO_HEADERS = Headers()
FOREIGN = Headers(content_type="text/x-foreign", cache_control="max-age=1", metadata={"who": "me"}, tags="a=1")
PAST = 1_000_000_000_123_456_789
REFUSED = AccessDenied("no", code="AccessDenied", status=403)


@asynccontextmanager
async def mounting(store: MemoryStore, tmp_path: Path, **options: object) -> AsyncIterator[Kernel]:
    async with mounted(
        store, tmp_path, started=True, learnt=None, paper=None, uid=ME.uid, gid=ME.gid, **options
    ) as kernel:
        yield kernel


async def change(kernel: Kernel, path: str, **changes: int) -> Attributes:
    return await kernel.fs.setattr(await kernel.ino(path), Changes(**changes), None)


async def chmod(kernel: Kernel, path: str, mode: int) -> None:
    shown = await change(kernel, path, mode=mode)
    assert stat.S_IMODE(shown.mode) == mode


def place(kernel: Kernel, key: str, body: bytes, headers: Headers = NO_HEADERS, **others: object) -> None:
    """Another client's object, which this mount has not listed yet."""
    kernel.store.place(key, body, headers, **others)
    kernel.fs._inodes.root.contents.forget_all()
    kernel.expire()


async def prove(kernel: Kernel, directory: str = "") -> None:
    """A first change, which is stored before it is answered, and raises the flag."""
    place(kernel, f"{directory}proof", b"")
    await chmod(kernel, f"{directory}proof", 0o600)
    kernel.store.reset_counts()


def costs(store: MemoryStore) -> dict[str, int]:
    counted = dict(store.counts)
    store.reset_counts()
    return counted


def metadata(store: MemoryStore, key: str) -> dict[str, str]:
    return dict(store.objects[key].headers.metadata)


def mode_text(mode: int, kind: int = stat.S_IFREG) -> str:
    return str(kind | mode)


# created with attributes


@run_virtual
async def test_default_attributes_are_stored_nowhere(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.write("f", b"x")
        await kernel.mkdir("d")
        assert costs(store) == {"put": 2}
        assert store.keys() == ["d/", "f"]
        assert metadata(store, "f") == {}


@run_virtual
async def test_a_file_created_with_another_mode_carries_it_in_its_one_put_behind_the_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        for name in ("f", "g"):
            fh = await kernel.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            await kernel.fs.write(fh, 0, b"x")
            await kernel.close(fh)
            assert metadata(store, name) == {"mode": mode_text(0o600)}
        assert [call.key for call in store.calls if call.operation != "list"] == [FLAG, "f", "g"]


@run_virtual
async def test_the_flag_is_there_before_a_multipart_upload_is_begun(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path, part_size_bytes=5 * MIB) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        for number in range(30):
            await kernel.fs.write(fh, number * MIB, bytes(MIB))
        await kernel.close(fh)
        assert metadata(store, "f") == {"mode": mode_text(0o600)}
        sent = [call.operation for call in store.calls]
        assert sent.index("put") < sent.index("create_upload")
        assert "copy" not in sent


@run_virtual
async def test_the_flag_is_looked_for_again_after_a_long_upload(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:

        async def slow(call: Call) -> None:
            if call.key == "f":
                store.objects.pop(FLAG)
                await trio.sleep(60)

        store.before = slow
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        await kernel.fs.write(fh, 0, b"x")
        await kernel.close(fh)
        assert FLAG in store.objects


@run_virtual
async def test_a_flag_that_is_refused_keeps_the_file_out_of_the_bucket_and_is_told(tmp_path: Path) -> None:
    store = MemoryStore()
    store.fail("put", REFUSED, key=FLAG)
    async with mounting(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        await kernel.fs.write(fh, 0, b"x")
        with pytest.raises(AccessDenied):
            await kernel.fs.fsync(fh)
        assert store.keys() == []
        await kernel.close(fh)
        assert store.keys() == [FLAG, "f"]


@run_virtual
async def test_exclusive_creation_in_the_open_and_mknod_carry_the_mode(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path, exclusive_create="open") as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        assert metadata(store, "f") == {"mode": mode_text(0o600)}
        await kernel.fs.write(fh, 0, b"x")
        await kernel.close(fh)
        await kernel.fs.mknod(1, b"n", stat.S_IFREG | 0o640, ME)
        assert metadata(store, "f") == {"mode": mode_text(0o600)}
        assert metadata(store, "n") == {"mode": mode_text(0o640)}


@run_virtual
async def test_a_directory_with_another_mode_keeps_it_in_the_flag_inside_and_its_parent_is_flagged(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.mkdir("d", 0o1777)
        assert [call.key for call in store.calls if call.operation == "put"] == [FLAG, f"d/{FLAG}", "d/"]
        assert metadata(store, f"d/{FLAG}") == {"mode": mode_text(0o1777, stat.S_IFDIR)}
        assert metadata(store, FLAG) == {}


# clean files


@run_virtual
async def test_a_change_to_the_value_that_is_there_costs_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        place(kernel, "f", b"x")
        await kernel.mkdir("d")
        shown = await kernel.stat("f")
        store.reset_counts()
        for path in ("f", "d", ""):
            await change(kernel, path, uid=ME.uid, gid=ME.gid)
            await chmod(kernel, path, 0o644 if path == "f" else 0o755)
        await change(kernel, "f", mtime_ns=shown.mtime_ns)
        await trio.sleep(5)
        assert not store.counts.keys() & {"put", "copy"}


@run_virtual
async def test_changes_of_a_clean_file_keep_company_in_one_copy_and_everything_else_of_it(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"hello", FOREIGN)
        ino = (await kernel.stat("f")).ino
        store.reset_counts()
        await chmod(kernel, "f", 0o4750)
        await change(kernel, "f", uid=5, gid=6)
        await change(kernel, "f", mtime_ns=PAST, atime_ns=PAST + 1)
        assert costs(store) == {}
        await trio.sleep(1.5)
        assert costs(store) == {"head": 1, "get_tags": 1, "copy": 1}
        stored = store.objects["f"]
        assert dict(stored.headers.metadata) == {
            "who": "me", "mode": mode_text(0o4750), "uid": "5", "gid": "6", "mtime": "1000000000.123456789",
            "atime": "1000000000.123456790",
        }  # fmt: skip
        assert (stored.body, stored.headers.content_type, stored.headers.tags) == (b"hello", "text/x-foreign", "a=1")
        shown = await kernel.stat("f")
        assert (shown.ino, shown.mtime_ns, shown.uid, shown.size) == (ino, PAST, 5, 5)
        assert await kernel.read("f") == b"hello"


@run_virtual
async def test_the_time_of_bytes_that_were_not_written_survives_a_chmod(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", last_modified_ns=1_500_000_000 * 10**9)
    async with mounting(store, tmp_path) as kernel:
        await chmod(kernel, "f", 0o600)
        assert metadata(store, "f") == {"mode": mode_text(0o600), "mtime": "1500000000"}
        assert (await kernel.stat("f")).mtime_ns == 1_500_000_000 * 10**9
        await chmod(kernel, "f", 0o644)
        await trio.sleep(2)
        assert metadata(store, "f") == {"mtime": "1500000000"}


@run_virtual
async def test_what_was_stored_here_is_looked_at_right_before_a_held_change_of_it(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        await kernel.write("f", b"x")
        store.reset_counts()
        await chmod(kernel, "f", 0o600)
        await trio.sleep(1.5)
        assert costs(store) == {"head": 1, "copy": 1}


@run_virtual
async def test_what_was_stored_here_a_moment_ago_is_changed_at_once_without_a_head(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place(FLAG)
    async with mounting(store, tmp_path) as kernel:
        await kernel.write("f", b"x")
        store.reset_counts()
        await chmod(kernel, "f", 0o600)
        assert {name: count for name, count in costs(store).items() if name != "list"} == {"copy": 1}


@run_virtual
async def test_the_first_change_in_a_directory_is_stored_before_it_is_answered_and_a_refusal_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.place("d/f", b"x")
    async with mounting(store, tmp_path) as kernel:
        store.fail("copy", REFUSED)
        with pytest.raises(AccessDenied):
            await chmod(kernel, "d/f", 0o600)
        assert stat.S_IMODE((await kernel.stat("d/f")).mode) == 0o644
        await chmod(kernel, "d/f", 0o600)
        assert metadata(store, "d/f")["mode"] == mode_text(0o600)
        assert f"d/{FLAG}" in store.objects
        await trio.sleep(5)
        assert not caplog.records


@run_virtual
async def test_a_later_failure_is_undone_and_told_once_by_the_next_change_or_fsync(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        fh = await kernel.open("f", os.O_RDWR)
        asks: list[Callable[[], Awaitable[None]]] = [
            lambda: kernel.fs.fsync(fh), lambda: kernel.fs.flush(fh), lambda: chmod(kernel, "f", 0o640),
        ]  # fmt: skip
        for ask in asks:
            store.fail("copy", Unavailable("503", status=503))
            await chmod(kernel, "f", 0o600)
            await trio.sleep(1.5)
            assert stat.S_IMODE((await kernel.stat("f")).mode) == 0o644
            with pytest.raises(Unavailable):
                await ask()
            await kernel.fs.fsync(fh)
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
        await chmod(kernel, "f", 0o600)
        await kernel.close(fh)
        await trio.sleep(1.5)
        assert metadata(store, "f")["mode"] == mode_text(0o600)


@run_virtual
async def test_fsync_stores_what_is_held(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        fh = await kernel.open("f")
        await chmod(kernel, "f", 0o600)
        assert metadata(store, "f") == {}
        await kernel.fs.fsync(fh)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        await kernel.close(fh)
        store.reset_counts()
        await trio.sleep(5)
        assert costs(store) == {}


@run_virtual
async def test_the_end_of_the_mount_stores_what_is_held_and_names_it_until_then(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        for name in ("f", "g"):
            place(kernel, name, b"x")
            await chmod(kernel, name, 0o600)
        assert kernel.fs.paths_not_stored() == ["f", "g"]
        store.fail("copy", REFUSED, key="g")
        assert await kernel.fs.sync_all() == ["g"]
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        assert kernel.fs.paths_not_stored() == []


@run_virtual
async def test_a_change_that_is_held_outlives_the_memory_of_the_kernel(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        await chmod(kernel, "f", 0o600)
        kernel.drop_caches()
        assert stat.S_IMODE((await kernel.stat("f")).mode) == 0o600
        await trio.sleep(1.5)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        kernel.drop_caches()
        assert len(kernel.fs._inodes) == 1


@run_virtual
async def test_a_crash_before_the_copy_leaves_the_object_as_it_was(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", FOREIGN)
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        await chmod(kernel, "f", 0o600)
    assert store.objects["f"].headers == FOREIGN
    assert store.body("f") == b"x"


@run_virtual
async def test_a_held_change_goes_with_the_version_that_another_client_has_put_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        await chmod(kernel, "f", 0o600)
        place(kernel, "f", b"theirs")
        await trio.sleep(1.5)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        assert not caplog.records
        kernel.expire()
        shown = await kernel.stat("f")
        assert (shown.size, stat.S_IMODE(shown.mode)) == (6, 0o600)


@run_virtual
async def test_the_first_change_of_another_clients_version_sends_the_kernel_round_again(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x")
    async with mounting(store, tmp_path) as kernel:
        await kernel.stat("f")
        kernel.store.place("f", b"theirs")
        with pytest.raises(Stale):
            await chmod(kernel, "f", 0o600)
        kernel.expire()
        await chmod(kernel, "f", 0o600)
        assert store.body("f") == b"theirs"
        assert metadata(store, "f")["mode"] == mode_text(0o600)


# in company of bytes


@run_virtual
async def test_a_change_of_a_dirty_file_rides_along_with_its_upload(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        await kernel.fs.write(fh, 0, b"x")
        await chmod(kernel, "f", 0o600)
        await change(kernel, "f", mtime_ns=PAST, atime_ns=PAST)
        await kernel.close(fh)
        await trio.sleep(5)
        assert (store.counts["put"], store.counts["copy"]) == (1, 0)
        assert metadata(store, "f") == {
            "mode": mode_text(0o600), "mtime": "1000000000.123456789", "atime": "1000000000.123456789",
        }  # fmt: skip


@run_virtual
async def test_a_change_during_the_upload_is_in_the_bucket_when_flush_is_answered(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)

        async def interfere(call: Call) -> None:
            if call.operation == "put":
                store.before = None
                await chmod(kernel, "f", 0o600)

        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        await kernel.fs.write(fh, 0, b"x")
        store.before = interfere
        await kernel.fs.flush(fh)
        assert (store.counts["put"], store.counts["copy"]) == (1, 1)
        assert metadata(store, "f") == {"mode": mode_text(0o600)}
        store.reset_counts()
        await kernel.fs.release(fh)
        assert costs(store) == {}


@run_virtual
async def test_a_change_during_the_upload_that_fails_is_told_until_it_succeeds(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)

        async def interfere(call: Call) -> None:
            if call.operation == "put":
                store.before = None
                await chmod(kernel, "f", 0o600)

        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        await kernel.fs.write(fh, 0, b"x")
        store.before = interfere
        store.fail("copy", REFUSED, times=2)
        for _ in range(2):
            with pytest.raises(AccessDenied):
                await kernel.fs.flush(fh)
        assert store.body("f") == b"x"
        await kernel.close(fh)
        assert metadata(store, "f") == {"mode": mode_text(0o600)}
        assert store.counts["put"] == 1, "the bytes were sent once"


@run_virtual
async def test_a_stream_that_was_begun_before_the_change_is_completed_and_then_changed(tmp_path: Path) -> None:
    """`cp -p` of a large file: the time comes when the parts are sent."""
    store = MemoryStore()
    async with mounting(store, tmp_path, part_size_bytes=5 * MIB) as kernel:
        await prove(kernel)
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        for number in range(40):
            await kernel.fs.write(fh, number * MIB, bytes([number]) * MIB)
        await trio.sleep(1)
        assert store.counts["create_upload"] == 1
        await change(kernel, "f", mtime_ns=PAST, atime_ns=PAST)
        await kernel.close(fh)
        assert metadata(store, "f")["mtime"] == "1000000000.123456789"
        assert store.counts["copy"] == 1
        assert store.sent_bytes == 40 * MIB
        assert await kernel.read("f") == b"".join(bytes([number]) * MIB for number in range(40))


@run_virtual
async def test_a_change_that_is_held_goes_with_the_upload_of_who_opens_the_file_to_write(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        for flags in (os.O_WRONLY, os.O_WRONLY | os.O_TRUNC):
            place(kernel, "f", b"x", FOREIGN)
            kernel.expire()
            await chmod(kernel, "f", 0o600)
            await kernel.write("f", b"longer", flags)
            assert metadata(store, "f") == {"who": "me", "mode": mode_text(0o600)}
            await trio.sleep(5)
            assert [call.key for call in store.calls if call.operation in ("put", "copy")][-1:] == ["f"]
            assert store.counts["copy"] == 0
            store.reset_counts()


@run_virtual
async def test_a_change_goes_on_being_held_while_the_file_is_open_and_not_written_to(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        fh = await kernel.open("f", os.O_RDWR)
        await chmod(kernel, "f", 0o600)
        await trio.sleep(1.5)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        await kernel.fs.write(fh, 0, b"y")
        await kernel.close(fh)
        assert store.body("f") == b"y"
        assert metadata(store, "f") == {"mode": mode_text(0o600)}


@run_virtual
async def test_what_is_written_and_not_closed_is_not_published_by_a_change(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        fh = await kernel.open("f", os.O_RDWR)
        await chmod(kernel, "f", 0o600)
        await kernel.fs.write(fh, 0, b"y")
        await trio.sleep(5)
        assert store.body("f") == b"x"
        await kernel.close(fh)
        assert (store.body("f"), metadata(store, "f")) == (b"y", {"mode": mode_text(0o600)})


@run_virtual
async def test_an_object_of_parts_gets_another_etag_and_its_open_handles_go_on(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        place(kernel, "f", b"hello", etag='"0123-2"')
        fh = await kernel.open("f", os.O_RDWR)
        await chmod(kernel, "f", 0o600)
        assert store.objects["f"].etag != '"0123-2"'
        assert await kernel.pread(fh, 0, 10) == b"hello"
        await kernel.fs.write(fh, 5, b" world")
        await kernel.close(fh)
        assert store.body("f") == b"hello world"


@pytest.mark.parametrize("etag", ['"0123-2"', None])
@run_virtual
async def test_a_lost_reply_of_the_copy_is_no_conflict(tmp_path: Path, etag: str | None) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        place(kernel, "f", b"hello", NO_HEADERS, **({} if etag is None else {"etag": etag}))
        fh = await kernel.open("f", os.O_RDWR)
        store.fail("copy", LostReply("lost"), when="after")
        with pytest.raises(LostReply):
            await chmod(kernel, "f", 0o600)
        await kernel.fs.write(fh, 5, b" world")
        await kernel.close(fh)
        assert store.body("f") == b"hello world"
        assert not any("conflicts" in key for key in store.objects)


@run_virtual
async def test_a_read_that_comes_while_an_object_of_parts_is_copied_succeeds(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        place(kernel, "f", bytes(3 * MIB), etag='"0123-2"')
        fh = await kernel.open("f")
        got: list[bytes] = []

        async def read(call: Call) -> None:
            if call.operation == "copy":
                store.after = None
                kernel.fs._tree.nursery.start_soon(later)
                await trio.sleep(1)

        async def later() -> None:
            got.append(await kernel.pread(fh, 2 * MIB, 10))

        store.after = read
        await chmod(kernel, "f", 0o600)
        await trio.sleep(5)
        assert got == [bytes(10)]
        await kernel.close(fh)


# names


@run_virtual
async def test_a_rename_carries_what_is_held(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/other", b"")
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        await kernel.write("f", b"x")
        await kernel.listdir("d")
        await chmod(kernel, "f", 0o600)
        store.reset_counts()
        await kernel.rename("f", "d/g")
        await trio.sleep(5)
        assert (store.counts["copy"], store.counts["get_tags"]) == (1, 0)
        assert metadata(store, "d/g")["mode"] == mode_text(0o600)
        assert f"d/{FLAG}" in store.objects
        assert stat.S_IMODE((await kernel.stat("d/g")).mode) == 0o600


@run_virtual
async def test_a_rename_that_fails_gives_back_what_is_held(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x", FOREIGN)
        await chmod(kernel, "f", 0o600)
        store.fail("copy", REFUSED)
        with pytest.raises(AccessDenied):
            await kernel.rename("f", "g")
        await trio.sleep(2.5)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        assert store.objects["f"].headers.tags == "a=1"


@run_virtual
async def test_a_rename_that_takes_long_is_not_met_by_what_is_held(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        await chmod(kernel, "f", 0o600)

        async def slow(call: Call) -> None:
            if call.operation in ("copy", "delete"):
                await trio.sleep(30)

        store.before = slow
        await kernel.rename("f", "g")
        await trio.sleep(100)
        assert store.counts["copy"] == 1
        assert metadata(store, "g")["mode"] == mode_text(0o600)
        assert not caplog.records


@run_virtual
async def test_what_is_held_of_a_file_that_is_unlinked_or_moved_with_its_directory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.place("d/keep", b"")
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel, "d/")
        for name in ("d/f", "d/g"):
            await kernel.write(name, b"x")
            await chmod(kernel, name, 0o600)
        await kernel.unlink("d/f")
        await kernel.rename("d", "e")
        await trio.sleep(5)
        assert store.keys() == [f"e/{FLAG}", "e/g", "e/keep", "e/proof"]
        assert metadata(store, "e/g")["mode"] == mode_text(0o600)
        assert not caplog.records


@run_virtual
async def test_an_unlink_during_the_copy_leaves_no_object(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        for etag in ('"0123-2"', '"0123"'):
            place(kernel, "f", b"x", etag=etag)
            kernel.expire()
            await chmod(kernel, "f", 0o600)

            async def slow(call: Call) -> None:
                if call.operation == "copy":
                    await trio.sleep(10)

            store.before = slow
            await trio.sleep(2)
            await kernel.unlink("f")
            await trio.sleep(30)
            assert "f" not in store.objects


@run_virtual
async def test_a_change_that_comes_while_its_directory_is_moved_is_not_lost(tmp_path: Path) -> None:
    store = MemoryStore()
    for name in ("d/f", "d/z"):
        store.place(name, b"x")
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel, "d/")
        for seconds in (0.0, 0.7, 10.5, 20.5):
            ino = await kernel.ino("d/f")
            await kernel.fs.setattr(ino, Changes(mode=0o601), None)

            async def slow(call: Call) -> None:
                if call.operation in ("copy", "delete", "list"):
                    await trio.sleep(10)

            store.before = slow
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kernel.rename, "d", "e")
                await trio.sleep(seconds)
                await kernel.fs.setattr(ino, Changes(mode=0o600), None)
            store.before = None
            await trio.sleep(30)
            assert metadata(store, "e/f")["mode"] == mode_text(0o600), seconds
            await kernel.rename("e", "d")


@run_virtual
async def test_an_open_that_asked_before_the_copy_does_not_bring_back_what_was(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        await chmod(kernel, "f", 0o600)

        async def late(call: Call) -> None:
            if call.operation == "head":
                store.after = None
                await trio.sleep(10)

        store.after = late
        await kernel.write("f", b"y", os.O_WRONLY)
        assert metadata(store, "f")["mode"] == mode_text(0o600)
        assert store.counts["copy"] == 1


# times


@run_virtual
async def test_the_kernels_own_times_are_stored_nowhere(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        place(kernel, "f", b"hello")
        fh = await kernel.open("f", os.O_RDWR)
        ino = await kernel.ino("f")
        store.reset_counts()
        await kernel.fs.setattr(ino, Changes(mtime_ns=PAST, ctime_ns=PAST), fh)
        await kernel.fs.setattr(ino, Changes(mtime_ns=PAST), None)
        await kernel.fs.setattr(ino, Changes(mtime_ns=PAST + 1, size=5), None)
        await trio.sleep(5)
        assert not store.counts.keys() & {"put", "copy"}
        await kernel.close(fh)
        assert metadata(store, "f") == {}


@run_virtual
async def test_a_touch_of_a_clean_object_drops_its_stored_time_and_makes_it_young(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        for carried in ({"mtime": "1000000000.123456789", "who": "me"}, {"who": "me"}):
            place(kernel, "f", b"x", Headers(metadata=carried), last_modified_ns=10**18)
            kernel.expire()
            now = kernel.fs._tree.wall_ns()
            shown = await change(kernel, "f", mtime_ns=now, atime_ns=now)
            assert shown.mtime_ns == now
            await trio.sleep(1.5)
            assert metadata(store, "f") == {"who": "me"}
            assert store.objects["f"].last_modified_ns > 10**18


@run_virtual
async def test_a_touch_of_a_new_file_costs_nothing_of_its_own(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        fh = await kernel.open("f", os.O_WRONLY | os.O_CREAT)
        now = kernel.fs._tree.wall_ns()
        await change(kernel, "f", mtime_ns=now, atime_ns=now)
        await kernel.close(fh)
        await trio.sleep(5)
        assert costs(store) == {"put": 1}
        assert metadata(store, "f") == {}


@run_virtual
async def test_a_write_after_utimens_drops_the_stored_time_and_a_read_does_not(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.write("f", b"x")
        await change(kernel, "f", mtime_ns=PAST)
        await trio.sleep(1.5)
        assert metadata(store, "f") == {"mtime": "1000000000.123456789"}
        await kernel.read("f")
        await kernel.close(await kernel.open("f", os.O_RDWR))
        assert metadata(store, "f") == {"mtime": "1000000000.123456789"}
        ways: list[Callable[[], Awaitable[None]]] = [
            lambda: kernel.write("f", b"y", os.O_WRONLY),
            lambda: kernel.write("f", b"y"),
            lambda: kernel.truncate("f", 0),
            lambda: kernel.truncate("f", 7),
        ]
        for change_bytes in ways:
            await change_bytes()
            assert metadata(store, "f") == {}
            await change(kernel, "f", mtime_ns=PAST)
            await trio.sleep(1.5)


@run_virtual
async def test_a_time_that_others_have_stored_goes_with_the_bytes_it_was_of(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", Headers(metadata={"mtime": "1000000000.5", "file-mtime": "1000000000500", "uid": "7"}))
    async with mounting(store, tmp_path) as kernel:
        await kernel.write("f", b"yy", os.O_WRONLY)
        assert metadata(store, "f") == {"uid": "7"}
        assert FLAG in store.objects, "special attributes met in a directory without a flag"


@run_virtual
async def test_a_write_before_a_held_time_is_stored_wins(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        place(kernel, "f", b"x")
        fh = await kernel.open("f", os.O_RDWR)
        await kernel.fs.write(fh, 0, b"y")
        await kernel.fs.fsync(fh)
        await change(kernel, "f", mtime_ns=PAST)
        await kernel.fs.write(fh, 0, b"z")
        await kernel.close(fh)
        await trio.sleep(5)
        assert metadata(store, "f") == {}


# directories


@run_virtual
async def test_changes_of_a_directory_are_the_metadata_of_the_flag_inside(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("d/e/f", b"x")
    async with mounting(store, tmp_path) as kernel:
        await chmod(kernel, "d/e", 0o2770)
        assert [call.key for call in store.calls if call.operation == "put"] == [f"d/{FLAG}", f"d/e/{FLAG}"]
        await change(kernel, "d/e", uid=5)
        await change(kernel, "d/e", mtime_ns=PAST)
        kind = mode_text(0o2770, stat.S_IFDIR)
        assert metadata(store, f"d/e/{FLAG}") == {"mode": kind, "uid": "5", "mtime": "1000000000.123456789"}
        now = kernel.fs._tree.wall_ns()
        await change(kernel, "d/e", mtime_ns=now, atime_ns=now)
        await chmod(kernel, "d/e", 0o755)
        assert metadata(store, f"d/e/{FLAG}") == {"uid": "5"}


@run_virtual
async def test_the_root_keeps_its_attributes_in_its_own_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await chmod(kernel, "", 0o1777)
        assert metadata(store, FLAG) == {"mode": mode_text(0o1777, stat.S_IFDIR)}
        await chmod(kernel, "", 0o755)
        assert metadata(store, FLAG) == {}


@run_virtual
async def test_what_the_marker_of_a_directory_says_goes_into_its_first_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.mkdir("d")
        kernel.fs._inodes.get(await kernel.ino("d")).special = Special(uid=7, mtime_ns=PAST)
        await chmod(kernel, "d", 0o700)
        assert metadata(store, f"d/{FLAG}") == {
            "mode": mode_text(0o700, stat.S_IFDIR), "uid": "7", "mtime": "1000000000.123456789",
        }  # fmt: skip


@run_virtual
async def test_a_touch_of_a_directory_without_a_stored_time_costs_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.mkdir("d")
        store.reset_counts()
        now = kernel.fs._tree.wall_ns()
        await change(kernel, "d", mtime_ns=now, atime_ns=now)
        assert not store.counts.keys() & {"put", "copy"}


@run_virtual
async def test_a_refused_change_of_a_directory_is_told_and_not_shown(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.mkdir("d")
        store.fail("put", REFUSED, key=f"d/{FLAG}")
        with pytest.raises(AccessDenied):
            await chmod(kernel, "d", 0o700)
        assert stat.S_IMODE((await kernel.stat("d")).mode) == 0o755


@run_virtual
async def test_what_is_created_below_a_setgid_directory_has_its_group_in_the_bucket_too(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.mkdir("d")
        await change(kernel, "d", mode=0o2775, gid=77)
        await kernel.write("d/f", b"x")
        assert metadata(store, "d/f") == {"gid": "77"}
        await kernel.mkdir("d/e")
        kind = mode_text(0o2755, stat.S_IFDIR)
        assert metadata(store, f"d/e/{FLAG}") == {"mode": kind, "gid": "77"}


@run_virtual
@pytest.mark.parametrize("body", [b"", b"y"])
async def test_a_time_that_was_set_after_one_write_does_not_outlast_the_next(tmp_path: Path, body: bytes) -> None:
    """Although both find the same headers."""
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await prove(kernel)
        await kernel.write("f", b"x")
        await kernel.write("f", b"xx", os.O_WRONLY | os.O_APPEND)
        await change(kernel, "f", mtime_ns=PAST, atime_ns=PAST)
        await kernel.write("f", body, os.O_WRONLY | os.O_TRUNC)
        await trio.sleep(5)
        assert metadata(store, "f") == {}
        assert (await kernel.stat("f")).mtime_ns > PAST


# limits and modes


@run_virtual
async def test_attributes_that_metadata_cannot_hold_are_refused_and_change_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", Headers(metadata={"who": "m" * 2000}))
    async with mounting(store, tmp_path) as kernel:
        with pytest.raises(MetadataFull):
            await chmod(kernel, "f", 0o600)
        assert metadata(store, "f") == {"who": "m" * 2000}
        assert stat.S_IMODE((await kernel.stat("f")).mode) == 0o644
        inode = kernel.fs._inodes.get(await kernel.ino("f"))
        with pytest.raises(MetadataFull):
            await kernel.fs._changing.store_special(inode, {"xattrs": {"user.a": bytes(3000)}})
        await trio.sleep(5)
        assert store.counts["copy"] == 0


@run_virtual
async def test_attributes_of_any_kind_can_be_stored_of_files_and_directories(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", Headers(metadata={"mode": "33152"}))
    async with mounting(store, tmp_path) as kernel:
        await kernel.mkdir("d")
        for path, key in (("f", "f"), ("d", f"d/{FLAG}")):
            inode = kernel.fs._inodes.get(await kernel.ino(path))
            await kernel.fs._changing.store_special(inode, {"xattrs": {"user.a": b"1"}})
            assert "xattr" in metadata(store, key)
            assert inode.special is not None
            assert inode.special.xattrs == {"user.a": b"1"}
        assert metadata(store, "f")["mode"] == "33152", "what nobody here has seen stays"


@run_virtual
async def test_with_attributes_never_changes_succeed_last_with_the_inode_and_are_stored_nowhere(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x", Headers(metadata={"mode": "33152"}))
    async with mounting(store, tmp_path, attributes="never") as kernel:
        await kernel.mkdir("d", 0o700)
        await chmod(kernel, "f", 0o640)
        await change(kernel, "f", uid=5, mtime_ns=PAST)
        await chmod(kernel, "d", 0o777)
        fh = await kernel.open("g", os.O_WRONLY | os.O_CREAT, 0o600)
        await kernel.close(fh)
        await trio.sleep(5)
        assert not store.counts.keys() & {"copy"}
        assert store.keys() == ["d/", "f", "g"]
        assert metadata(store, "f") == {"mode": "33152"}
        assert metadata(store, "g") == {}
        shown = await kernel.stat("f")
        assert (stat.S_IMODE(shown.mode), shown.uid, shown.mtime_ns) == (0o640, 5, PAST)


@run_virtual
async def test_with_attributes_always_entries_get_no_flag(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("f", b"x")
    async with mounting(store, tmp_path, attributes="always") as kernel:
        await chmod(kernel, "f", 0o600)
        fh = await kernel.open("g", os.O_WRONLY | os.O_CREAT, 0o600)
        await kernel.close(fh)
        assert store.keys() == ["f", "g"]
        assert metadata(store, "g") == {"mode": mode_text(0o600)}


@run_virtual
async def test_what_was_stored_here_is_shown_when_the_kernel_has_forgotten_it(tmp_path: Path) -> None:
    store = MemoryStore()
    async with mounting(store, tmp_path) as kernel:
        await kernel.mkdir("d", 0o700)
        await kernel.write("d/f", b"x")
        await kernel.mkdir("d/e")
        for mode in (0o1700, 0o1711, 0o1755):
            for path in ("d", "d/e", "d/f"):
                await chmod(kernel, path, mode)
            await trio.sleep(1.5)
            kernel.drop_caches()
            for path in ("d", "d/e", "d/f"):
                assert stat.S_IMODE((await kernel.stat(path)).mode) == mode
