"""Watching a mount: metrics and probes of a running daemon, what `status` says when something is wrong, its log."""

import fcntl
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.asking import asked, told
from tests.e2e.mounting import ROOT, Mounted, Mounts, environment, eventually, finish, hear, python
from tests.e2e.test_bad_input import Attempt
from tests.e2e.watchdog import connection_of
from tests.proxy import FaultProxy, Rule

MIB = 1 << 20
METRICS = "--metrics-address=127.0.0.1:0"
PATIENCE_SECONDS = 60.0
PIPE_BYTES = 4096
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
os.write(fd, bytes(int(sys.argv[2])))
print("written", flush=True)
try:
    os.close(fd)
except OSError as error:
    print(error.errno, flush=True)
"""


def port_in(log: str) -> int:
    found = re.search(r"metrics are served.*127\.0\.0\.1:(\d+)", log)
    assert found is not None, log
    return int(found[1])


def ask(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def metrics(port: int) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and the values of their labels, sorted by the names of these."""
    status, page = ask(port, "/metrics")
    assert status == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            values = tuple(sample.labels[name] for name in sorted(sample.labels))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


def test_metrics_show_requests_dirty_bytes_uploads_caches_and_inodes_and_ask_the_store_nothing(
    mounts: Mounts, proxy: FaultProxy
) -> None:
    mount = mounts.start(METRICS, endpoint_url=proxy.endpoint_url)
    port = port_in(mount.log)
    (mount.root / "f").write_bytes(b"x" * 100)
    assert (mount.root / "f").read_bytes() == b"x" * 100
    mount.expect(r"s3mount\.store")
    proxy.add(Rule(fault="black_hole", kind="put", key="slow$"))
    writer = python(WRITER, mount.root / "slow", str(MIB))
    assert hear(writer) == "written"
    seen: dict[str, dict[tuple[str, ...], float]] = {}

    def under_way() -> bool:
        seen.update(metrics(port))
        return seen["s3mount_uploads_in_flight"][()] == 1

    assert eventually(under_way, PATIENCE_SECONDS)
    assert seen["s3mount_dirty_files"][()] == 1
    assert seen["s3mount_dirty_bytes"][()] == MIB
    status: Any = asked("status", mount.root)
    (dirty,), (upload,) = status["files"]["dirty"]["files"], status["files"]["uploads"]["under_way"]
    assert (dirty["path"], dirty["bytes"], dirty["open"]) == ("slow", MIB, True)
    assert 0 <= upload["seconds"] <= dirty["seconds"] <= status["uptime_seconds"] + 1
    assert "slow: 0 bytes of 1.0 MiB" in told("status", mount.root)
    proxy.clear()
    assert finish(writer) == 0
    after = metrics(port)
    assert (after["s3mount_dirty_bytes"][()], after["s3mount_uploads_in_flight"][()]) == (0, 0)
    answers: Any = asked("status", mount.root)["store"]["answers"]
    puts = next(one["count"] for one in answers if (one["operation"], one["status"]) == ("put", 200))
    assert after["s3mount_requests_total"]["put", "ok", "200"] == puts >= 2
    assert after["s3mount_request_seconds_count"]["put",] >= puts
    assert after["s3mount_sent_bytes_total"][()] >= MIB + 100
    assert after["s3mount_inodes"][()] >= 2
    assert after["s3mount_requests_total"]["put", "broken_connection", "0"] >= 1
    assert after["s3mount_cache_hits_total"]["names",] + after["s3mount_cache_misses_total"]["names",] >= 2
    assert after["s3mount_fuse_requests_total"]["write",] >= 1
    assert after["process_resident_memory_bytes"][()] > MIB
    assert after["s3mount_loop_heartbeat_age_seconds"][()] < PATIENCE_SECONDS
    proxy.forget()
    for _ in range(5):
        assert ask(port, "/healthz") == (200, "ok\n")
        assert ask(port, "/readyz") == (200, "ok\n")
        assert ask(port, "/metrics")[0] == 200
    assert proxy.requests() == []


