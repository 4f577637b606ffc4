"""What `s3mount sync` and `s3mount failed` say: one line each for how far it is, what failed, what is kept. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from s3mount.control.texts import columns, duration, escaped, instant, size

Fields = Mapping[str, Any]
"""A daemon's words, which may be an older or a newer one's."""
BAR_CHARS = 20
CHANGES = {
    "put": "a file",
    "directory": "a directory",
    "delete": "a deletion: there is nothing to export",
    "rename": "a rename",
    "copy": "attributes, or a rename",
}
OUTCOMES = {
    "stored": "stored",
    "dropped": "dropped",
    "gone": "a program has stored, removed or replaced it meanwhile",
    "conflict": "another client has changed the object: a copy is kept below .s3mount/conflicts/, the log names it",
}


def reach(done: int, total: int | None, more: Mapping[str, int]) -> str:
    """2 of 5 stored, 3.0 of 12.0 MiB."""
    words = f"{done} of {total} stored" if total is not None else f"{done} stored"
    bytes_total = more.get("bytes_total", 0)
    if not bytes_total:
        return words
    return f"{words}, {more.get('bytes', 0) / (1 << 20):.1f} of {bytes_total / (1 << 20):.1f} MiB"


def bar(done: int, total: int | None, more: Mapping[str, int]) -> str:
    """The same behind a bar of the bytes, or where there are none of the things."""
    part, whole = (more["bytes"], more["bytes_total"]) if more.get("bytes_total") else (done, total or 0)
    filled = min(BAR_CHARS, part * BAR_CHARS // whole) if whole else 0
    return f"[{'#' * filled}{'.' * (BAR_CHARS - filled)}] {reach(done, total, more)}"


def failure(path: str, reason: str, remedy: str = "") -> str:
    """One line, whatever is in it."""
    words = f"{path or 'the mount'}: {' '.join(reason.split())}{f'; {remedy}' if remedy else ''}"
    return escaped(words)


def not_stored(answer: Fields, timeout: str) -> Iterator[str]:
    """A line for each thing that `sync` has not stored."""
    for failed in answer.get("failed", ()):
        yield failure(str(failed.get("path")), str(failed.get("reason")))
    if answer.get("in_time") is False:
        waiting = answer.get("waiting", ())
        for path in waiting:
            yield failure(str(path), f"not stored within {timeout}; it goes on")
        if not waiting:
            yield failure("", f"the kernel has not handed over what it holds within {timeout}")


def kept(answer: Fields) -> str:
    """`s3mount failed list`: a few lines for each file."""
    return "\n".join(columns(list(_rows(file))) for file in answer.get("files", ()))


def _rows(file: Fields) -> Iterator[tuple[str, object]]:
    following = file.get("next_seconds")
    yield "path", file.get("path")
    yield "size", size(file.get("size"))
    yield "kept here", size(file.get("kept_bytes"))
    yield "since", instant(file.get("since_ns"))
    yield "reason", file.get("reason")
    yield "remedy", file.get("remedy")
    if file.get("waits_for_you"):
        yield "change", CHANGES.get(str(file.get("change")), file.get("change"))
        yield "tries", "not tried again by itself, see `s3mount failed retry`"
        return
    yield (
        "tries",
        f"{file.get('tries')}, {'one is under way' if following is None else f'next in {duration(following)}'}",
    )
