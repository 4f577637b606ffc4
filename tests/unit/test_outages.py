"""A store that is down, silent, too busy or refuses everything: how long requests are asked again, what is told.

Scenarios D1, D3, D4, D5 on the virtual clock, with the default deadlines."""

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio

from s3mount import errors
from s3mount.store.base import Headers
from s3mount.store.outage import PROBE_SECONDS, SILENCE_SECONDS, TOLD_SECONDS, Outage, watch
from s3mount.store.s3 import S3Store
from s3mount.store.wire import (
    BadHttp,
    CertificateRefused,
    ConnectFailed,
    ConnectionBroken,
    CutBody,
    Reply,
    Request,
    Sink,
)
from tests.running import run_virtual
from tests.scripted_wire import Script, date, refusal, scripted_store, success

Answer = tuple[int, dict[str, str], bytes]
CALLS: dict[str, Callable[[S3Store], Awaitable[object]]] = {
    "head": lambda store: store.head("k"),
    "list": lambda store: store.list_page(""),
    "get": lambda store: store.get("k", 0, memoryview(bytearray(4))),
    "put": lambda store: store.put("k", (b"body",), Headers()),
    "delete": lambda store: store.delete("k"),
    "copy": lambda store: store.copy("k", "t", source_etag='"1"'),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def until(seconds: float, trouble: Callable[[Request], Answer]) -> Script:
    """Trouble so long, then a store that is well."""

    async def script(request: Request) -> Answer:
        await trio.sleep(0.01)
        return trouble(request) if trio.current_time() < seconds else success(request)

    return script


async def silence(_request: Request) -> Answer:
    await trio.sleep_forever()


def broken(request: Request) -> Answer:
    raise ConnectionBroken(f"{request.method} {request.url}: reset", sent=True)


def refused(request: Request) -> Answer:
    raise ConnectFailed(f"{request.method} {request.url}: refused", sent=False)


TROUBLES: dict[str, Callable[[Request], Answer]] = {
    "503": lambda _: refusal(503, "SlowDown"),
    "429": lambda _: refusal(429, "TooManyRequests"),
    "500": lambda _: refusal(500, "InternalError"),
    "502": lambda _: refusal(502),
    "refused": refused,
    "reset": broken,
}


@every_call
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@run_virtual
async def test_half_a_minute_of_trouble_is_survived(
    trouble: Callable[[Request], Answer], call: Callable[[S3Store], Awaitable[object]]
) -> None:
    """D4: 503 or 429 for 30 s: everything slows down and succeeds. So does a store that restarts."""
    for seed in range(3):
        began = trio.current_time()
        store, wire = scripted_store(until(began + 30, trouble), seed=seed)
        await call(store)
        assert 30 <= trio.current_time() - began <= 30 + 5.1
        assert len(wire.sent) < 40


@every_call
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@run_virtual
async def test_trouble_for_good_is_an_error_in_time_and_never_an_answer(
    trouble: Callable[[Request], Answer], call: Callable[[S3Store], Awaitable[object]]
) -> None:
    """D4: for good: EIO, never ENOENT."""
    store, _ = scripted_store(until(1e9, trouble))
    with pytest.raises((errors.Unavailable, errors.LostReply)):
        await call(store)
    assert 50 <= trio.current_time() <= 60.1


@pytest.mark.parametrize(
    ("call", "seconds", "attempts"),
    [("head", 60, 3), ("list", 60, 3), ("delete", 60, 3), ("get", 75, 3), ("put", 75, 3), ("copy", 150, 2)],
)
@run_virtual
async def test_a_black_hole_is_left_in_time(call: str, seconds: float, attempts: int) -> None:
    """D1: a metadata request within its deadline; what moves bytes within retry and stall time-outs; a copy, about
    which a store may be silent for a minute while it works, asked twice."""
    store, wire = scripted_store(silence)
    with pytest.raises((errors.Unavailable, errors.LostReply)):
        await CALLS[call](store)
    assert len(wire.sent) == attempts
    assert seconds <= trio.current_time() <= seconds + 1
    wire.script = until(0, refused)
    await trio.sleep(SILENCE_SECONDS)
    await CALLS[call](store)


@run_virtual
async def test_who_only_looks_does_not_wait_each_time_for_as_long_in_a_long_outage() -> None:
    """D1: `cp` looks at its target five times before it gives up."""
    store, wire = scripted_store(silence)
    took = []
    for _ in range(4):
        began = trio.current_time()
        with pytest.raises(errors.Unavailable):
            await store.head("k")
        took.append(round(trio.current_time() - began))
    assert took == [60, 0, 0, 0]
    await trio.sleep(SILENCE_SECONDS)
    began = trio.current_time()
    with pytest.raises(errors.Unavailable):
        await store.head("k")
    assert round(trio.current_time() - began) == 25, "it may be over by now"
    await trio.sleep(SILENCE_SECONDS)
    began = trio.current_time()
    wire.script = until(began + 30, refused)
    with pytest.raises(errors.Unavailable):
        await store.head("k")
    assert trio.current_time() - began < 0.1
    await store.put("k", (b"what is to be stored is worth waiting for",), Headers())
    assert 30 <= trio.current_time() - began <= 35.1
    # As is the look at a key in doubt that comes before its next change.
    wire.script = silence
    with pytest.raises(errors.LostReply):
        await store.delete("doubted")
    began = trio.current_time()
    wire.script = until(began + 30, refused)
    store.counts.clear()
    await store.delete("doubted")
    assert 30 <= trio.current_time() - began <= 35.1
    assert store.counts["head"] > 1


@run_virtual
async def test_a_crowd_in_a_black_hole_is_not_served_one_stall_after_another() -> None:
    """D1: hundreds of programs wait for a few slots, each held for a stall time-out."""
    store, _ = scripted_store(silence)
    took: dict[str, float] = {}

    async def ask(name: str, number: int) -> None:
        with pytest.raises(errors.Unavailable):
            await CALLS[name](store)
        took[f"{name}{number}"] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(ask, "head", number)
            nursery.start_soon(ask, "get", number)
    assert max(seconds for name, seconds in took.items() if name.startswith("head")) <= 60.1
    assert max(took.values()) <= 60 + 2 * 20 + 25 + 1


@run_virtual
async def test_a_store_that_is_silent_once_is_asked_again() -> None:
    """Half-open: a connection whose other end is gone, without a word."""
    for call in CALLS.values():
        answers = iter([silence, until(0, refused)])

        async def script(request: Request, answers: object = answers) -> Answer:
            return await next(answers)(request)  # type: ignore[call-overload,no-any-return]

        store, wire = scripted_store(script)
        await call(store)
        assert len(wire.sent) == 2


@run_virtual
async def test_retry_after_is_honoured() -> None:
    store, wire = scripted_store(until(1.0, lambda _: refusal(503, "SlowDown", retry_after="7")))
    await store.head("k")
    (first, _), (second, _) = wire.sent
    assert 7 <= second - first <= 7.2


@run_virtual
async def test_what_time_does_not_heal_is_asked_a_few_times_only() -> None:
    def garbage(request: Request) -> Answer:
        raise BadHttp(f"{request.method} {request.url}: garbage", sent=True)

    store, wire = scripted_store(until(1e9, garbage))
    with pytest.raises(errors.Unavailable):
        await store.head("k")
    assert len(wire.sent) == 6
    assert trio.current_time() < 5


@run_virtual
async def test_a_start_without_a_store_fails_at_once_in_words() -> None:
    store, wire = scripted_store(until(1e9, refused))
    with pytest.raises(errors.StartError, match="check --endpoint-url, network and proxy"):
        await store.check()
    assert len(wire.sent) == 3
    assert trio.current_time() < 1


@run_virtual
async def test_concurrency_falls_while_the_store_says_slow_down_and_grows_again() -> None:
    """A store that serves four at a time and answers SlowDown to all others."""
    store, wire = scripted_store(silence)
    crowds: list[tuple[float, int]] = []
    limit = 4

    async def script(request: Request) -> Answer:
        crowd = wire.under_way
        crowds.append((trio.current_time(), crowd))
        await trio.sleep(0.05)
        return success(request) if crowd <= limit else refusal(503, "SlowDown")

    wire.script = script
    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(CALLS["get"], store)
    assert max(crowd for _, crowd in crowds) == 32
    assert max(crowd for seconds, crowd in crowds if seconds > 5) <= 8
    assert trio.current_time() < 60
    limit = 1000
    for _ in range(20):
        crowds.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(CALLS["get"], store)
    assert max(crowd for _, crowd in crowds) > 16


@run_virtual
async def test_a_list_never_waits_behind_uploads() -> None:
    """D3: every slot for uploads, small ones included, is held by a PUT of which nothing is heard; more wait."""

    async def script(request: Request) -> Answer:
        return success(request) if request.method in ("GET", "HEAD") else await silence(request)

    store, wire = scripted_store(script)
    async with trio.open_nursery() as nursery:
        for number in range(100):
            body = bytes(1_000_000) if number % 2 else b"small"
            nursery.start_soon(store.put, f"k{number}", (body,), Headers())
        await trio.testing.wait_all_tasks_blocked()
        assert wire.under_way == 32
        began = trio.current_time()
        await store.list_page("")
        await store.head("k")
        await CALLS["get"](store)
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()


# What is told.


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@run_virtual
async def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    store, _ = scripted_store(until(42, refused))
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(list(CALLS.values())[number % len(CALLS)], store)
        await trio.sleep(30)
        figure = store.figures["outage"]
        assert isinstance(figure, dict)
        assert figure["since_seconds"] == pytest.approx(30, abs=0.1)
        assert figure["reason"] == "refused"
    begun, ended = lines(caplog)
    assert begun.startswith("store unreachable since=2027-01-15T08:00:")
    assert begun.endswith("reason=refused requests_waiting=50")
    assert ended.startswith("store reachable again after_seconds=42")


@run_virtual
async def test_an_outage_ends_although_nobody_asks(caplog: pytest.LogCaptureFixture) -> None:
    store, wire = scripted_store(until(100, refused))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, store._requests.dispatcher.outage, store._requests._probe)
        await trio.sleep(50)
        assert not wire.sent
        with trio.move_on_after(20):  # the program was killed
            await store.head("k")
        assert store.figures["outage"] is not None
        await trio.sleep(100)
        assert store.figures["outage"] is None
        assert store.counts["probe"] <= 80 / PROBE_SECONDS
        asked = len(wire.sent)
        await trio.sleep(1000)
        assert len(wire.sent) == asked
        nursery.cancel_scope.cancel()


