"""Scenarios A16, B7, B8, B11, B18: attributes that programs set, in the bucket and as a new mount shows them."""

import errno
import os
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.material import MIB, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, succeed

FLAG = ".s3mount-attrs"
PAST_NS = 1_234_567_890_123_456_789
HOLD_SECONDS = 1.0


def metadata(place: Place, name: str) -> dict[str, str]:
    """Without the token by which a creation knows itself."""
    found: dict[str, str] = place.head(name)["Metadata"]
    found.pop("s3mount-write", None)
    return found


def comes(place: Place, name: str, expected: dict[str, str]) -> None:
    """What is held for company is stored within a moment."""
    eventually(lambda: metadata(place, name) == expected, HOLD_SECONDS + 5)
    assert metadata(place, name) == expected


def tree(root: Path) -> dict[str, tuple[int, int, int, int, int]]:
    """Mode, owner, size and mtime of everything below; of what is no regular file neither of the last."""
    found = {}
    for path in sorted(root.rglob("*")):
        told = path.lstat()
        size, time_ns = (told.st_size, told.st_mtime_ns) if stat.S_ISREG(told.st_mode) else (0, 0)
        found[str(path.relative_to(root))] = (told.st_mode, told.st_uid, told.st_gid, size, time_ns)
    return found


def errno_of(call: Callable[[], None]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def test_the_bucket_has_attributes_under_the_names_of_s3fs_and_a_new_mount_shows_them(mount: Mounted) -> None:
    place, root = mount.place, mount.root
    (root / "d").mkdir()
    (root / "d/f").write_bytes(b"hello")
    succeed("chmod", "4751", root / "d/f")
    succeed("chown", "-h", "12:34", root / "d/f")
    os.utime(root / "d/f", ns=(PAST_NS, PAST_NS))
    comes(
        place,
        "d/f",
        {
            "mode": str(stat.S_IFREG | 0o751), "uid": "12", "gid": "34", "mtime": "1234567890.123456789",
            "atime": "1234567890.123456789",
        },
    )  # fmt: skip
    assert place.get("d/f") == b"hello"
    succeed("chmod", "1777", root / "d")
    assert metadata(place, f"d/{FLAG}") == {"mode": str(stat.S_IFDIR | 0o1777)}
    assert FLAG in place.names()
    before = tree(root)
    mount.remount()
    assert tree(root) == before
    assert (root / "d/f").stat().st_mtime_ns == PAST_NS


def test_links_fifos_sockets_and_devices_come_back(mount: Mounted) -> None:
    """B11"""
    place, root = mount.place, mount.root
    succeed("ln", "-s", "f", root / "link")
    succeed("ln", "-s", "no/where", root / "dangling")
    (root / "f").write_bytes(b"through the link")
    succeed("mkfifo", "-m", "600", root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root)
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
    assert metadata(place, "link")["mode"] == str(stat.S_IFLNK | 0o777)
    assert place.get("dangling") == b"no/where"
    assert metadata(place, "fifo")["mode"] == str(stat.S_IFIFO | 0o600)
    assert metadata(place, "null") == {"mode": str(stat.S_IFCHR | 0o640), "rdev": str(os.makedev(1, 3))}
    assert stat.S_ISSOCK(int(metadata(place, "socket")["mode"]))
    with pytest.raises(PermissionError):
        os.link(root / "f", root / "hard")
    for remounted in (False, True):
        if remounted:
            mount.remount()
        assert (root / "link").read_bytes() == b"through the link"
        assert os.readlink(root / "dangling") == "no/where"
        assert not (root / "dangling").exists()
        listed = subprocess.run(["ls", "-l", root], capture_output=True, text=True, check=True).stdout
        assert "dangling -> no/where" in listed
        assert "?" not in listed
        assert (root / "fifo").is_fifo()
        assert (root / "socket").is_socket()
        told = (root / "null").stat()
        assert (stat.S_ISCHR(told.st_mode), told.st_rdev) == (True, os.makedev(1, 3))
        with pytest.raises(PermissionError):  # the mount is nodev
            (root / "null").read_bytes()
    os.lchown(root / "dangling", 12, 34)
    os.utime(root / "dangling", ns=(PAST_NS, PAST_NS), follow_symlinks=False)
    comes(
        place,
        "dangling",
        {
            "mode": str(stat.S_IFLNK | 0o777), "uid": "12", "gid": "34", "mtime": "1234567890.123456789",
            "atime": "1234567890.123456789",
        },
    )  # fmt: skip
    assert place.get("dangling") == b"no/where"
    for name in ("link", "dangling", "fifo", "null", "socket"):
        (root / name).unlink()
    assert place.files() == [FLAG, "f"]


def test_a_fifo_carries_data_between_programs(mount: Mounted) -> None:
    fifo = mount.root / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE) as reader:
        fifo.write_bytes(b"through the kernel")
        assert reader.communicate(timeout=20)[0] == b"through the kernel"


