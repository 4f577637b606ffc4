"""What the end-to-end tests mount and look at: a place in a bucket, a daemon that serves it, programs that use it.

Nothing here touches a mountpoint without the watchdog's knowledge: waiting for a mount reads /proc/self/mountinfo only.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.watchdog import Watchdog, connection_of, detach
from tests.servers import Server, boto

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
PROBE_SECONDS = 5.0
STOP_SECONDS = 90.0
RUN_SECONDS = 120.0
MOUNTED = re.compile(r's3mount\.daemon mounted |"s3mount\.daemon","message":"mounted"')
TOLD = re.compile(
    r"\b(WARNING|ERROR|CRITICAL)\b|\"level\":\"(warning|error|critical)\"|Traceback \(most recent call last\)"
)

OUTAGE = re.compile(r" store (unreachable|reachable again) ")
"""Told of what a test lasts long enough; what comes of it is told line by line, too."""


def run(
    *command: str | Path, cwd: Path | None = None, seconds: float = RUN_SECONDS
) -> "subprocess.CompletedProcess[str]":
    """Run an ordinary program; its output is text, names escaped as Python does."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        timeout=seconds,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )


def succeed(*command: str | Path, cwd: Path | None = None, seconds: float = RUN_SECONDS) -> str:
    """Run a program that must exit 0 without a word on standard error; its output."""
    done = run(*command, cwd=cwd, seconds=seconds)
    assert (done.returncode, done.stderr) == (0, ""), f"{command}: exit {done.returncode}: {done.stderr}"
    return done.stdout


