"""Attributes go between s3fs and us through the bucket, both ways: modes, owners, times, links, xattrs, directories.

s3fs is the real one, mounted here; our side is what is read from and written to the metadata of objects. Directories
are tried on moto: SeaweedFS drops what a marker carries (measured), s3fs's own too.
"""

import os
import secrets
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from s3mount.config import Config
from s3mount.vfs.attributes import SECOND_NS, Special
from s3mount.vfs.flags import FLAG
from s3mount.vfs.metadata import metadata_with, special_of
from s3mount.vfs.rebuild import rebuild_flags
from tests.e2e.asking import told
from tests.e2e.mounting import START_SECONDS, Mounts, Place, eventually, succeed
from tests.e2e.sides import user_xattrs
from tests.e2e.watchdog import Watchdog, connection_of, detach
from tests.servers import Server, make_bucket
from tests.store.places import opened

MTIME_NS = 1_234_567_890 * SECOND_NS + 50_000_000
"""A fraction with a leading zero, which is where two readings of it differ."""
ATIME_NS = MTIME_NS + 1
XATTRS = {"user.a": b'\0\xff,:"', "user.\u00e4 b+%": b"2"}

S3fs = Callable[[Place], Path]


@pytest.fixture
def s3fs(tmp_path: Path, watchdog: Watchdog) -> Iterator[S3fs]:
    """Mounts one place with s3fs."""
    root, log = tmp_path / "s3fs", tmp_path / "s3fs.log"
    processes = []

    def start(place: Place) -> Path:
        root.mkdir()
        password = tmp_path / "password"
        password.touch(0o600)
        password.write_text(f"{place.server.access_key}:{place.server.secret_key}\n")
        place.put("", ContentType="application/x-directory")
        options = f"url={place.server.endpoint_url},endpoint={place.server.region},passwd_file={password}"
        command = ["s3fs", f"{place.bucket}:/{place.prefix.rstrip('/')}", str(root), "-f", "-o", options]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "-o", "use_path_request_style,use_xattr"], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        processes.append(process)
        watchdog.guard(process.pid, root, tmp_path / "no-stacks")
        deadline = time.monotonic() + START_SECONDS
        while connection_of(root) is None:
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.01)
        return root

    yield start
    for process in processes:
        detach(root)
        process.terminate()
        process.wait(20)
        watchdog.unguard(process.pid)


@pytest.fixture
def moto_place(moto_server: Server) -> Place:
    return Place(moto_server, make_bucket(moto_server, f"s3fs-{secrets.token_hex(4)}"), "below/")


def said(place: Place, name: str) -> Special:
    """What we read of an object."""
    return special_of(place.head(name)["Metadata"])


def say(place: Place, name: str, special: Special, body: bytes = b"", **headers: str) -> None:
    """Store an object with attributes as we write them."""
    place.put(name, body, Metadata=metadata_with({"colour": "red"}, special), **headers)


def test_what_s3fs_stores_of_files_is_read(place: Place, s3fs: S3fs) -> None:
    root = s3fs(place)
    (root / "file").write_bytes(b"body")
    os.chown(root / "file", 1234, 4321)
    os.chmod(root / "file", 0o2751)
    for name, value in XATTRS.items():
        os.setxattr(root / "file", name, value)
    os.utime(root / "file", ns=(ATIME_NS, MTIME_NS))
    found = said(place, "file")
    assert found == Special(stat.S_IFREG | 0o2751, 1234, 4321, MTIME_NS, ATIME_NS, found.ctime_ns, None, XATTRS)
    shown = os.stat(root / "file")
    assert found.ctime_ns == shown.st_ctime_ns
    assert (found.mode, found.mtime_ns, found.atime_ns) == (shown.st_mode, shown.st_mtime_ns, shown.st_atime_ns)


def test_what_s3fs_stores_of_links_and_special_files_is_read(place: Place, s3fs: S3fs) -> None:
    root = s3fs(place)
    os.symlink("target/\u00e4 x", root / "link")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    assert said(place, "link").mode == stat.S_IFLNK | 0o777
    assert place.get("link") == "target/\u00e4 x".encode()
    assert said(place, "fifo").mode == stat.S_IFIFO | (os.stat(root / "fifo").st_mode & 0o777)
    assert said(place, "socket").mode == stat.S_IFSOCK | (os.stat(root / "socket").st_mode & 0o777)


def test_what_s3fs_stores_of_directories_is_read(moto_place: Place, s3fs: S3fs) -> None:
    root = s3fs(moto_place)
    os.mkdir(root / "dir", 0o700)
    os.chown(root / "dir", 5, 6)
    os.chmod(root / "dir", 0o3750)
    os.setxattr(root / "dir", "user.d", b"1")
    os.utime(root / "dir", ns=(ATIME_NS, MTIME_NS))
    found = said(moto_place, "dir/")
    assert found == Special(stat.S_IFDIR | 0o3750, 5, 6, MTIME_NS, ATIME_NS, found.ctime_ns, None, {"user.d": b"1"})


