"""Values that the kernel sees."""

import stat

import pytest

from s3mount.vfs.attributes import Caller, StatFs, absent, may, whole_seconds

FILE = stat.S_IFREG | 0o640


def caller(uid: int, gid: int = 100) -> Caller:
    return Caller(uid=uid, gid=gid, pid=1, umask=0)


@pytest.mark.parametrize(
    ("mode", "who", "wanted", "allowed"),
    [
        (FILE, caller(1), 6, True),
        (FILE, caller(1), 1, False),
        (FILE, caller(2, 5), 4, True),
        (FILE, caller(2, 5), 2, False),
        (FILE, caller(2), 4, False),
        (FILE, caller(2), 0, True),
        (FILE, caller(0), 6, True),
        (FILE, caller(0), 1, False),
        (stat.S_IFREG | 0o010, caller(0), 1, True),
        (stat.S_IFDIR | 0o000, caller(0), 7, True),
        (stat.S_IFREG | 0o077, caller(1), 4, False),
    ],
)
def test_access_follows_the_permission_bits_of_the_first_class_that_fits(
    mode: int, who: Caller, wanted: int, allowed: bool
) -> None:
    assert may(mode, 1, 5, who, wanted) is allowed


def test_free_space_is_never_zero_and_never_more_than_all() -> None:
    """D2"""
    known = StatFs()
    assert 0 < known.blocks_free <= known.blocks
    assert 0 < known.files_free <= known.files


def test_an_absence_has_no_number_and_a_timeout() -> None:
    assert absent(1.5).ino == 0
    assert absent(1.5).entry_seconds == 1.5


def test_times_are_shown_in_whole_seconds_because_a_head_tells_no_more() -> None:
    assert whole_seconds(5_999_999_999) == 5_000_000_000
    assert whole_seconds(5_000_000_000) == 5_000_000_000
