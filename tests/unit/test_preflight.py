"""Each thing this machine may lack is found before anything is mounted, and said in one line with its remedy."""

import os
import pwd
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from s3mount import allowance, kernel, preflight
from s3mount.config import GIB, MIB, Config
from s3mount.errors import StartError


def refused(*said: str) -> "pytest.RaisesExc[StartError]":
    return pytest.raises(StartError, match="(?s)^[^\n]*" + ".*".join(said) + "[^\n]*$")


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root, as far as the checks can tell."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)


def mounted(monkeypatch: pytest.MonkeyPatch, mountpoint: Path, fstype: str, *, dead: bool) -> list[Path]:
    """A mount table with this mount on top; what was detached."""
    detached: list[Path] = []

    def unmount(path: Path, *, lazily: bool) -> None:
        assert lazily
        detached.append(path)

    monkeypatch.setattr(kernel, "mount_at", lambda path: kernel.Mount("0:9", str(path), fstype, "s3://other"))
    monkeypatch.setattr(kernel, "unmount", unmount)
    monkeypatch.setattr(preflight, "is_dead", lambda path: dead and path == mountpoint)
    return detached


def test_a_missing_fusermount_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused("fusermount3 is missing", "apt-get install fuse3"):
        preflight.check_fusermount()


def test_a_device_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with refused("no permission on /dev/fuse", "--device"):
        preflight.check_device(preflight.FUSE_DEVICE)


def test_a_missing_device(tmp_path: Path) -> None:
    with refused("No such file", "modprobe fuse"):
        preflight.check_device(tmp_path / "fuse")


@pytest.mark.parametrize("text", ["", "#user_allow_other\n", "user_allow_others\n", None])
def test_allow_other_needs_the_line_in_fuse_conf(tmp_path: Path, text: str | None) -> None:
    conf = tmp_path / "fuse.conf"
    if text is not None:
        conf.write_text(text)
    with refused("--allow-other is not permitted", "user_allow_other"):
        preflight.check_allow_other(conf, uid=1000)
    preflight.check_allow_other(conf, uid=0)


def test_allow_other_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "fuse.conf").write_text("# a comment\nuser_allow_other\n")
    preflight.check_allow_other(tmp_path / "fuse.conf", uid=1000)


def test_a_mountpoint_that_is_missing_a_file_or_occupied(tmp_path: Path) -> None:
    with refused("does not exist", "mkdir -p"):
        preflight.check_mountpoint(tmp_path / "none", nonempty=False)
    (tmp_path / "file").touch()
    with refused("is not a directory"):
        preflight.check_mountpoint(tmp_path / "file", nonempty=False)
    with refused("cannot be used: Not a directory"):
        preflight.check_mountpoint(tmp_path / "file" / "below", nonempty=False)
    with refused("is not empty", "--nonempty"):
        preflight.check_mountpoint(tmp_path, nonempty=False)
    preflight.check_mountpoint(tmp_path, nonempty=True)


def test_an_empty_mountpoint_is_fine(tmp_path: Path) -> None:
    preflight.check_mountpoint(tmp_path, nonempty=False)


@pytest.mark.usefixtures("user")
def test_a_user_needs_write_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with refused("no permission to mount on"):
        preflight.check_mountpoint(tmp_path, nonempty=False)


@pytest.mark.usefixtures("user")
def test_a_user_must_own_a_sticky_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with refused("no permission to mount on"):
        preflight.check_mountpoint(tmp_path, nonempty=False)


@pytest.mark.parametrize(("fstype", "remedy"), [("fuse.s3mount", "s3mount umount"), ("fuse.sshfs", "fusermount3 -u")])
def test_a_live_mount_is_refused_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fstype: str, remedy: str
) -> None:
    detached = mounted(monkeypatch, tmp_path, fstype, dead=False)
    with refused("already mounted", "s3://other", remedy):
        preflight.covered_by_dead(tmp_path)
    with refused("already mounted"):
        preflight.detach_dead(tmp_path)
    assert detached == []


def test_a_dead_mount_of_ours_stays_until_it_can_be_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    detached = mounted(monkeypatch, tmp_path, "fuse.s3mount", dead=True)
    assert preflight.covered_by_dead(tmp_path)
    assert detached == []
    preflight.detach_dead(tmp_path)
    assert detached == [tmp_path]


