"""What a service manager and a container runtime see of a daemon: readiness, status, watchdog, and a quick end."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mounting import Mounted, Mounts, environment, eventually, finish, hear, python
from tests.e2e.test_life_cycle import HOLDER
from tests.e2e.watchdog import connection_of
from tests.proxy import FaultProxy, Rule

WATCHDOG_SECONDS = 2.0
STUCK_SECONDS = 3.5
"""After so long a loop that stands still is missed."""
HEAR_SECONDS = 30.0
STOP_SECONDS = 2.0
TURNS = 8
"""The best of them counts: others use the machine, too."""


class ServiceManager:
    """The socket that systemd would listen at, and what was heard there."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(HEAR_SECONDS)

    def wait_for(self, fact: str) -> list[str]:
        """The first datagram that has a line which starts so."""
        while True:
            found = self._socket.recv(65536).decode().split("\n")
            if any(line.startswith(fact) for line in found):
                return found

    def heard(self) -> list[list[str]]:
        """All that waits."""
        found = []
        self._socket.settimeout(0)
        try:
            while True:
                found.append(self._socket.recv(65536).decode().split("\n"))
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(HEAR_SECONDS)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    listening = ServiceManager(tmp_path / "notify")
    yield listening
    listening.close()


def supervised(mounted: Mounted, manager: ServiceManager, *, watchdog_seconds: float) -> None:
    """Start the daemon of a mount under the service manager."""
    told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))}
    with (mounted.work / "stderr").open("ab") as stderr:
        mounted.process = subprocess.Popen(
            mounted.command(), stderr=stderr, env={**environment(mounted.place.server), **told}
        )
    mounted.watchdog.guard(mounted.pid, mounted.root, mounted.work / "stacks")


def test_a_service_manager_hears_when_the_mount_serves_what_is_dirty_and_that_it_ends(
    mounts: Mounts, proxy: FaultProxy, manager: ServiceManager
) -> None:
    """READY=1 comes after the root was listed and not before; no child could speak in the daemon's place."""
    mounted = mounts.prepare(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(fault="black_hole"))
    proxy.forget()
    supervised(mounted, manager, watchdog_seconds=60.0)
    assert eventually(lambda: bool(proxy.requests()), 30)
    assert manager.heard() == []
    proxy.clear()
    manager.wait_for("READY=1")
    assert connection_of(mounted.root) is not None
    assert os.listdir(mounted.root) == []
    holder = python(HOLDER, mounted.root / "held")
    assert hear(holder) == "holding"
    manager.wait_for("STATUS=1 files not in the bucket yet, 0 being uploaded")
    assert finish(holder) == 0
    manager.wait_for("STATUS=everything written is in the bucket")
    mounted.signal(signal.SIGTERM)
    assert "EXTEND_TIMEOUT_USEC=75000000" in manager.wait_for("STOPPING=1")
    assert mounted.wait() == 0


def test_a_loop_that_is_stuck_is_missed_and_an_outage_is_not(
    mounts: Mounts, proxy: FaultProxy, manager: ServiceManager
) -> None:
    """The watchdog is fed while requests wait for a store that is gone, and starves when the loop stands still: the log
    says where."""
    mounted = mounts.prepare("--read-only", endpoint_url=proxy.endpoint_url, plant="loop-bugs")
    supervised(mounted, manager, watchdog_seconds=WATCHDOG_SECONDS)
    manager.wait_for("READY=1")
    proxy.add(Rule(fault="black_hole"))
    waiting = subprocess.Popen(["ls", "-l", mounted.root / "unknown"], stderr=subprocess.DEVNULL)
    time.sleep(STUCK_SECONDS)
    manager.heard()
    manager.wait_for("WATCHDOG=1")
    proxy.clear()
    waiting.wait(60)
    stuck = subprocess.Popen(["ls", "-l", mounted.root / "plant-stuck"], stderr=subprocess.DEVNULL)
    manager.wait_for("STATUS=the event loop has not run")
    manager.heard()
    time.sleep(WATCHDOG_SECONDS)
    assert manager.heard() == []
    assert re.search("event loop stands still .*launch.py:.*:planted", mounted.log)
    mounted.expect("event loop stands still")
    mounted.crash()
    stuck.wait(60)


def child_of(process: "subprocess.Popen[bytes]") -> int:
    """The only child, once it is there."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert eventually(lambda: bool(path.read_text().split()))
    return int(path.read_text().split()[0])


def as_process_1(mounted: Mounted) -> "subprocess.Popen[bytes]":
    if os.geteuid() != 0:
        pytest.skip("needs root for process numbers of its own")
    with (mounted.work / "stderr").open("ab") as stderr:
        return subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", *mounted.command()],
            stderr=stderr,
            env=environment(mounted.place.server),
        )


def test_process_1_of_a_container_ends_at_once_when_idle(mounts: Mounts) -> None:
    """E2: SIGTERM as PID 1, idle: gone in under 2 s and out of mountinfo."""
    mounted = mounts.prepare()
    took = []
    for turn in range(TURNS):
        with as_process_1(mounted) as process:
            daemon = child_of(process)
            mounted.watchdog.guard(daemon, mounted.root, mounted.work / "stacks")
            assert eventually(lambda turn=turn: mounted.log.count(" mounted ") == turn + 1, 30)  # type: ignore[misc]
            assert f"\nNSpid:\t{daemon}\t1\n" in Path(f"/proc/{daemon}/status").read_text()
            assert os.listdir(mounted.root) == []
            began = time.monotonic()
            os.kill(daemon, signal.SIGTERM)
            assert process.wait(60) == 0
            took.append(time.monotonic() - began)
            mounted.watchdog.unguard(daemon)
        assert connection_of(mounted.root) is None
        if took[-1] < STOP_SECONDS:
            return
    pytest.fail(f"it took {took} seconds")


def test_process_1_of_a_container_that_still_starts_ends_at_once(mounts: Mounts, proxy: FaultProxy) -> None:
    """The kernel ignores for process 1 what it has no handler for: the runtime would wait and kill."""
    mounted = mounts.prepare(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(fault="black_hole"))
    proxy.forget()
    with as_process_1(mounted) as process:
        daemon = child_of(process)
        mounted.watchdog.guard(daemon, mounted.root, mounted.work / "stacks")
        assert eventually(lambda: bool(proxy.requests()), 30)
        os.kill(daemon, signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        mounted.watchdog.unguard(daemon)
    assert connection_of(mounted.root) is None
