"""Leaving the terminal: a child that serves, and a parent that waits for its one word and passes it on.

Knows nothing of mounts. The state is whether the child has said its word.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress

from s3mount.errors import S3MountError, StartError

log = logging.getLogger(__name__)

READY = "ready"


def in_background(serve: Callable[[Callable[[], None]], int]) -> int:
    """Run `serve` in a child of its own session: 0 once that has called what it was given. Raises StartError with the
    child's word. To be called before any thread or connection exists; the child does not return."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            heard = pipe.read().decode(errors="replace")
        if heard == READY:
            return 0
        raise StartError(heard or "the daemon ended before it served; its log says why")
    os.close(reading)
    word = Word(writing)
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        status = serve(lambda: word.say(READY))
    except S3MountError as error:
        word.say(str(error))
    except BaseException as error:
        log.exception("daemon ended by a bug")
        word.say(f"it met a bug ({type(error).__name__}); the log has the details")
    finally:
        logging.shutdown()
        os._exit(status)


class Word:
    """The child's one word to the waiting parent; later ones have no listener."""

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe  # None once it was said: the number may be another file's by then

    def say(self, word: str) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            with suppress(OSError):
                os.write(pipe, word.encode())
            os.close(pipe)
