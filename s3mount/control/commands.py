"""What `s3mount stat`, `url`, `refresh` and `status` do: find the mount, ask its daemon, print; the exit status.

Each is a function of words that `cli` has understood. Answers go to standard output, remarks to standard error.
"""

import errno
import json
import os
import sys
from collections.abc import Mapping
from math import ceil

from s3mount import kernel
from s3mount.control import client, paths, texts
from s3mount.control.client import OnProgress, Refusal
from s3mount.control.paths import Location
from s3mount.control.status import status_text
from s3mount.errors import ControlError

URL_NOTES = {
    "changed": "what was changed here is not stored yet: the address shows the version before",
    "uploading": "what was changed here is being uploaded: the address shows the version before until then",
}


def stat(path: str, *, as_json: bool) -> int:
    location, answer = _ask(path, "stat", {})
    answer["mountpoint"] = location.mount.mountpoint
    _print(_json(answer) if as_json else texts.stat_text(answer, location.mount.mountpoint))
    return 0


def url(path: str, *, expires_seconds: float) -> int:
    _, answer = _ask(path, "url", {"expires_seconds": ceil(expires_seconds)})
    _print(f"{answer.get('url')}\n")
    ends = answer.get("ends_seconds")
    if answer.get("temporary_credentials") and isinstance(ends, (int, float)):
        until = texts.instant(int(ends) * 1_000_000_000)
        _remark(
            f"the credentials are temporary: the address ends with them, {'' if answer.get('shortened') else 'or '}"
            f"{until}"
        )
    note = URL_NOTES.get(str(answer.get("state")))
    if note is not None:
        _remark(note)
    return 0


def refresh(path: str, *, attributes: bool) -> int:
    _, answer = _ask(path, "refresh", {"attributes": attributes})
    flags = answer.get("flags")
    if isinstance(flags, dict):
        _print(texts.flags_text(flags))
    return 0


def status(path: str, *, as_json: bool) -> int:
    _, answer = _ask(path, "status", {})
    _print(_json(answer) if as_json else status_text(answer))
    return 0


def log_level(path: str, level: str | None) -> int:
    _, answer = _ask(path, "log-level", {} if level is None else {"level": level})
    _print(f"{answer.get('level')}\n")
    return 0


def _ask(path: str, verb: str, rest: Mapping[str, object]) -> tuple[Location, dict[str, object]]:
    """The daemon's answer about a path, and where that is. Raises ControlError."""
    location = paths.locate(path, kernel.mounts())
    request = {"verb": verb, **rest}
    show = _progress()
    try:
        return location, client.ask(location.mount, {**request, "path": location.path}, on_progress=show, uid=_uid())
    except Refusal as refusal:
        if refusal.number != errno.ENOTDIR:
            raise
        # A parent is a link inside the mount, or a file; the kernel knows, and this daemon answers.
        elsewhere = paths.locate(paths.followed(path), kernel.mounts())
        if elsewhere == location:
            raise ControlError(f"{path}: a parent is not a directory") from refusal
        asked = {**request, "path": elsewhere.path}
        return elsewhere, client.ask(elsewhere.mount, asked, on_progress=show, uid=_uid())


def _progress() -> OnProgress:
    """A line that is written over, on a terminal only."""
    if not sys.stderr.isatty():
        return lambda _done, _total: None

    def show(done: int, total: int | None) -> None:
        if done or total:
            words = f"{done} objects" if total is None else f"{done} of {total}"
            print(f"{words}\r", end="", file=sys.stderr, flush=True)

    return show


def _uid() -> int:
    return os.geteuid()


def _json(answer: Mapping[str, object]) -> str:
    return json.dumps(answer, indent=2) + "\n"


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _remark(words: str) -> None:
    print(f"s3mount: {words}", file=sys.stderr)
