"""The port of `--metrics-address`: taken before anything is mounted, served from the start of the mount to its end.

The state is the listening socket, and the thread once it runs.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from s3mount.config import Config
from s3mount.errors import StartError
from s3mount.heartbeat import Heartbeat
from s3mount.metrics.snapshots import Snapshots

log = logging.getLogger(__name__)

BACKLOG = 64


class Endpoint:
    """See the module. `listener` None: nobody wants metrics, and nothing is done."""

    def __init__(self, config: Config, listener: socket.socket | None) -> None:
        self._config = config
        self._listener = listener
        self.snapshots = Snapshots()

    @contextmanager
    def served(self, heart: Heartbeat, life: Callable[[], str]) -> Iterator[None]:
        """Answer, by a thread, while the block runs."""
        if self._listener is None:
            yield
            return
        from s3mount.metrics.answers import Answers
        from s3mount.metrics.server import Server

        host, port = self._listener.getsockname()[:2]
        server = Server(
            self._listener, Answers(self._config, heart, life, self.snapshots), self.snapshots, self._config
        )
        server.start()
        log.info("metrics are served address=%s", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        try:
            yield
        finally:
            server.stop()


def listen(config: Config) -> Endpoint:
    """Take the port. Raises StartError in one line."""
    if config.metrics_address is None:
        return Endpoint(config, None)
    try:
        import prometheus_client  # noqa: F401 - here, where a missing library can be told
    except ImportError as error:
        words = f"--metrics-address needs a library that is missing: {error}; pip install prometheus-client"
        raise StartError(words) from error
    host, port = config.metrics_address
    where = f"--metrics-address {host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        raise StartError(f"{where}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(f"{where}: {error.strerror}; choose a free port, or an address of this machine") from error
    return Endpoint(config, listener)