def test_programs_that_keep_mode_and_time(mount: Mounted, tmp_path: Path) -> None:
    """B8: cp -p, install -m, tar."""
    root = mount.root
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    source.chmod(0o640)
    os.utime(source, ns=(PAST_NS, PAST_NS))
    succeed("cp", "-p", source, root / "copied")
    succeed("install", "-m", "755", source, root / "installed")
    (tmp_path / "t/sub").mkdir(parents=True)
    for name, mode in (("t/a", 0o600), ("t/sub/b", 0o755), ("t/sub/c", 0o644)):
        (tmp_path / name).write_bytes(name.encode())
        (tmp_path / name).chmod(mode)
        os.utime(tmp_path / name, ns=(PAST_NS, PAST_NS + mode))
    (tmp_path / "t/l").symlink_to("a")
    os.utime(tmp_path / "t/sub", ns=(PAST_NS, PAST_NS))
    succeed("tar", "-C", tmp_path, "--format=posix", "-cf", tmp_path / "t.tar", "t")
    succeed("tar", "-C", root, "-xpf", tmp_path / "t.tar")
    for remounted in (False, True):
        if remounted:
            mount.remount()
        told = (root / "copied").stat()
        assert (stat.S_IMODE(told.st_mode), told.st_mtime_ns) == (0o640, PAST_NS)
        assert stat.S_IMODE((root / "installed").stat().st_mode) == 0o755
        assert tree(root / "t") == tree(tmp_path / "t")
        assert (root / "t/sub").stat().st_mtime_ns == PAST_NS
        assert os.readlink(root / "t/l") == "a"


def test_a_large_file_that_was_streamed_keeps_the_time_that_cp_gives_it(mount: Mounted, tmp_path: Path) -> None:
    place, root = mount.place, mount.root
    source = tmp_path / "source"
    write_pattern(source, 40 * MIB)
    os.utime(source, ns=(PAST_NS, PAST_NS))
    succeed("cp", "-p", source, root / "f")
    assert metadata(place, "f")["mtime"] == "1234567890.123456789"
    assert place.get("f") == source.read_bytes()
    assert (root / "f").read_bytes() == source.read_bytes()
    mount.remount()
    assert (root / "f").stat().st_mtime_ns == PAST_NS


def test_rsync_transfers_nothing_the_second_time(mount: Mounted, tmp_path: Path) -> None:
    """B7"""
    source = tmp_path / "src"
    (source / "sub/deep").mkdir(parents=True)
    for number in range(30):
        path = source / ("sub/deep" if number % 3 else "sub") / f"file{number}"
        path.write_bytes(os.urandom(number * 100))
        path.chmod(0o600 + number % 8)
        os.utime(path, ns=(PAST_NS, PAST_NS + number * 1_000_000_007))
    (source / "link").symlink_to("sub/file0")
    for directory in (source, source / "sub", source / "sub/deep"):
        # Of this second rsync would leave it alone, and by default a directory is as old as the mount.
        os.utime(directory, ns=(PAST_NS, PAST_NS))
    succeed("rsync", "-a", f"{source}/", f"{mount.root}/m/")
    assert succeed("rsync", "-ai", f"{source}/", f"{mount.root}/m/") == ""
    mount.remount()
    assert succeed("rsync", "-ai", f"{source}/", f"{mount.root}/m/") == ""


def test_a_file_by_parts_keeps_its_bytes_when_its_mode_changes(mounts: Mounts) -> None:
    """A16"""
    mounted = mounts.start("--copy-limit=5MiB")
    path = mounted.root / "f"
    write_pattern(path, 12 * MIB)
    body = path.read_bytes()
    with path.open("rb") as reading:
        path.chmod(0o600)
        assert metadata(mounted.place, "f")["mode"] == str(stat.S_IFREG | 0o600)
        assert reading.read() == body
    assert mounted.place.get("f") == body
    with path.open("ab") as appending:
        appending.write(b"more")
    assert mounted.place.get("f") == body + b"more"
    assert mounted.place.uploads() == []


def test_a_file_that_is_written_and_touched_in_every_order_has_the_time_of_the_last(mount: Mounted) -> None:
    place, path = mount.place, mount.root / "f"
    with path.open("wb") as file:
        file.write(b"a")
        file.flush()
        os.utime(file.fileno(), ns=(PAST_NS, PAST_NS))
    assert metadata(place, "f")["mtime"] == "1234567890.123456789"
    with path.open("ab") as file:
        os.utime(file.fileno(), ns=(PAST_NS, PAST_NS))
        file.write(b"b")
    assert metadata(place, "f") == {}
    os.utime(path, ns=(PAST_NS, PAST_NS))
    comes(place, "f", {"mtime": "1234567890.123456789", "atime": "1234567890.123456789"})
    succeed("touch", path)
    comes(place, "f", {})
    assert abs(path.stat().st_mtime - time.time()) < 60
    path.rename(mount.root / "g")
    os.truncate(mount.root / "g", 1)
    (mount.root / "g").unlink()
    assert place.files() == [FLAG]


