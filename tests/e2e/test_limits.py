"""Limits reached on real mounts: what happens at each, in words and errnos, and that all is well again afterwards."""

import errno
import mmap
import os
import re
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from s3mount import kernel
from s3mount.control import client
from tests.e2e.material import MIB, object_difference, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, eventually
from tests.proxy import FaultProxy, Rule

STANDARD_DESCRIPTORS = 3
PAGE_BYTES = 4096
STAGED_BYTES = 40 * MIB
MORE_BYTES = 16 * MIB
CLOSES = 1400
KINDS = ("metadata", "read", "upload")
BESIDES_BYTES = 128 * MIB
"""What README says that the process takes beside --memory-limit."""


def limits(mounted: Mounted) -> dict[str, Any]:
    """What the daemon tells of its limits. Asked by this process: a child would close, and so flush, what is open."""
    mount = kernel.mount_at(mounted.root)
    assert mount is not None
    found: Any = client.ask(mount, {"verb": "status", "path": ""}, on_progress=lambda *_: None, uid=os.geteuid())
    answer: dict[str, Any] = found["limits"]
    return answer


def descriptors(mounted: Mounted) -> int:
    return len(os.listdir(f"/proc/{mounted.pid}/fd"))


def cpu_seconds(mounted: Mounted) -> float:
    fields = Path(f"/proc/{mounted.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def no_more_files(mounted: Mounted) -> Iterator[None]:
    """The daemon keeps what it has open, and opens nothing more."""
    before = resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE, (STANDARD_DESCRIPTORS, before[1]))
    try:
        yield
    finally:
        resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE, before)


def errno_of_reading(path: Path) -> int:
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno or 0
    return 0


def page_of(fd: int, offset: int) -> bytes:
    """What the daemon, and not the kernel's cache, has at an offset."""
    with mmap.mmap(-1, PAGE_BYTES) as page:
        assert os.preadv(fd, [page], offset) == PAGE_BYTES
        return bytes(page)


