"""The limits that `s3mount status` shows: what is used of each, and what was at most."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from s3mount import kernel
from s3mount.config import MIB, Config
from s3mount.control import limits
from s3mount.control.server import REST_SECONDS, Server
from s3mount.control.status import status_text
from s3mount.data.removals import Removals
from s3mount.data.storage import Storage
from s3mount.store.retry import Limiter
from s3mount.store.wire import ConnectFailed, SmallBody, Stalled
from s3mount.underway import UnderWay
from s3mount.vfs.filesystem import FileSystem
from tests.hostile import hostile
from tests.kernel_model import ME
from tests.memory_store import MemoryStore, journal_of
from tests.paper import PaperInMemory
from tests.running import run_trio, run_virtual
from tests.wiring import asking, fetch, running_wire

STAGING_BYTES = 64 * MIB


class Connections:
    """What a store tells of its requests."""

    def __init__(self) -> None:
        self.limiter = Limiter(4)

    @property
    def connections(self) -> dict[str, dict[str, object]]:
        return {"metadata": self.limiter.figures}


@run_virtual
async def test_each_limit_tells_what_is_used_and_what_was_at_most(tmp_path: Path) -> None:
    store, config, asked = MemoryStore(), Config(bucket="b", memory_limit_bytes=128 * MIB), Connections()
    under_way, threads = UnderWay(), trio.CapacityLimiter(16)
    async with trio.open_nursery() as nursery:
        storage = Storage(
            store,
            config,
            nursery,
            staging_dir=tmp_path,
            staging_limit_bytes=STAGING_BYTES,
            journal=journal_of(store),
        )
        fs = FileSystem(store, storage, config, nursery, removals=Removals(PaperInMemory()))
        await fs.start()

        def told() -> dict[str, Any]:
            return limits.figures(config, fs, storage, asked, under_way, staging_threads=threads)

        before = told()
        assert before["memory"]["limit_bytes"] == 128 * MIB
        assert before["memory"]["option"] == "--memory-limit"
        assert before["memory"]["resident_most_bytes"] >= before["memory"]["resident_bytes"] > MIB
        assert before["staging"] == {
            "limit_bytes": STAGING_BYTES,
            "used_bytes": 0,
            "most_bytes": 0,
            "option": "--staging-limit",
        }
        assert (before["handles"], before["inodes"]) == ({"limit": None, "used": 0}, {"limit": None, "used": 1})
        fh, _ = await fs.create(1, b"f", 0o644, os.O_RDWR, ME)
        await fs.write(fh, 0, bytes(MIB))
        during = told()
        assert during["staging"]["used_bytes"] == during["staging"]["most_bytes"] == MIB
        assert during["unsent_in_memory"]["used_bytes"] >= MIB
        assert during["memory"]["used_bytes"] >= MIB
        assert (during["handles"]["used"], during["inodes"]["used"]) == (1, 2)
        await fs.flush(fh)
        await fs.release(fh)
        after = told()
        assert (after["staging"]["used_bytes"], after["staging"]["most_bytes"]) == (0, MIB)
        assert after["handles"]["used"] == 0
        assert after["memory"]["most_bytes"] >= MIB
        for number in [under_way.begin("read"), under_way.begin("flush")]:
            under_way.end(number)
        assert told()["kernel_requests"] == {"limit": config.requests_max, "used": 0, "most": 2}
        nursery.cancel_scope.cancel()


@run_virtual
async def test_requests_that_wait_for_their_turn_are_told(tmp_path: Path) -> None:
    limiter = Limiter(2)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(limiter.acquire)
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.figures == {"limit": 2, "used": 2, "most": 2, "waiting": 3, "at_present": 2}
        limiter.slower(trio.current_time())
        assert limiter.figures["at_present"] == 1
        for _ in range(5):
            limiter.release()
    assert limiter.figures == {"limit": 2, "used": 0, "most": 2, "waiting": 0, "at_present": 1}


def test_open_files_and_deadlines_are_those_of_the_process_and_the_config() -> None:
    before = limits._open_files()
    fd = os.open(os.devnull, os.O_RDONLY)
    during = limits._open_files()
    os.close(fd)
    assert isinstance(before["used"], int)
    assert during == {"limit": before["limit"], "used": before["used"] + 1}
    told = limits.deadlines(Config(bucket="b", stop_timeout_seconds=7.0))
    assert (told["metadata_request_seconds"], told["stop_seconds"]) == (60.0, 7.0)


@contextmanager
def no_more_files() -> Iterator[None]:
    """What is open stays, and nothing more can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@run_trio
async def test_without_descriptors_a_stalled_upload_is_found_and_a_connection_says_what_it_lacks() -> None:
    async with hostile() as server, running_wire() as wire:
        await fetch(wire, server.url + "/ok/a")  # whose connection the next one takes
        with no_more_files():
            with pytest.raises(Stalled):
                await wire.perform(
                    asking(server.url + "/hole/a", "PUT", body=(bytes(30_000_000),), stall_seconds=0.2), SmallBody()
                )
            with pytest.raises(ConnectFailed, match="Too many open files"):
                await fetch(wire, server.url + "/ok/b")
        assert (await fetch(wire, server.url + "/ok/c"))[0].status == 200


class Exhausted(trio.abc.Listener[trio.SocketStream]):
    """A listener that has no descriptor for a connection until `errors` are used up."""

    def __init__(self, errors: list[int], stream: trio.SocketStream) -> None:
        self.errors = errors
        self._stream = stream
        self.tries = 0

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.errors:
            raise OSError(self.errors.pop(), "no more")
        if self.tries < 0:
            await trio.sleep_forever()
        self.tries = -1000
        return self._stream

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@run_virtual
async def test_a_client_waits_in_line_while_no_descriptor_is_left_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    listener = Exhausted([errno.EMFILE, errno.ENFILE, errno.EMFILE], theirs)
    server = Server({}, Config(bucket="b"), uid=os.geteuid())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, listener)
        await ours.send_all(b'{"verb": "dance"}\n')
        began = trio.current_time()
        assert b"no such verb" in await ours.receive_some()
        assert trio.current_time() - began == 3 * REST_SECONDS
        nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "control connection was not accepted, it waits reason=no more"
    ]
    await ours.aclose()


def test_an_unmount_that_cannot_start_a_program_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kernel, "CHILD_ENVIRONMENT", {"PATH": str(tmp_path)})
    assert kernel.unmount(tmp_path / "mnt") == "fusermount3 was not started: No such file or directory"


def test_people_read_of_a_limit_in_one_line() -> None:
    told = {"memory": {"limit_bytes": 64 * MIB, "used_bytes": 0, "option": "--memory-limit"}}
    assert "limit bytes 67108864 (64.0 MiB), used bytes 0 bytes, option --memory-limit" in status_text({"limits": told})
