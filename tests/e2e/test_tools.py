"""Scenarios B: tools that make whole trees, editors, locks; as far as contents and names go."""

import base64
import fcntl
import hashlib
import os
import pty
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.fill import fill
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, finish, hear, python, run, say, succeed
from tests.e2e.sides import DIRECTORY, tree
from tests.proxy import FaultProxy

FLAG = ".s3mount-attrs"
GIT = ("git", "-c", "user.name=tests", "-c", "user.email=tests@invalid", "-c", "core.fsmonitor=false")


def make_repository(path: Path) -> str:
    """A small local repository of three commits and a branch; its head."""
    succeed(*GIT, "init", "-q", "-b", "main", path)
    for number in range(3):
        for name in (f"file{number}", "sub/dir/common", f"sub/{number}.txt"):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(f"{name} {number}\n" * 200)
        succeed(*GIT, "add", "-A", cwd=path)
        succeed(*GIT, "commit", "-q", "-m", f"commit {number}", cwd=path)
    succeed(*GIT, "branch", "side", "HEAD~1", cwd=path)
    return succeed(*GIT, "rev-parse", "HEAD", cwd=path).strip()


def test_a_repository_of_git_lives_here(mount: Mounted, tmp_path: Path) -> None:
    """B9: `git clone` of a small local repository into the mount, status, commit, fsck, gc."""
    head = make_repository(tmp_path / "origin")
    clone = mount.root / "clone"
    succeed(*GIT, "clone", "-q", "--no-hardlinks", tmp_path / "origin", clone)
    assert succeed(*GIT, "rev-parse", "HEAD", cwd=clone).strip() == head
    assert succeed(*GIT, "status", "--porcelain", cwd=clone) == ""
    (clone / "sub/0.txt").write_text("changed\n")
    (clone / "new").write_text("new\n")
    assert succeed(*GIT, "status", "--porcelain", cwd=clone).split() == ["M", "sub/0.txt", "??", "new"]
    succeed(*GIT, "add", "-A", cwd=clone)
    succeed(*GIT, "commit", "-q", "-m", "here", cwd=clone)
    succeed(*GIT, "gc", "-q", cwd=clone)
    succeed(*GIT, "checkout", "-q", "-b", "other", "origin/side", cwd=clone)
    succeed(*GIT, "merge", "-q", "-m", "merged", "main", cwd=clone)
    assert run(*GIT, "fsck", "--strict", cwd=clone).returncode == 0
    mount.remount()
    assert run(*GIT, "fsck", "--strict", cwd=clone).returncode == 0
    assert succeed(*GIT, "status", "--porcelain", cwd=clone) == ""
    assert succeed(*GIT, "log", "--format=%s", "main", cwd=clone).splitlines()[0] == "here"
    assert not [key for key in mount.place.names() if key.endswith(".lock") or "tmp_" in key]
    # What the bucket has is a repository, too.
    for name in mount.place.names():
        path = tmp_path / "copy" / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(mount.place.get(name))
    assert run(*GIT, "fsck", "--strict", cwd=tmp_path / "copy/clone").returncode == 0


def make_wheel(folder: Path) -> Path:
    """A package of Python with a module, data, and a command."""
    files = {
        "tiny/__init__.py": "def main():\n    print('tiny works')\n",
        "tiny/data/table.csv": "a,b\n" * 100,
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny-1.0.dist-info/entry_points.txt": "[console_scripts]\ntiny = tiny:main\n",
    }
    record = ["tiny-1.0.dist-info/RECORD,,"]
    for name, body in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(body.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(body)}")
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in {**files, "tiny-1.0.dist-info/RECORD": "\n".join(record) + "\n"}.items():
            archive.writestr(name, body)
    return path


