"""Scenarios B5 and B6: files and directories get other names, whole, at few requests, also when the daemon is killed in
the middle."""

import errno
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.material import in_threads
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, succeed
from tests.e2e.test_programs import renameat2
from tests.e2e.test_requests import listed, paid
from tests.proxy import FaultProxy, Rule
from tests.servers import Server, make_bucket

NOREPLACE, EXCHANGE = 1, 2
COPIES = "--storage-class=STANDARD"
"""With an option that says how objects are kept there are no renames, but copies."""
INTENTS = ".s3mount/intents/"


@pytest.fixture
def moto_place(moto_server: Server, place: Place) -> Place:
    """The same on moto, which knows no RenameObject."""
    return Place(moto_server, make_bucket(moto_server, "renames"), place.prefix)


def fill(place: Place, count: int, folder: str = "d") -> dict[str, bytes]:
    """Files in a few directories; contents by name below the folder."""
    contents = {f"s{number % 7}/f{number}": f"body of {number}".encode() for number in range(count)}
    in_threads(lambda name: place.put(f"{folder}/{name}", contents[name]), list(contents), threads=16)
    return contents


def below(mounted: Mounted, folder: str) -> dict[str, bytes]:
    root = mounted.root / folder
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [(), (COPIES,)])
def test_a_file_gets_another_name(mounts: Mounts, place: Place, options: tuple[str, ...]) -> None:
    """B5: `mv f g`, `mv f dir/`, onto an existing file, of one still open for writing, NOREPLACE, EXCHANGE."""
    root = mounts.start(*options).root
    (root / "f").write_bytes(b"content")
    succeed("mv", root / "f", root / "g")
    assert place.names() == ["g"]
    (root / "dir").mkdir()
    succeed("mv", root / "g", f"{root}/dir/")
    assert place.files() == ["dir/g"]
    (root / "old").write_bytes(b"old")
    succeed("mv", root / "dir/g", root / "old")
    assert place.files() == ["old"]
    assert place.get("old") == b"content"
    with (root / "tmp").open("wb") as file:
        file.write(b"first ")
        file.flush()
        os.fsync(file.fileno())
        succeed("mv", root / "tmp", root / "target")
        file.write(b"second")
    assert place.get("target") == b"first second"
    assert renameat2(root / "target", root / "old", NOREPLACE) == errno.EEXIST
    assert renameat2(root / "target", root / "fresh", NOREPLACE) == 0
    assert renameat2(root / "fresh", root / "old", EXCHANGE) == errno.EINVAL
    assert place.files() == ["fresh", "old"]
    assert (place.get("fresh"), place.get("old")) == (b"first second", b"content")


def test_noreplace_leaves_a_file_that_another_client_has_just_put(mount: Mounted) -> None:
    root, place = mount.root, mount.place
    (root / "f").write_bytes(b"ours")
    assert not (root / "g").exists()
    place.put("g", b"theirs")
    assert renameat2(root / "f", root / "g", NOREPLACE) == errno.EEXIST
    assert (place.get("f"), place.get("g")) == (b"ours", b"theirs")


@pytest.mark.parametrize("options", [(), (COPIES,)])
def test_a_directory_of_1235_files_gets_another_name(mounts: Mounts, place: Place, options: tuple[str, ...]) -> None:
    """B6: all there, source gone."""
    contents = fill(place, 1235)
    mounted = mounts.start(*options)
    succeed("mv", mounted.root / "d", mounted.root / "d2")
    assert sorted(os.listdir(mounted.root)) == ["d2"]
    assert below(mounted, "d2") == contents
    assert {name for name in place.names() if not name.endswith("/")} == {f"d2/{name}" for name in contents}
    mounted.remount()
    assert below(mounted, "d2") == contents


def test_a_directory_on_a_store_that_only_copies_gets_another_name(mounts: Mounts, moto_place: Place) -> None:
    contents = fill(moto_place, 40)
    mounted = mounts.start(place=moto_place)
    (mounted.root / "f").write_bytes(b"content")
    os.rename(mounted.root / "f", mounted.root / "g")
    os.rename(mounted.root / "d", mounted.root / "e")
    assert below(mounted, "e") == contents
    assert set(moto_place.files()) == {"g", *(f"e/{name}" for name in contents)}
    assert "rename=False" in mounted.log


