"""What `s3mount abort` and `s3mount healthcheck` do; neither touches the mount. The exit status."""

import os
import time

from s3mount import kernel
from s3mount.control import client, connection, looking, paths
from s3mount.control.asking import ask, remark, uid
from s3mount.control.client import Silent
from s3mount.control.paths import Location
from s3mount.control.texts import duration, escaped, part
from s3mount.errors import ControlError


def abort(path: str, *, force: bool) -> int:
    """0 when no program waits any more for what it had asked before. Raises ControlError."""
    location = paths.locate(path, kernel.mounts())
    mountpoint = location.mount.mountpoint
    try:
        _, answer = ask(path, "abort", {})
    except ControlError as error:
        if force:
            return _give_up(location)
        if isinstance(error, Silent):
            raise ControlError(f"{error}; `s3mount abort --force {mountpoint}` gives the mount up") from None
        raise
    count, left = answer.get("count"), answer.get("left")
    print(f"{count} {'request' if count == 1 else 'requests'} of programs failed, and what waited behind")
    if not isinstance(left, dict) or not left:
        return 0
    words = ", ".join(f"{number} {escaped(str(name))}" for name, number in sorted(left.items()))
    if not force:
        remark(f"these wait for something else: {words}; `s3mount abort --force {mountpoint}` gives the mount up")
        return 1
    return _give_up(location)


def healthcheck(path: str, *, timeout_seconds: float, ready: bool) -> int:
    """0 when the mount serves; with `ready` when the store is reached, too. Raises ControlError with the reason."""
    deadline = time.monotonic() + timeout_seconds
    location = paths.locate(path, kernel.mounts())
    mount = location.mount
    if location.path != mount.root.strip("/"):
        raise ControlError(f"{path} is not mounted: it is a directory in {mount.mountpoint}")
    request = {"verb": "health", "path": ""}
    answer = client.ask(mount, request, on_progress=lambda *_: None, uid=uid(), patience_seconds=timeout_seconds)
    if ready:
        _check_ready(answer, mount.mountpoint)
    status = looking.statfs(mount.mountpoint, max(0.0, deadline - time.monotonic()))
    if status is None:
        raise ControlError(f"{mount.mountpoint} does not answer programs within {timeout_seconds:g} s")
    if status != looking.ANSWERED:
        raise ControlError(f"{mount.mountpoint} answers programs with an error: {os.strerror(status)}")
    return 0


def _give_up(location: Location) -> int:
    connection.end(location.mount)
    mountpoint = location.mount.mountpoint
    remark(
        f"the mount was given up: programs get errors, {mountpoint} is dead until it is mounted again; the daemon, if "
        "it ever goes on, stores what it has and ends"
    )
    return 0


def _check_ready(answer: dict[str, object], mountpoint: str) -> None:
    if answer.get("stopping") is True:
        raise ControlError(f"{mountpoint} is being stopped")
    outage = part(answer, "outage")
    if outage:
        reason = " ".join(escaped(str(outage.get("reason"))).split())
        raise ControlError(f"the store was not reached for {duration(outage.get('since_seconds'))}: {reason}")
