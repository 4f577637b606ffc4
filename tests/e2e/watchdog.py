"""Frees what a hung mount holds: kills daemons and detaches mounts when a test is late, or when pytest itself is gone.

`Watchdog` is pytest's end; run as a program this file is the other one, a process of its own, because a page fault in a
mapped file on a hung mount holds pytest's interpreter lock, and a thread could do nothing. It never touches a mount.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

DUMP_SECONDS = 1.0
STUCK_SECONDS = 60.0
"""A test that goes on so long after its mounts were freed is stuck for good: pytest is killed."""


class Watchdog:
    """Pytest's end; one for a session. The mutable state is the other process's."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__)), str(report), str(os.getpid())],
            stdin=subprocess.PIPE,
            start_new_session=True,  # an interrupt at the terminal is for pytest; we are told by the end of the pipe
        )

    def arm(self, test: str, seconds: float) -> None:
        """From now on `test` has so many seconds."""
        self._report.unlink(missing_ok=True)
        self._tell("arm", test, seconds)

    def disarm(self) -> str:
        """The test has ended; what was done to it meanwhile, or nothing."""
        self._tell("disarm")
        return self._report.read_text(errors="replace") if self._report.exists() else ""

    def guard(self, pid: int, mountpoint: Path, stacks: Path) -> None:
        """This daemon and its mount go when the test is late."""
        self._tell("guard", pid, str(mountpoint), str(stacks))

    def unguard(self, pid: int) -> None:
        self._tell("unguard", pid)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)

    def _tell(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()


def connection_of(mountpoint: Path) -> int | None:
    """The number under /sys/fs/fuse/connections of the FUSE mount at this path (proc(5)); None when there is none."""
    for line in reversed(Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()):
        fields = line.split(" ")
        path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        if path == str(mountpoint) and " - fuse" in line:
            return int(fields[2].partition(":")[2])
    return None


def release(pid: int, mountpoint: Path) -> None:
    """Kill the daemon, abort its connection, detach the mount; whatever of it is there."""
    connection = connection_of(mountpoint)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    if connection is not None:
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{connection}/abort").write_text("1")
        detach(mountpoint)


def detach(mountpoint: Path) -> None:
    """Take everything mounted at this path out of the tree."""
    while connection_of(mountpoint) is not None:
        done = subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], capture_output=True, timeout=10)
        if done.returncode != 0:
            subprocess.run(["umount", "--lazy", "--no-canonicalize", str(mountpoint)], capture_output=True, timeout=10)
            return


def _threads(pid: int) -> str:
    """What each thread of a process waits for, as far as the kernel tells us."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        for name in ("wchan", "syscall"):
            with contextlib.suppress(OSError):
                lines.append(f"{task.name} {name}: {(task / name).read_text().strip()}")
    return "\n".join(lines)


class _Guard:
    """The other end's state: what is guarded, and the test with its deadline."""

    def __init__(self, report: Path, pytest_pid: int) -> None:
        self._report = report
        self._pytest = pytest_pid
        self._guarded: dict[int, tuple[Path, Path]] = {}
        self._test = ""
        self._deadline = float("inf")
        self._fired = False

    def run(self) -> None:
        rest = b""
        while True:
            left = min(self._deadline - time.monotonic(), 3600.0)
            if left <= 0:
                self._fire()
                continue
            if not select.select([0], [], [], left)[0]:
                continue
            found = os.read(0, 65536)
            if not found:
                break
            *lines, rest = (rest + found).split(b"\n")
            for line in lines:
                self._obey(json.loads(line))
        for pid, (mountpoint, _) in self._guarded.items():
            release(pid, mountpoint)

    def _obey(self, words: list[str | int | float]) -> None:
        match words:
            case ["arm", str() as test, int() | float() as seconds]:
                self._test, self._deadline, self._fired = test, time.monotonic() + seconds, False
            case ["disarm"]:
                self._deadline = float("inf")
            case ["guard", int() as pid, str() as mountpoint, str() as stacks]:
                self._guarded[pid] = (Path(mountpoint), Path(stacks))
            case ["unguard", int() as pid]:
                self._guarded.pop(pid, None)

    def _fire(self) -> None:
        if self._fired:
            os.kill(self._pytest, signal.SIGABRT)
            self._deadline = float("inf")
            return
        self._fired, self._deadline = True, time.monotonic() + STUCK_SECONDS
        told = [f"{self._test} was late; its mounts were killed by the watchdog"]
        for pid, (_, stacks) in self._guarded.items():
            for number in (signal.SIGRTMIN, signal.SIGRTMIN + 1):
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            time.sleep(DUMP_SECONDS)
            said = stacks.read_text(errors="replace") if stacks.exists() else ""
            told.append(f"--- daemon {pid}\n{_threads(pid)}\n{said}")
        told.append(f"--- pytest {self._pytest}\n{_threads(self._pytest)}")
        self._report.write_text("\n".join(told))
        for pid, (mountpoint, _) in self._guarded.items():
            release(pid, mountpoint)


if __name__ == "__main__":
    _Guard(Path(sys.argv[1]), int(sys.argv[2])).run()
