"""The oracle of the faults: after each failure exactly what may be there is accepted."""

from tests.load.promises import version_of
from tests.load.sheet import Sheet


def synced(content: bytes) -> Sheet:
    sheet = Sheet("f", bytearray(content))
    sheet.synced()
    return sheet


def test_reads_are_compared_byte_by_byte() -> None:
    sheet = synced(b"0123456789")
    assert sheet.differs(3, b"3456") == ""
    assert "from byte 5 on" in sheet.differs(3, b"34x6")
    assert sheet.differs(8, b"89") == ""
    assert "from byte 10 on" in sheet.differs(8, b"890")


def test_holes_are_zeros() -> None:
    sheet = synced(b"ab")
    sheet.write(4, b"c")
    assert sheet.shown == version_of(b"ab\0\0c")
    sheet.truncate(3)
    sheet.truncate(5)
    assert sheet.shown == version_of(b"ab\0\0\0")


def test_after_a_close_that_failed_the_old_object_or_any_attempt_is_there() -> None:
    for found, right in ((b"old", True), (b"attempt", True), (b"last", True), (b"", False), (None, False)):
        sheet = synced(b"old")
        sheet.now = bytearray(b"attempt")
        sheet.attempted()
        sheet.now = bytearray(b"last")
        sheet.given_up()
        assert sheet.unsure
        assert (sheet.look(found) == "") == right
        assert not right or (sheet.shown == version_of(found or b"") and not sheet.unsure)


def test_what_was_attempted_may_come_later_until_a_sync_succeeds() -> None:
    sheet = synced(b"old")
    sheet.now = bytearray(b"attempt")
    sheet.given_up()
    assert sheet.look(b"old") == ""
    assert sheet.look(b"attempt") == ""
    sheet.now = bytearray(b"new")
    sheet.synced()
    assert sheet.certain
    assert sheet.look(b"attempt") != ""
    assert sheet.look(b"new") == ""
