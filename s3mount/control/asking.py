"""From a path of the user's to the answer of the daemon whose mount it is in, for all verbs.

Answers go to standard output, remarks to standard error; how far a verb has come is shown on a terminal only.
"""

import errno
import os
import sys
from collections.abc import Mapping

from s3mount import kernel
from s3mount.control import client, paths
from s3mount.control.client import OnProgress, Refusal
from s3mount.control.paths import Location
from s3mount.errors import ControlError


def ask(
    path: str, verb: str, rest: Mapping[str, object], *, on_progress: OnProgress | None = None
) -> tuple[Location, dict[str, object]]:
    """The daemon's answer about a path, and where that is. Raises ControlError."""
    location = paths.locate(path, kernel.mounts())
    request = {"verb": verb, **rest}
    show = on_progress or _progress()
    try:
        return location, client.ask(location.mount, {**request, "path": location.path}, on_progress=show, uid=uid())
    except Refusal as refusal:
        if refusal.number != errno.ENOTDIR:
            raise
        # A parent is a link inside the mount, or a file; the kernel knows, and this daemon answers.
        elsewhere = paths.locate(paths.followed(path), kernel.mounts())
        if elsewhere == location:
            raise ControlError(f"{path}: a parent is not a directory") from refusal
        asked = {**request, "path": elsewhere.path}
        return elsewhere, client.ask(elsewhere.mount, asked, on_progress=show, uid=uid())


def uid() -> int:
    return os.geteuid()


def remark(words: str) -> None:
    print(f"s3mount: {words}", file=sys.stderr)


def _progress() -> OnProgress:
    """A line that is written over, on a terminal only."""
    if not sys.stderr.isatty():
        return lambda _done, _total, _more: None

    def show(done: int, total: int | None, _more: Mapping[str, int]) -> None:
        if done or total:
            words = f"{done} objects" if total is None else f"{done} of {total}"
            print(f"{words}\r", end="", file=sys.stderr, flush=True)

    return show
