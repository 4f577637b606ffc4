"""Request budgets, counted at a proxy: each operation costs what the table in the README promises."""

import os
import time
from collections import Counter
from pathlib import Path

from tests.e2e.material import MIB, in_threads, object_difference, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, grow_old, succeed
from tests.proxy import FaultProxy, Seen
from tests.servers import boto


def paid(proxy: FaultProxy) -> Counter[str]:
    """What was asked since the last call, once nothing is under way any more; without what tries the store's abilities,
    which a mount does in its own time after it serves."""
    while any(not request.ended for request in proxy.requests()):
        time.sleep(0.01)
    counts = Counter(request.kind for request in proxy.requests() if "/.s3mount/probe-" not in request.key)
    proxy.forget()
    return counts


def listed(proxied: Mounted, proxy: FaultProxy, name: str = "") -> None:
    """Make our knowledge of a directory fresh, at no charge."""
    succeed("ls", "-l", proxied.root / name)
    paid(proxy)


def test_a_small_file_is_created_written_and_closed_by_one_put(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Create, write and close of a small file in a freshly listed directory is 1 PUT."""
    place.put("d/other", b"x")
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy, "d")
    (proxied.root / "d/new").write_bytes(b"content")
    assert paid(proxy) == {"put": 1}
    assert place.get("d/new") == b"content"


def test_a_small_file_is_read_by_one_get(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Reading a small file of a freshly listed directory is 1 GET, open included."""
    place.put("d/f", b"content" * 1000)
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy, "d")
    assert (proxied.root / "d/f").read_bytes() == b"content" * 1000
    assert paid(proxy) == {"get": 1}


