"""What the bucket refuses of a mount with --write-back: told, kept over restarts, handed out, sent or given up."""

import errno
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.asking import asked, s3mount, told
from tests.e2e.mounting import Mounts, Place, eventually, run
from tests.proxy import FaultProxy, Rule

DENIED = Rule(fault="error", method="PUT", key="(one|two)$", status=403, code="AccessDenied")


def test_what_is_refused_is_named_handed_out_sent_after_all_or_given_up(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    place.put("d/two", b"what was there")
    mount = mounts.start("--write-back", "--write-back-delay=10ms", endpoint_url=proxy.endpoint_url)
    mount.expect("parked", "AccessDenied", "changes wait in the journal")
    proxy.add(DENIED)
    for name in ("one", "two", "other"):
        (mount.root / "d" / name).write_bytes(name.encode())
    assert eventually(lambda: asked("status", mount.root)["write_back"]["refused"]["count"] == 2)
    assert eventually(lambda: asked("status", mount.root)["write_back"]["changes"] == 2), "no other name waits for them"
    assert place.get("d/other") == b"other"
    assert (mount.root / "d/one").read_bytes() == b"one", "the mount shows what it has acknowledged"
    assert "2 changes are refused by the bucket" in told("status", mount.root)
    with (mount.root / "d/one").open("rb") as file, pytest.raises(OSError) as caught:
        os.fsync(file.fileno())
    assert caught.value.errno == errno.EACCES
    synced = s3mount("sync", mount.root)
    assert synced.returncode == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in synced.stderr.splitlines()[-2:]] == ["d/one", "d/two"]

    mount.stop()
    assert place.names() == ["d/other", "d/two"]
    plain = run(*[word for word in mount.command() if not word.startswith("--write-back")])
    assert plain.returncode == 1
    assert "2 changes that --write-back has acknowledged wait in" in plain.stderr

    mount.start()
    files = {file["path"]: file for file in asked("failed", "list", mount.root)["files"]}
    assert files.keys() == {"d/one", "d/two"}
    assert all(file["waits_for_you"] for file in files.values())
    out = tmp_path / "out"
    assert sorted(told("failed", "export", "--to", out, mount.root).splitlines()) == [
        "d/one: 3 bytes written",
        "d/two: 3 bytes written",
    ]
    assert (out / "d/two").read_bytes() == b"two"
    again = s3mount("failed", "retry", mount.root, "d/one")
    assert (again.returncode, again.stdout) == (1, "")
    proxy.clear()
    assert told("failed", "retry", mount.root, "d/one") == "d/one: stored\n"
    assert place.get("d/one") == b"one"
    assert told("failed", "drop", mount.root, "d/two") == "d/two: dropped\n"
    assert (mount.root / "d/two").read_bytes() == b"what was there"
    assert place.get("d/two") == b"what was there"
    assert asked("status", mount.root)["write_back"]["changes"] == 0
    assert s3mount("sync", mount.root).returncode == 0


def test_a_mount_that_is_told_to_stop_sends_what_waits(mounts: Mounts, place: Place) -> None:
    mount = mounts.start("--write-back", "--write-back-delay=1h")
    for number in range(50):
        (mount.root / f"f{number:02}").write_bytes(b"x" * number)
    assert place.names() == []
    assert asked("status", mount.root)["write_back"]["changes"] == 50
    assert mount.process is not None
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(60) == 0
    assert place.names() == [f"f{number:02}" for number in range(50)]
