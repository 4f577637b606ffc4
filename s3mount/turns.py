"""What pyfuse3 takes for trio: a lock and a wait that take several FUSE requests out of one turn of the loop.

pyfuse3's request tasks take turns at /dev/fuse: lock, wait until it is readable, read one request, answer it. With
trio's own lock and wait that is two turns of the loop for each request, and a small file created is seven requests:
half of the daemon's CPU. Here a task that answered a request without waiting for anything goes on with the next one
at once, as long as there is one, for TURN_SECONDS at most; then everybody else has a turn.

pyfuse3 looks `trio` up in its own module, so that other loops can take its place (its asyncio support does);
everything that is not here is trio's."""

import select
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from types import SimpleNamespace, TracebackType

import trio

TURN_SECONDS = 0.0007
"""As for the wire: with both busy, the loop's other tasks wait for the sum."""


class Gate:
    """A lock whose release does not hand it over: who holds the processor may take it again.

    Nobody starves: it is open whenever its holder waits for anything but the device.
    """

    def __init__(self) -> None:
        # The mutable state: whether it is closed, who waits, and whether one of them was called and has not run yet.
        self._closed = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._called = False

    async def __aenter__(self) -> None:
        while self._closed:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def give_up(_raise_cancel: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(give_up)
            self._called = False
        self._closed = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = False
        if self._waiting and not self._called:
            self._called = True
            trio.lowlevel.reschedule(self._waiting.popleft())


def waiting() -> Callable[[int], Awaitable[None]]:
    """A `wait_readable` that looks before it waits. To be called by the gate's holder only."""
    device = select.poll()
    registered = -1
    turn_ends = 0.0

    async def wait_readable(fd: int) -> None:
        nonlocal registered, turn_ends
        if fd != registered:
            device.register(fd, select.POLLIN)
            registered = fd
        if perf_counter() < turn_ends and device.poll(0):
            return
        await trio.lowlevel.wait_readable(fd)
        turn_ends = perf_counter() + TURN_SECONDS

    return wait_readable


def for_pyfuse3() -> SimpleNamespace:
    """The namespace to put in the place of `pyfuse3.trio`, before `pyfuse3.main`; one per mount."""
    shown = SimpleNamespace(**vars(trio))
    shown.lowlevel = SimpleNamespace(**vars(trio.lowlevel))
    shown.lowlevel.wait_readable = waiting()
    shown.Lock = Gate
    return shown
