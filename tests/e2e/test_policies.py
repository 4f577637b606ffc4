"""Scenario E5: credentials that may do no more than they must."""

import os
from pathlib import Path

import pytest

from tests.e2e.material import MIB, write_pattern
from tests.e2e.mounting import Mounts, Place, succeed
from tests.e2e.sides import tree
from tests.proxy import FaultProxy, Rule


def confine(proxy: FaultProxy, prefix: str) -> None:
    """Answer as a policy does that allows the keys and listings of one prefix: 403 to all else, HeadBucket included.

    DeleteObjects is allowed or denied key by key, so the request itself passes.
    """
    proxy.add(Rule(kind="delete_objects"))
    proxy.add(Rule(fault="error", key=f"^(?!{prefix})", status=403, code="AccessDenied"))


def test_a_policy_for_one_prefix_suffices(mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path) -> None:
    """E5: a prefix-only IAM policy suffices (the store answers 403 outside the prefix, and to HeadBucket): mounting,
    and whatever programs do."""
    confined = Place(place.server, place.bucket, place.prefix + "ours/")
    confine(proxy, confined.prefix)
    confined.put("there/f", b"foreign")
    place.put("outside", b"not ours")
    mounted = mounts.start(endpoint_url=proxy.endpoint_url, place=confined)
    root, source = mounted.root, tmp_path / "source"
    write_pattern(source, 12 * MIB)
    assert succeed("ls", root) == "there\n"
    assert (root / "there/f").read_bytes() == b"foreign"
    succeed("cp", source, root / "large")
    with (root / "large").open("r+b") as file:
        file.seek(6 * MIB)
        file.write(b"edited")
    for name in ("d", "d/e"):
        (root / name).mkdir()
    for number in range(20):
        (root / f"d/e/{number}").write_bytes(b"%d" % number)
    succeed("sh", "-c", "echo line >> there/f", cwd=root)
    os.rename(root / "d/e", root / "moved")
    os.rename(root / "large", root / "moved/large")
    os.truncate(root / "moved/0", 100)
    with (root / "there/f").open("rb") as file:
        (root / "there/f").unlink()
        assert file.read() == b"foreignline\n"
    expected = tree(root)
    mounted.remount()
    assert tree(root) == expected
    assert (
        confined.get("moved/large") == source.read_bytes()[: 6 * MIB] + b"edited" + source.read_bytes()[6 * MIB + 6 :]
    )
    succeed("rm", "-r", *(root / name for name in os.listdir(root)))
    mounted.stop()
    assert confined.names() == []
    assert place.get("outside") == b"not ours"


def test_a_refusal_is_no_absence(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """A name the policy hides is refused, not absent, and what it allows goes on beside it."""
    place.put("open/f", b"seen")
    place.put("closed/f", b"hidden")
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    mounted.expect("AccessDenied", "refused", "403")
    proxy.add(Rule(fault="error", key="/closed/", status=403, code="AccessDenied"))
    closed = mounted.root / "closed"
    for operation, path in (
        (os.listdir, closed),
        (os.stat, closed / "f"),
        (os.stat, closed / "absent"),
        (Path.read_bytes, closed / "f"),
        (Path.touch, closed / "new"),
    ):
        with pytest.raises(PermissionError):
            operation(path)
    assert (mounted.root / "open/f").read_bytes() == b"seen"
    (mounted.root / "open/g").write_bytes(b"written")
    assert place.get("open/g") == b"written"
