"""Deleting many with ordinary programs: what rm -r costs, leaves, and survives (B13, DESIGN sections 5 and 9)."""

import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.material import in_threads
from tests.e2e.mounting import Mounts, Place, eventually, finish, grow_old, hear, python, run, succeed
from tests.proxy import FaultProxy, Rule
from tests.servers import Server, boto, make_bucket

UNLINKER = """
import os, sys
names = sorted(os.listdir(sys.argv[1]))
for name in names:
    os.unlink(os.path.join(sys.argv[1], name))
print("deleted", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=["seaweedfs", "moto"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Place]:
    server: Server = request.getfixturevalue({"seaweedfs": "seaweedfs", "moto": "moto_server"}[request.param])
    bucket = make_bucket(server, f"deleting-{secrets.token_hex(4)}")
    yield Place(server, bucket, "p/")
    for name in (place := Place(server, bucket, "")).names():
        place.delete(name)
    boto(server).delete_bucket(Bucket=bucket)


def fill(place: Place, *names: str) -> None:
    in_threads(lambda number: place.put(names[number], b"%d" % number), range(len(names)), threads=8)


def counted(proxy: FaultProxy) -> Counter[str]:
    """What was asked since the last call, once nothing is under way any more."""
    while any(not request.ended for request in proxy.requests()):
        time.sleep(0.01)
    counts = proxy.counts()
    proxy.forget()
    return counts


@pytest.mark.parametrize("marked", [False, True])
def test_rm_r_of_a_thousand_files_costs_at_most_twenty_requests(
    mounts: Mounts, proxy: FaultProxy, place: Place, marked: bool
) -> None:
    """On a mount that has seen nothing of the directory, its listing included."""
    fill(place, *[f"d/f{number:04}" for number in range(1000)], *(["d/"] if marked else []))
    grow_old()
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    counted(proxy)
    succeed("rm", "-r", proxied.root / "d")
    counts = counted(proxy)
    assert place.names() == []
    assert counts.total() <= 20, counts
    assert counts["delete_objects"] >= 1


def test_rm_r_of_a_tree_costs_at_most_four_requests_a_directory(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """N/1000 + 4 D, and eight deletions that prove that it may be done."""
    fill(place, *[f"t/d{number % 30:02}/f{number:03}" for number in range(600)])
    grow_old()
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    counted(proxy)
    succeed("rm", "-r", proxied.root / "t")
    counts = counted(proxy)
    assert place.names() == []
    assert counts.total() <= 1 + 4 * 31 + 8 + 4, counts


def test_rm_r_leaves_no_key_and_other_programs_see_it_at_once(mounts: Mounts, anywhere: Place) -> None:
    """B13: what the mount made and what others put there, names that XML cannot carry among them."""
    fill(anywhere, *[f"t/implicit/f{number}" for number in range(30)], "t/implicit/x\x01y", "t/implicit/<&>", "t/ a ")
    mount = mounts.start(place=anywhere)
    (mount.root / "t/made/deep").mkdir(parents=True)
    for number in range(30):
        (mount.root / f"t/made/deep/{number}").write_bytes(b"x")
    succeed("rm", "-r", mount.root / "t")
    assert anywhere.names() == []
    assert os.listdir(mount.root) == []
    mount.remount()
    assert os.listdir(mount.root) == []


def test_a_directory_outlives_its_last_file(mounts: Mounts, anywhere: Place) -> None:
    """B13: also when the files go together, and after a remount."""
    fill(anywhere, *[f"d/f{number}" for number in range(30)])
    mount = mounts.start(place=anywhere)
    succeed("sh", "-c", "rm d/*", cwd=mount.root)
    assert os.listdir(mount.root / "d") == []
    mount.remount()
    assert os.listdir(mount.root) == ["d"]
    assert anywhere.names() == ["d/"]
    (mount.root / "d").rmdir()
    assert anywhere.names() == []


def test_names_can_be_taken_again_at_once(mounts: Mounts, anywhere: Place) -> None:
    mount = mounts.start(place=anywhere)
    for _ in range(2):
        for number in range(30):
            (mount.root / f"f{number}").write_bytes(b"one")
        succeed("sh", "-c", "rm f*; for n in 1 20 29; do echo two > f$n; done; mkdir f10; mv f20 f21", cwd=mount.root)
        assert sorted(os.listdir(mount.root)) == ["f1", "f10", "f21", "f29"]
        assert (mount.root / "f21").read_bytes() == b"two\n"
        assert anywhere.names() == ["f1", "f10/", "f21", "f29"]
        succeed("sh", "-c", "rm -r f*", cwd=mount.root)
        assert anywhere.files() == []


def test_what_was_deleted_stays_deleted_after_kill_9(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Acknowledged and not sent: the next start does it, but not to what another client has put there."""
    fill(place, "d/", *[f"d/f{number:02}" for number in range(40)])
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(fault="black_hole", kind="delete_objects"))
    unlinker = python(UNLINKER, proxied.root / "d")
    assert hear(unlinker) == "deleted"
    assert len(place.names()) == 1 + 32
    proxied.crash()
    assert finish(unlinker) == 0
    place.put("d/f39", b"another client's")
    proxy.clear()
    proxied.start()
    assert place.names() == ["d/", "d/f39"]
    assert os.listdir(proxied.root / "d") == ["f39"]
    assert (proxied.root / "d/f39").read_bytes() == b"another client's"
    assert "deletions of an earlier run were finished deleted=31 changed=1" in proxied.log