def python(code: str, *arguments: str | Path) -> "subprocess.Popen[str]":
    """A Python program of its own, with pipes: for what must not be pytest's process (maps, forks, being killed)."""
    return subprocess.Popen(
        [sys.executable, "-I", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: "subprocess.Popen[str]") -> str:
    """The next line a program says; the watchdog frees us when it never comes."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def finish(process: "subprocess.Popen[str]", seconds: float = RUN_SECONDS) -> int:
    """Close a program's pipes after it ended; its exit status."""
    process.communicate(timeout=seconds)
    return process.returncode


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it came true in time; for what the kernel does after a call has returned (RELEASE)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix of a bucket, looked at with plain boto3; names are below the prefix."""

    server: Server
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def names(self) -> list[str]:
        """All keys, sorted, without the prefix."""
        pages = boto(self.server).get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return sorted(found["Key"][len(self.prefix) :] for page in pages for found in page.get("Contents", ()))

    def files(self) -> list[str]:
        """The keys that are no markers."""
        return [key for key in self.names() if not key.endswith("/")]

    def get(self, name: str) -> bytes:
        body: bytes = boto(self.server).get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        return body

    def head(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = boto(self.server).head_object(Bucket=self.bucket, Key=self.prefix + name)
        return found

    def put(self, name: str, body: bytes = b"", **headers: Any) -> str:
        """Store an object as a foreign program would; its etag."""
        etag: str = boto(self.server).put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body, **headers)[
            "ETag"
        ]
        return etag

    def delete(self, name: str) -> None:
        boto(self.server).delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def uploads(self) -> list[str]:
        """The keys of multipart uploads that are open."""
        found = boto(self.server).list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix)
        return [upload["Key"][len(self.prefix) :] for upload in found.get("Uploads", ())]


@dataclass(slots=True)
class Mounted:
    """One daemon in the foreground and its mount. The mutable state is the process and the log lines it may write."""

    place: Place
    work: Path
    """A directory of its own: mountpoint, cache, log, stacks."""
    watchdog: Watchdog
    options: Sequence[str] = ()
    endpoint_url: str | None = None
    plant: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    expected: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.work / "mnt"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        path = self.work / "s3mount.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def stderr(self) -> str:
        path = self.work / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    def command(self) -> list[str]:
        endpoint = self.endpoint_url or self.place.server.endpoint_url
        return [
            *(sys.executable, str(ROOT / "tests/e2e/launch.py"), str(self.work / "stacks"), self.plant),
            *("mount", self.place.url, str(self.root), "--foreground", f"--endpoint-url={endpoint}"),
            *(f"--cache-dir={self.work / 'cache'}", f"--log-file={self.work / 's3mount.log'}", *self.options),
        ]

    def start(self) -> "Mounted":
        """Mount, and return when the mount serves; a dead one that a crash has left is taken over."""
        times = len(MOUNTED.findall(self.log))
        if connection_of(self.root) is None:
            self.root.mkdir(parents=True, exist_ok=True)
        with (self.work / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=environment(self.place.server),
            )
        self.watchdog.guard(self.process.pid, self.root, self.work / "stacks")
        deadline = time.monotonic() + START_SECONDS
        while connection_of(self.root) is None or len(MOUNTED.findall(self.log)) == times:
            status = self.process.poll()
            assert status is None, f"s3mount ended with status {status}: {self.stderr}\n{self.log}"
            assert time.monotonic() < deadline, f"s3mount did not mount in time: {self.stderr}\n{self.log}"
            time.sleep(0.01)
        # What it tries in the background is no request of the test's. A sick store is not waited for.
        deadline = min(deadline, time.monotonic() + PROBE_SECONDS)
        while not self._has_probed() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self

    def _has_probed(self) -> bool:
        cache = next(word for word in reversed(self.command()) if word.startswith("--cache-dir="))
        found = [path.read_text() for path in Path(cache.partition("=")[2]).glob("stores/*.json")]
        sought = ('"delete_many": null', '"put_if_absent": null', '"rename": null', '"ghosts": null')
        known = any(not any(word in text for word in sought) for text in found)
        return known or "--read-only" in self.options or "was not probed" in self.log

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def expect(self, *patterns: str) -> None:
        """Log lines that match one of these may be warnings or errors."""
        self.expected += patterns

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """The daemon's exit status."""
        assert self.process is not None
        status = self.process.wait(seconds)
        self.watchdog.unguard(self.process.pid)
        return status

    def stop(self) -> None:
        """End it as an administrator would: SIGTERM, exit 0, unmounted, a clean log."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        status = self.wait()
        assert status == 0, f"exit {status}: {self.stderr}\n{self.log}"
        assert connection_of(self.root) is None, "still mounted"
        self.check_log()

    def remount(self) -> None:
        """A new daemon at the same place: nothing remembered but what is in the bucket."""
        self.stop()
        self.start()

    def crash(self) -> None:
        """kill -9: the mountpoint is dead until the next start."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def kill(self) -> None:
        """Free everything whatever state it is in."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.watchdog.unguard(self.process.pid)
        detach(self.root)

    def check_log(self) -> None:
        """Fails on warnings, errors and tracebacks nobody expected, and on anything said on standard error."""
        told = [line for line in self.log.splitlines() if TOLD.search(line) and not OUTAGE.search(line)]
        unexpected = [line for line in told if not any(re.search(pattern, line) for pattern in self.expected)]
        assert not unexpected, "unexpected log lines:\n" + "\n".join(unexpected[:20])
        said = [
            line for line in self.stderr.splitlines() if not any(re.search(pattern, line) for pattern in self.expected)
        ]
        assert not said, "the daemon said on standard error:\n" + "\n".join(said[:20])


def environment(server: Server) -> dict[str, str]:
    """What a daemon of the tests finds in its environment: credentials of `server` and nothing of ours."""
    return {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_DEFAULT_REGION": server.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        # A request that fails is asked six times: what a test breaks for good shall not take a minute to be told.
        "S3MOUNT_RETRY_TIMEOUT": "0s",
    }


@dataclass(slots=True)
class Mounts:
    """Makes mounts for one test and ends them. The mutable state is the list of those made."""

    place: Place
    work: Path
    watchdog: Watchdog
    made: list[Mounted] = field(default_factory=list)

    def start(
        self, *options: str, endpoint_url: str | None = None, place: Place | None = None, plant: str = ""
    ) -> Mounted:
        """A mount of the test's place, or of another one, with a cache directory of its own."""
        return self.prepare(*options, endpoint_url=endpoint_url, place=place, plant=plant).start()

    def prepare(
        self, *options: str, endpoint_url: str | None = None, place: Place | None = None, plant: str = ""
    ) -> Mounted:
        """The same, not started yet."""
        work = self.work / f"mount{len(self.made)}"
        (work / "mnt").mkdir(parents=True)
        mounted = Mounted(place or self.place, work, self.watchdog, options, endpoint_url, plant)
        self.made.append(mounted)
        return mounted

    def stop(self) -> None:
        """Stop what runs and check every log; everything is freed even when one of them is not as it should be."""
        try:
            for mounted in self.made:
                if mounted.process is not None and mounted.process.poll() is None:
                    mounted.stop()
                else:
                    mounted.check_log()
        finally:
            self.kill()

    def kill(self) -> None:
        for mounted in self.made:
            mounted.kill()


def grow_old() -> None:
    """Wait until what was put just now is no young entry any more: of those attributes are asked for, because their
    directory may have been flagged meanwhile."""
    time.sleep(3.1)
