"""The thread that listens: one selector, no blocking call, so that no client and no stuck loop holds up another.

A connection has one request and ends. Whoever says nothing, says it slowly, says too much or does not take the answer
loses the connection. When all are taken, the one goes that has waited longest without asking anything. It knows
nothing of what is answered.
"""

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable

from s3mount.config import Config
from s3mount.metrics.answers import Answers, Question, question
from s3mount.metrics.snapshots import Snapshots

log = logging.getLogger(__name__)

RECEIVE_BYTES = 4096
IDLE_SECONDS = 60.0
JOIN_SECONDS = 2.0
REST_SECONDS = 0.1
"""When the process has no descriptors left, connections wait."""


class Client:
    """One connection: what it has said, what it is to be sent, until when it may take."""

    __slots__ = ("asked", "deadline", "left", "received", "socket")

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.socket = connection
        self.deadline = deadline
        self.received = b""
        self.asked: Question | None = None
        self.left: memoryview | None = None


class Server(threading.Thread):
    """See the module. Serves from `start` to `stop`."""

    def __init__(self, listener: socket.socket, answers: Answers, snapshots: Snapshots, config: Config) -> None:
        # The mutable state, which only the thread touches: the connections, oldest first. `_stopping` is set by others.
        super().__init__(name="metrics", daemon=True)
        self._listener = listener
        self._answers = answers
        self._snapshots = snapshots
        self._connections_max = config.metrics_connections_max
        self._request_seconds = config.metrics_request_seconds
        self._fresh_seconds = config.metrics_fresh_seconds
        self._clients: dict[socket.socket, Client] = {}
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._stopping = False
        snapshots.when_taken(self._ring)

    def stop(self) -> None:
        """End it, and wait for that."""
        self._stopping = True
        self._ring()
        if self.is_alive():
            self.join(JOIN_SECONDS)

    def run(self) -> None:
        selector = self._selector
        selector.register(self._listener, selectors.EVENT_READ, self._accept)
        selector.register(self._ear, selectors.EVENT_READ, self._hear)
        try:
            while not self._stopping:
                now = time.monotonic()
                due = min((client.deadline for client in self._clients.values()), default=now + IDLE_SECONDS)
                for key, _ in selector.select(max(0.0, due - now)):
                    key.data()
                self._look(time.monotonic())
        except Exception:
            log.exception("metrics server met a bug, the mount goes on without")
        finally:
            for client in list(self._clients.values()):
                self._end(client)
            for one in (self._listener, self._ear, self._bell):
                one.close()
            selector.close()

    def _ring(self) -> None:
        """Wake the thread; from any thread, and without waiting."""
        try:
            self._bell.send(b"!")
        except OSError:
            pass  # it is awake, or gone

    def _hear(self) -> None:
        """The loop has taken a snapshot: who waits for it is answered."""
        try:
            self._ear.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        for client in list(self._clients.values()):
            if client.asked is not None and client.left is None:
                self._answer(client)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("metrics connection was not taken reason=%s", error)
            time.sleep(REST_SECONDS)
            return
        if len(self._clients) >= self._connections_max:
            silent = next((client for client in self._clients.values() if client.asked is None), None)
            if silent is None:
                connection.close()
                return
            self._end(silent)
        connection.setblocking(False)
        client = Client(connection, time.monotonic() + self._request_seconds)
        self._clients[connection] = client
        self._watch(client, selectors.EVENT_READ, lambda: self._read(client))

    def _watch(self, client: Client, events: int, act: Callable[[], None]) -> None:
        try:
            self._selector.modify(client.socket, events, act)
        except KeyError:
            self._selector.register(client.socket, events, act)

    def _read(self, client: Client) -> None:
        try:
            piece = client.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._end(client)
            return
        if client.asked is not None:
            return  # one request is all it has
        client.received += piece
        client.asked = question(client.received)
        if client.asked is None:
            return
        if client.asked.needs_figures and not self._answers.loop_is_stuck and self._snapshots.ask():
            client.deadline = time.monotonic() + self._fresh_seconds
        else:
            self._answer(client)

    def _answer(self, client: Client) -> None:
        assert client.asked is not None
        try:
            client.left = memoryview(self._answers.to(client.asked))
        except Exception:
            log.exception("metrics request met a bug path=%s", client.asked.path)
            self._end(client)
            return
        client.deadline = time.monotonic() + self._request_seconds
        self._watch(client, selectors.EVENT_WRITE, lambda: self._write(client))

    def _write(self, client: Client) -> None:
        assert client.left is not None
        try:
            client.left = client.left[client.socket.send(client.left) :]
        except BlockingIOError:
            return
        except OSError:
            self._end(client)
            return
        if not client.left:
            self._end(client)

    def _look(self, now: float) -> None:
        """Whoever has waited for the loop long enough is answered by what it said last; whose time is over, goes."""
        for client in list(self._clients.values()):
            if client.deadline > now:
                continue
            if client.asked is not None and client.left is None:
                self._answer(client)
            else:
                self._end(client)

    def _end(self, client: Client) -> None:
        if self._clients.pop(client.socket, None) is not None:  # else its end was in the same turn
            self._selector.unregister(client.socket)
            client.socket.close()
