"""The warnings and errors of late: each kind once, with how often, when last, what about, and what to do.

A failure leaves one line at the boundary where it is known, so the lines are all there is to look at. Kinds are told
apart by the words of the line, its operation and the class of the exception; a bucket's content is in none of these,
and the number of kinds is bounded all the same.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from s3mount.logs.facts import Fact, fact_of
from s3mount.logs.remedies import remedy_of

KINDS_MAX = 50
REASON_MAX = 300
ABOUT = ("path", "key", "prefix", "directory", "from", "example")
"""The names under which lines say what they are about, the best first."""


class Trouble:
    """One kind."""

    __slots__ = ("count", "fact", "first", "last", "level")

    def __init__(self, record: logging.LogRecord, fact: Fact) -> None:
        self.count = 0
        self.first = record.created
        self.level = record.levelname.lower()
        self.note(record, fact)

    def note(self, record: logging.LogRecord, fact: Fact) -> None:
        self.count += 1
        self.last = record.created
        # The latest stands for all of its kind; no exception, whose frames would keep what they refer to.
        self.fact = Fact(fact.words, fact.fields)

    def told(self, kind: type[BaseException] | None, now: float) -> dict[str, object]:
        fields = self.fact.fields
        about = next((str(fields[name]) for name in ABOUT if name in fields), None)
        reason = fields.get("reason", fields.get("last_reason"))
        return {
            "what": self.fact.words,
            "level": self.level,
            "count": self.count,
            "operation": fields.get("operation"),
            "about": about,
            "errno": fields.get("errno"),
            "reason": None if reason is None else str(reason)[:REASON_MAX],
            "first_ns": round(self.first * 1e9),
            "last_ns": round(self.last * 1e9),
            "age_seconds": round(max(now - self.last, 0.0), 1),
            "remedy": remedy_of(self.fact.words, kind),
        }


class Troubles(logging.Handler):
    """See the module. Thread-safe as every handler is. The mutable state: the kinds, the latest last, and the counts
    of all."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, str, type[BaseException] | None], Trouble] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._note(record)
        except Exception:  # noqa: BLE001 - whoever writes a line must not meet what is wrong with it
            self.handleError(record)

    def _note(self, record: logging.LogRecord) -> None:
        fact = fact_of(record)
        error = type(fact.error) if fact.error is not None else None
        name = fact.words, str(fact.fields.get("operation", "")), error
        self._counts["errors" if record.levelno >= logging.ERROR else "warnings"] += 1
        known = self._kinds.get(name)
        if known is None:
            self._kinds[name] = Trouble(record, fact)
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        else:
            known.note(record, fact)
            self._kinds.move_to_end(name)

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows, the latest first."""
        now = self._clock()
        self.acquire()
        try:
            return {
                "errors": self._counts["errors"],
                "warnings": self._counts["warnings"],
                "latest": [trouble.told(error, now) for (_, _, error), trouble in reversed(self._kinds.items())],
            }
        finally:
            self.release()
