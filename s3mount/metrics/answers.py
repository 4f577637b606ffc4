"""What each path is answered: the decisions of a small HTTP server, without its connections. No state of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from s3mount.config import Config
from s3mount.heartbeat import Heartbeat
from s3mount.metrics.families import CONTENT_TYPE, text
from s3mount.metrics.probes import unhealthy, unready
from s3mount.metrics.snapshots import Snapshots

HEAD_MAX_BYTES = 8 * 1024
PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
PATHS = ("/metrics", "/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Question:
    """A request that was understood, or why it was not: `refusal` is its status."""

    method: str = ""
    path: str = ""
    refusal: int = 0

    @property
    def needs_figures(self) -> bool:
        """Whether the loop should be asked first."""
        return not self.refusal and self.path in ("/metrics", "/readyz")


def question(received: bytes) -> Question | None:
    """The request in what has come; None while its head is not complete."""
    if b"\r\n\r\n" not in received and b"\n\n" not in received:
        return Question(refusal=431) if len(received) > HEAD_MAX_BYTES else None
    words = received.split(b"\n", 1)[0].decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return Question(refusal=400)
    method, target, _ = words
    path = target.partition("?")[0]
    refusal = 0 if path in PATHS else 404
    if method not in ("GET", "HEAD"):
        refusal = 405
    return Question(method, path, refusal)


class Answers:
    """See the module. `life` says whether the mount is starting, serving, stopping or ending."""

    def __init__(
        self,
        config: Config,
        heart: Heartbeat,
        life: Callable[[], str],
        snapshots: Snapshots,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._heart = heart
        self._life = life
        self._snapshots = snapshots
        self._clock = clock

    @property
    def loop_is_stuck(self) -> bool:
        """Whether it is of no use to ask the loop."""
        return self._heart.age_seconds >= self._config.healthy_seconds

    def to(self, asked: Question) -> bytes:
        """The whole reply."""
        if asked.refusal:
            return _reply(asked, asked.refusal, f"{PHRASES[asked.refusal].lower()}\n")
        if asked.path == "/metrics":
            latest = self._snapshots.latest
            page = text(
                latest,
                heartbeat_age_seconds=self._heart.age_seconds,
                snapshot_age_seconds=self._clock() - latest.at,
            )
            return _reply(asked, 200, page, kind=CONTENT_TYPE)
        config, life, age = self._config, self._life(), self._heart.age_seconds
        if asked.path == "/healthz":
            reasons = unhealthy(life, age, healthy_seconds=config.healthy_seconds)
        else:
            reasons = unready(life, age, self._snapshots.latest.figures, healthy_seconds=config.healthy_seconds)
        return _reply(asked, 503 if reasons else 200, "".join(f"{reason}\n" for reason in reasons) or "ok\n")


def _reply(asked: Question, status: int, body: str | bytes, *, kind: str = "text/plain; charset=utf-8") -> bytes:
    content = body.encode() if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status} {PHRASES[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(["Allow: GET, HEAD"] if status == 405 else []),
    ]
    head = "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"
    return head if asked.method == "HEAD" else head + content
