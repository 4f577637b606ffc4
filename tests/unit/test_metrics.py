"""Metrics and probes: what they answer while the loop runs, while it is stuck, and to clients that misbehave."""

import http.client
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from s3mount.calls import Calls
from s3mount.config import Config
from s3mount.errors import StartError, Unavailable
from s3mount.heartbeat import Heartbeat
from s3mount.logs.troubles import Troubles
from s3mount.metrics.answers import HEAD_MAX_BYTES, Question, question
from s3mount.metrics.endpoint import Endpoint, listen
from s3mount.metrics.families import text
from s3mount.metrics.probes import unhealthy, unready
from s3mount.metrics.snapshots import Snapshot
from s3mount.metrics.tables import CACHES, FIGURES
from s3mount.store.tally import FAILURES, Tally, outcome_of_failure, outcome_of_status
from s3mount.store.wire import CutBody, Stalled
from s3mount.vfs.journaled import Journaled
from tests.kernel_model import mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual
from tests.unit.journal_tables import Spool, Table
from tests.unit.test_status_text import WELL

PATIENCE_SECONDS = 30.0
"""For what comes at once on a machine that is not busy."""


# probes


def test_a_mount_is_healthy_while_its_loop_is_heard_of() -> None:
    assert unhealthy("serving", 9.9, healthy_seconds=10.0) == []
    assert unhealthy("serving", 42.0, healthy_seconds=10.0) == ["the event loop was not heard of for 42 s"]
    assert unhealthy("stopping", 42.0, healthy_seconds=10.0) != []
    for life in ("starting", "ending"):
        assert unhealthy(life, 42.0, healthy_seconds=10.0) == [], "nobody beats the heart then"


@pytest.mark.parametrize(
    ("life", "age", "outage", "said"),
    [
        ("serving", 1.0, None, []),
        ("serving", 1.0, {"since_seconds": 7.0, "reason": "503"}, ["the store has not been reached for 7.0 s: 503"]),
        ("starting", 1.0, None, ["the mount is starting"]),
        ("stopping", 1.0, None, ["the mount is stopping"]),
        ("serving", 12.0, None, ["the event loop was not heard of for 12 s"]),
    ],
)
def test_a_mount_is_ready_when_it_serves_and_the_store_answers(
    life: str, age: float, outage: dict[str, object] | None, said: list[str]
) -> None:
    assert unready(life, age, {"store": {"outage": outage}}, healthy_seconds=10.0) == said


def test_an_outage_is_a_metric_that_is_0_without_one() -> None:
    assert page({"store": {"outage": {"since_seconds": 850.0, "reason": "x"}}})["s3mount_store_outage_seconds"] == {
        (): 850.0
    }
    assert page(WELL)["s3mount_store_outage_seconds"] == {(): 0.0}


# figures as metrics


