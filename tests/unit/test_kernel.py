"""The mount table as the kernel writes it."""

from pathlib import Path

from s3mount.kernel import Mount, mounts


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
