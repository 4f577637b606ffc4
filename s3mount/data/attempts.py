"""Who waits for whom in the syncs of one file: attempts to store it, and the gate that a change of its name closes.

Knows no bytes and no store.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from s3mount.errors import S3MountError


class Attempt:
    """One try to store what the file was at its start; whoever asked before that gets its outcome. One that
    `sends_bytes` not leaves a file alone whose next upload brings everything."""

    __slots__ = ("done", "error", "interrupted", "sends_bytes")

    def __init__(self, *, sends_bytes: bool = True) -> None:
        self.sends_bytes = sends_bytes
        self.error: S3MountError | None = None
        self.interrupted = True
        self.done = trio.Event()


class Gate:
    """No attempt begins while it is closed; it is closed by one at a time."""

    __slots__ = ("opened",)

    def __init__(self) -> None:
        # The mutable state: set when it is opened again, None while it is open.
        self.opened: trio.Event | None = None

    async def passed(self) -> None:
        """Until it is open."""
        while self.opened is not None:
            await self.opened.wait()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """It is closed inside the block."""
        await self.passed()
        opened = self.opened = trio.Event()
        try:
            yield
        finally:
            self.opened = None
            opened.set()


class Attempts:
    """The attempts of one file, one at a time, none while the gate is closed."""

    __slots__ = ("_current", "_next", "gate")

    def __init__(self) -> None:
        # The mutable state: the attempt that runs and the one behind it.
        self.gate = Gate()
        self._current: Attempt | None = None
        self._next: Attempt | None = None

    @property
    def current(self) -> Attempt | None:
        """The one that runs."""
        return self._current

    async def ended(
        self,
        run: Callable[[Attempt], Awaitable[None]],
        failed: Callable[[S3MountError], S3MountError],
        *,
        sends_bytes: bool = True,
    ) -> Attempt:
        """The next attempt to start, once it is over. If there is none yet it is one by `run`; what that raises is the
        attempt's error, as `failed` puts it."""
        attempt = self._next
        if attempt is not None:
            await attempt.done.wait()
            return attempt
        attempt = self._next = Attempt(sends_bytes=sends_bytes)
        try:
            while (ahead := self.gate.opened if self._current is None else self._current.done) is not None:
                await ahead.wait()
            self._current, self._next = attempt, None
            await run(attempt)
            attempt.interrupted = not sends_bytes  # who asks for bytes and joined it asks again
        except S3MountError as error:
            attempt.error = failed(error)
        finally:
            if self._next is attempt:
                self._next = None
            if self._current is attempt:
                self._current = None
            attempt.done.set()
        return attempt
