"""The control socket: lines and limits, who is answered, where it is, which mount a path is in, what is shown."""

import errno
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from s3mount.config import Config
from s3mount.control import protocol, sockets, texts
from s3mount.control.paths import covering, locate
from s3mount.control.protocol import Request
from s3mount.control.server import Progress, Server, Verb, keep, permitted
from s3mount.control.status import status_text
from s3mount.errors import ControlError, Invalid, NoEntry
from s3mount.kernel import FSTYPE, Mount
from tests.running import run_virtual

OTHER = 4321


class Verbs:
    """Verbs of the tests; `held` are those that `wait` has been asked for, until `let_go`."""

    def __init__(self) -> None:
        self.waiting = 0
        self.cancelled = 0
        self.let_go = trio.Event()

    async def echo(self, request: Request, _progress: Progress) -> object:
        await trio.lowlevel.checkpoint()
        return {"path": protocol.path_of(request).decode("latin-1")}

    async def refuse(self, _request: Request, _progress: Progress) -> object:
        await trio.lowlevel.checkpoint()
        raise NoEntry("there is no such thing")

    async def break_down(self, _request: Request, _progress: Progress) -> object:
        await trio.lowlevel.checkpoint()
        raise KeyError("a bug")

    async def wait(self, _request: Request, progress: Progress) -> object:
        self.waiting += 1
        progress(3, 7)
        try:
            await self.let_go.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return {"done": True}

    def table(self) -> Mapping[str, Verb]:
        return {"echo": self.echo, "refuse": self.refuse, "break": self.break_down, "wait": self.wait}


