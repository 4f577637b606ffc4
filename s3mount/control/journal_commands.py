"""What `s3mount journal` does: show and rescue what waits in a write-back journal. Asks no daemon and no bucket."""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3mount.control import export
from s3mount.control.asking import remark
from s3mount.control.keeping_texts import failure
from s3mount.control.texts import columns, escaped, instant, size
from s3mount.errors import ControlError, Lost
from s3mount.writeback import shelf
from s3mount.writeback.operations import Operation
from s3mount.writeback.shelf import Shelf

RESERVED = ".s3mount"
PARTIAL = ".partial"


def whose(journal: Path) -> tuple[str, str, str] | None:
    """Endpoint, bucket and prefix of a journal, as it tells them."""
    identity = shelf.identity(journal)
    return None if identity is None else (identity.endpoint, identity.bucket, identity.prefix)


def journal_list(journal: Path, *, as_json: bool) -> int:
    """0 when all of it can be believed."""
    found, prefix = shelf.look(journal), _prefix(journal)
    changes = [_told(operation, prefix) for operation in found.operations]
    if as_json:
        kept = [str(path) for path in found.kept]
        print(json.dumps({"journal": str(journal), "changes": changes, "damage": found.damage, "kept": kept}, indent=2))
    else:
        sys.stdout.write("\n".join(columns(list(_rows(change))) for change in changes))
    return _damage(found, journal, prefix)


def journal_export(journal: Path, *, to: str) -> int:
    """0 when all bytes that wait were written."""
    found, prefix = shelf.look(journal), _prefix(journal)
    status = _damage(found, journal, prefix)
    with export.opened(to) as directory:
        for operation in found.operations:
            path = operation.key.removeprefix(prefix)
            if operation.kind == "delete" or path.endswith("/") or path.rpartition("/")[2].startswith(RESERVED):
                continue
            homes = sorted({piece.home.key for piece in operation.content if piece.home is not None})
            if homes and all(piece.place is None for piece in operation.content):
                remark(failure(path, f"has no bytes here: it is the object {homes[0]} of the bucket"))
                continue
            name = path + PARTIAL if homes else path
            try:
                written = export.export(directory, name, _Fetching(found, operation))
            except (ControlError, Lost) as error:
                remark(failure(path, str(error)))
                status = 1
                continue
            print(escaped(f"{name}: {written} bytes written"))
            if homes:
                remark(failure(name, f"has zeros where its bytes are those of the object {homes[0]} of the bucket"))
                status = 1
    return status


def _prefix(journal: Path) -> str:
    identity = whose(journal)
    return "" if identity is None else identity[2]


class _Fetching:
    """Pieces of an operation's content, as a daemon would tell them."""

    def __init__(self, found: Shelf, operation: Operation) -> None:
        self._found = found
        self._operation = operation

    def __call__(self, offset: int, size: int) -> dict[str, object]:
        data = bytearray(max(0, min(size, self._operation.size - offset)))
        for piece in self._operation.content:
            start, stop = max(piece.start, offset), min(piece.stop, offset + len(data))
            if piece.place is not None and start < stop:
                body = self._found.read(piece.place, piece.offset + start - piece.start, stop - start)
                data[start - offset : stop - offset] = body
        return {"size": self._operation.size, "changed_ns": 0, "data": base64.b64encode(data).decode()}


def _damage(found: Shelf, journal: Path, prefix: str) -> int:
    """Tell what cannot be read; the exit status."""
    for path in found.kept:
        remark(failure(str(path), "a start kept this aside: the journal was damaged"))
    if found.damage is None:
        return 0
    name, offset = found.damage
    remark(failure(str(journal / name), f"is damaged at {offset}: what was acknowledged after that is not shown"))
    for key in found.keys:
        remark(failure(key.removeprefix(prefix), "is named behind the damage"))
    return 1


def _told(operation: Operation, prefix: str) -> dict[str, Any]:
    return {
        "path": operation.key.removeprefix(prefix),
        "change": operation.kind,
        "source": None if operation.source is None else operation.source.removeprefix(prefix),
        "size": operation.size,
        "since_ns": operation.at_ns,
        "state": operation.state,
        "reason": None if operation.error is None else str(operation.error),
    }


def _rows(change: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "path", change["path"]
    yield "change", change["change"] if change["source"] is None else f"{change['change']} of {change['source']}"
    yield "size", size(change["size"])
    yield "since", instant(change["since_ns"])
    yield "state", change["state"]
    if change["reason"] is not None:
        yield "reason", change["reason"]
