"""Asking a mount: stat, url, status, refresh over the control socket, and what a bad client or a dead daemon does."""

import json
import os
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from s3mount import kernel
from s3mount.control import sockets
from tests.e2e.asking import asked, refused, s3mount, told
from tests.e2e.mounting import ROOT, Mounted, Mounts, Place, eventually, finish, hear, python
from tests.proxy import FaultProxy, Rule

NOBODY = 65534
HOSTILE = (
    *("plain", "sp ace", "plus+plus", "per%41cent", "ques?tion=1&x=y", "ha#sh", "quo\"te'", "semi;colon:", "a=b,c"),
    *("ümlaut", "e\u0301 decomposed", "emoji🎉", "new\nline", "\x01control", "~tilde", "[brackets]{}", "$(x)`y`", "…"),
)
HOLDER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
os.write(fd, b"new bytes")
print("holding", flush=True)
sys.stdin.read()
"""
UNMOUNTER = """
import os, sys
from pathlib import Path
from s3mount import daemon
from s3mount.errors import StartError
os.setuid(65534)
try:
    daemon.umount(Path(sys.argv[1]))
except StartError as error:
    print(error, flush=True)
"""
STRANGER = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect(sys.argv[1])
except PermissionError:
    print("shut out")
else:
    try:
        connection.sendall(b'{"verb": "status", "path": ""}\\n')
    except BrokenPipeError:
        pass  # refused before it has asked
    print(connection.makefile().readline())
"""


def fetched(address: str) -> bytes | int:
    """What is at an address, as a program without credentials sees it; the status when it is refused."""
    try:
        with urllib.request.urlopen(address, timeout=20) as reply:
            body: bytes = reply.read()
            return body
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def socket_of(mounted: Mounted) -> Path:
    found = kernel.mount_at(Path(os.path.realpath(mounted.root.parent)) / mounted.root.name)
    assert found is not None
    assert found.owner == os.geteuid()
    name = sockets.name_of(found.device)
    (path,) = (place / name for place in sockets.directories(os.geteuid()) if (place / name).exists())
    return path