class Daemon:
    """A server whose connections are socket pairs."""

    def __init__(self, nursery: trio.Nursery, **options: object) -> None:
        self.verbs = Verbs()
        self.server = Server(self.verbs.table(), Config(bucket="b", **options), uid=os.geteuid())  # type: ignore[arg-type]
        self.clients: list[trio.SocketStream] = []
        self._nursery = nursery

    def connect(self) -> trio.SocketStream:
        ours, theirs = socket.socketpair()
        self._nursery.start_soon(self.server._connected, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
        self.clients.append(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        return self.clients[-1]

    async def ask(self, said: bytes) -> list[dict[str, object]]:
        """All that is answered to a line."""
        async with self.connect() as stream:
            await stream.send_all(said)
            return [json.loads(line) for line in (await heard(stream)).splitlines()]


@asynccontextmanager
async def daemon(**options: object) -> AsyncIterator[Daemon]:
    async with trio.open_nursery() as nursery:
        running = Daemon(nursery, **options)
        yield running
        nursery.cancel_scope.cancel()
    for stream in running.clients:
        stream.socket.close()


async def heard(stream: trio.SocketStream) -> bytes:
    """All that comes until the other end closes, which it may do with something unread."""
    said = b""
    with suppress(trio.BrokenResourceError):
        async for piece in stream:
            said += piece
    return said


@run_virtual
async def test_a_line_is_answered_by_a_line() -> None:
    async with daemon() as running:
        assert await running.ask(b'{"verb": "echo", "path": "d/\\udcff"}\n') == [{"ok": {"path": "d/\xff"}}]


@run_virtual
async def test_a_refusal_has_words_and_an_errno() -> None:
    async with daemon() as running:
        assert await running.ask(b'{"verb": "refuse"}\n') == [
            {"error": "there is no such thing", "errno": errno.ENOENT}
        ]
        (unknown,) = await running.ask(b'{"verb": "dance"}\n')
        assert unknown["errno"] == errno.EINVAL
        assert "break, echo, refuse, wait" in str(unknown["error"])


@run_virtual
async def test_a_bug_in_a_verb_is_one_refusal_and_the_server_goes_on() -> None:
    async with daemon() as running:
        (answer,) = await running.ask(b'{"verb": "break"}\n')
        assert answer["errno"] == errno.EIO
        assert "KeyError" in str(answer["error"])
        assert (await running.ask(b'{"verb": "echo", "path": "x"}\n'))[0]["ok"]


@settings(deadline=None)  # a loop is started for each
@given(said=st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_whatever_is_said_is_answered_or_cut_off(said: bytes) -> None:
    @run_virtual
    async def once() -> None:
        async with daemon() as running:
            for answer in await running.ask(said + b"\n"):
                assert answer.keys() <= {"ok", "error", "errno"}
            assert (await running.ask(b'{"verb": "echo", "path": "x"}\n'))[0]["ok"]
            assert (running.server._working, len(running.server._unasked)) == (0, 0)

    once()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_request_has_a_path_or_is_invalid(value: object) -> None:
    request = {"verb": "echo", "path": value}
    try:
        path = protocol.path_of(protocol.read_line(protocol.line_of(request)))
    except Invalid:
        assert not isinstance(value, str) or "\0" in value or not value.isascii()
    else:
        assert os.fsdecode(path) == value


@given(st.binary(max_size=60).filter(lambda path: b"\0" not in path))
def test_every_path_of_the_kernel_travels_unharmed(path: bytes) -> None:
    line = protocol.line_of({"verb": "stat", "path": os.fsdecode(path)})
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert protocol.path_of(protocol.read_line(line)) == path


@run_virtual
async def test_a_line_without_end_is_refused_at_its_limit() -> None:
    async with daemon(control_line_max_bytes=1000) as running:
        (answer,) = await running.ask(b"x" * 1001)
        assert answer["errno"] == errno.EINVAL


@run_virtual
async def test_who_says_nothing_or_says_it_slowly_is_cut_off_in_time() -> None:
    async with daemon(control_request_seconds=5.0) as running:
        silent, slow = running.connect(), running.connect()
        began = trio.current_time()

        async def drip() -> None:
            with suppress(trio.BrokenResourceError):
                while True:
                    await slow.send_all(b" ")
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert await heard(silent) == b""
            assert await heard(slow) == b""
        assert trio.current_time() - began <= 7
        assert not running.server._unasked


@run_virtual
async def test_a_long_answer_is_announced_until_it_comes() -> None:
    async with daemon(control_beat_seconds=1.0) as running, trio.open_nursery() as nursery:

        async def let_go() -> None:
            await trio.sleep(3.5)
            running.verbs.let_go.set()

        nursery.start_soon(let_go)
        answers = await running.ask(b'{"verb": "wait"}\n')
        assert answers == [{"progress": 3, "total": 7}] * 3 + [{"ok": {"done": True}}]


@run_virtual
async def test_a_client_that_leaves_ends_the_work() -> None:
    async with daemon() as running:
        stream = running.connect()
        await stream.send_all(b'{"verb": "wait"}\n')
        await trio.sleep(0.5)
        assert running.verbs.waiting == 1
        await stream.aclose()
        await trio.sleep(3)
        assert (running.verbs.cancelled, running.server._working) == (1, 0)


@run_virtual
async def test_a_client_that_has_left_before_it_was_heard_is_not_worked_for() -> None:
    """A daemon that stood still comes to requests that nobody wants any more."""
    async with daemon() as running:
        ours, theirs = socket.socketpair()
        ours.sendall(b'{"verb": "wait"}\n')
        ours.close()
        await running.server._connected(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
        assert (running.verbs.waiting, running.server._working) == (0, 0)
        half = running.connect()
        await half.send_all(b'{"verb": "echo", "path": "x"}\n')
        await half.send_eof()  # it still listens
        assert json.loads(await heard(half))["ok"]


@run_virtual
async def test_a_client_that_takes_no_answer_is_let_go_of() -> None:
    async with daemon(control_request_seconds=5.0) as running:
        running.server._verbs = {"flood": flood}
        stream = running.connect()
        await stream.send_all(b'{"verb": "flood"}\n')
        await trio.sleep(20)
        assert running.server._working == 0
        await stream.aclose()


async def flood(_request: Request, _progress: Progress) -> object:
    await trio.lowlevel.checkpoint()
    return {"flood": "x" * 10_000_000}


@run_virtual
async def test_the_one_that_waited_longest_goes_when_there_are_too_many() -> None:
    async with daemon(control_connections_max=3) as running:
        streams = []
        for _ in range(4):
            streams.append(running.connect())
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            assert await heard(streams[0]) == b""
        assert len(running.server._unasked) == 3
        assert (await running.ask(b'{"verb": "echo", "path": "x"}\n'))[0]["ok"]


@run_virtual
async def test_when_all_are_being_answered_one_more_is_refused() -> None:
    async with daemon(control_connections_max=2) as running:
        streams = [running.connect(), running.connect()]
        for stream in streams:
            await stream.send_all(b'{"verb": "wait"}\n')
        await trio.sleep(0.1)
        assert (await running.ask(b'{"verb": "echo", "path": "x"}\n'))[0]["errno"] == errno.EAGAIN
        running.verbs.let_go.set()
        await trio.sleep(0.1)
        assert (await running.ask(b'{"verb": "echo", "path": "x"}\n'))[0]["ok"]


def test_only_the_daemons_user_and_root_are_answered() -> None:
    assert permitted(1000, 1000)
    assert permitted(0, 1000)
    assert not permitted(1001, 1000)
    assert not permitted(1000, 0)


def test_a_socket_may_be_at_a_path_longer_than_an_address(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 40) / ("longer" * 30)
    directory.parent.mkdir()
    bound = sockets.bind("0:57", among=(tmp_path / "file/none", directory), uid=os.geteuid())
    try:
        assert bound.path == directory / "0-57.sock"
        assert os.lstat(bound.path).st_mode & 0o777 == 0o600
        assert os.listdir(directory) == ["0-57.sock"]
        with sockets.opened(directory, os.geteuid()) as path, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path / bound.path.name))
            assert sockets.uid_in(client.getsockopt(*sockets.PEER)) == os.geteuid()
    finally:
        bound.socket.close()
    bound.remove()
    assert os.listdir(directory) == []


def test_a_stale_socket_is_replaced_and_a_successors_is_left_alone(tmp_path: Path) -> None:
    first = sockets.bind("0:5", among=(tmp_path / "s",), uid=os.geteuid())
    first.socket.close()
    second = sockets.bind("0:5", among=(tmp_path / "s",), uid=os.geteuid())
    first.remove()
    assert second.path.exists()
    second.socket.close()
    second.remove()
    assert not second.path.exists()


def test_what_killed_daemons_have_left_goes_and_what_anybody_listens_at_or_still_mounts_stays(tmp_path: Path) -> None:
    bound = {
        device: sockets.bind(device, among=(tmp_path / "s",), uid=os.geteuid()) for device in ("0:1", "0:2", "0:3")
    }
    (tmp_path / "s/.0-4.sock-9").touch()
    (tmp_path / "s/0-5.sock").touch()
    for device in ("0:1", "0:2"):
        bound[device].socket.close()
    sockets.sweep((tmp_path / "none", tmp_path / "s"), os.geteuid(), {"0:2"})
    bound["0:3"].socket.close()
    assert sorted(os.listdir(tmp_path / "s")) == [".0-4.sock-9", "0-2.sock", "0-3.sock", "0-5.sock"]


@run_virtual
async def test_a_socket_that_has_gone_is_made_anew_where_it_can_be(tmp_path: Path) -> None:
    """The directory of a login session ends before the mount."""
    places = (tmp_path / "session", tmp_path / "other")
    server = Server(Verbs().table(), Config(bucket="b"), uid=os.geteuid())
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(keep, server, "0:5", among=places, uid=os.geteuid()))
        os.unlink(places[0] / "0-5.sock")
        places[0].rmdir()
        places[0].touch()  # nothing can be made there any more
        await trio.sleep(40)
        stream = await trio.open_unix_socket(places[1] / "0-5.sock")
        await stream.send_all(b'{"verb": "echo", "path": "x"}\n')
        assert json.loads(await heard(stream)) == {"ok": {"path": "x"}}
        await stream.aclose()
        nursery.cancel_scope.cancel()
    assert os.listdir(places[1]) == []


@run_virtual
async def test_where_no_socket_can_be_made_the_mount_goes_on_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(Verbs().table(), Config(bucket="b"), uid=os.geteuid())
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(keep, server, "0:5", among=(tmp_path / "none/s",), uid=os.geteuid()))
    assert "control socket was not made" in caplog.text


