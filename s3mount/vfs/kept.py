"""One file that its last RELEASE could not store, and of which no call told anybody: its bytes wait for another try.

Knows when it is tried and what became of it; `closing` does the trying. An exception to the rule that state has one
owner: who asks for a try, or for the end of it all, says so here, and the task that tries heeds it.
"""

from typing import Literal

import trio

from s3mount.data.file import File
from s3mount.errors import Busy, S3MountError
from s3mount.store.base import Buffer
from s3mount.vfs.inodes import Inode, State

Outcome = Literal["stored", "dropped", "gone", "conflict"]
"""gone: by a program, which has removed it or taken it over; conflict: it is a copy beside another client's object."""


class Kept:
    """See the module. `number` is no other one's."""

    __slots__ = (
        "_hurry",
        "_over",
        "error",
        "file",
        "inode",
        "next_at",
        "number",
        "outcome",
        "since_ns",
        "staged_bytes",
        "state",
        "tries",
        "unwanted",
    )

    def __init__(self, number: int, inode: Inode, file: File, *, error: S3MountError, since_ns: int) -> None:
        # The mutable state: why the latest try failed and how many there were, when the next one is (None: now), the
        # outcome when there is one; whether somebody wants it tried at once, or dropped; who waits for a try to end.
        self.number = number
        self.inode = inode
        self.state: State = inode.own
        self.file = file
        self.staged_bytes = file.unsent_bytes
        self.since_ns = since_ns
        self.error = error
        self.tries = 1
        self.next_at: float | None = None
        self.outcome: Outcome | None = None
        self.unwanted = False
        self._hurry = trio.Event()
        self._over = trio.Event()

    def __repr__(self) -> str:
        return f"<Kept {self.inode.path!r}, {self.outcome or 'waiting'}, {self.tries} tries>"

    @property
    def live(self) -> bool:
        """Whether the bytes are still for this to store: a program may have done it, or have removed the file."""
        return self.outcome is None and self.state.failing and self.state.file is self.file and self.inode.linked

    async def rest(self, seconds: float) -> None:
        """Until the next try is due, or wanted."""
        self.next_at = trio.current_time() + seconds
        with trio.move_on_at(self.next_at):
            await self._hurry.wait()
        self._hurry = trio.Event()
        self.next_at = None

    # as `s3mount failed` knows it

    change = "put"

    @property
    def path(self) -> str:
        return self.inode.path

    @property
    def size(self) -> int:
        return self.file.size

    @property
    def changed_ns(self) -> int:
        return self.state.mtime_ns or 0

    async def retry(self) -> None:
        """Try at once, and return when that is over, or the try under way."""
        if self.outcome is None:
            self.hurry()
            await self.tried()

    async def drop(self) -> None:
        """Drop the bytes, after the try under way, if that fails, too. Raises Busy when a program has the file open."""
        if self.state.handles:
            raise Busy(f"{self.path} is open: its program may store it yet")
        self.unwanted = True
        while self.outcome is None and self.unwanted:
            self.hurry()
            await self.tried()
        if self.outcome is None:
            raise Busy(f"{self.path} was opened meanwhile: its program may store it yet")

    async def read(self, offset: int, size: int) -> Buffer:
        return await self.file.read(offset, size)

    # as the task that tries knows it

    def hurry(self) -> None:
        """Try at once."""
        self._hurry.set()

    def failed(self, error: S3MountError) -> None:
        """One more try was in vain."""
        self.error = error
        self.tries += 1
        self._tell()

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._tell()

    async def tried(self) -> None:
        """Until the next try, or the one that runs, is over."""
        await self._over.wait()

    def _tell(self) -> None:
        over, self._over = self._over, trio.Event()
        over.set()
