"""Scenarios E: starting, stopping, foreign mounts, owners and modes, secrets."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mounting import (
    Mounted,
    Mounts,
    Place,
    environment,
    eventually,
    finish,
    hear,
    python,
    run,
    say,
    succeed,
)
from tests.e2e.watchdog import connection_of, detach
from tests.proxy import FaultProxy, Rule

HOLDER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
os.write(fd, b"held " * 40_000)
print("holding", flush=True)
sys.stdin.read()
"""
MAPPER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
mapped = mmap.mmap(fd, 0)
os.close(fd)
mapped[50_000:50_005] = b"dirty"
print("mapped", flush=True)
sys.stdin.read()
"""
APPENDER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
print("appending", flush=True)
number = 0
try:
    while True:
        os.write(fd, b"%07d\\n" % number)
        number += 1
        print(number, flush=True)
        time.sleep(0.005)
except OSError as error:
    print(error.errno, file=sys.stderr)
"""


def acknowledged(log: Path) -> int:
    """How many lines an appender has written, by its own account."""
    lines = log.read_text().splitlines()
    return int(lines[-1]) if len(lines) > 1 else 0


@pytest.mark.slow
def test_sigterm_saves_what_programs_hold(mounts: Mounts) -> None:
    """E1: SIGTERM while programs hold dirty handles, dirty mappings, and go on writing: what the kernel held is in the
    bucket, unmounted, exit 0."""
    place = mounts.place
    place.put("mapped", b"." * 100_000)
    mounted = mounts.start("--stop-timeout=8s")
    account = mounted.work / "account"
    with account.open("w") as out:
        appender = subprocess.Popen(
            [sys.executable, "-I", "-c", APPENDER, mounted.root / "appended"], stdout=out, stderr=subprocess.DEVNULL
        )
    holder, mapper = python(HOLDER, mounted.root / "held"), python(MAPPER, mounted.root / "mapped")
    try:
        assert (hear(holder), hear(mapper)) == ("holding", "mapped")
        assert eventually(lambda: acknowledged(account) > 50)
        assert "held" not in place.names()
        before = acknowledged(account)
        mounted.signal(signal.SIGTERM)
        status = mounted.wait()
        assert status == 0, mounted.log
        assert connection_of(mounted.root) is None
    finally:
        for program in (holder, mapper, appender):
            program.kill()
        for program in (holder, mapper):
            finish(program)
        appender.wait(10)
    assert place.get("held") == b"held " * 40_000
    assert place.get("mapped") == b"." * 50_000 + b"dirty" + b"." * 49_995
    appended = place.get("appended")
    assert appended == b"".join(b"%07d\n" % number for number in range(len(appended) // 8))
    assert len(appended) // 8 >= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_that_end_a_program_store_what_was_written_too(mounts: Mounts, number: signal.Signals) -> None:
    """A closed terminal sends SIGHUP to a mount in the foreground."""
    mount = mounts.start("--stop-timeout=4s")  # for so long a file that is held open is served
    holder = python(HOLDER, mount.root / "held")
    try:
        assert hear(holder) == "holding"
        mount.signal(number)
        assert mount.wait() == 0, mount.log
        assert mount.place.get("held") == b"held " * 40_000
    finally:
        holder.kill()
        finish(holder)


def test_a_second_sigterm_ends_at_once_and_leaves_no_dead_mountpoint(mounts: Mounts, proxy: FaultProxy) -> None:
    mounted = mounts.start("--stop-timeout=300s", endpoint_url=proxy.endpoint_url)
    mounted.expect(".")
    holder = python(HOLDER, mounted.root / "held")
    try:
        assert hear(holder) == "holding"
        proxy.add(Rule(fault="error", status=503, code="ServiceUnavailable"))
        mounted.signal(signal.SIGTERM)
        assert eventually(lambda: "stopping signal=SIGTERM" in mounted.log)
        mounted.signal(signal.SIGTERM)
        assert mounted.wait(100) == 1
    finally:
        holder.kill()
        finish(holder)
    assert "stopped at once by a second signal" in mounted.log
    assert "file was lost path=held" in mounted.log
    assert connection_of(mounted.root) is None


def test_sigterm_names_what_it_could_not_save(mounts: Mounts, proxy: FaultProxy) -> None:
    """E1: if it cannot: exit != 0 and each lost path named."""
    mounted = mounts.start("--stop-timeout=4s", endpoint_url=proxy.endpoint_url)
    (mounted.root / "saved").write_bytes(b"saved")
    (mounted.root / "d").mkdir()
    holders = [python(HOLDER, mounted.root / name) for name in ("lost one", "d/lost two")]
    try:
        assert [hear(holder) for holder in holders] == ["holding"] * 2
        proxy.add(Rule(fault="error", status=503, code="ServiceUnavailable"))
        mounted.signal(signal.SIGTERM)
        assert mounted.wait(60) == 1
    finally:
        for holder in holders:
            holder.kill()
            finish(holder)
    told = [line for line in mounted.log.splitlines() if " ERROR " in line]
    mounted.expect(".")
    assert any("lost one" in line for line in told), mounted.log
    assert any("d/lost two" in line for line in told), mounted.log
    assert not any("saved" in line for line in told)
    assert connection_of(mounted.root) is None
    assert mounts.place.files() == ["saved"]


@pytest.mark.parametrize("command", ["umount", "fusermount3 -u", "s3mount umount"])
def test_umount_ends_an_idle_mount_and_refuses_a_busy_one(mount: Mounted, command: str) -> None:
    """E3: `umount` when idle ends the process with 0; when busy EBUSY, nothing lost."""
    words = command.split()
    if words[0] == "s3mount":
        words = [sys.executable, "-m", "tests.e2e.entry", *words[1:]]
    elif words[0] == "umount" and os.geteuid() != 0:
        words = ["fusermount3", "-u"]
    holder = python(HOLDER, mount.root / "held")
    assert hear(holder) == "holding"
    busy = run(*words, mount.root)
    assert busy.returncode != 0
    assert "busy" in busy.stderr.lower()
    assert len(busy.stderr.strip().splitlines()) == 1
    assert connection_of(mount.root) is not None
    assert (mount.root / "held").stat().st_size == 200_000
    assert finish(holder) == 0
    assert mount.place.get("held") == b"held " * 40_000
    succeed(*words, mount.root)
    assert mount.wait(20) == 0
    assert connection_of(mount.root) is None


@pytest.mark.parametrize("delay_seconds", [0.0, 0.005, 0.02])
def test_a_signal_just_after_mounting_unmounts(mounts: Mounts, tmp_path: Path, delay_seconds: float) -> None:
    """Whoever sees the mount may stop it: no dead mountpoint is left, nor an exit status that says killed."""
    mounted = mounts.start()
    mounted.stop()
    process = subprocess.Popen(mounted.command(), env=environment(mounted.place.server), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while connection_of(mounted.root) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(delay_seconds)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert connection_of(mounted.root) is None


def test_a_mount_serves_while_it_tries_what_the_store_keeps(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """The mount does not wait for the probe, and a stop leaves nothing of it."""
    proxy.add(Rule(fault="black_hole", kind="put", key="/probe-"))
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    (mounted.root / "f").write_bytes(b"content")
    assert place.get("f") == b"content"
    assert proxy.requests("/probe-")
    assert "probed" not in mounted.log
    proxy.clear()
    mounted.stop()
    assert place.names() == ["f"]


def refused(place: Place, root: Path, work: Path, *options: str) -> str:
    """What `s3mount mount` says when it refuses a mountpoint: one line, exit status 1."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.entry", "mount", place.url, root, f"--cache-dir={work / 'cache2'}", *options],
        env={**environment(place.server), "AWS_ENDPOINT_URL": place.server.endpoint_url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_mount_that_serves_has_the_read_ahead_and_the_background_limit_it_wants(mount: Mounted) -> None:
    """The kernel sets the read-ahead back when it has its first answer; where raising it is refused a line says so."""
    number = connection_of(mount.root)
    wanted = {
        Path(f"/sys/class/bdi/0:{number}/read_ahead_kb"): 1024,
        Path(f"/sys/fs/fuse/connections/{number}/max_background"): 128,
    }
    for path, value in wanted.items():
        assert (path.exists() and int(path.read_text()) == value) or str(path) in mount.log


def test_a_mountpoint_with_entries_is_refused_unless_asked_for(mounts: Mounts) -> None:
    """E4: a non-empty mountpoint is refused without `--nonempty`."""
    work = mounts.work / "own"
    occupied = work / "mnt"
    occupied.mkdir(parents=True)
    (occupied / "local").write_text("kept")
    assert "--nonempty" in refused(mounts.place, occupied, work)
    assert connection_of(occupied) is None
    mounted = Mounted(mounts.place, work, mounts.watchdog, ["--nonempty"])
    mounts.made.append(mounted)
    mounted.start()
    assert os.listdir(occupied) == []
    mounted.stop()
    assert (occupied / "local").read_text() == "kept"


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A mount that is not ours."""
    root = tmp_path / "tmpfs"
    root.mkdir()
    if run("mount", "-t", "tmpfs", "tmpfs", root).returncode != 0:
        pytest.skip("needs root to make a foreign mount")
    (root / "theirs").write_text("theirs")
    yield root
    succeed("umount", root)


def test_a_foreign_mount_is_never_taken_over(mount: Mounted, tmpfs: Path, tmp_path: Path) -> None:
    """E4: a live foreign mount is never taken over."""
    assert str(tmpfs) in refused(mount.place, tmpfs, tmp_path)
    assert (tmpfs / "theirs").read_text() == "theirs"
    (mount.root / "ours").write_text("ours")
    for options in ([], ["--nonempty"]):
        assert "already mounted" in refused(mount.place, mount.root, tmp_path, *options)
    assert (mount.root / "ours").read_text() == "ours"


def test_a_dead_mount_of_ours_is_taken_over(mount: Mounted) -> None:
    """A daemon that was killed leaves its mountpoint dead; the next start takes it over."""
    (mount.root / "f").write_bytes(b"stored")
    mount.signal(signal.SIGKILL)
    mount.wait()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.root)
    work = mount.work
    again = Mounted(mount.place, work, mount.watchdog)
    try:
        with (work / "stderr").open("ab") as stderr:
            again.process = subprocess.Popen(again.command(), stderr=stderr, env=environment(mount.place.server))
        mount.watchdog.guard(again.pid, again.root, work / "stacks")
        assert eventually(lambda: again.log.count(" mounted ") == 2, 20), again.log
        assert (again.root / "f").read_bytes() == b"stored"
        again.stop()
    finally:
        again.kill()


def test_options_give_owner_and_modes(mounts: Mounts) -> None:
    """E6: `--uid --gid --file-mode --dir-mode --umask` apply to foreign objects; no `x` bit on files by default."""
    place = mounts.place
    place.put("d/f", b"foreign")
    plain = mounts.start()
    assert stat.filemode((plain.root / "d/f").stat().st_mode) == "-rw-r--r--"
    assert stat.filemode((plain.root / "d").stat().st_mode) == "drwxr-xr-x"
    assert ((plain.root / "d/f").stat().st_uid, plain.root.stat().st_gid) == (os.getuid(), os.getgid())
    options = ("--uid=1234", "--gid=2345", "--file-mode=0666", "--dir-mode=0777", "--umask=027")
    chosen = mounts.start(*options)
    for name, mode in (("", 0o750), ("d", 0o750), ("d/f", 0o640)):
        found = (chosen.root / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, 1234, 2345), name


class Children(threading.Thread):
    """Watches a process and keeps the command line and the environment of itself and of every child it has."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.seen: dict[int, tuple[bytes, bytes]] = {}
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        own = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        while not self._ended.is_set():
            for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
                try:
                    for pid in map(int, path.read_text().split()):
                        found = Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/environ").read_bytes()
                        if found[0] not in (b"", own):  # until it has become another program it shows its parent's
                            self.seen[pid] = found
                except OSError:
                    continue  # it ended meanwhile
            time.sleep(0.0005)

    def end(self) -> list[tuple[bytes, bytes]]:
        self._ended.set()
        self.join(10)
        return list(self.seen.values())


def test_no_secret_is_shown_anywhere(mounts: Mounts, proxy: FaultProxy) -> None:
    """E8: no secret in the log at any level, in `ps`, in `/proc/PID/environ` of children, in tracebacks."""
    mounted = mounts.start("--log-level=debug", endpoint_url=proxy.endpoint_url, plant="handler-bugs")
    mounted.expect(".")
    secret = mounts.place.server.secret_key
    children = Children(mounted.pid)
    (mounted.root / "f").write_bytes(b"x" * 100_000)
    (mounted.root / "f").read_bytes()
    for plant in ("plant-KeyError", "plant-MemoryError"):
        with pytest.raises(OSError, match="Input/output"):
            os.stat(mounted.root / plant)
    proxy.add(Rule(fault="error", status=403, code="SignatureDoesNotMatch", key="refused"))
    proxy.add(Rule(fault="reset", key="broken"))
    for name in ("refused", "broken"):
        with pytest.raises(OSError):
            os.stat(mounted.root / name)
    proxy.clear()
    commands = [Path(f"/proc/{mounted.pid}/cmdline").read_bytes()]
    holder = python(HOLDER, mounted.root / "held")
    assert hear(holder) == "holding"
    mounted.signal(signal.SIGTERM)
    assert eventually(lambda: "held" in mounts.place.names())
    say(holder, "enough")
    finish(holder)
    mounted.wait()
    found = children.end()
    assert found, "the daemon was expected to start a process at SIGTERM"
    for command, given in found:
        commands.append(command)
        assert secret.encode() not in given
        assert b"AWS_" not in given
    assert not any(secret.encode() in command for command in commands)
    told = mounted.log + mounted.stderr
    assert "Traceback" in told
    assert " DEBUG " in told
    assert secret not in told
    assert "Signature=" not in told


def test_mount_returns_when_it_serves_and_umount_ends_it(place: Place, mounts: Mounts, tmp_path: Path) -> None:
    """`s3mount mount` returns 0 once the mount serves requests; `s3mount umount` ends the daemon."""
    root, log = tmp_path / "mnt", tmp_path / "log"
    root.mkdir()
    place.put("f", b"there")
    entry = [sys.executable, "-m", "tests.e2e.entry"]
    given = {**environment(place.server), "S3MOUNT_LOG_FILE": str(log), "S3MOUNT_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "s3mount.toml").write_text(f'endpoint-url = "{place.server.endpoint_url}"\nlog-level = "debug"\n')
    done = subprocess.run(
        [*entry, "mount", place.url, root, f"--config={tmp_path / 's3mount.toml'}"],
        env=given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (root / "f").read_bytes() == b"there"
        (pid,) = [int(word.partition("pid=")[2]) for word in log.read_text().split() if word.startswith("pid=")]
        mounts.watchdog.guard(pid, root, tmp_path / "stacks")
        assert Path(f"/proc/{pid}").exists()
        succeed(*entry, "umount", root)
        assert eventually(lambda: not Path(f"/proc/{pid}").exists())
        mounts.watchdog.unguard(pid)
        assert connection_of(root) is None
    finally:
        detach(root)
