"""A short form of `scripts/soak write_back --only differential`."""

from pathlib import Path

import pytest

from tests.e2e.mounting import Mounts
from tests.load.killed import drive

SEED = 1
STEPS = 120


@pytest.mark.seconds(300)
def test_random_operations_survive_kills_as_on_a_local_directory(mounts: Mounts, tmp_path: Path) -> None:
    """After each `kill -9` the mount shows what the local directory has, and after `sync` the bucket has it."""
    assert drive(mounts.prepare(), tmp_path, SEED, ("files", "directories", "attributes"), STEPS) >= 2
