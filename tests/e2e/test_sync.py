"""`s3mount sync`: what it stores before it returns, what it says of what it could not store, what it leaves alone."""

import os
import signal
import subprocess

from tests.e2e.asking import begun, s3mount, told
from tests.e2e.mounting import Mounted, Mounts, Place, finish, hear, python, say
from tests.proxy import FaultProxy, Rule

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, b"x" * int(sys.argv[2]))
print("written", flush=True)
sys.stdin.readline()
try:
    os.close(fd)
except OSError as error:
    print(error.errno, flush=True)
else:
    print("closed", flush=True)
"""
MAPPER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
os.ftruncate(fd, 10)
shown = mmap.mmap(fd, 10)
os.close(fd)
shown[:] = b"mapped it!"
print("mapped", flush=True)
sys.stdin.readline()
shown.close()
print("unmapped", flush=True)
sys.stdin.readline()
"""


def test_what_programs_have_written_is_in_the_bucket_when_it_returns(mount: Mounted, place: Place) -> None:
    """Be it in the kernel's pages only, or in a mapping whose descriptor is closed."""
    writers = [python(WRITER, mount.root / f"f{number}", "100000") for number in range(5)]
    mapper = python(MAPPER, mount.root / "map")
    try:
        assert [hear(writer) for writer in writers] == ["written"] * 5
        assert hear(mapper) == "mapped"
        assert told("sync", mount.root) == ""
        assert [place.get(f"f{number}") for number in range(5)] == [b"x" * 100_000] * 5
        assert place.get("map") == b"mapped it!"
        for writer in writers:
            say(writer, "")
            assert hear(writer) == "closed"
    finally:
        for process in (*writers, mapper):
            finish(process)


def test_attributes_that_are_held_and_deletions_that_wait_are_done_when_it_returns(
    mount: Mounted, place: Place
) -> None:
    for number in range(30):
        (mount.root / f"f{number:02}").write_bytes(b"x")
    (mount.root / "f00").chmod(0o600)
    (mount.root / "f01").chmod(0o640)
    removed = [mount.root / f"f{number:02}" for number in range(10, 30)]
    subprocess.run(["rm", *removed], check=True)
    assert told("sync", mount.root) == ""
    assert [name for name in place.files() if name.startswith("f")] == [f"f{number:02}" for number in range(10)]
    assert place.head("f01")["Metadata"]["mode"] == str(0o100640)


def test_when_nothing_is_to_be_done_nothing_is_said_or_asked(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    mount = mounts.start(endpoint_url=proxy.endpoint_url)
    (mount.root / "file").write_bytes(b"x")
    reader = (mount.root / "file").open("rb")
    with reader:
        proxy.forget()
        assert told("sync", mount.root) == ""
        assert proxy.requests("file$") == []


def test_what_could_not_be_stored_is_named_and_its_program_is_told_by_its_own_close(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    mount = mounts.start(endpoint_url=proxy.endpoint_url)
    mount.expect("file not stored", "request failed", "file content dropped", "denied")
    writers = {name: python(WRITER, mount.root / name, "1000") for name in ("good", "bad")}
    try:
        assert [hear(writer) for writer in writers.values()] == ["written"] * 2
        proxy.add(Rule(fault="error", method="PUT", key="bad$", status=403, code="AccessDenied"))
        done = s3mount("sync", mount.root)
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if " of " not in line]
        assert line.startswith("s3mount: bad: ")
        assert "403" in line or "AccessDenied" in line
        assert place.get("good") == b"x" * 1000
        say(writers["bad"], "")
        assert hear(writers["bad"]) == "13"
        assert place.files() == ["good"]
    finally:
        for process in writers.values():
            finish(process)


def test_time_and_interrupt_end_the_waiting_and_not_the_upload_and_a_terminal_has_a_bar(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    mount = mounts.start(endpoint_url=proxy.endpoint_url)
    writer = python(WRITER, mount.root / "slow", "3000000")
    ours, theirs = os.openpty()
    try:
        assert hear(writer) == "written"
        proxy.add(Rule(fault="black_hole", method="PUT", key="slow$"))
        at_terminal = begun("sync", mount.root, output=theirs)
        said = b""
        while b"[....................] 0 of 1 stored, 0.0 of 2.9 MiB" not in said:
            said += os.read(ours, 65536)
        timed = s3mount("sync", "--timeout", "6s", mount.root)  # the kernel is asked first
        assert timed.returncode == 1
        assert timed.stderr.splitlines()[-1] == "s3mount: slow: not stored within 6s; it goes on"
        assert "s3mount: 0 of 1 stored, 0.0 of 2.9 MiB" in timed.stderr
        interrupted = begun("sync", mount.root)
        assert interrupted.stderr is not None
        assert "0 of 1 stored" in interrupted.stderr.readline()
        interrupted.send_signal(signal.SIGINT)
        assert "what was begun goes on" in interrupted.communicate(timeout=60)[1]
        assert interrupted.returncode == 1
        assert place.files() == []
        proxy.clear()
        assert at_terminal.wait(60) == 0
        while not said.endswith(b"\r\x1b[K"):
            said += os.read(ours, 65536)
        assert place.get("slow") == b"x" * 3_000_000
    finally:
        os.close(ours)
        os.close(theirs)
        finish(writer)
