"""Scenarios A and B: what a killed daemon, an unlinked file and a renamed one leave in the bucket: nothing."""

import errno
import os
import random
import secrets
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.material import MIB, Background, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, finish, hear, python, say
from tests.e2e.test_sick_store import errno_of
from tests.e2e.watchdog import detach
from tests.proxy import FaultProxy
from tests.servers import Server, boto, make_bucket

LARGE_BYTES = 40 * MIB
ORPHANS = ".s3mount/orphans/"

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | int(sys.argv[2]), 0o644)
for _ in range(40):
    os.write(fd, b"new " * (256 * 1024))
print("written", flush=True)
sys.stdin.read()
"""


def killed(mounted: Mounted) -> None:
    """kill -9, and the dead mountpoint freed: the next start is seen by its mount."""
    mounted.signal(signal.SIGKILL)
    assert mounted.wait() == -signal.SIGKILL
    detach(mounted.root)


def orphans(place: Place) -> list[str]:
    return [name for name in place.names() if name.startswith(ORPHANS)]


def parts(place: Place, name: str) -> int:
    """How many parts are stored in uploads of a name."""
    client, where = boto(place.server), {"Bucket": place.bucket, "Key": place.prefix + name}
    uploads = client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix + name).get("Uploads", ())
    return sum(len(client.list_parts(**where, UploadId=upload["UploadId"]).get("Parts", ())) for upload in uploads)


def open_foreign_upload(place: Place, name: str) -> None:
    boto(place.server).create_multipart_upload(Bucket=place.bucket, Key=place.prefix + name)


@pytest.mark.parametrize("target", ["existing", "new"])
def test_a_killed_daemon_leaves_no_upload_after_the_next_start(mounts: Mounts, place: Place, target: str) -> None:
    """A7: `kill -9` of the daemon during an upload: after remount every file whose close or fsync returned 0 is intact;
    the one in flight is wholly old or absent; its multipart upload is gone after the next start, and nobody else's
    is."""
    old = random.Random(7).randbytes(30 * MIB)
    mount = mounts.start()
    (mount.root / "existing").write_bytes(old)
    (mount.root / "closed").write_bytes(old[::-1])
    open_foreign_upload(place, target)
    program = python(WRITER, mount.root / target, str(os.O_TRUNC))
    assert hear(program) == "written"
    # Opened after the program was started: a child that inherits a descriptor flushes it.
    synced = os.open(mount.root / "synced", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(synced, old[: 7 * MIB])
    os.fsync(synced)
    os.write(synced, b"never synced")
    # Then its id is known: of two that were opened in the same seconds, ours could not be told otherwise.
    assert eventually(lambda: parts(place, target) > 0)
    killed(mount)
    program.kill()
    finish(program)
    assert errno_of(os.close, synced) in {errno.ENOTCONN, errno.ECONNABORTED}
    assert place.uploads() == [target, target]
    mount.start()
    assert eventually(lambda: place.uploads() == [target])
    assert place.names() == ["closed", "existing", "synced"]
    assert (mount.root / "existing").read_bytes() == old
    assert (mount.root / "closed").read_bytes() == old[::-1]
    assert (mount.root / "synced").read_bytes() == place.get("synced") == old[: 7 * MIB]
    assert eventually(lambda: "leftovers of an earlier run were removed uploads=1" in mount.log)


def test_another_mount_leaves_the_uploads_of_a_killed_one_alone(mounts: Mounts, place: Place) -> None:
    """A7: only its own instance's next start aborts what a daemon left, and no mount that must not write."""
    mount = mounts.start()
    program = python(WRITER, mount.root / "f", "0")
    assert hear(program) == "written"
    assert eventually(lambda: place.uploads() == ["f"])
    killed(mount)
    program.kill()
    finish(program)
    other = mounts.start()
    (other.root / "other").write_bytes(b"x")
    other.stop()
    mount.options = ("--read-only",)
    mount.start()
    assert os.listdir(mount.root) == ["other"]
    mount.stop()
    assert place.uploads() == ["f"]
    mount.options = ()
    mount.start()
    assert eventually(lambda: place.uploads() == [])


def test_a_file_that_is_written_after_its_unlink_leaves_nothing(mount: Mounted) -> None:
    """A10: `open; write; unlink; write; close`: no object, no error, no leftover key; later lookups ENOENT."""
    path = mount.root / "gone"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, b"before " * 100_000)
    path.unlink()
    os.write(fd, b"after")
    assert os.pread(fd, 700_100, 699_993) == b"before after"
    os.fsync(fd)
    os.close(fd)
    assert not path.exists()
    assert mount.place.names() == []
    with pytest.raises(FileNotFoundError):
        path.read_bytes()


