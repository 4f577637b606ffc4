"""Scenario C9: programs that read the small files of a directory in order, on a store that is far away, judged by
requests and by how many of them were under way at once rather than by time."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.asking import asked
from tests.e2e.material import in_threads
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, grow_old, succeed
from tests.e2e.test_requests import listed, paid
from tests.proxy import FaultProxy, Rule, Seen

FAR_SECONDS = 0.3
"""So far that a reader on a busy machine is kept waiting too, who takes 25 milliseconds for a file."""
WIDE = "--neighbour-ttl=60s", "--metadata-ttl=60s"
"""So that a machine which is busy for a second changes no count."""
FILES = 300
WINDOW_MAX = 32


def body_of(number: int) -> bytes:
    return b"%04d" % number * 4096


def name_of(number: int) -> str:
    return f"f{number:04}"


@pytest.fixture
def far(mounts: Mounts, proxy: FaultProxy, place: Place) -> Mounted:
    """A mount of 300 files of 16 KiB on a store that is far away, their directory listed."""
    in_threads(lambda number: place.put(f"d/{name_of(number)}", body_of(number)), range(FILES), threads=16)
    grow_old()
    mounted = mounts.start(*WIDE, endpoint_url=proxy.endpoint_url)
    listed(mounted, proxy, "d")
    proxy.add(Rule(delay_seconds=FAR_SECONDS))
    return mounted


def made(proxy: FaultProxy) -> list[Seen]:
    """What was asked, once nothing is under way any more."""
    assert eventually(lambda: all(seen.ended for seen in proxy.requests()))
    return proxy.requests()


def under_way(requests: list[Seen]) -> int:
    """How many there were at once, at most."""
    times = sorted([(seen.began, 1) for seen in requests] + [(seen.ended, -1) for seen in requests])
    most = now = 0
    for _, step in times:
        now += step
        most = max(most, now)
    return most


def files_ahead(mounted: Mounted) -> dict[str, int]:
    figures: dict[str, int] = asked("status", mounted.root)["storage"]["files_ahead"]
    return figures


def read_in_order(directory: Path) -> None:
    for number in range(FILES):
        assert (directory / name_of(number)).read_bytes() == body_of(number)


def cat(directory: Path) -> None:
    assert len(succeed("sh", "-c", "cat *", cwd=directory)) == FILES * 16384


def cat_by_many_processes(directory: Path) -> None:
    succeed("sh", "-c", "for f in *; do cat $f; done", cwd=directory)


def read_as_readdir_tells(directory: Path) -> None:
    for entry in os.scandir(directory):
        assert len(Path(entry.path).read_bytes()) == 16384


def grep(directory: Path) -> None:
    assert succeed("grep", "-rc", "^0007", directory).count(":1\n") == 1


@pytest.mark.parametrize(
    "program",
    [read_in_order, cat, cat_by_many_processes, read_as_readdir_tells, grep],
    ids=lambda program: program.__name__,
)
def test_files_read_in_order_are_one_get_each_and_ten_at_once(
    far: Mounted, proxy: FaultProxy, program: Callable[[Path], None]
) -> None:
    """C9: small files in directory order, at least 10 times faster than one after the other: 10 are under way at once
    where the store keeps the reader waiting; one GET a file, no HEAD."""
    program(far.root / "d")
    requests = made(proxy)
    assert [seen.kind for seen in requests] == ["get"] * FILES
    assert len({seen.key for seen in requests}) == FILES
    assert under_way(requests) >= 10
    figures = files_ahead(far)
    assert figures["used"] >= FILES * 9 // 10
    assert figures["wasted"] == 0


def test_files_read_by_eight_threads_are_one_get_each_and_one_more_for_who_lags(
    far: Mounted, proxy: FaultProxy
) -> None:
    """C9: threads that share the files; whose turn it is is up to the machine, and who is far behind asks himself."""
    in_threads(lambda number: (far.root / "d" / name_of(number)).read_bytes(), range(FILES), threads=8)
    requests = made(proxy)
    figures = files_ahead(far)
    assert [seen.kind for seen in requests] == ["get"] * (FILES + figures["wasted"])
    assert len({seen.key for seen in requests}) == FILES
    assert figures["wasted"] <= 8
    assert under_way(requests) >= 10


def test_cp_and_tar_of_a_directory_are_one_get_a_file(far: Mounted, proxy: FaultProxy, tmp_path: Path) -> None:
    """C9: `cp -r` opens files in the order of their inode numbers, `tar` as readdir tells them."""
    succeed("cp", "-r", far.root / "d", tmp_path / "copy")
    requests = made(proxy)
    assert [seen.kind for seen in requests] == ["get"] * FILES
    assert under_way(requests) >= 10
    for number in range(FILES):
        assert (tmp_path / "copy" / name_of(number)).read_bytes() == body_of(number)
    far.remount()
    listed(far, proxy, "d")
    succeed("tar", "-C", far.root, "-cf", tmp_path / "archive", "d")
    requests = made(proxy)
    assert [seen.kind for seen in requests] == ["get"] * FILES
    assert under_way(requests) >= 10


def test_a_reader_that_stops_after_20_files_has_cost_one_window_more(far: Mounted, proxy: FaultProxy) -> None:
    """C9: nothing is fetched beyond the bound; what was is shown as soon as it is too old."""
    for number in range(20):
        (far.root / "d" / name_of(number)).read_bytes()
    requests = made(proxy)
    assert 20 < len(requests) <= 20 + WINDOW_MAX
    figures = files_ahead(far)
    assert figures["fetched"] - figures["used"] == len(requests) - 20


def test_random_opens_end_it(far: Mounted, proxy: FaultProxy) -> None:
    """C9: two random opens in a row, and nothing more is fetched ahead."""
    for number in (*range(20), 200, 100):
        (far.root / "d" / name_of(number)).read_bytes()
    made(proxy)
    paid(proxy)
    fetched = files_ahead(far)["fetched"]
    for number in random.Random(9).sample(range(120, 300, 3), 20):
        (far.root / "d" / name_of(number)).read_bytes()
    assert paid(proxy) == {"get": 20}
    assert files_ahead(far)["fetched"] == fetched


def test_a_random_open_shows_what_another_mount_closed_just_before(
    mounts: Mounts, far: Mounted, proxy: FaultProxy
) -> None:
    """C8 holds exactly for an open that is not in order, whatever was fetched ahead a moment ago."""
    other = mounts.start()
    for number in range(100):
        (far.root / "d" / name_of(number)).read_bytes()
    for number in (125, 90, 200, 50, 120):
        (other.root / "d" / name_of(number)).write_bytes(b"new %d" % number)
        assert (far.root / "d" / name_of(number)).read_bytes() == b"new %d" % number


def test_an_open_in_order_shows_what_was_closed_longer_ago_than_the_neighbour_ttl(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """C8 for a program that walks in order: what is older than --neighbour-ttl answers no open."""
    in_threads(lambda number: place.put(f"d/{name_of(number)}", body_of(number)), range(60), threads=16)
    grow_old()
    mounted = mounts.start("--neighbour-ttl=500ms", endpoint_url=proxy.endpoint_url)
    listed(mounted, proxy, "d")
    for number in range(20):
        (mounted.root / "d" / name_of(number)).read_bytes()
    for number in range(20, 60):
        place.put(f"d/{name_of(number)}", b"new %d" % number)
    assert eventually(lambda: (figures := files_ahead(mounted))["fetched"] == figures["used"] + figures["wasted"])
    for number in range(20, 60):
        assert (mounted.root / "d" / name_of(number)).read_bytes() == b"new %d" % number


def test_nothing_is_fetched_ahead_without_a_neighbour_ttl(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """`--neighbour-ttl 0`: every open asks the store itself."""
    in_threads(lambda number: place.put(f"d/{name_of(number)}", body_of(number)), range(60), threads=16)
    grow_old()
    mounted = mounts.start("--neighbour-ttl=0s", endpoint_url=proxy.endpoint_url)
    listed(mounted, proxy, "d")
    for number in range(60):
        path = mounted.root / "d" / name_of(number)
        assert path.read_bytes() == body_of(number)
    requests = made(proxy)
    assert [Path(seen.key).name for seen in requests] == [name_of(number) for number in range(60)]
    assert files_ahead(mounted)["fetched"] == 0
