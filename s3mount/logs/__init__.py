"""The log: where lines go (`configure`), what they look like (`lines`, out of `facts`), how many are written (`level`),
and which warnings and errors there were of late, with what to do about them (`troubles`, `remedies`).

The mutable state is the logging module's, the level, and the troubles.
"""

import logging
import logging.handlers
from dataclasses import dataclass
from pathlib import Path

from s3mount.logs.level import LEVELS, Level
from s3mount.logs.lines import Escaped, Json, Thinned
from s3mount.logs.troubles import Troubles

SYSLOG = Path("/dev/log")


@dataclass(frozen=True, slots=True)
class Log:
    """What can be asked and changed of a log that was configured."""

    level: Level
    troubles: Troubles


def configure(*, level: str, form: str, file: Path | None, foreground: bool, fallback: Path) -> Log:
    """Send our log to `file`; else to standard error in the foreground; else to syslog, or to `fallback` where none
    listens; as lines of `form`: text or json. Raises OSError.

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
        handler.ident = "s3mount: "
        line = "%(levelname)s %(name)s %(message)s"
    else:
        handler = logging.FileHandler(fallback)
    handler.setFormatter(Json() if form == "json" else Escaped(line))
    handler.addFilter(Thinned())
    troubles = Troubles()
    # Thinning changes what it lets through: the troubles look first.
    logging.basicConfig(level=logging.WARNING, handlers=[troubles, handler], force=True)
    logging.captureWarnings(capture=True)
    return Log(Level(logging.getLogger(__package__.partition(".")[0]), handler, level), troubles)


__all__ = ["LEVELS", "Log", "configure"]
