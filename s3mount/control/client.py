"""The other end of the control socket: one question to the daemon of a mount, and its answer.

Plain blocking sockets, no library: it must start quickly and work where libfuse is missing. A daemon whose loop runs
says something every second; one that is silent for PATIENCE_SECONDS does not answer. No state.
"""

import errno
import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from s3mount.control import sockets
from s3mount.control.protocol import REPLY_MAX_BYTES, line_of
from s3mount.errors import ControlError
from s3mount.kernel import Mount

PATIENCE_SECONDS = 5.0
AGAIN_SECONDS = 0.05
RECEIVE_BYTES = 64 * 1024

OnProgress = Callable[[int, int | None, Mapping[str, int]], None]
"""Done, of how much (None: nobody knows), and further figures by name."""


class Refusal(ControlError):
    """The daemon answered with an error; `number` is its errno."""

    def __init__(self, words: str, number: int) -> None:
        super().__init__(words)
        self.number = number


class Silent(ControlError):
    """The daemon is there, and does not answer."""


def ask(
    mount: Mount,
    request: Mapping[str, object],
    *,
    on_progress: OnProgress,
    uid: int,
    patience_seconds: float = PATIENCE_SECONDS,
) -> dict[str, object]:
    """What the daemon answers user `uid`. Raises Refusal, ControlError in one line."""
    with _connected(mount, uid, patience_seconds) as connection:
        try:
            with suppress(BrokenPipeError):  # it has refused already, and said why
                connection.sendall(line_of(request))
            return _answer(mount, connection, on_progress)
        except TimeoutError:
            raise Silent(
                f"the daemon of {mount.mountpoint} does not answer within {patience_seconds:g} s: its log may say why"
            ) from None
        except OSError as error:
            raise ControlError(f"the daemon of {mount.mountpoint} hung up: {error.strerror}") from None


def _connected(mount: Mount, uid: int, patience_seconds: float) -> socket.socket:
    owner = uid if mount.owner is None else mount.owner
    places = sockets.directories(owner)
    refused = denied = False
    for directory in places:
        try:
            with sockets.opened(directory, owner) as path:
                connection = _connect(str(path / sockets.name_of(mount.device)), patience_seconds)
        except ConnectionRefusedError:
            refused = True
        except PermissionError:
            denied = True
        except TimeoutError:
            raise Silent(f"the daemon of {mount.mountpoint} takes no connection: its log may say why") from None
        except OSError:
            continue
        else:
            if sockets.uid_in(connection.getsockopt(*sockets.PEER)) == owner:
                return connection
            connection.close()
    if refused:
        raise ControlError(f"the daemon of {mount.mountpoint} has died: mounting again takes the mountpoint over")
    if denied and uid not in (0, owner):
        raise ControlError(f"the daemon of {mount.mountpoint} answers user {owner} and root only")
    looked = ", ".join(map(str, places))
    raise ControlError(f"the daemon of {mount.mountpoint} has no control socket in {looked}: its log may say why")


def _connect(address: str, patience_seconds: float) -> socket.socket:
    deadline = time.monotonic() + patience_seconds
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(patience_seconds)
        try:
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            if error.errno != errno.EAGAIN:  # the queue of those who want to be accepted is full
                raise
            if time.monotonic() > deadline:
                raise TimeoutError from None
        time.sleep(AGAIN_SECONDS)


def _answer(mount: Mount, connection: socket.socket, on_progress: OnProgress) -> dict[str, object]:
    received = bytearray()
    while True:
        end = received.find(b"\n")
        if end < 0:
            piece = connection.recv(RECEIVE_BYTES)
            if not piece or len(received) > REPLY_MAX_BYTES:
                raise ControlError(f"the daemon of {mount.mountpoint} hung up without an answer: its log may say why")
            received += piece
            continue
        try:
            reply = json.loads(bytes(received[:end]))
        except ValueError:
            reply = None
        del received[: end + 1]
        if not isinstance(reply, dict):
            raise ControlError(
                f"the daemon of {mount.mountpoint} said what cannot be understood: is it as old as this?"
            )
        if "error" in reply:
            number = reply.get("errno")
            raise Refusal(str(reply["error"]), number if isinstance(number, int) else errno.EIO)
        if "ok" in reply:
            answer = reply["ok"]
            return answer if isinstance(answer, dict) else {}
        done, total = reply.get("progress"), reply.get("total")
        if isinstance(done, int):
            more = reply.get("more")
            on_progress(done, total if isinstance(total, int) else None, more if isinstance(more, dict) else {})
