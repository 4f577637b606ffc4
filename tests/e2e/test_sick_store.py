"""Scenarios A on a store that fails or answers nonsense: an errno for the program, nothing lost or half stored."""

import errno
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.material import MIB, in_threads
from tests.e2e.mounting import OUTAGE, Mounted, Mounts, Place, eventually
from tests.proxy import FaultProxy, Rule

ERROR = "<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>no</Message></Error>"
PAGE = "<!DOCTYPE html><html><body>Log in to the network<br></body></html>"


def errno_of(call: Callable[..., object], *arguments: object) -> int:
    """The errno with which a call failed; 0 when it did not."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or 0
    return 0


def read_or_fail(fd: int, size: int, offset: int) -> bytes | None:
    """What pread(2) returned; None after EIO."""
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def told(mounted: Mounted, before: str) -> list[str]:
    """The warnings and errors logged since."""
    lines = mounted.log[len(before) :].splitlines()
    return [line for line in lines if re.search("WARNING|ERROR|Traceback", line) and not OUTAGE.search(line)]


def test_a_part_that_keeps_failing_fails_every_sync_until_one_succeeds(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """A2: an upload part keeps failing with 500 beyond all retries: close returns EIO; a second fsync or close does not
    return 0 until an upload succeeded; once the store is well again it does."""
    place.put("f", b"old")
    body = random.Random(2).randbytes(12 * MIB)
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    mounted.expect("part sent ahead failed", "request failed operation=(flush|fsync) errno=EIO")
    fd = os.open(mounted.root / "f", os.O_RDWR | os.O_TRUNC)
    proxy.add(Rule(fault="error", kind="upload_part", status=500))
    os.write(fd, body)
    assert errno_of(os.close, os.dup(fd)) == errno.EIO
    assert errno_of(os.fsync, fd) == errno.EIO
    assert errno_of(os.close, os.dup(fd)) == errno.EIO
    assert place.get("f") == b"old"
    proxy.clear()
    os.close(os.dup(fd))
    assert place.get("f") == body
    os.pwrite(fd, b"later", 0)
    os.close(fd)
    assert place.get("f") == b"later" + body[5:]
    assert place.uploads() == []


def test_a_file_given_up_leaves_the_old_object(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """A2: when the last program closes the file without success, the old object is what everybody reads."""
    place.put("f", b"old")
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    mounted.expect("part sent ahead failed", "request failed operation=flush errno=EIO", "file content dropped path=f ")
    fd = os.open(mounted.root / "f", os.O_WRONLY | os.O_TRUNC)
    proxy.add(Rule(fault="error", kind="upload_part", status=500))
    os.write(fd, bytes(12 * MIB))
    assert errno_of(os.close, fd) == errno.EIO
    proxy.clear()
    assert eventually(lambda: (mounted.root / "f").read_bytes() == b"old")
    assert place.get("f") == b"old"
    assert eventually(lambda: place.uploads() == [])


@pytest.mark.parametrize("target", [None, b"target"], ids=["new", "existing"])
def test_a_copy_that_fails_after_its_200_moves_nothing(
    mounts: Mounts, proxy: FaultProxy, place: Place, target: bytes | None
) -> None:
    """A3: CopyObject answers 200 with an `<Error>` body during rename: the rename fails, the source exists, there is no
    truncated target."""
    place.put("f", b"source" * 1000)
    if target is not None:
        place.put("g", target)
    # With an option for what is stored, files move by copies, be it that the store renames.
    mounted = mounts.start("--acl=private", endpoint_url=proxy.endpoint_url)
    mounted.expect("request failed operation=rename errno=EIO")
    proxy.add(Rule(fault="answer", kind="copy", status=200, body=ERROR))
    before = mounted.log
    assert errno_of(os.rename, mounted.root / "f", mounted.root / "g") == errno.EIO
    assert len(told(mounted, before)) == 1
    proxy.clear()
    assert (mounted.root / "f").read_bytes() == b"source" * 1000
    assert (mounted.root / "g").exists() == (target is not None)
    assert place.names() == (["f"] if target is None else ["f", "g"])
    assert target is None or place.get("g") == target
    os.rename(mounted.root / "f", mounted.root / "g")
    assert place.names() == ["g"]
    assert place.get("g") == b"source" * 1000


def test_a_head_that_fails_is_never_no_such_file(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """A4: HEAD answers 503, then the directory probe 404: lookup is an error, never ENOENT; opening O_RDWR never yields
    an empty file."""
    calls: list[Callable[[Path], object]] = [
        os.stat,
        lambda path: os.open(path, os.O_RDWR),
        lambda path: os.open(path, os.O_RDWR | os.O_CREAT),
        lambda path: os.open(path, os.O_WRONLY | os.O_TRUNC),
    ]
    names = [f"d{number}/f" for number in range(len(calls))]
    etags = [place.put(name, name.encode()) for name in names]
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    mounted.expect(r"request failed operation=\w+ errno=EIO")

    def attempt(number: int) -> None:
        assert errno_of(calls[number], mounted.root / names[number]) == errno.EIO, number

    proxy.add(Rule(fault="error", kind="head", status=503, code="SlowDown"))
    proxy.add(Rule(fault="error", kind="list", status=404, code="NoSuchKey"))
    in_threads(attempt, range(len(calls)))
    proxy.clear()
    for name in names:  # known again: now it is the open that asks
        assert os.listdir((mounted.root / name).parent) == ["f"]
    proxy.add(Rule(fault="error", kind="head", status=503, code="SlowDown"))
    in_threads(attempt, range(1, len(calls)))
    proxy.clear()
    for name, etag in zip(names, etags, strict=True):
        assert (mounted.root / name).read_bytes() == name.encode()
        assert place.head(name)["ETag"] == etag


def test_a_file_on_a_store_that_is_down_reads_its_bytes_or_an_error(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """A5: store down while a cached file is read: cached bytes or EIO, never a 0-byte read."""
    body = random.Random(5).randbytes(300_000)
    place.put("f", body)
    # An absence that was seen a moment ago may be told for that long; here none is believed.
    mounted = mounts.start("--negative-ttl=0s", endpoint_url=proxy.endpoint_url)
    mounted.expect(r"request failed operation=(open|read|lookup) errno=EIO")
    path = mounted.root / "f"
    held = os.open(path, os.O_RDONLY)
    assert os.pread(held, 200_000, 0) == body[:200_000]
    proxy.add(Rule(fault="reset"))
    for _ in range(2):
        os.posix_fadvise(held, 0, 0, os.POSIX_FADV_DONTNEED)  # now the bytes are ours to give, not the kernel's
        for start in range(0, len(body), 100_000):
            found = read_or_fail(held, 100_000, start)
            # read(2) may end early where the next page would be the error, but not before the first byte.
            assert found is None or (found and body[start : start + 100_000].startswith(found))
    assert errno_of(path.read_bytes) == errno.EIO
    assert errno_of(Path.read_bytes, mounted.root / "unknown") == errno.EIO
    proxy.clear()
    assert path.read_bytes() == body
    os.close(held)


NONSENSE = {
    "put": ["", ERROR, PAGE],
    "create_upload": ["<InitiateMultipartUploadResult/>", ERROR],
    "upload_part": ["", ERROR],
    "complete_upload": ["", ERROR, "<CompleteMultipartUploadResult/>"],
}


@pytest.mark.parametrize("fault", ["answer", "replace"])
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_in_answer_to_an_upload_is_an_error_until_it_ends(
    mounts: Mounts, proxy: FaultProxy, place: Place, kind: str, fault: str
) -> None:
    """Bad input: a store that answers nonsense to writes, whether it did them or not: EIO from fsync, one log line, the
    bytes kept while a handle is open, and the mount goes on."""
    size = 1000 if kind == "put" else 12 * MIB
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    mounted.expect("part sent ahead failed", "request failed operation=fsync errno=EIO")
    for number, answer in enumerate(NONSENSE[kind]):
        name, body = f"f{number}", random.Random(number).randbytes(size)
        fd = os.open(mounted.root / name, os.O_RDWR | os.O_CREAT, 0o644)
        os.write(fd, body)
        proxy.add(Rule(fault=fault, kind=kind, key=f"/{name}$", status=200, body=answer))  # type: ignore[arg-type]
        before = mounted.log
        assert errno_of(os.fsync, fd) == errno.EIO, answer
        lines = told(mounted, before)
        assert len([line for line in lines if "operation=fsync" in line]) == 1, lines
        assert len(lines) <= 2, lines  # one more of a part that was sent before anybody asked for it
        assert os.pread(fd, size, 0) == body
        (mounted.root / "other").write_bytes(b"other")
        proxy.clear()
        os.fsync(fd)
        assert place.get(name) == body
        os.close(fd)
    assert place.get("other") == b"other"
    assert "Traceback" not in mounted.log
    assert eventually(lambda: place.uploads() == [] or kind == "create_upload")


def test_a_part_with_a_wrong_etag_is_sent_again(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Bad input: a wrong ETag for a part: the completion is refused, EIO; the next sync sends all again."""
    body = random.Random(1).randbytes(12 * MIB)
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    mounted.expect("request failed operation=fsync errno=EIO")
    fd = os.open(mounted.root / "f", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, body)
    proxy.add(Rule(fault="replace", kind="upload_part", status=200, etag='"0123456789abcdef0123456789abcdef"', times=1))
    before = mounted.log
    assert errno_of(os.fsync, fd) == errno.EIO
    assert len(told(mounted, before)) == 1
    assert place.names() == []
    os.fsync(fd)
    assert place.get("f") == body
    os.close(fd)
    assert eventually(lambda: place.uploads() == [])


def test_a_put_with_a_wrong_etag_is_found_out_by_the_next_open(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Bad input: a wrong ETag for an object: nobody can tell at once, for an ETag means nothing but itself. What was
    stored is stored; the next open finds another version than it knows and takes that."""
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(fault="replace", kind="put", status=200, etag='"0123456789abcdef0123456789abcdef"', times=1))
    (mounted.root / "f").write_bytes(b"content")
    assert place.get("f") == (mounted.root / "f").read_bytes() == b"content"
    with (mounted.root / "f").open("ab") as file:
        file.write(b" and more")
    assert place.get("f") == b"content and more"