@run_virtual
async def test_a_look_whether_an_outage_is_over_may_fail_in_any_way() -> None:
    """The store says meanwhile that the bucket is elsewhere, and the settings for there cannot be had."""
    outage, asked = Outage(lambda: 0), 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        raise (errors.Unavailable("refused"), errors.StartError("no credentials were found within 30 s"))[asked % 2]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, outage, ask)
        outage.failed("refused", silent_seconds=0.0, usable_before=0, lasting=True)
        await trio.sleep(3.5 * PROBE_SECONDS)
        nursery.cancel_scope.cancel()
    assert asked == 3


@run_virtual
async def test_trouble_of_a_moment_or_of_one_request_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    store, wire = scripted_store(until(TOLD_SECONDS / 2, broken))
    await store.head("k")
    began = trio.current_time()

    async def script(request: Request) -> Answer:
        if request.method == "PUT" and trio.current_time() < began + 60:
            return await silence(request)
        if request.url.endswith("sick"):
            return refusal(503, "SlowDown")
        return success(request)

    wire.script = script
    async with trio.open_nursery() as nursery:
        nursery.start_soon(CALLS["put"], store)
        for _ in range(70):
            await store.head("well")
            await trio.sleep(1)
    async with trio.open_nursery() as nursery:

        async def others() -> None:
            while True:
                await store.head("well")
                await trio.sleep(1)

        nursery.start_soon(others)
        with pytest.raises(errors.Unavailable):
            await store.head("sick")
        nursery.cancel_scope.cancel()
    assert lines(caplog) == []


