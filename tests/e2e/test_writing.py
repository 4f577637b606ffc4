"""Scenarios A of writers: mappings, streams through little staging, files held open; and limits that are reached."""

import errno
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.material import MIB, object_difference, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, finish, hear, python, say, succeed
from tests.e2e.test_sick_store import errno_of, told

STREAM_BYTES = int(os.environ.get("STREAM_MIB", "256")) * MIB
"""The scenario says 2 GiB, through 256 MiB; STREAM_MIB=2048 asks for it. The same ratio shows the same."""
STAGING_BYTES = STREAM_BYTES // 8

MAP = """
import mmap, os, sys, zlib
fd = os.open(sys.argv[1], os.O_RDWR)
size = os.fstat(fd).st_size
mapped = mmap.mmap(fd, size)
def state():
    print(len(mapped), zlib.crc32(mapped), os.fstat(fd).st_size, flush=True)
    sys.stdin.readline()
state()
mapped[5:10] = b"store"
mapped[1_000_000:1_300_000] = b"s" * 300_000
assert os.pread(fd, 7, 4) == b".store.", "read(2) sees what was stored"
os.pwrite(fd, b"write", 700_000)
assert mapped[699_999:700_006] == b".write.", "the mapping sees what was written"
mapped.flush()
state()
mapped.resize(size + 10_000)
mapped[size + 9_000 : size + 9_003] = b"end"
mapped.flush()
state()
mapped.resize(size - 100_000)
mapped[0:1] = b"!"
mapped.close()
os.close(fd)
"""


def test_a_shared_mapping_is_as_on_a_local_disk(mounts: Mounts, place: Place, tmp_path: Path) -> None:
    """A12: mmap(MAP_SHARED) read and write behave as on a local file; msync + close make it durable."""
    local = tmp_path / "f"
    local.write_bytes(b"." * 2_000_003)
    place.put("f", local.read_bytes())
    mount = mounts.start()
    here, there = python(MAP, local), python(MAP, mount.root / "f")
    for step in range(3):
        expected = hear(here)
        assert expected
        assert hear(there) == expected
        if step:  # after msync
            assert place.get("f") == local.read_bytes()
        say(here, "")
        say(there, "")
    assert (finish(here), finish(there)) == (0, 0)
    assert place.get("f") == local.read_bytes()
    mount.remount()
    assert (mount.root / "f").read_bytes() == local.read_bytes()


