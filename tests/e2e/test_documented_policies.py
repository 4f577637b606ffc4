"""The IAM policies of docs/operations.md, as they stand there, on a server that checks them (SeaweedFS)."""

import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from tests.e2e.material import MIB, write_pattern
from tests.e2e.mounting import ROOT, Mounts, Place, succeed
from tests.servers import Server, boto, make_bucket, start_seaweedfs

TEAM = "team/"
BUCKET = f"policies-{secrets.token_hex(4)}"


def documented(heading: str) -> list[dict[str, Any]]:
    """The statements below a heading, for the bucket of these tests."""
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(rf"^### {heading}\n.*?```json\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    policy = json.loads(found[1].replace("my-bucket", BUCKET))
    assert policy["Version"] == "2012-10-17"
    statements: list[dict[str, Any]] = policy["Statement"]
    return statements


@pytest.fixture(scope="module")
def checking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an identity for each kind of mount."""
    reading, writing = documented("Reading"), documented("Reading and writing")
    kinds = {
        "reading": reading,
        "writing": writing,
        "prefix": documented("One prefix"),
        "tags": writing + documented("Tags"),
        "versions": writing + documented("A bucket that keeps versions"),
    }
    policies = {kind: json.dumps({"Version": "2012-10-17", "Statement": found}) for kind, found in kinds.items()}
    server = start_seaweedfs(tmp_path_factory.mktemp("checking"), policies=policies)
    make_bucket(server, BUCKET)
    yield server
    server.stop()


@pytest.fixture
def place(checking: Server, request: pytest.FixtureRequest) -> Place:
    """All of the bucket, or a part of it, with the rights of nobody in particular."""
    return Place(checking, BUCKET, f"{request.node.name}-{secrets.token_hex(3)}/")


def confined(place: Place, kind: str) -> Place:
    """The same place for one who may do what that policy says."""
    access_key, secret_key = place.server.confined[kind]
    server = replace(place.server, access_key=access_key, secret_key=secret_key, client=None, process=None)
    return replace(place, server=server)


def work(root: Path, source: Path) -> None:
    """What programs do: make, read, edit, append, rename, link, delete; small and by parts."""
    succeed("cp", source, root / "large")
    with (root / "large").open("r+b") as file:
        file.seek(6 * MIB)
        file.write(b"edited")
    (root / "d/e").mkdir(parents=True)
    for number in range(12):
        (root / f"d/e/{number}").write_bytes(b"%d" % number)
    succeed("sh", "-c", "echo line >> d/e/0", cwd=root)
    os.chmod(root / "d/e/1", 0o600)
    os.symlink("e/1", root / "d/link")
    os.rename(root / "d/e", root / "moved")
    os.rename(root / "large", root / "moved/large")
    os.truncate(root / "moved/2", 100)
    with (root / "moved/3").open("rb") as file:
        (root / "moved/3").unlink()
        assert file.read() == b"3"
    assert (root / "moved/0").read_bytes() == b"0line\n"
    succeed("rm", "-r", *(root / name for name in os.listdir(root)))


def test_reading_needs_no_more(mounts: Mounts, place: Place) -> None:
    place.put("d/f", b"seen")
    mounted = mounts.start("--read-only", place=confined(place, "reading"))
    assert succeed("find", ".", "-type", "f", cwd=mounted.root) == "./d/f\n"
    assert (mounted.root / "d/f").read_bytes() == b"seen"
    assert mounted.root.joinpath("d/f").stat().st_size == 4


def test_who_may_only_read_is_told_so_when_writing(mounts: Mounts, place: Place) -> None:
    place.put("f", b"old")
    mounted = mounts.start(place=confined(place, "reading"))
    mounted.expect("AccessDenied", "refused", "403", "not probed", "content dropped")
    with pytest.raises(PermissionError), (mounted.root / "f").open("wb", buffering=0) as file:
        file.write(b"new")
    assert place.get("f") == b"old"


def test_writing_needs_no_more(mounts: Mounts, place: Place, tmp_path: Path) -> None:
    write_pattern(tmp_path / "source", 12 * MIB)
    mounted = mounts.start(place=confined(place, "writing"))
    work(mounted.root, tmp_path / "source")
    mounted.stop()
    assert place.names() == []
    assert place.uploads() == []


def test_one_prefix_needs_no_more(mounts: Mounts, place: Place, tmp_path: Path) -> None:
    write_pattern(tmp_path / "source", 12 * MIB)
    team = replace(place, prefix=TEAM)
    place.put("outside", b"not ours")
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        confined(place, "prefix").get("outside")
    mounted = mounts.start(place=confined(team, "prefix"))
    work(mounted.root, tmp_path / "source")
    mounted.stop()
    assert team.names() == []
    assert place.get("outside") == b"not ours"


def test_tags_survive_with_the_statement_for_tags(mounts: Mounts, place: Place) -> None:
    place.put("f", b"old", Tagging="a=b")
    mounted = mounts.start(place=confined(place, "tags"))
    (mounted.root / "f").write_bytes(b"new")
    os.rename(mounted.root / "f", mounted.root / "g")
    assert place.get("g") == b"new"
    found = boto(place.server).get_object_tagging(Bucket=place.bucket, Key=place.prefix + "g")["TagSet"]
    assert found == [{"Key": "a", "Value": "b"}]


def test_an_old_version_is_read_with_the_statement_for_versions(mounts: Mounts, place: Place) -> None:
    enabled = {"Status": "Enabled"}
    boto(place.server).put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration=enabled)
    body = os.urandom(4 * MIB)
    place.put("f", body)
    mounted = mounts.start(place=confined(place, "versions"))
    with (mounted.root / "f").open("rb", buffering=0) as file:
        begun = file.read(MIB)
        place.put("f", b"replaced")
        rest = b"".join(iter(lambda: file.read(MIB), b""))
    assert begun + rest == body
    assert (mounted.root / "f").read_bytes() == b"replaced"
