"""The mount table as the kernel writes it, and the limits that we may raise in it or not."""

from pathlib import Path

import pytest

from s3mount.kernel import Mount, mounts, set_limits


def test_escaped_characters_of_a_mountpoint_are_read_back(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        "61 22 0:52 / /srv/my\\040uploads rw,nosuid shared:7 - fuse.s3mount s3://bucket/a\\134b rw,user_id=0\n"
    )
    assert mounts(table) == [
        Mount("254:0", "/", "ext4", "/dev/vda"),
        Mount("0:52", "/srv/my uploads", "fuse.s3mount", "s3://bucket/a\\b", "/", 0),
    ]


def test_a_bind_mount_of_a_part_tells_which(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("70 22 0:52 /a\\040b /srv/part rw - fuse.s3mount s3://b rw,user_id=1000,group_id=0,allow_other\n")
    assert mounts(table) == [Mount("0:52", "/srv/part", "fuse.s3mount", "s3://b", "/a b", 1000)]


def test_the_real_table_has_a_root() -> None:
    assert any(mount.mountpoint == "/" for mount in mounts())


def test_limits_that_may_be_set_are_set_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    readahead, background = tmp_path / "read_ahead_kb", tmp_path / "max_background"
    readahead.write_text("128\n")
    background.write_text("12\n")
    with caplog.at_level("DEBUG"):
        set_limits({readahead: 1024, background: 128})
    assert (readahead.read_text(), background.read_text()) == ("1024\n", "128\n")
    assert not caplog.records


def test_limits_that_may_not_be_set_are_one_hint_which_says_what_helps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allowed, refused, missing = tmp_path / "allowed", tmp_path / "refused", tmp_path / "connections/52/max_background"
    allowed.write_text("12\n")
    refused.mkdir()  # which nobody can write to, root neither
    with caplog.at_level("DEBUG"):
        set_limits({refused: 1024, missing: 128, allowed: 64})
    assert allowed.read_text() == "64\n"
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert f"as root: echo 1024 > {refused}" in record.getMessage()
    assert "mount -t fusectl none /sys/fs/fuse/connections" in record.getMessage()