def test_a_cold_path_costs_two_requests_a_directory(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """C3: `cat a/b/c/file` cold is a HEAD and a LIST per component and 1 GET; again within the lifetime 1 GET."""
    place.put("a/b/c/file", b"deep")
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    paid(proxy)
    succeed("cat", proxied.root / "a/b/c/file")
    assert paid(proxy).total() <= 2 * 4 + 1
    succeed("cat", proxied.root / "a/b/c/file")
    assert paid(proxy).total() <= 1


def test_a_listing_costs_a_request_per_thousand_names(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """C2: `ls` and `ls -l` of 2,500 entries are 3 LIST and nothing else, and again within the lifetime nothing."""
    in_threads(lambda number: place.put(f"d/f{number:05}"), range(2500), threads=16)
    grow_old()
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    (proxied.root / "d").stat()
    paid(proxy)
    assert len(succeed("ls", proxied.root / "d").splitlines()) == 2500
    assert paid(proxy) == {"list": 3}
    assert len(succeed("ls", "-l", proxied.root / "d").splitlines()) == 2501
    assert paid(proxy) == {}


def test_overwriting_costs_a_head_and_a_put(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Overwriting a file is HEAD + PUT, and what the object carries besides its bytes survives."""
    carried = {"CacheControl": "max-age=60", "ContentType": "text/x-special", "Metadata": {"foreign": "kept"}}
    place.put("f", b"old", **carried)
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    (proxied.root / "f").write_bytes(b"new")
    assert paid(proxy) == {"head": 1, "put": 1}
    head = place.head("f")
    assert {name: head[name] for name in carried} == carried


def test_open_and_close_without_a_change_store_nothing(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Open and close without change is 0 PUT, for reading, for writing, for appending."""
    etag = place.put("f", b"content")
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_CREAT):
        os.close(os.open(proxied.root / "f", flags))
    assert set(paid(proxy)) <= {"get", "head"}
    assert place.head("f")["ETag"] == etag


def test_a_shell_redirection_stores_once(proxied: Mounted, proxy: FaultProxy) -> None:
    """`cmd > f` of a new file is 1 PUT although the shell closes a duplicate first; so is an empty one."""
    listed(proxied, proxy)
    succeed("sh", "-c", "echo content > f", cwd=proxied.root)
    counts = paid(proxy)
    succeed("sh", "-c", ": > empty", cwd=proxied.root)
    deadline = time.monotonic() + 5
    empty = paid(proxy)
    while not empty and time.monotonic() < deadline:  # stored by RELEASE, which nobody waits for
        empty += paid(proxy)
    assert proxied.place.names() == ["empty", "f"]
    assert counts == {"put": 1}
    assert empty == {"put": 1}


def test_a_small_change_of_a_large_object_sends_little(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    """A 4 KiB edit in a 256 MiB object sends at most 16 MiB in 10 requests, a 4 KiB append at most 9 MiB in 8."""
    source = tmp_path / "source"
    write_pattern(source, 256 * MIB)
    boto(place.server).upload_file(str(source), place.bucket, place.prefix + "big")
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    for flags, offset, sent_max, requests_max in ((0, 100 * MIB + 123, 16 * MIB, 10), (os.O_APPEND, 0, 9 * MIB, 8)):
        fd = os.open(proxied.root / "big", os.O_WRONLY | flags)
        if flags & os.O_APPEND:
            os.write(fd, b"appended" * 512)
        else:
            os.pwrite(fd, b"  edited" * 512, offset)
        os.close(fd)
        probes = proxy.requests("/.s3mount/probe-")  # once for a store; the test below counts them
        made = [request for request in proxy.requests() if request not in probes]
        paid(proxy)
        assert len(made) <= requests_max, made
        assert sum(request.sent for request in made) <= sent_max, made
        assert place.uploads() == []
    with source.open("r+b") as file:
        file.seek(100 * MIB + 123)
        file.write(b"  edited" * 512)
        file.seek(0, os.SEEK_END)
        file.write(b"appended" * 512)
    assert object_difference(place, "big", source) is None
    source.unlink()


def test_an_idle_mount_asks_nothing(proxied: Mounted, proxy: FaultProxy) -> None:
    """Nothing happening is 0 requests, after reading and writing too."""
    (proxied.root / "f").write_bytes(b"x")
    assert (proxied.root / "f").read_bytes() == b"x"
    paid(proxy)
    time.sleep(7)  # longer than every lifetime
    assert paid(proxy) == {}


def test_a_rename_by_copy_is_one_copy_and_one_delete(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """`mv f g` in a freshly listed directory is COPY + DELETE where an option asks for copies."""
    place.put("f", b"content")
    proxied = mounts.start("--acl=private", endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    os.rename(proxied.root / "f", proxied.root / "g")
    assert paid(proxy) == {"copy": 1, "delete": 1}
    assert place.names() == ["g"]


def test_no_request_is_ever_repeated_without_need(proxied: Mounted, proxy: FaultProxy) -> None:
    """On a healthy store nothing is answered with an error but the misses of a lookup, and what the probe tries."""
    (proxied.root / "d").mkdir()
    for number in range(20):
        (proxied.root / f"d/{number}").write_bytes(b"x" * number)
        (proxied.root / f"d/{number}").read_bytes()
    succeed("rm", "-r", proxied.root / "d")
    failed: list[Seen] = [
        seen for seen in proxy.requests() if seen.status >= 400 and "/.s3mount/probe-" not in seen.key
    ]
    assert all(seen.kind == "head" and seen.status == 404 for seen in failed), failed


def test_an_edit_in_a_large_object_is_few_requests_after_a_probe_that_is_made_once(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """4 KiB in 64 MiB: at most 10 requests and 16 MiB; the store is probed before the first edit, never again."""
    body = bytes(range(256)) * (64 * MIB // 256)
    place.put("big", body)
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    for turn, offset in enumerate((20 * MIB, 40 * MIB + 77)):
        descriptor = os.open(proxied.root / "big", os.O_WRONLY)
        os.pwrite(descriptor, b"E" * 4096, offset)
        os.close(descriptor)
        body = body[:offset] + b"E" * 4096 + body[offset + 4096 :]
        probes = proxy.requests("/.s3mount/probe-")
        edits = [seen for seen in proxy.requests() if seen not in probes]
        assert 10 <= len(probes) <= 16 if turn == 0 else not probes
        assert len(edits) <= 10, edits
        assert sum(seen.sent for seen in edits) <= 16 * MIB
        paid(proxy)
        assert place.get("big") == body
    assert place.names() == ["big"]
    proxied.remount()
    assert succeed("ls", proxied.root) == "big\n"
    assert proxy.requests()
    assert not proxy.requests("/.s3mount/probe-")
