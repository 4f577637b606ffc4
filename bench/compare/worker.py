"""What reads and writes through a mount, in a process of its own: `python -m bench.compare.worker NAME DIRECTORY JSON`.

Its bytes are in memory before the clock starts, what it reads is compared with what was put there, and `close` counts.
It prints when it began and ended, by the machine's monotonic clock. `limit` is the same with boto3 and no file system.
"""

import json
import os
import sys
from collections.abc import Callable

from bench.compare import limit
from bench.compare import load as names
from bench.compare.load import KIB, MIB, SMALL_BYTES, STREAMS, block, offsets
from bench.compare.threads import in_threads

READ_BYTES = MIB
RANDOM_BYTES = 4 * KIB


def _read_whole(path: str, size: int) -> None:
    expected, buffer, position = block(), memoryview(bytearray(READ_BYTES)), 0
    fd = os.open(path, os.O_RDONLY)
    while count := os.readv(fd, [buffer]):
        assert buffer[:16] == expected[position % MIB :][:16], f"{path} has other bytes at {position}"
        position += count
    os.close(fd)
    assert position == size, f"{path} ended at {position} of {size}"


def read_one(root: str, *, name: str, size: int) -> tuple[float, float]:
    return in_threads(lambda path: _read_whole(path, size), [f"{root}/{name}"], 1)


def read_streams(root: str, *, size: int) -> tuple[float, float]:
    paths = [f"{root}/stream{number}" for number in range(STREAMS)]
    return in_threads(lambda path: _read_whole(path, size), paths, STREAMS)


def read_random(root: str, *, size: int, count: int, threads: int) -> tuple[float, float]:
    expected = block()
    fd = os.open(f"{root}/{names.BIG}", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def read(offset: int) -> None:
        found = os.pread(fd, RANDOM_BYTES, offset)
        assert found == expected[offset % MIB :][:RANDOM_BYTES], f"other bytes at {offset}"

    return in_threads(read, offsets(count, size), threads)


def read_first(root: str) -> tuple[float, float]:
    def read(path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        assert os.read(fd, 1) == block()[:1]
        os.close(fd)

    return in_threads(read, [f"{root}/{names.BIG}"], 1)


def read_small(root: str, *, count: int, threads: int) -> tuple[float, float]:
    expected = block()[:SMALL_BYTES]

    def read(number: int) -> None:
        fd = os.open(f"{root}/{names.SMALL}/{names.small_name(number)}", os.O_RDONLY)
        assert os.read(fd, SMALL_BYTES + 1) == expected
        os.close(fd)

    return in_threads(read, range(count), threads)


def stat_small(root: str, *, count: int) -> tuple[float, float]:
    def look(number: int) -> None:
        assert os.stat(f"{root}/{names.SMALL}/{names.small_name(number)}").st_size == SMALL_BYTES

    return in_threads(look, range(count), 1)


def write_one(root: str, *, name: str, size: int, unit: int) -> tuple[float, float]:
    data = memoryview(block() * (size // MIB))

    def write(path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        for start in range(0, size, unit):
            assert os.write(fd, data[start : start + unit]) == unit
        os.close(fd)

    return in_threads(write, [f"{root}/{name}"], 1)


def create(root: str, *, name: str, count: int, threads: int) -> tuple[float, float]:
    body = block()[:SMALL_BYTES]
    os.mkdir(f"{root}/{name}")

    def make(number: int) -> None:
        fd = os.open(f"{root}/{name}/{names.small_name(number)}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        assert os.write(fd, body) == len(body)
        os.close(fd)

    return in_threads(make, range(count), threads)


def change(root: str, *, name: str, offset: int, size: int) -> tuple[float, float]:
    """Other bytes at an offset, which may be the end."""

    def edit(path: str) -> None:
        fd = os.open(path, os.O_WRONLY)
        assert os.pwrite(fd, b"\xa5" * size, offset) == size
        os.close(fd)

    return in_threads(edit, [f"{root}/{name}"], 1)


def read_dropped(root: str, *, name: str, size: int) -> tuple[float, float]:
    """Read a file, whatever the kernel still has of it dropped before."""
    fd = os.open(f"{root}/{name}", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return read_one(root, name=name, size=size)


Worker = Callable[..., tuple[float, float]]
MOUNTED: tuple[Worker, ...] = (
    read_one,
    read_streams,
    read_random,
    read_first,
    read_small,
    stat_small,
    write_one,
    create,
    change,
    read_dropped,
)
LIMITS: tuple[Worker, ...] = limit.WORKERS
WORKERS: dict[str, Worker] = {getattr(work, "__name__", ""): work for work in (*MOUNTED, *LIMITS)}


def main() -> None:
    name, target, options = sys.argv[1:]
    began, ended = WORKERS[name](target, **json.loads(options))
    print(json.dumps([began, ended]))


if __name__ == "__main__":
    main()
