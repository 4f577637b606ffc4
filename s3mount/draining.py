"""Has the kernel hand over the dirty pages of a mount: the daemon's end of `drain`, a process of its own. No state."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import trio

from s3mount import drain, kernel

log = logging.getLogger(__name__)


async def drain_kernel(mountpoint: Path, paths: list[str]) -> None:
    """Start the helper and wait for it; when cancelled it is killed and not waited for: it may be waiting for us."""
    command = [sys.executable, "-I", drain.__file__, str(mountpoint)]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=kernel.CHILD_ENVIRONMENT
    )
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        async with process.stdin:
            await process.stdin.send_all(b"\0".join(os.fsencode(path) for path in paths))
        said = b"".join([chunk async for chunk in process.stderr])
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    for line in os.fsdecode(said).splitlines():
        log.warning("kernel could not hand over a file %s", line)