def test_the_mount_stores_what_is_held_before_it_ends(mount: Mounted) -> None:
    place, root = mount.place, mount.root
    for name in ("a", "b", "c"):
        (root / name).write_bytes(b"x")
    for name in ("a", "b", "c"):
        (root / name).chmod(0o600)
    mount.stop()
    for name in ("a", "b", "c"):
        assert metadata(place, name)["mode"] == str(stat.S_IFREG | 0o600)


def test_who_is_not_root_changes_what_is_his_and_nothing_else(mounts: Mounts) -> None:
    """B18: owner, sticky directory, umask, setgid directory."""
    mounted = mounts.start("--allow-other")
    place, root = mounted.place, mounted.root
    (root / "shared").mkdir()
    (root / "shared").chmod(0o1777)
    (root / "group").mkdir()
    os.chown(root / "group", 0, 2000)
    (root / "group").chmod(0o2777)
    (root / "theirs").write_bytes(b"x")
    (root / "shared/theirs").write_bytes(b"x")
    program = f"""
        import errno, os, stat
        os.chdir({str(root)!r})
        os.setgroups([3000]); os.setgid(1000); os.setuid(1000)
        os.umask(0o027)
        def refused(call, *arguments, **more):
            try:
                call(*arguments, **more)
            except OSError as error:
                return error.errno
            return 0
        assert refused(os.chmod, "theirs", 0o666) == errno.EPERM
        assert refused(os.chown, "theirs", 1000, 1000) == errno.EPERM
        assert refused(os.utime, "theirs", (1, 1)) == errno.EPERM
        assert refused(os.utime, "theirs") == errno.EACCES
        assert refused(os.unlink, "shared/theirs") in (errno.EPERM, errno.EACCES)
        assert refused(open, "mine", "w") == errno.EACCES
        with open("shared/mine", "w") as file:
            file.write("mine")
        os.mkdir("shared/dir")
        assert refused(os.chown, "shared/mine", 0, 1000) == errno.EPERM
        os.chown("shared/mine", -1, 3000)
        os.chmod("shared/mine", 0o2640)
        assert os.stat("shared/mine").st_gid == 3000
        os.utime("shared/mine", (5, 5))
        with open("group/mine", "w") as file:
            file.write("ours")
        os.chmod("group/mine", 0o2775)  # not of his group: the kernel takes the bit away
        assert os.stat("group/mine").st_mode & stat.S_ISGID == 0
        os.mkdir("group/dir")
        assert os.stat("group/dir").st_gid == 2000
        assert os.stat("group/dir").st_mode & stat.S_ISGID
    """
    succeed(sys.executable, "-I", "-c", textwrap.dedent(program))
    mounted.stop()
    assert metadata(place, "shared/mine") == {
        "mode": str(stat.S_IFREG | 0o2640), "uid": "1000", "gid": "3000", "mtime": "5", "atime": "5",
    }  # fmt: skip
    assert metadata(place, f"shared/dir/{FLAG}") == {"mode": str(stat.S_IFDIR | 0o750), "uid": "1000", "gid": "1000"}
    assert metadata(place, "group/mine")["gid"] == "2000"
    mounted.start()
    told = (root / "group/dir").stat()
    assert (told.st_gid, told.st_uid, told.st_mode & stat.S_ISGID) == (2000, 1000, stat.S_ISGID)


def test_the_errors_of_hard_links_and_of_a_mount_without_attributes(mounts: Mounts) -> None:
    mounted = mounts.start("--attributes=never")
    root = mounted.root
    (root / "f").write_bytes(b"x")
    (root / "f").chmod(0o600)
    os.utime(root / "f", ns=(PAST_NS, PAST_NS))
    assert (root / "f").stat().st_mode == stat.S_IFREG | 0o600
    refused: list[tuple[Callable[[], None], int]] = [
        (lambda: os.symlink("f", root / "l"), errno.EPERM),
        (lambda: os.mkfifo(root / "p"), errno.ENOTSUP),
        (lambda: os.link(root / "f", root / "h"), errno.EPERM),
    ]
    for call, expected in refused:
        assert errno_of(call) == expected
    time.sleep(HOLD_SECONDS + 0.5)
    assert metadata(mounted.place, "f") == {}
    assert mounted.place.names() == ["f"]
