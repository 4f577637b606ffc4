"""What a path shows once its changes could not be stored, who wins between two mounts, and directories that move."""

import errno
import os
import random
import threading
import time
from pathlib import Path

import pytest

from s3mount.config import MIB
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, run
from tests.proxy import FaultProxy, Rule

EXCLUSIVE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
COPIES = ".s3mount/conflicts/"


def close_conflicts(fd: int) -> None:
    with pytest.raises(OSError) as caught:
        os.close(fd)
    assert caught.value.errno == errno.ESTALE


def copies(place: Place) -> dict[str, bytes]:
    """The conflict copies by the path that lost."""
    return {name.split("/", 3)[3]: place.get(name) for name in place.files() if name.startswith(COPIES)}


def both(mounts: Mounts, *options: str) -> tuple[Mounted, Mounted]:
    first, second = mounts.start(*options), mounts.start(*options)
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
    assert copies(mounts.place) == {"f": b"loser"}


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


@pytest.mark.parametrize("base", [b"base\n", b"base\n" * 200_000])
def test_of_two_appenders_one_succeeds_and_the_other_s_bytes_are_kept_base_included(
    mounts: Mounts, proxy: FaultProxy, base: bytes
) -> None:
    """D9"""
    mounts.place.put("log", base)
    first, second = mounts.start(), mounts.start(endpoint_url=proxy.endpoint_url)
    second.expect("conflict")
    one, two = [os.open(mounted.root / "log", os.O_WRONLY | os.O_APPEND) for mounted in (first, second)]
    assert eventually(lambda: sum(seen.received for seen in proxy.requests() if seen.kind == "get") >= len(base))
    os.write(one, b"one\n")
    os.write(two, b"two\n")
    os.close(one)
    with pytest.raises(OSError) as caught:
        os.fsync(two)
    assert caught.value.errno == errno.ESTALE
    assert (second.root / "log").read_bytes() == base + b"one\n", "who opens the path gets the winner's"
    os.write(two, b"later\n")
    close_conflicts(two)
    assert mounts.place.get("log") == base + b"one\n"
    assert copies(mounts.place) == {"log": base + b"two\nlater\n"}
    assert os.listdir(second.root) == ["log"]
    with (second.root / "log").open("ab") as file:
        file.write(b"two again\n")
    assert mounts.place.get("log") == base + b"one\ntwo again\n"


def test_a_mount_that_is_stopped_keeps_what_loses(mounts: Mounts) -> None:
    first, second = both(mounts)
    second.expect("kernel could not hand over a file f: Stale")
    fd = os.open(second.root / "f", EXCLUSIVE, 0o644)
    os.write(fd, b"loser")
    (first.root / "f").write_bytes(b"winner")
    second.signal(15)
    assert eventually(lambda: copies(mounts.place) == {"f": b"loser"}, 30)
    close_conflicts(fd)
    assert second.wait() == 0, "nothing was lost"
    assert mounts.place.get("f") == b"winner"


def test_an_exclusive_creation_has_one_winner_at_close(mounts: Mounts) -> None:
    """D9"""
    first, second = both(mounts)
    fds = [os.open(mounted.root / "lock", EXCLUSIVE, 0o644) for mounted in (first, second)]
    for number, fd in enumerate(fds):
        os.write(fd, b"%d" % number)
    os.close(fds[1])
    close_conflicts(fds[0])
    assert mounts.place.get("lock") == b"1"
    assert copies(mounts.place) == {"lock": b"0"}


def test_an_exclusive_creation_has_one_winner_at_open_if_asked_for(mounts: Mounts) -> None:
    """D9: `--exclusive-create open`, for lock files across hosts."""
    options = ("--exclusive-create=open", "--negative-ttl=60s", "--metadata-ttl=60s")
    first, second = both(mounts, *options)
    for mounted in (first, second):
        assert not (mounted.root / "lock").exists()
    fd = os.open(first.root / "lock", EXCLUSIVE, 0o644)
    assert mounts.place.get("lock") == b""
    with pytest.raises(FileExistsError):
        os.open(second.root / "lock", EXCLUSIVE, 0o644)
    assert (second.root / "lock").exists(), "its cached absence is forgotten"
    os.write(fd, b"first")
    os.close(fd)
    assert (second.root / "lock").read_bytes() == b"first"

    winners: list[tuple[int, str]] = []
    start = threading.Barrier(2)

    def contend(number: int, root: Path) -> None:
        for name in map(str, range(30)):
            start.wait(60)
            try:
                fd = os.open(root / name, EXCLUSIVE, 0o644)
            except FileExistsError:
                continue
            os.write(fd, b"%d" % number)
            os.close(fd)
            winners.append((number, name))

    threads = [threading.Thread(target=contend, args=(number, m.root)) for number, m in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for _, name in winners) == sorted(map(str, range(30)))
    assert all(mounts.place.get(name) == b"%d" % number for number, name in winners)
    os.mknod(first.root / "node", 0o100644)
    with pytest.raises(FileExistsError):
        os.mknod(second.root / "node", 0o100644)
    assert copies(mounts.place) == {}


