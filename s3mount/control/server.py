"""The daemon's end of the control socket: connections, their limits and deadlines; it knows no verb.

Only the daemon's own user and root are answered. A connection has one request. Whoever says nothing, says it slowly,
says too much or does not take its answer loses the connection and nothing else happens. When all connections are taken,
the one that has waited longest without asking anything goes. While a verb works, its client hears so every
`control_beat_seconds`, and a client that has left ends the work.
"""

import errno
import logging
import os
import select
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from pathlib import Path

import trio

from s3mount import kernel
from s3mount.config import Config
from s3mount.control import protocol
from s3mount.control.protocol import Request
from s3mount.control.sockets import PEER, bind, directories, sweep, uid_in
from s3mount.errors import Invalid, S3MountError

log = logging.getLogger(__name__)

RECEIVE_BYTES = 16 * 1024
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
REST_SECONDS = 0.5
"""Before the next try when the process or the machine can take no more connections."""
TOLD_SECONDS = 60.0
LOOK_SECONDS = 30.0
"""How often the socket is looked for."""


Reach = tuple[int, int | None, Mapping[str, int]]
"""How far something has come, of how much (None: nobody knows), and more figures by name."""


class Progress:
    """How far a verb has come: what it has said last, or what it is asked for each time."""

    __slots__ = ("_look",)

    def __init__(self) -> None:
        self._look: Callable[[], Reach] = lambda: (0, None, {})

    def __call__(self, done: int, total: int | None = None) -> None:
        self._look = lambda: (done, total, {})

    def follow(self, look: Callable[[], Reach]) -> None:
        """From now on `look` is asked."""
        self._look = look

    @property
    def reach(self) -> Reach:
        return self._look()


Verb = Callable[[Request, Progress], Awaitable[object]]
"""Answers with what JSON can say; raises S3MountError."""


async def attend(
    verbs: Mapping[str, Verb], config: Config, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer on the socket of the mount until cancelled."""
    uid = os.geteuid()
    mount = kernel.mount_at(config.mountpoint)
    if mount is None:
        log.warning("control socket was not made, the mount is not in the mount table path=%s", config.mountpoint)
        task_status.started()
        return
    server = Server(verbs, config, uid=uid)
    sweep(directories(uid), uid, {one.device for one in kernel.mounts() if one.fstype == kernel.FSTYPE})
    try:
        await keep(server, mount.device, among=directories(uid), uid=uid, task_status=task_status)
    except Exception:
        log.exception("control socket met a bug, the mount goes on without")


async def keep(
    server: "Server",
    device: str,
    *,
    among: Sequence[Path],
    uid: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen until cancelled; anew when the socket has gone: the directory of a login session ends before the mount.

    Where there is no place for it the mount goes on without.
    """
    while True:
        try:
            bound = bind(device, among=among, uid=uid)
        except OSError as error:
            log.warning("control socket was not made, s3mount status and others will not work reason=%s", error)
            task_status.started()
            return
        try:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound.socket))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve, listener)
                log.info("control socket was made path=%s", bound.path)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                while bound.stands:  # noqa: ASYNC110 - nobody tells of it; one stat(2) in so long
                    await trio.sleep(LOOK_SECONDS)
                nursery.cancel_scope.cancel()
        finally:
            bound.remove()
            bound.socket.close()


