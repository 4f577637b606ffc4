"""Mounts whose daemon is gone: dead, not empty, until the next one takes their place; others' are left alone."""

import array
import errno
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mounting import ROOT, Mounted, Mounts, environment, eventually, succeed
from tests.e2e.watchdog import connection_of, detach
from tests.proxy import FaultProxy, Rule

NOBODY = 65534


def is_dead(root: Path) -> bool:
    try:
        os.listdir(root)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def attempt(mounted: Mounted, *options: str) -> "subprocess.Popen[str]":
    """A start at the same place, in the background as users do; its end tells whether it serves."""
    command = mounted.command()
    entry = [sys.executable, "-m", "tests.e2e.entry"]
    words = [word for word in command[command.index("mount") :] if word != "--foreground"]
    return subprocess.Popen(
        [*entry, *words, *options],
        env=environment(mounted.place.server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_mountpoint_stays_dead_until_a_start_succeeds(proxied: Mounted, proxy: FaultProxy) -> None:
    """Not while the store is waited for, and not by a start that fails does it look empty: that would let `rsync
    --delete` erase a mirror."""
    (proxied.root / "f").write_bytes(b"stored")
    proxied.crash()
    assert is_dead(proxied.root)
    proxy.add(Rule(fault="error", status=403, code="AccessDenied"))
    failed = attempt(proxied)
    _, said = failed.communicate(timeout=60)
    assert (failed.returncode, len(said.splitlines())) == (1, 1)
    assert is_dead(proxied.root)
    proxy.clear()
    proxy.add(Rule(fault="black_hole"))
    proxy.forget()
    with attempt(proxied) as starting:
        try:
            assert eventually(lambda: bool(proxy.requests()), 30)
            assert is_dead(proxied.root)
            assert starting.poll() is None
        finally:
            proxy.clear()
        assert starting.wait(60) == 0
    assert (proxied.root / "f").read_bytes() == b"stored"
    succeed(sys.executable, "-m", "tests.e2e.entry", "umount", proxied.root, cwd=ROOT)
    assert eventually(lambda: proxied.log.count("stopped ") == 1)


@pytest.mark.parametrize("times", [1, 2])
def test_a_mount_whose_root_cannot_be_listed_does_not_start(mounts: Mounts, proxy: FaultProxy, times: int) -> None:
    """The store answers the check, and refuses the listing that comes after it, or the check: exit status 1, one line,
    nothing mounted."""
    mounted = mounts.prepare(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(fault="error", kind="list", status=403, code="AccessDenied", skip=times - 1))
    failed = attempt(mounted)
    _, said = failed.communicate(timeout=60)
    assert (failed.returncode, len(said.splitlines())) == (1, 1), said
    assert "list" in said
    assert connection_of(mounted.root) is None


def test_a_bug_that_ends_the_loop_leaves_the_mountpoint_dead_not_empty(mounts: Mounts) -> None:
    """The exit status is 1, on which a service manager starts it again; that takes the mountpoint over."""
    mounted = mounts.start(plant="loop-bugs")
    (mounted.root / "f").write_bytes(b"stored")
    with pytest.raises(OSError):
        os.stat(mounted.root / "plant-crash")
    assert mounted.wait() == 1
    assert is_dead(mounted.root)
    assert "planted by the tests" in mounted.stderr
    mounted.expect(".")
    mounted.start()
    assert (mounted.root / "f").read_bytes() == b"stored"


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """A dead FUSE mount of another file system: its descriptor came from fusermount3 and was closed."""
    root = tmp_path / "foreign"
    root.mkdir()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        subprocess.run(
            ["fusermount3", "-o", "fsname=theirs,subtype=theirfs", "--", str(root)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            check=True,
        )
        descriptors = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_LEN(descriptors.itemsize))
        descriptors.frombytes(ancillary[0][2][: descriptors.itemsize])
        os.close(descriptors[0])
    yield root
    detach(root)


@pytest.mark.parametrize("nonempty", [False, True])
def test_a_dead_mount_of_another_file_system_is_never_taken_over(mounts: Mounts, foreign: Path, nonempty: bool) -> None:
    """E4: it is named, and what would end it."""
    assert is_dead(foreign)
    command = [sys.executable, "-m", "tests.e2e.entry", "mount", mounts.place.url, str(foreign)]
    done = subprocess.run(
        [*command, f"--cache-dir={mounts.work / 'own'}", *(["--nonempty"] if nonempty else [])],
        env={**environment(mounts.place.server), "AWS_ENDPOINT_URL": mounts.place.server.endpoint_url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "dead mount of fuse.theirfs" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert connection_of(foreign) is not None
    assert is_dead(foreign)


USER = r"""
import errno, os, re, signal, subprocess, sys, time
from pathlib import Path
root, log, command = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
subprocess.run(command, check=True)
(root / "f").write_bytes(b"stored")
pid = int(re.findall(r" mounted .*pid=(\d+)", log.read_text())[-1])
os.kill(pid, signal.SIGKILL)
while True:
    try:
        os.statvfs(root)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            break
    time.sleep(0.01)
subprocess.run(command, check=True)
print(os.geteuid(), (root / "f").read_bytes().decode(), flush=True)
subprocess.run([*command[:3], "umount", root], check=True)
"""


def as_a_user(work: Path) -> list[str]:
    """A command prefix: who is root becomes nobody, with a /dev/fuse for everybody, in namespaces that end with it."""
    if os.geteuid() != 0:
        return []
    device = work / "fuse"
    os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    for path in (work, work / "cache", work / "mnt"):
        path.mkdir(exist_ok=True)
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700)
    own = 'mount --make-rprivate / && mount --bind "$0" /dev/fuse && exec "$@"'
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"]  # for the interpreter's place
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*namespaces, "sh", "-c", own, str(device), *become]


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that everybody gets to: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="s3mount-test-") as work:
        os.chmod(work, 0o755)
        yield Path(work)


def test_who_is_not_root_recovers_a_dead_mount_too(mounts: Mounts, reachable: Path) -> None:
    """By fusermount3."""
    (reachable / "mnt").mkdir()
    entry = [sys.executable, "-m", "tests.e2e.entry"]
    options = [f"--cache-dir={reachable / 'cache'}", f"--log-file={reachable / 'log'}"]
    done = subprocess.run(
        [
            *(*as_a_user(reachable), sys.executable, "-c", USER, str(reachable / "mnt"), str(reachable / "log")),
            *(*entry, "mount", mounts.place.url, str(reachable / "mnt"), *options),
        ],
        env={**environment(mounts.place.server), "AWS_ENDPOINT_URL": mounts.place.server.endpoint_url},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    log = (reachable / "log").read_text()
    assert done.stdout == f"{NOBODY if os.geteuid() == 0 else os.geteuid()} stored\n"
    assert mounts.place.get("f") == b"stored"
    assert len(re.findall(" mounted ", log)) == 2