@pytest.mark.parametrize("how", ["mode", "link", "owner"])
def test_a_directory_that_others_could_change_has_no_socket(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "s"
    uid = os.geteuid()
    if how == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "elsewhere")
    else:
        directory.mkdir()
        directory.chmod(0o777 if how == "mode" else 0o700)
    with pytest.raises(OSError, match=r"s\b"):
        sockets.bind("0:5", among=(directory,), uid=uid + 1 if how == "owner" else uid)
    assert os.listdir(directory) == []


ROOT = Mount("8:1", "/", "ext4", "/dev/vda")


def ours(mountpoint: str, root: str = "/") -> Mount:
    return Mount("0:50", mountpoint, FSTYPE, "s3://b", root, OTHER)


def test_a_path_is_in_the_longest_mount_above_it() -> None:
    table = [ROOT, ours("/m"), ours("/m/in ner"), Mount("0:9", "/m/tmp", "tmpfs", "tmpfs")]
    assert locate("/m", table).path == ""
    assert locate("/m//a/./b/../c/", table).path == "a/c"
    assert locate("/m/in ner/x", table).mount.mountpoint == "/m/in ner"
    assert locate("/m/in nerx", table).path == "in nerx"
    for elsewhere in ("/mm/x", "/", "/m/tmp/x", "/m/.."):
        with pytest.raises(ControlError, match="not below a mount of s3mount"):
            locate(elsewhere, table)
    assert locate("/anything", [ours("/")]).path == "anything"