def test_a_stored_and_streaming_file_that_is_unlinked_leaves_nothing(mount: Mounted) -> None:
    """A10: the same with bytes that are in the bucket already, and with parts on their way."""
    path = mount.root / "gone"
    with path.open("wb+") as file:
        file.write(b"stored " * MIB)
        file.flush()
        os.fsync(file.fileno())
        path.unlink()
        file.write(b"more")
        file.flush()
        file.seek(7 * MIB - 7)
        assert file.read() == b"stored more"
    with path.open("wb") as file:
        file.write(bytes(LARGE_BYTES))
        assert eventually(lambda: mount.place.uploads() == ["gone"])
        path.unlink()
        file.write(b"more")
    assert eventually(lambda: not mount.place.uploads())
    assert eventually(lambda: not mount.place.names())


@pytest.fixture
def large(tmp_path: Path, place: Place) -> Path:
    """A file that is in the bucket as `f`."""
    local = tmp_path / "large"
    write_pattern(local, LARGE_BYTES)
    place.put("f", local.read_bytes())
    place.put("other", b"new")
    return local


@pytest.mark.parametrize("how", ["unlink", "rename over"])
def test_a_large_file_is_read_to_the_end_after_its_name_has_gone(
    mounts: Mounts, place: Place, large: Path, how: str
) -> None:
    """Old content stays readable through its handles after unlink and after rename over it, is never stored again, and
    gone after the last release."""
    mount = mounts.start()
    with (mount.root / "f").open("rb") as reader:
        first = reader.read(1000)
        if how == "unlink":
            (mount.root / "f").unlink()
        else:
            (mount.root / "other").rename(mount.root / "f")
        assert len(orphans(place)) == 1
        assert first + reader.read() == large.read_bytes()
        assert sorted(os.listdir(mount.root)) == (["other"] if how == "unlink" else ["f"])
    left = ["other"] if how == "unlink" else ["f"]
    assert eventually(lambda: place.names() == left)
    assert place.get(left[0]) == b"new"


def test_what_an_unlinked_open_file_needed_is_swept_after_a_kill(mounts: Mounts, place: Place, large: Path) -> None:
    """Swept at the next start if the daemon died; a stop needs no next start."""
    mount = mounts.start()
    reader = os.open(mount.root / "f", os.O_RDONLY)
    (mount.root / "f").unlink()
    assert len(orphans(place)) == 1
    killed(mount)
    with suppress(OSError):
        os.close(reader)
    assert len(orphans(place)) == 1
    mount.start()
    assert eventually(lambda: place.names() == ["other"])
    (mount.root / "other").write_bytes(large.read_bytes())
    with (mount.root / "other").open("rb"):
        (mount.root / "other").unlink()
        assert len(orphans(place)) == 1
    assert eventually(lambda: place.names() == [])


def test_where_the_bucket_keeps_versions_nothing_is_copied(mounts: Mounts, seaweedfs: Server, large: Path) -> None:
    """Old content stays readable through its handles after unlink, after rename over it, and after another client has
    replaced it."""
    bucket = make_bucket(seaweedfs, f"versions-{secrets.token_hex(4)}")
    boto(seaweedfs).put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    place = Place(seaweedfs, bucket, "")
    for name in ("unlinked", "replaced", "changed"):
        place.put(name, large.read_bytes())
    place.put("new", b"new")
    root = mounts.start(place=place).root
    with (
        (root / "unlinked").open("rb") as one,
        (root / "replaced").open("rb") as two,
        (root / "changed").open("rb") as three,
    ):
        (root / "unlinked").unlink()
        (root / "new").rename(root / "replaced")
        place.put("changed", b"changed")
        assert place.names() == ["changed", "replaced"]
        for reader in (one, two, three):
            assert reader.read() == large.read_bytes()
    assert (root / "replaced").read_bytes() == b"new"
    assert (root / "changed").read_bytes() == b"changed"


RENAMED = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, b"0123456789abcdef" * (40 * 65536))
print("written", flush=True)
sys.stdin.readline()
os.pwrite(fd, b"after", 5)
os.close(fd)
print("closed", flush=True)
"""


@pytest.mark.parametrize("moment", ["before its upload", "during its upload"])
def test_a_large_file_renamed_while_it_is_written_is_stored_under_its_new_name(
    mounts: Mounts, proxy: FaultProxy, place: Place, moment: str
) -> None:
    """B5: `mv f g` of a file still open for writing, onto an existing file."""
    place.put("g", b"old")
    mount = mounts.start(endpoint_url=proxy.endpoint_url)
    path = mount.root / "f"
    program = python(RENAMED, path)
    assert hear(program) == "written"
    if moment == "during its upload":
        proxy.limit(total=20e6)
        fd = os.open(path, os.O_RDWR)
        syncing = Background(lambda: os.fsync(fd))
        assert eventually(lambda: place.uploads() == ["f"])
        path.rename(mount.root / "g")
        proxy.limit(total=None)
        syncing.result()
        os.close(fd)
    else:
        path.rename(mount.root / "g")
    say(program, "go on")
    assert hear(program) == "closed"
    assert finish(program) == 0
    expected = bytearray(b"0123456789abcdef" * (40 * 65536))
    expected[5:10] = b"after"
    assert place.names() == ["g"]
    assert place.get("g") == expected
    assert eventually(lambda: place.uploads() == [])
