"""What the wire does when all is well: real sockets on loopback, real libcurl."""

import hashlib

import pytest
import trio

from s3mount.store.wire import IntoView, Reply, SmallBody, Wire, WireClosed, WireOptions
from tests.hostile import body_of, hostile
from tests.running import run_trio
from tests.wiring import asking, descriptors, fetch, running_wire


@run_trio
async def test_every_method_sends_and_receives_its_body() -> None:
    async with hostile() as server, running_wire() as wire:
        data = body_of("upload", 700_001)
        digest = hashlib.sha256(data).hexdigest().encode()
        for _ in range(2):  # the handle is recycled: each method follows each other one
            reply, body = await fetch(wire, server.url + "/ok/a?size=100000")
            assert reply.status == 200
            assert reply.received == 100_000
            assert body == body_of("/ok/a?size=100000", 100_000)
            reply, body = await fetch(wire, server.url + "/ok/a?size=123", "HEAD")
            assert (reply.headers["content-length"], reply.received, body) == ("123", 0, b"")
            pieces = (data[:5], b"", memoryview(data)[5:300_000], bytearray(data[300_000:]))
            reply, body = await fetch(wire, server.url + "/ok/b", "PUT", body=pieces, mutating=True)
            assert body == digest
            reply, body = await fetch(wire, server.url + "/ok/c", "POST", body=(b"<x/>",), mutating=True)
            assert body == hashlib.sha256(b"<x/>").hexdigest().encode()
            reply, body = await fetch(wire, server.url + "/ok/d", "DELETE", mutating=True)
            assert (reply.status, body) == (200, b"")
            for method in ("PUT", "POST"):
                reply, body = await fetch(wire, server.url + "/ok/e", method)
                assert body == hashlib.sha256(b"").hexdigest().encode()
        assert server.connections == 1
        assert set(server.seen.values()) == {2}


@run_trio
async def test_heads_carry_what_was_asked_and_nothing_curl_invents() -> None:
    async with hostile() as server, running_wire(user_agent="s3mount/test") as wire:
        headers = (("X-One", "1"), ("X-Empty", ""), ("Host", "bucket.example"))
        await fetch(wire, server.url + "/ok/a/./b/../c%20d?x=%2F&y=", "PUT", headers=headers, body=(b"abc",))
        first, *lines = server.heads[0].decode().split("\r\n")
        assert first == "PUT /ok/a/./b/../c%20d?x=%2F&y= HTTP/1.1"
        agent = "User-Agent: s3mount/test"
        assert lines == ["Host: bucket.example", agent, "X-One: 1", "X-Empty:", "Content-Length: 3"]
        await fetch(wire, server.url + "/ok/empty", "POST")
        assert server.heads[1].endswith(b"Content-Length: 0")


@run_trio
async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with hostile() as server, running_wire() as wire:
        assert (await fetch(wire, server.url + "/ok/a"))[0].status == 200


@run_trio
async def test_a_proxy_given_is_used_whatever_the_environment_excludes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    async with hostile() as server, running_wire(proxy=server.url) as wire:
        await fetch(wire, "http://elsewhere.invalid/ok/a")
        assert server.heads[0].startswith(b"GET http://elsewhere.invalid/ok/a HTTP/1.1")


@run_trio
async def test_bodies_fill_the_callers_memory_and_tell_how_far() -> None:
    async with hostile() as server, running_wire() as wire:
        target = "/ok/a?size=1000000"
        memory, steps = bytearray(1_000_000), list[int]()
        sink = IntoView(memoryview(memory), steps.append)
        reply = await wire.perform(asking(server.url + target), sink)
        assert bytes(memory) == body_of(target, 1_000_000)
        assert steps == sorted(steps)
        assert steps[-1] == sink.filled == reply.received == 1_000_000


@run_trio
async def test_error_bodies_are_kept_apart_and_bounded() -> None:
    async with hostile() as server, running_wire() as wire:
        memory = bytearray(b"untouched" * 10)
        reply = await wire.perform(asking(server.url + "/error/a"), IntoView(memoryview(memory)))
        assert (reply.status, reply.error, reply.headers["retry-after"]) == (503, b"<Error/>", "1")
        assert memory == b"untouched" * 10
        reply, body = await fetch(wire, server.url + "/bigerror/a?size=200000")
        assert (reply.received, body) == (200_000, b"")
        assert reply.error == body_of("/bigerror/a?size=200000", 200_000)[: 64 * 1024]


