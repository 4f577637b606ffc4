"""Programs that hang are freed: by the daemon while it answers, by the kernel when it does not (`s3mount abort`)."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from s3mount import kernel
from s3mount.control import sockets
from tests.e2e.asking import begun, refused, s3mount
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, finish, hear, python, say
from tests.proxy import FaultProxy, Rule

CALLS = """
import os, sys
path = sys.argv[1]
calls = {
    "stat": lambda: os.stat(path + "/missing"),
    "read": lambda: open(path + "/large", "rb").read(),
    "mkdir": lambda: os.mkdir(path + "/made"),
    "rename": lambda: os.rename(path + "/from", path + "/to"),
    "fill": lambda: open(path + "/filled", "wb").write(bytes(64 << 20)),
}
try:
    calls[sys.argv[2]]()
except OSError as error:
    print(error.errno, flush=True)
else:
    print("done", flush=True)
"""
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
os.write(fd, b"written here")
print("written", flush=True)
sys.stdin.readline()
for call in (os.fsync, os.fsync, os.close):
    try:
        call(fd)
    except OSError as error:
        print(error.errno, flush=True)
    else:
        print("done", flush=True)
    sys.stdin.readline()
"""


def test_programs_that_wait_for_a_store_that_does_not_answer_get_an_error_and_the_mount_goes_on(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    place.put("d/large", b"x" * 3_000_000)
    place.put("d/from", b"moved")
    options = ("--metadata-ttl=0s", "--negative-ttl=0s", "--staging-limit=20MiB")
    mount = mounts.start(*options, endpoint_url=proxy.endpoint_url)
    mount.expect(
        "given up by", "request failed", "not stored", "content dropped", "write refused", "part sent ahead failed"
    )
    os.listdir(mount.root / "d")
    writer = python(WRITER, mount.root / "d/written")
    assert hear(writer) == "written"
    proxy.forget()
    proxy.add(Rule(fault="black_hole"))
    programs = {name: python(CALLS, mount.root / "d", name) for name in ("stat", "read", "mkdir", "rename", "fill")}
    try:
        say(writer, "")
        # The writer's fsync, and a name that one of the programs looks up by a HEAD and a LIST: if that is to make the
        # name, the directory's lock keeps all others from asking.
        assert eventually(lambda: proxy.counts()["put"] >= 1 and len(proxy.requests()) >= 3, 60)
        freed = s3mount("abort", mount.root)
        assert freed.returncode == 0, freed
        assert freed.stdout.endswith(" of programs failed, and what waited behind\n")
        assert int(freed.stdout.split()[0]) >= 2
        assert hear(writer) == "5"
        waiting = dict(programs)
        while waiting:  # those that came after them
            s3mount("abort", mount.root)
            waiting = {name: process for name, process in waiting.items() if process.poll() is None}
        told = {name: hear(process) for name, process in programs.items()}
        # Whose staging is full and can be freed by nobody is told just that.
        assert told.pop("fill") in ("5", "28")
        assert told == dict.fromkeys(told, "5")
        proxy.clear()
        say(writer, "")
        assert hear(writer) == "done"
        assert (mount.root / "d/large").read_bytes() == b"x" * 3_000_000
        assert place.get("d/written") == b"written here"
        assert "d/from" in place.names()
    finally:
        proxy.clear()
        for process in (writer, *programs.values()):
            finish(process)


def test_a_daemon_that_does_not_answer_is_given_up_by_force_and_stores_what_it_has(
    mount: Mounted, place: Place
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root ends a connection")
    holder = python(WRITER, mount.root / "held")
    assert hear(holder) == "written"
    subprocess.run(["sync", "-f", mount.root], check=True)
    mount.expect("file was lost", "file content dropped")
    mount.signal(signal.SIGSTOP)
    hung = subprocess.Popen(["stat", mount.root / "missing"], stderr=subprocess.PIPE, text=True)
    try:
        asking = begun("abort", mount.root)
        assert "does not answer within 1 s" in refused("healthcheck", "--timeout", "1s", mount.root)
        said = asking.communicate(timeout=60)[1]
        assert f"does not answer within 5 s: its log may say why; `s3mount abort --force {mount.root}`" in said
        assert hung.poll() is None
        forced = s3mount("abort", "--force", mount.root)
        assert forced.returncode == 0
        assert forced.stderr.count("\n") == 1
        assert "is dead until it is mounted again" in forced.stderr
        assert hung.wait(60) == 1
    finally:
        mount.signal(signal.SIGCONT)
        hung.communicate()
        finish(holder)
    mount.wait()
    mount.start()
    assert os.listdir(mount.root) == ["held"]
    assert (mount.root / "held").read_bytes() == b"written here"


def test_force_helps_where_the_daemon_cannot_even_be_asked(mount: Mounted) -> None:
    """Its socket is gone, and it does not run, so that it makes no other."""
    if os.geteuid() != 0:
        pytest.skip("only root ends a connection")
    entry = kernel.mount_at(mount.root)
    assert entry is not None
    mount.signal(signal.SIGSTOP)
    hung = subprocess.Popen(["stat", mount.root / "missing"], stderr=subprocess.PIPE, text=True)
    try:
        (sockets.directories(os.geteuid())[0] / sockets.name_of(entry.device)).unlink()
        assert "has no control socket" in refused("abort", mount.root)
        forced = s3mount("abort", "--force", mount.root)
        assert (forced.returncode, forced.stderr.count("\n")) == (0, 1)
        assert hung.wait(60) == 1
    finally:
        mount.signal(signal.SIGCONT)
        hung.communicate()
    mount.wait()
    mount.start()


def test_where_nothing_waits_one_line_says_so(mount: Mounted, tmp_path: Path) -> None:
    assert "is not below a mount of s3mount" in refused("abort", tmp_path)
    mount.crash()
    assert "has died" in refused("abort", mount.root)
