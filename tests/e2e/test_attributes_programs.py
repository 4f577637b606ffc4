"""Scenarios B that need kept attributes: what programs set of modes, owners, times and links is there after a remount,
and in the bucket."""

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.material import MIB, object_difference, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, run, succeed
from tests.e2e.sides import attribute_differences, tree
from tests.e2e.test_requests import paid
from tests.e2e.test_tools import GIT, edit_with_vim, make_repository, make_wheel
from tests.proxy import FaultProxy

OLD_NS = 1_234_567_890_123_456_789
"""A time that nothing but a program sets."""
WRITES = frozenset({"put", "copy", "create_upload", "upload_part", "copy_part", "complete_upload", "rename"})


def check_kept(mount: Mounted, below: str, source: Path) -> None:
    """Content and attributes are those of a local tree, now and in a mount that remembers nothing."""
    for remounts in range(2):
        if remounts:
            mount.remount()
        assert tree(mount.root / below) == tree(source), f"{below}, {remounts} remounts"
        assert attribute_differences(mount.root / below, source) == [], f"{below}, {remounts} remounts"


def make_source(root: Path) -> None:
    """Files, directories, links and a FIFO with modes and times of their own; owners, if we may."""
    for name, mode in (("plain", 0o644), ("run", 0o755), ("d/secret", 0o600), ("d/e/group", 0o664), ("empty", 0o640)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"" if name == "empty" else name.encode() * 500)
        (root / name).chmod(mode)
    (root / "d").chmod(0o2775)
    (root / "d/e").chmod(0o700)
    (root / "link").symlink_to("d/secret")
    (root / "d/dangling").symlink_to("/nonexistent/\u00e4")
    os.mkfifo(root / "d/fifo", 0o620)
    if os.geteuid() == 0:
        os.chown(root / "run", 1001, 1002)
        os.lchown(root / "link", 1001, 1002)
        os.chown(root / "d/e", 1001, 0)
    for number, path in enumerate([*sorted(root.rglob("*"), reverse=True), root]):
        os.utime(path, ns=(OLD_NS, OLD_NS + number * 1_000_000_007), follow_symlinks=False)


def test_vim_keeps_attributes(mounts: Mounts, place: Place) -> None:
    """B1: `vim f` then `:wq` over an existing object keeps content, mode, owner, Content-Type and foreign user
    metadata."""
    theirs = {"foreign": "kept", "mode": str(stat.S_IFREG | 0o640), "uid": "1001", "gid": "1002"}
    place.put("d/.s3mount-attrs")
    place.put("d/f.txt", b"text\n" * 100, ContentType="text/x-special", Metadata=theirs)
    mount = mounts.start()
    edit_with_vim(mount.root / "d/f.txt")
    assert place.get("d/f.txt") == b"edited " + b"text\n" * 100
    assert place.files() == ["d/.s3mount-attrs", "d/f.txt"]
    for remounts in range(2):
        if remounts:
            mount.remount()
        found = (mount.root / "d/f.txt").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1001, 1002)
    head = place.head("d/f.txt")
    assert (head["ContentType"], head["Metadata"]["foreign"]) == ("text/x-special", "kept")


def test_the_second_rsync_transfers_nothing(mount: Mounted, tmp_path: Path) -> None:
    """B7: `rsync -a src/ m/` twice: the second run transfers nothing, also after a remount."""
    source = tmp_path / "source"
    source.mkdir()
    make_source(source)
    sync = ("rsync", "-a", "--itemize-changes", f"{source}/", f"{mount.root}/")
    assert len(succeed(*sync).splitlines()) >= 10
    assert tree(mount.root) == tree(source)
    assert succeed(*sync) == ""
    mount.remount()
    assert succeed(*sync) == ""
    assert attribute_differences(mount.root, source) == []
    (source / "plain").write_bytes(b"changed")
    assert [line.split()[-1] for line in succeed(*sync).splitlines()] == ["plain"]
    mount.remount()
    assert succeed("rsync", "-a", "--checksum", "--itemize-changes", f"{source}/", f"{mount.root}/") == ""


def copy_by_cp(source: Path, target: Path) -> None:
    succeed("cp", "-p", "-R", source, target)


def copy_by_python(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=shutil.copy2, ignore=shutil.ignore_patterns("fifo"))


def copy_by_tar(source: Path, target: Path) -> None:
    target.mkdir()
    archive = target.parent.parent / f"{source.name}.tar"
    succeed("tar", "--format=posix", "-cf", archive, "-C", source, ".")
    succeed("tar", "-xpf", archive, "-C", target)


def copy_by_unzip(source: Path, target: Path) -> None:
    archive = target.parent.parent / f"{source.name}.zip"
    if not archive.exists():
        succeed("zip", "-q", "-y", "-r", archive, ".", "-x", "*fifo*", cwd=source)
    succeed("unzip", "-q", archive, "-d", target)