def test_an_append_to_a_log_believed_absent_never_replaces_another_mount_s(mounts: Mounts) -> None:
    """D9"""
    first, second = both(mounts, "--negative-ttl=60s", "--metadata-ttl=60s")
    assert not (second.root / "log").exists()
    (first.root / "log").write_bytes(b"first\n")
    done = run("sh", "-c", "echo a >> log", cwd=second.root)
    assert mounts.place.get("log") == b"first\n"
    assert copies(mounts.place) == {"log": b"a\n"}
    assert "Stale file handle" in done.stderr or done.returncode == 0, "a shell does not look at what close says"
    assert run("sh", "-c", "echo b >> log", cwd=second.root).returncode == 0
    assert mounts.place.get("log") == b"first\nb\n"


def test_overwrite_lets_the_last_writer_win(mounts: Mounts) -> None:
    first, second = both(mounts, "--conflict=overwrite")
    fds = [os.open(mounted.root / "f", EXCLUSIVE, 0o644) for mounted in (first, second)]
    for number, fd in enumerate(fds):
        os.write(fd, b"%d" % number)
        os.close(fd)
    assert mounts.place.get("f") == b"1"
    assert copies(mounts.place) == {}


def test_a_close_survives_a_409_and_is_a_conflict_only_when_the_key_was_taken(
    proxied: Mounted, proxy: FaultProxy, place: Place
) -> None:
    """409 says that another conditional write of the key is under way: the request is repeated."""
    proxied.expect("conflict", "errno=ESTALE")
    conflicting = Rule(
        fault="error", kind="put", key="/(f|taken)$", status=409, code="ConditionalRequestConflict", times=1
    )
    proxy.add(conflicting)
    proxy.forget()
    (proxied.root / "f").write_bytes(b"mine")
    assert place.get("f") == b"mine"
    assert proxy.counts()["put"] == 2
    fd = os.open(proxied.root / "taken", EXCLUSIVE, 0o644)
    os.write(fd, b"mine")
    place.put("taken", b"theirs")
    proxy.add(conflicting)
    close_conflicts(fd)
    assert place.get("taken") == b"theirs"
    assert copies(place) == {"taken": b"mine"}


@pytest.mark.parametrize(
    "kind", ["put", "create_upload", "upload_part", "copy_part", "complete_upload", "copy", "rename", "delete"]
)
def test_a_reply_that_is_lost_after_its_effect_changes_nothing(
    mounts: Mounts, proxy: FaultProxy, place: Place, kind: str
) -> None:
    """A20: no false conflict, no duplicate, no loss."""
    large = random.Random(20).randbytes(17 * MIB)
    place.put("edited", large)
    place.put("appended", b"base ")
    place.put("rewritten", b"old")
    place.put("moved", b"moved")
    place.put("gone", b"gone")
    # With an option that says how objects are kept there are copies instead of renames.
    options = ("--acl=private",) if kind == "copy" else ()
    root = mounts.start(*options, endpoint_url=proxy.endpoint_url).root
    for name in ("f", "streamed", "edited", "appended", "rewritten", "moved", "gone", "d", "to"):
        proxy.add(Rule(fault="drop_reply", kind=kind, key=f"/{name}/?$", times=1))
    (root / "f").write_bytes(b"created")
    fd = os.open(root / "streamed", EXCLUSIVE, 0o644)
    for start in range(0, len(large), MIB):
        os.write(fd, large[start : start + MIB])
    os.close(fd)
    fd = os.open(root / "edited", os.O_RDWR)
    os.pwrite(fd, b"EDITED", 9 * MIB)
    os.close(fd)
    with (root / "appended").open("ab") as file:
        file.write(b"and more")
    (root / "rewritten").write_bytes(b"new")
    os.rename(root / "moved", root / "to")
    os.unlink(root / "gone")
    (root / "d").mkdir()
    assert place.names() == ["appended", "d/", "edited", "f", "rewritten", "streamed", "to"]
    assert place.get("edited") == large[: 9 * MIB] + b"EDITED" + large[9 * MIB + 6 :]
    assert place.get("streamed") == large
    bodies = {"f": b"created", "appended": b"base and more", "rewritten": b"new", "to": b"moved"}
    assert {name: place.get(name) for name in bodies} == bodies
    # An upload whose id never came is told from others' by having no part after ten minutes (unit/test_leftovers).
    unnamed = 2 if kind == "create_upload" else 0
    assert eventually(lambda: len(place.uploads()) == unnamed)
    assert proxy.counts()[kind] > 1, "there was such a request, and its repetition"


def test_old_copies_are_removed_when_a_mount_starts(mounts: Mounts) -> None:
    place = mounts.place
    place.put(f"{COPIES}20260101T000000Z-00000000/f", b"old")
    place.put(".s3mount/other", b"kept")
    time.sleep(2.5)
    mounts.start("--conflict-keep=1s", "--read-only")
    mounts.start()
    time.sleep(0.5)
    assert copies(place) == {"f": b"old"}
    mounts.start("--conflict-keep=1s")
    assert eventually(lambda: copies(place) == {})
    assert place.get(".s3mount/other") == b"kept"


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
