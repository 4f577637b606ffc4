"""Extended attributes on real mounts: ordinary programs, what the bucket has, what the kernel asks."""

import errno
import json
import os
import re
import subprocess
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.e2e.mounting import Mounted, Mounts, Place, eventually, run, succeed
from tests.e2e.sides import user_xattrs

VALUES = {"user.a": b"one", "user.binary": bytes(range(256)), "user.empty": b"", "user.\u00e4 %+": b"2"}
WRITES = 200


@pytest.fixture
def mount(mounts: Mounts) -> Mounted:
    """A mount with extended attributes that says when the kernel asks for them."""
    return mounts.start("--xattr", plant="tell-xattrs")


def give(path: Path, values: dict[str, bytes]) -> None:
    for name, value in values.items():
        os.setxattr(path, name, value)


def in_bucket(place: Place, name: str) -> dict[str, bytes]:
    """Read as s3fs documents it, without a line of ours."""
    text = place.head(name)["Metadata"].get("xattr", "%7B%7D")
    return {key: b64decode(value) for key, value in json.loads(unquote(text)).items()}


def errno_of(call: Callable[..., object], *arguments: object, **others: object) -> str:
    try:
        call(*arguments, **others)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def asked(mounted: Mounted) -> Counter[str]:
    """How often each handler was called."""
    return Counter((mounted.work / "xattr-calls").read_text().split())


# what is stored


def test_the_bucket_has_them_in_the_encoding_of_s3fs_and_a_new_mount_shows_them(mount: Mounted) -> None:
    place, root = mount.place, mount.root
    (root / "d").mkdir()
    (root / "f").write_bytes(b"hello")
    for path, name in ((root / "f", "f"), (root / "d", "d/.s3mount-attrs"), (root, ".s3mount-attrs")):
        give(path, VALUES)
        assert user_xattrs(path) == VALUES
        assert eventually(lambda name=name: in_bucket(place, name) == VALUES)  # type: ignore[misc]
    mount.remount()
    for path in (root / "f", root / "d", root):
        assert user_xattrs(path) == VALUES
    os.removexattr(root / "f", "user.a")
    assert eventually(lambda: "user.a" not in in_bucket(place, "f"))


def test_they_outlast_overwrite_append_rename_chmod_and_a_new_mount(mount: Mounted) -> None:
    root = mount.root
    (root / "f").write_bytes(b"first")
    give(root / "f", VALUES)
    (root / "f").write_bytes(b"second")
    with (root / "f").open("ab") as file:
        file.write(b" third")
    (root / "f").chmod(0o600)
    (root / "f").rename(root / "g")
    assert user_xattrs(root / "g") == VALUES
    mount.remount()
    assert user_xattrs(root / "g") == VALUES
    assert ((root / "g").read_bytes(), oct((root / "g").stat().st_mode)) == (b"second third", "0o100600")
    assert in_bucket(mount.place, "g") == VALUES


def test_what_boto3_stores_of_them_is_shown(mounts: Mounts) -> None:
    mounts.place.put("f", b"x", Metadata={"xattr": "%7B%22user.a%22%3A%22MQ%3D%3D%22%7D"})
    root = mounts.start("--xattr", "--attributes=always").root
    assert user_xattrs(root / "f") == {"user.a": b"1"}


# what is answered


def test_errors_are_those_of_a_local_disk(mount: Mounted) -> None:
    root = mount.root
    (root / "f").write_bytes(b"x")
    (root / "link").symlink_to("f")
    os.mkfifo(root / "fifo")
    file = root / "f"
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    os.setxattr(file, "user.a", b"22", os.XATTR_REPLACE)
    assert [
        errno_of(os.setxattr, file, "user.a", b"1", os.XATTR_CREATE),
        errno_of(os.setxattr, file, "user.b", b"1", os.XATTR_REPLACE),
        errno_of(os.getxattr, file, "user.b"),
        errno_of(os.removexattr, file, "user.b"),
        errno_of(os.setxattr, file, f"user.{'n' * 251}", b"1"),
        errno_of(os.setxattr, file, "user.b", bytes(65537)),
        errno_of(os.setxattr, file, "user.", b"1"),
    ] == ["EEXIST", "ENODATA", "ENODATA", "ENODATA", "ERANGE", "E2BIG", "EINVAL"]
    for path in ("link", "fifo"):
        assert errno_of(os.setxattr, root / path, "user.a", b"1", follow_symlinks=False) == "EPERM"
        assert os.listxattr(root / path, follow_symlinks=False) == []
    assert user_xattrs(file) == {"user.a": b"22"}


