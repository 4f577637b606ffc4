"""The lines of the control socket: one JSON object each; values to lines and back. Pure.

A client says `{"verb": ..., ...}`, once. The daemon answers `{"progress": n, "total": m or null}`, with further figures
under `more` where there are some, any number of times, and at the end `{"ok": ...}` or `{"error": ..., "errno": ...}`.
Names that are not UTF-8 travel as Python's surrogate escapes. Nothing that comes in can raise anything but Invalid.
"""

import json
import os
from collections.abc import Mapping

from s3mount.errors import Invalid

Request = Mapping[str, object]

REPLY_MAX_BYTES = 16 * 1024 * 1024
"""A client that is sent more is not talking to a daemon of ours."""


def line_of(message: Mapping[str, object]) -> bytes:
    return json.dumps(message, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def read_line(line: bytes) -> dict[str, object]:
    """The object in a line. Raises Invalid."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise Invalid("not a line of JSON") from None
    if not isinstance(found, dict):
        raise Invalid("not a JSON object")
    return found


def verb_of(request: Request) -> str:
    return _text(request, "verb")


def path_of(request: Request) -> bytes:
    """The path a request is about, relative to the root of the mount. Raises Invalid."""
    try:
        path = os.fsencode(_text(request, "path"))
    except UnicodeEncodeError:
        raise Invalid("path: not a path") from None
    if b"\0" in path:
        raise Invalid("path: has a NUL")
    return path


def whole(request: Request, name: str, *, least: int, most: int) -> int:
    """A whole number within limits. Raises Invalid."""
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Invalid(f"{name}: a whole number from {least} to {most}")
    return value


def number(request: Request, name: str, *, least: float, most: float) -> float | None:
    """A number within limits; None when there is none. Raises Invalid."""
    value = request.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
        raise Invalid(f"{name}: a number from {least:g} to {most:g}")
    return float(value)


def paths_of(request: Request) -> list[str]:
    """The paths under `paths`, as the mount names them. Raises Invalid."""
    value = request.get("paths")
    if not isinstance(value, list) or not all(isinstance(path, str) for path in value):
        raise Invalid("paths: a list of strings")
    return value


def _text(request: Request, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise Invalid(f"{name}: a string")
    return value


def progress_line(done: int, total: int | None, more: Mapping[str, int]) -> bytes:
    return line_of({"progress": done, "total": total, **({"more": more} if more else {})})


def ok_line(answer: object) -> bytes:
    return line_of({"ok": answer})


def error_line(words: str, errno: int) -> bytes:
    return line_of({"error": words, "errno": errno})
