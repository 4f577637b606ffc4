"""What log lines look like, as text or as JSON: one line a fact, control characters escaped, floods thinned.

A bucket's content decides what is in some lines (names of keys): they are escaped, and equal kinds of lines are
limited."""

import json
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone

from s3mount.logs.facts import fact_of

OWN = frozenset({"time", "level", "logger", "message", "traceback"})
LINES_PER_MINUTE_MAX = 60
KINDS_MAX = 1000


class Escaped(logging.Formatter):
    """One record, one line: what a terminal or a log reader could take for something else is written as an escape."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.exc_info:
            return line  # a traceback keeps its lines
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class Json(logging.Formatter):
    """One record, one JSON object in one line: time (UTC), level, logger, message, and a field for each key=value."""

    def format(self, record: logging.LogRecord) -> str:
        fact = fact_of(record)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.")
            + f"{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": fact.words,
        }
        for name, value in fact.fields.items():
            line[f"{name}_" if name in OWN else name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, separators=(",", ":"))


class Thinned(logging.Filter):
    """Lets at most LINES_PER_MINUTE_MAX lines of one kind (one place in the code) through a minute, and counts the
    rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # The mutable state is, for each place in the code: when its minute began, and its lines in it.
        self._minutes: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = (record.pathname, record.lineno), self._clock()
        began, lines = self._minutes.get(kind, (now, 0))
        if now - began >= 60:
            if lines > LINES_PER_MINUTE_MAX:
                record.msg = f"{record.msg} (and {lines - LINES_PER_MINUTE_MAX} more lines like it before)"
            began, lines = now, 0
        if len(self._minutes) >= KINDS_MAX:
            self._minutes.clear()
        self._minutes[kind] = began, lines + 1
        return lines < LINES_PER_MINUTE_MAX