def test_a_disk_that_hangs_with_all_its_threads_holds_up_only_who_needs_it(
    mounts: Mounts, place: Place, tmp_path: Path
) -> None:
    """Threads and memory: while every thread of the disk under staging hangs, and writers wait for memory, `ls`, `df`,
    `status` and reads of other files are answered; afterwards reads and writes end, and nothing is lost."""
    source = tmp_path / "source"
    write_pattern(source, STAGED_BYTES + MORE_BYTES)
    for number in range(3):
        place.put(f"d/other{number}", b"other")
    mounted = mounts.start("--memory-limit=64MiB", plant="hanging-disk")
    hangs = mounted.work / "disk-hangs"
    fd = os.open(mounted.root / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    # From the end to the beginning, so that no part can be sent ahead.
    body = source.read_bytes()

    def write(*starts: int) -> int:
        with mmap.mmap(-1, MIB) as memory:
            for start in starts:
                memory[:] = body[start : start + MIB]
                assert os.pwrite(fd, memory, start) == MIB
        return len(starts)

    write(*reversed(range(0, STAGED_BYTES, MIB)))
    offsets = range(STAGED_BYTES - 24 * MIB, STAGED_BYTES, MIB)
    with ThreadPoolExecutor(len(offsets) + 1) as pool:
        hangs.touch()
        try:
            reads = {offset: pool.submit(page_of, fd, offset) for offset in offsets}
            writes = pool.submit(write, *range(STAGED_BYTES, STAGED_BYTES + MORE_BYTES, MIB))
            assert eventually(lambda: limits(mounted)["staging_threads"]["used"] == 8, 60)
            assert sorted(os.listdir(mounted.root / "d")) == ["other0", "other1", "other2"]
            assert (mounted.root / "d/other1").read_bytes() == b"other"
            assert os.statvfs(mounted.root).f_bavail > 0
            told = limits(mounted)
            assert told["staging_threads"] == {"limit": 8, "used": 8}
            assert eventually(lambda: limits(mounted)["worker_threads"]["used"] == 0)
            assert told["unsent_in_memory"]["used_bytes"] <= told["unsent_in_memory"]["limit_bytes"]
            assert not writes.done()
            assert not all(read.done() for read in reads.values())
        finally:
            hangs.unlink()
        for offset, read in reads.items():
            assert read.result(60) == body[offset : offset + PAGE_BYTES]
        assert writes.result(60) == MORE_BYTES // MIB
    os.fsync(fd)
    os.close(fd)
    assert object_difference(place, "f", source) is None
    assert eventually(lambda: limits(mounted)["staging_threads"]["used"] == 0)


@pytest.mark.slow
@pytest.mark.seconds(400)
def test_what_is_known_and_what_is_listed_does_not_wait_behind_a_thousand_slow_closes(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """D3, connections and requests: 1,000 closes wait for 32 uploads that are slow; `df`, `ls` of a directory that
    nobody has listed and `status` are answered, memory stays within its limit, and each close succeeds."""
    for number in range(3):
        place.put(f"d/other{number}", b"other")
    mounted = mounts.start("--memory-limit=64MiB", endpoint_url=proxy.endpoint_url)

    def write(number: int) -> None:
        (mounted.root / f"f{number}").write_bytes(b"%d" % number)

    def pending() -> int:
        time.sleep(0.5)  # to ask takes the daemon's time, of which 1,000 closes need much
        used: int = limits(mounted)["kernel_requests"]["used"]
        return used

    proxy.add(Rule(kind="put", delay_seconds=12))
    with ThreadPoolExecutor(CLOSES) as pool:
        try:
            closes = [pool.submit(write, number) for number in range(CLOSES)]
            assert eventually(lambda: pending() >= 1000, 150)
            told = limits(mounted)
            assert told["upload_requests"]["used"] == told["upload_requests"]["limit"] == 32
            assert told["upload_requests"]["waiting"] > 900
            assert os.statvfs(mounted.root).f_bavail > 0
            assert sorted(os.listdir(mounted.root / "d")) == ["other0", "other1", "other2"]
            assert (mounted.root / "d/other1").read_bytes() == b"other"
            assert sum(not close.done() for close in closes) > 900
        finally:
            proxy.clear()
        for close in closes:
            close.result(120)
    assert resident_most_bytes(mounted) <= 64 * MIB + BESIDES_BYTES
    names = set(place.files())
    assert {f"f{number}" for number in range(CLOSES)} < names
    assert place.get("f77") == b"77"
    assert eventually(lambda: pending() == 0)


def resident_most_bytes(mounted: Mounted) -> int:
    """The most memory that the daemon ever had."""
    most: int = limits(mounted)["memory"]["resident_most_bytes"]
    return most


def idle(told: dict[str, Any]) -> bool:
    """Whether no request to the store is under way or waits."""
    return not any(told[f"{kind}_requests"][count] for kind in KINDS for count in ("used", "waiting"))


def test_status_tells_every_limit(mounts: Mounts) -> None:
    """Limits: each is in `status` with what is used of it and, where there is one, the option that changes it; the soft
    limit of open files is the hard one."""
    mounted = mounts.start("--memory-limit=96MiB", "--staging-limit=200MiB", "--max-cache-size=64MiB")
    (mounted.root / "f").write_bytes(bytes(MIB))
    assert eventually(lambda: idle(limits(mounted)), 60)  # what the store can do is found out meanwhile
    told = limits(mounted)
    options = {name: figures["option"] for name, figures in told.items() if "option" in figures}
    assert options == {
        "memory": "--memory-limit",
        "unsent_in_memory": "--memory-limit",
        "staging": "--staging-limit",
        "cache_on_disk": "--max-cache-size",
        "deadlines": "--metadata-deadline, --stall-timeout, --retry-timeout, --stop-timeout",
    }
    assert told["memory"]["limit_bytes"] == 96 * MIB
    assert told["staging"]["limit_bytes"] == 200 * MIB
    assert (told["staging"]["used_bytes"], told["staging"]["most_bytes"]) == (0, MIB)
    assert told["cache_on_disk"]["limit_bytes"] == 64 * MIB
    for kind in KINDS:
        assert told[f"{kind}_requests"]["most"] <= told[f"{kind}_requests"]["limit"]
    assert told["upload_requests"]["most"] >= 1
    assert told["kernel_requests"]["most"] >= 1
    for name in ("worker_threads", "staging_threads", "control_connections", "listed_names"):
        assert told[name]["limit"] > 0
    soft, hard = resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE)
    assert told["open_files"]["limit"] == soft == min(hard, 65_536)
    assert 0 < told["open_files"]["used"] < 100
    assert told["inodes"]["used"] == 2
    assert told["deadlines"]["metadata_request_seconds"] == 60


def test_without_descriptors_a_request_is_an_error_in_words_and_works_again_afterwards(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """Open files: connections that cannot be made are EIO with the reason in the log; `status` waits; what is known is
    answered; nothing spins; with descriptors again everything works."""
    for name in ("known", "other"):
        place.put(name, b"content" * 30_000)
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    mounted.expect("request failed operation=(open|read) errno=EIO .*Too many open files", "control connection was not")
    assert sorted(os.listdir(mounted.root)) == ["known", "other"]
    assert (mounted.root / "known").read_bytes() == b"content" * 30_000
    proxy.add(Rule(fault="reset", kind="get"))  # of the connections that are there none is left
    with ThreadPoolExecutor(1) as pool, no_more_files(mounted):
        began = cpu_seconds(mounted)
        assert errno_of_reading(mounted.root / "other") == errno.EIO
        assert os.statvfs(mounted.root).f_bavail > 0
        assert (mounted.root / "known").stat().st_size == 210_000
        waiting = pool.submit(limits, mounted)
        assert eventually(lambda: "control connection was not accepted, it waits reason=Too many open" in mounted.log)
        assert not waiting.done()
        assert cpu_seconds(mounted) - began < 3
    proxy.clear()
    assert waiting.result(60)["open_files"]["used"] > 0
    assert mounted.log.count("control connection was not accepted") == 1
    assert re.search("request failed operation=(open|read) errno=EIO .*Too many open files", mounted.log)
    assert (mounted.root / "other").read_bytes() == b"content" * 30_000
    (mounted.root / "new").write_bytes(b"new")
    assert place.get("new") == b"new"