def test_of_mounts_at_one_place_the_one_on_top_counts() -> None:
    below, above = ours("/m"), Mount("0:51", "/m", "tmpfs", "tmpfs")
    assert covering("/m/x", [ROOT, below, above]) is above
    assert covering("/m/x", [ROOT, above, below]) is below


def test_a_bind_mount_of_a_part_is_told_by_where_the_part_is() -> None:
    assert locate("/part/x", [ROOT, ours("/part", "/a/b")]).path == "a/b/x"


def test_links_outside_of_mounts_are_followed_and_none_inside_is_touched(tmp_path: Path) -> None:
    home = tmp_path.resolve()
    (home / "m").mkdir()
    (home / "m/link").symlink_to("/etc")  # behind the mountpoint: seen only by who looks into the mount
    (home / "a").symlink_to("b")
    (home / "b").symlink_to(home / "m")
    (home / "loop").symlink_to("loop")
    table = [ROOT, ours(str(home / "m"))]
    assert locate(str(home / "a/link/passwd"), table).path == "link/passwd"
    assert locate(str(home / "a"), table).path == ""
    with pytest.raises(ControlError, match="too many symbolic links"):
        locate(str(home / "loop/x"), table)


def test_text_for_people_carries_nothing_that_a_terminal_acts_on() -> None:
    answer = {
        "path": "a\x1b[2J\nb",
        "kind": "file",
        "key": "k\r",
        "state": "stored",
        "object": {"size": 1536, "metadata": {"evil": "\x9b31m"}, "last_modified_ns": 10**30, "headers": {}},
    }
    text = texts.stat_text(answer, "/m")
    assert all(line.isprintable() for line in text.splitlines())
    assert "1536 (1.5 KiB)" in text
    assert f"{10**30} ns" in text


def test_an_empty_path_names_nothing() -> None:
    with pytest.raises(ControlError, match="empty path"):
        locate("", [ROOT])


def test_an_answer_of_another_version_is_shown_as_far_as_it_is_known() -> None:
    assert "unknown" in status_text({})
    text = status_text({"mount": {"source": "s3://b"}, "later": {"queue": {"max_bytes": 1 << 20, "full": False}}})
    assert "queue                max bytes 1048576 (1.0 MiB), full no" in text
    assert texts.stat_text({}, "/m")
