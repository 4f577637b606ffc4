"""What nobody was told could not be stored: it is kept, named, tried again, handed out, dropped (`s3mount failed`)."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.asking import asked, refused, s3mount, told
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, finish, hear, python, say
from tests.proxy import FaultProxy, Rule

MAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
fd = os.open(sys.argv[1], os.O_RDWR)
shown = libc.mmap(None, 9000, 3, 1, fd, 0)
os.close(fd)
print("mapped", flush=True)
sys.stdin.readline()
ctypes.memmove(shown, b"by a map!", 9)
print(libc.munmap(ctypes.c_void_p(shown), ctypes.c_size_t(9000)), flush=True)
"""
"""With no descriptor left, as Python's own mmap keeps one, no call can tell of a failure."""
DENIED = Rule(fault="error", method="PUT", key="(old|new)$", status=403, code="AccessDenied")
BODY = b"old bytes" * 1000


@contextmanager
def kept(mounts: Mounts, proxy: FaultProxy, place: Place) -> Iterator[Mounted]:
    """A mount that keeps `d/old`, changed through a mapping, and `d/new`, which is empty, for a store that refuses
    both."""
    place.put("d/old", BODY)
    mount = mounts.start(endpoint_url=proxy.endpoint_url)
    mount.expect("file not stored, trying again", "file content dropped", "its bytes wait to be stored")
    mapper = python(MAPPER, mount.root / "d/old")
    try:
        assert hear(mapper) == "mapped"
        proxy.add(DENIED)
        say(mapper, "")
        assert hear(mapper) == "0"
    finally:
        finish(mapper)
    (mount.root / "d/new").touch()
    assert eventually(lambda: asked("status", mount.root)["files"]["files_not_stored"]["count"] == 2, 60)
    yield mount


def test_it_is_kept_named_handed_out_and_stored_as_soon_as_it_can_be(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    changed = b"by a map!" + BODY[9:]
    with kept(mounts, proxy, place) as mount:
        with pytest.raises(OSError) as caught:
            (mount.root / "d/old").read_bytes()
        assert caught.value.errno == errno.EIO
        files = {file["path"]: file for file in asked("failed", "list", mount.root)["files"]}
        assert files.keys() == {"d/old", "d/new"}
        assert files["d/old"]["size"] == len(BODY)
        assert "AccessDenied" in files["d/old"]["reason"]
        assert "s3:PutObject" in files["d/old"]["remedy"]
        text = told("failed", "list", mount.root, "d/old")
        assert "d/old" in text
        assert "s3:PutObject" in text
        assert "d/new" not in text
        retried = s3mount("failed", "retry", mount.root, mount.root / "d/old")
        assert (retried.returncode, retried.stdout) == (1, "")
        assert retried.stderr.startswith("s3mount: d/old: ")
        out = tmp_path / "out"
        exported = told("failed", "export", "--to", out, mount.root).splitlines()
        assert sorted(exported) == ["d/new: 0 bytes written", "d/old: 9000 bytes written"]
        assert (out / "d/old").read_bytes() == changed
        assert stat.S_IMODE((out / "d/old").stat().st_mode) == 0o600
        assert "is there already" in s3mount("failed", "export", "--to", out, mount.root, "d/old").stderr
        assert "is in a mount" in refused("failed", "export", "--to", mount.root / "e", mount.root)
        proxy.clear()
        retried = s3mount("failed", "retry", mount.root)  # what has been stored meanwhile is not there to be named
        assert (retried.returncode, retried.stderr) == (0, "")
        assert {line.partition(": ")[2] for line in retried.stdout.splitlines()} <= {"stored"}
        assert (place.get("d/old"), place.get("d/new")) == (changed, b"")
        assert (mount.root / "d/old").read_bytes() == changed
        assert told("failed", "list", mount.root) == ""


def test_what_is_dropped_shows_what_was_there_before_under_another_inode(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    with kept(mounts, proxy, place) as mount:
        before = os.stat(mount.root / "d/old").st_ino
        assert "nothing is kept of d/other" in refused("failed", "drop", mount.root, "d/other")
        done = s3mount("sync", mount.root)
        assert done.returncode == 1
        assert sorted(line.split(":")[1] for line in done.stderr.splitlines() if " of " not in line) == [
            " d/new",
            " d/old",
        ]
        assert told("failed", "drop", mount.root, "d/old") == "d/old: dropped\n"
        assert (mount.root / "d/old").read_bytes() == BODY
        assert os.stat(mount.root / "d/old").st_ino != before
        assert told("failed", "drop", "--all", mount.root) == "d/new: dropped\n"
        assert os.listdir(mount.root / "d") == ["old"]
        assert asked("failed", "list", mount.root)["files"] == []
        assert place.files() == ["d/old"]
