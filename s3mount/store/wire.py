"""HTTP over libcurl's multi interface inside trio's loop: no thread, no hop.

Knows no S3 operation. `Wire.run` drives, `Wire.perform` makes one request; any number of tasks may call it, the limit
on requests in flight is theirs. All of libcurl is called from trio's thread, by whichever task runs, never inside one
of its callbacks (that is forbidden): callbacks note, the caller settles afterwards.

- libcurl's sockets are members of one epoll set, itself waited for by one task: a task per socket would cost a
  reschedule for every event. Events are taken one at a time, which the kernel hands out in turn, so that a fast stream
  does not starve the others; after TURN_SECONDS the loop gets its turn.
- A second task serves libcurl's timer (without it no connect time-out ever comes) and looks after stalls and deadlines,
  which are found by the time of the last progress: LOW_SPEED_TIME is late, and at 1 s kills healthy transfers.
- A transfer may be complete before `perform` first waits.
- Cancelling only marks the transfer; the woken task takes the handle out of the multi and resets it. After that neither
  sink nor body is referenced by anything of ours or libcurl's.
- Daemonise before `run`: after a fork two processes would read each other's replies.
"""

import select
from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Final, Literal

import pycurl
import trio

from s3mount.store.exchange import (
    BadHttp,
    CertificateRefused,
    ConnectFailed,
    ConnectionBroken,
    CutBody,
    DeadlineExceeded,
    IntoView,
    Reply,
    ReplyLost,
    Request,
    Sink,
    SmallBody,
    Stalled,
    WireClosed,
    WireError,
    WireOptions,
)
from s3mount.store.transfer import Transfer

__all__ = [
    "BadHttp",
    "CertificateRefused",
    "ConnectFailed",
    "ConnectionBroken",
    "CutBody",
    "DeadlineExceeded",
    "IntoView",
    "Reply",
    "ReplyLost",
    "Request",
    "Sink",
    "SmallBody",
    "Stalled",
    "Wire",
    "WireClosed",
    "WireError",
    "WireOptions",
]

TURN_SECONDS: Final = 0.0007
CLOSE_SECONDS: Final = 5.0
"""How long the end of a wire waits for libcurl, which waits for name resolution; then the thread is left behind."""


