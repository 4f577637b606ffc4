"""The helper that has the kernel hand over what it holds, when it cannot do its work."""

import sys
from pathlib import Path

import pytest

from s3mount import draining
from s3mount.errors import FileSystemError
from tests.kernel_model import mounted
from tests.memory_store import MemoryStore
from tests.running import run_trio


@pytest.mark.parametrize("paths_count", [1, 100_000])
@run_trio
async def test_a_helper_that_dies_before_it_has_heard_all_paths_is_a_failure_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths_count: int
) -> None:
    """More paths than a pipe holds: nobody takes the rest, and a stop must go on to the last sync all the same."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    async with mounted(MemoryStore(), tmp_path) as kernel:
        with pytest.raises(FileSystemError, match="ended with status 1"):
            await draining.drain(kernel.fs, tmp_path, ["some/path"] * paths_count)
