"""What the wire does when the server, the network, the sink or the caller misbehaves."""

import socket
import ssl
from contextlib import ExitStack
from math import inf
from pathlib import Path

import pytest
import trio

from s3mount.store.wire import (
    BadHttp,
    CertificateRefused,
    ConnectFailed,
    ConnectionBroken,
    CutBody,
    DeadlineExceeded,
    IntoView,
    ReplyLost,
    SmallBody,
    Stalled,
    WireError,
)
from tests.hostile import TRICKLE_SECONDS, body_of, hostile
from tests.running import run_trio
from tests.servers import Tls, make_tls
from tests.wiring import asking, fetch, running_wire, server_context


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("cut", CutBody),
        ("cutsilent", CutBody),
        ("cutreset", CutBody),
        ("chunkedcut", CutBody),
        ("nobody", CutBody),
        ("unsized", BadHttp),
        ("garbage", BadHttp),
        ("reset", ConnectionBroken),
        ("close", ConnectionBroken),
    ],
)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@run_trio
async def test_a_reply_that_is_not_whole_is_an_error(
    path: str, kind: type[WireError], over_tls: bool, tls: Tls
) -> None:
    async with hostile(tls=server_context(tls) if over_tls else None) as server, running_wire(ca=tls.ca) as wire:
        for size in (1000, 500_000):
            target = f"/{path}/a?size={size}"
            memory = bytearray(size)
            sink = IntoView(memoryview(memory))
            with pytest.raises(kind) as caught:
                await wire.perform(asking(server.url + target), sink)
            assert caught.value.sent
            assert type(caught.value) is kind
            assert bytes(memory[: sink.filled]) == body_of(target, size)[: sink.filled]
            assert (await fetch(wire, server.url + "/ok/after"))[0].status == 200


@run_trio
async def test_what_comes_after_the_announced_length_is_not_delivered() -> None:
    async with hostile() as server, running_wire() as wire:
        for turn in range(3):
            target = f"/longer/{turn}"
            assert (await fetch(wire, server.url + target))[1] == body_of(target, 1000)


@run_trio
async def test_a_head_of_megabytes_is_refused() -> None:
    async with hostile() as server, running_wire() as wire:
        for size in (280_000, 2_000_000):
            with pytest.raises(BadHttp, match="head of more than"):
                await fetch(wire, f"{server.url}/longhead/a?size={size}")


@run_trio
async def test_a_refusal_before_the_body_was_sent_is_a_reply() -> None:
    async with hostile() as server, running_wire() as wire:
        body = (bytes(3_000_000),)
        reply, _ = await fetch(wire, server.url + "/early/a", "PUT", body=body, mutating=True)
        assert (reply.status, reply.error) == (403, b"<Denied/>")


@run_trio
async def test_success_before_the_body_was_sent_is_not_believed() -> None:
    async with hostile() as server, running_wire() as wire:
        with pytest.raises(WireError) as caught:
            await fetch(wire, server.url + "/hasty/a", "PUT", body=(bytes(60_000_000),), mutating=True)
        assert caught.value.sent
        assert 0 < caught.value.sent_bytes < 60_000_000


@run_trio
async def test_what_nobody_listens_on_is_no_connection() -> None:
    async with hostile() as server:
        port = server.port
    async with running_wire() as wire:
        for url in (f"http://127.0.0.1:{port}/", "http://nowhere.invalid/"):
            with pytest.raises(ConnectFailed) as caught:
                await fetch(wire, url, "PUT", body=(b"abc",), mutating=True)
            assert not caught.value.sent
            assert caught.value.sent_bytes == 0


@run_trio
async def test_a_connection_that_is_not_accepted_in_time_is_given_up() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # fill the backlog: the kernel drops what follows
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        async with running_wire(connect_timeout_seconds=0.3) as wire:
            started = trio.current_time()
            with pytest.raises(ConnectFailed) as caught:
                await fetch(wire, f"http://127.0.0.1:{listener.getsockname()[1]}/", stall_seconds=0.05)
            assert not caught.value.sent
            assert trio.current_time() - started >= 0.29