class Wire:
    """One multi handle with its connections.

    The mutable state is the transfers under way by handle, the idle handles, the events wanted by socket (the same as
    in the epoll set), libcurl's timer and the next look at stalls (both by perf_counter, inf for none), and when the
    clock wakes.
    """

    def __init__(self, options: WireOptions) -> None:
        self._options = options
        self._started = False
        self._running = False
        self._failure: BaseException | None = None
        self._cancel_driver: trio.CancelScope | None = None
        self._active: dict[pycurl.Curl, Transfer] = {}
        self._idle: list[Transfer] = []
        self._wanted: dict[int, int] = {}
        self._timer_due = inf
        self._watch_due = inf
        self._nap: trio.CancelScope | None = None
        self._nap_ends = inf

    def __repr__(self) -> str:
        state = "running" if self._running else "stopped"
        return f"<Wire {state} active={len(self._active)} idle_handles={len(self._idle)} sockets={len(self._wanted)}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the requests until cancelled; those under way then raise WireClosed. May be run once."""
        assert not self._started, self
        self._started = True
        self._epoll = select.epoll()
        self._multi = multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        multi.setopt(pycurl.M_MAXCONNECTS, self._options.idle_connections_max)
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                self._cancel_driver = nursery.cancel_scope
                nursery.start_soon(self._serve_sockets)
                nursery.start_soon(self._serve_clock)
                task_status.started()
        finally:
            self._running = False
            for transfer in list(self._active.values()):
                transfer.fail(WireClosed("the wire was closed", sent=transfer.sends > 0))
                self._finish(transfer, 0, "")
            # In a thread, since libcurl waits for its resolver's threads; without end only if we let it.
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await trio.to_thread.run_sync(self._dispose, abandon_on_cancel=True)
        if self._failure is not None:
            raise self._failure

    async def perform(self, request: Request, sink: Sink) -> Reply:
        """Make one request.

        Raises WireError when no whole reply came (its `sent` tells whether the server may have seen the request), what
        the sink raised, and ValueError for a URL or header that must not be sent. Statuses are not judged. Once it has
        returned or raised, Cancelled included, neither sink nor body is touched any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._running:
            raise WireClosed("the wire does not run", sent=False)
        transfer = self._idle.pop() if self._idle else Transfer(self._options)
        whole = False
        try:
            transfer.begin(request, sink)
            self._active[transfer.curl] = transfer
            self._multi.add_handle(transfer.curl)
            self._watch_due = min(self._watch_due, transfer.deadline, transfer.progress + request.stall_seconds)
            # Not left to the timer: on a connection that is there the request is sent now, without a reschedule.
            self._serve_timer()
            self._wind()
            if transfer.finished:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                transfer.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(transfer.give_up)
            reply = transfer.outcome()
            whole = True
            return reply
        finally:
            self._release(transfer, whole=whole)

    def _release(self, transfer: Transfer, *, whole: bool) -> None:
        if self._active.pop(transfer.curl, None) is not None:
            self._multi.remove_handle(transfer.curl)
            self._wind()
        if whole:
            transfer.end()
        else:
            transfer.reset()
        if self._running and len(self._idle) < self._options.idle_handles_max:
            self._idle.append(transfer)
        else:
            transfer.close()

    def end_transfers(self, chosen: Callable[[trio.lowlevel.Task], bool]) -> None:
        """End the requests of the chosen tasks: they raise WireClosed."""
        for transfer in list(self._active.values()):
            if transfer.task is not None and chosen(transfer.task):
                transfer.fail(WireClosed("given up by `s3mount abort`", sent=transfer.sends > 0))
                self._finish(transfer, 0, "")
        self._wind()

    async def _serve_sockets(self) -> None:
        poll, events = self._epoll.poll, self._epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(events)
            turn_ends = perf_counter() + TURN_SECONDS
            while ready := poll(0, 1):
                fd, mask = ready[0]
                self._act(fd, _ACTIONS.get(mask) or _action(mask))
                now = perf_counter()
                if self._timer_due <= now:
                    self._serve_timer()
                if now > turn_ends:
                    self._wind()
                    await trio.lowlevel.checkpoint()
                    turn_ends = perf_counter() + TURN_SECONDS
            self._wind()

    async def _serve_clock(self) -> None:
        while True:
            self._nap_ends = min(self._timer_due, self._watch_due)
            with trio.CancelScope(deadline=_trio_time(self._nap_ends)) as self._nap:
                await trio.sleep_forever()
            now = perf_counter()
            if self._timer_due <= now:
                self._serve_timer()
            if self._watch_due <= now:
                self._watch(now)

    def _wind(self) -> None:
        """Wake the clock earlier if something is due earlier. Never later: it looks at what is due when it wakes, and
        most of libcurl's timers are withdrawn before they come."""
        due = min(self._timer_due, self._watch_due)
        if due < self._nap_ends and self._nap is not None:
            self._nap_ends = due
            self._nap.deadline = _trio_time(due)

    def _serve_timer(self) -> None:
        # Forgotten before the call: libcurl tells the next one inside it, be it the same.
        self._timer_due = inf
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _watch(self, now: float) -> None:
        """Give up the transfers whose time is over; note when to look again."""
        self._watch_due = inf
        for transfer in list(self._active.values()):
            expiry = transfer.expiry(now)
            if expiry <= now:
                transfer.expire(now)
                self._finish(transfer, 0, "")
            else:
                self._watch_due = min(self._watch_due, expiry)

    def _act(self, fd: int, action: int) -> None:
        """Let libcurl work on a socket or on its timers, then collect what is done."""
        try:
            _, under_way = self._multi.socket_action(fd, action)
            if under_way == len(self._active):
                return
            _, good, bad = self._multi.info_read()
        except pycurl.error as error:
            self._break(error)
            return
        for curl in good:
            self._finish(self._active[curl], 0, "")
        for curl, code, text in bad:
            self._finish(self._active[curl], code, text)

    def _finish(self, transfer: Transfer, code: int, text: str) -> None:
        """Take the handle out of the multi and wake the task, unless it is cancelled and on its way already."""
        del self._active[transfer.curl]
        self._multi.remove_handle(transfer.curl)
        transfer.code, transfer.text = code, text
        transfer.finished = True
        if transfer.task is not None:
            task, transfer.task = transfer.task, None
            trio.lowlevel.reschedule(task)

    def _break(self, error: BaseException) -> None:
        """Our own fault or the kernel's: end the driver, for an exception inside the multi leaves transfers hanging."""
        if self._failure is None:
            self._failure = error
        if self._cancel_driver is not None:
            self._cancel_driver.cancel()

    def _dispose(self) -> None:
        for transfer in self._idle:
            transfer.close()
        self._idle.clear()
        self._multi.close()
        self._epoll.close()
        self._wanted.clear()

    # Callbacks: called by libcurl inside add_handle(), remove_handle() and socket_action().

    def _on_socket(self, what: int, fd: int, _multi: object, _data: object) -> Literal[0, -1]:
        try:
            if what == pycurl.POLL_REMOVE or what == pycurl.POLL_NONE:
                if self._wanted.pop(fd, None) is not None:
                    try:
                        self._epoll.unregister(fd)
                    except OSError:
                        pass  # closed already, which took it out of the set
                return 0
            events = _EVENTS[what]
            if self._wanted.get(fd) == events:
                return 0
            if fd in self._wanted:
                self._epoll.modify(fd, events)
            else:
                self._epoll.register(fd, events)
            self._wanted[fd] = events
        except BaseException as error:  # noqa: BLE001 - raised by the driver
            self._break(error)
            return -1
        return 0

    def _on_timer(self, timeout_ms: int) -> Literal[0, -1]:
        try:
            if self._running:
                self._timer_due = inf if timeout_ms < 0 else perf_counter() + timeout_ms / 1000
        except BaseException as error:  # noqa: BLE001 - raised by the driver
            self._break(error)
            return -1
        return 0


_EVENTS: Final = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


def _trio_time(due: float) -> float:
    """`due` in trio's clock, which may start anywhere; callbacks ask perf_counter, at a tenth of the cost."""
    return inf if due == inf else trio.current_time() + due - perf_counter()


def _action(mask: int) -> int:
    """What libcurl is to do about an epoll event; errors and hang-ups it finds by reading."""
    action = 0
    if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
        action |= pycurl.CSELECT_IN
    if mask & select.EPOLLOUT:
        action |= pycurl.CSELECT_OUT
    if mask & (select.EPOLLHUP | select.EPOLLERR):
        action |= pycurl.CSELECT_ERR
    return action


_ACTIONS: Final = {select.EPOLLIN: pycurl.CSELECT_IN, select.EPOLLOUT: pycurl.CSELECT_OUT}
