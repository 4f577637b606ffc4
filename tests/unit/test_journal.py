"""The journal: what survives the death of the process, what a damaged line costs, how large the file gets."""

import errno
import logging
import zlib
from pathlib import Path

import pytest

from s3mount.data.journal import ENTRIES_MAX, RETRY_SECONDS, REWRITE_BYTES, Entry, Journal, PaperFile
from s3mount.store.base import Upload
from tests.paper import PaperInMemory


def reopened(path: Path) -> Journal:
    return Journal(PaperFile(path))


def opened(journal: Journal, key: str, upload_id: str) -> Upload:
    upload = Upload(key, upload_id)
    journal.opened(journal.begin(key, 5), upload)
    return upload


def test_what_was_begun_and_not_ended_is_left(tmp_path: Path) -> None:
    journal = reopened(tmp_path / "journal")
    journal.begin("intent", 17)
    opened(journal, "ö\n", "id 1")
    journal.ended(opened(journal, "complete", "id 2"))
    journal.refused(journal.begin("refused", 18))
    copy = journal.begin_copy("copy")
    journal.strike(journal.begin_copy("gone"))
    left = (Entry(1, "upload", "intent", 17), Entry(2, "upload", "ö\n", 5, "id 1"), Entry(copy, "copy", "copy", 0))
    assert reopened(tmp_path / "journal").left == left
    again = reopened(tmp_path / "journal")
    assert again.left == left
    assert again.knows("ö\n", "id 1")
    assert not again.knows("ö\n", "id 2")
    again.ended(Upload("ö\n", "id 1"))
    assert again.begin("next", 19) == copy + 1
    assert [entry.key for entry in reopened(tmp_path / "journal").left] == ["intent", "copy", "next"]


@pytest.mark.parametrize("kept", range(0, 200, 7))
def test_a_torn_tail_is_ignored_and_written_over(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal"
    journal = reopened(path)
    opened(journal, "first", "id 1")
    opened(journal, "second", "id 2")
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    again = reopened(path)
    whole = sum(content[:kept].count(line) for line in content.splitlines())
    told = [("first", None), ("first", "id 1"), ("second", None), ("second", "id 2")][:whole]
    assert [(entry.key, entry.upload_id) for entry in again.left] == list(dict(told).items())
    opened(again, "third", "id 3")
    assert [entry.key for entry in reopened(path).left][-1:] == ["third"]


def test_a_damaged_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = reopened(path)
    for number in range(3):
        opened(journal, f"k{number}", f"id {number}")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"k1", b"k7")
    path.write_bytes(b"".join(lines))
    assert [entry.key for entry in reopened(path).left] == ["k0", "k2"]


def test_a_record_of_another_kind_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = reopened(path)
    opened(journal, "first", "id 1")
    text = b'{"entry":7,"kind":"lease","key":"k","at":0}'
    with path.open("ab") as file:
        file.write(b"%08x %s\n" % (zlib.crc32(text), text))
    opened(journal, "second", "id 2")
    assert [entry.key for entry in reopened(path).left] == ["first", "second"]


def test_a_busy_journal_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = reopened(path)
    kept = opened(journal, "kept", "id")
    for number in range(5000):
        journal.ended(opened(journal, "k" * 100, f"id {number}"))
        assert path.stat().st_size < 2 * REWRITE_BYTES
    assert [(entry.key, entry.upload_id) for entry in reopened(path).left] == [("kept", kept.id)]
    assert path.stat().st_size < 200


class FullPaper(PaperInMemory):
    """On a disk that may be full; counts what it is asked to write."""

    full = False
    writes = 0

    def append(self, line: bytes) -> None:
        self.writes += 1
        if self.full:
            super().append(line[:10])
            raise OSError(errno.ENOSPC, "no space")
        super().append(line)

    def rewrite(self, content: bytes) -> None:
        self.writes += 1
        if self.full:
            raise OSError(errno.ENOSPC, "no space")
        super().rewrite(content)


def test_what_could_not_be_written_is_written_with_a_later_record(caplog: pytest.LogCaptureFixture) -> None:
    paper, now = FullPaper(), [1000.0]
    journal = Journal(paper, clock=lambda: now[0])
    opened(journal, "first", "id 1")
    paper.full = True
    with caplog.at_level(logging.WARNING):
        opened(journal, "second", "id 2")
        now[0] += RETRY_SECONDS
        opened(journal, "third", "id 3")
    assert len(caplog.records) == 1
    assert [entry.key for entry in Journal(_copy(paper)).left] == ["first"]
    paper.full = False
    now[0] += RETRY_SECONDS
    opened(journal, "fourth", "id 4")
    assert [entry.upload_id for entry in Journal(_copy(paper)).left] == ["id 1", "id 2", "id 3", "id 4"]
    opened(journal, "fifth", "id 5")
    assert len(Journal(_copy(paper)).left) == 5


def test_a_full_disk_is_tried_once_a_minute() -> None:
    """Each attempt writes all entries, in the event loop."""
    paper, now = FullPaper(), [1000.0]
    journal = Journal(paper, clock=lambda: now[0])
    paper.full, paper.writes = True, 0
    for number in range(600):
        journal.ended(opened(journal, "k", f"id {number}"))
        now[0] += 1.0
    assert paper.writes == 10


def _copy(paper: PaperInMemory) -> PaperInMemory:
    copied = PaperInMemory()
    copied.content[:] = paper.content
    return copied


def test_what_cannot_be_removed_does_not_pile_up_for_ever() -> None:
    paper = PaperInMemory()
    journal = Journal(paper)
    oldest = journal.begin("k", 0)
    for number in range(ENTRIES_MAX + 5):
        journal.begin_copy(f"k{number}")
    assert len(journal) == ENTRIES_MAX
    assert not journal.opening("k")
    journal.opened(oldest, Upload("k", "id"))
    journal.doubted(oldest)
    journal.ended(Upload("k", "id"))
    left = Journal(paper).left
    assert len(left) == ENTRIES_MAX
    assert left[-1].key == f"k{ENTRIES_MAX + 4}"


def test_an_upload_costs_three_small_appends() -> None:
    written: list[int] = []

    class CountingPaper(PaperInMemory):
        def append(self, line: bytes) -> None:
            written.append(len(line))
            super().append(line)

    journal = Journal(CountingPaper())
    journal.ended(opened(journal, "k", "id"))
    assert len(written) == 3
    assert sum(written) < 200


def test_a_link_in_the_place_of_the_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="journal"):
        reopened(tmp_path / "journal")
    assert not (tmp_path / "victim").exists()
