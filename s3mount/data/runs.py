"""A run: blocks of one version side by side in one buffer, usable as they arrive. Knows no cache and no store."""

from collections.abc import Container, Iterator

import trio

from s3mount.data.buffers import Pinned
from s3mount.data.streams import GAP_BYTES
from s3mount.data.version import Version
from s3mount.errors import S3MountError, Unavailable, again


class Run:
    """Blocks side by side: `[start, stop)` of a version. The first `filled` bytes are there."""

    __slots__ = ("began", "error", "filled", "memory", "start", "stop", "unread", "version", "waiters")

    def __init__(self, version: Version, start: int, stop: int, memory: Pinned) -> None:
        # The mutable state: how many bytes are there, who waits for how many, and the error that ended the fetch; how
        # many bytes were fetched before anybody asked for them, and have not been asked for since; when the first came.
        self.version = version
        self.start = start
        self.stop = stop
        self.memory = memory
        self.filled = 0
        self.unread = 0
        self.began = 0.0
        self.error: S3MountError | None = None
        self.waiters: list[tuple[int, trio.Event]] = []

    def __repr__(self) -> str:
        return f"<Run [{self.start}, {self.stop}) of {self.version.key!r}, {self.filled} bytes there>"

    @property
    def size(self) -> int:
        return self.stop - self.start

    def arrived(self, count: int) -> None:
        """The first `count` bytes are in place."""
        if count <= self.filled:
            return
        if not self.filled:
            self.began = trio.current_time()
        self.filled = count
        if self.waiters:
            for _, event in (ready := [waiter for waiter in self.waiters if waiter[0] <= count]):
                event.set()
            if ready:
                self.waiters = [waiter for waiter in self.waiters if waiter[0] > count]

    async def wait(self, count: int) -> None:
        """Until `count` bytes are there; the caller holds a pin. Raises what ended the fetch."""
        if self.filled < count and self.error is None:
            event = trio.Event()
            self.waiters.append((count, event))
            await event.wait()
        if self.filled < count:
            assert self.error is not None
            raise again(self.error)


class Interrupted(Unavailable):
    """The task that fetched was cancelled, or the disk did not answer; whoever waits asks again."""


def missing(
    version: Version, start: int, stop: int, there: Container[int], block_bytes: int
) -> Iterator[tuple[int, int]]:
    """The runs of whole blocks that `[start, stop)` needs beside those `there`; two that are near are one."""
    low = high = -1
    for number in range(start // block_bytes, -(-min(stop, version.size) // block_bytes)):
        if number in there:
            continue
        if low >= 0 and number * block_bytes - high > GAP_BYTES:
            yield low, high
            low = -1
        if low < 0:
            low = number * block_bytes
        high = number * block_bytes + block_bytes
    if low >= 0:
        yield low, min(high, version.size)