def test_a_mount_that_has_gone_meanwhile_is_not_detached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    detached = mounted(monkeypatch, tmp_path, "fuse.s3mount", dead=True)
    monkeypatch.setattr(kernel, "mount_at", lambda path: None)
    preflight.detach_dead(tmp_path)
    assert detached == []


def test_a_dead_mount_of_others_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    detached = mounted(monkeypatch, tmp_path, "fuse.sshfs", dead=True)
    with refused("dead mount of fuse.sshfs", "fusermount3 -uz"):
        preflight.covered_by_dead(tmp_path)
    with refused("dead mount of fuse.sshfs"):
        preflight.detach_dead(tmp_path)
    assert detached == []


def test_a_disk_mounted_on_the_mountpoint_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A volume bound into a container is mounted over."""
    detached = mounted(monkeypatch, tmp_path, "ext4", dead=False)
    assert not preflight.covered_by_dead(tmp_path)
    preflight.detach_dead(tmp_path)
    assert detached == []


def test_a_directory_that_answers_is_not_dead(tmp_path: Path) -> None:
    assert not preflight.is_dead(tmp_path)
    assert not preflight.is_dead(tmp_path / "none")


def test_a_mount_that_does_not_answer_is_not_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "_PROBE", "import sys; sys.stdin.read()")
    monkeypatch.setattr(preflight, "PROBE_TIMEOUT_SECONDS", 0.05)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str], *, env: dict[str, str]) -> "subprocess.Popen[bytes]":
        started.append(popen(command, env=env, stdin=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    assert not preflight.is_dead(tmp_path)
    started[0].communicate()


def test_resolving_follows_symlinks_as_the_mount_table_does(tmp_path: Path) -> None:
    (tmp_path / "real" / "m").mkdir(parents=True)
    (tmp_path / "dir").symlink_to("real")
    (tmp_path / "link").symlink_to("dir/m")
    (tmp_path / "second").symlink_to(tmp_path / "link")
    (tmp_path / "loop").symlink_to("loop")
    real = tmp_path.resolve()
    for name in ("real/m", "dir/m", "link", "second"):
        assert preflight.resolved(tmp_path / name) == real / "real" / "m"
    assert preflight.resolved(tmp_path / "none") == real / "none"
    assert preflight.resolved(tmp_path / "loop") == real / "loop"
    assert preflight.resolved(Path("/")) == Path("/")


@pytest.mark.parametrize("below", ["", "cache", "a/b"])
def test_nothing_of_ours_may_be_under_the_mountpoint(tmp_path: Path, below: str) -> None:
    """E10: under the mountpoint, by whatever link: refused."""
    (tmp_path / "link").symlink_to(tmp_path / "m")
    for path in (tmp_path / "m" / below, tmp_path / "link" / below):
        with refused("--cache-dir", "is under the mountpoint"):
            preflight.check_outside(path, tmp_path.resolve() / "m", option="--cache-dir")
    preflight.check_outside(tmp_path / "mm" / below, tmp_path.resolve() / "m", option="--cache-dir")


@pytest.mark.parametrize(
    ("environ", "uid", "path"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, 0, "/x/s3mount"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, 7, "/x/s3mount"),
        ({"HOME": "/root"}, 0, "/var/cache/s3mount"),
        ({"HOME": "/h", "XDG_CACHE_HOME": ""}, 7, "/h/.cache/s3mount"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "relative"}, 7, "/h/.cache/s3mount"),
    ],
)
def test_the_default_cache_directory(environ: dict[str, str], uid: int, path: str) -> None:
    assert preflight.default_cache_dir(environ, uid=uid) == Path(path)


def test_who_has_no_home_variable_has_one_in_the_user_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """mount(8) takes it out of the environment."""
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("n", "x", uid, uid, "", "/home/n", "/bin/sh")))
    assert preflight.default_cache_dir({}, uid=7) == Path("/home/n/.cache/s3mount")


@pytest.mark.parametrize(("environ", "uid"), [({"HOME": "relative"}, 7), ({}, 3_999_999_999)])
def test_without_a_home_a_cache_directory_must_be_named(environ: dict[str, str], uid: int) -> None:
    with refused("--cache-dir"):
        preflight.default_cache_dir(environ, uid=uid)


def test_the_cache_directory_is_made_private(tmp_path: Path) -> None:
    cache = tmp_path / "a" / "b"
    preflight.make_cache_dir(cache)
    preflight.make_cache_dir(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_cache_directory_that_is_not_ours_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E10: not ours or not 0700, or a link to one that is: refused."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o755)
    with refused("mode 0755: chmod 700"):
        preflight.make_cache_dir(cache)
    cache.chmod(0o700)
    (tmp_path / "link").symlink_to(cache)
    with refused("symbolic link"):
        preflight.make_cache_dir(tmp_path / "link")
    (tmp_path / "file").touch(0o700)
    with refused("cannot be used"):
        preflight.make_cache_dir(tmp_path / "file")
    with refused("cannot be used"):
        preflight.make_cache_dir(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with refused("belongs to user"):
        preflight.make_cache_dir(cache)


@pytest.mark.parametrize(
    ("free", "limit"), [(100 * GIB, 10 * GIB), (5 * GIB, GIB), (GIB, GIB // 2), (60 * MIB, 30 * MIB)]
)
def test_the_default_staging_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, limit: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 0, 0, free // 4096, 0, 0, 0, 0, 255)))
    assert preflight.default_limit(tmp_path, 5 * MIB, "--staging-limit") == limit


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 0, 0, 9000, 0, 0, 0, 0, 255)))
    with refused("only 35 MiB are free", "--cache-dir"):
        preflight.default_limit(tmp_path, 5 * MIB, "--staging-limit")


def test_everything_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "FUSE_DEVICE", Path("/dev/null"))
    monkeypatch.setattr(preflight, "check_fusermount", lambda: None)
    mountpoint = tmp_path / "m"
    mountpoint.mkdir()
    monkeypatch.setattr(allowance, "memory", lambda: allowance.Memory(GIB, "the machine"))
    config = Config(bucket="b", mountpoint=mountpoint, cache_dir=tmp_path / "c", staging_limit_bytes=GIB)
    assert preflight.prepare(config) == preflight.Prepared(tmp_path / "c", GIB, 512 * MIB)
    monkeypatch.setattr(allowance, "memory", lambda: allowance.Memory(500 * MIB, "control group /x"))
    assert preflight.prepare(config) == preflight.Prepared(tmp_path / "c", GIB, 250 * MIB)
    prepared = preflight.prepare(replace(config, memory_limit_bytes=400 * MIB))
    assert prepared.memory_limit_bytes == 400 * MIB
    assert "--memory-limit 400MiB and 128MiB for the process itself" in prepared.warnings[0]
    assert "500MiB allowed by control group /x" in prepared.warnings[0]
    mounted(monkeypatch, mountpoint, "fuse.s3mount", dead=True)
    assert preflight.prepare(config).takes_over
    under = Config(bucket="b", mountpoint=mountpoint, cache_dir=mountpoint / "c")
    with refused("--cache-dir", "under the mountpoint"):
        preflight.prepare(under)
    assert list(mountpoint.iterdir()) == []


@pytest.mark.parametrize(
    ("fstype", "said"), [("tmpfs", "a reboot loses"), ("overlay", "the end of the container loses"), ("ext4", None)]
)
def test_write_back_on_what_does_not_last_is_warned_of(tmp_path: Path, fstype: str, said: str | None) -> None:
    device = os.stat(tmp_path).st_dev
    table = [
        kernel.Mount(f"{os.major(device)}:{os.minor(device)}", "/", fstype, "none"),
        kernel.Mount("9999:1", "/other", "tmpfs", "none"),
    ]
    problem = preflight.not_lasting(tmp_path, table)
    assert problem is None if said is None else problem is not None and said in problem and fstype in problem


def test_write_back_has_a_limit_of_its_own_and_no_other_mount_has_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(preflight, "FUSE_DEVICE", Path("/dev/null"))
    monkeypatch.setattr(preflight, "check_fusermount", lambda: None)
    monkeypatch.setattr(preflight, "not_lasting", lambda *_: "it does not last")
    (tmp_path / "m").mkdir()
    config = Config(bucket="b", mountpoint=tmp_path / "m", cache_dir=tmp_path / "c", staging_limit_bytes=GIB)
    plain = preflight.prepare(config)
    assert plain.write_back_limit_bytes == 0
    assert "it does not last" not in plain.warnings
    prepared = preflight.prepare(replace(config, write_back=True, write_back_limit_bytes=GIB))
    assert prepared.write_back_limit_bytes == GIB
    assert prepared.warnings[-1] == "it does not last"
    monkeypatch.setattr(
        os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 0, 0, 100 * GIB // 4096, 0, 0, 0, 0, 255))
    )
    assert preflight.prepare(replace(config, write_back=True)).write_back_limit_bytes == 10 * GIB
