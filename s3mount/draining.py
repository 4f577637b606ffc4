"""Has the kernel hand over what it still holds of a mount, by `drain` in a process of its own; for the daemon.

The process is killed, and not waited for, when whoever waits is cancelled: it may be waiting for us. No state.
"""

import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import trio

from s3mount import drain as helper
from s3mount import kernel
from s3mount.errors import FileSystemError
from s3mount.vfs.filesystem import FileSystem

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""No WRITE for so long after the kernel was asked for its dirty pages: it has handed them over."""
QUIET_MAX_SECONDS = 5.0
"""A program that never stops writing is not waited for longer: what it wrote before has come."""


async def drain(filesystem: FileSystem, mountpoint: Path, paths: list[str]) -> bool:
    """What the kernel held of these paths has come on return; False: of some it may be on its way yet. Raises
    FileSystemError when the helper could not do its work."""
    command = [sys.executable, "-I", helper.__file__, str(mountpoint)]
    try:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=kernel.CHILD_ENVIRONMENT
        )
    except OSError as error:
        raise FileSystemError(f"the kernel could not be asked for what it holds: {error}") from error
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        with filesystem.drained_by(process.pid):
            # One that has ended takes nothing: its status and its words say why.
            with suppress(trio.BrokenResourceError):
                async with process.stdin:
                    await process.stdin.send_all(b"\0".join(os.fsencode(path) for path in paths))
            said = b"".join([chunk async for chunk in process.stderr])
            status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    lines = os.fsdecode(said).splitlines()
    if status not in (0, helper.SOME_FAILED):
        raise FileSystemError(
            f"the kernel could not be asked for what it holds: the helper ended with status {status}"
            + (f": {lines[-1]}" if lines else "")
        )
    for line in lines:
        log.warning("kernel could not hand over a file %s", line)
    return status == 0


async def quiet(filesystem: FileSystem) -> None:
    """Until no WRITE has come for a while."""
    with trio.move_on_after(QUIET_MAX_SECONDS):
        # Not a poll: it sleeps until a computed time, which each WRITE moves on.
        while (wait := filesystem.last_write_seconds() + QUIET_SECONDS - trio.current_time()) > 0:  # noqa: ASYNC110
            await trio.sleep(wait)
