"""The journal of acknowledged deletions: what it promises, and how the next start keeps that promise."""

import errno
import logging

import pytest
import trio

from s3mount.data.removals import FINISH_SECONDS, Removals, finish
from s3mount.errors import AccessDenied, Unavailable
from tests.memory_store import MemoryStore
from tests.paper import PaperInMemory
from tests.running import run_virtual


class FullPaper(PaperInMemory):
    """A disk that may be full: a line is cut then."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False

    def append(self, line: bytes) -> None:
        if self.full:
            self.content += line[: len(line) // 2]
            raise OSError(errno.ENOSPC, "no space")
        super().append(line)

    def rewrite(self, content: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "no space")
        super().rewrite(content)


def left(paper: PaperInMemory) -> list[tuple[str, str]]:
    return [(removal.key, removal.etag) for removal in Removals(paper).left]


def test_what_is_not_struck_off_is_left_for_the_next_start() -> None:
    paper = PaperInMemory()
    removals = Removals(paper)
    numbers = [removals.begin(key, f'"{key}"') for key in ("a", "b\n\x00\udc80", "c")]
    assert left(paper) == [("a", '"a"'), ("b\n\x00\udc80", '"b\n\x00\udc80"'), ("c", '"c"')]
    removals.strike(numbers[:2])
    assert left(paper) == [("c", '"c"')]
    removals.strike(numbers)
    assert left(paper) == []
    assert len(removals) == 0


def test_a_damaged_line_counts_as_not_written() -> None:
    paper = PaperInMemory()
    removals = Removals(paper)
    removals.begin("a", '"a"')
    start = len(paper.content)
    removals.begin("b", '"b"')
    removals.begin("c", '"c"')
    paper.content[start + 12] ^= 1
    assert [key for key, _ in left(paper)] == ["a", "c"]


def test_nothing_is_begun_on_a_full_disk_and_what_was_cut_is_mended() -> None:
    paper = FullPaper()
    removals = Removals(paper)
    first = removals.begin("a", '"a"')
    paper.full = True
    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            removals.begin("b", '"b"')
    paper.full = False
    removals.begin("c", '"c"')
    assert [key for key, _ in left(paper)] == ["a", "c"]
    removals.strike([first])
    assert [key for key, _ in left(paper)] == ["c"]


def test_a_strike_that_could_not_be_written_is_made_up_for(caplog: pytest.LogCaptureFixture) -> None:
    paper = FullPaper()
    removals = Removals(paper)
    number = removals.begin("a", '"a"')
    paper.full = True
    removals.strike([number])
    assert "were not struck off" in caplog.text
    paper.full = False
    removals.begin("b", '"b"')
    assert [key for key, _ in left(paper)] == ["b"]


def test_a_long_history_is_written_anew() -> None:
    paper = PaperInMemory()
    removals = Removals(paper)
    kept = removals.begin("kept", '"k"')
    for number in range(10_000):
        removals.strike([removals.begin(f"key{number}", '"0123456789abcdef"')])
        assert len(paper.content) < 400_000
    assert left(paper) == [("kept", '"k"')]
    assert kept == 1


@run_virtual
async def test_the_next_start_deletes_only_what_has_the_etag_that_was_deleted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store, paper = MemoryStore(), PaperInMemory()
    removals = Removals(paper)
    for key in ("same", "replaced", "gone"):
        removals.begin(key, store.place(key, b"old").etag)
    store.place("replaced", b"another client's")
    store.remove("gone")
    await finish(store, Removals(paper))
    assert store.keys() == ["replaced"]
    assert left(paper) == []
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "deletions of an earlier run were finished deleted=2 changed=1")
    ]
    store.reset_counts()
    await finish(store, Removals(paper))
    assert not store.counts


@run_virtual
async def test_an_etag_is_compared_on_stores_that_keep_none_too() -> None:
    store, paper = MemoryStore(conditions="ignored", deletes_many="ignored"), PaperInMemory()
    removals = Removals(paper)
    for key in ("a", "b", "c"):
        removals.begin(key, store.place(key, b"old").etag)
    store.place("b", b"another client's")
    await finish(store, Removals(paper))
    assert store.keys() == ["b"]


@run_virtual
async def test_what_cannot_be_finished_is_given_up_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """It must not be tried later: by then an object of that etag may be a program's new one."""
    store, paper = MemoryStore(), PaperInMemory()
    removals = Removals(paper)
    for key in ("a", "b", "c", "d"):
        removals.begin(key, store.place(key, b"old").etag)
    store.undeletable["b"] = AccessDenied("403", code="AccessDenied", status=403)
    store.fail("head", Unavailable("503", status=503), key="c")
    await finish(store, Removals(paper))
    assert store.keys() == ["b", "c"]
    assert left(paper) == []
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "given up, the files are there again count=2" in warning


@run_virtual
async def test_a_start_waits_for_a_limited_time(caplog: pytest.LogCaptureFixture) -> None:
    store, paper = MemoryStore(latency_seconds=1e6), PaperInMemory()
    Removals(paper).begin("a", store.place("a", b"old").etag)
    started = trio.current_time()
    await finish(store, Removals(paper))
    assert trio.current_time() - started == FINISH_SECONDS
    assert "given up" in caplog.text