@pytest.mark.parametrize("kind", ["rename", "copy"])
def test_a_directory_of_500_costs_520_requests(mounts: Mounts, proxy: FaultProxy, place: Place, kind: str) -> None:
    in_threads(lambda number: place.put(f"d/f{number}", b"x"), range(500), threads=16)
    proxied = mounts.start(*((COPIES,) if kind == "copy" else ()), endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    os.rename(proxied.root / "d", proxied.root / "e")
    counts = paid(proxy)
    assert counts[kind] == 500
    assert counts.total() <= 520, counts
    assert len(place.names()) == 500


def test_a_file_costs_one_request_where_the_store_renames(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    place.put("f", b"content", ContentType="text/x-mine", Metadata={"who": "me"})
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    os.rename(proxied.root / "f", proxied.root / "g")
    assert paid(proxy) == {"rename": 1}
    head = place.head("g")
    assert (head["ContentType"], head["Metadata"]) == ("text/x-mine", {"who": "me"})


def test_a_directory_over_the_limit_is_not_renamed(mounts: Mounts, place: Place) -> None:
    fill(place, 20)
    mounted = mounts.start("--rename-limit=19")
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.EMFILE))):
        os.rename(mounted.root / "d", mounted.root / "e")
    assert len(place.names()) == 20
    assert "raise --rename-limit" in mounted.log
    mounted.expect("request failed operation=rename errno=EMFILE")


