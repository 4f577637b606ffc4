"""Scenarios B: what ordinary programs do."""

import os
import subprocess
from pathlib import Path

from tests.e2e.mounting import Mounted, Mounts, Place, eventually, succeed
from tests.proxy import FaultProxy


def test_sed_in_place_costs_few_requests(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """B3: `sed -i s/a/b/ f` works within 6 requests in a freshly listed directory, 9 cold."""
    place.put("d/f", b"a cat\n")
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    succeed("ls", "-l", proxied.root / "d")
    proxy.forget()
    succeed("sed", "-i", "s/a/b/", proxied.root / "d/f")
    assert place.get("d/f") == b"b cat\n"
    assert place.files() == ["d/f"]
    fresh = proxy.counts()
    proxied.remount()
    proxy.forget()
    succeed("sed", "-i", "s/cat/dog/", proxied.root / "d/f")
    assert place.get("d/f") == b"b dog\n"
    assert place.files() == ["d/f"]
    cold = proxy.counts()
    assert fresh.total() <= 6, fresh
    assert cold.total() <= 9, cold


def test_a_directory_survives_its_last_file(mounts: Mounts, place: Place) -> None:
    """B13: `mkdir d; touch d/f; rm d/f`: `d` still exists, also after remount; `rm -r d` leaves no key."""
    place.put("implicit/below/f", b"foreign")
    mount = mounts.start()
    root = mount.root
    succeed("mkdir", root / "d")
    succeed("touch", root / "d/f")
    succeed("rm", root / "d/f")
    succeed("rm", root / "implicit/below/f")
    for _ in range(2):
        assert sorted(os.listdir(root)) == ["d", "implicit"]
        assert (root / "d").is_dir()
        assert os.listdir(root / "d") == []
        assert os.listdir(root / "implicit") == ["below"]
        assert os.listdir(root / "implicit/below") == []
        mount.remount()
    succeed("rm", "-r", root / "d", root / "implicit")
    assert place.names() == []
    assert os.listdir(root) == []
    mount.remount()
    assert os.listdir(root) == []


def test_tail_follows_what_another_process_appends(mount: Mounted) -> None:
    """B17: `tail -f` follows a file another process appends to on the same mount."""
    log = mount.root / "log"
    log.write_text("first\n")
    with (mount.work / "tail").open("wb") as out:
        tail = subprocess.Popen(["tail", "-n", "+1", "-s", "0.1", "-f", log], stdout=out)
    try:
        said = Path(out.name)
        assert eventually(lambda: said.read_text() == "first\n")
        for number in range(5):
            succeed("sh", "-c", f"echo line {number} >> '{log}'")
            expected = "first\n" + "".join(f"line {n}\n" for n in range(number + 1))
            assert eventually(lambda expected=expected: said.read_text() == expected)  # type: ignore[misc]
    finally:
        tail.terminate()
        tail.wait(10)
    assert mount.place.get("log") == said.read_bytes()