def test_s3fs_shows_what_we_store_of_files(place: Place, s3fs: S3fs) -> None:
    special = Special(stat.S_IFREG | 0o4711, 1234, 4321, MTIME_NS, ATIME_NS, MTIME_NS + 2, None, XATTRS)
    say(place, "file", special, b"body")
    say(place, "d/seconds", Special(mtime_ns=7 * SECOND_NS))
    root = s3fs(place)
    shown = os.stat(root / "file")
    assert (shown.st_mode, shown.st_uid, shown.st_gid, shown.st_size) == (stat.S_IFREG | 0o4711, 1234, 4321, 4)
    assert (shown.st_mtime_ns, shown.st_atime_ns, shown.st_ctime_ns) == (MTIME_NS, ATIME_NS, MTIME_NS + 2)
    assert set(os.listxattr(root / "file")) == XATTRS.keys()
    assert {name: os.getxattr(root / "file", name) for name in XATTRS} == XATTRS
    os.chmod(root / "file", 0o600)
    changed = said(place, "file")
    assert (changed.mode, changed.mtime_ns, changed.xattrs) == (stat.S_IFREG | 0o600, MTIME_NS, XATTRS)
    assert place.head("file")["Metadata"]["colour"] == "red"


def test_s3fs_shows_links_and_special_files_of_ours(place: Place, s3fs: S3fs) -> None:
    say(place, "link", Special(mode=stat.S_IFLNK | 0o777), "target/\u00e4 x".encode())
    say(place, "fifo", Special(mode=stat.S_IFIFO | 0o640))
    say(place, "socket", Special(mode=stat.S_IFSOCK | 0o600))
    root = s3fs(place)
    assert os.readlink(root / "link") == "target/\u00e4 x"
    assert os.stat(root / "fifo").st_mode == stat.S_IFIFO | 0o640
    assert os.stat(root / "socket").st_mode == stat.S_IFSOCK | 0o600


def test_s3fs_shows_directories_of_ours(moto_place: Place, s3fs: S3fs) -> None:
    special = Special(stat.S_IFDIR | 0o2750, 5, 6, MTIME_NS)
    say(moto_place, "dir/", special, ContentType="application/x-directory")
    shown = os.stat(s3fs(moto_place) / "dir")
    assert (shown.st_mode, shown.st_uid, shown.st_gid) == (stat.S_IFDIR | 0o2750, 5, 6)
    assert shown.st_mtime_ns == MTIME_NS


def test_a_mount_shows_what_s3fs_has_stored_at_once_or_after_flags_were_rebuilt(
    place: Place, s3fs: S3fs, mounts: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = s3fs(place)
    for name in ("file", "other"):
        (root / name).write_bytes(b"body")
    os.chown(root / "file", 1234, 4321)
    os.chmod(root / "file", 0o2751)
    os.utime(root / "file", ns=(ATIME_NS, MTIME_NS))
    os.symlink("target", root / "link")
    os.mkfifo(root / "fifo", 0o640)
    names = sorted(os.listdir(root))
    always = mounts.start("--attributes=always").root
    assert os.readlink(always / "link") == "target"
    assert {name: shown(always / name) for name in os.listdir(always)} == {name: shown(root / name) for name in names}

    async def rebuild() -> None:
        config = Config(bucket=place.bucket, endpoint_url=place.server.endpoint_url, region=place.server.region)
        async with opened(config) as store:
            await rebuild_flags(
                store, place.prefix, root=place.prefix, settle_seconds=0, progress=lambda _: None, learnt=lambda _: None
            )

    for variable, value in place.server.environment().items():
        monkeypatch.setenv(variable, value)
    trio.run(rebuild)
    flagged = mounts.start().root
    assert {name: shown(flagged / name) for name in names} == {name: shown(root / name) for name in names}


def test_a_mount_shows_extended_attributes_that_s3fs_has_stored(moto_place: Place, s3fs: S3fs, mounts: Mounts) -> None:
    """Of directories too, which it keeps on the marker."""
    root = s3fs(moto_place)
    (root / "file").write_bytes(b"body")
    (root / "dir").mkdir()
    for name, value in XATTRS.items():
        os.setxattr(root / "file", name, value)
        os.setxattr(root / "dir", name, value)
    mounted = mounts.start("--xattr", "--attributes=always", place=moto_place).root
    assert user_xattrs(mounted / "file") == XATTRS
    assert user_xattrs(mounted / "dir") == XATTRS


def test_s3fs_shows_extended_attributes_that_a_mount_has_stored(place: Place, s3fs: S3fs, mounts: Mounts) -> None:
    mounted = mounts.start("--xattr").root
    (mounted / "file").write_bytes(b"body")
    for name, value in XATTRS.items():
        os.setxattr(mounted / "file", name, value)
    (mounted / "file").chmod(0o600)
    assert eventually(lambda: (said(place, "file").xattrs, said(place, "file").mode) == (XATTRS, stat.S_IFREG | 0o600))
    root = s3fs(place)
    assert user_xattrs(root / "file") == XATTRS
    assert (root / "file").stat().st_mode == stat.S_IFREG | 0o600


def test_links_of_s3fs_are_found_by_type_after_a_refresh_of_attributes(
    place: Place, s3fs: S3fs, mounts: Mounts
) -> None:
    """A listing tells no types of what s3fs has stored until flags say that it must be asked for."""
    root = s3fs(place)
    (root / "file").write_bytes(b"body")
    os.symlink("file", root / "link")
    os.mkdir(root / "d")
    os.chmod(root / "file", 0o600)
    (root / "d/script").write_bytes(b"body")
    os.chmod(root / "d/script", 0o700)
    mount = mounts.start()
    told("refresh", "--attributes", mount.root)
    assert [place.head(name + FLAG)["ContentLength"] for name in ("", "d/")] == [1, 0]
    assert succeed("find", mount.root, "-type", "l", "-printf", "%f\n") == "link\n"
    assert sorted(succeed("find", mount.root, "-type", "f", "-printf", "%f\n").split()) == ["file", "script"]
    assert os.readlink(mount.root / "link") == "file"


def shown(path: Path) -> tuple[int, ...]:
    found = os.lstat(path)
    return found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, found.st_atime_ns
