"""What was learnt of attributes, in a real file: across restarts, kills, other processes, damage and full disks."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings

from s3mount.vfs.attributedb import QUEUE_MAX, REST_SECONDS, WRITE_SECONDS, AttributeDb, directory_of, path_in
from s3mount.vfs.attributes import PLAIN, SECOND_NS, Special
from s3mount.vfs.attributetable import USE_KNOWN_TO_SECONDS, AttributeTable, Known
from tests.running import run_trio, run_virtual
from tests.unit.files import InjectedBug, inline
from tests.unit.test_metadata import SPECIALS

AT_NS = 1_700_000_000 * SECOND_NS
LATER_NS = AT_NS + 2 * SECOND_NS
LINK = Special(mode=0o120777, uid=5, mtime_ns=-1, xattrs={"user.a": b"\0"})


@asynccontextmanager
async def remembering(path: Path, **options: object) -> AsyncIterator[AttributeDb]:
    """A mount that has this file open; at its end everything noted is written."""
    db = AttributeDb(path, run_in_thread=inline, **options)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(db.run)
        yield db
        nursery.cancel_scope.cancel()


def etag_of(key: str) -> str:
    return f'"{key.encode().hex()}"'


def note(db: AttributeDb, *keys: str, special: Special = LINK) -> None:
    for key in keys:
        db.note(key, etag_of(key), AT_NS, LATER_NS, special)


def known(*keys: str, special: Special = LINK) -> dict[str, Known]:
    return {key: Known(etag_of(key), AT_NS, special) for key in keys}


@run_virtual
async def test_what_was_noted_is_known_after_a_restart_directory_by_directory(tmp_path: Path) -> None:
    path = tmp_path / "attributes" / "a.sqlite"
    async with remembering(path) as db:
        note(db, "file", "d/a", "d/é", "d/sub/", "d/sub/deep", "d0")
        note(db, "d/plain", special=PLAIN)
        assert (await db.load("d/")).keys() == {"d/a", "d/é", "d/sub/", "d/plain"}
    async with remembering(path) as db:
        assert await db.load("d/") == known("d/a", "d/é", "d/sub/") | known("d/plain", special=PLAIN)
        assert await db.load("") == known("file", "d0")
        assert await db.load("nowhere/") == {}
        db.note("file", '"new"', AT_NS, LATER_NS, PLAIN)
        assert (await db.load(""))["file"] == Known('"new"', AT_NS, PLAIN)
    async with remembering(path) as db:
        assert (await db.load(""))["file"] == Known('"new"', AT_NS, PLAIN)


@settings(max_examples=30, deadline=None)
@given(special=SPECIALS)
def test_any_attributes_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, special: Special) -> None:
    table = AttributeTable(tmp_path_factory.mktemp("table") / "a.sqlite", rows_max=100)
    table.write({"d/": {"d/a": Known('"e"', AT_NS, special)}}, ())
    assert table.rows("d/") == ({"d/a": Known('"e"', AT_NS, special)}, False)
    table.close()


@run_virtual
async def test_only_what_was_learnt_two_seconds_after_the_change_is_trusted(tmp_path: Path) -> None:
    async with remembering(tmp_path / "a.sqlite") as db:
        db.note("early", '"1"', AT_NS, LATER_NS - 1, LINK)
        db.note("in time", '"1"', AT_NS + SECOND_NS // 2, LATER_NS, LINK)
        assert await db.load("") == {"in time": Known('"1"', AT_NS, LINK)}


@run_virtual
async def test_notes_of_a_second_are_one_transaction_and_no_more_than_a_queue_holds(tmp_path: Path) -> None:
    calls: list[float] = []

    async def counting(call: Callable[[], None]) -> None:
        calls.append(trio.current_time())
        await inline(call)

    db = AttributeDb(tmp_path / "a.sqlite", run_in_thread=counting)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(db.run)
        await trio.sleep(5)
        assert not calls
        for number in range(50):
            note(db, f"{number}")
            await trio.sleep(WRITE_SECONDS / 10)
        assert len(calls) in (5, 6)
        await trio.sleep(2 * WRITE_SECONDS)
        note(db, *(f"more{number}" for number in range(QUEUE_MAX + 10)))
        await trio.sleep(2 * WRITE_SECONDS)
        assert len(await db.load("")) == 50 + QUEUE_MAX
        written = len(calls)
        await trio.sleep(100)
        assert len(calls) == written
        nursery.cancel_scope.cancel()


@run_virtual
async def test_the_longest_unused_go_when_there_are_too_many(tmp_path: Path) -> None:
    now = [1e9]
    async with remembering(tmp_path / "a.sqlite", rows_max=64, wall_seconds=lambda: now[0]) as db:
        for directory in range(8):
            note(db, *(f"{directory}/{name}" for name in range(8)))
            await trio.sleep(2 * WRITE_SECONDS)
            now[0] += 1
        now[0] += USE_KNOWN_TO_SECONDS + 1
        assert len(await db.load("0/")) == 8
        await trio.sleep(2 * WRITE_SECONDS)
        for directory in range(8, 11):
            note(db, *(f"{directory}/{name}" for name in range(8)))
            await trio.sleep(2 * WRITE_SECONDS)
        left = [len(await db.load(f"{directory}/")) for directory in range(11)]
        assert 48 <= sum(left) <= 64
        assert left[0] == 8
        assert left[-1] == 8
        assert left[1] == 0


@pytest.mark.parametrize(
    "content",
    [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b"foreign", b"other format", b""],
    ids=["no database", "broken header", "foreign", "other format", "empty"],
)
@run_virtual
async def test_a_file_that_is_not_ours_is_moved_aside_with_one_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "a.sqlite"
    if content in (b"foreign", b"other format"):
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE theirs (a)" if content == b"foreign" else "PRAGMA user_version = 999")
        other.close()
    else:
        path.write_bytes(content)
    for _ in range(2):
        async with remembering(path) as db:
            note(db, "a")
            await trio.sleep(2 * WRITE_SECONDS)
            assert await db.load("") == known("a")
    assert path.with_suffix(".bad").exists() is bool(content)
    assert len(caplog.records) == bool(content)


@run_virtual
async def test_a_file_that_breaks_while_in_use_is_replaced_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.sqlite"
    async with remembering(path) as db:
        note(db, *map(str, range(2000)))
    broken = path.read_bytes()
    path.write_bytes(broken[:8192] + b"\xff" * (len(broken) - 8192))
    async with remembering(path) as db:
        for _ in range(3):
            await db.load("")
            note(db, "a")
            await trio.sleep(2 * WRITE_SECONDS)
        assert await db.load("") == known("a")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@run_virtual
async def test_a_damaged_file_that_another_process_has_open_is_left_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.sqlite"
    async with remembering(path) as first:
        note(first, "a")
        await trio.sleep(2 * WRITE_SECONDS)
        node = path.stat().st_ino
        path.write_bytes(b"garbage" * 1000)
        async with remembering(path) as second:
            note(second, "b")
            await trio.sleep(2 * WRITE_SECONDS)
            assert await second.load("") == {}
        assert path.stat().st_ino == node
    assert "could not be remembered" in caplog.text


@run_virtual
async def test_without_a_place_for_the_file_everything_else_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    async with remembering(tmp_path / "file" / "a.sqlite") as db:
        for _ in range(5):
            note(db, "a")
            await trio.sleep(REST_SECONDS)
            assert await db.load("elsewhere/") == {}
    assert len(caplog.records) == 1


@run_virtual
async def test_a_bug_costs_knowledge_and_neither_the_mount_nor_an_errno(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> float:
        raise InjectedBug

    async with remembering(tmp_path / "a.sqlite", wall_seconds=broken) as db:
        note(db, "a")
        await trio.sleep(2 * WRITE_SECONDS)
        assert await db.load("elsewhere/") == {}
    assert "met a bug" in caplog.text


def in_a_process(program: str, path: Path) -> "subprocess.Popen[str]":
    setup = f"""
