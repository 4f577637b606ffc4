"""What cannot start says so in one line: exit status 2 for words, 1 for everything else, nothing left mounted."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.mounting import Mounted, Mounts, Place, environment, run
from tests.e2e.watchdog import connection_of
from tests.proxy import FaultProxy, Rule
from tests.servers import free_ports

NOBODY = 65534


@dataclass(slots=True)
class Attempt:
    """One start of `s3mount mount` that must fail; its words can be replaced."""

    place: Place
    work: Path
    source: str = ""
    mountpoint: Path | None = None
    endpoint_url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()

    @property
    def root(self) -> Path:
        return self.mountpoint or self.work / "mnt"

    def refused(self, *options: str, status: int) -> str:
        """The one line it says."""
        (self.work / "mnt").mkdir(exist_ok=True)
        before = Path("/proc/self/mountinfo").read_text().count(str(self.work))
        done = subprocess.run(
            [
                *(*self.wrapper, sys.executable, "-m", "tests.e2e.entry", "mount"),
                *(self.source or self.place.url, str(self.root)),
                *(f"--endpoint-url={self.endpoint_url or self.place.server.endpoint_url}",),
                *(f"--cache-dir={self.work / 'cache'}", f"--log-file={self.work / 'log'}", *options),
            ],
            env={**environment(self.place.server), **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        log = self.work / "log"
        said = done.stderr + (log.read_text() if log.exists() else "")
        assert done.returncode == status, done
        assert "Traceback" not in said, said
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("s3mount: ")
        assert self.place.server.secret_key not in said
        assert Path("/proc/self/mountinfo").read_text().count(str(self.work)) == before
        assert not list((self.work / "mnt").iterdir())
        return done.stderr


@pytest.fixture
def attempt(place: Place, tmp_path: Path, mounts: Mounts) -> Attempt:
    return Attempt(place, tmp_path)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--part-size=5XB", "--part-size"),
        ("--part-size=1MiB", "--part-size"),
        ("--memory-limit=lots", "--memory-limit"),
        ("--staging-limit=-5MiB", "--staging-limit"),
        ("--staging-limit=6MiB", "--staging-limit"),
        ("--metadata-ttl=5parsecs", "--metadata-ttl"),
        ("--negative-ttl=soon", "--negative-ttl"),
        ("--max-cache-size=1MiB", "--max-cache-size"),
        ("--file-mode=rw", "--file-mode"),
        ("--uid=root", "--uid"),
        ("--log-level=chatty", "--log-level"),
        ("--no-such-option", "--no-such-option"),
        ("surplus", "surplus"),
    ],
)
def test_a_bad_word_is_named(attempt: Attempt, option: str, named: str) -> None:
    """A bad size, time, number, mode, level or an unknown option: exit status 2, one line that names it."""
    assert named in attempt.refused(option, status=2)


@pytest.mark.parametrize("source", ["bucket", "http://bucket", "s3://", "s3:///x", "s3://b/a//c", "s3://b/../c"])
def test_a_bad_source_is_explained(attempt: Attempt, source: str) -> None:
    """What is not s3://BUCKET[/PREFIX]: exit status 2."""
    attempt.source = source
    assert "SOURCE" in attempt.refused(status=2)


def test_a_bad_file_is_named(attempt: Attempt) -> None:
    """An unknown key, a bad value, or no TOML in the file, or no file, or an unknown variable: exit status 2."""
    path = attempt.work / "s3mount.toml"
    for text, named in (
        ("part-siez = '8MiB'", "part-siez"),
        ("part-size = 'x'", "part-size"),
        ("= what", "s3mount.toml"),
    ):
        path.write_text(text)
        assert named in attempt.refused(f"--config={path}", status=2)
    path.unlink()
    assert "s3mount.toml" in attempt.refused(f"--config={path}", status=2)
    attempt.environment["S3MOUNT_PART_SIEZ"] = "8MiB"
    assert "S3MOUNT_PART_SIEZ" in attempt.refused(status=2)


