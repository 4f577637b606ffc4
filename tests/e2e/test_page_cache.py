"""The kernel's pages of a file: kept over opens of one version, gone with it; and what one reader sees of a file that
another client overwrites all the time."""

import errno
import hashlib
import os
import random
import re
import threading
from pathlib import Path

import pytest

from s3mount import kernel
from tests.e2e.material import MIB, Background
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, succeed
from tests.e2e.test_requests import listed, paid
from tests.proxy import FaultProxy
from tests.servers import boto

OVERWRITES, WHOLE_MIN = 1000, 100
SIZES = (16 * 1024, 300_000, 96, 131_072, 150_000)
"""Of one block and of several, so that a version comes in one piece or in some."""


def reads(mounted: Mounted) -> int:
    """How many READs the daemon was sent so far."""
    return (mounted.work / "reads").read_text().count("\n")


def test_a_second_reading_is_one_304_and_nothing_is_asked_of_the_daemon(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """Pages are kept over opens of an unchanged version: a second reading costs one conditional GET and no READ."""
    body = random.Random(1).randbytes(3 * MIB + 17)
    place.put("d/f", body)
    # A machine that is busy for some seconds looks no name up again.
    mounted = mounts.start("--metadata-ttl=60s", endpoint_url=proxy.endpoint_url, plant="tell-reads")
    listed(mounted, proxy, "d")
    assert (mounted.root / "d/f").read_bytes() == body
    paid(proxy)
    before = reads(mounted)
    assert before
    for _ in range(2):
        assert succeed("sha256sum", mounted.root / "d/f").split()[0] == hashlib.sha256(body).hexdigest()
        (request,) = proxy.requests()
        assert (request.kind, request.status, request.received) == ("get", 304, 0)
        proxy.forget()
    assert reads(mounted) == before


def test_the_pages_of_a_version_that_was_replaced_are_not_shown(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """A change by another client drops what the kernel keeps, also of the same length; who has the file open goes on
    with what is in memory or is told ESTALE."""
    place.put("d/f", b"A" * MIB)
    mounted = mounts.start(endpoint_url=proxy.endpoint_url, plant="tell-reads")
    path = mounted.root / "d/f"
    for letter in (b"B", b"C", b"D"):
        held = os.open(path, os.O_RDONLY)
        former = os.pread(held, MIB, 0)
        place.put("d/f", letter * MIB)
        before = reads(mounted)
        assert path.read_bytes() == letter * MIB
        assert reads(mounted) > before
        assert os.pread(held, MIB, 0) == former
        os.close(held)
        before = reads(mounted)
        assert path.read_bytes() == letter * MIB
        assert reads(mounted) == before


def test_what_was_written_here_stays_in_the_kernel(mounts: Mounts, place: Place) -> None:
    """An own sync makes another version of the same inode: its pages are true still."""
    mounted = mounts.start(plant="tell-reads")
    body = random.Random(2).randbytes(MIB)
    (mounted.root / "f").write_bytes(body)
    assert (mounted.root / "f").read_bytes() == body
    assert reads(mounted) == 0


def test_the_limits_of_the_kernel_are_raised_or_one_hint_says_how(mount: Mounted) -> None:
    """Read-ahead and background requests, through sysfs and fusectl, when that is permitted."""
    found = kernel.mount_at(mount.root)
    assert found is not None
    connection = Path("/sys/fs/fuse/connections") / found.device.partition(":")[2]
    limits = {Path(f"/sys/class/bdi/{found.device}/read_ahead_kb"): 1024, connection / "max_background": 128}

    def left() -> list[Path]:
        return [path for path, value in limits.items() if not path.exists() or int(path.read_text()) != value]

    def hints() -> list[str]:
        return re.findall(r"kernel limits were left as they are.*", mount.log)

    assert eventually(lambda: bool(left()) == bool(hints()))
    os.listdir(mount.root)  # the kernel has heard from us by now, and set what it sets itself
    assert len(hints()) == min(len(left()), 1)
    assert all(str(path) in hints()[0] for path in left()), [path.read_text() for path in left() if path.exists()]


def stamp_of(body: bytes) -> int:
    """Which version this is, whole and nothing else."""
    assert len(body) >= 8
    stamp = int.from_bytes(body[:8], "big")
    assert body == versioned(stamp), f"{len(body)} bytes are not version {stamp}"
    return stamp


def versioned(stamp: int) -> bytes:
    size = SIZES[stamp % len(SIZES)]
    return (stamp.to_bytes(8, "big") * (size // 8 + 1))[:size]


def read_once(path: Path) -> bytes | None:
    """Open, read in pieces, close; None when the version went meanwhile. An open is never ESTALE."""
    fd = os.open(path, os.O_RDONLY)
    try:
        body = b""
        while piece := os.read(fd, 40_000):
            body += piece
        return body
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return None
    finally:
        os.close(fd)


@pytest.mark.seconds(300)
def test_each_reading_is_one_version_while_another_client_overwrites_it_1000_times(
    mounts: Mounts, place: Place
) -> None:
    """Every open and its reads give one whole version, none that is older than what was stored before the open, and
    never an older one than before; ESTALE comes from a read only. It goes on until 100 were read whole."""
    place.put("f", versioned(0))
    path = mounts.start().root / "f"
    s3 = boto(place.server)
    stored = whole = 0

    def overwrite() -> None:
        nonlocal stored
        while not over.is_set() and (stored < OVERWRITES or whole < WHOLE_MIN):
            stamp = stored + 1
            s3.put_object(Bucket=place.bucket, Key=place.prefix + "f", Body=versioned(stamp))
            stored = stamp

    over = threading.Event()
    writer = Background(overwrite)
    seen = -1
    try:
        while writer.is_alive():
            least = max(seen, stored)
            body = read_once(path)
            if body is None:
                continue
            seen = stamp_of(body)
            assert least <= seen <= stored + 1
            whole += 1
    finally:
        over.set()
    writer.result()
    assert stamp_of(path.read_bytes()) == stored