import os, resource, signal, sys, time
from pathlib import Path
from s3mount.vfs.attributes import Special
from s3mount.vfs.attributetable import AttributeTable, Known
table = AttributeTable(Path({str(path)!r}), rows_max=10**6)
def write(key):
    table.write({{"": {{key: Known('"' + key + '"', {AT_NS}, Special(uid=1))}}}}, ())
"""
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", setup + program], stdout=subprocess.PIPE, text=True, cwd=root)


def test_a_process_killed_while_it_writes_leaves_whole_transactions(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    for round_ in range(3):
        program = f"for n in range(10**6):\n  write('{round_}-%d' % n)\n  print(n, flush=True)"
        with in_a_process(program, path) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= 100:
                    break
            process.send_signal(signal.SIGKILL)
            told = [int(number) for number in process.stdout.read().split()] or [100]
        table = AttributeTable(path, rows_max=10**6)
        rows, _ = table.rows("")
        table.close()
        assert {f"{round_}-{number}" for number in range(told[-1] + 1)} <= rows.keys()
        assert not path.with_suffix(".bad").exists()


def test_two_processes_write_at_once_and_see_each_others_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    program = "for n in range(200):\n  write('%d-%d' % (os.getpid(), n))\nprint(os.getpid())"
    processes = [in_a_process(program, path) for _ in range(3)]
    pids = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    table = AttributeTable(path, rows_max=10**6)
    assert table.rows("")[0].keys() == {f"{pid}-{number}" for pid in pids for number in range(200)}
    table.close()


@run_virtual
async def test_notes_wait_while_another_process_writes_for_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.sqlite"
    async with remembering(path, busy_seconds=0.05) as db:
        await db.load("")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        note(db, "a")
        await trio.sleep(WRITE_SECONDS / 2)
        assert other.execute("SELECT count(*) FROM attributes").fetchone() == (0,)
        assert await db.load("") == known("a")
        other.execute("COMMIT")
        await trio.sleep(2 * WRITE_SECONDS)
        assert other.execute("SELECT count(*) FROM attributes").fetchone() == (1,)
        other.close()
    assert not caplog.records


def test_a_full_disk_refuses_notes_and_keeps_what_is_known(tmp_path: Path) -> None:
    """A file that may not grow stands for a disk that is full."""
    path = tmp_path / "a.sqlite"
    program = """
