"""What `s3mount sync` and `s3mount failed` do: ask, wait, show how far it is, say what failed; the exit status."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from s3mount import kernel
from s3mount.control import client, export, keeping_texts, paths
from s3mount.control.asking import ask, remark, uid
from s3mount.control.client import OnProgress
from s3mount.control.paths import Location
from s3mount.control.texts import escaped
from s3mount.errors import ControlError

CLEAR_LINE = "\r\x1b[K"


def sync(path: str, *, timeout: str, timeout_seconds: float | None) -> int:
    """0 when everything that was not stored at the call is."""
    try:
        with _Shown() as shown:
            _, answer = ask(path, "sync", {"timeout_seconds": timeout_seconds}, on_progress=shown.show)
    except KeyboardInterrupt:
        remark("not waited for any longer; what was begun goes on: see `s3mount status`")
        return 1
    lines = list(keeping_texts.not_stored(answer, timeout))
    for line in lines:
        remark(line)
    return 1 if lines or answer.get("in_time") is False else 0


def failed_list(path: str, chosen: Sequence[str], *, as_json: bool) -> int:
    answer = _failed(path, chosen, "failed_list")[1]
    sys.stdout.write(json.dumps(answer, indent=2) + "\n" if as_json else keeping_texts.kept(answer))
    return 0


def failed_retry(path: str, chosen: Sequence[str], *, as_json: bool) -> int:
    """0 when nothing of it is left."""
    return _told(_failed(path, chosen, "failed_retry")[1], as_json=as_json, good=("stored", "gone"))


def failed_drop(path: str, chosen: Sequence[str], *, as_json: bool, everything: bool) -> int:
    """0 when nothing of it is left."""
    answer = _failed(path, chosen, "failed_drop", all=everything)[1]
    return _told(answer, as_json=as_json, good=("dropped", "stored", "gone"))


def failed_export(path: str, chosen: Sequence[str], *, to: str) -> int:
    """0 when all of it was written."""
    location, answer = _failed(path, chosen, "failed_list")
    status = 0
    with export.opened(to) as directory:
        for file in _files(answer):
            name = str(file.get("path"))
            if file.get("change") == "delete":
                print(escaped(f"{name}: a deletion, nothing to write"))
                continue
            try:
                if file.get("change") == "directory":
                    export.export_directory(directory, name)
                    print(escaped(f"{name}: a directory, made"))
                    continue
                size = export.export(directory, name, _fetching(location, file.get("number")))
            except ControlError as error:
                remark(keeping_texts.failure(name, str(error)))
                status = 1
            else:
                print(escaped(f"{name}: {size} bytes written"))
    return status


class _Shown:
    """How far a `sync` is, whenever that has changed: on a terminal a line that is written over, else one more line;
    nothing when nothing is to do."""

    def __init__(self) -> None:
        self._said = ""

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._said and sys.stderr.isatty():
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)

    def show(self, done: int, total: int | None, more: Mapping[str, int]) -> None:
        if not total:
            return
        at_terminal = sys.stderr.isatty()
        words = (keeping_texts.bar if at_terminal else keeping_texts.reach)(done, total, more)
        if words == self._said:
            return
        self._said = words
        if at_terminal:
            print(f"{CLEAR_LINE}{words}", end="", file=sys.stderr, flush=True)
        else:
            remark(words)


def _failed(path: str, chosen: Sequence[str], verb: str, **rest: object) -> tuple[Location, dict[str, object]]:
    location = paths.locate(path, kernel.mounts())
    return ask(path, verb, {**rest, "paths": [_inside(location, one) for one in chosen]})


def _inside(location: Location, path: str) -> str:
    """A path as `failed list` shows it, or an absolute one, as the daemon names it. Raises ControlError."""
    if not path.startswith("/"):
        return path.removeprefix("./")
    found = paths.locate(path, kernel.mounts())
    if found.mount.device != location.mount.device:
        raise ControlError(f"{path} is in another mount")
    return found.path


def _told(answer: Mapping[str, object], *, as_json: bool, good: Sequence[str]) -> int:
    """Each file and what became of it; the exit status."""
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    status = 0
    for file in _files(answer):
        path, outcome = str(file.get("path")), str(file.get("outcome"))
        if outcome in good and not as_json:
            print(escaped(f"{path}: {keeping_texts.OUTCOMES[outcome]}"))
        elif outcome not in good:
            words = [keeping_texts.OUTCOMES.get(outcome), file.get("reason")]
            reason = ": ".join(str(one) for one in words if one)
            remark(keeping_texts.failure(path, reason, str(file.get("remedy") or "")))
            status = 1
    return status


def _files(answer: Mapping[str, object]) -> list[dict[str, Any]]:
    files = answer.get("files")
    return [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []


def _fetching(location: Location, number: object) -> Callable[[int, int], dict[str, object]]:
    quiet: OnProgress = lambda _done, _total, _more: None  # noqa: E731

    def fetch(offset: int, size: int) -> dict[str, object]:
        request = {"verb": "failed_read", "path": "", "number": number, "offset": offset, "size": size}
        return client.ask(location.mount, request, on_progress=quiet, uid=uid())

    return fetch
