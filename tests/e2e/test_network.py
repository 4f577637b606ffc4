"""Scenarios D on a real mount: a network that swallows, resets and refuses, a store that asks for patience, credentials
and certificates that end; each is bounded, explained, and over without a restart."""

import ctypes
import errno
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.material import MIB, Background
from tests.e2e.mounting import OUTAGE, Mounted, Mounts, Place, eventually, run, succeed
from tests.e2e.test_sick_store import errno_of
from tests.proxy import FaultProxy, Rule
from tests.servers import make_tls

IMPATIENT = ("--metadata-deadline=3s", "--stall-timeout=1s", "--retry-timeout=1s", "--metadata-ttl=60s")
BOUND_SECONDS = 60.0
"""What IMPATIENT promises is 3 s a request, of which `cp` makes five; the rest is for a machine that is busy."""
SYNC_FILE_RANGE_WRITE = 2
"""Has the kernel begin to write back, which it would in some seconds."""
FORGETFUL = ("--metadata-ttl=0s", "--negative-ttl=0s")

_libc = ctypes.CDLL(None, use_errno=True)


def outages(mounted: Mounted) -> list[str]:
    return [line for line in mounted.log.splitlines() if OUTAGE.search(line)]


def test_programs_in_a_black_hole_get_an_errno_in_time(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    """D1: network black-holed during ls, cat and cp: each returns an errno within the documented deadline; afterwards
    the same calls work without a restart."""
    place.put("known/f", b"content")
    place.put("unknown/g", b"content")
    (tmp_path / "source").write_bytes(b"x" * 1000)
    mounted = mounts.start(*IMPATIENT, endpoint_url=proxy.endpoint_url)
    mounted.expect(r"request failed operation=\w+ errno=EIO", "content dropped path=known/new")
    assert os.listdir(mounted.root / "known") == ["f"]
    commands = [
        ("ls", mounted.root / "unknown"),
        ("cat", mounted.root / "known/f"),
        ("cp", tmp_path / "source", mounted.root / "known/new"),
        ("mv", mounted.root / "known/f", mounted.root / "known/h"),
    ]
    done: dict[str, tuple[float, subprocess.CompletedProcess[str]]] = {}

    def attempt(command: tuple[str | Path, ...]) -> None:
        began = time.monotonic()
        found = run(*command)
        done[str(command[0])] = time.monotonic() - began, found

    proxy.add(Rule(fault="black_hole"))
    for thread in [Background(lambda command=command: attempt(command)) for command in commands]:  # type: ignore[misc]
        thread.result()
    for seconds, found in done.values():
        assert found.returncode in (1, 2), found
        assert seconds < BOUND_SECONDS
        assert "Input/output error" in found.stderr, found
    proxy.clear()
    # For a while after the last silence nobody waits for the next.
    assert eventually(lambda: run(*commands[0]).stdout == "g\n", 30)
    assert succeed(*commands[1]) == "content"
    succeed(*commands[2])
    succeed(*commands[3])
    assert place.files() == ["known/h", "known/new", "unknown/g"]


def test_df_and_mount_answer_while_the_store_does_not(mounts: Mounts, proxy: FaultProxy, place: Place) -> None:
    """D2: `df` and `mount` answer at once while the store is black-holed; free space is never 0."""
    place.put("d/f", b"content")
    mounted = mounts.start("--metadata-ttl=1s", "--retry-timeout=60s", endpoint_url=proxy.endpoint_url)
    os.listdir(mounted.root)
    proxy.forget()
    proxy.add(Rule(fault="black_hole"))
    listing = Background(lambda: _run("ls", mounted.root / "d"))
    assert eventually(lambda: proxy.requests() != [])
    shown = os.statvfs(mounted.root)
    assert shown.f_bavail * shown.f_frsize >= 1 << 50
    time.sleep(1.5)  # what is known of the root has to be looked at again: `df` opens it
    began = time.monotonic()
    assert int(succeed("df", "--output=avail", "-B1", mounted.root).split()[-1]) >= 1 << 50
    assert time.monotonic() - began < BOUND_SECONDS
    assert str(mounted.root) in succeed("mount")
    assert listing.is_alive()  # for a minute, if nobody helped it
    proxy.clear()
    listing.result()


def programs(mounted: Mounted, source: Path) -> list[Background]:
    """Programs under way. Of their own, for a child of this process would close, and so flush, what is open here."""
    commands = [
        ("ls", mounted.root / "d"),
        ("cat", mounted.root / "d/f"),
        ("cp", source, mounted.root / "large"),
        ("sh", "-c", f"printf ' and new' >> {mounted.root}/small"),
    ]
    return [Background(lambda command=command: _run(*command)) for command in commands]  # type: ignore[misc]


def prepare(mounts: Mounts, proxy: FaultProxy, place: Place, source: Path) -> Mounted:
    source.write_bytes(random.Random(4).randbytes(12 * MIB))
    place.put("d/f", b"content")
    place.put("small", b"old")
    return mounts.start("--retry-timeout=60s", endpoint_url=proxy.endpoint_url)


def check_stored(place: Place, source: Path) -> None:
    assert place.get("large") == source.read_bytes()
    assert place.get("small") == b"old and new"
    assert place.uploads() == []


def test_a_storm_costs_time_and_no_error(mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path) -> None:
    """D4: 503 or 429 for a while: everything slows down and succeeds."""
    source = tmp_path / "source"
    mounted = prepare(mounts, proxy, place, source)
    proxy.add(Rule(fault="error", kind="list", status=429, code="TooManyRequests"))
    proxy.add(Rule(fault="error", status=503, code="SlowDown"))
    threads = programs(mounted, source)
    time.sleep(2)
    assert all(thread.is_alive() for thread in threads)
    proxy.clear()
    for thread in threads:
        thread.result()
    check_stored(place, source)


def test_a_restart_of_the_server_costs_no_error_and_is_told_in_two_lines(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    """Refused and reset connections for some seconds; one line at the beginning of an outage and one at its end, and
    `status` tells it meanwhile."""
    source = tmp_path / "source"
    mounted = prepare(mounts, proxy, place, source)
    entry = (sys.executable, "-m", "tests.e2e.entry", "status")

    def outage() -> object:
        return json.loads(succeed(*entry, "--json", mounted.root))["store"]["outage"]

    proxy.down()
    threads = programs(mounted, source)
    assert eventually(lambda: bool(outages(mounted)), 30)
    assert all(thread.is_alive() for thread in threads)
    found = outage()
    assert isinstance(found, dict)
    assert found["since_seconds"] >= 5
    assert "connect" in found["reason"]
    assert "the store has not been reached for" in succeed(*entry, mounted.root)
    proxy.up()
    for thread in threads:
        thread.result()
    check_stored(place, source)
    assert outage() is None
    begun, ended = outages(mounted)
    assert re.search(r"store unreachable since=\S+Z reason=.*connect.* requests_waiting=\d+$", begun)
    assert re.search(r"store reachable again after_seconds=[\d.]+ failures=\d+$", ended)


def _run(*command: str | Path) -> None:
    succeed(*command)


def _absent(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        path.stat()


def test_connections_whose_other_end_is_gone_are_left_for_new_ones(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """Half-open: what is sent over them is never answered; it is asked again over another."""
    for name in ("d/f", "e/f"):
        place.put(name, b"content")
    mounted = mounts.start("--stall-timeout=1s", endpoint_url=proxy.endpoint_url)
    for name in ("d/f", "one", "two"):
        (mounted.root / name).exists()
    (mounted.root / "new").write_bytes(b"before")
    proxy.half_open()
    works: list[Callable[[], object]] = [
        (mounted.root / "e/f").read_bytes,
        (mounted.root / "d/f").read_bytes,
        lambda: (mounted.root / "new").write_bytes(b"after"),
    ]
    for thread in [Background(lambda work=work: work() and None) for work in works]:  # type: ignore[misc]
        thread.result(BOUND_SECONDS)
    assert place.get("new") == b"after"


def test_credentials_that_expire_in_the_middle_of_an_upload_are_renewed(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """D6: credentials expire in the middle of a multipart upload and are refreshed: it completes. Those that are not
    refreshed are EACCES, until they are."""
    server = place.server
    assert server.second is not None
    told = mounts.work / "credentials.json"

    def tell(access_key: str, secret_key: str) -> None:
        aside = told.with_suffix(".new")
        aside.write_text(json.dumps({"Version": 1, "AccessKeyId": access_key, "SecretAccessKey": secret_key}))
        aside.replace(told)

    tell(server.access_key, server.secret_key)
    (mounts.work / "aws-config").write_text(f"[default]\ncredential_process = cat {told}\n")
    mounted = mounts.start(*FORGETFUL, endpoint_url=proxy.endpoint_url, plant="own-aws-config")
    mounted.expect(r"request failed operation=\w+ errno=EACCES")
    body = random.Random(6).randbytes(27 * MIB)
    fd = os.open(mounted.root / "f", os.O_WRONLY | os.O_CREAT)
    half = 14 * MIB
    _write(fd, body[:half])
    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE)
    assert eventually(lambda: any(seen.status == 200 for seen in proxy.requests("/f$")), 60)
    tell(*server.second)
    proxy.add(Rule(fault="error", status=403, code="ExpiredToken", access_key=server.access_key))
    _write(fd, body[half:])
    os.close(fd)
    assert place.get("f") == body
    assert place.uploads() == []
    assert any(seen.status == 403 for seen in proxy.requests())
    # And where there are no others: until there are.
    proxy.add(Rule(fault="error", status=403, code="ExpiredToken", access_key=server.second[0]))
    with pytest.raises(PermissionError):
        (mounted.root / "unknown").stat()
    proxy.clear()
    proxy.add(Rule(fault="error", status=403, code="ExpiredToken", access_key=server.second[0]))
    tell(server.access_key, server.secret_key)
    assert eventually(lambda: _answers(mounted.root / "unknown"), 30)
    begun, ended = outages(mounted)
    assert "the credentials have expired" in begun
    assert "reachable again" in ended


def _write(fd: int, data: bytes) -> None:
    for start in range(0, len(data), MIB):
        os.write(fd, data[start : start + MIB])


def test_a_certificate_that_goes_bad_is_an_error_until_it_is_good_again(
    mounts: Mounts, proxy: FaultProxy, place: Place, tmp_path: Path
) -> None:
    """EIO and the reason, told once; a good certificate, or its authority's in our file, and all is well again."""
    good, other = make_tls(tmp_path / "good"), make_tls(tmp_path / "other")
    authorities = mounts.work / "authorities.pem"
    authorities.write_bytes(good.ca.read_bytes())
    server = place.server
    (mounts.work / "aws-config").write_text(
        f"[default]\nca_bundle = {authorities}\naws_access_key_id = {server.access_key}\n"
        f"aws_secret_access_key = {server.secret_key}\n"
    )
    place.put("f", b"content")
    mounted = mounts.start(*FORGETFUL, endpoint_url=proxy.present(good), plant="own-aws-config")
    mounted.expect(r"request failed operation=\w+ errno=EIO")
    assert (mounted.root / "f").read_bytes() == b"content"
    proxy.present(other)
    for number in range(3):
        assert errno_of(os.stat, mounted.root / f"absent{number}") == errno.EIO
    (begun,) = outages(mounted)
    assert "certificate" in begun
    proxy.present(good)
    _absent(mounted.root / "absent")
    proxy.present(other)
    assert errno_of(os.stat, mounted.root / "absent-too") == errno.EIO
    authorities.write_bytes(good.ca.read_bytes() + other.ca.read_bytes())
    assert eventually(lambda: _answers(mounted.root / "absent-as-well"), 30)


def _answers(path: Path) -> bool:
    return errno_of(os.stat, path) == errno.ENOENT