@run_virtual
async def test_a_body_that_comes_in_pieces_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Each connection is cut after 100 kB, for a minute and longer: what brings bytes is asked again without end."""
    size = 8_000_000
    store, wire = scripted_store(silence)

    async def perform(request: Request, sink: Sink) -> Reply:
        await trio.sleep(1)
        first = int(dict(request.headers)["range"].removeprefix("bytes=").split("-")[0])
        when = {"date": date(), "last-modified": date(-3600), "etag": '"1"'}
        sink.head(206, {**when, "content-range": f"bytes {first}-{size - 1}/{size}"})
        sink.data(memoryview(bytes(min(100_000, size - first))))
        if size - first > 100_000:
            raise CutBody(f"{request.method} {request.url}: cut", sent=True)
        return Reply(206, {**when, "content-range": f"bytes {first}-{size - 1}/{size}"}, size - first)

    wire.perform = perform  # type: ignore[method-assign]
    await store.get("k", 0, memoryview(bytearray(size)))
    assert trio.current_time() > 80
    assert store.counts["get"] == 80
    assert lines(caplog) == []


@run_virtual
async def test_a_clock_that_goes_wrong_is_an_error_in_words_until_it_is_right(caplog: pytest.LogCaptureFixture) -> None:
    """D5, while running."""
    store, wire = scripted_store(until(0, refused))
    await store.head("k")

    async def script(_request: Request) -> Answer:
        return 403, {"date": date(1200)}, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"

    wire.script = script
    for name, call in CALLS.items():
        with pytest.raises(errors.ClockSkew, match=r"the clock is 1(199|200) s off"):
            await call(store)
        assert store.counts[name] <= 2
    figure = store.figures["outage"]
    assert isinstance(figure, dict)
    assert str(figure["reason"]).endswith(" s off")
    wire.script = until(0, refused)
    for call in CALLS.values():
        await call(store)
    assert store.figures["outage"] is None
    assert len(lines(caplog)) == 2


@run_virtual
async def test_a_certificate_that_goes_bad_is_an_error_at_once_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def bad(request: Request) -> Answer:
        raise CertificateRefused(f"{request.method} {request.url}: certificate has expired", sent=False)

    store, wire = scripted_store(until(10, bad))
    for call in CALLS.values():
        with pytest.raises(errors.Unavailable, match="certificate has expired"):
            await call(store)
    assert len(wire.sent) == len(CALLS)
    await trio.sleep(10)
    for call in CALLS.values():
        await call(store)
    begun, ended = lines(caplog)
    assert "reason=certificate has expired" in begun
    assert "reachable again" in ended


@run_virtual
async def test_an_outage_is_known_as_soon_as_a_request_was_given_up() -> None:
    told = []
    outage = Outage(lambda: 0)
    outage.given_up()
    told.append(outage.figure)
    outage.failed("refused", silent_seconds=0.0, usable_before=0, lasting=False)
    told.append(outage.figure)
    outage.given_up()
    told.append(outage.figure)
    outage.answered()
    told.append(outage.figure)
    assert told == [None, None, {"since_seconds": 0.0, "reason": "refused"}, None]
