"""Who waits for whom in the syncs of one file: attempts to store it, and the gate that a change of its name closes.

Knows no bytes and no store.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from s3mount.errors import S3MountError


class Attempt:
    """One try to store what the file was at its start; whoever asked before that gets its outcome."""

    __slots__ = ("done", "error", "interrupted")

    def __init__(self) -> None:
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