def page(figures: Mapping[str, object]) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels, of ours."""
    written = text(Snapshot(0.0, figures), heartbeat_age_seconds=0.5, snapshot_age_seconds=0.25).decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(written):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_figures_become_metrics_by_name_operation_and_status() -> None:
    samples = page(WELL)
    requests = samples["s3mount_requests_total"]
    assert requests[("operation", "get"), ("outcome", "slow_down"), ("status", "503")] == 4
    assert requests[("operation", "get"), ("outcome", "broken_connection"), ("status", "0")] == 1
    assert samples["s3mount_request_seconds_bucket"][("le", "+Inf"), ("operation", "get")] == 14
    assert samples["s3mount_request_seconds_sum"][("operation", "get"),] == 1.5
    assert samples["s3mount_cache_hits_total"][("cache", "memory"),] == 3
    assert samples["s3mount_fuse_errors_total"][("errno", "EIO"), ("operation", "lookup")] == 2
    for name, value in (
        ("s3mount_dirty_bytes", 0),
        ("s3mount_uploads_in_flight", 0),
        ("s3mount_inodes", 35),
        ("s3mount_received_bytes_total", 9 << 20),
        ("s3mount_loop_heartbeat_age_seconds", 0.5),
        ("s3mount_snapshot_age_seconds", 0.25),
    ):
        assert samples[name] == {(): value}
    assert samples["process_resident_memory_bytes"][()] > 1 << 20
    assert samples["process_open_fds"][()] > 2


def test_names_are_as_prometheus_asks_for() -> None:
    for name in page(WELL):
        assert re.fullmatch(r"(s3mount|process)_[a-z][a-z0-9_]*", name), name
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert all(figure.name.rpartition("_")[2] != "total" for figure in FIGURES), "the library adds it"


def test_a_daemon_that_starts_has_few_metrics_and_no_error() -> None:
    samples = page({})
    assert samples["s3mount_loop_heartbeat_age_seconds"] == {(): 0.5}
    assert "s3mount_dirty_bytes" not in samples


@run_virtual
async def test_every_figure_is_where_its_metric_looks_for_it_and_no_label_has_a_path(tmp_path: Path) -> None:
    store = MemoryStore()
    store.place("secret-name/f", b"x")
    store.place("secret-name//bad", b"x")
    async with mounted(store, tmp_path) as kernel:
        await kernel.listdir("secret-name")
        await kernel.write("secret-name/new", b"x")
        table = Table()
        spool = Spool(table)
        spool.park(table.add("secret-name/refused", 10), Unavailable("secret-name"))
        tally, calls, troubles = Tally(), Calls(), Troubles()
        tally.note("get", 200, "ok", tally.clock(), 0, 1)
        tally.note("get", 0, "timeout", tally.clock(), 0, 0)
        calls.failed("lookup", time.perf_counter(), 5)
        troubles.handle(logging.LogRecord("s3mount", logging.ERROR, "x", 1, "bad path=%s", ("secret-name",), None))
        figures = {
            "uptime_seconds": 3.0,
            "mount": WELL["mount"],
            "files": kernel.fs.figures,
            "write_back": Journaled(table, spool, "").figures(now_ns=time.time_ns),
            "storage": kernel.fs._tree.storage.figures,
            "store": {"clock_skew_seconds": 0, **tally.figures},
            "operations": calls.figures,
            "troubles": troubles.figures,
        }
        samples = page(figures)
        expected = {figure.name + ("_total" if figure.counts else "") for figure in FIGURES}
        assert {name for name in expected - samples.keys() if "_disk_" not in name} == set()
        assert samples["s3mount_write_back_refused"] == {(): 1.0}
        assert samples["s3mount_write_back_bytes"] == {(): 10.0}
        assert {dict(labels)["cache"] for labels in samples["s3mount_cache_hits_total"]} == CACHES.keys() - {"disk"}
        labels = {value for by_labels in samples.values() for labels in by_labels for _, value in labels}
        assert not any("secret-name" in label for label in labels)


def test_outcomes_are_a_closed_set_of_words() -> None:
    statuses = {outcome_of_status(status) for status in range(200, 600)}
    assert statuses == {"ok", "refused", "denied", "not_found", "conflict", "slow_down", "server_error"}
    assert outcome_of_failure(Stalled("x", sent=True)) == "timeout"
    assert outcome_of_failure(CutBody("x", sent=True)) == "broken_connection"
    assert FAILURES & statuses == {"slow_down", "server_error"}


# the server


class Loop(threading.Thread):
    """A trio loop in a thread of its own, with a heart whose clock the test holds. `block` makes it stuck for real."""

    def __init__(self, endpoint: Endpoint, figures: Callable[[], Mapping[str, object]]) -> None:
        super().__init__()
        self.now = 100.0
        self.heart = Heartbeat(lambda: self.now)
        self.gathered = 0
        self._endpoint = endpoint
        self._figures = figures
        self._ready = threading.Event()
        self._stuck = threading.Event()
        self._free = threading.Event()
        self._token: trio.lowlevel.TrioToken
        self._over: trio.Event

    def run(self) -> None:
        trio.run(self._main)

    async def _main(self) -> None:
        self._token, self._over = trio.lowlevel.current_trio_token(), trio.Event()
        self._endpoint.snapshots.open({"files": self._gather, "store": lambda: self._figures().get("store", {})})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.heart.run)
            self._ready.set()
            await self._over.wait()
            nursery.cancel_scope.cancel()

    def _gather(self) -> object:
        self.gathered += 1
        return self._figures().get("files", {})

    def __enter__(self) -> "Loop":
        self.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self.end()

    def end(self) -> None:
        try:
            self._token.run_sync_soon(self._over.set)
        except trio.RunFinishedError:
            return
        self.join(PATIENCE_SECONDS)

    def block(self) -> None:
        """Nothing of the loop runs from here on, and long enough for everybody to see it."""

        def wait() -> None:
            self._stuck.set()
            self._free.wait()

        self._token.run_sync_soon(wait)
        assert self._stuck.wait(PATIENCE_SECONDS)
        self.now += 60.0

    def go_on(self) -> None:
        self._free.set()


class Served:
    """A running server, and how to ask it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            assert reply.getheader("Connection") == "close"
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    def say(self, said: bytes) -> bytes:
        """All that is answered."""
        with self.connect() as connection:
            connection.sendall(said)
            return heard(connection)


