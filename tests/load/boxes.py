"""A directory with some files that is moved to and fro under faults."""

from pathlib import Path

from tests.load.calls import Calls, Wrong

FILES = 3


class Boxes:
    """See the module. The mutable state: a serial number, the directory that is where it should be, and the moves that
    failed: from where, to where."""

    def __init__(self, root: Path, calls: Calls) -> None:
        self._root = root
        self._calls = calls
        self._serial = 0
        self._there: str | None = None
        self._failed: list[tuple[str, str]] = []

    def move(self) -> None:
        """Move the directory; after a move that failed, make another one."""
        self._serial += 1
        name = f"box{self._serial}"
        if self._there is None:
            _, number = self._calls.attempt("mkdir", (self._root / name).mkdir)
            if number == 0 and all(self._fill(self._root / name / f"f{count}") for count in range(FILES)):
                self._there = name
            return
        old, self._there = self._there, name
        _, number = self._calls.attempt("move", lambda: (self._root / old).rename(self._root / name))
        if number:
            self._failed.append((old, name))
            self._there = None

    def _fill(self, path: Path) -> bool:
        return self._calls.attempt("fill", lambda: path.write_bytes(_content(path)))[1] == 0

    def check(self) -> None:
        """The store is well. A move that failed was undone, or ends one day: each file is at one name or at both."""
        boxes = [*self._failed, *([(self._there, self._there)] if self._there else [])]
        for old, new in boxes:
            for count in range(FILES):
                found = [path for box in (old, new) if (path := self._root / box / f"f{count}").exists()]
                if not found:
                    raise Wrong(f"f{count} is neither in {old} nor in {new}")
                if any(path.read_bytes() != _content(path) for path in found):
                    raise Wrong(f"f{count} of {old} or {new} has another content")


def _content(path: Path) -> bytes:
    return path.name.encode() * 1000