@pytest.mark.parametrize("copy", [copy_by_cp, copy_by_python, copy_by_tar, copy_by_unzip])
def test_copying_programs_keep_mode_and_time(
    mount: Mounted, tmp_path: Path, copy: Callable[[Path, Path], None]
) -> None:
    """B8: `cp -p`, `shutil.copy2`, `tar x`, `unzip` exit 0 and keep mode and mtime, as they do on a local disk."""
    source, local = tmp_path / "source", tmp_path / "beside/local"
    source.mkdir()
    local.parent.mkdir()
    make_source(source)
    copy(source, local)
    copy(source, mount.root / "copy")
    check_kept(mount, "copy", local)


def test_installing_programs_keep_mode_and_time(mount: Mounted, tmp_path: Path) -> None:
    """B8: `install -m` and `pip install --target` exit 0 and keep mode and mtime."""
    (tmp_path / "tool").write_text("#!/bin/sh\necho installed\n")
    os.utime(tmp_path / "tool", ns=(OLD_NS, OLD_NS))
    succeed("install", "-D", "-m", "0750", tmp_path / "tool", mount.root / "bin/tool")
    succeed("install", "-p", "-m", "0555", tmp_path / "tool", mount.root / "bin/kept")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--no-input", "install", "-q"]
    done = run(*pip, "--no-index", "--no-deps", "--target", mount.root / "site", make_wheel(tmp_path))
    assert done.returncode == 0, done.stderr
    for remounts in range(2):
        if remounts:
            mount.remount()
        assert stat.filemode((mount.root / "bin/tool").stat().st_mode) == "-rwxr-x---"
        assert stat.filemode((mount.root / "bin/kept").stat().st_mode) == "-r-xr-xr-x"
        assert (mount.root / "bin/kept").stat().st_mtime_ns == OLD_NS
        assert succeed(mount.root / "bin/tool") == "installed\n"
        assert os.access(mount.root / "site/bin/tiny", os.X_OK)


def test_git_sees_no_change_after_a_remount(mount: Mounted, tmp_path: Path) -> None:
    """B9: a clone with executable files and links is clean in the mount, and in the next one."""
    origin = tmp_path / "origin"
    make_repository(origin)
    (origin / "run").write_text("#!/bin/sh\n")
    (origin / "run").chmod(0o755)
    (origin / "link").symlink_to("sub/0.txt")
    succeed(*GIT, "add", "-A", cwd=origin)
    succeed(*GIT, "commit", "-q", "-m", "special", cwd=origin)
    clone = mount.root / "clone"
    succeed(*GIT, "clone", "-q", "--no-hardlinks", origin, clone)
    for remounts in range(2):
        if remounts:
            mount.remount()
        assert succeed(*GIT, "config", "core.fileMode", cwd=clone) == "true\n"
        assert succeed(*GIT, "config", "--default=true", "--get", "core.symlinks", cwd=clone) == "true\n"
        assert succeed(*GIT, "status", "--porcelain", cwd=clone) == ""
        assert os.readlink(clone / "link") == "sub/0.txt"


def test_links_are_made_read_and_listed(mount: Mounted) -> None:
    """B11: `ln -s` and readlink; a dangling link; a link listed by `ls -l` in a cold mount; `ln` (hard) gives EPERM."""
    root = mount.root
    (root / "d").mkdir()
    (root / "d/f").write_bytes(b"content")
    succeed("ln", "-s", "f", root / "d/link")
    succeed("ln", "-s", "/nonexistent", root / "d/dangling")
    succeed("ln", "-s", "d", root / "folder")
    with pytest.raises(OSError) as raised:
        os.link(root / "d/f", root / "d/hard")
    assert raised.value.errno == errno.EPERM
    for remounts in range(2):
        if remounts:
            mount.remount()
        listing = succeed("ls", "-l", root / "d")
        assert "link -> f\n" in listing
        assert "dangling -> /nonexistent\n" in listing
        assert [line[0] for line in listing.splitlines()[1:]] == ["l", "-", "l"]
        assert succeed("readlink", root / "d/link") == "f\n"
        assert (root / "folder/link").read_bytes() == b"content"
        with pytest.raises(FileNotFoundError):
            (root / "d/dangling").read_bytes()
    assert mount.place.get("d/link") == b"f"
    assert int(mount.place.head("d/link")["Metadata"]["mode"]) == stat.S_IFLNK | 0o777
    (root / "d/link").unlink()
    assert (root / "d/f").read_bytes() == b"content"