def test_missing_words_are_asked_for(place: Place) -> None:
    """No verb, no bucket, no mountpoint: exit status 2, one line."""
    for words in ([], ["mount"], ["mount", "s3://bucket"], ["umount"], ["fly"]):
        done = run(sys.executable, "-m", "tests.e2e.entry", *words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr


def test_an_unknown_bucket_is_named(attempt: Attempt) -> None:
    """Unknown bucket: exit status 1."""
    attempt.source = "s3://no-such-bucket-anywhere"
    assert "no-such-bucket-anywhere" in attempt.refused(status=1)


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key_is_said_to_be_wrong(attempt: Attempt, variable: str) -> None:
    """Wrong key: exit status 1, and the line is about credentials."""
    attempt.environment[variable] = "WRONGWRONGWRONGWRONG"
    assert re.search("key|credential|signature|access", attempt.refused(status=1), re.IGNORECASE)


def test_no_credentials_at_all_are_asked_for(attempt: Attempt) -> None:
    """No credentials anywhere: exit status 1, and the line is about credentials."""
    attempt.environment.update(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert "credentials" in attempt.refused(status=1)


def test_an_unreachable_endpoint_is_named(attempt: Attempt) -> None:
    """Unreachable endpoint: a closed port, a name that does not resolve: exit status 1."""
    (port,) = free_ports(1)
    attempt.endpoint_url = f"http://127.0.0.1:{port}"
    assert str(port) in attempt.refused(status=1)
    attempt.endpoint_url = "http://no-such-host.invalid"
    assert "no-such-host.invalid" in attempt.refused(status=1)


def test_a_skewed_clock_is_said_to_be_skewed(attempt: Attempt, proxy: FaultProxy) -> None:
    """Skewed clock: exit status 1, and the line says by how much."""
    proxy.add(Rule(fault="error", status=403, code="RequestTimeTooSkewed", date_shift_seconds=1200))
    attempt.endpoint_url = proxy.endpoint_url
    said = attempt.refused(status=1)
    assert "clock" in said
    found = re.search(r"\b(11[89]\d|120\d)\b", said)
    assert found, said


def test_a_bad_mountpoint_is_named(attempt: Attempt, mount: Mounted) -> None:
    """Mountpoint missing, not a directory, not empty, already mounted: exit status 1."""
    work = attempt.work
    (work / "file").write_text("")
    (work / "occupied").mkdir()
    (work / "occupied/entry").write_text("")
    for path, reason in (
        (work / "missing", "does not exist"),
        (work / "file", "not a directory"),
        (work / "occupied", "not empty"),
        (mount.root, "already mounted"),
    ):
        attempt.mountpoint = path
        said = attempt.refused(status=1)
        assert str(path) in said
        assert reason in said
    assert connection_of(mount.root) is not None
    assert os.listdir(mount.root) == []


def as_nobody(work: Path, device_mode: int) -> list[str]:
    """A command prefix: run as nobody, who may read every file but not more, with such a /dev/fuse."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    device = work / "fuse"
    os.mknod(device, stat.S_IFCHR | device_mode, os.stat("/dev/fuse").st_rdev)
    device.chmod(device_mode)
    for path in (work, work / "cache", work / "mnt"):
        path.mkdir(exist_ok=True)
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700)
    own = 'mount --make-rprivate / && mount --bind "$0" /dev/fuse && exec "$@"'
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # The interpreter may lie below a home directory: reading is allowed, writing and opening devices is not.
    become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"]
    return ["unshare", "--mount", "sh", "-c", own, str(device), *become]


def test_no_permission_on_the_device_is_explained(attempt: Attempt) -> None:
    """No permission on /dev/fuse: exit status 1, and the line names it."""
    attempt.wrapper = as_nobody(attempt.work, 0o600)
    said = attempt.refused(status=1)
    assert "/dev/fuse" in said
    assert "permission" in said


def test_allow_other_that_is_not_permitted_is_explained(attempt: Attempt) -> None:
    """`allow_other` not permitted: exit status 1, and the line names user_allow_other."""
    if "\nuser_allow_other" in "\n" + Path("/etc/fuse.conf").read_text():
        pytest.skip("this machine permits allow_other to everybody")
    attempt.wrapper = as_nobody(attempt.work, 0o666)
    assert "user_allow_other" in attempt.refused("--allow-other", status=1)
