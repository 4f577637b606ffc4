"""The cache on disk on real mounts: after a remount, after a kill, damaged, on a full disk, shared by two mounts."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.material import MIB
from tests.e2e.mounting import ROOT, Mounted, Mounts, Place, environment, eventually, run, succeed
from tests.proxy import FaultProxy

ON = "--max-cache-size=1GiB"
DAMAGED = "cached piece was damaged and deleted"
GIVEN_UP = "cache on disk was given up for a while"


def body_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def pieces(cache: Path) -> list[Path]:
    return sorted(cache.glob("blocks/??/*"))


def kept(mounted: Mounted) -> dict[str, int]:
    """What `s3mount status` says of the cache on disk."""
    main = "import sys; from s3mount.cli import main; sys.exit(main())"
    told = subprocess.run(
        [sys.executable, "-c", main, "status", "--json", str(mounted.root)],
        cwd=ROOT,
        env=environment(mounted.place.server),
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, int] = json.loads(told.stdout)["storage"]["cache_on_disk"]
    return figures


def read_and_keep(mounted: Mounted, name: str) -> bytes:
    """Read a file, and wait until all of it is on disk."""
    body = (mounted.root / name).read_bytes()
    sizes = [-1]

    def rests() -> bool:
        sizes.append(sum(path.stat().st_size for path in pieces(mounted.work / "cache")))
        return sizes[-1] >= len(body)

    assert eventually(rests)
    return body


def test_after_a_remount_a_file_costs_a_304_and_no_byte(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """A second reading after a remount sends one conditional GET for each open, and 304 is all that comes."""
    bodies = {"large": body_of(33 * MIB + 5), "small": body_of(16 * 1024, 2)}
    for name, body in bodies.items():
        place.put(name, body)
    mounted = mounts.start(ON, endpoint_url=proxy.endpoint_url)
    for name, body in bodies.items():
        assert read_and_keep(mounted, name) == body
    mounted.remount()
    proxy.forget()
    for name, body in bodies.items():
        assert (mounted.root / name).read_bytes() == body
    gets = [
        (request.key.removeprefix(place.prefix), request.status)
        for request in proxy.requests()
        if request.kind == "get"
    ]
    assert sorted(gets) == [("large", 304), ("small", 304)]
    figures = kept(mounted)
    assert (figures["hits"], figures["misses"]) == (33 * 8 + 1 + 1, 0)
    assert figures["max_bytes"] == 1024 * MIB
    assert 33 * MIB < figures["used_bytes"] < 34 * MIB + MIB


def test_killed_in_the_middle_of_its_writes_it_leaves_nothing_wrong(mounts: Mounts, place: Place) -> None:
    """kill -9 while blocks are written to disk: the next mount reads right bytes, and counts what is there."""
    body = body_of(96 * MIB)
    place.put("large", body)
    mounted = mounts.start(ON)
    for turn in range(3):
        reader = subprocess.Popen(
            ["cat", str(mounted.root / "large")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert eventually(lambda turn=turn: len(pieces(mounted.work / "cache")) > 4 * turn)  # type: ignore[misc]
        mounted.crash()
        reader.wait(30)
        mounted.start()
    assert (mounted.root / "large").read_bytes() == body
    figures = kept(mounted)
    assert figures["damaged"] == 0
    assert figures["hits"] > 0


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_cache_is_fetched_anew(mounts: Mounts, place: Place, damage: str) -> None:
    """Truncated and bit-flipped files of the cache are deleted and the store is asked."""
    body = body_of(9 * MIB + 7)
    place.put("large", body)
    place.put("small", body[:5000])
    mounted = mounts.start(ON)
    read_and_keep(mounted, "large")
    (mounted.root / "small").read_bytes()
    mounted.stop()
    damaged = pieces(mounted.work / "cache")
    for path in damaged:
        raw = bytearray(path.read_bytes())
        if damage == "flip":
            raw[-1 - random.Random(str(path)).randrange(4000)] ^= 4
        else:
            del raw[0 if damage == "empty" else len(raw) // 2 :]
        path.write_bytes(raw)
    mounted.start()
    mounted.expect(DAMAGED)
    assert (mounted.root / "large").read_bytes() == body
    assert (mounted.root / "small").read_bytes() == body[:5000]
    # Four where a machine has written each piece at once; who takes a second for one leaves it in parts.
    assert 4 <= kept(mounted)["damaged"] <= len(damaged)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """16 MiB for a cache directory; to be named before `mounts`, which have to go first."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    succeed("mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", path)
    yield path
    run("umount", "-l", path)