@pytest.mark.parametrize("size", [1000, 12 * MIB])
def test_a_changed_mode_keeps_the_content_type(mount: Mounted, tmp_path: Path, size: int) -> None:
    """B15: Content-Type of `a.html b.css c.jpg d.unknown` right for PUT and for multipart; kept by chmod."""
    types = {"a.html": "text/html", "b.css": "text/css", "c.jpg": "image/jpeg", "d.unknown": "application/octet-stream"}
    write_pattern(tmp_path / "source", size)
    for name in types:
        succeed("cp", tmp_path / "source", mount.root / name)
        succeed("chmod", "0600", mount.root / name)
    mount.remount()
    for name, kind in types.items():
        assert mount.place.head(name)["ContentType"].partition(";")[0] in (kind, "binary/octet-stream"), name
        assert stat.S_IMODE((mount.root / name).stat().st_mode) == 0o600
        assert object_difference(mount.place, name, tmp_path / "source") is None


def test_a_file_over_the_copy_limit_has_its_mode_changed(mounts: Mounts, place: Place, tmp_path: Path) -> None:
    """A16: a file larger than what is copied in one request can have its mode changed and be renamed."""
    write_pattern(tmp_path / "source", 23 * MIB)
    place.put("large.html", (tmp_path / "source").read_bytes(), ContentType="text/x-special", CacheControl="max-age=9")
    mount = mounts.start("--copy-limit=10MiB")
    succeed("chmod", "0440", mount.root / "large.html")
    os.utime(mount.root / "large.html", ns=(OLD_NS, OLD_NS))
    os.rename(mount.root / "large.html", mount.root / "moved")
    mount.remount()
    found = (mount.root / "moved").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o440, OLD_NS)
    assert object_difference(place, "moved", tmp_path / "source") is None
    head = place.head("moved")
    assert (head["ContentType"], head["CacheControl"]) == ("text/x-special", "max-age=9")
    assert place.uploads() == []
    assert sorted(place.names()) == [".s3mount-attrs", "moved"]


def test_changing_nothing_writes_nothing(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """`chown -R` and `chmod -R` with nothing to change send no request that writes, over default and special
    attributes."""
    for number in range(20):
        place.put(f"d/{number}", b"foreign")
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    os.chmod(mounted.root / "d/7", 0o600)
    mounted.remount()
    paid(proxy)
    for owner in (f"{os.getuid()}:{os.getgid()}", f"{os.getuid()}"):
        succeed("chown", "-R", owner, mounted.root)
    succeed("chmod", "-R", "u+rwX", mounted.root)
    counts = paid(proxy)
    assert not WRITES & set(counts), counts
    assert stat.S_IMODE((mounted.root / "d/7").stat().st_mode) == 0o600


def test_stored_attributes_win_over_options(mounts: Mounts) -> None:
    """E6: `--uid --gid --file-mode --dir-mode --umask` apply to objects that have no attributes of their own; those
    that have keep theirs."""
    place = mounts.place
    place.put("d/plain", b"foreign")
    first = mounts.start()
    (first.root / "d/private").write_bytes(b"ours")
    (first.root / "d/private").chmod(0o600)
    (first.root / "d/e").mkdir()
    (first.root / "d/e").chmod(0o2750)
    first.stop()
    second = mounts.start("--uid=1234", "--gid=2345", "--file-mode=0666", "--dir-mode=0777", "--umask=027")
    expected = {"d": (0o750, 1234), "d/plain": (0o640, 1234), "d/private": (0o600, 1234), "d/e": (0o2750, 1234)}
    for name, (mode, uid) in expected.items():
        found = (second.root / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (mode, uid), name


@pytest.mark.parametrize(
    "before", ["renamed over", "in the place of one that moved", "removed and made again", "changed"]
)
def test_a_directory_in_anothers_place_has_its_own_attributes(mount: Mounted, before: str) -> None:
    """What was known of a directory's owner and mode ends with the directory, in listings too, that come at once."""
    root = mount.root
    for name, uid in (("new", 1001), ("old", 1002)):
        (root / name).mkdir()
        os.chown(root / name, uid, uid)
        (root / name).chmod(0o711)
    (root / "new/f").write_bytes(b"content")
    mount.remount()
    succeed("ls", "-l", root)
    expected = (0o711, 1001, 1001)
    if before == "renamed over":
        os.rename(root / "new", root / "old")
    elif before == "in the place of one that moved":
        os.rename(root / "old", root / "elsewhere")
        os.rename(root / "new", root / "old")
    elif before == "changed":
        os.chown(root / "old", 1001, 1001)
    else:
        os.rmdir(root / "old")
        (root / "old").mkdir()
        expected = (0o755, os.getuid(), os.getgid())
    for remounts in range(2):
        if remounts:
            mount.remount()
        for _ in range(2):
            found = (root / "old").stat()
            assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == expected
            succeed("ls", "-l", root)
