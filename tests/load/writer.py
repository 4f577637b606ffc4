"""A writer for the kill rounds, a program: `python -m tests.load.writer MOUNT DIRECTORY CONTEST SEED LOG STATE`.

It works in a directory of its own until its mount has died or SIGTERM came, one call after another, and notes each
promise before and after the call in LOG, in the records of `promises`. STATE says what is there: name, size, digest and
mode of files, and directories. Files for CONTEST, a directory of all writers, are created with O_EXCL: a name there is
for whoever was first; those with the same `serial` in STATE compete. Its draws follow from SEED, their timing does not.
"""

import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tests.load.promises import DEFAULT_MODE, MODES, version_of

MIB = 1024 * 1024
FILES_MAX = 14
"""Names in use at a time; beyond, something goes first."""
WRITE_BYTES = 1 * MIB
CONTEST_NAMES = 40


class Writer:
    """See the module. The mutable state: what its files hold and their modes as far as it knows, its directories, the
    serial number of the latest bytes, whether it shall stop."""

    def __init__(self, mount: Path, directory: str, contest: Path, seed: str, log: Path, state: dict[str, Any]) -> None:
        self.root = mount / directory
        self.contest = contest
        self.draws = random.Random(seed)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.files: dict[str, bytearray | None] = dict.fromkeys(state["files"])
        self.expected: dict[str, Any] = state["files"]
        self.modes: dict[str, int] = state["modes"]
        self.directories: list[str] = state["directories"]
        self.serial = self.first = int(state["serial"])
        self.stopped = False

    # the log

    def tell(self, *record: object) -> None:
        os.write(self.log, json.dumps(record).encode() + b"\n")

    @contextmanager
    def promised(self, *call: object) -> Iterator[None]:
        self.tell("begin", *call)
        yield
        self.tell("done", time.monotonic())

    def store(self, name: str) -> Any:
        body = self.files[name]
        assert body is not None
        version = version_of(body)
        return self.promised("store", name, version.size, version.digest, self.modes.get(name, DEFAULT_MODE))

    # what it draws

    def path(self, name: str) -> Path:
        return self.contest / name[1:] if name.startswith("@") else self.root / name

    def bytes_of(self, size: int) -> bytearray:
        """Bytes that no other write has: a mixture shows where each piece is from."""
        self.serial += 1
        return bytearray(self.serial.to_bytes(8, "big") * (size // 8 + 1))[:size]

    def size(self) -> int:
        kind = self.draws.random()
        if kind < 0.55:
            return self.draws.randrange(1, 20_000)
        if kind < 0.8:
            return self.draws.randrange(100_000, 600_000)
        return self.draws.randrange(5 * MIB, 14 * MIB)

    def new_name(self) -> str:
        self.serial += 1
        directory = self.draws.choice(["", *self.directories])
        return f"{directory}/f{self.serial}" if directory else f"f{self.serial}"

    def some_file(self) -> str | None:
        names = sorted(name for name in self.files if not name.startswith("@"))
        return self.draws.choice(names) if names else None

    def content(self, name: str) -> bytearray:
        """What a file holds, from the mount the first time: it must be what the bucket had after the last round."""
        body = self.files[name]
        if body is None:
            body = bytearray(self.path(name).read_bytes())
            version = version_of(body)
            if [version.size, version.digest] != self.expected[name]:
                self.tell("failed", time.monotonic(), 0, f"{name} was read as {version}, not {self.expected[name]}")
                raise SystemExit(1)
            self.files[name] = body
        return body

    # what it does

    def run(self) -> None:
        acts = [
            (self.create, 22), (self.overwrite, 10), (self.append, 10), (self.edit, 10), (self.fsync_often, 8),
            (self.shorten, 4), (self.map, 4), (self.make_empty, 3), (self.create_exclusively, 6), (self.rename, 10),
            (self.rename_open, 6), (self.unlink, 8), (self.unlink_many, 4), (self.mkdir, 5), (self.rmdir, 3),
            (self.move, 8), (self.move_open, 2), (self.chmod, 6),
        ]  # fmt: skip
        weights = [weight for _, weight in acts]
        while not self.stopped:
            act = self.draws.choices([act for act, _ in acts], weights)[0]
            if len(self.files) >= FILES_MAX:
                act = self.unlink
            act()

    def put(self, fd: int, data: bytearray, at: int) -> None:
        with memoryview(data) as view:
            for start in range(0, len(data), WRITE_BYTES):
                os.pwrite(fd, view[start : start + WRITE_BYTES], at + start)

    def change(self, fd: int, name: str, data: bytearray, at: int) -> None:
        body = self.files[name]
        assert body is not None
        self.put(fd, data, at)
        body[len(body) :] = bytes(max(0, at - len(body)))
        body[at : at + len(data)] = data

    def close(self, fd: int, name: str) -> None:
        """Of a file with bytes that are not stored yet: a mode that is set now goes with them."""
        if self.draws.random() < 0.3:
            mode = self.draws.choice(MODES)
            with self.promised("chmod", name, mode):
                os.fchmod(fd, mode)
            self.modes[name] = mode
        with self.store(name):
            os.close(fd)

    def create(self) -> None:
        self.overwrite(self.new_name())

    def overwrite(self, name: str | None = None) -> None:
        name = name or self.some_file() or self.new_name()
        fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, DEFAULT_MODE)
        self.files[name] = bytearray()
        self.change(fd, name, self.bytes_of(self.size()), 0)
        self.close(fd, name)

    def append(self) -> None:
        if name := self.some_file():
            body = self.content(name)
            fd = os.open(self.path(name), os.O_WRONLY | os.O_APPEND)
            self.change(fd, name, self.bytes_of(min(self.size(), 2 * MIB)), len(body))
            self.close(fd, name)

    def edit(self) -> None:
        if name := self.some_file():
            body = self.content(name)
            fd = os.open(self.path(name), os.O_RDWR)
            for _ in range(self.draws.randrange(1, 4)):
                at = self.draws.randrange(len(body) + 1)
                self.change(fd, name, self.bytes_of(self.draws.randrange(1, 50_000)), at)
            self.close(fd, name)

    def _opened(self) -> tuple[str, int, bytearray]:
        """A file of ours, there or new, open for reading and writing, and its content."""
        name = self.draws.choice([self.some_file(), None]) or self.new_name()
        if name in self.files:
            self.content(name)
        fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT, DEFAULT_MODE)
        body = self.files.setdefault(name, bytearray())
        assert body is not None
        return name, fd, body

    def fsync_often(self) -> None:
        name, fd, body = self._opened()
        for _ in range(self.draws.randrange(2, 6)):
            self.change(fd, name, self.bytes_of(min(self.size(), MIB)), len(body))
            with self.store(name):
                os.fsync(fd)
        os.close(fd)

    def shorten(self) -> None:
        if name := self.some_file():
            body = self.content(name)
            fd = os.open(self.path(name), os.O_RDWR)
            del body[self.draws.randrange(len(body) + 1) :]
            os.ftruncate(fd, len(body))
            self.change(fd, name, self.bytes_of(100), len(body))
            self.close(fd, name)

    def map(self) -> None:
        """Pages that a mapping has changed; when the mount dies meanwhile, SIGBUS ends us."""
        name = self.some_file()
        if name and (body := self.content(name)):
            fd = os.open(self.path(name), os.O_RDWR)
            data = self.bytes_of(min(len(body), 9000))
            at = self.draws.randrange(len(body) - len(data) + 1)
            with mmap.mmap(fd, len(body)) as mapped:
                mapped[at : at + len(data)] = bytes(data)
                body[at : at + len(data)] = data
                with self.store(name):
                    mapped.flush()
            os.close(fd)

    def make_empty(self) -> None:
        """It is stored just after the close, so nothing else is done to it until that is certain."""
        name = self.new_name()
        fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT, DEFAULT_MODE)
        with self.promised("empty", name):
            os.close(fd)
        if self.draws.random() < 0.5:
            self.files[name] = bytearray()
            fd = os.open(self.path(name), os.O_RDWR)
            self.change(fd, name, self.bytes_of(10), 0)
            self.close(fd, name)
        else:
            self.drop(name)

    def create_exclusively(self) -> None:
        name = f"@{self.first}-{self.draws.randrange(CONTEST_NAMES)}"
        if name in self.files:
            return
        try:
            fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, DEFAULT_MODE)
        except FileExistsError:
            return
        self.files[name] = bytearray()
        self.change(fd, name, self.bytes_of(self.draws.randrange(1, 5000)), 0)
        with self.store(name):
            os.close(fd)

    def drop(self, name: str) -> None:
        with self.promised("unlink", name):
            self.path(name).unlink()
        self.files.pop(name, None)
        self.modes.pop(name, None)

    def unlink(self) -> None:
        if name := self.some_file():
            self.drop(name)

    def unlink_many(self) -> None:
        """More than are deleted one by one: the rest is gathered."""
        names = [self.new_name() for _ in range(self.draws.randrange(12, 40))]
        for name in names:
            fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT, DEFAULT_MODE)
            self.files[name] = bytearray()
            self.change(fd, name, self.bytes_of(8), 0)
            with self.store(name):
                os.close(fd)
        for name in names:
            self.drop(name)

    def target(self, name: str) -> str:
        other = self.some_file()
        return other if other and other != name and self.draws.random() < 0.4 else self.new_name()

    def renamed(self, old: str, new: str) -> None:
        with self.promised("rename", old, new):
            self.path(old).rename(self.path(new))
        self.files[new] = self.files.pop(old)
        if old in self.expected:
            self.expected[new] = self.expected[old]
        self.modes[new] = self.modes.pop(old, DEFAULT_MODE)

    def rename(self) -> None:
        if name := self.some_file():
            self.renamed(name, self.target(name))

    def rename_open(self) -> None:
        name, fd, body = self._opened()
        self.change(fd, name, self.bytes_of(self.size()), self.draws.randrange(len(body) + 1))
        new = self.target(name)
        self.renamed(name, new)
        self.close(fd, new)

    def mkdir(self) -> None:
        if len(self.directories) < 4:
            self.serial += 1
            parent = self.draws.choice(["", *self.directories])
            name = f"{parent}/d{self.serial}" if parent else f"d{self.serial}"
            with self.promised("mkdir", name):
                self.path(name).mkdir()
            self.directories.append(name)

    def rmdir(self) -> None:
        """Of a directory that has none below it; its files go first."""
        leaves = [one for one in self.directories if not any(other.startswith(one + "/") for other in self.directories)]
        if leaves:
            name = self.draws.choice(leaves)
            for file in [file for file in self.files if file.startswith(name + "/")]:
                self.drop(file)
            with self.promised("rmdir", name):
                self.path(name).rmdir()
            self.directories.remove(name)

    def moved(self, old: str, new: str) -> None:
        with self.promised("move", old, new):
            self.path(old).rename(self.path(new))

        def there(name: str) -> str:
            return new + name[len(old) :] if name == old or name.startswith(old + "/") else name

        self.directories = [there(name) for name in self.directories]
        self.files = {there(name): body for name, body in self.files.items()}
        self.expected = {there(name): version for name, version in self.expected.items()}
        self.modes = {there(name): mode for name, mode in self.modes.items()}

    def move(self) -> None:
        if self.directories:
            self.serial += 1
            self.moved(self.draws.choice(self.directories), f"d{self.serial}")

    def move_open(self) -> None:
        """A directory goes while a file in it is written."""
        if self.directories:
            self.serial += 1
            old, new = self.draws.choice(self.directories), f"d{self.serial}"
            name = f"{old}/f{self.serial}"
            fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT, DEFAULT_MODE)
            self.files[name] = bytearray()
            self.change(fd, name, self.bytes_of(self.size()), 0)
            if self.draws.random() < 0.5:
                with self.store(name):
                    os.fsync(fd)
            name = new + name[len(old) :]
            self.moved(old, new)
            self.change(fd, name, self.bytes_of(500), 3)
            self.close(fd, name)

    def chmod(self) -> None:
        if name := self.some_file():
            mode = self.draws.choice(MODES)
            with self.promised("chmod", name, mode):
                self.path(name).chmod(mode)
            self.modes[name] = mode


def main() -> int:
    mount, directory, contest, seed, log, state = sys.argv[1:]
    os.umask(0o022)
    known = json.loads(Path(state).read_bytes())
    writer = Writer(Path(mount), directory, Path(mount) / contest, seed, Path(log), known)

    def stop(_number: int, _frame: FrameType | None) -> None:
        writer.stopped = True

    signal.signal(signal.SIGTERM, stop)
    try:
        writer.run()
    except OSError as error:
        writer.tell("failed", time.monotonic(), error.errno, str(error.filename or ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
