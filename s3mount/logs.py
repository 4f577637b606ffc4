"""Where log lines go and what they look like; one line a fact, control characters escaped, floods thinned.

A bucket's content decides what is in some lines (names of keys): they are escaped, and equal kinds of lines are
limited."""

import logging
import logging.handlers
import time
from collections.abc import Callable
from pathlib import Path

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SYSLOG = Path("/dev/log")
LINES_PER_MINUTE_MAX = 60
KINDS_MAX = 1000


class Escaped(logging.Formatter):
    """One record, one line: what a terminal or a log reader could take for something else is written as an escape."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.exc_info:
            return line  # a traceback keeps its lines
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


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


def configure(*, level: str, file: Path | None, foreground: bool, fallback: Path) -> None:
    """Send our log to `file`; else to standard error in the foreground; else to syslog, or to `fallback` where none
    listens.

    boto3 and what lies below it speak from WARNING on only: at DEBUG they print signed headers.
    """
    handler: logging.Handler
    line = "%(asctime)s %(levelname)s %(name)s %(message)s"
    if file is not None:
        handler = logging.FileHandler(file)
    elif foreground:
        handler = logging.StreamHandler()
    elif SYSLOG.exists():
        handler = logging.handlers.SysLogHandler(str(SYSLOG), facility=logging.handlers.SysLogHandler.LOG_DAEMON)
        line = "s3mount: %(levelname)s %(name)s %(message)s"
    else:
        handler = logging.FileHandler(fallback)
    handler.setFormatter(Escaped(line))
    handler.addFilter(Thinned())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("s3mount").setLevel(LEVELS[level])
    logging.captureWarnings(capture=True)
