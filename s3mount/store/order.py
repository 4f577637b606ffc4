"""One request to be answered: what to send, where the reply goes, and what has become of it. Knows no operation."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from s3mount.store.base import Body
from s3mount.store.retry import Backoff, Limiter, Tries
from s3mount.store.wire import Sink, Wire


@dataclass(slots=True, kw_only=True)
class Order:
    """One request to be answered, and what happened to it."""

    name: str
    method: str
    path: str
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    carried: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Headers that options add; one may be a key."""
    body: Body = ()
    mutating: bool = False
    limiter: Limiter
    wire: Wire
    deadline_seconds: float
    stall_seconds: float
    prepare: Callable[["Order"], Sink] | None = None
    """Called before each attempt: gives its sink, and may change `headers`. None: a small document."""
    attempts_max: int | None = None
    urgent: bool = False
    """Nothing is lost by its failure, and programs make many such requests one after another: in an outage that has
    outlasted all patience it is made once."""
    throttled_is_refused: bool = False
    """An attempt that the store was too busy for leaves no doubt. Not so for what changes objects: stores may say it of
    a write that some of their disks have taken."""

    repeated: bool = False
    """A second request was made: a refusal may come from our own first one."""
    in_doubt: bool = False
    """An attempt may have had its effect, or may have it yet, without our knowing."""
    document: dict[str, str] = field(default_factory=dict)
    received_bytes: Callable[[], int] | None = None


class Course:
    """One order on its way: its tries, what was changed about how it is sent, what was so as its latest attempt
    began."""

    __slots__ = ("generation", "moved", "received", "renewed", "tries", "usable", "usable_at_first", "waiting")

    def __init__(self, backoff: Backoff, order: Order) -> None:
        began = trio.current_time()
        self.tries = Tries(
            backoff, began=began, deadline=began + order.deadline_seconds, attempts_max=order.attempts_max
        )
        self.moved = self.renewed = self.waiting = False
        self.generation = self.usable = self.usable_at_first = self.received = 0
