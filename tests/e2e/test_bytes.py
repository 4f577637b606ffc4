"""Bytes in and out, compared: many small files, and edits in the middle of a large one. (1 GiB: scenario A1.)"""

import os
import random
from pathlib import Path

import pytest

from tests.e2e.material import MIB, in_threads, object_difference, write_pattern
from tests.e2e.mounting import Mounted, succeed


@pytest.mark.slow
def test_a_thousand_small_files_go_in_and_come_out(mount: Mounted) -> None:
    """1,000 files of 0 to 64 KiB written through the mount are in the bucket, and read the same through a new mount."""
    draws = random.Random(1000)
    sizes = [0, 1, 65_536, *(draws.randint(0, 65_536) for _ in range(997))]
    bodies = {f"d{number % 7}/f{number:04}": draws.randbytes(size) for number, size in enumerate(sizes)}
    for number in range(7):
        (mount.root / f"d{number}").mkdir()
    in_threads(lambda name: (mount.root / name).write_bytes(bodies[name]), bodies)

    def check(name: str) -> None:
        assert mount.place.get(name) == bodies[name], name

    assert mount.place.files() == sorted(bodies)
    in_threads(check, bodies)
    mount.remount()

    def check_mounted(name: str) -> None:
        assert (mount.root / name).read_bytes() == bodies[name], name
        assert (mount.root / name).stat().st_size == len(bodies[name])

    in_threads(check_mounted, bodies)


@pytest.mark.slow
@pytest.mark.seconds(240)
def test_a_large_file_is_edited_in_fifty_places(mount: Mounted, tmp_path: Path) -> None:
    """A 300 MiB file edited in 50 random places equals a local file edited so, in the bucket and on a new mount."""
    local, here = tmp_path / "local", mount.root / "large"
    write_pattern(local, 300 * MIB)
    succeed("cp", local, here)
    assert object_difference(mount.place, "large", local) is None
    mount.remount()
    draws = random.Random(50)
    edits = [(draws.randrange(300 * MIB), draws.randbytes(draws.choice((1, 100, 4096, 200_000)))) for _ in range(50)]
    for path in (local, here):
        fd = os.open(path, os.O_RDWR)
        for offset, data in edits:
            os.pwrite(fd, data, offset)
        os.close(fd)
    assert object_difference(mount.place, "large", local) is None
    assert mount.place.uploads() == []
    succeed("cmp", local, here)
    mount.remount()
    succeed("cmp", local, here)
    local.unlink()
