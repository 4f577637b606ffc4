"""Attributes that other programs have stored, on real mounts: what ls and stat show, and what that costs (C7, E6)."""

import os
import stat
from pathlib import Path

from tests.e2e.material import in_threads
from tests.e2e.mounting import Mounts, Place, grow_old, succeed
from tests.e2e.test_requests import paid
from tests.proxy import FaultProxy

FLAG = ".s3mount-attrs"


def special(kind: int, mode: int, **others: str) -> dict[str, str]:
    return {"mode": str(kind | mode), **others}


def test_ls_l_of_a_thousand_special_files_is_exact_and_asks_for_each_once(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """C7: a plain `ls` sends no HEAD, `ls -l` one for each file, at once; the next `ls -l` none, nor one
    after a remount with the same cache directory."""
    place.put(f"d/{FLAG}")
    metadata = special(stat.S_IFREG, 0o640, mtime="1000000000")
    in_threads(lambda number: place.put(f"d/f{number:04}", Metadata=metadata), range(1000), threads=16)
    grow_old()
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    (mounted.root / "d").stat()
    paid(proxy)
    assert len(succeed("ls", mounted.root / "d").splitlines()) == 1000
    assert paid(proxy) == {"list": 2}
    lines = succeed("ls", "-l", "--time-style=+%s", mounted.root / "d").splitlines()[1:]
    assert {(line.split()[0], line.split()[5]) for line in lines} == {("-rw-r-----", "1000000000")}
    counts = paid(proxy)
    assert counts.pop("list", 0) <= 2
    assert counts == {"head": 1000}
    succeed("ls", "-l", mounted.root / "d")
    assert paid(proxy) == {}
    mounted.remount()
    (mounted.root / "d").stat()
    paid(proxy)
    again = succeed("ls", "-l", "--time-style=+%s", mounted.root / "d").splitlines()[1:]
    assert again == lines
    assert "head" not in proxy.counts("d/f")  # the directory itself has no version, and may be asked for again


def test_ls_l_of_an_unflagged_directory_is_a_request_per_thousand_names(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """`ls -l` of 1,200 entries with default attributes is 2 LIST and nothing else."""
    in_threads(lambda number: place.put(f"d/f{number:05}"), range(1200), threads=16)
    grow_old()
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    (mounted.root / "d").stat()
    paid(proxy)
    assert len(succeed("ls", "-l", mounted.root / "d").splitlines()) == 1201
    assert paid(proxy) == {"list": 2}


def test_attributes_in_s3fs_names_are_shown_by_a_cold_mount(mounts: Mounts, place: Place) -> None:
    """stat and ls show mode, owner, times and type that boto3 has stored; the rest follows the mount's own defaults."""
    place.put(FLAG, Metadata=special(stat.S_IFDIR, 0o711))
    place.put("f", b"abc", Metadata=special(stat.S_IFREG, 0o640, uid="1234", gid="77", mtime="1000000000.5"))
    place.put("link", b"f", Metadata=special(stat.S_IFLNK, 0o777))
    place.put("dangling", b"nowhere/at all", Metadata=special(stat.S_IFLNK, 0o777))
    place.put("fifo", Metadata=special(stat.S_IFIFO, 0o644))
    place.put("device", Metadata=special(stat.S_IFCHR, 0o666, rdev="259"))
    place.put("rclone", b"x", Metadata={"mtime": "1000000000.123456789"})
    place.put("datasync", b"x", Metadata={"file-permissions": "0750", "file-owner": "7", "file-mtime": "5000ns"})
    place.put("sticky/x")
    place.put(f"sticky/{FLAG}", Metadata=special(stat.S_IFDIR, 0o1777))
    root = mounts.start("--uid", "5", "--gid", "6", "--umask", "027").root
    found = (root / "f").stat()
    assert (oct(found.st_mode), found.st_uid, found.st_gid, found.st_size) == ("0o100640", 1234, 77, 3)
    assert (root / "rclone").stat().st_mtime_ns == 1_000_000_000_123_456_789
    assert oct((root / "rclone").stat().st_mode) == "0o100640"
    datasync = (root / "datasync").stat()
    assert (oct(datasync.st_mode), datasync.st_uid, datasync.st_gid, datasync.st_mtime_ns) == ("0o100750", 7, 6, 5000)
    assert os.readlink(root / "link") == "f"
    assert (root / "link").read_bytes() == b"abc"
    assert os.readlink(root / "dangling") == "nowhere/at all"
    assert (root / "dangling").lstat().st_size == 14
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
    device = (root / "device").stat()
    assert (stat.S_ISCHR(device.st_mode), device.st_rdev) == (True, 259)
    assert oct(root.stat().st_mode) == "0o40711"
    assert oct((root / "sticky").stat().st_mode) == "0o41777"
    types = dict(line.split() for line in succeed("find", root, "-mindepth", "1", "-printf", "%f %y\\n").splitlines())
    assert types == {
        "f": "f", "link": "l", "dangling": "l", "fifo": "p", "device": "c", "rclone": "f", "datasync": "f",
        "sticky": "d", "x": "f",
    }  # fmt: skip


def test_two_mounts_with_different_defaults_each_show_their_own(mounts: Mounts, place: Place) -> None:
    """E6: `--uid --gid --file-mode --dir-mode --umask` apply to foreign objects, with no `x` bit on files by default;
    what is stored is the same for all."""
    place.put("d/plain", b"x")
    place.put(f"d/{FLAG}")
    place.put("d/special", b"x", Metadata=special(stat.S_IFREG, 0o4711, uid="1"))
    one = mounts.start().root / "d"
    other = mounts.start(
        "--uid", "8", "--gid", "9", "--file-mode", "666", "--dir-mode", "777", "--umask", "007"
    ).root / "d"  # fmt: skip
    shown = [
        [
            (oct(found.st_mode), found.st_uid, found.st_gid)
            for found in map(os.stat, (top, top / "plain", top / "special"))
        ]
        for top in (one, other)
    ]
    me, group = os.getuid(), os.getgid()
    assert shown == [
        [("0o40755", me, group), ("0o100644", me, group), ("0o104711", 1, group)],
        [("0o40770", 8, 9), ("0o100660", 8, 9), ("0o104711", 1, 9)],
    ]


def test_the_policies_always_and_never(mounts: Mounts, place: Place) -> None:
    """Without any flag `always` shows what s3fs has stored in each listing, and `never` shows none of it."""
    for number in range(40):
        place.put(f"d/f{number:02}", b"x", Metadata=special(stat.S_IFREG, 0o600))
    always, never = mounts.start("--attributes", "always").root, mounts.start("--attributes", "never").root

    def modes(root: Path) -> set[str]:
        return {line.split()[0] for line in succeed("ls", "-l", root / "d").splitlines()[1:]}

    assert modes(always) == {"-rw-------"}
    assert modes(never) == {"-rw-r--r--"}


def test_rm_r_of_a_flagged_tree_leaves_no_key(mounts: Mounts, place: Place) -> None:
    """`rm -r` and `mv` take flags along."""
    for name in ("a/", "a/f", "a/b/f", "a/b/g"):
        place.put(name, b"" if name.endswith("/") else b"x")
    place.put(f"a/{FLAG}", Metadata=special(stat.S_IFDIR, 0o750))
    place.put(f"a/b/{FLAG}", Metadata=special(stat.S_IFDIR, 0o700))
    place.put(FLAG)
    root = mounts.start().root
    succeed("mv", root / "a", root / "moved")
    assert place.names() == [FLAG, "moved/", f"moved/{FLAG}", f"moved/b/{FLAG}", "moved/b/f", "moved/b/g", "moved/f"]
    assert oct((root / "moved/b").stat().st_mode) == "0o40700"
    succeed("rm", "-r", root / "moved")
    assert place.names() == [FLAG]