class Server:
    """See the module."""

    def __init__(self, verbs: Mapping[str, Verb], config: Config, *, uid: int) -> None:
        # The mutable state: the connections that have not asked yet, oldest first, and how many are being answered.
        self._verbs = verbs
        self._config = config
        self._uid = uid
        self._unasked: dict[trio.CancelScope, None] = {}
        self._working = 0

    def __repr__(self) -> str:
        return f"<Server {len(self._unasked)} connections waited for, {self._working} being answered>"

    async def serve(self, listener: trio.abc.Listener[trio.SocketStream]) -> None:
        """Answer until cancelled. When no descriptor is left for another connection it waits in the socket's line."""
        told_seconds = -inf
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in EXHAUSTED:
                        raise
                    if trio.current_time() - told_seconds >= TOLD_SECONDS:
                        told_seconds = trio.current_time()
                        log.warning("control connection was not accepted, it waits reason=%s", error.strerror)
                    await trio.sleep(REST_SECONDS)
                else:
                    nursery.start_soon(self._connected, stream)

    async def _connected(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client has left
        except Exception:
            log.exception("control connection met a bug")

    async def _converse(self, stream: trio.SocketStream) -> None:
        uid = uid_in(bytes(stream.getsockopt(*PEER)))
        if not permitted(uid, self._uid):
            log.warning("control connection was refused uid=%d", uid)
            words = f"the daemon answers user {self._uid} and root only, not user {uid}"
            await self._send(stream, protocol.error_line(words, errno.EACCES))
            return
        if len(self._unasked) + self._working >= self._config.control_connections_max:
            if not self._unasked:
                await self._send(stream, protocol.error_line("too many are being answered", errno.EAGAIN))
                return
            oldest = next(iter(self._unasked))
            del self._unasked[oldest]
            oldest.cancel()
        request: Request | None = None
        with trio.move_on_after(self._config.control_request_seconds) as scope:
            self._unasked[scope] = None
            try:
                request = await self._request(stream)
            except Invalid as error:
                scope.deadline = trio.current_time() + self._config.control_request_seconds
                await self._send(stream, protocol.error_line(str(error), error.errno))
            finally:
                self._unasked.pop(scope, None)
        if request is not None and not _has_left(stream):
            self._working += 1
            try:
                await self._answer(stream, request)
            finally:
                self._working -= 1

    async def _request(self, stream: trio.SocketStream) -> Request | None:
        """The first line; None when the client leaves without one. Raises Invalid."""
        said = bytearray()
        while b"\n" not in said:
            if len(said) > self._config.control_line_max_bytes:
                raise Invalid(f"a request is one line of up to {self._config.control_line_max_bytes} bytes")
            piece = await stream.receive_some(RECEIVE_BYTES)
            if not piece:
                return None
            said += piece
        return protocol.read_line(bytes(said[: said.index(b"\n")]))

    async def _answer(self, stream: trio.SocketStream, request: Request) -> None:
        """Work, and say so meanwhile; lines are sent by this task alone, so that none is cut by another."""
        progress, done = Progress(), trio.Event()
        answer = b""

        async def work() -> None:
            nonlocal answer
            answer = await self._outcome(request, progress)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            while not done.is_set():
                with trio.move_on_after(self._config.control_beat_seconds):
                    await done.wait()
                if not done.is_set() and not await self._send(stream, protocol.progress_line(*progress.reach)):
                    nursery.cancel_scope.cancel()
                    return
        await self._send(stream, answer)

    async def _outcome(self, request: Request, progress: Progress) -> bytes:
        try:
            name = protocol.verb_of(request)
            verb = self._verbs.get(name)
            if verb is None:
                raise Invalid(f"no such verb: {name[:40]!r}; this daemon knows {', '.join(sorted(self._verbs))}")
            return protocol.ok_line(await verb(request, progress))
        except S3MountError as error:
            return protocol.error_line(str(error), error.errno)
        except Exception as error:
            log.exception("control request met a bug")
            return protocol.error_line(f"it met a bug ({type(error).__name__}); the log has the details", errno.EIO)

    async def _send(self, stream: trio.SocketStream, line: bytes) -> bool:
        """Whether the client took the line; a part of one is followed by nothing."""
        with trio.move_on_after(self._config.control_request_seconds):
            try:
                await stream.send_all(line)
                return True
            except trio.BrokenResourceError:
                return False
        return False


def _has_left(stream: trio.SocketStream) -> bool:
    """Whether the client is gone before we came to its request: after a pause of ours nobody wants it any more."""
    watch = select.poll()
    watch.register(stream.socket.fileno(), 0)
    return any(events & select.POLLHUP for _, events in watch.poll(0))


def permitted(uid: int, own: int) -> bool:
    return uid in (0, own)
