"""What `s3mount stat`, `url`, `refresh` and `status` do: ask the daemon of the mount, print; the exit status.

Each is a function of words that `cli` has understood. Answers go to standard output, remarks to standard error.
"""

import json
import sys
from collections.abc import Mapping
from math import ceil

from s3mount.control import texts
from s3mount.control.asking import ask, remark
from s3mount.control.status import status_text

URL_NOTES = {
    "changed": "what was changed here is not stored yet: the address shows the version before",
    "uploading": "what was changed here is being uploaded: the address shows the version before until then",
    "waiting": "what was changed here waits to be sent: until then the address shows the version before, or nothing",
}


def stat(path: str, *, as_json: bool) -> int:
    location, answer = ask(path, "stat", {})
    answer["mountpoint"] = location.mount.mountpoint
    _print(_json(answer) if as_json else texts.stat_text(answer, location.mount.mountpoint))
    return 0


def url(path: str, *, expires_seconds: float) -> int:
    _, answer = ask(path, "url", {"expires_seconds": ceil(expires_seconds)})
    _print(f"{answer.get('url')}\n")
    ends = answer.get("ends_seconds")
    if answer.get("temporary_credentials") and isinstance(ends, (int, float)):
        until = texts.instant(int(ends) * 1_000_000_000)
        remark(
            f"the credentials are temporary: the address ends with them, {'' if answer.get('shortened') else 'or '}"
            f"{until}"
        )
    note = URL_NOTES.get(str(answer.get("state")))
    if note is not None:
        remark(note)
    return 0


def refresh(path: str, *, attributes: bool) -> int:
    _, answer = ask(path, "refresh", {"attributes": attributes})
    flags = answer.get("flags")
    if isinstance(flags, dict):
        _print(texts.flags_text(flags))
    return 0


def status(path: str, *, as_json: bool) -> int:
    _, answer = ask(path, "status", {})
    _print(_json(answer) if as_json else status_text(answer))
    return 0


def log_level(path: str, level: str | None) -> int:
    _, answer = ask(path, "log-level", {} if level is None else {"level": level})
    _print(f"{answer.get('level')}\n")
    return 0


def _json(answer: Mapping[str, object]) -> str:
    return json.dumps(answer, indent=2) + "\n"


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
