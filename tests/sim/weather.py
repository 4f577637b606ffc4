"""A wire over a simulated network: each request takes its time, and those that were drawn go wrong in one of the ways
that networks and stores have.

Stands where `store.wire.Wire` stands, so all that decides over repetitions, doubts and lost replies is the real code.
A request has its effect at one instant, between its way there and its way back; who is cancelled before it may see the
effect come later all the same, and so may who was told that the connection broke (`late`). Late effects are kept to
requests that carry a condition: nobody could be safe from others.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

import trio

from s3mount.store.exchange import (
    ConnectFailed,
    ConnectionBroken,
    CutBody,
    DeadlineExceeded,
    Reply,
    Request,
    Sink,
    Stalled,
)
from tests.sim.server import Answer, Server

Fault = Literal[
    "unreachable", "broken", "lost", "late", "500", "500-done", "503", "403", "412", "cut", "hang", "hang-done", "slow"
]
"""unreachable, broken: no effect, and the client may or may not know. lost, 500-done, hang-done: the effect, and no
word of it. late: the word that it broke, the effect some seconds after. 412: a condition that holds is said not to.
cut: half of the body comes. hang: no byte until the client gives up. slow: seconds, not milliseconds."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
SLOW_SECONDS = 10.0
LATE_SECONDS = 5.0
PIECE_BYTES = 3000
CONDITIONS = ("if-match", "if-none-match")
_REFUSALS: dict[str, tuple[int, str]] = {
    "500": (500, "InternalError"),
    "500-done": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "412": (412, "PreconditionFailed"),
}


@dataclass
class Weather:
    """What the requests of one mount meet. `faults`: by the number of a request, from 1, over all its lives."""

    draw: random.Random
    latency_seconds: float
    faults: dict[int, Fault] = field(default_factory=dict)
    # The mutable state: requests so far, until when nothing is reachable, and what went wrong when.
    count: int = 0
    down_until: float = 0.0
    hits: list[tuple[float, Fault]] = field(default_factory=list)
    lates: int = 0

    def next(self) -> Fault | None:
        """What becomes of one more request."""
        self.count += 1
        fault: Fault | None = self.faults.get(self.count)
        if fault is None and trio.current_time() < self.down_until:
            fault = "unreachable"
        if fault is not None:
            self.hits.append((trio.current_time(), fault))
        return fault

    def hit_since(self, time: float, *kinds: Fault) -> bool:
        return any(at >= time and (not kinds or kind in kinds) for at, kind in self.hits)

    def delay_seconds(self) -> float:
        return self.latency_seconds * self.draw.uniform(0.3, 1.7)


class SimulatedWire:
    """The wire of one life of one mount. `alive` turns false when its process dies: nothing is asked any more then.
    `acting` is told before and after each effect whose it is, and whether it comes late."""

    def __init__(
        self, server: Server, weather: Weather, nursery: trio.Nursery, acting: Callable[[bool | None], None]
    ) -> None:
        self._server = server
        self._weather = weather
        self._nursery = nursery
        self._acting = acting
        self.alive = True
        self.told: list[bytes] = []
        """The documents that named an upload, and reached us."""

    async def perform(self, request: Request, sink: Sink) -> Reply:
        """As `Wire.perform`."""
        await trio.lowlevel.checkpoint()
        if not self.alive:
            await trio.sleep_forever()
        fault = self._weather.next()
        if fault == "unreachable":
            await trio.sleep(self._weather.delay_seconds())
            raise ConnectFailed("the simulated network is down", sent=False)
        try:
            await self._travel(request, fault)
        except trio.Cancelled:
            if self._may_come_late(request) and self._weather.draw.random() < 0.5:
                self._begin_late(request)
            raise
        if fault == "broken":
            raise ConnectionBroken("broken by the simulation", sent=True)
        if fault == "late" and self._may_come_late(request):
            self._begin_late(request)
            raise ConnectionBroken("broken by the simulation, and not over", sent=True)
        conditional = any(name in CONDITIONS for name, _ in request.headers)
        if fault in ("500", "503", "403") or (fault == "412" and conditional):
            return await self._reply(request, sink, _refusal(fault), None)
        # The body is read now, not when the request began: it must not have changed since.
        answer = self._act(request, b"".join(bytes(piece) for piece in request.body), late=False)
        if fault in ("lost", "late"):
            raise ConnectionBroken("the reply was lost by the simulation", sent=True)
        if fault == "hang-done":
            await self._hang(request)
        return await self._reply(request, sink, _refusal("500-done") if fault == "500-done" else answer, fault)

    def _act(self, request: Request, body: bytes, *, late: bool) -> Answer:
        """The effect."""
        parts = urlsplit(request.url)
        self._acting(late)
        try:
            path = parts.path.removeprefix("/")
            return self._server.answer(request.method, path, parts.query, dict(request.headers), body)
        finally:
            self._acting(None)

    def _may_come_late(self, request: Request) -> bool:
        return request.mutating and any(name in CONDITIONS for name, _ in request.headers)

    def _begin_late(self, request: Request) -> None:
        """The request goes on without its caller, whose body is not touched any more."""
        self._nursery.start_soon(self._act_late, request, b"".join(bytes(piece) for piece in request.body))

    async def _act_late(self, request: Request, body: bytes) -> None:
        await trio.sleep(self._weather.draw.uniform(0.0, LATE_SECONDS))
        self._weather.lates += 1
        self._act(request, body, late=True)

    async def _travel(self, request: Request, fault: Fault | None) -> None:
        seconds = self._weather.delay_seconds()
        if fault == "slow":
            seconds += self._weather.draw.uniform(0.0, SLOW_SECONDS)
        if fault == "hang" or seconds > request.deadline_seconds:
            await self._hang(request)
        await trio.sleep(seconds)

    async def _hang(self, request: Request) -> None:
        if request.deadline_seconds < request.stall_seconds:
            await trio.sleep(request.deadline_seconds)
            raise DeadlineExceeded("no reply in the simulation", sent=True)
        await trio.sleep(request.stall_seconds)
        raise Stalled("no byte moved in the simulation", sent=True)

    async def _reply(self, request: Request, sink: Sink, answer: Answer, fault: Fault | None) -> Reply:
        await trio.sleep(self._weather.delay_seconds())
        if not 200 <= answer.status < 300:
            return Reply(answer.status, answer.headers, len(answer.body), answer.body)
        sink.head(answer.status, answer.headers)
        if request.method == "HEAD":
            return Reply(answer.status, answer.headers, 0)
        stop = len(answer.body) // 2 if fault == "cut" else len(answer.body)
        for start in range(0, stop, PIECE_BYTES):
            sink.data(memoryview(answer.body)[start : min(start + PIECE_BYTES, stop)])
            await trio.lowlevel.checkpoint()
        if fault == "cut":
            raise CutBody("cut by the simulation", sent=True)
        if request.method == "POST" and request.url.endswith("?uploads="):
            self.told.append(answer.body)
        return Reply(answer.status, answer.headers, stop)


def _refusal(fault: str) -> Answer:
    status, code = _REFUSALS[fault]
    body = f"<Error><Code>{code}</Code><Message>by the simulation</Message></Error>".encode()
    return Answer(status, {"content-length": str(len(body))}, body)
