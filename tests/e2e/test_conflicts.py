"""What a path shows once its changes could not be stored, who wins between two mounts, and directories that move."""

import errno
import os
import random
from pathlib import Path

import pytest

from s3mount.config import MIB
from tests.e2e.mounting import Mounted, Mounts, eventually


def close_conflicts(fd: int) -> None:
    with pytest.raises(OSError) as caught:
        os.close(fd)
    assert caught.value.errno == errno.ESTALE


def both(mounts: Mounts) -> tuple[Mounted, Mounted]:
    first, second = mounts.start(), mounts.start()
    for mounted in (first, second):
        mounted.expect("conflict", "file content dropped", "errno=ESTALE")
    return first, second


def test_after_a_lost_creation_the_path_shows_the_winner(mounts: Mounts) -> None:
    first, second = both(mounts)
    loser = os.open(second.root / "f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(loser, b"loser")
    (first.root / "f").write_bytes(b"winner")
    close_conflicts(loser)
    assert (second.root / "f").read_bytes() == b"winner"
    with (second.root / "f").open("ab") as file:
        file.write(b" and loser")
    assert mounts.place.get("f") == b"winner and loser"


def test_after_a_lost_update_the_next_open_shows_the_winner(mounts: Mounts) -> None:
    first, second = both(mounts)
    (first.root / "f").write_bytes(b"version 1")
    assert eventually((second.root / "f").exists)  # once its absence is not believed any more
    for number in range(2, 6):
        loser = os.open(second.root / "f", os.O_RDWR)
        os.pwrite(loser, b"LOSER", 0)
        winner = f"version {number}".encode()
        (first.root / "f").write_bytes(winner)
        close_conflicts(loser)
        assert (second.root / "f").read_bytes() == winner
    assert mounts.place.get("f") == b"version 5"


def test_after_a_refused_write_the_next_one_builds_on_the_old_object(mounts: Mounts) -> None:
    """The kernel keeps size and pages of what was refused; they must not come back with the next small write."""
    mounted = mounts.start("--staging-limit=32MiB")
    mounted.expect("write refused", "file content dropped", "errno=ENOSPC")
    path = mounted.root / "f"
    path.write_bytes(b"old\n")
    for change in (b"?", b"tail\n"):
        fd = os.open(path, os.O_RDWR)
        with pytest.raises(OSError) as caught:
            try:
                for number in random.Random(1).sample(range(60), 60):
                    os.pwrite(fd, b"Y" * MIB, number * MIB)
                os.fsync(fd)
            finally:
                os.close(fd)
        assert caught.value.errno == errno.ENOSPC
        with path.open("ab") as file:
            file.write(change)
    assert mounts.place.get("f") == b"old\n?tail\n"
    assert path.read_bytes() == b"old\n?tail\n"


def test_a_late_write_that_the_stop_refused_is_named(mounts: Mounts) -> None:
    """E1: exit != 0 and each lost path named, when a program wrote after the last sync."""
    mounted = mounts.start("--stop-timeout=6s")
    mounted.expect(".")
    fd = os.open(mounted.root / "late", os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o644)
    os.write(fd, b"early")
    mounted.signal(15)
    assert eventually(lambda: refused(fd), 20)
    with pytest.raises(OSError) as caught:
        os.close(fd)
    assert caught.value.errno == errno.EIO
    assert mounted.wait(30) == 1
    assert "file was lost path=late" in mounted.log
    assert mounts.place.get("late").startswith(b"early")


def refused(fd: int) -> bool:
    try:
        os.write(fd, b"more")
    except OSError:
        return True
    return False


def test_a_directory_moves_with_all_that_is_in_it(mount: Mounted) -> None:
    root: Path = mount.root
    (root / "a/b/empty").mkdir(parents=True)
    (root / "a/f").write_bytes(b"f")
    (root / "a/b/g").write_bytes(b"g" * 100_000)
    (root / "nothing").mkdir()
    os.rename(root / "a", root / "moved")
    os.rename(root / "nothing", root / "still nothing")
    assert sorted(os.listdir(root)) == ["moved", "still nothing"]
    assert sorted(os.listdir(root / "moved")) == ["b", "f"]
    assert (root / "moved/b/g").read_bytes() == b"g" * 100_000
    mount.remount()
    assert sorted(os.listdir(root)) == ["moved", "still nothing"]
    assert sorted(os.listdir(root / "moved/b")) == ["empty", "g"]
    assert sorted(mount.place.names()) == [
        "moved/",
        "moved/b/",
        "moved/b/empty/",
        "moved/b/g",
        "moved/f",
        "still nothing/",
    ]
    os.rmdir(root / "still nothing")
    assert sorted(os.listdir(root)) == ["moved"]
