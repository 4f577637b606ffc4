"""Scenarios B: what ordinary programs do."""

import ctypes
import errno
import gzip
import os
import random
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from tests.e2e.material import MIB, Background, object_difference, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, finish, python, succeed
from tests.proxy import FaultProxy

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100
libc = ctypes.CDLL(None, use_errno=True)


def renameat2(source: Path, target: Path, flags: int) -> int:
    """The errno of renameat2(2), or 0."""
    done = libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags)
    return ctypes.get_errno() if done else 0


def test_a_saved_file_never_disappears(mount: Mounted) -> None:
    """B2: editors' save (temp file, fsync, rename over the target): the target never disappears from a concurrent
    listing."""
    place, root = mount.place, mount.root
    (root / "d").mkdir()
    target, temporary = root / "d/text", root / "d/.text.swp"
    target.write_bytes(b"version 0")
    ended = threading.Event()
    here, there = list[list[str]](), list[list[str]]()

    def list_mount() -> None:
        while not ended.is_set():
            here.append(os.listdir(root / "d"))
            assert target.read_bytes().startswith(b"version ")

    def list_bucket() -> None:
        while not ended.is_set():
            there.append(place.files())

    watching = [Background(list_mount), Background(list_bucket)]
    for number in range(1, 1000):
        with temporary.open("wb") as file:
            file.write(f"version {number}".encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        assert place.get("d/text") == f"version {number}".encode()
        if number >= 25 and min(len(here), len(there)) >= 20:
            break
    ended.set()
    for watcher in watching:
        watcher.result()
    assert min(len(here), len(there)) >= 20
    assert all("text" in names for names in here)
    assert all("d/text" in names for names in there)
    assert place.files() == ["d/text"]


def test_lines_appended_by_two_shells_are_all_there(mount: Mounted) -> None:
    """B4: `echo a >> log` 100 times from one shell, and from two shells at once on one mount: every line is there, in
    order per writer."""

    def shell(name: str, log: str) -> "subprocess.Popen[bytes]":
        loop = f"for i in $(seq 100); do echo {name} $i >> {log} || exit 1; done"
        return subprocess.Popen(["sh", "-c", loop], cwd=mount.root)

    shells = [shell("only", "one"), shell("left", "two"), shell("right", "two")]
    assert [process.wait(60) for process in shells] == [0, 0, 0]
    for log, names in (("one", ["only"]), ("two", ["left", "right"])):
        lines = mount.place.get(log).decode().splitlines()
        assert len(lines) == 100 * len(names)
        for name in names:
            assert [line for line in lines if line.startswith(name)] == [f"{name} {i}" for i in range(1, 101)]
        assert (mount.root / log).read_bytes() == mount.place.get(log)


def test_files_are_moved(mount: Mounted) -> None:
    """B5: `mv f g`, `mv f dir/`, onto an existing file, of a file still open for writing, with RENAME_NOREPLACE;
    RENAME_EXCHANGE gives EINVAL."""
    root, place = mount.root, mount.place
    (root / "dir").mkdir()
    for name in ("f", "onto", "other"):
        (root / name).write_bytes(name.encode() * 1000)
    succeed("mv", "f", "g", cwd=root)
    assert place.files() == ["g", "onto", "other"]
    succeed("mv", "g", "dir/", cwd=root)
    assert place.files() == ["dir/g", "onto", "other"]
    succeed("mv", "dir/g", "onto", cwd=root)
    assert place.files() == ["onto", "other"]
    assert place.get("onto") == (root / "onto").read_bytes() == b"f" * 1000
    assert renameat2(root / "onto", root / "other", RENAME_NOREPLACE) == errno.EEXIST
    assert renameat2(root / "onto", root / "other", RENAME_EXCHANGE) == errno.EINVAL
    assert (place.get("onto"), place.get("other")) == (b"f" * 1000, b"other" * 1000)
    assert renameat2(root / "onto", root / "new", RENAME_NOREPLACE) == 0
    assert place.files() == ["new", "other"]
    for name in ("new", "created"):
        with (root / name).open("ab") as file:
            file.write(b"before ")
            file.flush()
            succeed("mv", name, f"dir/{name}", cwd=root)
            file.write(b"after")
        assert place.get(f"dir/{name}").endswith(b"before after")
    assert place.files() == ["dir/created", "dir/new", "other"]
    assert sorted(os.listdir(root)) == ["dir", "other"]
    assert sorted(os.listdir(root / "dir")) == ["created", "new"]


SQLITE = """
import sqlite3, sys
path, mode = sys.argv[1:]
for session in range(3):
    base = sqlite3.connect(path)
    assert base.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    base.execute("create table if not exists t (session, number, text)")
    for number in range(10):
        with base:
            base.executemany("insert into t values (?, ?, ?)", [(session, number, "x" * 500)] * 20)
        if number % 3 == 0:
            with base:
                base.execute("delete from t where number = ? and rowid % 2", (number,))
    base.execute("vacuum")
    assert base.execute("pragma integrity_check").fetchall() == [("ok",)]
    count = base.execute("select count(*) from t").fetchone()[0]
    base.close()
print(count)
"""
SQLITE_LOOK = """
import sqlite3, sys
base = sqlite3.connect(sys.argv[1])
assert base.execute("pragma integrity_check").fetchall() == [("ok",)]
print(base.execute("select count(*) from t").fetchone()[0])
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_of_sqlite_lives_here(mount: Mounted, tmp_path: Path, mode: str) -> None:
    """B10: sqlite3 from one process, journal_mode=DELETE and WAL: integrity_check ok, the object opens elsewhere after
    close."""
    writer = python(SQLITE, mount.root / "base.db", mode)
    said, _ = writer.communicate(timeout=100)
    assert writer.returncode == 0
    copy = tmp_path / "copy.db"
    assert eventually(lambda: mount.place.names() == ["base.db"])
    copy.write_bytes(mount.place.get("base.db"))
    for path in (copy, mount.root / "base.db"):
        reader = python(SQLITE_LOOK, path)
        assert reader.communicate(timeout=100)[0] == said
        assert reader.returncode == 0


def test_archives_are_written_and_read(mount: Mounted, tmp_path: Path) -> None:
    """B16: `gzip`, `zip` (seeks back to rewrite headers)."""
    source = tmp_path / "source"
    write_pattern(source, 12 * MIB)
    (tmp_path / "small").write_bytes(b"small")
    body = source.read_bytes()
    succeed("cp", source, mount.root / "source")
    succeed("gzip", "--fast", mount.root / "source")
    assert mount.place.files() == [".s3mount-attrs", "source.gz"], "gzip keeps the time of what it packs"
    assert gzip.decompress(mount.place.get("source.gz")) == body
    succeed("gunzip", mount.root / "source.gz")
    assert mount.place.files() == [".s3mount-attrs", "source"]
    assert mount.place.get("source") == body
    for level in ("-0", "-1"):  # stored, the archive is larger than what is one PUT
        succeed("zip", "-q", level, mount.root / "a.zip", "source", "small", cwd=tmp_path)
        (tmp_path / "copy.zip").write_bytes(mount.place.get("a.zip"))
        with zipfile.ZipFile(tmp_path / "copy.zip") as archive:
            assert archive.testzip() is None
            assert archive.read("source") == body
        succeed("unzip", "-q", "-t", mount.root / "a.zip")
    succeed("zip", "-q", "-d", mount.root / "a.zip", "source")
    with zipfile.ZipFile(mount.root / "a.zip") as archive:
        assert archive.namelist() == ["small"]
    assert mount.place.files() == [".s3mount-attrs", "a.zip", "source"]


REWRITE = """
import os, sys
with open(sys.argv[1], "wb") as file, open(sys.argv[2], "rb") as source:
    file.write(bytes(64))
    source.seek(64)
    while block := source.read(1 << 20):
        file.write(block)
    source.seek(0)
    file.seek(0)
    file.write(source.read(64))
"""


def test_the_head_of_a_long_stream_is_written_last(mounts: Mounts, tmp_path: Path) -> None:
    """B16: `ffmpeg`-like rewrite of the first bytes after 100 MiB were streamed, also through 32 MiB of staging."""
    source = tmp_path / "source"
    write_pattern(source, 100 * MIB + 77)
    with source.open("r+b") as file:
        file.write(random.Random(16).randbytes(64))
    for options in ((), ("--staging-limit=32MiB",)):
        mounted = mounts.start(*options)
        assert finish(python(REWRITE, mounted.root / "film", source)) == 0
        assert object_difference(mounted.place, "film", source) is None
        assert mounted.place.names() == ["film"]
        assert mounted.place.uploads() == []
        mounted.stop()
    source.unlink()


def test_sed_in_place_costs_few_requests(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """B3: `sed -i s/a/b/ f` works within 6 requests in a freshly listed directory, 9 cold."""
    place.put("d/f", b"a cat\n")
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    succeed("ls", "-l", proxied.root / "d")
    proxy.forget()
    succeed("sed", "-i", "s/a/b/", proxied.root / "d/f")
    assert place.get("d/f") == b"b cat\n"
    assert place.files() == ["d/f"]
    fresh = proxy.counts()
    proxied.remount()
    proxy.forget()
    succeed("sed", "-i", "s/cat/dog/", proxied.root / "d/f")
    assert place.get("d/f") == b"b dog\n"
    assert place.files() == ["d/f"]
    cold = proxy.counts()
    assert fresh.total() <= 6, fresh
    assert cold.total() <= 9, cold


def test_a_directory_survives_its_last_file(mounts: Mounts, place: Place) -> None:
    """B13: `mkdir d; touch d/f; rm d/f`: `d` still exists, also after remount; `rm -r d` leaves no key."""
    place.put("implicit/below/f", b"foreign")
    mount = mounts.start()
    root = mount.root
    succeed("mkdir", root / "d")
    succeed("touch", root / "d/f")
    succeed("rm", root / "d/f")
    succeed("rm", root / "implicit/below/f")
    for _ in range(2):
        assert sorted(os.listdir(root)) == ["d", "implicit"]
        assert (root / "d").is_dir()
        assert os.listdir(root / "d") == []
        assert os.listdir(root / "implicit") == ["below"]
        assert os.listdir(root / "implicit/below") == []
        mount.remount()
    succeed("rm", "-r", root / "d", root / "implicit")
    assert place.names() == []
    assert os.listdir(root) == []
    mount.remount()
    assert os.listdir(root) == []


def test_tail_follows_what_another_process_appends(mount: Mounted) -> None:
    """B17: `tail -f` follows a file another process appends to on the same mount."""
    log = mount.root / "log"
    log.write_text("first\n")
    with (mount.work / "tail").open("wb") as out:
        tail = subprocess.Popen(["tail", "-n", "+1", "-s", "0.1", "-f", log], stdout=out)
    try:
        said = Path(out.name)
        assert eventually(lambda: said.read_text() == "first\n")
        for number in range(5):
            succeed("sh", "-c", f"echo line {number} >> '{log}'")
            expected = "first\n" + "".join(f"line {n}\n" for n in range(number + 1))
            assert eventually(lambda expected=expected: said.read_text() == expected)  # type: ignore[misc]
    finally:
        tail.terminate()
        tail.wait(10)
    assert mount.place.get("log") == said.read_bytes()