write("before")
size = os.path.getsize(table.path.with_name(table.path.name + "-wal"))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    write("x" * 100_000)
except Exception as error:
    print(type(error).__name__)
print(*table.rows("")[0])
"""
    with in_a_process(program, path) as process:
        said, _ = process.communicate()
    assert said.splitlines() == ["OperationalError", "before"]
    table = AttributeTable(path, rows_max=10**6)
    assert table.rows("")[0].keys() == {"before"}
    table.close()


@run_virtual
async def test_a_disk_that_hangs_holds_up_neither_listings_nor_the_end(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:

        async def hanging(_call: Callable[[], None]) -> None:
            await trio.sleep_forever()

        db = AttributeDb(tmp_path / "a.sqlite", run_in_thread=hanging)
        nursery.start_soon(db.run)
        note(db, "a")
        with trio.fail_after(5):
            assert await db.load("") == known("a")
            assert await db.load("other/") == {}
        nursery.cancel_scope.cancel()


@run_trio
async def test_threads_do_the_work(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        db = AttributeDb(tmp_path / "a.sqlite")
        nursery.start_soon(db.run)
        note(db, *(f"d/{number}" for number in range(1000)))
        await trio.testing.wait_all_tasks_blocked()
        assert len(await db.load("d/")) == 1000
        nursery.cancel_scope.cancel()
    table = AttributeTable(tmp_path / "a.sqlite", rows_max=10)
    assert len(table.rows("d/")[0]) == 1000
    table.close()


def test_the_directory_of_a_key() -> None:
    assert [directory_of(key) for key in ("a", "a/", "a/b", "a/b/", "a//")] == ["", "", "a/", "a/", "a/"]


def test_mounts_of_one_bucket_share_a_file_and_others_do_not(tmp_path: Path) -> None:
    one = path_in(tmp_path, endpoint="http://e", bucket="b")
    assert one == path_in(tmp_path, endpoint="http://e", bucket="b")
    assert one != path_in(tmp_path, endpoint="http://eb", bucket="")
    assert one.parent == tmp_path / "attributes"
    assert os.fspath(one).endswith(".sqlite")
