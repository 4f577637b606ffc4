"""Scenarios C: listings, hostile names, other mounts of the same bucket."""

import errno
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.fill import fill
from tests.e2e.mounting import Mounted, Mounts, Place, run, succeed
from tests.proxy import FaultProxy
from tests.servers import Server, make_bucket

ENTRIES = 100_000
MEMORY_MAX_BYTES = 700 * 1024 * 1024
"""--memory-limit and a constant for the interpreter and its libraries."""


def resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.slow
@pytest.mark.seconds(400)
def test_a_huge_directory_is_listed_page_by_page(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """C1: `ls` of 100,000 keys: 100 LIST, 0 HEAD; the first entries are returned before the last page was asked for;
    memory bounded."""
    fill(place, [f"huge/{number:06}" for number in range(ENTRIES)])
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    os.stat(mounted.root / "huge")
    proxy.forget()
    names = succeed("ls", mounted.root / "huge").split()
    assert len(names) == len(set(names)) == ENTRIES
    assert proxy.counts() == {"list": ENTRIES // 1000}
    assert resident_bytes(mounted.pid) < MEMORY_MAX_BYTES
    mounted.remount()
    proxy.forget()
    with os.scandir(mounted.root / "huge") as entries:
        next(entries)
        first = time.monotonic()
        assert sum(1 for _ in entries) == ENTRIES - 1
    pages = [request for request in proxy.requests("huge/") if request.kind == "list"]
    assert max(page.began for page in pages) > first
    assert resident_bytes(mounted.pid) < MEMORY_MAX_BYTES


COMMON = {
    "caf\u00e9": b"one code point",
    "cafe\u0301": b"two code points",
    "ctl\x01": b"control",
    "emoji \U0001f600": b"emoji",
    "100%": b"percent",
    "a+b": b"plus",
    "sp ace": b"space",
    "%41": b"not A",
    "&<>\"'": b"markup",
    "tab\t": b"tab",
    "\u2028": b"line separator",
    "sub dir/\u00fc/file": b"below",
}
ON_SEAWEEDFS = {**COMMON, "new\nline": b"two lines"}
"""SeaweedFS takes a path for what it is: `a//b`, `.`, and a file beside a directory of its name cannot be stored."""
ON_MOTO = {**COMMON, "back\\slash": b"backslash", "empty/": b""}
"""moto's HTTP server refuses a line feed in a path."""
HIDDEN = ["a//b", "/lead", ".", "..", "x/../y", "x/./z", "n" * 300, "deep/" + "m" * 300]


def walk(root: Path) -> set[str]:
    """Every path below, directories with a slash; fails on any error."""

    def fail(error: OSError) -> None:
        raise error

    found = set()
    for folder, directories, files in os.walk(root, onerror=fail):
        below = Path(folder).relative_to(root)
        found |= {str(below / name) for name in files}
        found |= {f"{below / name}/" for name in directories}
    return found


def check_names(mounted: Mounted, bodies: dict[str, bytes]) -> None:
    """Each name reads exactly, a listing shows no `?`, and the same names can be written."""
    listing = run("ls", "-laR", mounted.root)
    assert (listing.returncode, listing.stderr) == (0, "")
    assert not re.search(r"^\?|\?\?\?", listing.stdout, re.MULTILINE)
    for name, body in bodies.items():
        if not name.endswith("/"):
            assert (mounted.root / name).read_bytes() == body, name
    os.mkdir(mounted.root / "written")
    written = {f"written/{name.replace('/', '_')}": body for name, body in bodies.items() if body}
    for name, body in written.items():
        (mounted.root / name).write_bytes(body)
    assert {key: mounted.place.get(key) for key in mounted.place.files() if key.startswith("written/")} == written


def test_strange_names_read_and_write_exactly(mounts: Mounts, place: Place) -> None:
    """C4 on SeaweedFS: `\\n`, `\\x01`, emoji, NFC and NFD twins, `%`, `+`, space: listing never errors and never shows
    `?`; they read and write exactly."""
    for name, body in ON_SEAWEEDFS.items():
        place.put(name, body)
    mount = mounts.start()
    assert walk(mount.root) == {*ON_SEAWEEDFS, "sub dir/", "sub dir/\u00fc/"}
    check_names(mount, ON_SEAWEEDFS)


def test_keys_that_cannot_be_paths_are_hidden_and_counted(mounts: Mounts, moto_server: Server) -> None:
    """C4 on a store that keeps any key: `a//b`, `/lead`, `a/` beside `a`, `.`, `x/../y`, a 300-byte component: listing
    never errors and never shows `?`; what can be a path reads and writes exactly; the rest is counted in the log."""
    place = Place(moto_server, make_bucket(moto_server, f"names-{secrets.token_hex(4)}"), "p/")
    for name in HIDDEN:
        place.put(name, b"hidden")
    for name, body in {**ON_MOTO, "both": b"the file", "both/x": b"below"}.items():
        place.put(name, body)
    mounted = mounts.start(place=place)
    mounted.expect("keys hidden")
    found = walk(mounted.root)
    seen = {*ON_MOTO, "sub dir/", "sub dir/\u00fc/", "both/", "both/x", "a/", "x/", "deep/"}
    (suffixed,) = found - seen
    assert seen <= found
    assert suffixed.startswith("both")
    assert (mounted.root / suffixed).read_bytes() == b"the file"
    check_names(mounted, ON_MOTO)
    told = re.findall(r"keys hidden.*?prefix=(\S*) count=(\d+)", mounted.log)
    assert {prefix: int(count) for prefix, count in told}.keys() >= {"p/", "p/a/", "p/x/", "p/deep/"}
    assert sum(int(count) for _, count in told) == len(HIDDEN)


@pytest.mark.parametrize(
    "operation",
    [os.stat, os.mkdir, os.rmdir, os.unlink, lambda path: path.write_bytes(b""), lambda path: path.read_bytes()],
    ids=["stat", "mkdir", "rmdir", "unlink", "create", "open"],
)
def test_names_and_keys_that_are_too_long_are_refused(mount: Mounted, operation: Callable[[Path], object]) -> None:
    """C5: 256-byte name and key over 1,024 bytes: ENAMETOOLONG."""
    deep = mount.root
    for _ in range(4):
        deep = deep / ("d" * 240)
        deep.mkdir()
    for path in (mount.root / ("n" * 256), mount.root / ("\u00fc" * 128), deep / ("n" * 200)):
        with pytest.raises(OSError) as raised:
            operation(path)
        assert raised.value.errno == errno.ENAMETOOLONG, path
    fits = mount.root / ("n" * 255)
    fits.write_bytes(b"fits")
    assert mount.place.get("n" * 255) == b"fits"
    with pytest.raises(OSError) as raised:
        os.rename(fits, deep / ("n" * 200))
    assert raised.value.errno == errno.ENAMETOOLONG
    assert fits.read_bytes() == b"fits"


def test_what_one_mount_closed_another_one_opens(mounts: Mounts) -> None:
    """C8: a file written and closed on mount 1 is read, complete and new, by an open on mount 2 immediately, whatever
    was cached there (name known, old content cached, negative entry older than its ttl); an append on mount 2 lands
    behind it."""
    first, second = mounts.start("--metadata-ttl=60s"), mounts.start("--metadata-ttl=60s")
    here, there = first.root / "f", second.root / "f"
    with pytest.raises(FileNotFoundError):
        there.read_bytes()
    time.sleep(1.2)  # --negative-ttl
    here.write_bytes(b"version 1")
    assert there.read_bytes() == b"version 1"  # was absent
    for number in range(2, 12):
        body = f"version {number} ".encode() * number * 3000
        here.write_bytes(body)
        assert there.read_bytes() == body  # name and old content were cached
    here.write_bytes(b"last\n")
    with there.open("ab") as file:
        file.write(b"appended\n")
    assert first.place.get("f") == b"last\nappended\n"
    assert here.read_bytes() == b"last\nappended\n"
    succeed("ls", "-l", second.root)
    (first.root / "unread").write_bytes(b"x" * 100)
    time.sleep(1.2)
    assert (second.root / "unread").read_bytes() == b"x" * 100
    here.write_bytes(b"shorter")
    assert there.read_bytes() == b"shorter"