def test_a_refusal_after_the_answer_is_told_by_rmdir_and_the_files_are_back(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    fill(place, "d/", *[f"d/f{number:02}" for number in range(40)])
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    proxied.expect("files were not deleted, they are there again", "request failed operation=(rmdir|unlink)")
    proxy.add(Rule(fault="error", kind="delete_objects", status=403, code="AccessDenied"))
    done = run("rm", "-r", proxied.root / "d")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    # After the refusal of one batch the next unlinks are sent alone; others may be pending behind them.
    assert eventually(lambda: [f"d/{name}" for name in sorted(os.listdir(proxied.root / "d"))] == place.files())
    assert 0 < len(place.files()) <= 32
    proxy.clear()
    succeed("rm", "-r", proxied.root / "d")
    assert place.names() == []


def test_the_end_of_a_mount_sends_what_is_pending(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """SIGTERM a moment after the last unlink; the store takes its time."""
    fill(place, "d/", *[f"d/f{number:02}" for number in range(40)])
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(kind="delete_objects", delay_seconds=1))
    succeed("sh", "-c", "rm d/*", cwd=proxied.root)
    proxied.stop()
    assert place.names() == ["d/"]


def test_a_lost_reply_of_a_batch_is_no_failure(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    fill(place, *[f"d/f{number:02}" for number in range(40)])
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(fault="drop_reply", kind="delete_objects", times=1))
    succeed("rm", "-r", proxied.root / "d")
    assert place.names() == []


def test_with_unlink_sync_each_file_is_gone_when_rm_returns(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """For queues: who removes a file from there must have removed it."""
    fill(place, "d/", *[f"d/f{number:02}" for number in range(20)])
    grow_old()
    proxied = mounts.start("--unlink=sync", endpoint_url=proxy.endpoint_url)
    names = sorted(os.listdir(proxied.root / "d"))
    counted(proxy)
    for name in names:
        os.unlink(proxied.root / "d" / name)
        assert f"d/{name}" not in place.names()
    assert counted(proxy) == {"delete": 20}


def test_single_commands_are_synchronous(mounts: Mounts, place: Place) -> None:
    """A script that removes files one by one, each by a process of its own, finds each gone from the bucket."""
    fill(place, *[f"f{number:02}" for number in range(12)])
    mount = mounts.start()
    for number in range(12):
        succeed("rm", mount.root / f"f{number:02}")
        assert len(place.names()) == 11 - number