def heard(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    told = b""
    try:
        while piece := connection.recv(65536):
            told += piece
    except ConnectionResetError:
        pass  # it had not read all
    return told


@contextmanager
def served(figures: Mapping[str, object], *, life: str = "serving", **options: object) -> Iterator[tuple[Served, Loop]]:
    config = Config(bucket="b", metrics_address=("127.0.0.1", 0), **options)  # type: ignore[arg-type]
    endpoint = listen(config)
    assert endpoint._listener is not None
    port = endpoint._listener.getsockname()[1]
    loop = Loop(endpoint, lambda: figures)
    with endpoint.served(loop.heart, lambda: life), loop:
        yield Served(port), loop


def sample(written: str, name: str) -> float:
    return float(next(line.split()[1] for line in written.splitlines() if line.startswith(f"{name} ")))


def test_a_stuck_loop_turns_healthz_bad_and_metrics_go_on_with_what_was_known(caplog: pytest.LogCaptureFixture) -> None:
    figures = {"files": {"names": {"inodes": 1}}}
    with served(figures) as (server, loop):
        assert server.ask("/healthz") == (200, "ok\n")
        assert server.ask("/readyz") == (200, "ok\n")
        assert sample(server.ask("/metrics")[1], "s3mount_inodes") == 1
        figures["files"] = {"names": {"inodes": 2}}
        assert sample(server.ask("/metrics")[1], "s3mount_inodes") == 2, "gathered anew for each who asks"
        loop.block()
        figures["files"] = {"names": {"inodes": 3}}
        for _ in range(3):
            assert server.ask("/healthz") == (503, "the event loop was not heard of for 60 s\n")
        assert server.ask("/readyz")[0] == 503
        status, written = server.ask("/metrics")
        assert (status, sample(written, "s3mount_inodes")) == (200, 2)
        assert sample(written, "s3mount_loop_heartbeat_age_seconds") == 60
        loop.go_on()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while server.ask("/healthz")[0] != 200:
            assert time.monotonic() < deadline
        assert sample(server.ask("/metrics")[1], "s3mount_inodes") == 3
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_loop_that_has_just_got_stuck_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with served({"files": {"names": {"inodes": 1}}}, metrics_fresh_seconds=0.01) as (server, loop):
        loop.block()
        loop.now -= 60.0  # nobody can know it yet
        assert sample(server.ask("/metrics")[1], "s3mount_inodes") == 1
        assert server.ask("/healthz")[0] == 200


def test_probes_of_health_ask_the_loop_nothing() -> None:
    with served({}) as (server, loop):
        before = loop.gathered
        for _ in range(5):
            server.ask("/healthz")
            server.ask("/nothing")
        assert loop.gathered == before


def test_a_loop_that_has_ended_is_not_asked() -> None:
    with served({"files": {"names": {"inodes": 7}}}, life="ending") as (server, loop):
        loop.end()
        assert sample(server.ask("/metrics")[1], "s3mount_inodes") == 7
        assert server.ask("/readyz") == (503, "the mount is ending\n")


def test_readyz_tells_why_not() -> None:
    with served({"store": {"outage": {"since_seconds": 9.0, "reason": "nobody is there"}}}) as (server, _):
        assert server.ask("/readyz") == (503, "the store has not been reached for 9.0 s: nobody is there\n")
        assert server.ask("/healthz")[0] == 200, "a store that is down is no reason to restart"


def test_a_bug_in_the_figures_ends_neither_loop_nor_server(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(dict[str, object]):
        def get(self, name: str, default: object = None) -> Any:
            raise KeyError(name)

    with served(Bad()) as (server, _):
        assert server.ask("/metrics")[0] == 200
        assert server.ask("/healthz")[0] == 200
    assert "figures could not be gathered" in caplog.text


def test_only_three_paths_and_two_methods_are_answered() -> None:
    with served({}) as (server, _):
        assert server.ask("/healthz?full=1")[0] == 200
        assert server.ask("/healthz", "HEAD") == (200, "")
        for path in ("/", "/metrics/", "/healthz/x", "/etc/passwd", "//metrics"):
            assert server.ask(path)[0] == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert server.ask("/metrics", method)[0] == 405
        assert server.say(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert server.say(b"GET /healthz HTTP/1.0\n\n").startswith(b"HTTP/1.1 200 ")
        assert server.say(b"GET /" + b"x" * (HEAD_MAX_BYTES + 5000)).startswith(b"HTTP/1.1 431 ")


def test_who_says_nothing_or_says_it_slowly_is_cut_off_and_others_are_answered_meanwhile() -> None:
    with served({}, metrics_request_seconds=1.0) as (server, _), server.connect() as silent, server.connect() as slow:
        slow.sendall(b"GET /metrics HT")
        assert server.ask("/healthz")[0] == 200
        assert heard(silent) == b""
        assert heard(slow) == b""
        assert server.ask("/healthz")[0] == 200


def test_who_does_not_take_the_answer_is_cut_off() -> None:
    many = [{"operation": f"{number}" * 100, "status": 200, "outcome": "ok", "count": 1} for number in range(50_000)]
    with served({"store": {"answers": many}}, metrics_request_seconds=1.0) as (server, _), socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(PATIENCE_SECONDS)
        lazy.connect(("127.0.0.1", server.port))
        lazy.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _is_connected(server.port, lazy.getsockname()[1]):
            assert time.monotonic() < deadline
            assert server.ask("/healthz")[0] == 200
        assert len(heard(lazy)) < 20_000_000


def _is_connected(port: int, peer: int) -> bool:
    """Whether the server's end of a connection is still held by anybody."""
    sought = (f"0100007F:{port:04X}", f"0100007F:{peer:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (fields[1], fields[2]) == sought:
            return fields[9] != "0"  # the inode of a descriptor
    return False


def test_when_all_connections_are_taken_the_one_goes_that_waited_longest_in_silence() -> None:
    with served({}, metrics_connections_max=3, metrics_request_seconds=600.0) as (server, _):
        silent = [server.connect() for _ in range(3)]
        try:
            assert server.ask("/healthz")[0] == 200
            assert heard(silent[0]) == b""
            silent[2].sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert heard(silent[2]).startswith(b"HTTP/1.1 200 ")
        finally:
            for connection in silent:
                connection.close()


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=3))
def test_whatever_is_said_is_a_question_or_not_yet_one(pieces: list[bytes]) -> None:
    for said in (b"".join(pieces), b"".join(pieces) + b"\r\n\r\n", b"GET " + pieces[0] + b" HTTP/1.1\r\n\r\n"):
        asked = question(said)
        assert asked is None or isinstance(asked, Question)
        assert asked is None or asked.refusal or asked.path in ("/metrics", "/healthz", "/readyz")


# the port


def test_a_port_in_use_an_address_of_another_machine_and_a_name_of_none_are_refused_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for host, words in (("127.0.0.1", "in use; choose a free port"), ("192.0.2.1", "an address of this machine")):
            with pytest.raises(StartError, match=f"--metrics-address {host}:{port}: .*{words}"):
                listen(Config(bucket="b", metrics_address=(host, port)))
    with pytest.raises(StartError, match=r"--metrics-address no-such-host\.invalid:1: "):
        listen(Config(bucket="b", metrics_address=("no-such-host.invalid", 1)))


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(StartError, match="pip install prometheus-client"):
        listen(Config(bucket="b", metrics_address=("127.0.0.1", 0)))


def test_the_library_is_loaded_only_for_those_who_want_metrics() -> None:
    code = "import sys, s3mount.inside; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
