"""`--write-back` on real mounts: close is acknowledged by the journal, the mount shows it at once, the bucket follows.

What is acknowledged while the store is away, survives `kill -9`, and is in the bucket after fsync, `sync` and the end.
"""

import errno
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3mount.writeback.records import head_bytes, meta_bytes, record_at
from tests.e2e.asking import asked, s3mount, told
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, run, succeed
from tests.proxy import FaultProxy, Rule

ON = "--write-back"
AT_ONCE = "--write-back-delay=0s"
BODY = b"sixteen letters." * 1000
PROGRESS = r"s3mount: \d+ of \d+ stored, [\d.]+ of [\d.]+ \w+"
FILES = 60
"""So many are written while the store is away; `scripts/soak write_back` writes 2,000."""


def shown(root: Path) -> dict[str, bytes | None]:
    """What a mount shows: directories are None."""
    found: dict[str, bytes | None] = {}
    for where, directories, files in os.walk(root):
        below = Path(where).relative_to(root)
        found |= {str(below / name): None for name in directories}
        found |= {str(below / name): (root / below / name).read_bytes() for name in files}
    return found


def stored(place: Place) -> dict[str, bytes | None]:
    """The same of the bucket."""
    names = [name for name in place.names() if not name.rpartition("/")[2].startswith(".s3mount")]
    found: dict[str, bytes | None] = {}
    for name in names:
        parts = name.rstrip("/").split("/")
        found |= {"/".join(parts[:depth]): None for depth in range(1, len(parts))}
        found[name.rstrip("/")] = None if name.endswith("/") else place.get(name)
    return found


def stall(proxy: FaultProxy) -> None:
    """Nothing can be stored any more, and nobody is told."""
    for method in ("PUT", "POST"):
        proxy.add(Rule(fault="black_hole", method=method))


def waiting(mounted: Mounted) -> int:
    """Files that the bucket does not have yet."""
    count: int = asked("status", mounted.root)["write_back"]["changes"]
    return count


def synced(mounted: Mounted) -> None:
    """All is in the bucket; while that lasts it may be told how far it is."""
    done = s3mount("sync", mounted.root)
    said = [line for line in done.stderr.splitlines() if not re.fullmatch(PROGRESS, line)]
    assert (done.returncode, said) == (0, []), done


def conflict_copies(place: Place) -> dict[str, bytes]:
    copies = [name for name in place.files() if name.startswith(".s3mount/conflicts/")]
    return {name.split("/", 3)[3]: place.get(name) for name in copies}


@pytest.mark.parametrize("delay", [AT_ONCE, "--write-back-delay=1h"], ids=["under way", "waiting"])
def test_what_the_bucket_does_not_have_yet_is_there_for_programs(
    mounts: Mounts, proxy: FaultProxy, place: Place, delay: str
) -> None:
    """Closes, renames and deletions return while nothing can be stored; stat, ls and reads show what they did."""
    place.put("there/old", b"old")
    mount = mounts.start(ON, delay, endpoint_url=proxy.endpoint_url)
    there, made = mount.root / "there", mount.root / "made"
    assert os.listdir(there) == ["old"]
    stall(proxy)
    (there / "old").write_bytes(b"new")
    (there / "first").write_bytes(BODY)
    (there / "first").rename(there / "second")
    (there / "gone").write_bytes(b"gone")
    (there / "gone").unlink()
    made.mkdir()
    (made / "below").write_bytes(BODY)
    with (made / "below").open("ab") as file:
        file.write(b"more")
    (there / "second").rename(made / "third")
    (made / "script").write_bytes(b"#!/bin/sh\n")
    (made / "script").chmod(0o750)
    expected = {
        "there": None,
        "there/old": b"new",
        "made": None,
        "made/below": BODY + b"more",
        "made/third": BODY,
        "made/script": b"#!/bin/sh\n",
    }
    assert shown(mount.root) == expected
    assert (made / "third").stat().st_size == len(BODY)
    assert (made / "script").stat().st_mode & 0o777 == 0o750
    assert stored(place) == {"there": None, "there/old": b"old"}
    assert waiting(mount) > 0
    proxy.clear()
    synced(mount)
    assert stored(place) == expected
    assert int(place.head("made/script")["Metadata"]["mode"]) & 0o777 == 0o750
    assert waiting(mount) == 0
    assert shown(mount.root) == expected


