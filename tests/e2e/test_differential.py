"""The mount answers every operation as a local directory does, and the bucket holds what the tree shows.

DIFFERENTIAL_STEPS=50000 takes so many steps in all instead of a share of them, DIFFERENTIAL_SEEDS=1:20 divides them
among so many seeds (17:1: one seed); DIFFERENTIAL_KINDS names what is drawn, of those in `kinds`.
"""

import os
import random
from pathlib import Path

import pytest

from tests.e2e.differential import SHOWS_ATTRIBUTES, names_of, steps_of
from tests.e2e.driven import Driven, check_bucket
from tests.e2e.driver import Differs, Driver
from tests.e2e.elsewhere import LIFETIME_SECONDS
from tests.e2e.kinds import ELSEWHERE
from tests.e2e.mounting import Mounts
from tests.e2e.sides import DIRECTORY, LINK, Side, attribute_differences, tree

FIRST, _, COUNT = os.environ.get("DIFFERENTIAL_SEEDS", "1:5").partition(":")
SEEDS = range(int(FIRST), int(FIRST) + int(COUNT or 1))
STEPS = -(-int(os.environ.get("DIFFERENTIAL_STEPS", "10000")) // len(SEEDS))
"""Of each seed."""
CALLERS = ",callers" if os.geteuid() == 0 else ""
"""Only root can be somebody else."""
KINDS = os.environ.get("DIFFERENTIAL_KINDS", f"files,directories,attributes,elsewhere{CALLERS}").split(",")
XATTR = [] if "DIFFERENTIAL_KINDS" in os.environ else ["xattr"]
"""Drawn by every second seed as well: with `--xattr` and without it the kernel does not ask the same."""
CHECK_STEPS = 500
"""So often everything is closed, compared with the bucket and remounted; at times drawn by the seed it is remounted
between, too."""
SECONDS_A_STEP = 0.25


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


class RenamesWithoutWhatIsBelow(Side):
    """A directory's rename that makes the new one empty."""

    def rename(self, name: str, target: str) -> None:
        full = os.path.isdir(self.path(name)) and os.listdir(self.path(name))
        os.rename(self.path(name), self.path(target))
        if full and name != target:
            for entry in full:
                if os.path.isfile(self.path(f"{target}/{entry}")):
                    os.unlink(self.path(f"{target}/{entry}"))


class KeepsModeOfNewFiles(Side):
    """Every file gets the default mode."""

    def write_file(self, name: str, data: bytes, mode: int) -> None:
        super().write_file(name, data, 0o644)


class ForgetsNanoseconds(Side):
    def utimens(self, name: str, atime_ns: int, mtime_ns: int) -> int:
        return super().utimens(name, atime_ns // 1000 * 1000, mtime_ns // 1000 * 1000)


class ForgetsOwners(Side):
    def chown(self, name: str, uid: int, gid: int) -> None:
        os.lstat(self.path(name))


class FollowsLinks(Side):
    def chown(self, name: str, uid: int, gid: int) -> None:
        os.chown(self.path(name), uid, gid)


class DropsAttributesOnRename(Side):
    def rename(self, name: str, target: str) -> None:
        super().rename(name, target)
        if os.path.isfile(self.path(target)) and not os.path.islink(self.path(target)):
            os.chmod(self.path(target), 0o644)


def sides(tmp_path: Path, kind: type[Side] = Side) -> tuple[Side, Side]:
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
    return kind(tmp_path / "left"), Side(tmp_path / "right")


def drive(left: Side, right: Side, kinds: list[str], steps: int) -> None:
    """So many steps of these kinds, in four parts, the trees compared after each."""
    shows = bool(SHOWS_ATTRIBUTES & set(kinds))
    driver = Driver(1, left, right, steps_of(kinds), names=names_of(kinds), shows_attributes=shows)
    for _ in range(4):
        driver.run(steps // 4)
        driver.close_all()
        driver.compare_trees()


LOCAL_KINDS = f"files,directories,attributes,xattr{CALLERS}".split(",")
"""All that need no bucket."""


@pytest.mark.parametrize("kinds", [["files"], LOCAL_KINDS], ids=["files", "all"])
def test_the_driver_finds_no_difference_between_two_local_directories(tmp_path: Path, kinds: list[str]) -> None:
    """Two directories of one disk never differ, and enough of what is drawn succeeds."""
    left, right = sides(tmp_path)
    drive(left, right, kinds, 4000)
    found = tree(right.root)
    assert sum(body != DIRECTORY for body in found.values()) >= 5
    if kinds != ["files"]:
        assert any(isinstance(body, str) and body.startswith(LINK) for body in found.values())


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [
        *((kind, "files") for kind in (ForgetsLastByte, LeavesOldBytes, WrongErrno, RenamesByCopy, AppendsAtOldEnd)),
        (RenamesWithoutWhatIsBelow, "directories"),
        *((kind, "attributes") for kind in (KeepsModeOfNewFiles, ForgetsNanoseconds, ForgetsOwners, FollowsLinks)),
        (DropsAttributesOnRename, "attributes"),
    ],
)
def test_the_driver_finds_a_planted_difference(tmp_path: Path, kind: type[Side], kinds: str) -> None:
    """Each of several plausible bugs is found within the steps of one seed, and the report says how to replay it."""
    left, right = sides(tmp_path, kind)
    try:
        with pytest.raises(Differs, match=r"seed=1 step=\d+") as found:
            drive(left, right, ["files", kinds] if kinds != "files" else ["files"], 2000)
    finally:
        left.close_all()
        right.close_all()
    assert len(str(found.value).splitlines()) > 5


def kinds_of(seed: int) -> list[str]:
    return [*KINDS, *XATTR] if seed % 2 else KINDS


def options(kinds: list[str]) -> list[str]:
    """Of the mount: what the kinds need."""
    ttl = f"{LIFETIME_SECONDS * 1000:.0f}ms"
    chosen = [f"--metadata-ttl={ttl}", f"--negative-ttl={ttl}"] if ELSEWHERE in kinds else []
    chosen += ["--allow-other"] if "callers" in kinds else []
    return [*chosen, "--xattr"] if "xattr" in kinds else chosen


@pytest.mark.slow
@pytest.mark.seconds(120 + STEPS * SECONDS_A_STEP)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_mount_answers_as_a_local_directory(mounts: Mounts, tmp_path: Path, seed: int) -> None:
    """Random operations on a mount and on a local directory give the same results, errnos and trees, and the bucket
    holds that tree, also when another client changes it and across remounts; differences are those of DIFFERENCES."""
    draws = random.Random(seed)
    mounted = mounts.start(*options(kinds_of(seed)))
    driven = Driven(mounted, tmp_path, seed, kinds_of(seed))
    try:
        for _ in range(0, STEPS, CHECK_STEPS):
            early = draws.randrange(1, CHECK_STEPS)
            driven.take(early)
            mounted.remount()
            driven.take(CHECK_STEPS - early)
            mounted.remount()
            expected = tree(driven.oracle)
            assert tree(mounted.root) == expected, f"after a remount, seed {seed}"
            if SHOWS_ATTRIBUTES & set(KINDS):
                assert attribute_differences(mounted.root, driven.oracle) == [], f"after a remount, seed {seed}"
            check_bucket(mounts.place, expected)
            assert mounts.place.uploads() == []
    finally:
        driven.end()