def test_more_than_an_object_can_carry_is_no_space_and_what_was_there_stays(mount: Mounted) -> None:
    root = mount.root
    (root / "f").write_bytes(b"x")
    (root / "d").mkdir()
    for path in (root / "f", root / "d"):
        os.setxattr(path, "user.a", b"1")
        assert errno_of(os.setxattr, path, "user.large", bytes(1600)) == "ENOSPC"
        assert user_xattrs(path) == {"user.a": b"1"}


def test_other_namespaces_are_those_of_a_disk_without_them(mount: Mounted) -> None:
    (mount.root / "f").write_bytes(b"x")
    for name in ("security.capability", "security.other", "trusted.other"):
        assert errno_of(os.getxattr, mount.root / "f", name) == "ENODATA"
        assert errno_of(os.setxattr, mount.root / "f", name, b"1") in ("ENOTSUP", "EINVAL", "EPERM")
    assert errno_of(os.getxattr, mount.root / "f", "system.posix_acl_access") == "ENOTSUP"
    assert os.listxattr(mount.root / "f") == []


# ordinary programs


def test_programs_set_show_and_copy_them(mount: Mounted, tmp_path: Path) -> None:
    """None says a word, which is what they do where something is not as on a disk."""
    root, source = mount.root, tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_bytes(b"content")
    for path in (source, source / "d", source / "d/f"):
        give(path, VALUES)
    succeed("cp", "-a", source, root / "copied")
    succeed("rsync", "-aX", f"{source}/", root / "synced")
    assert "d/f" not in succeed("rsync", "-aXi", f"{source}/", root / "synced")
    succeed("tar", "--xattrs", "-C", source.parent, "-cf", tmp_path / "x.tar", "source")
    succeed("tar", "--xattrs", "--xattrs-include=user.*", "-C", root, "-xf", tmp_path / "x.tar")
    succeed("mv", root / "source", root / "moved")
    succeed("cp", "-a", root / "copied", tmp_path / "back")
    for copy in (root / "copied", root / "synced", root / "moved", tmp_path / "back"):
        for below in (".", "d", "d/f"):
            assert user_xattrs(copy / below) == VALUES, copy / below
    succeed("setfattr", "-n", "user.tool", "-v", "0x00ff", root / "copied/d/f")
    shown = succeed("getfattr", "--absolute-names", "-n", "user.tool", "-e", "hex", root / "copied/d/f")
    assert "user.tool=0x00ff" in shown
    succeed("setfattr", "-x", "user.tool", root / "copied/d/f")
    assert "user.tool" not in run("getfattr", "-d", root / "copied/d/f").stdout
    listed = succeed("ls", "-l", root / "copied/d")
    assert re.search(r"^-rw-r--r-- ", listed, re.MULTILINE), "neither an ACL nor a label is shown"


def test_git_works_beside_them(mount: Mounted) -> None:
    repository = mount.root / "repository"
    succeed("git", "init", "-q", repository)
    (repository / "f").write_bytes(b"x")
    succeed("git", "-C", repository, "add", "f")
    succeed("git", "-C", repository, "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first")
    assert succeed("git", "-C", repository, "status", "--porcelain") == ""


# what the kernel asks


def write_often(path: Path) -> None:
    """So many calls of write(2)."""
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=512", f"count={WRITES}", "status=none"], check=True)


def test_without_the_option_the_kernel_asks_once_and_never_again(mounts: Mounts) -> None:
    mounted = mounts.start(plant="tell-xattrs")
    file = mounted.root / "f"
    write_often(file)
    assert asked(mounted) == {"getxattr": 1}
    for _ in range(3):
        assert errno_of(os.setxattr, file, "user.a", b"1") == "ENOTSUP"
        assert errno_of(os.getxattr, file, "user.a") == "ENOTSUP"
        assert errno_of(os.removexattr, file, "user.a") == "ENOTSUP"
        assert errno_of(os.listxattr, file) == "ENOTSUP"
        write_often(file)
    assert asked(mounted) == dict.fromkeys(("getxattr", "setxattr", "removexattr", "listxattr"), 1)


def test_with_it_the_kernel_asks_before_every_write(mount: Mounted) -> None:
    """The price, which is why it is an option; if this fails the kernel has become cheaper, and README may say so."""
    write_often(mount.root / "f")
    assert asked(mount)["getxattr"] >= WRITES