def test_a_store_that_fails_makes_a_mount_unready_until_it_answers_and_healthy_all_the_time(
    mounts: Mounts, proxy: FaultProxy
) -> None:
    mount = mounts.start(METRICS, endpoint_url=proxy.endpoint_url)
    mount.expect("request failed", "store")
    port = port_in(mount.log)
    proxy.add(Rule(fault="error", status=503, code="SlowDown", kind="get"))
    (mount.root / "f").write_bytes(b"x" * 100)
    reader = subprocess.Popen(["cat", str(mount.root / "f")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert eventually(lambda: "not been reached" in ask(port, "/readyz")[1], PATIENCE_SECONDS)
    assert ask(port, "/readyz")[0] == 503
    assert ask(port, "/healthz")[0] == 200
    proxy.clear()
    assert eventually(lambda: ask(port, "/readyz")[0] == 200, PATIENCE_SECONDS)
    reader.wait(PATIENCE_SECONDS)


def test_status_names_what_went_wrong_with_what_to_do_and_metrics_count_it(mounts: Mounts, proxy: FaultProxy) -> None:
    mount = mounts.start(METRICS, endpoint_url=proxy.endpoint_url)
    mount.expect("request failed operation=flush", "file content dropped", "no policy allows it")
    assert "nothing is wrong" in told("status", mount.root)
    proxy.add(Rule(fault="error", kind="put", key="refused$", status=403, code="AccessDenied"))
    for _ in range(2):
        writer = python(WRITER, mount.root / "refused", "10")
        assert [hear(writer), hear(writer)] == ["written", "13"]
        assert finish(writer) == 0
    troubles: Any = asked("status", mount.root)["troubles"]
    (refusal,) = [one for one in troubles["latest"] if one["operation"] == "flush"]
    assert (refusal["errno"], refusal["count"], refusal["level"]) == ("EACCES", 2, "warning")
    assert "refused" in refusal["reason"]
    assert "policy" in refusal["remedy"]
    text = told("status", mount.root)
    assert text.splitlines()[2:4] == ["  nothing is wrong", "LATELY"]
    assert "request failed (flush EACCES)" in text
    assert "to do: check the credentials" in text
    samples = metrics(port_in(mount.log))
    assert samples["s3mount_fuse_errors_total"]["EACCES", "flush"] == 2
    assert samples["s3mount_requests_total"]["put", "denied", "403"] >= 2
    assert samples["s3mount_log_lines_total"]["warning",] >= 2


def test_a_log_of_json_has_one_object_a_line_and_a_level_that_follows_signals_and_the_socket(mounts: Mounts) -> None:
    mount = mounts.start("--log-format=json")
    changes: list[dict[str, Any]] = []
    assert told("log-level", mount.root) == "info\n"
    for act, line in (
        (lambda: mount.signal(signal.SIGUSR1), {"from": "info", "to": "debug", "by": "SIGUSR1"}),
        (lambda: mount.signal(signal.SIGUSR2), {"from": "debug", "to": "info", "by": "SIGUSR2"}),
        (lambda: told("log-level", mount.root, "error"), {"from": "info", "to": "error", "by": "s3mount log-level"}),
    ):
        act()

        def changed(expected: dict[str, str] = line) -> bool:
            lines = [json.loads(line) for line in mount.log.splitlines()]
            changes[:] = [line for line in lines if line["message"] == "log level was changed"]
            return bool(changes) and changes[-1].items() >= expected.items()

        assert eventually(changed, PATIENCE_SECONDS), mount.log
    assert len(changes) == 3
    assert told("log-level", mount.root) == "error\n"
    for line in map(json.loads, mount.log.splitlines()):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["logger"].startswith("s3mount")
        assert line["level"] in ("debug", "info")
    mounted = next(line for line in map(json.loads, mount.log.splitlines()) if line["message"] == "mounted")
    assert (mounted["pid"], mounted["mountpoint"]) == (mount.pid, str(mount.root))


@pytest.fixture
def attempt(mounts: Mounts, tmp_path: Path) -> Attempt:
    return Attempt(mounts.place, tmp_path)


def test_a_port_in_use_is_one_line_and_nothing_is_mounted(attempt: Attempt) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "choose a free port" in attempt.refused(f"--metrics-address=127.0.0.1:{port}", status=1)
    assert "--metrics-address" in attempt.refused("--metrics-address=9100", status=2)


class Piped:
    """A mount whose log goes to a pipe of one page that nobody reads unless told to. When it is full, the daemon's
    loop waits in write(2): stuck for real, by nothing but its surroundings."""

    def __init__(self, mounts: Mounts, proxy: FaultProxy) -> None:
        work = mounts.work / "piped"
        (work / "mnt").mkdir(parents=True)
        self.mounted = mounted = Mounted(mounts.place, work, mounts.watchdog, (METRICS,), proxy.endpoint_url)
        command = [word for word in mounted.command() if not word.startswith("--log-file")]
        mounted.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(mounts.place.server)
        )
        mounts.watchdog.guard(mounted.pid, mounted.root, work / "stacks")
        mounts.made.append(mounted)
        assert mounted.process.stderr is not None
        self._pipe: IO[bytes] = mounted.process.stderr
        self._drain: threading.Thread | None = None
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.log = ""
        while " mounted source=" not in self.log:
            line = self._pipe.readline().decode()
            assert line, f"it ended: {self.log}"
            self.log += line

    def drain(self) -> None:
        """Read all there is, and all that comes, until its end."""

        def read() -> None:
            with self._pipe:
                self._pipe.read()

        self._drain = threading.Thread(target=read)
        self._drain.start()

    def close(self) -> None:
        """Wait for the end of what is being read."""
        if self._drain is None:
            self._pipe.close()
        else:
            self._drain.join(PATIENCE_SECONDS)


@pytest.fixture
def piped(mounts: Mounts, proxy: FaultProxy) -> Iterator[Piped]:
    made = Piped(mounts, proxy)
    yield made
    made.close()


@pytest.mark.seconds(180)
def test_healthz_turns_bad_when_the_loop_is_stuck_and_good_when_it_runs_again_without_asking_the_store(
    piped: Piped, proxy: FaultProxy
) -> None:
    port = port_in(piped.log)
    (piped.mounted.root / "f").write_bytes(b"x")
    before = metrics(port)
    assert ask(port, "/healthz")[0] == 200
    # Each change of the level is a line.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while ask(port, "/healthz")[0] == 200:
        assert time.monotonic() < deadline
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            piped.mounted.signal(number)
            time.sleep(0.02)
    proxy.forget()
    assert re.search(r"the event loop was not heard of for \d\d+ s", ask(port, "/healthz")[1])
    assert ask(port, "/readyz")[0] == 503
    stuck = metrics(port)
    assert stuck["s3mount_inodes"] == before["s3mount_inodes"]
    assert stuck["s3mount_loop_heartbeat_age_seconds"][()] >= 10
    assert stuck["s3mount_snapshot_age_seconds"][()] >= 5
    assert proxy.requests() == []
    piped.drain()
    assert eventually(lambda: ask(port, "/healthz")[0] == 200, PATIENCE_SECONDS)
    assert (piped.mounted.root / "f").read_bytes() == b"x"
    piped.mounted.stop()


def test_a_daemon_in_the_background_serves_metrics_and_ends_with_the_mount(mounts: Mounts) -> None:
    work = mounts.work / "background"
    (work / "mnt").mkdir(parents=True)
    mounted = Mounted(mounts.place, work, mounts.watchdog, (METRICS,))
    words = mounted.command()[mounted.command().index("mount") :]
    command = [sys.executable, "-m", "tests.e2e.entry", *(word for word in words if word != "--foreground")]
    done = subprocess.run(command, env=environment(mounts.place.server), cwd=ROOT, capture_output=True, timeout=60)
    try:
        assert (done.returncode, done.stderr) == (0, b"")
        pid = asked("status", mounted.root)["mount"]["pid"]
        mounts.watchdog.guard(pid, mounted.root, work / "stacks")
        port = port_in(mounted.log)
        assert ask(port, "/readyz") == (200, "ok\n")
        assert told("status", mounted.root).splitlines()[2] == "  nothing is wrong"
        os.kill(pid, signal.SIGTERM)
        assert eventually(lambda: connection_of(mounted.root) is None, PATIENCE_SECONDS)
        assert eventually(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE_SECONDS)
        with pytest.raises(ConnectionRefusedError):
            ask(port, "/healthz")
    finally:
        mounted.kill()
