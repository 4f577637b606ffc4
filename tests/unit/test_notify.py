"""What a service manager is told, on a real socket, and when the watchdog is not fed."""

import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount import notify
from s3mount.heartbeat import Heartbeat
from s3mount.notify import STATUS_SECONDS, Pulse, Reports, Supervisor

RECEIVE_SECONDS = 20.0


class Listener:
    """A service manager's end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(RECEIVE_SECONDS)

    def hear(self) -> list[str]:
        return self._socket.recv(65536).decode().split("\n")

    def heard(self) -> list[list[str]]:
        """All that waits."""
        found = []
        self._socket.setblocking(False)
        try:
            while True:
                found.append(self._socket.recv(65536).decode().split("\n"))
        except BlockingIOError:
            return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def listener(address: str) -> Iterator[Listener]:
    listening = Listener(address)
    yield listening
    listening.close()


def heart_of_age(seconds: float) -> Heartbeat:
    now = [0.0]
    heart = Heartbeat(lambda: now[0])
    now[0] = seconds
    return heart


def test_what_is_told_is_one_datagram_with_a_line_for_each_fact(address: str, listener: Listener) -> None:
    Supervisor(address).tell("READY=1", "STATUS=well")
    assert listener.hear() == ["READY=1", "STATUS=well"]


def test_an_address_with_an_at_sign_is_an_abstract_socket() -> None:
    name = f"s3mount-test-{os.getpid()}"
    listening = Listener(f"\0{name}")
    try:
        found = notify.supervisor({"NOTIFY_SOCKET": f"@{name}"}, pid=1)
        assert found is not None
        found.tell("READY=1")
        assert listening.hear() == ["READY=1"]
    finally:
        listening.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"HOME": "/"}])
def test_without_a_socket_that_we_know_there_is_nobody(environ: dict[str, str]) -> None:
    assert notify.supervisor(environ, pid=7) is None


@pytest.mark.parametrize(
    ("period", "watched", "seconds"),
    [
        ("30000000", "7", 30.0),
        ("500000", None, 0.5),
        ("30000000", "8", None),
        (None, None, None),
        ("0", "7", None),
        ("soon", "7", None),
    ],
)
def test_a_watchdog_waits_for_the_process_it_names(
    period: str | None, watched: str | None, seconds: float | None
) -> None:
    given = {"NOTIFY_SOCKET": "/run/s", "WATCHDOG_USEC": period, "WATCHDOG_PID": watched}
    environ = {name: word for name, word in given.items() if word is not None}
    found = notify.supervisor(environ, pid=7)
    assert found == Supervisor("/run/s", seconds)


def test_children_do_not_inherit_what_would_let_them_speak_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, word in (("NOTIFY_SOCKET", "/run/none"), ("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", str(os.getpid()))):
        monkeypatch.setenv(name, word)
    assert notify.supervisor(os.environ, pid=os.getpid()) is not None
    code = "import os; print([name for name in os.environ if 'NOTIFY' in name or 'WATCHDOG' in name])"
    assert subprocess.check_output([sys.executable, "-I", "-c", code], text=True) == "[]\n"


def test_a_service_manager_that_is_gone_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Supervisor(str(tmp_path / "gone")).tell("READY=1")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "READY=1" in record.getMessage()


def test_the_watchdog_is_fed_while_the_heart_beats_and_not_while_it_stands(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    heart = Heartbeat(lambda: now)
    pulse = Pulse(heart, patience_seconds=5.0)
    me = threading.get_ident()
    now = 4.9
    assert pulse.facts(me) == ("WATCHDOG=1",)
    now = 5.1
    (said,) = pulse.facts(me)
    assert said.startswith("STATUS=the event loop has not run for 5 s")
    now = 8.0
    assert pulse.facts(me) == ()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "test_notify.py" in caplog.text
    now = 100.0
    trio.run(beat_once, heart, clock=trio.testing.MockClock(autojump_threshold=0))
    assert pulse.facts(me) == ("WATCHDOG=1",)


async def beat_once(heart: Heartbeat) -> None:
    with trio.move_on_after(0.5):
        await heart.run()


def test_a_loop_that_is_stuck_is_missed_by_the_watchdog(address: str, listener: Listener) -> None:
    """The thread goes on, and what it says last is where the loop stands; no sign of life comes any more."""
    reports = Reports(Supervisor(address, watchdog_seconds=0.02), heart_of_age(1000.0))

    async def stuck() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reports.run, lambda: "")
            await trio.testing.wait_all_tasks_blocked()
            (said,) = listener.hear()  # the loop waits here as in a system call that never returns
            assert said.startswith("STATUS=the event loop has not run")
            nursery.cancel_scope.cancel()

    trio.run(stuck)
    assert ["WATCHDOG=1"] not in listener.heard()


def test_a_loop_that_goes_on_says_again_how_it_is_doing(address: str, listener: Listener) -> None:
    """Or the service manager would show for ever that it stands still."""
    now = [0.0]
    heart = Heartbeat(lambda: now[0])
    reports = Reports(Supervisor(address, watchdog_seconds=0.02), heart)

    def said() -> str:
        return next(words for (words,) in iter(listener.hear, None) if words.startswith("STATUS="))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reports.run, lambda: "well")
            assert await trio.to_thread.run_sync(said) == "STATUS=well"
            now[0] = 1000.0
            assert (await trio.to_thread.run_sync(said)).startswith("STATUS=the event loop has not run")
            assert await trio.to_thread.run_sync(said) == "STATUS=well"
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(rate=100))  # it cannot jump: a thread sends


def test_a_loop_that_runs_feeds_the_watchdog_until_it_ends(address: str, listener: Listener) -> None:
    reports = Reports(Supervisor(address, watchdog_seconds=0.02), heart_of_age(0.0))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reports.run, lambda: "")
            for _ in range(3):
                assert await trio.to_thread.run_sync(listener.hear) == ["WATCHDOG=1"]
            nursery.cancel_scope.cancel()

    trio.run(run)
    for thread in threading.enumerate():
        if thread.name == "watchdog":
            thread.join(RECEIVE_SECONDS)
            assert not thread.is_alive()


def test_a_status_is_told_when_it_changes_and_not_oftener_than_every_few_seconds(
    address: str, listener: Listener
) -> None:
    words = ["well", "well", "dirty", "dirty", "well"]
    asked: list[float] = []
    reports = Reports(Supervisor(address), heart_of_age(0.0))

    def status() -> str:
        asked.append(trio.current_time())
        if len(asked) > len(words):
            scope.cancel()
            return words[-1]
        return words[len(asked) - 1]

    async def run() -> None:
        with scope:
            await reports.run(status)

    scope = trio.CancelScope()
    trio.run(run, clock=trio.testing.MockClock(rate=1000))  # it cannot jump: a thread sends
    assert listener.heard() == [["STATUS=well"], ["STATUS=dirty"], ["STATUS=well"]]
    assert all(later - sooner >= STATUS_SECONDS for sooner, later in itertools.pairwise(asked))


def test_the_end_is_told_once_with_the_time_that_storing_may_take(address: str, listener: Listener) -> None:
    reports = Reports(Supervisor(address), heart_of_age(0.0))

    async def end() -> None:
        await reports.ready()
        await reports.stopping(seconds=60.0)
        await reports.stopping(seconds=60.0)

    trio.run(end)
    ready, stopping = listener.heard()
    assert ready == ["READY=1"]
    assert stopping[0] == "STOPPING=1"
    assert stopping[-1] == "EXTEND_TIMEOUT_USEC=75000000"


def test_a_daemon_in_the_background_tells_which_process_it_is(address: str, listener: Listener) -> None:
    trio.run(Reports(Supervisor(address), heart_of_age(0.0), foreground=False).ready)
    assert listener.hear() == ["READY=1", f"MAINPID={os.getpid()}"]


def test_without_a_service_manager_nothing_is_asked_or_told() -> None:
    def status() -> str:
        raise AssertionError("nobody wants to know")

    async def run() -> None:
        reports = Reports(None, heart_of_age(0.0))
        await reports.run(status)
        await reports.ready()
        await reports.stopping(seconds=1.0)

    trio.run(run)
