"""A link to the server as from another town: a round trip of so many milliseconds, so many bytes a second each way.

`with Link(...)` is a process of its own that relays TCP connections on 127.0.0.1. Each direction has one clock for all
connections, as a cable has: bytes leave when the cable is free, and arrive `delay` later. A new connection waits one
round trip first, as a handshake would. What it leaves out is slow start and loss, for everybody alike.
"""

import argparse
import heapq
import itertools
import selectors
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from time import monotonic
from types import TracebackType
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024
WINDOW_BYTES = 8 * 1024 * 1024
"""Under way on one connection at most: twice what the whole link holds at 200 MB/s and 20 ms."""
AHEAD_SECONDS = 0.004
"""What the cable takes on beyond what it can send now; senders wait for the rest, in turn."""


class Cable:
    """One direction. The mutable state: when it is free again."""

    def __init__(self, delay_seconds: float, bytes_per_second: float) -> None:
        self.delay_seconds = delay_seconds
        self._rate = bytes_per_second
        self.free = 0.0

    def send(self, size: int) -> float:
        """When `size` bytes that are sent now arrive."""
        self.free = max(self.free, monotonic()) + size / self._rate
        return self.free + self.delay_seconds

    @property
    def busy(self) -> bool:
        return self.free > monotonic() + AHEAD_SECONDS


class Pipe:
    """One direction of one connection. The mutable state: what is under way, with its time, and whether it ended."""

    def __init__(self, source: socket.socket, target: socket.socket, cable: Cable, opens: float) -> None:
        self.source, self.target, self.cable, self.opens = source, target, cable, opens
        self.queue: deque[tuple[float, memoryview]] = deque()
        self.queued_bytes = 0
        self.ended = False
        self.blocked = False

    @property
    def wants(self) -> bool:
        return not self.ended and self.queued_bytes < WINDOW_BYTES

    def take(self) -> None:
        """Read once; an end travels like a byte."""
        try:
            data = self.source.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self.queue.append((max(self.cable.send(len(data)), self.opens), memoryview(data)))
        self.queued_bytes += len(data)

    def give(self) -> None:
        """Write what has arrived."""
        self.blocked = False
        while self.queue and self.queue[0][0] <= monotonic():
            due, data = self.queue[0]
            try:
                if not data:
                    self.target.shutdown(socket.SHUT_WR)
                    self.queue.popleft()
                    continue
                count = self.target.send(data)
            except BlockingIOError:
                self.blocked = True
                return
            except OSError:
                self.queue.clear()
                self.ended = True
                return
            self.queued_bytes -= count
            if count == len(data):
                self.queue.popleft()
            else:
                self.queue[0] = (due, data[count:])


class Relay:
    """All connections. The mutable state: the pipes, what is watched of each socket, and when pipes have to give."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], delay: float, rate: float) -> None:
        self._listener, self._target = listener, target
        self._there, self._back = Cable(delay, rate), Cable(delay, rate)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, ())
        self._pipes: dict[socket.socket, tuple[Pipe, Pipe]] = {}
        self._due: list[tuple[float, int, Pipe]] = []
        self._order = itertools.count()

    def run(self) -> None:
        while True:
            now = monotonic()
            while self._due and self._due[0][0] <= now:
                pipe = heapq.heappop(self._due)[2]
                pipe.give()
                self._settle(pipe)
            busy = [cable.free - now - AHEAD_SECONDS for cable in (self._there, self._back) if cable.busy]
            wait = min([self._due[0][0] - now] if self._due else [0.1])
            for key, mask in self._selector.select(max(0.0, min([wait, *busy]))):
                if key.fileobj is self._listener:
                    self._accept()
                    continue
                outward, inward = key.data
                if mask & selectors.EVENT_READ and not outward.cable.busy:
                    outward.take()
                    self._remind(outward)
                    self._settle(outward)
                if mask & selectors.EVENT_WRITE:
                    inward.give()
                    self._settle(inward)
            self._watch()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(self._target)
        opens = monotonic() + 4 * self._there.delay_seconds
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there, back = (
            Pipe(near, far, self._there, opens - self._there.delay_seconds),
            Pipe(far, near, self._back, opens),
        )
        self._pipes[near], self._pipes[far] = (there, back), (back, there)
        for sock in (near, far):
            self._selector.register(sock, selectors.EVENT_READ, self._pipes[sock])

    def _remind(self, pipe: Pipe) -> None:
        heapq.heappush(self._due, (pipe.queue[-1][0], next(self._order), pipe))

    def _settle(self, pipe: Pipe) -> None:
        """Close both ends once both directions have."""
        other = self._pipes.get(pipe.target, (pipe,))[0]
        if pipe.ended and other.ended and not pipe.queue and not other.queue and pipe.source in self._pipes:
            for sock in (pipe.source, pipe.target):
                self._forget(sock)
                del self._pipes[sock]
                sock.close()

    def _forget(self, sock: socket.socket) -> None:
        try:
            self._selector.unregister(sock)
        except KeyError:
            pass  # nothing was wanted of it

    def _watch(self) -> None:
        """Ask of each socket what can be done with it: a full cable reads nothing."""
        watched = self._selector.get_map()
        for sock, (outward, inward) in self._pipes.items():
            events = selectors.EVENT_READ if outward.wants and not outward.cable.busy else 0
            events |= selectors.EVENT_WRITE if inward.blocked else 0
            key = watched.get(sock)
            if key is None:
                if events:
                    self._selector.register(sock, events, (outward, inward))
            elif not events:
                self._selector.unregister(sock)
            elif key.events != events:
                self._selector.modify(sock, events, (outward, inward))


class Link:
    """The relay's process, from its owner's side."""

    def __init__(self, endpoint_url: str, *, round_trip_seconds: float, bytes_per_second: float) -> None:
        address = urlsplit(endpoint_url)
        command = [sys.executable, "-m", "bench.link", f"{address.hostname}:{address.port}"]
        command += [str(round_trip_seconds / 2), str(bytes_per_second)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        assert self._process.stdout is not None
        self.endpoint_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def __enter__(self) -> "Link":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("delay_seconds", type=float)
    parser.add_argument("bytes_per_second", type=float)
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        Relay(listener, (host, int(port)), options.delay_seconds, options.bytes_per_second).run()


if __name__ == "__main__":
    main()