def test_fsync_sync_umount_and_sigterm_return_when_the_bucket_has_it(mounts: Mounts, place: Place) -> None:
    """However long files may wait."""
    mount = mounts.start(ON, "--write-back-delay=1h")
    with (mount.root / "fsynced").open("wb") as file:
        file.write(BODY)
        file.flush()
        os.fsync(file.fileno())
        assert stored(place) == {"fsynced": BODY}
    (mount.root / "synced").write_bytes(BODY)
    assert place.files() == ["fsynced"]
    synced(mount)
    assert place.files() == ["fsynced", "synced"]
    (mount.root / "terminated").write_bytes(BODY)
    mount.remount()
    assert place.files() == ["fsynced", "synced", "terminated"]
    (mount.root / "unmounted").write_bytes(BODY)
    (mount.root / "synced").unlink()
    succeed("fusermount3", "-u", mount.root)
    assert mount.wait() == 0
    assert stored(place) == dict.fromkeys(("fsynced", "terminated", "unmounted"), BODY)


def test_what_close_acknowledged_is_there_after_kill_and_a_start_and_in_the_bucket_after_sync(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """Be its upload under way, or waiting, when the daemon is killed; twice."""
    place.put("d/old", b"old")
    place.put("d/moved", b"moved")
    mount = mounts.start(ON, AT_ONCE, endpoint_url=proxy.endpoint_url)
    stall(proxy)
    (mount.root / "d/new").write_bytes(BODY)
    (mount.root / "d/old").write_bytes(b"newer")
    (mount.root / "d/moved").rename(mount.root / "d/here")
    (mount.root / "e").mkdir()
    (mount.root / "d/new").rename(mount.root / "e/renamed")
    (mount.root / "gone").write_bytes(b"gone")
    (mount.root / "gone").unlink()
    expected = {"d": None, "d/old": b"newer", "d/here": b"moved", "e": None, "e/renamed": BODY}
    for _ in range(2):
        assert shown(mount.root) == expected
        mount.crash()
        mount.start()
    assert shown(mount.root) == expected
    assert place.get("d/old") == b"old"
    proxy.clear()
    synced(mount)
    assert stored(place) == expected
    assert place.uploads() == []
    assert shown(mount.root) == expected


def test_while_the_store_is_away_files_are_written_renamed_and_removed(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """In a directory listed before and in a new one. Who needed the store for it would be told EIO at once."""
    for number in range(3):
        place.put(f"listed/old{number}", b"old")
    # Attributes of what was stored just now are asked for: see --attributes.
    forgetful = ("--metadata-ttl=100ms", "--negative-ttl=100ms", "--attributes=never")
    mount = mounts.start(ON, AT_ONCE, *forgetful, endpoint_url=proxy.endpoint_url)
    mount.expect("request failed", "errno=EIO")
    listed, made = mount.root / "listed", mount.root / "made"
    assert set(os.listdir(mount.root)) == {"listed"}
    assert len(os.listdir(listed)) == 3
    proxy.down()
    assert eventually(lambda: absent(mount.root / "unknown-here/x") and "store unreachable" in mount.log)
    expected: dict[str, bytes | None] = {"listed": None, "made": None, "listed/old2": b"old"}
    made.mkdir()
    for number in range(FILES):
        directory, body = (listed, made)[number % 2], BODY[number:]
        path = directory / f"f{number}"
        path.write_bytes(body)
        if number % 3 == 0:
            path = path.rename(directory / f"r{number}")
        if number % 5 == 0:
            path.unlink()
        else:
            expected[str(path.relative_to(mount.root))] = body
    (listed / "old0").unlink()
    (listed / "old1").rename(made / "moved")
    expected["made/moved"] = b"old"
    assert set(shown_names(mount.root)) == expected.keys()
    proxy.up()
    synced(mount)
    assert stored(place) == expected
    assert shown(mount.root) == expected


def absent(path: Path) -> bool:
    """Ask for it, whatever the answer is."""
    try:
        path.stat()
    except OSError:
        return True
    return False


def shown_names(root: Path) -> list[str]:
    return [
        str((Path(where) / name).relative_to(root)) for where, *both in os.walk(root) for part in both for name in part
    ]


def test_what_another_client_has_stored_meanwhile_is_kept_and_ours_becomes_a_copy(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    place.put("d/changed", b"base")
    place.put("d/removed", b"base")
    mount = mounts.start(ON, AT_ONCE, endpoint_url=proxy.endpoint_url)
    mount.expect("conflict", "errno=ESTALE", "another client")
    stall(proxy)
    with (mount.root / "d/changed").open("ab") as changed, (mount.root / "d/created").open("xb") as created:
        changed.write(b" and ours")
        created.write(b"ours")
    (mount.root / "d/later").write_bytes(b"no conflict")
    place.put("d/changed", b"theirs")
    place.put("d/created", b"theirs")
    proxy.clear()
    done = s3mount("sync", mount.root)
    assert {line for line in done.stderr.splitlines() if "d/later" in line} == set()
    assert eventually(lambda: waiting(mount) == 0)
    assert conflict_copies(place) == {"d/changed": b"base and ours", "d/created": b"ours"}
    expected = {"changed": b"theirs", "created": b"theirs", "later": b"no conflict", "removed": b"base"}
    assert {name: place.get(f"d/{name}") for name in expected} == expected
    assert eventually(lambda: shown(mount.root / "d") == expected)
    assert "WRONG" in told("status", mount.root)


def test_what_can_never_be_stored_is_named_by_failed_and_holds_nobody_up(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    mount = mounts.start(ON, AT_ONCE, endpoint_url=proxy.endpoint_url)
    mount.expect("AccessDenied", "access denied", "errno=EACCES", "not stored")
    proxy.add(Rule(fault="error", method="PUT", key="bad$", status=403, code="AccessDenied"))
    for name in ("before", "bad", "dropped-bad", "behind"):
        (mount.root / name).write_bytes(BODY)
    assert eventually(lambda: len(asked("failed", "list", mount.root)["files"]) == 2)
    assert eventually(lambda: place.files() == ["before", "behind"])
    files = {file["path"]: file for file in asked("failed", "list", mount.root)["files"]}
    assert files.keys() == {"bad", "dropped-bad"}
    assert files["bad"]["size"] == len(BODY)
    assert "AccessDenied" in files["bad"]["reason"]
    assert s3mount("sync", mount.root).returncode == 1
    assert (mount.root / "bad").read_bytes() == BODY
    told("failed", "export", "--to", tmp_path / "out", mount.root, "bad")
    assert (tmp_path / "out/bad").read_bytes() == BODY
    mount.crash()
    mount.start()
    assert len(asked("failed", "list", mount.root)["files"]) == 2
    told("failed", "drop", mount.root, "dropped-bad")
    assert not (mount.root / "dropped-bad").exists()
    proxy.clear()
    told("failed", "retry", mount.root)
    assert place.files() == ["bad", "before", "behind"]
    assert place.get("bad") == BODY
    assert asked("failed", "list", mount.root)["files"] == []


def journal_of(mounted: Mounted) -> Path:
    """The journal's directory of the only mount with this cache directory."""
    (found,) = (mounted.work / "cache").glob("instances/*/write-back")
    return found


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def refusal(mounted: Mounted) -> str:
    """The one line of a start that fails."""
    before = mounted.stderr
    with pytest.raises(AssertionError, match="ended with status 1"):
        mounted.start()
    mounted.wait()
    (line,) = mounted.stderr[len(before) :].splitlines()
    mounted.expect(r".")
    return line


def test_a_start_that_would_leave_or_misread_a_journal_is_refused_and_touches_nothing(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    """Without --write-back while something waits; over a journal of another prefix, or of a newer format. `s3mount
    journal` names and rescues what waits, with no store."""
    mount = mounts.start(ON, endpoint_url=proxy.endpoint_url)
    stall(proxy)
    (mount.root / "file").write_bytes(BODY)
    mount.crash()
    journal = journal_of(mount)
    before = contents(journal)
    mount.options = ()
    line = refusal(mount)
    assert "--write-back" in line
    assert "s3mount journal export" in line
    assert contents(journal) == before

    where = (f"--cache-dir={mount.work / 'cache'}", mount.root)
    assert "file" in told("journal", "list", *where)
    told("journal", "export", "--to", tmp_path / "out", *where)
    assert (tmp_path / "out/file").read_bytes() == BODY
    assert contents(journal) == before

    other = mounts.start(ON, place=Place(place.server, place.bucket, f"{place.prefix}other/"))
    other.stop()
    shutil.rmtree(journal_of(other))
    shutil.copytree(journal, journal_of_new(other))
    line = refusal(other)
    assert place.prefix in line
    assert contents(journal_of(other)) == before

    shutil.rmtree(journal_of_new(other))
    journal_of_new(other).mkdir(mode=0o700)
    newer(next(journal.glob("*.log")), journal_of_new(other))
    before = contents(journal_of_new(other))
    assert "newer" in refusal(other)
    assert contents(journal_of_new(other)) == before

    mount.options = (ON,)
    proxy.clear()
    mount.start()
    synced(mount)
    assert place.get("file") == BODY


def newer(segment: Path, into: Path) -> None:
    """A journal with the header that a later version might write."""
    body = segment.read_bytes()
    header = record_at(lambda offset, size: body[offset : offset + size], 0, segment=1)
    assert header is not None
    record, text = header.record, meta_bytes({**header.meta, "format": 2})
    record = record._replace(meta_size=len(text))
    (into / segment.name).write_bytes(head_bytes(record, text, salt=header.meta["salt"]) + text)


def journal_of_new(mounted: Mounted) -> Path:
    (instance,) = (mounted.work / "cache/instances").iterdir()
    return instance / "write-back"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """24 MiB for a cache directory; to be named before `mounts`, which have to go first."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    succeed("mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", path)
    yield path
    run("umount", "-l", path)


def test_on_a_full_disk_close_fails_and_what_it_acknowledged_earlier_is_stored(
    small_disk: Path, mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """With ENOSPC; once the bucket has what waits there is room again. That such a disk forgets is warned of."""
    options = (ON, "--write-back-limit=1GiB", f"--cache-dir={small_disk}", "--staging-limit=20MiB")
    mount = mounts.start(*options, endpoint_url=proxy.endpoint_url)
    mount.expect("tmpfs", "errno=ENOSPC", "journal", "content dropped")
    assert "tmpfs" in mount.log
    stall(proxy)
    body = BODY * 64
    expected: dict[str, bytes | None] = {}
    with pytest.raises(OSError) as caught:
        for number in range(60):
            (mount.root / f"f{number}").write_bytes(body)
            expected[f"f{number}"] = body
    assert caught.value.errno == errno.ENOSPC
    assert 5 <= len(expected) < 30
    assert eventually(lambda: shown(mount.root) == expected)
    proxy.clear()
    synced(mount)
    assert stored(place) == expected
    (mount.root / "again").write_bytes(body)
    synced(mount)
    assert place.get("again") == body


def test_signals_while_nothing_can_be_stored_end_the_mount_and_keep_what_waits(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """SIGTERM: within --stop-timeout, with a line that names it; the next start has it all."""
    mount = mounts.start(ON, "--stop-timeout=2s", endpoint_url=proxy.endpoint_url)
    mount.expect("changes wait in the journal")
    stall(proxy)
    (mount.root / "file").write_bytes(BODY)
    mount.signal(signal.SIGTERM)
    assert mount.wait() == 0
    assert f"changes=1 bytes={len(BODY)} example=file" in mount.log
    assert place.files() == []
    proxy.clear()
    mount.start()
    assert (mount.root / "file").read_bytes() == BODY
    synced(mount)
    assert place.get("file") == BODY
