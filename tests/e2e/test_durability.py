"""Scenarios A: what close and fsync promised is in the bucket, and nothing else is."""

import errno
import mmap
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.material import MIB, Background, object_difference, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, finish, hear, python, succeed
from tests.proxy import FaultProxy, Rule

GIB = 1024 * MIB
COPY_BYTES = GIB


@pytest.mark.slow
@pytest.mark.seconds(300)
def test_a_gib_copied_in_is_in_the_bucket_after_close_and_comes_back(mount: Mounted, tmp_path: Path) -> None:
    """A1: `cp` of a 1 GiB file: after close returns 0 the object is byte-identical, no other key exists, no multipart
    upload is open. Read back through a new mount it is the same bytes."""
    source = tmp_path / "source"
    write_pattern(source, COPY_BYTES)
    succeed("cp", source, mount.root / "big")
    assert mount.place.names() == ["big"]
    assert mount.place.uploads() == []
    assert object_difference(mount.place, "big", source) is None
    mount.remount()
    succeed("cmp", source, mount.root / "big")
    source.unlink()


def test_a_body_that_is_cut_short_is_resumed(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """A6: a GET body cut short mid-range: resumed, never NUL padding."""
    body = random.Random(6).randbytes(3 * MIB)
    place.put("cut", body)
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    proxied.expect("cut|resum|retr|again")
    proxy.add(Rule(fault="cut_body", kind="get", cut_at_bytes=100_000, times=3))
    assert (proxied.root / "cut").read_bytes() == body
    assert sum(request.received >= 100_000 for request in proxy.requests("cut$")) >= 3


def test_a_body_that_never_arrives_is_an_error_and_heals(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """A6: a GET body cut short mid-range: EIO when it cannot be resumed, never NUL padding; later it reads."""
    body = random.Random(7).randbytes(300_000)
    place.put("cut", body)
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    proxied.expect("request failed operation=(open|read) errno=EIO", "cut|resum|retr|again")
    proxy.add(Rule(fault="cut_body", kind="get", cut_at_bytes=0))
    with pytest.raises(OSError) as raised:
        (proxied.root / "cut").read_bytes()
    assert raised.value.errno == errno.EIO
    proxy.clear()
    assert (proxied.root / "cut").read_bytes() == body


HOLD = "import os, sys; os.open(sys.argv[1], int(sys.argv[2]), 0o644); print('open', flush=True); sys.stdin.read()"


def killed_while_open(path: Path, flags: int) -> None:
    """A program opens the file and is killed before its first write."""
    program = python(HOLD, path, str(flags))
    assert hear(program) == "open"
    program.send_signal(signal.SIGKILL)
    assert finish(program) == -signal.SIGKILL


def test_a_writer_killed_before_its_first_write_destroys_nothing(mounts: Mounts, place: Place) -> None:
    """A8: a writer is killed before its first write: without O_TRUNC an existing object is untouched; with it the old
    object or an empty one; a new file is empty or absent."""
    etag = place.put("kept", b"precious")
    place.put("truncated", b"old")
    mount = mounts.start()
    killed_while_open(mount.root / "kept", os.O_RDWR | os.O_CREAT)
    killed_while_open(mount.root / "truncated", os.O_WRONLY | os.O_TRUNC)
    killed_while_open(mount.root / "new", os.O_WRONLY | os.O_CREAT)
    mount.stop()
    assert place.head("kept")["ETag"] == etag
    assert place.get("truncated") in (b"old", b"")
    assert "new" not in place.names() or place.get("new") == b""
    assert set(place.names()) <= {"kept", "truncated", "new"}


FORK = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
os.write(fd, b"a" * 100_000)
os.close(os.dup(fd))
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
os.write(fd, b"b" * 100_000)
os.close(fd)
"""


def test_a_child_that_exits_with_the_descriptor_ends_nothing(mount: Mounted) -> None:
    """A9: dup()/fork: a child that inherited the descriptor exits, the parent goes on writing and closes: full
    content."""
    assert finish(python(FORK, mount.root / "shared")) == 0
    assert mount.place.get("shared") == b"a" * 100_000 + b"b" * 100_000


def test_holes_are_zeros_exactly_where_posix_says(mount: Mounted, tmp_path: Path) -> None:
    """A11: sparse write at 10 MiB, then ftruncate up and down: zeros exactly where POSIX says, before and after
    remount."""
    local, here = tmp_path / "local", mount.root / "sparse"
    for path in (local, here):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.pwrite(fd, b"x" * 5000, 10 * MIB)
        os.pwrite(fd, b"y" * 5000, 3000)
        os.ftruncate(fd, 10 * MIB + 2000)
        os.ftruncate(fd, 12 * MIB + 7)
        os.ftruncate(fd, 5000)
        os.ftruncate(fd, 6 * MIB)
        os.pwrite(fd, b"z", 6 * MIB + 100_000)
        os.close(fd)
    expected = local.read_bytes()
    assert here.read_bytes() == expected
    assert mount.place.get("sparse") == expected
    mount.remount()
    assert here.read_bytes() == expected


def test_a_second_handle_sees_what_the_first_one_wrote(mount: Mounted) -> None:
    """A15: two handles: A writes; B stats and reads the new size and bytes at once on the same mount; B's close harms
    nothing."""
    path = mount.root / "two"
    first = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(first, b"1" * 70_000)
    assert path.stat().st_size == 70_000
    assert path.read_bytes() == b"1" * 70_000
    second = os.open(path, os.O_RDWR)
    os.write(first, b"2" * 70_000)
    assert os.fstat(second).st_size == 140_000
    assert os.pread(second, 140_000, 0) == b"1" * 70_000 + b"2" * 70_000
    os.close(second)
    os.write(first, b"3")
    os.close(first)
    assert mount.place.get("two") == b"1" * 70_000 + b"2" * 70_000 + b"3"
    with path.open("ab") as again:
        again.write(b"4")
        again.flush()
        assert path.stat().st_size == 140_002
    assert mount.place.get("two") == b"1" * 70_000 + b"2" * 70_000 + b"34"


def test_the_old_object_stays_until_a_slow_command_has_ended(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """A17: `slow-command > f` over an existing object: the bucket shows the old object until the command ends; then 1
    PUT. A reader's close in between publishes nothing."""
    place.put("f", b"old")
    path = mounts.start(endpoint_url=proxy.endpoint_url).root / "f"
    proxy.forget()
    command = subprocess.Popen(["sh", "-c", f"(sleep 1; echo new) > '{path}'"])
    time.sleep(0.4)
    assert place.get("f") == b"old"
    path.read_bytes()
    assert place.get("f") == b"old"
    assert proxy.counts()["put"] == 0
    assert command.wait(20) == 0
    assert place.get("f") == b"new\n"
    assert proxy.counts()["put"] == 1


BLOCK_BYTES = 64 * 1024
BLOCKS = 128
WRITES = 1000


def stamps(body: bytes) -> list[int]:
    """Which write each block of a file is from; fails on a torn block."""
    assert len(body) == BLOCKS * BLOCK_BYTES
    found = []
    for at in range(0, len(body), BLOCK_BYTES):
        stamp = body[at : at + 8]
        assert body[at : at + BLOCK_BYTES] == stamp * (BLOCK_BYTES // 8), f"block {at // BLOCK_BYTES} is torn"
        found.append(int.from_bytes(stamp, "big"))
    return found


def instants(found: list[int], writes: list[int]) -> range:
    """After which writes the file was exactly so; empty when it never was. `writes[i]` is the block of write i + 1."""
    first = max(found)
    last = len(writes)
    for block, stamp in enumerate(found):
        assert stamp == 0 or writes[stamp - 1] == block
        later = next((i for i in range(stamp, len(writes)) if writes[i] == block), None)
        if later is not None:
            last = min(last, later)
    return range(first, last + 1)


@pytest.mark.slow
def test_every_object_ever_visible_is_the_file_at_one_instant(proxied: Mounted, proxy: FaultProxy) -> None:
    """A18: while a file is being uploaded the program goes on writing over the same ranges, 1,000 random times: every
    object ever visible equals the file at one instant between a sync's start and the next."""
    place, path = proxied.place, proxied.root / "stamped"
    with path.open("wb") as file:
        file.write(bytes(BLOCKS * BLOCK_BYTES))
    proxy.limit(total=60e6)
    # O_DIRECT: each write is one WRITE at once. Through the page cache the kernel itself would mix instants.
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    draws, writes = random.Random(18), list[int]()
    written = [0]
    syncs: list[tuple[int, bytes, int]] = []

    def sync() -> None:
        while written[0] < WRITES:
            began = written[0]
            os.close(os.dup(fd))  # a FLUSH; during an FSYNC the kernel holds the inode's lock, and so the writer
            syncs.append((began, place.get("stamped"), len(writes)))

    syncing = Background(sync)
    with mmap.mmap(-1, BLOCK_BYTES) as buffer:
        for number in range(1, WRITES + 1):
            block = draws.randrange(BLOCKS)
            buffer[:] = number.to_bytes(8, "big") * (BLOCK_BYTES // 8)
            writes.append(block)
            os.pwritev(fd, [buffer], block * BLOCK_BYTES)
            written[0] = number
            time.sleep(0.003)
    syncing.result()
    proxy.clear()
    os.close(fd)
    assert len(syncs) >= 5, "too few syncs to say anything"
    for began, body, ended in syncs:
        when = instants(stamps(body), writes)
        assert when, "an object that the file never was"
        assert when[-1] >= began, "a sync stored less than was written before it"
        assert when[0] <= ended
    assert WRITES in instants(stamps(place.get("stamped")), writes)


MAP = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
mapped = mmap.mmap(fd, 0)
os.close(fd)
mapped[100:105] = b"store"
mapped[200_000:200_005] = b"again"
mapped.close()
"""


def test_a_mapping_that_outlives_its_descriptor_is_stored(mounts: Mounts, place: Place) -> None:
    """A19: mmap, close the descriptor, store, munmap: the bytes are in the bucket after the last release."""
    body = bytearray(b"." * 300_000)
    place.put("mapped", bytes(body))
    mount = mounts.start()
    assert finish(python(MAP, mount.root / "mapped")) == 0
    body[100:105] = b"store"
    body[200_000:200_005] = b"again"
    # munmap returns before RELEASE has been answered: it is the kernel that waits for it, not the program.
    assert eventually(lambda: place.get("mapped") == body)
