"""The mount answers every file operation as a local directory does, and the bucket holds what the tree shows.

DIFFERENTIAL_STEPS (of each seed) and DIFFERENTIAL_SEEDS (first:count) ask for more; `17:1` is one seed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.differential import SHOWN_OPERATIONS, Differs, Driver
from tests.e2e.mounting import ROOT, Mounted, Mounts, Place, hear, say
from tests.e2e.sides import Side, tree

STEPS = int(os.environ.get("DIFFERENTIAL_STEPS", "2000"))
"""Of each seed."""
FIRST, _, COUNT = os.environ.get("DIFFERENTIAL_SEEDS", "1:10").partition(":")
SEEDS = range(int(FIRST), int(FIRST) + int(COUNT or 1))
CHECK_STEPS = 500
"""So often everything is closed, compared and remounted."""


class ForgetsLastByte(Side):
    def pwrite(self, handle: int, offset: int, data: bytes) -> int:
        os.pwrite(self.fds[handle], data[:-1] if len(data) > 5000 else data, offset)
        return len(data)


class LeavesOldBytes(Side):
    """Truncating down and up again shows the old bytes instead of zeros."""

    def ftruncate(self, handle: int, size: int) -> None:
        if size >= os.fstat(self.fds[handle]).st_size or size == 0:
            os.ftruncate(self.fds[handle], size)


class WrongErrno(Side):
    def rmdir(self, name: str) -> None:
        try:
            os.rmdir(self.path(name))
        except FileNotFoundError:
            raise NotADirectoryError(20, "not a directory") from None


class RenamesByCopy(Side):
    """A rename that leaves the source."""

    def rename(self, name: str, target: str) -> None:
        body = Path(self.path(name)).read_bytes() if os.path.isfile(self.path(name)) else b""
        os.rename(self.path(name), self.path(target))
        if name != target and not os.path.exists(self.path(name)):
            Path(self.path(name)).write_bytes(body)


class AppendsAtOldEnd(Side):
    """O_APPEND remembered from open instead of at each write."""

    def open(self, handle: int, name: str, flags: int) -> None:
        super().open(handle, name, flags & ~os.O_APPEND)
        if flags & os.O_APPEND:
            os.lseek(self.fds[handle], 0, os.SEEK_END)


def sides(tmp_path: Path, kind: type[Side] = Side) -> tuple[Side, Side]:
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
    return kind(tmp_path / "left"), Side(tmp_path / "right")


def test_the_driver_finds_no_difference_between_two_local_directories(tmp_path: Path) -> None:
    """Two directories of one disk never differ, and enough of what is drawn succeeds."""
    left, right = sides(tmp_path)
    driver = Driver(1, left, right)
    for _ in range(4):
        driver.run(1000)
        driver.close_all()
        driver.compare_trees()
    assert sum(body is not None for body in tree(right.root).values()) >= 5


@pytest.mark.parametrize("kind", [ForgetsLastByte, LeavesOldBytes, WrongErrno, RenamesByCopy, AppendsAtOldEnd])
def test_the_driver_finds_a_planted_difference(tmp_path: Path, kind: type[Side]) -> None:
    """Each of several plausible bugs is found within the steps of one seed, and the report says how to replay it."""
    left, right = sides(tmp_path, kind)
    driver = Driver(1, left, right)
    try:
        with pytest.raises(Differs, match=r"seed=1 step=\d+") as found:
            for _ in range(4):
                driver.run(500)
                driver.close_all()
                driver.compare_trees()
    finally:
        left.close_all()
        right.close_all()
    assert len(str(found.value).splitlines()) > 5


def check_bucket(place: Place, expected: dict[str, bytes | None]) -> None:
    """The bucket has exactly the files of the oracle's tree, byte for byte, and says which directories exist."""
    files = {name: body for name, body in expected.items() if body is not None}
    directories = {name for name, body in expected.items() if body is None}
    keys = place.names()
    assert place.uploads() == []
    found = {key: place.get(key) for key in keys if not key.endswith("/")}
    assert [name for name in sorted({*found, *files}) if found.get(name) != files.get(name)] == []
    shown = {key.rstrip("/") for key in keys if key.endswith("/")}
    for key in keys:
        parts = key.rstrip("/").split("/")
        shown |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    assert shown - {""} == directories


@pytest.mark.slow
@pytest.mark.seconds(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_mount_answers_as_a_local_directory(mounts: Mounts, tmp_path: Path, seed: int) -> None:
    """Random operations on a mount and on a local directory give the same results, errnos and trees, and the bucket
    holds that tree; differences are those of DIFFERENCES."""
    oracle, trace = tmp_path / "oracle", tmp_path / "trace"
    oracle.mkdir()
    mounted: Mounted = mounts.start()
    command = [sys.executable, "-m", "tests.e2e.differential", f"--seed={seed}", f"--trace={trace}"]
    driver = subprocess.Popen(
        [*command, str(mounted.root), str(oracle)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        for _ in range(0, STEPS, CHECK_STEPS):
            say(driver, str(CHECK_STEPS))
            if (said := hear(driver)) != "ok":
                assert driver.stdout is not None
                rest = driver.stdout.read()
                driver.wait(60)
                if not said:
                    rest = "".join(trace.read_text().splitlines(keepends=True)[-SHOWN_OPERATIONS:])
                pytest.fail(f"{said}\n{rest}\nthe driver's exit status: {driver.returncode}", pytrace=False)
            mounted.remount()
            expected = tree(oracle)
            assert tree(mounted.root) == expected, f"after a remount, seed {seed}"
            check_bucket(mounts.place, expected)
    finally:
        driver.kill()
        driver.communicate(timeout=10)