def test_a_store_that_forbids_deleting_refuses_before_anything_is_copied(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """Otherwise every file would be there twice."""
    fill(place, 20)
    before = place.names()
    proxied = mounts.start(COPIES, endpoint_url=proxy.endpoint_url)
    proxied.expect("request failed operation=rename errno=EACCES")
    proxy.add(Rule(fault="error", kind="delete", key="/d/", status=403, code="AccessDenied"))
    with pytest.raises(PermissionError):
        os.rename(proxied.root / "d", proxied.root / "e")
    assert [name for name in place.names() if not name.startswith(".s3mount/probe-")] == before
    assert len(below(proxied, "d")) == 20


def test_an_old_object_that_is_not_deleted_at_once_is_deleted_later(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """The move has succeeded; the intent stays until the last old object is gone."""
    contents = fill(place, 20)
    proxied = mounts.start(COPIES, endpoint_url=proxy.endpoint_url)
    proxied.expect("rename left an object")
    proxy.add(Rule(fault="error", kind="delete_objects", status=403, code="AccessDenied", times=1))
    os.rename(proxied.root / "d", proxied.root / "e")
    assert below(proxied, "e") == contents
    assert eventually(lambda: not place.names()[0].startswith(INTENTS) and "d/s1/f1" not in place.names())
    assert set(place.files()) == {f"e/{name}" for name in contents}


def killed_in_the_middle(mounted: Mounted, proxy: FaultProxy, rule: Rule, seen: str, count: int) -> None:
    """Rename d to e, and kill the daemon once the rule holds `count` requests of the kind `seen`."""
    proxy.add(rule)
    thread = threading.Thread(target=_rename_into_nothing, args=(mounted.root,), daemon=True)
    thread.start()
    assert eventually(
        lambda: sum(request.kind == seen and not request.ended for request in proxy.requests()) >= count, 30.0
    )
    mounted.crash()
    thread.join(30.0)
    assert not thread.is_alive()
    proxy.clear()


def _rename_into_nothing(root: Path) -> None:
    with pytest.raises(OSError):
        os.rename(root / "d", root / "e")


POINTS = [
    ((), Rule(fault="black_hole", kind="rename", skip=0), "rename", 16),
    ((), Rule(fault="black_hole", kind="rename", skip=50), "rename", 16),
    ((), Rule(fault="black_hole", kind="delete", key=INTENTS), "delete", 1),
    ((COPIES,), Rule(fault="black_hole", kind="copy", skip=0), "copy", 16),
    ((COPIES,), Rule(fault="black_hole", kind="copy", skip=50), "copy", 16),
    ((COPIES,), Rule(fault="black_hole", kind="put", key=INTENTS, skip=1), "put", 1),
    ((COPIES,), Rule(fault="black_hole", kind="delete_objects"), "delete_objects", 1),
    ((COPIES,), Rule(fault="black_hole", kind="delete", key=INTENTS), "delete", 1),
]


@pytest.mark.parametrize(
    "point", POINTS, ids=["before", "renaming", "renamed", "before copies", "copying", "copied", "deleting", "deleted"]
)
def test_a_directory_whose_move_was_killed_is_moved_by_the_next_start(
    mounts: Mounts, proxy: FaultProxy, place: Place, point: tuple[tuple[str, ...], Rule, str, int]
) -> None:
    """Every file is in at least one place at any time, then at its new name, and nothing else is left."""
    options, rule, seen, count = point
    contents = fill(place, 120)
    mounted = mounts.start(*options, endpoint_url=proxy.endpoint_url)
    os.listdir(mounted.root)
    killed_in_the_middle(mounted, proxy, rule, seen, count)
    names = set(place.names())
    assert any(name.startswith(INTENTS) for name in names)
    assert all(f"d/{name}" in names or f"e/{name}" in names for name in contents)
    mounted.start()
    assert below(mounted, "e") == contents
    assert sorted(os.listdir(mounted.root)) == ["e"]
    assert set(place.files()) == {f"e/{name}" for name in contents}
    assert "rename that was cut short was finished" in mounted.log


def test_what_was_changed_since_a_move_was_killed_is_left_alone(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    contents = fill(place, 120)
    mounted = mounts.start(COPIES, endpoint_url=proxy.endpoint_url)
    mounted.expect("rename left what was changed meanwhile")
    killed_in_the_middle(mounted, proxy, Rule(fault="black_hole", kind="delete_objects"), "delete_objects", 1)
    assert set(place.files()) - {place.names()[0]} == {f"{at}/{name}" for at in "de" for name in contents}
    place.put("d/s0/f0", b"changed at its old name")
    place.put("e/s1/f1", b"changed at its new name")
    place.put("d/new", b"new at the old name")
    mounted.start()
    assert below(mounted, "d") == {"s0/f0": b"changed at its old name", "new": b"new at the old name"}
    assert below(mounted, "e") == {**contents, "s1/f1": b"changed at its new name"}
    assert not any(name.startswith(INTENTS) for name in place.names())


def test_the_move_of_another_mount_is_named_and_left_alone(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """It may be at work on it."""
    fill(place, 60)
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    killed_in_the_middle(mounted, proxy, Rule(fault="black_hole", kind="rename", skip=20), "rename", 16)
    before = place.names()
    other = mounts.start()
    other.expect("rename of a directory is under way or was cut short elsewhere")
    assert re.search(r"cut short elsewhere host=\S+ from='\S+/d/' to='\S+/e/'", other.log)
    other.stop()
    assert place.names() == before
    mounted.start()
    assert len(below(mounted, "e")) == 60


def test_who_looks_into_a_directory_that_moves_finds_all_of_it(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Keys go one by one; programs see the directory with all its files or not at all."""
    contents = fill(place, 120)
    mounted = mounts.start("--metadata-ttl=0s", endpoint_url=proxy.endpoint_url)
    inside = os.open(mounted.root / "d", os.O_RDONLY | os.O_DIRECTORY)
    proxy.add(Rule(kind="rename", delay_seconds=0.2))
    mover = subprocess.Popen(["mv", str(mounted.root / "d"), str(mounted.root / "e")])
    looks = 0
    while mover.poll() is None:
        name = f"s{looks % 7}/f{looks % 7}"
        fd = os.open(name, os.O_RDONLY, dir_fd=inside)
        assert os.read(fd, 100) == contents[name]
        os.close(fd)
        looks += 1
        time.sleep(0.01)
    assert mover.returncode == 0
    assert looks >= 1
    assert below(mounted, "e") == contents
    os.close(inside)


def test_a_renamed_directory_and_a_removed_one_leave_nothing_that_a_restart_shows(mounts: Mounts, place: Place) -> None:
    """SeaweedFS keeps directories whose keys are gone, and lists them."""
    for name in ("gh/sub/f", "gh/deeper/down/g", "rm/a/b/c", "rm/d"):
        place.put(name, b"x")
    mounted = mounts.start()
    root = mounted.root
    succeed("mv", root / "gh", root / "gh2")
    succeed("rm", "-r", root / "rm")
    mounted.remount()
    assert sorted(os.listdir(root)) == ["gh2"]
    succeed("mv", root / "gh2", root / "gh")
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == [
        "gh/deeper/down/g",
        "gh/sub/f",
    ]
    assert sorted(os.listdir(root)) == ["gh"]


def test_two_mounts_that_rename_one_directory_do_not_share_it_out_and_both_say_that_all_went_well(
    mounts: Mounts, place: Place
) -> None:
    contents = fill(place, 150, "src")
    first, second = mounts.start(), mounts.start()
    moves = [
        subprocess.Popen(["mv", mounted.root / "src", mounted.root / target], stderr=subprocess.DEVNULL)
        for mounted, target in ((first, "X"), (second, "Y"))
    ]
    answered = [move.wait(60) for move in moves]
    found = [name for name in place.files() if not name.startswith(".s3mount")]
    assert sorted(name.partition("/")[2] for name in found) == sorted(contents)
    # Who comes when all has gone finds nothing any more, and moves that.
    assert answered != [0, 0] or len({name.partition("/")[0] for name in found}) == 1
    for mounted in (first, second):
        mounted.expect("directory was not moved", "rename left", "rename could not be undone")
