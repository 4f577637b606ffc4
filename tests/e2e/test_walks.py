"""Scenarios C1, C2, C6: programs that walk a tree or read a directory while it changes, with the requests counted."""

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.fill import fill
from tests.e2e.mounting import Mounts, Place, grow_old, succeed
from tests.e2e.test_requests import paid
from tests.proxy import FaultProxy

DIRECTORIES = 1000


def tree_of(directories: int, files: int) -> list[str]:
    return [f"t/d{one:04}/f{two:03}" for one in range(directories) for two in range(files)]


@pytest.mark.parametrize(
    "command",
    [["du", "-s"], ["find"], ["find", "-type", "f", "-newermt", "2001-01-01"], ["ls", "-lR"]],
    ids=["du", "find", "find-newer", "ls-lR"],
)
def test_a_walk_over_10000_objects_in_1000_directories_sends_at_most_25_requests(
    mounts: Mounts, proxy: FaultProxy, place: Place, command: list[str]
) -> None:
    """`du -s`, `find` and `ls -lR` over 10,000 objects in 1,000 directories: at most 25 requests, no HEAD."""
    fill(place, tree_of(DIRECTORIES, 10))
    grow_old()
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    paid(proxy)
    told = (
        succeed(command[0], mounted.root / "t", *command[1:])
        if command[0] == "find"
        else succeed(*command, mounted.root / "t")
    )
    counts = paid(proxy)
    assert set(counts) == {"list"}
    assert counts["list"] <= 25, counts
    if command == ["find"]:
        assert len(told.splitlines()) == 1 + DIRECTORIES * 11


@pytest.mark.slow
@pytest.mark.seconds(400)
def test_a_walk_over_100000_objects_in_1000_directories_sends_about_100_requests(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """C2: `du -s` and `find` over 100,000 objects in 1,000 directories: about 100 LIST, 0 HEAD."""
    fill(place, tree_of(DIRECTORIES, 100))
    grow_old()
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    for turn, command in enumerate((["du", "-s"], ["find"])):
        if turn:
            mounted.remount()
        paid(proxy)
        succeed(*command, mounted.root / "t")
        counts = paid(proxy)
        assert set(counts) == {"list"}
        assert counts["list"] <= 110, counts


def test_copying_a_tree_out_costs_the_walk_and_a_get_for_each_file(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    """`cp -r` of 300 files in 100 directories: a few LIST (how many depends on how quick it is), no HEAD of a file with
    content."""
    for number in range(300):
        place.put(f"t/d{number // 3:03}/f{number}", b"content %d" % number)
    grow_old()
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    paid(proxy)
    succeed("cp", "-r", mounted.root / "t", tmp_path / "copy")
    counts = paid(proxy)
    assert counts["get"] == 300
    assert counts["list"] <= 16, counts
    assert set(counts) == {"get", "list"}
    assert (tmp_path / "copy/d042/f127").read_bytes() == b"content 127"


def test_a_huge_directory_beside_the_path_of_a_walk_is_not_listed(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """`find` that prunes a directory of 5,000 files pays for the others only."""
    fill(place, [*tree_of(20, 3), *(f"t/d0020-huge/{number:05}" for number in range(5000)), "t/e/1", "t/f/1", "t/g/1"])
    grow_old()
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    paid(proxy)
    told = succeed("find", mounted.root / "t", "-name", "*huge", "-prune", "-o", "-type", "f", "-print")
    assert len(told.splitlines()) == 63
    counts = paid(proxy)
    assert counts["list"] <= 7, counts


def test_a_page_that_ends_with_a_directory_loses_no_name_behind_it(mounts: Mounts, place: Place) -> None:
    """SeaweedFS tells the directory `m` before `m!`; 1,000 entries end with `m`."""
    names = [f"a{number:04}" for number in range(999)]
    fill(place, [*(f"t/{name}" for name in names), "t/m/x", "t/m!", "t/n/x"])
    mount = mounts.start()
    assert sorted(os.listdir(mount.root / "t")) == sorted([*names, "m", "m!", "n"])
    assert succeed("find", mount.root / "t", "-type", "f").count("\n") == 1002


@pytest.mark.parametrize("count", [30, 3000, pytest.param(30_000, marks=[pytest.mark.slow, pytest.mark.seconds(300)])])
def test_what_exists_throughout_is_told_exactly_once_while_others_come_and_go(
    mounts: Mounts, place: Place, count: int
) -> None:
    """C6: a listing while others create and delete, here and through another client."""
    fill(place, [f"d/k{number:06}" for number in range(count)])
    fill(place, [f"d/k{number:06}-gone" for number in range(0, count, max(count // 100, 1))])
    mounted = mounts.start("--metadata-ttl=1s")
    directory = mounted.root / "d"
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            (directory / f"k{number * 7919 % count:06}+own{number}").touch()
            if number > 5:
                (directory / f"k{(number - 5) * 7919 % count:06}+own{number - 5}").unlink()
            if number % 3 == 0:
                place.put(f"d/k{number * 104729 % count:06}+other{number}")
            gone = directory / f"k{number * max(count // 100, 1) % count:06}-gone"
            gone.unlink(missing_ok=True)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(3):
            told = Counter(entry.name for entry in os.scandir(directory))
            assert [number for number in range(count) if told[f"k{number:06}"] != 1] == []
            assert max(told.values()) == 1
    finally:
        stop.set()
        changing.join()
