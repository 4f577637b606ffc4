"""What objects carry besides their bytes, through real mounts and read back with boto3."""

import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.material import MIB, object_difference, write_pattern
from tests.e2e.mounting import Mounted, Mounts, Place, eventually, succeed
from tests.proxy import FaultProxy, Rule
from tests.servers import boto

CARRIED = {
    "ContentType": "text/x-special",
    "CacheControl": "max-age=60",
    "ContentDisposition": 'attachment; filename="x"',
    "ContentEncoding": "gzip",
    "ContentLanguage": "de",
    "Metadata": {"foreign": "kept", "other": "too"},
}
TAGS = {"team": "a b", "cost+centre": "4:2", "empty": ""}
TAGGING = "team=a%20b&cost%2Bcentre=4%3A2&empty="
LARGE = 12 * MIB + 5
"""More than a PUT takes: an upload by parts."""


def tags(place: Place, name: str) -> dict[str, str]:
    found = boto(place.server).get_object_tagging(Bucket=place.bucket, Key=place.prefix + name)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def carried(place: Place, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    head = place.head(name)
    return {field: head.get(field) for field in CARRIED}, tags(place, name)


def append(path: Path, body: bytes = b"appended") -> None:
    with path.open("ab") as file:
        file.write(body)


@pytest.mark.parametrize("size", [1000, LARGE])
def test_what_an_object_carries_survives_what_programs_do(mounts: Mounts, place: Place, size: int) -> None:
    """Headers, foreign metadata and tags survive append, edit, truncate, rename and overwrite."""
    body = os.urandom(size)
    place.put("f", body, **CARRIED, Tagging=TAGGING)
    expected = (CARRIED, TAGS)
    assert carried(place, "f") == expected
    mounted = mounts.start()
    path = mounted.root / "f"
    append(path)
    assert (place.get("f"), carried(place, "f")) == (body + b"appended", expected)
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"EDITED")
    assert place.get("f")[size // 2 : size // 2 + 6] == b"EDITED"
    assert carried(place, "f") == expected
    os.truncate(path, size // 2)
    assert eventually(lambda: bool(place.head("f")["ContentLength"] == size // 2)), "more than a part is stored later"
    assert carried(place, "f") == expected
    os.rename(path, mounted.root / "g.html")
    assert carried(place, "g.html") == expected
    (mounted.root / "g.html").write_bytes(body[::-1])
    assert (place.get("g.html"), carried(place, "g.html")) == (body[::-1], expected)
    assert place.names() == ["g.html"]
    assert place.uploads() == []


def test_a_tagged_file_costs_one_request_more(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Overwriting is HEAD + PUT, and one GET of the tags for an object that has some."""
    place.put("f", b"old", Tagging=TAGGING)
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    succeed("ls", "-l", mounted.root)
    proxy.forget()
    (mounted.root / "f").write_bytes(b"new")
    assert proxy.counts("f$") == {"head": 1, "get_tagging": 1, "put": 1}
    assert tags(place, "f") == TAGS


def test_tags_that_may_not_be_read_are_not_deleted(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """Opening for writing is refused with EACCES, and the log names the permission that is missing."""
    place.put("f", b"old", Tagging=TAGGING)
    mounted = mounts.start(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(fault="error", kind="get_tagging", status=403, code="AccessDenied"))
    mounted.expect("s3:GetObjectTagging")
    for flags in (os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        with pytest.raises(PermissionError):
            os.open(mounted.root / "f", flags)
    assert mounted.log.count("grant s3:GetObjectTagging") == 2
    assert (mounted.root / "f").read_bytes() == b"old"
    assert (place.get("f"), tags(place, "f")) == (b"old", TAGS)


@pytest.mark.parametrize("size", [10, LARGE])
def test_content_types_follow_the_name_and_then_the_object(mount: Mounted, size: int) -> None:
    """B15: Content-Type of a.html b.css c.jpg d.unknown right for PUT and for multipart; kept by rename, append."""
    place = mount.place
    types = {
        "a.html": "text/html",
        "b.css": "text/css",
        "c.jpg": "image/jpeg",
        "d.unknown": "application/octet-stream",
    }
    body = os.urandom(size)
    for name, expected in types.items():
        path = mount.root / name
        path.write_bytes(body)
        assert place.head(name)["ContentType"] == expected
        assert place.head(name)["ETag"].endswith('-3"') == (size > 10)
        append(path)
        assert (place.head(name)["ContentType"], place.head(name)["ContentLength"]) == (expected, size + 8)
        # Not to another extension: SeaweedFS does not keep application/octet-stream, it guesses when it is asked.
        renamed = "renamed" if expected == "application/octet-stream" else "renamed.png"
        os.rename(path, mount.root / renamed)
        assert place.head(renamed)["ContentType"] == expected
        os.unlink(mount.root / renamed)


def test_a_file_over_the_copy_limit_is_renamed_by_parts(mounts: Mounts, place: Place, tmp_path: Path) -> None:
    """A16: a file larger than the limit can be renamed; content, headers and tags are kept, no upload is left open."""
    write_pattern(tmp_path / "local", LARGE)
    place.put("f", (tmp_path / "local").read_bytes(), **CARRIED, Tagging=TAGGING)
    with FaultProxy(place.server.endpoint_url) as proxy:
        mounted = mounts.start("--copy-limit=5MiB", "--acl=private", endpoint_url=proxy.endpoint_url)
        os.rename(mounted.root / "f", mounted.root / "g")
        assert proxy.counts("g$")["copy_part"] == 3
        assert proxy.counts()["copy"] == 0
        assert place.names() == ["g"]
        assert object_difference(place, "g", tmp_path / "local") is None
        assert carried(place, "g") == (CARRIED, TAGS)
        assert place.uploads() == []
        append(mounted.root / "g")
        assert object_difference(place, "g", tmp_path / "local") == LARGE
        assert place.head("g")["ContentLength"] == LARGE + 8
        assert carried(place, "g") == (CARRIED, TAGS)
        mounted.stop()


def test_options_decide_what_new_objects_carry(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """--tags are those of new files; --storage-class goes with every object that is stored."""
    place.put("old", b"x")
    mounted = mounts.start("--tags=team=a%20b&k=v", "--storage-class=STANDARD", endpoint_url=proxy.endpoint_url)
    (mounted.root / "new").write_bytes(b"x")
    (mounted.root / "large").write_bytes(bytes(LARGE))
    (mounted.root / "old").write_bytes(b"y")
    assert (tags(place, "new"), tags(place, "large"), tags(place, "old")) == (
        {"team": "a b", "k": "v"},
        {"team": "a b", "k": "v"},
        {},
    )
    stored = [
        seen
        for seen in proxy.requests()
        if seen.kind in ("put", "create_upload") and "/.s3mount/probe-" not in seen.key
    ]
    assert len(stored) == 3
    assert {seen.carried.get("x-amz-storage-class") for seen in stored} == {"STANDARD"}


def test_files_encrypted_with_a_customers_key_are_files(mounts: Mounts, place: Place, tmp_path: Path) -> None:
    """SSE-C: written, edited, renamed and read on a mount with the key; the key is in no log and no command line."""
    key = tmp_path / "key"
    key.write_bytes(secrets.token_hex(16).encode())
    key.chmod(0o600)
    option = f"--sse-customer-key-file={key}"
    mounted = mounts.start(option, "--log-level=debug")
    body = os.urandom(LARGE)
    (mounted.root / "d").mkdir()
    (mounted.root / "d/small").write_bytes(b"secret")
    (mounted.root / "large").write_bytes(body)
    append(mounted.root / "d/small")
    mounted.expect("store copies no parts")  # SeaweedFS has no UploadPartCopy of what is encrypted so
    append(mounted.root / "large")
    os.rename(mounted.root / "d/small", mounted.root / "renamed")
    with pytest.raises(Exception, match=r"400|InvalidArgument|Bad Request"):
        place.get("renamed")
    mounted.remount()
    assert (mounted.root / "renamed").read_bytes() == b"secretappended"
    assert (mounted.root / "large").read_bytes() == body + b"appended"
    assert sorted(os.listdir(mounted.root)) == ["d", "large", "renamed"]
    command = Path(f"/proc/{mounted.pid}/cmdline").read_text()
    assert key.read_text() not in mounted.log + mounted.stderr + command
    other = mounts.start()
    other.expect("customer's key", "customer provided keys", "InvalidArgument")
    with pytest.raises(OSError, match=r"Permission denied|Input/output error"):
        (other.root / "renamed").read_bytes()
