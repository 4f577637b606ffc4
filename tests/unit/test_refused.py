"""What the bucket refuses of a mount with --write-back, beside what waits in memory: the verbs of `s3mount failed`."""

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from s3mount.control import keeping_texts
from s3mount.control.keeping import Keeping
from s3mount.control.server import Progress
from s3mount.errors import AccessDenied, KeyTooLong, NoEntry, S3MountError, Stale, Unavailable
from s3mount.vfs.journaled import PATHS_MAX, Journaled
from s3mount.writeback.reading import Damage
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.journal_tables import Spool, Table

DENIED = AccessDenied("403, AccessDenied", status=403)


class Settling(MemoryStore):
    """What `settle` answers is what a test says."""

    outcome: S3MountError | None = None

    async def settle(self, key: str) -> None:
        assert key == "d/b"
        await trio.lowlevel.checkpoint()
        if self.outcome is not None:
            raise self.outcome


@asynccontextmanager
async def refusing(tmp_path: Path) -> AsyncIterator[tuple[Kernel, Settling, Spool]]:
    """A mount that keeps `a` in memory, and of which the bucket refuses the content of `d/b` and a rename."""
    store, table = Settling(), Table()
    spool = Spool(table)
    store.place("d/b", b"the old content")
    async with mounted(store, tmp_path) as kernel:
        kernel.fs._tree.journaled = Journaled(table, spool, "")
        store.fail("put", Unavailable("500", status=500), times=1000)
        fh = await kernel.open("a", os.O_WRONLY | os.O_CREAT)
        await kernel.fs.write(fh, 0, b"a")
        await kernel.fs.release(fh)
        spool.park(table.add("d/b", 4, at_ns=7_000_000_000), DENIED, b"new!")
        spool.park(table.add("d/to", 9, kind="rename", source="d/from"), KeyTooLong("400", status=400))
        await trio.testing.wait_all_tasks_blocked()
        yield kernel, store, spool


async def hands_over(_paths: list[str]) -> None:
    await trio.lowlevel.checkpoint()


async def asked(kernel: Kernel, verb: str, **request: object) -> Any:
    return await Keeping(kernel.fs, drain=hands_over).table()[verb](request, Progress())


@run_virtual
async def test_a_refused_directory_is_told_as_one(tmp_path: Path) -> None:
    async with refusing(tmp_path) as (kernel, _, spool):
        spool.park(spool._table.add("d/e/", 0), DENIED, b"")
        answer = await asked(kernel, "failed_list", paths=["d/e"])
        assert [(file["path"], file["change"]) for file in answer["files"]] == [("d/e", "directory")]


@run_virtual
async def test_both_kinds_are_listed_and_each_says_what_it_waits_for(tmp_path: Path) -> None:
    async with refusing(tmp_path) as (kernel, _, _):
        answer = await asked(kernel, "failed_list", paths=[])
        kept, refused, renamed = answer["files"]
        assert [file["path"] for file in answer["files"]] == ["a", "d/b", "d/to"]
        assert [file["waits_for_you"] for file in answer["files"]] == [False, True, True]
        assert len({file["number"] for file in answer["files"]}) == 3
        assert kept["next_seconds"] == 1.0
        assert (refused["size"], refused["since_ns"], refused["next_seconds"]) == (4, 7_000_000_000, None)
        assert renamed["change"] == "rename"
        text = keeping_texts.kept(answer)
        for words in ("s3:PutObject", "not tried again by itself", "no name of this length", "a rename", "1970-01-01"):
            assert words in text
        below = await asked(kernel, "failed_list", paths=["d"])
        assert [file["path"] for file in below["files"]] == ["d/b", "d/to"]
        with pytest.raises(NoEntry):
            await asked(kernel, "failed_list", paths=["e"])


@run_virtual
@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "stored"), (AccessDenied("403 again", status=403), None), (Stale("another client's"), "conflict")],
)
async def test_a_try_says_what_became_of_it(tmp_path: Path, error: S3MountError | None, outcome: str | None) -> None:
    async with refusing(tmp_path) as (kernel, store, spool):
        store.outcome = error
        (told,) = (await asked(kernel, "failed_retry", paths=["d/b"]))["files"]
        assert spool.asked == [("retry", 1)]
        assert told["outcome"] == outcome
        assert told["reason"] == ("" if error is None else str(error))


@run_virtual
async def test_what_is_not_refused_any_more_is_gone(tmp_path: Path) -> None:
    async with refusing(tmp_path) as (kernel, _, spool):
        (held,) = kernel.fs.failed.find(["d/b"])
        await spool.retry(1)
        await kernel.fs.failed.retry(held)
        assert held.outcome == "gone"
        with pytest.raises(Stale):
            await kernel.fs.failed.read(held.number, 0, 1)


@run_virtual
async def test_what_is_given_up_is_forgotten_and_the_bucket_is_asked_again(tmp_path: Path) -> None:
    async with refusing(tmp_path) as (kernel, store, spool):
        for path in ("d/b", "d/to", "d/from"):
            await kernel.exists(path)
        store.place("d/b", b"what the bucket has")
        store.place("d/from", b"moved back")
        kernel.expire()
        reader = await kernel.open("d/b")
        (told,) = (await asked(kernel, "failed_drop", paths=["d/b"]))["files"]
        assert told["outcome"] is None
        assert "is open" in told["reason"]
        assert spool.asked == []
        await kernel.close(reader)
        told = (await asked(kernel, "failed_drop", paths=["d"]))["files"]
        assert [file["outcome"] for file in told] == ["dropped", "dropped"]
        assert sorted(spool.asked) == [("drop", 1), ("drop", 2)]
        kernel.expire()
        assert await kernel.read("d/b") == b"what the bucket has"
        assert await kernel.exists("d/from")
        assert not await kernel.exists("d/to")
        assert [file["path"] for file in (await asked(kernel, "failed_list", paths=[]))["files"]] == ["a"]


@run_virtual
async def test_the_content_comes_in_pieces(tmp_path: Path) -> None:
    async with refusing(tmp_path) as (kernel, _, _):
        (held,) = kernel.fs.failed.find(["d/b"])
        pieces = [await asked(kernel, "failed_read", number=held.number, offset=offset, size=3) for offset in (0, 3)]
        assert b"".join(base64.b64decode(piece["data"]) for piece in pieces) == b"new!"
        assert {(piece["size"], piece["changed_ns"]) for piece in pieces} == {(4, 7_000_000_000)}


def test_figures_name_some_and_count_all() -> None:
    table = Table()
    spool = Spool(table)
    for number in range(PATHS_MAX + 20):
        spool.park(table.add(f"p/{number:03}", 2, at_ns=number * 10**9), DENIED)
    table.add("p/d/").state = "begun"
    journaled = Journaled(
        table,
        spool,
        "p/",
        bytes_max=5,
        files_max=6,
        disk_bytes=lambda: 7,
        damage=Damage(3, 99, ("p/x", "p/d/"), Path("/c/damaged")),
    )
    figures = journaled.figures(now_ns=lambda: 10**9 * 30)
    refused: Any = figures.pop("refused")
    assert (refused["count"], len(refused["paths"]), refused["paths"][0]) == (PATHS_MAX + 20, PATHS_MAX, "000")
    assert figures == {
        "changes": PATHS_MAX + 21, "changes_max": 6, "bytes": 2 * (PATHS_MAX + 20), "max_bytes": 5,
        "oldest_seconds": 30.0, "writers_waiting": 0, "sending": 1, "journal_bytes": 7,
        "damage": {"place": "/c/damaged", "count": 2, "paths": ["d", "x"]},
    }  # fmt: skip
