"""A Docker daemon of the tests' own, without a network of its own, and the image that stands for Debian's.

Everything it makes is below one directory: data, sockets, the pid file. The mutable state is the daemon's process and
what it keeps there; `stop` leaves nothing of it, mounts included. No registry is asked: the base image comes from
Debian's mirror by debootstrap. Needs root. Nothing here knows s3mount.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE = "debian:bookworm-slim"
MIRROR = "http://deb.debian.org/debian"
AUTHORITIES = Path("usr/local/share/ca-certificates")
START_SECONDS = 30.0
STOP_SECONDS = 30.0
BUILD_SECONDS = 1800.0
COMMAND_SECONDS = 180.0
PR_SET_PDEATHSIG = 1
DRIVERS = ("overlay2", "vfs")
"""In this order: vfs copies every layer whole, and works everywhere."""

_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """Docker cannot run here; the text says in one line what is missing."""


@dataclass(slots=True)
class Engine:
    """dockerd with its data below `directory`, and its command line."""

    directory: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    driver: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """For docker and compose: this daemon, and the builder that needs no plugin."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))}
        return kept | {"DOCKER_HOST": f"unix://{self.directory}/docker.sock", "DOCKER_BUILDKIT": "0"}

    def start(self) -> None:
        """Return when it answers. Raises Unavailable."""
        if os.geteuid() != 0:
            raise Unavailable("root is needed to start a Docker daemon")
        for program in ("dockerd", "docker", "debootstrap"):
            if shutil.which(program) is None:
                raise Unavailable(f"there is no {program}: apt-get install docker.io debootstrap")
        for self.driver in DRIVERS:
            if self._starts():
                return
            self.stop()
        raise Unavailable(f"dockerd does not start: {self._last_words()}")

    def _starts(self) -> bool:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("dockerd", "--bridge=none", "--iptables=false", f"--storage-driver={self.driver}"),
                    *(f"--data-root={self.directory}/data", f"--exec-root={self.directory}/exec"),
                    *(f"--host=unix://{self.directory}/docker.sock", f"--pidfile={self.directory}/docker.pid"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the tests' to handle: they still need it to clean up
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),  # noqa: PLW1509 - one prctl
            )
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.run("version", check=False).returncode == 0:
                return True
            time.sleep(0.1)
        return False

    def _last_words(self) -> str:
        lines = (self.directory / "log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it says nothing"

    def stop(self) -> None:
        """End all containers and the daemon, undo its mounts, delete its data; harmless when it does not run."""
        if self.process is not None and self.process.poll() is None:
            made = self.run("ps", "--all", "--quiet", check=False).stdout.split()
            if made:
                self.run("rm", "--force", "--volumes", *made, check=False)
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_SECONDS)
        self.process = None
        detach_below(self.directory)
        for name in ("data", "exec"):
            shutil.rmtree(self.directory / name, ignore_errors=True)

    def run(
        self, *words: str | Path, check: bool = True, seconds: float = COMMAND_SECONDS
    ) -> "subprocess.CompletedProcess[str]":
        """One docker command."""
        return command(["docker", *map(str, words)], self.environment, check=check, seconds=seconds)

    def inspect(self, name: str) -> dict[str, Any]:
        """What the daemon tells of a container or an image."""
        found: list[dict[str, Any]] = json.loads(self.run("inspect", name).stdout)
        return found[0]

    def shell(self, name: str, script: str) -> str:
        """What a script prints in a container, as the user that the container runs as."""
        return self.run("exec", name, "sh", "-c", script).stdout

    def import_debian(self, work: Path) -> None:
        """Make the image BASE, trusting the authorities that this machine trusts. Raises Unavailable."""
        tree = work / "debian"
        with (work / "debootstrap.log").open("wb") as log:
            options = ["--variant=minbase", "--include=ca-certificates", "bookworm", str(tree), MIRROR]
            done = subprocess.run(["debootstrap", *options], stdout=log, stderr=log, timeout=BUILD_SECONDS)
        if done.returncode != 0:
            raise Unavailable(f"debootstrap failed, is {MIRROR} reachable? see {log.name}")
        if (Path("/") / AUTHORITIES).is_dir():
            for authority in (Path("/") / AUTHORITIES).glob("*.crt"):
                shutil.copy(authority, tree / AUTHORITIES)
            command(["chroot", str(tree), "update-ca-certificates"], os.environ)
        shutil.rmtree(tree / "var/cache/apt", ignore_errors=True)
        with subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["docker", "import", "-", BASE],
                stdin=tar.stdout,
                env=self.environment,
                check=True,
                capture_output=True,
                timeout=BUILD_SECONDS,
            )
        shutil.rmtree(tree)


def command(
    words: Sequence[str], environment: Mapping[str, str], *, check: bool = True, seconds: float = COMMAND_SECONDS
) -> "subprocess.CompletedProcess[str]":
    """Run a program; its last words are the failure's text."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=seconds)
    assert not check or done.returncode == 0, (
        f"{words}: exit {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    )
    return done


def compose_command() -> list[str]:
    """`docker compose`, or its first generation. Raises Unavailable."""
    if command(["docker", "compose", "version"], os.environ, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        raise Unavailable("there is no compose: apt-get install docker-compose")
    return ["docker-compose"]


def mounts_below(directory: Path) -> list[Path]:
    """Mountpoints in this namespace at a directory and below, the last mounted first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [Path(line.split(" ")[4].encode().decode("unicode_escape")) for line in lines]
    return [path for path in reversed(found) if path.is_relative_to(directory)]


def detach_below(directory: Path) -> None:
    for path in mounts_below(directory):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["umount", "--lazy", str(path)], capture_output=True, timeout=COMMAND_SECONDS)