def test_a_package_of_python_is_installed_here(mounts: Mounts, tmp_path: Path) -> None:
    """B8: `pip install --target` exits 0, and what it installed works, also after a remount."""
    mount = mounts.start()
    wheel, site = make_wheel(tmp_path), mount.root / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--no-input"]
    for more in ([], ["--upgrade"]):
        done = run(*pip, "install", "-q", "--no-index", "--no-deps", *more, "--target", site, wheel)
        assert done.returncode == 0, done.stderr
    for remounts in range(2):
        if remounts:
            mount.remount()
        code = f"import sys; sys.path.insert(0, {str(site)!r}); import tiny; tiny.main()"
        assert succeed(sys.executable, "-I", "-c", code) == "tiny works\n"
        assert "entry_points.txt" in os.listdir(site / "tiny-1.0.dist-info")
    assert "site/tiny/data/table.csv" in mount.place.files()


def make_tree(root: Path) -> dict[str, bytes | str]:
    """Files of several sizes, an empty directory, an empty file, names that need care."""
    for name, size in (
        ("a", 10),
        ("empty", 0),
        ("large", 700_000),
        ("d/e/deep", 5000),
        ("d/sp ace", 100),
        ("\u00e4", 1),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(range(256)) * (size // 256 + 1))
        os.truncate(root / name, size)
    (root / "d/nothing").mkdir()
    return tree(root)


def test_archives_are_unpacked_here(mount: Mounted, tmp_path: Path) -> None:
    """B8: `tar x`, `unzip`, `cp -r` exit 0 and give the tree that was packed, also after a remount."""
    source = tmp_path / "source"
    expected = make_tree(source)
    succeed("tar", "-cf", tmp_path / "a.tar", "-C", source, ".")
    succeed("zip", "-q", "-r", tmp_path / "a.zip", ".", cwd=source)
    for name in ("tar", "zip", "cp"):
        (mount.root / name).mkdir()
    succeed("tar", "-xf", tmp_path / "a.tar", "--no-same-owner", "-C", mount.root / "tar")
    succeed("unzip", "-q", tmp_path / "a.zip", "-d", mount.root / "zip")
    succeed("cp", "-r", f"{source}/.", mount.root / "cp")
    for remounts in range(2):
        if remounts:
            mount.remount()
        for name in ("tar", "zip", "cp"):
            assert tree(mount.root / name) == expected, name
    files = [name for name, body in expected.items() if body != DIRECTORY]
    stored = [key for key in mount.place.files() if not key.endswith(FLAG)]
    assert stored == sorted(f"{kind}/{name}" for kind in ("tar", "zip", "cp") for name in files)
    succeed("tar", "-cf", tmp_path / "back.tar", "-C", mount.root / "cp", ".")
    (tmp_path / "back").mkdir()
    succeed("tar", "-xf", tmp_path / "back.tar", "-C", tmp_path / "back")
    assert tree(tmp_path / "back") == expected


def edit_with_vim(path: Path) -> None:
    """Insert a word at the beginning, on a terminal, and leave with :wq; a swap file is there meanwhile."""
    ours, theirs = pty.openpty()
    command = ["vim", "-u", "DEFAULTS", "-i", "NONE", "--cmd", "set nocompatible swapfile", path.name]
    editor = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=path.parent, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    try:
        os.set_blocking(ours, False)
        assert eventually(lambda: _drain(ours) or (path.parent / f".{path.name}.swp").exists(), 20)
        os.write(ours, b"iedited \x1b")
        os.write(ours, b":wq\r")
        assert eventually(lambda: _drain(ours) or editor.poll() is not None, 20)
        assert editor.returncode == 0
    finally:
        editor.kill()
        editor.wait(10)
        os.close(ours)


def _drain(terminal: int) -> bool:
    """Read what a program has drawn, so that it never waits; says that nothing is decided by that."""
    try:
        os.read(terminal, 65536)
    except OSError:
        pass  # nothing there, or the program has gone
    return False


@pytest.mark.parametrize("backup", ["auto", "no", "yes"])
def test_vim_saves_over_an_object(mounts: Mounts, place: Place, backup: str) -> None:
    """B1: `vim f` then `:wq` over an existing object keeps content, Content-Type and foreign user metadata; no swap or
    backup keys remain. (Whether vim writes in place or renames its backup away.)"""
    carried = {"ContentType": "text/x-special", "Metadata": {"foreign": "kept"}}
    place.put("d/f.txt", b"text\n" * 100, **carried)
    mount = mounts.start()
    path = mount.root / "d/f.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIMINIT", f"set backupcopy={backup}")
        edit_with_vim(path)
    assert place.get("d/f.txt") == b"edited " + b"text\n" * 100
    assert [key for key in place.files() if not key.endswith(FLAG)] == ["d/f.txt"]
    head = place.head("d/f.txt")
    if backup != "no":
        assert {name: head[name] for name in carried} == carried


LOCKER = """
import fcntl, sys
kind, path = sys.argv[1:]
file = open(path, "r+b")
lock = fcntl.flock if kind == "flock" else fcntl.lockf
for line in sys.stdin:
    match line.strip():
        case "try":
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                print("locked", flush=True)
            except BlockingIOError:
                print("busy", flush=True)
        case "wait":
            lock(file, fcntl.LOCK_EX)
            print("locked", flush=True)
        case "free":
            lock(file, fcntl.LOCK_UN)
            print("freed", flush=True)
"""


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_exclude_between_processes(mount: Mounted, kind: str) -> None:
    """B12: flock and fcntl locks exclude between two processes on one mount."""
    (mount.root / "f").write_bytes(b"content")
    first, second = (python(LOCKER, kind, mount.root / "f") for _ in range(2))
    say(first, "try")
    assert hear(first) == "locked"
    say(second, "try")
    assert hear(second) == "busy"
    say(second, "wait")
    say(first, "free")
    assert (hear(first), hear(second)) == ("freed", "locked")
    say(first, "try")
    assert hear(first) == "busy"
    assert finish(second) == 0  # its locks end with it
    say(first, "wait")
    assert hear(first) == "locked"
    assert finish(first) == 0


def test_a_counter_under_a_lock_loses_no_step(mount: Mounted) -> None:
    """B12: two processes that read, add and write under a lock count all their steps."""
    (mount.root / "counter").write_bytes(b"0")
    code = """
import fcntl, sys
for _ in range(50):
    with open(sys.argv[1], "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        number = int(file.read())
        file.seek(0)
        file.write(str(number + 1))
        file.flush()
"""
    counting = [python(code, mount.root / "counter") for _ in range(2)]
    assert [finish(process) for process in counting] == [0, 0]
    assert mount.place.get("counter") == b"100"
    with (mount.root / "counter").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


UPLOAD = """
import os, sys, tempfile
folder, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    fd, path = tempfile.mkstemp(prefix="php", dir=folder)
    os.write(fd, b"upload %d" % number)
    os.close(fd)
    os.rename(path, f"{folder}/upload-{number}.jpg")
    os.chmod(f"{folder}/upload-{number}.jpg", 0o644)
"""
CROWD = 80_000


def pages_of_directory(proxy: FaultProxy, name: str) -> int:
    """How often names of this directory were listed, those of a single name's own prefix left out."""
    listed = [seen for seen in proxy.requests(f"/{name}$") if seen.kind == "list"]
    return sum("delimiter=" in seen.query for seen in listed)


@pytest.mark.slow
@pytest.mark.seconds(300)
def test_an_upload_into_a_crowded_directory_lists_a_page_at_most(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """B14: PHP-style upload (temp, rename, chmod) into a directory of 80,000 objects: at most one LIST page of that
    directory."""
    fill(place, [f"uploads/image-{number:05}.jpg" for number in range(CROWD)])
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    proxy.forget()
    assert finish(python(UPLOAD, mounted.root / "uploads", "1")) == 0
    assert pages_of_directory(proxy, "uploads/") <= 1
    proxy.forget()
    assert finish(python(UPLOAD, mounted.root / "uploads", "20")) == 0
    assert pages_of_directory(proxy, "uploads/") <= 20
    assert len(place.names()) == CROWD + 20 + 1  # the flag: uploads have modes of their own
    assert place.get("uploads/upload-7.jpg") == b"upload 7"