def talk(path: Path, said: bytes, *, seconds: float = 20.0) -> bytes:
    """All the daemon says to `said` until it hangs up."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(str(path))
        with suppress(BrokenPipeError):  # it has heard enough
            connection.sendall(said)
        heard = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                heard += piece
        return heard


def test_stat_tells_what_the_bucket_has_and_what_the_mount_shows(mounts: Mounts, place: Place) -> None:
    etag = place.put(
        "d/photo.jpg",
        b"x" * 2000,
        ContentType="image/jpeg",
        CacheControl="max-age=60",
        Metadata={"camera": "a b"},
        Tagging="one=1&two=2",
    )
    mount = mounts.start()
    answer = asked("stat", mount.root / "d/photo.jpg")
    assert (answer["path"], answer["key"], answer["kind"]) == ("d/photo.jpg", place.prefix + "d/photo.jpg", "file")
    assert (answer["state"], answer["bucket"], answer["mountpoint"]) == ("stored", place.bucket, str(mount.root))
    found = answer["object"]
    assert (found["size"], found["etag"], found["metadata"]) == (2000, etag, {"camera": "a b"})
    assert found["headers"]["content-type"] == "image/jpeg"
    assert found["headers"]["cache-control"] == "max-age=60"
    assert found["tags"] == 2
    info = os.stat(mount.root / "d/photo.jpg")
    assert (int(answer["shown"]["mode"], 8), answer["shown"]["size"]) == (info.st_mode, info.st_size)
    assert answer["shown"]["mtime_ns"] == info.st_mtime_ns
    text = told("stat", mount.root / "d/photo.jpg")
    for word in (etag, "image/jpeg", "camera=a b", "-rw-r--r--", "2000 (2.0 KiB)"):
        assert word in text


def test_stat_of_a_directory_tells_of_marker_and_flag(mounts: Mounts, place: Place) -> None:
    place.put("implicit/file", b"x")
    place.put("flagged/.s3mount-attrs", b"")
    place.put("flagged/file", b"")
    mount = mounts.start()
    (mount.root / "made").mkdir()
    made, implicit, flagged = (asked("stat", mount.root / name) for name in ("made", "implicit", "flagged"))
    assert (made["kind"], made["key"], made["flag"]) == ("directory", place.prefix + "made/", False)
    assert made["object"]["headers"]["content-type"] == "application/x-directory"
    assert (implicit["object"], implicit["flag"]) == (None, False)
    assert flagged["flag"] is True
    assert asked("stat", mount.root)["path"] == ""
    assert "marker             no" in told("stat", mount.root / "implicit")


def test_stat_and_url_say_of_a_file_under_a_program_what_is_not_stored(mounts: Mounts, place: Place) -> None:
    place.put("old", b"old bytes!")
    mount = mounts.start()
    os.stat(mount.root / "old")
    holders = [python(HOLDER, mount.root / name) for name in ("new", "old")]
    try:
        assert [hear(holder) for holder in holders] == ["holding"] * 2
        os.stat(mount.root / "new")
        new, old = asked("stat", mount.root / "new"), asked("stat", mount.root / "old")
        assert (new["state"], new["object"]) == ("not stored", None)
        assert "not stored yet" in refused("url", mount.root / "new")
        assert (old["state"], old["object"]["size"]) == ("changed", 10)
        address = s3mount("url", mount.root / "old")
        assert address.returncode == 0
        assert "not stored yet" in address.stderr
        assert fetched(address.stdout.strip()) == b"old bytes!"
    finally:
        for holder in holders:
            finish(holder)


def test_what_another_client_deleted_is_told_as_gone(mounts: Mounts, place: Place) -> None:
    place.put("file", b"x")
    mount = mounts.start("--metadata-ttl=60s")
    os.stat(mount.root / "file")
    place.delete("file")
    assert asked("stat", mount.root / "file")["state"] == "gone"


@pytest.mark.parametrize("name", HOSTILE)
def test_an_address_fetches_exactly_the_bytes_whatever_the_name(
    mounts: Mounts, place: Place, name: str, tmp_path: Path
) -> None:
    body = name.encode() * 100
    place.put(f"dir {name}/{name}", body)
    mount = mounts.start()
    address = told("url", mount.root / f"dir {name}" / name).strip()
    assert address.isascii()
    assert place.server.secret_key not in address
    parts = urlsplit(address)
    assert parse_qs(parts.query)["X-Amz-Expires"] == ["900"]
    assert fetched(address) == body


def test_an_address_is_for_one_object_and_for_a_time(mounts: Mounts, place: Place) -> None:
    place.put("a", b"a")
    place.put("b", b"b")
    mount = mounts.start()
    address = told("url", "--expires", "1s", mount.root / "a").strip()
    assert fetched(address.replace("/a?", "/b?")) == 403
    time.sleep(2.5)
    assert fetched(address) == 403
    assert "X-Amz-Expires=604800" in told("url", "--expires", "7d", mount.root / "a")
    assert "is a directory" in refused("url", mount.root)
    assert "there is no nothing" in refused("url", mount.root / "nothing")


def test_a_mount_with_a_public_url_gives_addresses_below_it(mounts: Mounts, place: Place) -> None:
    place.put("d/a b?c", b"x")
    mount = mounts.start("--public-url=https://cdn.example.com")
    assert told("url", mount.root / "d/a b?c") == f"https://cdn.example.com/{quote(place.prefix)}d/a%20b%3Fc\n"


def test_status_tells_how_the_mount_is_doing(mounts: Mounts, place: Place) -> None:
    mount = mounts.start()
    (mount.root / "file").write_bytes(b"x")
    holder = python(HOLDER, mount.root / "held")
    try:
        assert hear(holder) == "holding"
        answer = asked("status", mount.root)
        assert answer["mount"]["source"] == place.url.rstrip("/")
        assert (answer["mount"]["mountpoint"], answer["mount"]["pid"]) == (str(mount.root), mount.pid)
        assert 0 <= answer["uptime_seconds"] < 100
        files, store, storage = answer["files"], answer["store"], answer["storage"]
        assert (files["dirty_files"], files["handles_for_writing"]) == ({"count": 1, "paths": ["held"]}, 1)
        assert files["hidden_keys"] == {"count": 0, "prefixes": {}}
        assert store["endpoint"] == place.server.endpoint_url
        assert store["requests"]["put"] >= 1
        answers = {(told["operation"], told["status"]): told["count"] for told in store["answers"]}
        assert 1 <= answers["put", 200] < store["requests"]["put"] == answers["put", 200] + answers["put", 412]
        assert storage["staging"]["max_bytes"] > 0
        assert storage["memory"]["max_bytes"] == 512 << 20
        assert answer["abilities"]["put_if_absent"] is True
        text = told("status", mount.root)
        for word in (place.url.rstrip("/"), f"pid {mount.pid}", "held", place.server.endpoint_url, "512.0 MiB"):
            assert word in text, text
    finally:
        finish(holder)


def test_nothing_that_is_told_has_a_secret_in_it(mounts: Mounts, place: Place) -> None:
    place.put("f", b"x")
    mount = mounts.start()
    everything = told("status", mount.root) + told("status", "--json", mount.root) + told("stat", mount.root / "f")
    assert place.server.secret_key not in everything
    assert place.server.access_key not in everything


def test_refresh_shows_what_others_changed_though_it_was_believed_for_long(mounts: Mounts, place: Place) -> None:
    place.put("d/sub/changed", b"1")
    place.put("d/removed", b"1")
    mount = mounts.start("--metadata-ttl=10m", "--negative-ttl=10m")
    changed, removed, added = mount.root / "d/sub/changed", mount.root / "d/removed", mount.root / "d/added"
    assert (changed.stat().st_size, removed.exists(), added.exists()) == (1, True, False)
    assert sorted(os.listdir(mount.root / "d")) == ["removed", "sub"]
    place.put("d/sub/changed", b"22")
    place.put("d/added", b"1")
    place.delete("d/removed")
    assert (changed.stat().st_size, removed.exists(), added.exists()) == (1, True, False)
    assert told("refresh", mount.root / "d") == ""
    assert sorted(os.listdir(mount.root / "d")) == ["added", "sub"]
    assert (changed.stat().st_size, removed.exists()) == (2, False)
    assert told("refresh", added) == ""  # the kernel's own memory of an absence is reached by its name
    assert added.exists()


def test_refresh_loses_nothing_that_only_the_mount_has(mount: Mounted, place: Place) -> None:
    (mount.root / "d").mkdir()
    holder = python(HOLDER, mount.root / "d/held")
    try:
        assert hear(holder) == "holding"
        assert told("refresh", mount.root) == ""
        assert os.listdir(mount.root / "d") == ["held"]
    finally:
        finish(holder)
    assert eventually(lambda: "d/held" in place.names())
    assert place.get("d/held") == b"new bytes"
    assert (mount.root / "d/held").read_bytes() == b"new bytes"


def test_refresh_of_attributes_puts_the_flags_that_another_program_did_not(mounts: Mounts, place: Place) -> None:
    place.put("d/script", b"x", Metadata={"mode": str(0o100755), "uid": "7"})
    place.put("d/sub/plain", b"x")
    mount = mounts.start()
    assert told("refresh", "--attributes", mount.root / "d") == (
        "2 objects in 3 directories were looked at: 1 flags put, 0 taken away, 0 changed\n"
    )
    assert [name for name in place.names() if ".s3mount-attrs" in name] == ["d/.s3mount-attrs"]
    assert asked("stat", mount.root / "d/script")["special"] == {"mode": "100755", "uid": 7}
    assert "mode=100755 uid=7" in told("stat", mount.root / "d/script")
    assert "d/script" in refused("refresh", "--attributes", mount.root / "d/script")
    assert asked("stat", mount.root / "d")["flag"] is True


def test_a_path_is_found_through_links_and_from_within(mounts: Mounts, place: Place, tmp_path: Path) -> None:
    place.put("d/file", b"x")
    mount = mounts.start()
    (tmp_path / "link").symlink_to(mount.root)
    (tmp_path / "deep").symlink_to("link/d")
    for path, cwd in (
        (tmp_path / "link/d/file", ROOT),
        (tmp_path / "deep/file", ROOT),
        (Path("../d//./file"), mount.root / "d"),
    ):
        assert json.loads(told("stat", "--json", path, cwd=cwd))["path"] == "d/file"
    assert "is not below a mount of s3mount" in refused("stat", tmp_path / "nothing")
    assert "is not below a mount of s3mount" in refused("status", "/")
    assert "not a directory" in refused("stat", mount.root / "d/file/below")


def test_two_mounts_answer_each_for_itself_and_tidy_up(mounts: Mounts, place: Place) -> None:
    place.put("one/f", b"1")
    first = mounts.start()
    second = mounts.start(place=Place(place.server, place.bucket, place.prefix + "one/"))
    assert asked("stat", first.root / "one/f")["path"] == "one/f"
    assert asked("stat", second.root / "f")["path"] == "f"
    assert asked("status", second.root)["mount"]["pid"] == second.pid
    paths = [socket_of(first), socket_of(second)]
    assert paths[0] != paths[1]
    first.stop()
    assert not paths[0].exists()
    assert asked("status", second.root)["mount"]["pid"] == second.pid


def test_a_dead_daemon_is_told_in_one_line_and_replaced(mount: Mounted) -> None:
    path = socket_of(mount)
    mount.crash()
    assert path.exists()
    for verb in ("stat", "url", "refresh", "status"):
        assert "has died: mounting again takes the mountpoint over" in refused(verb, mount.root / "file")
    mount.start()
    assert asked("status", mount.root)["mount"]["pid"] == mount.pid


def test_a_daemon_that_stands_still_is_told_in_one_line(mount: Mounted) -> None:
    mount.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert "does not answer within 5 s" in refused("status", mount.root)
        assert time.monotonic() - began < 15
    finally:
        mount.signal(signal.SIGCONT)
    assert asked("status", mount.root)["mount"]["pid"] == mount.pid


def test_the_daemon_answers_while_programs_wait_for_a_store_that_does_not(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    place.put("d/file", b"x")
    mount = mounts.start(endpoint_url=proxy.endpoint_url)
    proxy.add(Rule(delay_seconds=7.0))
    waiting = subprocess.Popen(["stat", mount.root / "d/missing"], stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: any(not request.ended for request in proxy.requests()))
        began = time.monotonic()
        assert asked("status", mount.root)["mount"]["pid"] == mount.pid
        assert time.monotonic() - began < 5
        # That it is worked on is said every second: a patience of 5 s is enough for an answer that takes longer.
        assert asked("stat", mount.root / "d/file")["path"] == "d/file"
        assert time.monotonic() - began > 5
    finally:
        waiting.wait(60)


def test_the_socket_is_its_users_alone(mount: Mounted) -> None:
    path = socket_of(mount)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_another_user_is_refused_even_where_the_file_lets_him_in(mount: Mounted) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    path = socket_of(mount)
    stranger = python(STRANGER, path)
    assert hear(stranger) == "shut out"
    finish(stranger)
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    try:
        path.parent.chmod(0o711)
        path.chmod(0o666)
        stranger = python(STRANGER, path)
        reply = json.loads(hear(stranger))
        finish(stranger)
    finally:
        path.parent.chmod(mode)
    assert reply["errno"] == 13
    assert str(NOBODY) in reply["error"]
    mount.expect("control connection was refused uid=65534")


def test_who_has_not_mounted_it_is_told_whose_it_is(mount: Mounted) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    other = python(UNMOUNTER, mount.root)
    assert "was mounted by user 0: only that user and root unmount it" in hear(other)
    finish(other)
    assert socket_of(mount).exists()


def test_garbage_and_a_thousand_half_open_connections_harm_nothing(mount: Mounted) -> None:
    path = socket_of(mount)
    before = len(os.listdir(f"/proc/{mount.pid}/fd"))
    for said in (b"\n", b"\0" * 100 + b"\n", b"[" * 60_000 + b"\n", b"[]\n", b'{"verb": 1}\n', b"\xff\xfe\n"):
        assert json.loads(talk(path, said))["errno"] == 22
    assert b"one line" in talk(path, b"x" * 200_000)
    assert json.loads(talk(path, b'{"verb": "stat", "path": "\\ud800"}\n'))["errno"] == 22
    assert json.loads(talk(path, b'{"verb": "stat", "path": "\\udcff"}\n'))["errno"] == 2
    assert "status" in json.loads(talk(path, b'{"verb": "format"}\n'))["error"]
    with ExitStack() as stack:
        for _ in range(1000):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(path))
            with suppress(BrokenPipeError):  # put out already
                connection.sendall(b'{"verb": ')
        assert asked("status", mount.root)["mount"]["pid"] == mount.pid
        assert len(os.listdir(f"/proc/{mount.pid}/fd")) < before + 100
    assert eventually(lambda: len(os.listdir(f"/proc/{mount.pid}/fd")) <= before + 2)
    # One that says nothing is let go of in time.
    assert talk(path, b"") == b""