@run_trio
async def test_a_tls_handshake_that_is_not_answered_is_given_up(tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with running_wire(connect_timeout_seconds=0.3, ca=tls.ca) as wire:
            with pytest.raises(ConnectFailed):
                await fetch(wire, f"https://127.0.0.1:{listener.getsockname()[1]}/")


@run_trio
async def test_an_authority_that_is_not_ours_is_refused_in_words(tls: Tls, tmp_path: Path) -> None:
    other = make_tls(tmp_path)
    async with hostile(tls=server_context(tls)) as server:
        async with running_wire(ca=other.ca) as wire:
            with pytest.raises(CertificateRefused, match=r"certificate.*" + str(other.ca)) as caught:
                await fetch(wire, server.url + "/ok/a")
            assert not caught.value.sent
        (tmp_path / "nonsense.pem").write_text("no certificate")
        async with running_wire(ca=tmp_path / "nonsense.pem") as wire:
            with pytest.raises(CertificateRefused, match=r"nonsense\.pem"):
                await fetch(wire, server.url + "/ok/a")


@run_trio
async def test_a_certificate_of_another_host_is_refused(tls: Tls) -> None:
    async with hostile(tls=server_context(tls), host="127.0.0.2") as server, running_wire(ca=tls.ca) as wire:
        with pytest.raises(CertificateRefused, match=r"127\.0\.0\.2"):
            await fetch(wire, server.url + "/ok/a")


@run_trio
async def test_a_directory_of_authorities_is_only_that(tls: Tls, tmp_path: Path) -> None:
    async with hostile(tls=server_context(tls)) as server, running_wire(ca=tmp_path) as wire:
        with pytest.raises(CertificateRefused):
            await fetch(wire, server.url + "/ok/a")


@run_trio
async def test_tls_connections_are_reused_and_old_protocols_refused(tls: Tls) -> None:
    async with hostile(tls=server_context(tls)) as server, running_wire(ca=tls.ca) as wire:
        for turn in range(5):
            target = f"/ok/{turn}?size=300000"
            assert (await fetch(wire, server.url + target))[1] == body_of(target, 300_000)
        assert server.connections == 1
    old = server_context(tls)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with hostile(tls=old) as server, running_wire(ca=tls.ca) as wire:
        with pytest.raises(ConnectFailed):
            await fetch(wire, server.url + "/ok/a")


@pytest.mark.parametrize("path", ["hole", "holemid"])
@run_trio
async def test_a_transfer_that_moves_nothing_is_given_up(path: str) -> None:
    async with hostile() as server, running_wire() as wire:
        started = trio.current_time()
        memory = bytearray(1000)
        with pytest.raises(Stalled) as caught:
            request = asking(f"{server.url}/{path}/a", stall_seconds=0.2, deadline_seconds=inf)
            await wire.perform(request, IntoView(memoryview(memory)))
        assert caught.value.sent
        assert trio.current_time() - started >= 0.2


@run_trio
async def test_an_upload_nobody_reads_is_given_up() -> None:
    async with hostile(receive_buffer_bytes=4096) as server, running_wire() as wire:
        with pytest.raises(Stalled) as caught:
            request = asking(server.url + "/hole/a", "PUT", body=(bytes(30_000_000),), stall_seconds=0.2)
            await wire.perform(request, SmallBody())
        assert 0 < caught.value.sent_bytes < 30_000_000


@run_trio
async def test_an_upload_that_drains_slowly_from_the_kernels_buffer_is_no_stall() -> None:
    # All 400 kB are soon in libcurl's and the kernel's buffers; from then on only acknowledgements tell of progress.
    async with hostile(receive_buffer_bytes=4096) as server, running_wire() as wire:
        body = body_of("slow", 400_000)
        started = trio.current_time()
        request = asking(server.url + "/slowread/a", "PUT", body=(body,), stall_seconds=0.4)
        reply = await wire.perform(request, SmallBody())
        assert reply.status == 200
        assert trio.current_time() - started > 0.4


@run_trio
async def test_a_trickle_is_no_stall_but_has_a_deadline() -> None:
    async with hostile() as server, running_wire() as wire:
        size = int(1.5 / TRICKLE_SECONDS)
        target = f"/trickle/a?size={size}"
        _, body = await fetch(wire, server.url + target, stall_seconds=1.0)
        assert body == body_of(target, size)
        started = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await fetch(wire, server.url + "/trickle/a?size=100000", deadline_seconds=0.3)
        assert trio.current_time() - started >= 0.3


@run_trio
async def test_a_deadline_ends_a_request_that_is_not_answered() -> None:
    async with hostile() as server, running_wire() as wire:
        with pytest.raises(DeadlineExceeded) as caught:
            await fetch(wire, server.url + "/hole/a", deadline_seconds=0.2)
        assert caught.value.sent
        assert (await fetch(wire, server.url + "/ok/a"))[0].status == 200


class Faulty:
    """A sink that fails at its head, or at its second piece of data."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where = where
        self.error = error
        self.pieces = 0

    def head(self, status: int, headers: object) -> None:
        if self.where == "head":
            raise self.error

    def data(self, chunk: memoryview) -> None:
        self.pieces += 1
        if self.pieces == 2:
            raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError("sink"), KeyboardInterrupt("sink")])
@pytest.mark.parametrize("where", ["head", "data"])
@run_trio
async def test_what_a_sink_raises_is_raised_in_its_task_alone(where: str, error: BaseException) -> None:
    async with hostile() as server, running_wire() as wire:

        async def other() -> None:
            for turn in range(5):
                target = f"/ok/{turn}?size=1000000"
                assert (await fetch(wire, server.url + target))[1] == body_of(target, 1_000_000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            sink = Faulty(where, error)
            with pytest.raises(type(error), match="sink") as caught:
                await wire.perform(asking(server.url + "/ok/a?size=3000000"), sink)
            assert caught.value is error
            assert sink.pieces == (0 if where == "head" else 2)


@run_trio
async def test_a_body_that_cannot_be_read_is_raised_in_its_task() -> None:
    async with hostile() as server, running_wire() as wire:
        view = memoryview(bytearray(1_000_000))

        request = asking(server.url + "/ok/a", "PUT", body=(b"x" * 1000, view))
        view.release()
        with pytest.raises(ValueError, match="released"):
            await wire.perform(request, SmallBody())
        assert (await fetch(wire, server.url + "/ok/a"))[0].status == 200


@run_trio
async def test_a_body_longer_than_the_memory_for_it_is_refused() -> None:
    async with hostile() as server, running_wire() as wire:
        memory = bytearray(600)
        with pytest.raises(BadHttp, match="longer than"):
            await wire.perform(asking(server.url + "/ok/a?size=601"), IntoView(memoryview(memory)))
        with pytest.raises(BadHttp, match="longer than"):
            await wire.perform(asking(server.url + "/ok/a?size=601"), SmallBody(600))


@run_trio
async def test_a_cancelled_request_touches_neither_sink_nor_body_again() -> None:
    async with hostile() as server, running_wire() as wire:
        for turn in range(10):
            target = f"/ok/{turn}?size=20000000"
            memory = bytearray(20_000_000)
            got = trio.Event()
            sink = IntoView(memoryview(memory), lambda _, got=got: got.set())  # type: ignore[misc]  # bound here
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wire.perform, asking(server.url + target), sink)
                    await got.wait()
                    scope.cancel()
            assert scope.cancelled_caught
            filled = sink.filled
            memory[:] = bytes(len(memory))
            await fetch(wire, server.url + "/ok/b?size=1000000")
            assert sink.filled == filled < len(memory)
            assert memory.count(0) == len(memory)
            del sink, scope, nursery
            memory.append(0)  # a BufferError if anything still held a view of it
        async with trio.open_nursery() as nursery:
            body = bytearray(30_000_000)
            nursery.start_soon(wire.perform, asking(server.url + "/hole/up", "PUT", body=(body,)), SmallBody())
            await server.arrival("/hole/up").wait()
            nursery.cancel_scope.cancel()
        body.append(0)


@run_trio
async def test_a_cancelled_scope_sends_nothing() -> None:
    async with hostile() as server, running_wire() as wire:
        with trio.CancelScope() as scope:
            scope.cancel()
            await fetch(wire, server.url + "/ok/a")
        assert scope.cancelled_caught
        assert (await fetch(wire, server.url + "/ok/b"))[0].status == 200
        assert list(server.seen) == [("GET", "/ok/b")]


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
@run_trio
async def test_a_mutation_is_sent_once_even_when_its_connection_was_dead(method: str, over_tls: bool, tls: Tls) -> None:
    async with hostile(tls=server_context(tls) if over_tls else None) as server, running_wire(ca=tls.ca) as wire:
        await fetch(wire, server.url + "/doom/a")
        body = () if method == "DELETE" else (b"abc",)
        with pytest.raises(ReplyLost) as caught:
            await fetch(wire, server.url + "/ok/b", method, body=body, mutating=True)
        assert caught.value.sent
        assert server.seen[method, "/ok/b"] == 1
        assert (await fetch(wire, server.url + "/ok/b", method, body=body, mutating=True))[0].status == 200
        assert server.seen[method, "/ok/b"] == 2


@run_trio
async def test_a_request_that_changes_nothing_is_repeated_silently_when_its_connection_was_dead() -> None:
    async with hostile() as server, running_wire() as wire:
        for method, body in (("GET", ()), ("HEAD", ()), ("PUT", (b"abc", b"def"))):
            await fetch(wire, server.url + "/doom/a")
            reply, got = await fetch(wire, server.url + "/ok/b", method, body=body)
            assert reply.status == 200
            assert server.seen[method, "/ok/b"] == 2
            if method == "PUT":
                assert got == b"bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"


@run_trio
async def test_a_connection_closed_while_idle_is_not_used() -> None:
    # libcurl looks at most once a second; a mutation on a connection closed more recently ends as ReplyLost.
    async with hostile() as server, running_wire() as wire:
        for turn in range(3):
            await fetch(wire, f"{server.url}/idleclose/{turn}", "PUT", body=(b"abc",), mutating=True)
            await trio.sleep(1.1)
            assert not server.open_now
        assert server.connections == 3
