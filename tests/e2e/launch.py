"""Starts s3mount as its entry point does, but able to say what it is doing and with planted bugs.

`python launch.py STACKS PLANT ARGUMENT...`: the first real-time signal appends the stacks of all threads to the file
STACKS, the second those of all trio tasks; PLANT names one of `PLANTS` or is empty.
"""

import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import trio

HANDLER_BUGS: dict[bytes, type[Exception]] = {b"plant-KeyError": KeyError, b"plant-MemoryError": MemoryError}


def handler_bugs() -> None:
    """A lookup of one of the names in HANDLER_BUGS raises what no handler should."""
    from s3mount.vfs.filesystem import FileSystem

    lookup = FileSystem.lookup

    async def planted(self: Any, parent: Any, name: bytes) -> Any:
        if name in HANDLER_BUGS:
            raise HANDLER_BUGS[name]("planted by the tests")
        return await lookup(self, parent, name)

    FileSystem.lookup = planted  # type: ignore[method-assign]


def tell_xattrs() -> None:
    """Each call of a handler of extended attributes, be it one that answers ENOSYS, leaves its name in a file beside
    STACKS."""
    import pyfuse3

    from s3mount.fuse import OperationsWithXattrs

    calls = Path(sys.argv[1]).with_name("xattr-calls").open("w", buffering=1)

    def telling(name: str, handler: Any) -> Any:
        async def planted(self: Any, *arguments: Any) -> Any:
            print(name, file=calls)
            return await handler(self, *arguments)

        return planted

    for owner in (pyfuse3.Operations, OperationsWithXattrs):
        for name in ("getxattr", "setxattr", "listxattr", "removexattr"):
            setattr(owner, name, telling(name, vars(owner)[name]))


def tell_reads() -> None:
    """Each READ leaves its offset and size in a file beside STACKS."""
    from s3mount.fuse import Operations

    calls = Path(sys.argv[1]).with_name("reads").open("w", buffering=1)
    read = Operations.read

    async def planted(self: Any, fh: int, off: int, size: int) -> Any:
        print(off, size, file=calls)
        return await read(self, fh, off, size)

    Operations.read = planted  # type: ignore[method-assign]


def loop_bugs() -> None:
    """A lookup of `plant-crash` raises where no handler is, and one of `plant-stuck` never gives the loop back."""
    from s3mount import garbage
    from s3mount.vfs.filesystem import FileSystem

    lookup, crash = FileSystem.lookup, trio.Event()

    async def planted(self: Any, parent: Any, name: bytes) -> Any:
        if name == b"plant-crash":
            crash.set()
        if name == b"plant-stuck":
            signal.pause()
        return await lookup(self, parent, name)

    async def collect(forget: Callable[[], None] = lambda: None) -> None:
        forget()
        await crash.wait()
        raise RuntimeError("planted by the tests")

    FileSystem.lookup = planted  # type: ignore[method-assign]
    garbage.collect = collect


def own_aws_config() -> None:
    """Credentials and authorities are those of a file `aws-config` in the test's directory."""
    os.environ["AWS_CONFIG_FILE"] = str(Path(sys.argv[1]).parent.parent / "aws-config")
    del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


def no_statfs() -> None:
    """statfs(2) is never answered."""
    from s3mount.fuse import Operations

    async def planted(self: Any, ctx: Any) -> Any:
        await trio.sleep_forever()

    Operations.statfs = planted  # type: ignore[method-assign]


def hanging_disk() -> None:
    """What is read from and written to the disk under staging waits while a file `disk-hangs` is beside STACKS."""
    from s3mount.data.spill import Spill

    hangs = Path(sys.argv[1]).with_name("disk-hangs")

    def hanging(call: Any) -> Any:
        def planted(*arguments: Any) -> Any:
            while hangs.exists():
                time.sleep(0.02)
            return call(*arguments)

        return planted

    for name in ("read", "write"):
        setattr(Spill, name, staticmethod(hanging(getattr(Spill, name))))


PLANTS: dict[str, Callable[[], None]] = {
    "own-aws-config": own_aws_config,
    "handler-bugs": handler_bugs,
    "loop-bugs": loop_bugs,
    "tell-xattrs": tell_xattrs,
    "tell-reads": tell_reads,
    "no-statfs": no_statfs,
    "hanging-disk": hanging_disk,
}


def write_tasks(path: Path) -> None:
    """Append where each trio task waits, nurseries in depth order."""
    with path.open("a") as out:
        root = trio.lowlevel.current_root_task()
        waiting = [root] if root else []
        while waiting:
            task = waiting.pop()
            waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
            print(f"--- task {task.name}", file=out)
            for frame, line in task.iter_await_frames():
                print("".join(traceback.format_list([_summary(frame, line)])), end="", file=out)


def _summary(frame: FrameType, line: int) -> traceback.FrameSummary:
    return traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)


def main() -> int:
    stacks, plant, *arguments = sys.argv[1:]
    out = Path(stacks).open("a")  # noqa: SIM115 - faulthandler keeps it for the life of the process
    faulthandler.register(signal.SIGRTMIN, file=out, all_threads=True)
    signal.signal(signal.SIGRTMIN + 1, lambda *_: write_tasks(Path(stacks)))
    if plant:
        PLANTS[plant]()
    from s3mount import cli

    sys.argv = ["s3mount", *arguments]
    return int(cli.main() or 0)


if __name__ == "__main__":
    sys.exit(main())
