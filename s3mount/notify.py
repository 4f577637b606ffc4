"""Tells a service manager how the mount is doing: the protocol of sd_notify(3), a datagram a time, without a library.

READY=1 when the mount serves, STATUS= when that has changed, STOPPING=1 with the time that storing may take, and, where
a watchdog waits for it, WATCHDOG=1 as long as the event loop runs. The last comes from a thread, because a loop that is
stuck must be missed: it asks the heartbeat and nothing else, so a store that is away keeps no sign of life back.
Without $NOTIFY_SOCKET nothing is said. Knows nothing of the mount but one line of text.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from s3mount.heartbeat import BEAT_SECONDS, Heartbeat

log = logging.getLogger(__name__)

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
SEND_SECONDS = 5.0
"""For a service manager that is busy: its queue of datagrams may be full."""
STATUS_SECONDS = 3.0
STATUS_SHARE = 100
"""One look at the state of the mount costs at most this fraction of the time."""
BEATS_MISSED = 3.0
"""A heart that is so many beats late stands still, however short the watchdog's patience."""
STOP_MARGIN_SECONDS = 15.0
"""What ending takes beside storing: unmounting, answers on their way, the interpreter."""
FRAMES_MAX = 12
ALIVE = ("WATCHDOG=1",)


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Who started us and wants to be told: its address, and for how long it takes silence for life."""

    address: str
    watchdog_seconds: float | None = None

    def tell(self, *facts: str) -> None:
        """Send some `NAME=value`; waits for SEND_SECONDS at most. Raises nothing."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.settimeout(SEND_SECONDS)
                sending.sendto("\n".join(facts).encode("utf-8", "replace"), self.address)
        except OSError as error:
            log.warning("service manager was not told facts=%s reason=%s", " ".join(facts), error)


def supervisor(environ: MutableMapping[str, str], *, pid: int) -> Supervisor | None:
    """Who is named in `environ`, out of which it is taken: children are not to speak for us. None: nobody."""
    address, period, watched = (environ.pop(name, "") for name in VARIABLES)
    if not address.startswith(("/", "@")):
        return None
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket
    watchdog = None
    if period.isascii() and period.isdigit() and int(period) > 0 and watched in ("", str(pid)):
        watchdog = int(period) / 1e6
    return Supervisor(address, watchdog)


@dataclass(slots=True)
class Reports:
    """What one mount has a service manager told. The mutable state: the status that the loop has told last (the thread
    takes it back when it has told another), whether the end was told, and the event that ends the thread."""

    supervisor: Supervisor | None
    heart: Heartbeat
    foreground: bool = True
    _told: str = ""
    _stopping: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)

    async def ready(self) -> None:
        """The mount serves. A daemon in the background is not the process that was started: it says so."""
        await self._tell("READY=1", *([] if self.foreground else [f"MAINPID={os.getpid()}"]))

    async def stopping(self, *, seconds: float) -> None:
        """The mount ends, and may take so long; only the first time is told."""
        if not self._stopping:
            self._stopping = True
            extension = int((seconds + STOP_MARGIN_SECONDS) * 1e6)
            await self._tell("STOPPING=1", "STATUS=storing what was written", f"EXTEND_TIMEOUT_USEC={extension}")

    async def run(self, status: Callable[[], str]) -> None:
        """Feed the watchdog and tell each new `status` until cancelled; nothing where nobody listens."""
        if self.supervisor is None:
            return
        if self.supervisor.watchdog_seconds is not None:
            period, main = self.supervisor.watchdog_seconds / 2, threading.get_ident()
            threading.Thread(target=self._watch, args=(period, main), name="watchdog", daemon=True).start()
        try:
            while True:
                began = time.perf_counter()
                text = status()
                cost = time.perf_counter() - began
                if text != self._told and not self._stopping:
                    self._told = text
                    await self._tell(f"STATUS={text}")
                await trio.sleep(max(STATUS_SECONDS, cost * STATUS_SHARE))
        finally:
            self._ended.set()

    async def _tell(self, *facts: str) -> None:
        if self.supervisor is not None:
            await trio.to_thread.run_sync(self.supervisor.tell, *facts)

    def _watch(self, period_seconds: float, main: int) -> None:
        assert self.supervisor is not None
        pulse = Pulse(self.heart, max(period_seconds, BEATS_MISSED * BEAT_SECONDS))
        while True:
            facts = pulse.facts(main)
            if facts:
                self.supervisor.tell(*facts)
                if facts != ALIVE:
                    self._told = ""  # when the loop goes on it says again how it is doing
            if self._ended.wait(period_seconds):
                return


@dataclass(slots=True)
class Pulse:
    """Decides what is said at each turn of the watchdog; tells once where a loop stands that has stopped."""

    heart: Heartbeat
    patience_seconds: float
    _stands: bool = False

    def facts(self, thread: int) -> tuple[str, ...]:
        """`thread` is the loop's."""
        age = self.heart.age_seconds
        if age < self.patience_seconds:
            self._stands = False
            return ALIVE
        if self._stands:
            return ()
        self._stands = True
        log.error("event loop stands still seconds=%.1f at=%s", age, where(thread))
        return (f"STATUS=the event loop has not run for {age:.0f} s: a bug; its log says where it stands",)


def where(thread: int) -> str:
    """The innermost lines that a thread is at, the innermost first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and named so for those who do not debug
    lines: list[str] = []
    while frame is not None and len(lines) < FRAMES_MAX:
        lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}:{frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(lines)
