"""How much is written: the level of the log, changed while the mount runs, by a signal or by name.

Each change leaves one line, whatever the level. Warnings are made at every level, for they are counted as troubles.
"""

import logging
import signal
from collections.abc import Mapping

import trio

from s3mount.errors import Invalid

LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
"""From the fewest lines to the most."""
STEPS = {signal.SIGUSR1: 1, signal.SIGUSR2: -1}


class Level:
    """The level of `logger`, whose lines `handler` writes. The state is its name."""

    def __init__(self, logger: logging.Logger, handler: logging.Handler, name: str) -> None:
        self._logger = logger
        self._handler = handler
        self._name = name
        self._apply()

    @property
    def name(self) -> str:
        return self._name

    def change(self, name: str, *, by: str) -> None:
        """Write from now on what this level asks for; one line says so."""
        assert name in LEVELS
        former, self._name = self._name, name
        if former == name:
            return
        self._apply()
        record = self._logger.makeRecord(
            f"{self._logger.name}.logs", logging.INFO, __file__, 0, "log level was changed from=%s to=%s by=%s",
            (former, name, by), None,
        )  # fmt: skip
        self._handler.handle(record)  # the level would keep it out

    def step(self, steps: int, *, by: str) -> None:
        """So many steps towards more lines, or fewer; the ends hold."""
        names = list(LEVELS)
        self.change(names[min(max(names.index(self._name) + steps, 0), len(names) - 1)], by=by)

    async def follow_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """SIGUSR1: one step more; SIGUSR2: one step less; until cancelled."""
        with trio.open_signal_receiver(*STEPS) as signals:
            task_status.started()
            async for number in signals:
                self.step(STEPS[signal.Signals(number)], by=signal.Signals(number).name)

    async def verb(self, request: Mapping[str, object], _progress: object) -> object:
        """`s3mount log-level`: change it if the request says to what; what it is, and was. Raises Invalid."""
        former, wanted = self._name, request.get("level")
        if wanted is not None:
            if not isinstance(wanted, str) or wanted not in LEVELS:
                raise Invalid(f"level: one of {', '.join(LEVELS)}")
            self.change(wanted, by="s3mount log-level")
        return {"level": self._name, "former": former}

    def _apply(self) -> None:
        self._handler.setLevel(LEVELS[self._name])
        self._logger.setLevel(min(LEVELS[self._name], logging.WARNING))
