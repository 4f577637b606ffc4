"""Random operations on a FileSystem and on a local directory: the same results, errnos, trees, and the same again
from the bucket.

Two documented differences: a directory cannot be renamed onto a non-empty one with another errno than ENOTEMPTY
(Linux may say EEXIST), and a removed file's handle in a renamed directory is compared by its bytes only.
"""

import errno
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from s3mount.errors import S3MountError
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual

STEPS = 3000
NAMES = ["a", "b", "c", "a-b", "é", "a.txt"]
FLAGS = [
    os.O_RDONLY,
    os.O_RDWR,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_TRUNC,
    os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    os.O_RDONLY | os.O_CREAT,
]
HANDLES_MAX = 6


def errno_of(error: BaseException) -> str:
    code = getattr(error, "errno", None)
    assert isinstance(code, int), error
    return "ENOTEMPTY" if code in (errno.EEXIST, errno.ENOTEMPTY) else errno.errorcode[code]


class Pair:
    """The mount and the directory that is its oracle, with the same handles open on both."""

    def __init__(self, kernel: Kernel, oracle: Path, rng: random.Random) -> None:
        self.kernel = kernel
        self.oracle = oracle
        self.rng = rng
        self.handles: list[tuple[int, int, bool]] = []
        self.log: list[str] = []

    def path(self) -> str:
        return "/".join(self.rng.choices(NAMES, k=self.rng.choice([1, 1, 2, 2, 3])))

    async def both(self, mine: Callable[[], Awaitable[object]], theirs: Callable[[], object]) -> object:
        """Run on both sides; the results or errnos must be equal."""
        try:
            expected: object = theirs()
        except OSError as error:
            expected = errno_of(error)
        try:
            got: object = await mine()
        except S3MountError as error:
            got = errno_of(error)
        assert got == expected, self.log[-12:]
        return got

    async def step(self) -> None:
        rng, kernel, path = self.rng, self.kernel, self.path()
        local = str(self.oracle / path)
        action = rng.choice(
            ["open", "open", "pwrite", "pwrite", "pread", "ftruncate", "fsync", "close", "mkdir", "rmdir", "unlink",
             "rename", "listdir", "stat", "read", "truncate", "sleep", "forget"]
        )  # fmt: skip
        self.log.append(f"{action} {path}")
        if action == "open" and len(self.handles) < HANDLES_MAX:
            flags = rng.choice(FLAGS)
            if not os.path.isdir(local) or flags != os.O_RDONLY:  # the kernel would send OPENDIR
                await self._open(path, local, flags)
        elif action in ("pwrite", "pread", "ftruncate", "fsync", "close") and self.handles:
            await self._handle(action, rng.randrange(len(self.handles)))
        elif action == "mkdir":
            await self.both(lambda: quiet(kernel.mkdir(path)), lambda: os.mkdir(local))
        elif action == "rmdir":
            await self.both(lambda: kernel.rmdir(path), lambda: os.rmdir(local))
        elif action == "unlink":
            await self.both(lambda: kernel.unlink(path), lambda: os.unlink(local))
        elif action == "rename":
            other = self.path()
            if not other.startswith(path + "/") and not path.startswith(other + "/"):
                await self.both(lambda: kernel.rename(path, other), lambda: os.rename(local, str(self.oracle / other)))
        elif action == "listdir":
            await self.both(lambda: names(kernel, path), lambda: sorted(os.listdir(local)))
        elif action == "stat":
            await self.both(
                lambda: size(kernel, path), lambda: None if os.path.isdir(local) else os.stat(local).st_size
            )
        elif action == "read":
            await self.both(lambda: kernel.read(path), lambda: Path(local).read_bytes())
        elif action == "truncate":
            length = rng.choice([0, 10, 5000])
            await self.both(lambda: kernel.truncate(path, length), lambda: os.truncate(local, length))
        elif action == "sleep":
            await trio.sleep(rng.choice([0.1, 2, 10]))
        elif action == "forget" and not self.handles:
            kernel.drop_caches()

    async def _open(self, path: str, local: str, flags: int) -> None:
        opened: list[int] = []

        async def mine() -> None:
            opened.append(await self.kernel.open(path, flags))

        def theirs() -> None:
            opened.append(os.open(local, flags))

        result = await self.both(mine, theirs)
        if result is None:
            self.handles.append((opened[1], opened[0], flags & os.O_ACCMODE != os.O_RDONLY))

    async def _handle(self, action: str, index: int) -> None:
        rng = self.rng
        fh, fd, writable = self.handles[index]
        offset, length = rng.randrange(3000), rng.randrange(2000)
        if action == "close":
            del self.handles[index]
            await self.both(lambda: self.kernel.close(fh), lambda: os.close(fd))
        elif action == "pread":
            await self.both(lambda: self.kernel.pread(fh, offset, length), lambda: os.pread(fd, length, offset))
        elif action == "fsync":
            await self.both(lambda: self.kernel.fs.fsync(fh), lambda: os.fsync(fd))
        elif writable and action == "pwrite":
            body = rng.randbytes(length + 1)
            await self.both(lambda: self.kernel.fs.write(fh, offset, body), lambda: os.pwrite(fd, body, offset))
        elif writable:
            await self.both(lambda: self.kernel.ftruncate(fh, length), lambda: os.ftruncate(fd, length))

    async def finish(self) -> None:
        for fh, fd, _ in self.handles:
            os.close(fd)
            await self.kernel.close(fh)
        self.handles.clear()


async def quiet(action: Awaitable[object]) -> None:
    await action


async def names(kernel: Kernel, path: str) -> list[str]:
    return sorted(await kernel.listdir(path))


async def size(kernel: Kernel, path: str) -> int | None:
    shown = await kernel.stat(path)
    return None if shown.nlink == 2 else shown.size


def local_size(path: str) -> int | None:
    return None if os.path.isdir(path) else os.stat(path).st_size


async def tree(kernel: Kernel, path: str = "") -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for name in await kernel.listdir(path):
        below = f"{path}/{name}".lstrip("/")
        if (await kernel.stat(below)).nlink == 2:
            found[below] = None
            found.update(await tree(kernel, below))
        else:
            found[below] = await kernel.read(below)
    return found


def local_tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("seed", range(4))
@run_virtual
async def test_random_operations_answer_as_a_local_directory_does(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    oracle, work = tmp_path / "oracle", tmp_path / "work"
    oracle.mkdir()
    work.mkdir()
    store = MemoryStore()
    for _ in range(3):
        async with mounted(store, work, metadata_ttl_seconds=1.0) as kernel:
            pair = Pair(kernel, oracle, rng)
            for _ in range(STEPS // 3):
                await pair.step()
            await pair.finish()
            assert await tree(kernel) == local_tree(oracle)
            kernel.drop_caches()
            assert len(kernel.fs._inodes) == 1
    async with mounted(store, work) as kernel:
        assert await tree(kernel) == local_tree(oracle)
    files = {key: stored.body for key, stored in store.objects.items() if not key.endswith("/")}
    assert files == {path: body for path, body in local_tree(oracle).items() if body is not None}
    assert store.uploads == {}
