"""What operators see of one mount: its log, its metrics and probes, what the kernel asked of it, what it is doing.

Everything is here that `s3mount status` tells and no layer knows; the composition root adds what the layers know. The
mutable state is `life`: starting, serving, stopping or ending. Other threads read it.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from s3mount import logs
from s3mount.calls import Calls
from s3mount.config import Config
from s3mount.errors import StartError
from s3mount.heartbeat import Heartbeat
from s3mount.metrics.endpoint import listen

Figures = Callable[[], object]


class Inside:
    """See the module. The log is configured and the port of the metrics taken, or StartError is raised."""

    def __init__(self, config: Config, *, fallback: Path) -> None:
        try:
            self.log = logs.configure(
                level=config.log_level,
                form=config.log_format,
                file=config.log_file,
                foreground=config.foreground,
                fallback=fallback,
            )
        except OSError as error:
            raise StartError(f"the log cannot be written: {error}; see --log-file") from error
        self.calls = Calls()
        self.life = "starting"
        self._endpoint = listen(config)

    @asynccontextmanager
    async def shown(self, heart: Heartbeat) -> AsyncIterator[None]:
        """Metrics and probes are answered, and signals change the level of the log, while the block runs."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.log.level.follow_signals)
            with self._endpoint.served(heart, lambda: self.life):
                yield
            nursery.cancel_scope.cancel()

    def tell(self, figures: dict[str, Figures]) -> None:
        """These are the figures of the mount, for metrics and probes too."""
        self._endpoint.snapshots.open(figures)

    @property
    def figures(self) -> dict[str, Figures]:
        """The parts of the status that are known here."""
        return {
            "life": lambda: {"is": self.life, "log_level": self.log.level.name},
            "troubles": lambda: self.log.troubles.figures,
            "operations": lambda: self.calls.figures,
        }