class Notes:
    """A sink that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def head(self, status: int, headers: object) -> None:
        self.calls.append(f"head {status}")

    def data(self, chunk: memoryview) -> None:
        self.calls.append("data")


@run_trio
async def test_the_head_comes_once_and_before_the_data() -> None:
    async with hostile() as server, running_wire() as wire:
        for path, first in (("ok/a", "head 200"), ("interim/a", "head 200"), ("error/a", "head 503")):
            sink = Notes()
            await wire.perform(asking(f"{server.url}/{path}"), sink)
            assert sink.calls[0] == first
            assert [call for call in sink.calls if call != "data"] == [first]
        sink = Notes()
        await wire.perform(asking(server.url + "/ok/a", "HEAD"), sink)
        assert sink.calls == ["head 200"]


@run_trio
async def test_chunked_bodies_interim_replies_long_heads_and_trailers_are_understood() -> None:
    async with hostile() as server, running_wire() as wire:
        for target in ("/chunked/a?size=50000", "/interim/a?size=5", "/longhead/a?size=150000", "/chunked/a?size=0"):
            reply, body = await fetch(wire, server.url + target)
            assert reply.status == 200
            assert body == body_of(target, reply.received)
            assert "link" not in reply.headers
            assert "x-trailer" not in reply.headers
        assert server.connections == 1


@run_trio
async def test_redirects_are_not_followed() -> None:
    async with hostile() as server, running_wire() as wire:
        reply, _ = await fetch(wire, server.url + "/redirect/a")
        assert (reply.status, reply.error) == (307, b"<Moved/>")
        assert sum(server.seen.values()) == 1


@run_trio
async def test_many_requests_share_few_connections() -> None:
    async with hostile() as server, running_wire(idle_connections_max=8, idle_handles_max=4) as wire:

        async def ask(task: int) -> None:
            for turn in range(25):
                target = f"/ok/{task}-{turn}?size={1000 + task}"
                assert (await fetch(wire, server.url + target))[1] == body_of(target, 1000 + task)

        async with trio.open_nursery() as nursery:
            for task in range(8):
                nursery.start_soon(ask, task)
        assert server.connections == 8
        assert len(wire._idle) == 4


@run_trio
async def test_a_large_transfer_does_not_hold_up_small_ones() -> None:
    async with hostile() as server, running_wire() as wire:
        done = list[str]()

        async def large() -> None:
            await fetch(wire, server.url + "/ok/large?size=60000000")
            done.append("large")

        async def small() -> None:
            await server.arrival("/ok/large?size=60000000").wait()
            for turn in range(5):
                await fetch(wire, f"{server.url}/ok/{turn}")
                done.append("small")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(large)
            nursery.start_soon(small)
        assert done == ["small"] * 5 + ["large"]


@run_trio
async def test_the_loop_gets_its_turn_during_bulk_transfers() -> None:
    async with hostile() as server, running_wire() as wire:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await fetch(wire, server.url + "/ok/large?size=40000000")
            nursery.cancel_scope.cancel()
        # At most 1 MiB or so is moved between two turns.
        assert turns > 40


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "http://user:secret@host/",
        "http://host/a#b",
        "http://host/a b",
        "http://host/a\r\nX: y",
        "http://host/\x7f",
        "http://host/ü",
        "http:///a",
        "file:///etc/passwd",
        "https://host/",  # no authorities to check it by
    ],
)
@run_trio
async def test_urls_that_are_not_plain_http_are_refused(url: str) -> None:
    async with running_wire() as wire:
        with pytest.raises(ValueError, match="http"):
            await fetch(wire, url)


@pytest.mark.parametrize(
    "header",
    [
        ("X-A", "a\r\nX-B: c"),
        ("X-A", "a\nb"),
        ("X-A", "\0"),
        ("X-A", "ü"),
        ("X-A\r\nX-B", "c"),
        ("X A", "c"),
        ("X:A", "c"),
        ("", "c"),
        ("Content-Length", "5"),
        ("Expect", "100-continue"),
    ],
)
@run_trio
async def test_headers_that_would_be_more_than_one_or_libcurls_own_are_refused(header: tuple[str, str]) -> None:
    async with hostile() as server, running_wire() as wire:
        with pytest.raises(ValueError, match="header"):
            await fetch(wire, server.url + "/ok/a", headers=(("X-Good", "1"), header))
        assert not server.seen
        assert (await fetch(wire, server.url + "/ok/a"))[0].status == 200


@run_trio
async def test_a_wire_that_stops_ends_its_requests_and_leaks_nothing() -> None:
    async with hostile() as server:
        before = descriptors()
        wire = Wire(WireOptions())
        errors = list[WireClosed]()

        async def ask(path: str) -> None:
            with pytest.raises(WireClosed) as caught:
                await fetch(wire, server.url + path)
            errors.append(caught.value)

        async with trio.open_nursery() as requests, trio.open_nursery() as driver:
            await driver.start(wire.run)
            await fetch(wire, server.url + "/ok/a")
            for path in ("/hole/a", "/holemid/a"):
                requests.start_soon(ask, path)
                await server.arrival(path).wait()
            assert repr(wire).startswith("<Wire running active=2 idle_handles=0 ")
            driver.cancel_scope.cancel()
        assert [error.sent for error in errors] == [True, True]
        assert repr(wire) == "<Wire stopped active=0 idle_handles=0 sockets=0>"
        with pytest.raises(WireClosed) as caught:
            await fetch(wire, server.url + "/ok/a")
        assert not caught.value.sent
        server.released.set()
        while server.open_now:
            await trio.lowlevel.checkpoint()
        assert descriptors() == before


@run_trio
async def test_an_unread_status_is_no_error() -> None:
    async with hostile() as server, running_wire() as wire:
        assert isinstance(await wire.perform(asking(server.url + "/error/a"), SmallBody()), Reply)