def write_shuffled(fd: int, size: int, seed: int = 13) -> None:
    """Whole MiB in random order: nothing can be sent ahead."""
    for number in random.Random(seed).sample(range(size // MIB), size // MIB):
        os.pwrite(fd, number.to_bytes(8, "big") * (MIB // 8), number * MIB)


@pytest.mark.slow
@pytest.mark.seconds(120 + STREAM_BYTES / 2e6)
def test_a_stream_passes_staging_that_random_writes_overflow(mounts: Mounts, place: Place, tmp_path: Path) -> None:
    """A13: a 2 GiB sequential file through a 256 MiB staging budget succeeds. The same file written randomly: close or
    fsync returns ENOSPC (with the writeback cache write(2) cannot), every sync after it too, the old object is intact,
    the mount stays healthy, space returns when the handle closes."""
    source = tmp_path / "source"
    write_pattern(source, STREAM_BYTES)
    place.put("shuffled", b"old")
    mounted = mounts.start(f"--staging-limit={STAGING_BYTES}")
    mounted.expect("write refused .*staging log is full", "file content dropped path=shuffled ")
    copying = 60 + STREAM_BYTES / 4e6
    succeed("cp", source, mounted.root / "streamed", seconds=copying)
    assert object_difference(place, "streamed", source) is None
    for flags in (os.O_RDWR, os.O_RDWR | os.O_TRUNC):
        before = mounted.log
        fd = os.open(mounted.root / "shuffled", flags)
        write_shuffled(fd, STREAM_BYTES)
        assert errno_of(os.fsync, fd) == errno.ENOSPC
        (mounted.root / "other").write_bytes(b"other")
        assert place.get("other") == b"other"
        assert errno_of(os.fsync, fd) == errno.ENOSPC
        assert errno_of(os.close, os.dup(fd)) == errno.ENOSPC
        assert place.get("shuffled") == b"old"
        assert errno_of(os.close, fd) == errno.ENOSPC
        assert eventually(lambda before=before: len(told(mounted, before)) == 2)  # type: ignore[misc]
    succeed("cp", source, mounted.root / "streamed", seconds=copying)
    assert object_difference(place, "streamed", source) is None
    assert (mounted.root / "shuffled").read_bytes() == place.get("shuffled") == b"old"
    assert place.uploads() == []
    source.unlink()


def test_each_fsync_of_a_file_held_open_stores_it_whole(mounts: Mounts, place: Place) -> None:
    """A14: a file held open for hours with fsync now and then: the object is complete after each fsync, and writing
    goes on."""
    mounted = mounts.start("--metadata-ttl=500ms")
    draws, expected = random.Random(14), bytearray()
    fd = os.open(mounted.root / "f", os.O_RDWR | os.O_CREAT, 0o644)
    for number in range(10):
        more = draws.randbytes(draws.randrange(1, 4 * MIB))
        os.pwrite(fd, more, len(expected))
        expected += more
        edit, at = draws.randbytes(5000), draws.randrange(len(expected))
        os.pwrite(fd, edit, at)
        expected[at : at + len(edit)] = edit
        if number % 4 == 3:
            os.ftruncate(fd, at)
            del expected[at:]
        if number % 3 == 2:
            time.sleep(0.7)  # longer than what was known of it lives
        os.fsync(fd)
        assert place.get("f") == expected
        assert (mounted.root / "f").stat().st_size == len(expected)
    os.close(fd)
    assert place.names() == ["f"]
    assert place.uploads() == []


def test_a_file_over_the_size_limit_is_refused(mounts: Mounts, place: Place) -> None:
    """Bad input: writes past --max-file-size: EFBIG from close or fsync, and directly from ftruncate."""
    mounted = mounts.start("--max-file-size=12MiB", "--metadata-ttl=500ms")
    mounted.expect("write refused .*larger than", "file content dropped path=f ")
    path = mounted.root / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"last", 12 * MIB - 4)
    assert errno_of(os.ftruncate, fd, 12 * MIB + 1) == errno.EFBIG
    os.fsync(fd)
    assert errno_of(os.truncate, path, 1 << 40) == errno.EFBIG
    assert path.stat().st_size == place.head("f")["ContentLength"] == 12 * MIB
    before = mounted.log
    assert os.pwrite(fd, b"beyond", 12 * MIB - 3) == 6
    for _ in range(2):
        assert errno_of(os.fsync, fd) == errno.EFBIG
        assert errno_of(os.close, os.dup(fd)) == errno.EFBIG
    assert len(told(mounted, before)) == 1
    assert errno_of(os.close, fd) == errno.EFBIG
    assert eventually(lambda: path.stat().st_size == 12 * MIB)
    assert place.get("f") == bytes(12 * MIB - 4) + b"last"
    path.write_bytes(b"small")
    assert place.get("f") == b"small"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB; to be named before `mounts`, which have to go first."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    succeed("mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", path)
    yield path
    succeed("umount", "--lazy", path)


def mounted_on(mounts: Mounts, disk: Path) -> Mounted:
    """64 MiB of memory give 16 MiB to staging, and the disk has as much."""
    mounted = mounts.start(f"--cache-dir={disk}", "--memory-limit=64MiB", "--staging-limit=256MiB")
    mounted.expect("staging directory refused a write", "write refused", "file content dropped path=f ")
    return mounted


def refused_and_gone_on(mounted: Mounted) -> None:
    """Random writes of more than memory and disk take end with ENOSPC; the rest goes on."""
    before = mounted.log
    fd = os.open(mounted.root / "f", os.O_RDWR)
    write_shuffled(fd, 64 * MIB)
    for _ in range(2):
        assert errno_of(os.fsync, fd) == errno.ENOSPC
    lines = told(mounted, before)
    assert len([line for line in lines if "write refused" in line]) == 1, lines
    assert len(lines) <= 2, lines
    (mounted.root / "small").write_bytes(b"small")
    assert errno_of(os.close, fd) == errno.ENOSPC
    assert mounted.place.get("f") == b"old"
    assert mounted.place.get("small") == b"small"
    assert eventually(lambda: (mounted.root / "f").read_bytes() == b"old")
    (mounted.root / "six").write_bytes(b"6" * 6 * MIB)
    assert mounted.place.get("six") == b"6" * 6 * MIB


def test_a_full_disk_of_the_cache_refuses_what_does_not_fit(disk: Path, mounts: Mounts, place: Place) -> None:
    """Bad input: the disk of the cache directory is full: ENOSPC, one reason in the log, and the mount goes on."""
    place.put("f", b"old")
    mounted = mounted_on(mounts, disk)
    refused_and_gone_on(mounted)
    refused_and_gone_on(mounted)


def test_a_stream_needs_no_disk(disk: Path, mounts: Mounts, place: Place, tmp_path: Path) -> None:
    """Bad input: the disk of the cache directory is full: what can be sent from memory is."""
    source = tmp_path / "source"
    write_pattern(source, 100 * MIB)
    mounted = mounted_on(mounts, disk)
    (disk / "filler").write_bytes(bytes(15 * MIB))
    succeed("cp", source, mounted.root / "big")
    assert object_difference(place, "big", source) is None


@pytest.mark.parametrize("how", ["read-only", "removed"])
def test_a_cache_directory_that_fails_under_the_daemon(disk: Path, mounts: Mounts, place: Place, how: str) -> None:
    """Bad input: the cache directory becomes read-only, or is removed, under the daemon: ENOSPC for what does not fit
    into memory, and the mount goes on."""
    place.put("f", b"old")
    mounted = mounted_on(mounts, disk)
    staging = next(disk.glob("instances/*/staging"))
    if how == "removed":
        shutil.rmtree(staging.parent)
        refused_and_gone_on(mounted)
    else:
        succeed("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", staging)
        refused_and_gone_on(mounted)
        succeed("umount", staging)
