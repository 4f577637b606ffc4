"""Random reads and writes under faults, a program: `python -m tests.load.exerciser MOUNT DIRECTORY BUCKET PREFIX SEED`.

It works in a directory of its own until SIGTERM, which comes when the faults are over: then all it has must be stored
without an error and be in the bucket. Each file has its oracle (`sheet`). It says that it is ready, and in the end one
line of JSON: operations, errnos by operation, what was wrong. The bucket is looked at with plain boto3, at the server
of the AWS variables.
"""

import errno
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tests.load import mapper
from tests.load.boxes import Boxes
from tests.load.calls import FAULTY, Calls, Wrong
from tests.load.looks import LOOK_SECONDS, Looks, right
from tests.load.promises import EMPTY
from tests.load.sheet import Sheet

MIB = 1024 * 1024
FILES = 3
SIZE_MAX = 12 * MIB
PART_BYTES = 5 * MIB
READ_MAX = 300_000
WRITE_MAX = 300_000
PAGE = 4096


class Exerciser:
    """See the module. The mutable state: the sheets and their handles, directories to move, what was counted."""

    def __init__(self, root: Path, bucket: str, prefix: str, seed: str) -> None:
        self.root = root
        self.mapper = mapper.Mapper()
        self.draws = random.Random(seed)
        self.sheets = [Sheet(f"first{number}") for number in range(FILES)]
        self.handles: dict[str, int] = {}
        self.serial = 0
        self.calls = Calls()
        self.looks = Looks(root, self.calls, bucket, prefix)
        self.boxes = Boxes(root, self.calls)
        self.stopped = False
        self.wrong: list[str] = []

    def path(self, sheet: Sheet) -> Path:
        return self.root / sheet.name

    def bytes_of(self, size: int) -> bytes:
        self.serial += 1
        return (self.serial.to_bytes(8, "big") * (size // 8 + 1))[:size]

    # one step

    def run(self) -> None:
        closed: list[tuple[Callable[[Sheet], None], int]] = [
            (self.open, 20), (self.rename, 4), (self.unlink, 3), (self.stat, 4), (self.cut_by_path, 2),
        ]  # fmt: skip
        opened: list[tuple[Callable[[Sheet], None], int]] = [
            (self.read, 24), (self.write, 24), (self.append, 8), (self.truncate, 4), (self.fsync, 8), (self.map, 5),
            (self.close, 10), (self.stat, 3), (self.rename, 2), (self.close_duplicate, 3),
        ]  # fmt: skip
        while not self.stopped:
            if self.draws.random() < 0.06:
                self.draws.choice((self.list_names, self.boxes.move))()
            sheet = self.draws.choice(self.sheets)
            if sheet.name in self.handles:
                acts = opened
            elif sheet.unsure:
                self.looks.look(sheet)
                continue
            else:
                acts = closed if sheet.now is not None else [(self.create, 8), (self.stat, 1)]
            self.draws.choices([act for act, _ in acts], [weight for _, weight in acts])[0](sheet)

    def create(self, sheet: Sheet) -> None:
        fd, _ = self.calls.attempt_of(sheet, "create", lambda: os.open(self.path(sheet), os.O_RDWR | os.O_CREAT, 0o644))
        if fd is None:
            sheet.either(EMPTY)
            return
        self.handles[sheet.name] = fd
        if sheet.doubts:
            sheet.doubts.add(EMPTY)
            self.adopt(sheet)
        else:
            sheet.now = bytearray()
            sheet.doubts.add(None)

    def adopt(self, sheet: Sheet) -> None:
        """Something may have been attempted before this open: what it shows is what there is."""
        fd = self.handles[sheet.name]
        found, _ = self.calls.attempt_of(sheet, "look", lambda: _whole(fd))
        if found is None:
            self.drop_handle(sheet)
            sheet.unsure = True
        else:
            right(sheet.look(found))

    def drop_handle(self, sheet: Sheet) -> None:
        """Close what nothing was written through."""
        with suppress(OSError):
            os.close(self.handles.pop(sheet.name))

    def open(self, sheet: Sheet) -> None:
        cut = self.draws.random() < 0.15
        flags = os.O_RDWR | (os.O_TRUNC if cut else 0)
        fd, _ = self.calls.attempt_of(sheet, "open", lambda: os.open(self.path(sheet), flags))
        if fd is None:
            sheet.either(*([EMPTY] if cut else []))
            return
        self.handles[sheet.name] = fd
        if cut:
            sheet.doubts.add(sheet.shown)
            sheet.now = bytearray()
        elif sheet.doubts:
            self.adopt(sheet)

    def read(self, sheet: Sheet) -> None:
        assert sheet.now is not None
        at = self.draws.randrange(len(sheet.now) + 1)
        size = self.draws.randrange(1, READ_MAX)
        found, number = self.calls.attempt_of(sheet, "read", lambda: os.pread(self.handles[sheet.name], size, at))
        if found is not None:
            if not found and at < len(sheet.now):
                raise Wrong(f"{sheet.name}: nothing at {at} of {len(sheet.now)}")
            self.calls.bytes_compared += len(found)
            right(sheet.differs(at, found))
        elif number == errno.ESTALE:
            self.close(sheet)

    def write(self, sheet: Sheet) -> None:
        assert sheet.now is not None
        self.put(sheet, self.draws.randrange(len(sheet.now) + 1))

    def append(self, sheet: Sheet) -> None:
        assert sheet.now is not None
        # Sometimes behind the end: a hole.
        self.put(sheet, len(sheet.now) + self.draws.choice((0, 0, self.draws.randrange(100_000))))

    def put(self, sheet: Sheet, at: int) -> None:
        largest = WRITE_MAX if self.draws.random() < 0.9 else 3 * MIB
        data = self.bytes_of(max(1, min(self.draws.randrange(1, largest), SIZE_MAX - at)))
        count, _ = self.calls.attempt_of(sheet, "write", lambda: os.pwrite(self.handles[sheet.name], data, at))
        if count is not None:
            sheet.write(at, data[:count])

    def truncate(self, sheet: Sheet) -> None:
        assert sheet.now is not None
        size = self.draws.randrange(min(len(sheet.now) + 200_000, SIZE_MAX))
        _, number = self.calls.attempt_of(sheet, "ftruncate", lambda: os.ftruncate(self.handles[sheet.name], size))
        if number == 0:
            sheet.truncate(size)
        else:
            self.sized(sheet, size)

    def sized(self, sheet: Sheet, size: int) -> None:
        """After a truncation that failed the file has one size or the other."""
        assert sheet.now is not None
        shown = os.fstat(self.handles[sheet.name]).st_size
        if shown not in {size, len(sheet.now)}:
            raise Wrong(f"{sheet.name} has {shown} bytes, not {len(sheet.now)} nor {size}")
        sheet.truncate(shown)

    def fsync(self, sheet: Sheet) -> None:
        _, number = self.calls.attempt_of(sheet, "fsync", lambda: os.fsync(self.handles[sheet.name]))
        if number:
            sheet.attempted()
            if number == errno.ESTALE:
                self.close(sheet)
            return
        sheet.synced()
        if self.draws.random() < 0.3:
            self.looks.in_bucket(sheet)

    def close(self, sheet: Sheet, *also: int) -> None:
        fd = self.handles.pop(sheet.name)
        _, number = self.calls.attempt_of(sheet, "close", lambda: os.close(fd), *also)
        if number:
            sheet.given_up()
        elif sheet.now:
            sheet.synced()
            if self.draws.random() < 0.2:
                self.looks.in_bucket(sheet)
        else:
            sheet.given_up()  # an empty file is stored just after its last close, and nobody hears of its failure

    def close_duplicate(self, sheet: Sheet) -> None:
        duplicate = os.dup(self.handles[sheet.name])
        _, number = self.calls.attempt_of(sheet, "close of a duplicate", lambda: os.close(duplicate))
        if number:
            sheet.attempted()
        elif sheet.now:
            sheet.synced()

    def map(self, sheet: Sheet) -> None:
        assert sheet.now is not None
        if not sheet.now:
            return
        at = self.draws.randrange(len(sheet.now))
        data = self.bytes_of(min(self.draws.randrange(1, 50_000), len(sheet.now) - at))
        expected = bytes(sheet.now[at : at + len(data)])
        writes = self.draws.random() < 0.6
        self.calls.counts["map"] += 1
        status = self.mapper.map(str(self.path(sheet)), at, expected, data if writes else None)
        self.calls.trace.append(f"map of {len(data)} bytes at {at}, writes {writes}: {status} {sheet}")
        if status not in {mapper.SAME, mapper.OTHER_BYTES}:
            self.calls.errnos[{mapper.SIGBUS: "map SIGBUS", mapper.NOT_SYNCED: "msync"}.get(status, "map open")] += 1
        match status:
            case mapper.OTHER_BYTES:
                raise Wrong(f"{sheet}: a mapping of {len(data)} bytes at {at} differs")
            case mapper.SIGBUS if writes:
                self.settle_pages(sheet, at, data)
            case mapper.SAME | mapper.NOT_SYNCED if writes:
                sheet.write(at, data)
        if writes and status == mapper.SAME:
            sheet.synced()
        else:
            sheet.attempted()  # the end of the mapping's process is a close, of which nobody is told

    def settle_pages(self, sheet: Sheet, at: int, data: bytes) -> None:
        """Of a store into a mapping that SIGBUS ended each page was changed or was not."""
        assert sheet.now is not None
        deadline = time.monotonic() + LOOK_SECONDS
        found: bytes | None = None
        while found is None or len(found) < len(data):
            if time.monotonic() > deadline:
                raise Wrong(f"{sheet.name} cannot be read where it was mapped")
            found, _ = self.calls.attempt_of(sheet, "read", lambda: os.pread(self.handles[sheet.name], len(data), at))
        start = at
        while start < at + len(data):
            stop = min((start // PAGE + 1) * PAGE, at + len(data))
            page = found[start - at : stop - at]
            if page == data[start - at : stop - at]:
                sheet.write(start, page)
            right(sheet.differs(start, page))
            start = stop

    def stat(self, sheet: Sheet) -> None:
        shown, number = self.calls.attempt(
            "stat", lambda: os.stat(self.path(sheet)).st_size, errno.ENOENT, errno.ESTALE
        )
        if not sheet.certain or number in FAULTY:
            return
        if shown != (None if sheet.now is None else len(sheet.now)):
            raise Wrong(f"stat of {sheet.name} says {shown}, not {sheet.now and len(sheet.now)}")

    def cut_by_path(self, sheet: Sheet) -> None:
        assert sheet.now is not None
        size = self.draws.randrange(len(sheet.now) + 1000)
        before = sheet.shown
        _, number = self.calls.attempt_of(sheet, "truncate", lambda: os.truncate(self.path(sheet), size))
        sheet.truncate(size)
        if number:
            sheet.either(before)
        elif len(sheet.now) < PART_BYTES:
            sheet.synced()
        else:
            sheet.doubts.add(before)  # it is stored in the background

    def rename(self, sheet: Sheet) -> None:
        self.serial += 1
        name = f"file{self.serial}"
        old = self.path(sheet)
        _, number = self.calls.attempt_of(sheet, "rename", lambda: old.rename(self.root / name))
        if number == 0:
            if sheet.name in self.handles:
                self.handles[name] = self.handles.pop(sheet.name)
            sheet.name = name
            return
        if sheet.name in self.handles:
            self.close(sheet, errno.ESTALE)  # it may have had its effect: then the object has lost this name
        self.where(sheet, name)

    def where(self, sheet: Sheet, name: str) -> None:
        """After a rename that failed: one name or both, never neither; both are removed, however often it takes."""
        kept = sheet.stored
        sheet.either(None)
        other = Sheet(name, None, {*sheet.doubts}, True)
        deadline = time.monotonic() + LOOK_SECONDS
        for one in (sheet, other):
            self.looks.look(one)
        if sheet.now is None and other.now is None and kept is not None:
            raise Wrong(f"neither {sheet.name} nor {name} is there")
        for one in (sheet, other):
            while one.now is not None and time.monotonic() < deadline:
                self.unlink(one)
                self.looks.look(one)
        # A name that a late effect may bring back is nobody's any more.
        self.serial += 1
        self.sheets[self.sheets.index(sheet)] = Sheet(f"file{self.serial}")

    def unlink(self, sheet: Sheet) -> None:
        _, number = self.calls.attempt_of(sheet, "unlink", lambda: os.unlink(self.path(sheet)))
        if number:
            sheet.either(None)
        else:
            # What was attempted before may come back: nothing says that it must not be created.
            sheet.now = sheet.stored = None

    def list_names(self) -> None:
        names, _ = self.calls.attempt("list", lambda: os.listdir(self.root))
        if names is not None:
            for sheet in self.sheets:
                if sheet.certain and (sheet.now is not None) != (sheet.name in names):
                    raise Wrong(f"the listing {'lacks' if sheet.now is not None else 'has'} {sheet.name}")

    # the end

    def finish(self) -> None:
        """The store is well: everything can be stored, and is."""
        for sheet in self.sheets:
            if sheet.name in self.handles:
                fd = self.handles.pop(sheet.name)
                number = _errno_of(os.fsync, fd) or _errno_of(os.close, fd)
                if number and not (number == errno.ESTALE and sheet.doubts):
                    raise Wrong(f"{sheet.name}: {os.strerror(number)} from a store that is well")
                if number or not sheet.now:
                    sheet.given_up()
                else:
                    sheet.synced()
            self.looks.look(sheet)
            if sheet.now:
                if self.path(sheet).read_bytes() != sheet.now:
                    raise Wrong(f"{sheet.name} is read as something else in the end")
                self.looks.in_bucket(sheet)
        self.boxes.check()


def _whole(fd: int) -> bytes:
    found, at = [], 0
    while piece := os.pread(fd, MIB, at):
        found.append(piece)
        at += len(piece)
    if at != os.fstat(fd).st_size:
        raise Wrong(f"{at} bytes were read of {os.fstat(fd).st_size}")
    return b"".join(found)


def _errno_of(call: Callable[[int], None], fd: int) -> int:
    try:
        call(fd)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def main() -> int:
    mount, directory, bucket, prefix, seed = sys.argv[1:]
    exerciser = Exerciser(Path(mount) / directory, bucket, f"{prefix}{directory}/", seed)

    def stop(_number: int, _frame: FrameType | None) -> None:
        exerciser.stopped = True

    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    try:
        exerciser.run()
        exerciser.finish()
    except Wrong as error:
        exerciser.wrong.append(str(error))
        print("\n".join(exerciser.calls.trace), file=sys.stderr)
    print(json.dumps({**exerciser.calls.report(), "wrong": exerciser.wrong}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
