"""What one writer was promised: for each of its names the versions that the bucket may hold, from its log alone.

A log is a list of records in the order in which they were written: `["begin", verb, ...]` before a call, `["done", at]`
after it has returned 0, `["failed", at, errno, name]` after it has not. A writer does one thing at a time, so of a
writer whose mount was killed one call at most is in flight. Pure: knows neither mount nor store.

verbs: store name size digest mode (a close or fsync: all of it from here on), empty name (a close of what nothing was
written to: stored soon after), chmod name mode, unlink name, rename old new, mkdir name, rmdir name, move old new (of a
directory).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

DEFAULT_MODE = 0o644
MODES = (0o600, 0o640, 0o755)
"""What writers change permissions to."""
ANY_MODE = frozenset({DEFAULT_MODE, *MODES})


@dataclass(frozen=True, slots=True)
class Version:
    """The content of an object."""

    size: int
    digest: str

    def __str__(self) -> str:
        return f"{self.size} bytes {self.digest[:8]}"


Allowed = frozenset[Version | None]
"""None: no such object."""
ABSENT: Allowed = frozenset({None})
Found = Mapping[str, Version]
"""What the bucket has, by name; markers of directories with a slash at their end."""


def version_of(body: "bytes | bytearray | memoryview") -> Version:
    return Version(len(body), blake2b(body, digest_size=16).hexdigest())


EMPTY = version_of(b"")


@dataclass(slots=True)
class Promises:
    """See the module. The mutable state is all of it: what may be there now, everything that was ever complete, and
    the call in flight."""

    files: dict[str, Allowed] = field(default_factory=dict)
    modes: dict[str, frozenset[int]] = field(default_factory=dict)
    directories: dict[str, frozenset[bool]] = field(default_factory=dict)
    complete: dict[Version, str] = field(default_factory=dict)
    """Every version that was to be stored, with the name that it was for."""
    flying: list[Any] | None = None
    ever: dict[str, Allowed] = field(default_factory=dict)
    """All that was promised of a name since the last look, and what was there then."""
    acknowledged: int = 0
    acknowledged_bytes: int = 0
    failures: list[tuple[float, int, str]] = field(default_factory=list)
    """Times, errnos and names of calls that failed."""

    # what the writer says

    def hear(self, record: list[Any]) -> None:
        match record:
            case ["begin", *call]:
                assert self.flying is None, f"{call} began during {self.flying}"
                self.flying = call
                if call[0] == "store":
                    self.complete[Version(call[2], call[3])] = call[1]
                elif call[0] == "chmod":
                    self.modes[call[1]] = self._modes(call[1]) | {call[2]}
            case ["done", _]:
                assert self.flying is not None
                call, self.flying = self.flying, None
                self._after(call)
            case ["failed", at, number, name]:
                self.failures.append((at, number, name))
            case _:
                raise ValueError(f"not a record: {record}")

    def _after(self, call: list[Any]) -> None:
        self.acknowledged += 1
        match call:
            case ["store", name, size, digest, mode]:
                self.acknowledged_bytes += size
                self._set(name, frozenset({Version(size, digest)}))
                if name in self.modes or mode != DEFAULT_MODE:
                    self.modes[name] = frozenset({mode})
            case ["empty", name]:
                self._set(name, self._allowed(name) | {EMPTY})
            case ["unlink", name]:
                self._set(name, ABSENT)
                self.modes.pop(name, None)
            case ["rename", old, new]:
                moved = self._allowed(old)
                self._set(new, (moved - ABSENT) | self._allowed(new) if None in moved else moved)
                self._set(old, ABSENT)
                self._move_modes(old, new, certain=None not in moved)
            case ["mkdir", name]:
                self.directories[name] = frozenset({True})
            case ["rmdir", name]:
                self.directories[name] = frozenset({False})
            case ["move", old, new]:
                self._move(old, new)

    def _move(self, old: str, new: str) -> None:
        for name in self._below(old):
            self._set(new + name[len(old) :], self._allowed(name))
            self._move_modes(name, new + name[len(old) :], certain=True)
            self._set(name, ABSENT)
        for name, there in list(self.directories.items()):
            if name == old or name.startswith(old + "/"):
                self.directories[new + name[len(old) :]] = there
                self.directories[name] = frozenset({False})

    def _move_modes(self, old: str, new: str, *, certain: bool) -> None:
        moved = self.modes.pop(old, frozenset({DEFAULT_MODE}))
        self.modes[new] = moved if certain else moved | self._modes(new)

    def _set(self, name: str, allowed: Allowed) -> None:
        self.ever[name] = self.ever.get(name, self._allowed(name)) | allowed
        if allowed == ABSENT:
            self.files.pop(name, None)
        else:
            self.files[name] = allowed

    def _allowed(self, name: str) -> Allowed:
        return self.files.get(name, ABSENT)

    def _modes(self, name: str) -> frozenset[int]:
        return self.modes.get(name, frozenset({DEFAULT_MODE}))

    def _below(self, directory: str) -> list[str]:
        return [name for name in self.files if name.startswith(directory + "/")]

    # what the bucket has

    def check(self, found: Found) -> list[str]:
        """What is not as promised, in words; nothing when all is."""
        told = [] if self.flying is None else self._check_flying(found)
        return told + self.check_acknowledged(found) + self._check_directories(found)

    def check_acknowledged(self, found: Found) -> list[str]:
        """The same, files only, and but for the call in flight."""
        names = {*self.files, *(name for name in found if not name.endswith("/"))} - self.in_flight()
        wrong = [name for name in sorted(names) if found.get(name) not in self._allowed(name)]
        return [self._complaint(name, found.get(name), self._allowed(name)) for name in wrong]

    def claims(self, name: str) -> bool:
        """Whether the writer has made that name, or was about to."""
        return name in self.files or name in self.in_flight()

    def check_modes(self, found: Mapping[str, int]) -> list[str]:
        """The same of the permissions of those files whose permissions were changed."""
        flying = self.in_flight()
        return [
            f"mode of {name} is {mode:o}, promised was {' or '.join(f'{one:o}' for one in self._modes(name))}"
            for name, mode in found.items()
            if name not in flying and mode not in self._modes(name)
        ]

    def doubt(self, names: Iterable[str]) -> None:
        """The latest records of these were damaged: each may be as it was earlier, and nothing else. Of the call in
        flight nothing is known."""
        flown: list[tuple[str, Allowed]] = []
        match self.flying:
            case ["store", name, size, digest, _]:
                flown = [(name, frozenset({Version(size, digest)}))]
            case ["empty", name]:
                flown = [(name, frozenset({EMPTY}))]
            case ["unlink", name]:
                flown = [(name, ABSENT)]
            case ["rename", old, new]:
                flown = [(new, self._ever(old)), (old, ABSENT)]
            case ["move", old, new]:
                below = self._below(old)
                flown = [(new + name[len(old) :], self._ever(name)) for name in below]
                flown += [(name, ABSENT) for name in below]
        for name, allowed in flown:
            self.ever[name] = self._ever(name) | allowed
        self.flying = None
        for name in {*names, *(name for name, _ in flown)}:
            self._set(name, self._ever(name))
            self.modes[name] = ANY_MODE
        self.directories = dict.fromkeys(self.directories, frozenset({True, False}))

    def _ever(self, name: str) -> Allowed:
        return self.ever.get(name, self._allowed(name))

    def settle(self, found: Found, modes: Mapping[str, int]) -> None:
        """From now on what was found is what is there."""
        self.flying = None
        self.ever.clear()
        self.failures.clear()
        self.files = {name: frozenset({version}) for name, version in found.items() if not name.endswith("/")}
        self.modes = {name: frozenset({modes[name]}) for name in self.files if name in modes}
        names = {*self.directories, *_parents(found)}
        self.directories = {name: frozenset({_exists(name, found)}) for name in names}
        self.directories = {name: there for name, there in self.directories.items() if True in there}

    def in_flight(self) -> set[str]:
        """The names of files that the call in flight may have changed."""
        match self.flying:
            case ["store" | "empty" | "unlink", name, *_]:
                return {name}
            case ["rename", old, new]:
                return {old, new}
            case ["move", old, new]:
                below = self._below(old)
                return {*below, *(new + name[len(old) :] for name in below)}
        return set()

    def _check_flying(self, found: Found) -> list[str]:
        def either(name: str, allowed: Allowed) -> list[str]:
            return [] if found.get(name) in allowed else [self._complaint(name, found.get(name), allowed)]

        match self.flying:
            case ["store", name, size, digest, _]:
                return either(name, self._allowed(name) | {Version(size, digest)})
            case ["empty", name]:
                return either(name, self._allowed(name) | {EMPTY})
            case ["unlink", name]:
                return either(name, self._allowed(name) | ABSENT)
            case ["rename", old, new]:
                if not self._renamed(old, new, found.get(old), found.get(new)):
                    return [f"rename of {old} to {new} left {found.get(old)} and {found.get(new)}"]
            case ["move", old, new]:
                names = self._below(old)
                stayed = all(self._stayed(name, new + name[len(old) :], found) for name in names)
                if not stayed and not all(self._stayed(new + name[len(old) :], name, found, name) for name in names):
                    return [f"move of {old} to {new} left {_under(old, found)} and {_under(new, found)}"]
        return []

    def _stayed(self, here: str, there: str, found: Found, known_as: str = "") -> bool:
        return found.get(here) in self._allowed(known_as or here) and there not in found

    def _renamed(self, old: str, new: str, at_old: Version | None, at_new: Version | None) -> bool:
        moved, before = self._allowed(old), self._allowed(new)
        if at_old in moved and (at_new in before or (at_new is not None and at_new == at_old)):
            return True
        return at_old is None and at_new in moved and at_new is not None

    def _check_directories(self, found: Found) -> list[str]:
        told = []
        for name, allowed in self.directories.items():
            if self.flying is not None and self.flying[0] in {"mkdir", "rmdir", "move"}:
                flying = self.flying[1:]
                if any(name == other or name.startswith(f"{other}/") for other in flying):
                    continue
            if _exists(name, found) not in allowed:
                told.append(f"directory {name} {'has vanished' if True in allowed else 'is still there'}")
        return told

    def _complaint(self, name: str, version: Version | None, allowed: Allowed) -> str:
        if version is None:
            return f"lost: {name} is absent, promised was {set(allowed)}"
        if version in self.complete or version == EMPTY:
            other = self.complete.get(version, name)
            return f"stale: {name} is {version}, once to be {other}; promised was {set(allowed)}"
        return f"torn: {name} is {version}, which no writer had complete; promised was {set(allowed)}"


def _exists(directory: str, found: Found) -> bool:
    return any(name.startswith(directory + "/") for name in found)


def _under(directory: str, found: Found) -> dict[str, int]:
    return {name: version.size for name, version in found.items() if name.startswith(directory + "/")}


def _parents(names: Iterable[str]) -> set[str]:
    found = set()
    for name in names:
        while "/" in name:
            name = name.rpartition("/")[0]
            found.add(name)
    return found