def test_a_full_disk_means_no_caching_and_no_error(small_disk: Path, mounts: Mounts, place: Place) -> None:
    """On a disk that is full nothing is kept, one line is logged, and every byte is read."""
    body = body_of(40 * MIB)
    place.put("large", body)
    (small_disk / "filler").write_bytes(bytes(12 * MIB))
    mounted = mounts.start(f"--cache-dir={small_disk}", "--staging-limit=20MiB", ON)
    mounted.expect(GIVEN_UP)
    for _ in range(2):
        assert (mounted.root / "large").read_bytes() == body
    assert eventually(lambda: GIVEN_UP in mounted.log)
    assert mounted.log.count(GIVEN_UP) == 1
    disk = os.statvfs(small_disk)
    assert disk.f_bavail * disk.f_frsize >= disk.f_blocks * disk.f_frsize // 20, "room is left for unsent bytes"
    (mounted.root / "new").write_bytes(body[:MIB])
    assert place.get("new") == body[:MIB]


def test_the_limit_is_honoured(mounts: Mounts, place: Place) -> None:
    """However much is read, the files of the cache never take more than --max-cache-size."""
    for number in range(6):
        place.put(f"f{number}", body_of(7 * MIB, number))
    mounted = mounts.start("--max-cache-size=16MiB")
    cache = mounted.work / "cache"
    most = 0
    for number in range(6):
        assert (mounted.root / f"f{number}").read_bytes() == body_of(7 * MIB, number)
        for _ in range(30):
            most = max(most, taken(cache))
            time.sleep(0.05)
    assert 7 * MIB < most <= 16 * MIB
    assert eventually(lambda: kept(mounted)["used_bytes"] == taken(cache))


def taken(cache: Path) -> int:
    total = 0
    for path in pieces(cache):
        try:
            total += -(-path.stat().st_size // 4096) * 4096
        except FileNotFoundError:
            pass
    return total


@pytest.mark.seconds(200)
def test_two_mounts_share_a_directory_while_another_client_overwrites(
    mounts: Mounts, place: Place, tmp_path: Path
) -> None:
    """Each open shows one whole version, never older than what was stored before it, on two mounts with one cache."""
    shared = tmp_path / "shared"
    options = (f"--cache-dir={shared}", "--max-cache-size=24MiB", "--metadata-ttl=0")
    both = [mounts.start(*options), mounts.start(*options)]
    size = 2 * MIB + 77
    versions = {body_of(size, seed)[:16]: seed for seed in range(40)}
    stored = [0]
    place.put("f", body_of(size, 0))
    wrong: list[str] = []
    over = threading.Event()

    def look(mounted: Mounted) -> None:
        while not over.is_set():
            least = stored[0]
            try:
                body = (mounted.root / "f").read_bytes()
            except OSError as error:
                if error.errno != 116:  # ESTALE in the middle of a reading: the version went
                    wrong.append(repr(error))
                continue
            seed = versions.get(body[:16], -1)
            if seed < least or body != body_of(size, seed):
                wrong.append(f"version {seed} when {least} was stored, {len(body)} bytes")

    threads = [threading.Thread(target=look, args=(mounted,)) for mounted in both]
    for thread in threads:
        thread.start()
    for seed in range(1, 40):
        place.put("f", body_of(size, seed))
        stored[0] = seed
        time.sleep(0.3)
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert taken(shared) <= 24 * MIB
    for mounted in both:
        assert kept(mounted)["damaged"] == 0


def test_without_the_option_nothing_is_kept(mounts: Mounts, place: Place) -> None:
    """By default no byte that was read is put on a disk."""
    place.put("f", body_of(MIB))
    mounted = mounts.start()
    assert (mounted.root / "f").read_bytes() == body_of(MIB)
    mounted.stop()
    assert not (mounted.work / "cache" / "blocks").exists()
