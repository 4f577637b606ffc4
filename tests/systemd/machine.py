"""A Debian tree with s3mount's requirements, and a machine that boots it: systemd as process 1, beside this one.

The tree is made once (debootstrap, apt, pip) and kept where the caller says. A machine boots it under an overlay in
memory: nothing it does reaches the tree. It shares the network, so that a server on this host's loopback is its own.
systemd-nspawn runs it, whether this host is run by systemd or not; it gets control groups of its own, because a systemd
that finds processes in the group it takes for the root moves them. The state is the process and the groups.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[2]
RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
FIRST_PACKAGES = ("systemd", "systemd-sysv", "dbus", "ca-certificates")
PACKAGES = ("fuse3", "libfuse3-dev", "pkg-config", "gcc", "libc6-dev", "python3-dev", "python3-venv", "procps")
AUTHORITIES = Path("etc/ssl/certs/ca-certificates.crt")
PREFIX = "/opt/s3mount"
POWER_OFF = signal.SIGRTMIN + 4
BOOT_SECONDS = 90.0
RUN_SECONDS = 120.0
FIRST_BOOT_UNITS = ("systemd-firstboot.service", "systemd-logind.service", "getty.target", "systemd-timesyncd.service")


class MachineError(Exception):
    """The machine cannot be made or booted."""


def make_tree(tree: Path) -> None:
    """Have a Debian tree at this path with all that s3mount needs; quick when it is there. Raises MachineError."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = sha256(
        repr((RELEASE, FIRST_PACKAGES, PACKAGES, setup["options"]["install_requires"])).encode()
    ).hexdigest()
    stamp = tree / "root/.s3mount-test-tree"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if tree.exists() and any(tree.iterdir()) and not stamp.exists():
        raise MachineError(f"{tree} has something else in it: name a directory that is empty or not there")
    if not stamp.exists():
        included = ",".join(FIRST_PACKAGES)
        succeed("debootstrap", "--variant=minbase", f"--include={included}", RELEASE, str(tree), MIRROR)
        stamp.write_text("begun")
    authorities = Path("/") / AUTHORITIES
    if authorities.exists():  # of a proxy between us and the package index, too
        shutil.copyfile(authorities, tree / AUTHORITIES)
    inside(tree, "apt-get", "-qq", "-y", "install", "--no-install-recommends", *PACKAGES)
    requirements = [line for line in setup["options"]["install_requires"].split("\n") if line]
    inside(tree, "python3", "-m", "venv", PREFIX)
    inside(tree, f"{PREFIX}/bin/pip", "install", "-q", "--disable-pip-version-check", *requirements)
    for unit in FIRST_BOOT_UNITS:
        inside(tree, "systemctl", "mask", unit)
    stamp.write_text(wanted)


def remove(directory: Path) -> None:
    """Remove a directory and all below it, when nothing is mounted there any more: debootstrap that was interrupted
    leaves /proc and /sys in its tree. Raises MachineError."""
    for mountpoint in reversed(_mountpoints_below(directory)):
        subprocess.run(["umount", mountpoint], capture_output=True)
    if left := _mountpoints_below(directory):
        raise MachineError(f"{directory} was not removed: {', '.join(left)} are mounted")
    shutil.rmtree(directory)


def _mountpoints_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if (point := line.split(" ")[4]).startswith(f"{directory}/")]


def inside(tree: Path, *command: str) -> None:
    """Run a command in a tree that is not booted, which may change it."""
    settings = {name: word for name, word in os.environ.items() if name.startswith("PIP_INDEX") or "_proxy" in name}
    settings |= {"DEBIAN_FRONTEND": "noninteractive", "PIP_CERT": f"/{AUTHORITIES}"}
    given = [f"--setenv={name}={word}" for name, word in settings.items()]
    nspawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe", "--resolv-conf=copy-host"]
    with control_groups() as enter:
        succeed(*nspawn, *given, f"--directory={tree}", *command, enter=enter)


def succeed(*command: str, enter: Callable[[], None] | None = None) -> None:
    print(f"   {' '.join(command)[:110]}", flush=True)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=enter,
    )
    if done.returncode != 0:
        raise MachineError(f"{command[0]} ended with status {done.returncode}: {done.stdout[-2000:]}")


@contextmanager
def control_groups() -> Iterator[Callable[[], None]]:
    """Control groups of our own in the hierarchies that systemd uses; what a child calls to be put into them."""
    name = f"s3mount-test-{secrets.token_hex(4)}"
    made: list[Path] = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            top = next((at for at in _hierarchies(controllers) if (at / "cgroup.procs").exists()), None)
            if top is not None:
                made.append(top / path.lstrip("/") / name)
                made[-1].mkdir()

    def enter() -> None:
        for group in made:
            (group / "cgroup.procs").write_text("0")

    try:
        yield enter
    finally:
        for group in made:
            remove_group(group)


def _hierarchies(controllers: str) -> Sequence[Path]:
    base = Path("/sys/fs/cgroup")
    return (base / "systemd",) if controllers else (base / "unified", base)


def remove_group(group: Path) -> None:
    """Remove a control group and those below it, when the last process is out of them."""
    deadline = time.monotonic() + 20.0
    while group.exists():
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        if time.monotonic() > deadline:
            raise MachineError(f"{group} is still in use")
        time.sleep(0.05)


class Machine:
    """A booted tree. The state: the process of systemd-nspawn, and the pid of its systemd."""

    def __init__(self, process: "subprocess.Popen[bytes]", leader: int, log: Path) -> None:
        self._process = process
        self._leader = leader
        self._log = log

    @property
    def root(self) -> Path:
        """Its file system, as seen from here."""
        return Path(f"/proc/{self._leader}/root")

    def run(self, *command: str, seconds: float = RUN_SECONDS) -> "subprocess.CompletedProcess[str]":
        """Run a command in it as its administrator would."""
        enter = ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
        path = f"PATH={PREFIX}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            [*enter, "env", "-i", path, "LC_ALL=C.UTF-8", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )

    def succeed(self, *command: str) -> str:
        done = self.run(*command)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def stop(self) -> None:
        """Power off; the hard way when that takes too long."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader, POWER_OFF)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
            self._process.wait(30)


@contextmanager
def booted(tree: Path, work: Path) -> Iterator[Machine]:
    """A machine that has booted the tree, and is gone after the block. Raises MachineError."""
    log = work / "nspawn.log"
    name = f"s3mount-{secrets.token_hex(4)}"
    command = [
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--volatile=overlay"),
        *("--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no", f"--machine={name}"),
        *("--bind=/dev/fuse", f"--directory={tree}"),
    ]
    with control_groups() as enter:
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=enter,  # noqa: PLW1509 - it writes to a file, and there are no threads
            )
        machine: Machine | None = None
        try:
            machine = Machine(process, _leader(process, log), log)
            _wait_until_booted(machine)
            yield machine
        finally:
            if machine is not None:
                machine.stop()
            elif process.poll() is None:
                process.terminate()
                process.wait(30)
            with contextlib.suppress(OSError):  # which systemd-nspawn leaves where no systemd tidies up
                os.rmdir(f"/run/systemd/nspawn/propagate/{name}")


def _leader(process: "subprocess.Popen[bytes]", log: Path) -> int:
    deadline = time.monotonic() + BOOT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        time.sleep(0.05)
    raise MachineError(f"systemd-nspawn did not boot: {log.read_text(errors='replace')[-2000:]}")


def _wait_until_booted(machine: Machine) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    state = ""
    while time.monotonic() < deadline:
        state = machine.run("systemctl", "is-system-running").stdout.strip()
        if state in ("running", "degraded"):
            return
        time.sleep(0.2)
    raise MachineError(f"systemd did not come up: {state}")


def install(machine: Machine, work: Path) -> None:
    """s3mount as it is in this checkout, with its programs and its unit, as README says."""
    source = work / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "s3mount", source / "s3mount", ignore=shutil.ignore_patterns("__pycache__"))
    succeed(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", f"--wheel-dir={work}", str(source))
    (wheel,) = work.glob("s3mount-*.whl")
    shutil.copy(wheel, machine.root / "root")
    machine.succeed(f"{PREFIX}/bin/pip", "install", "-q", "--no-deps", "--no-index", f"/root/{wheel.name}")
    machine.succeed("ln", "-s", f"{PREFIX}/bin/s3mount", "/usr/local/bin/")
    machine.succeed("ln", "-s", f"{PREFIX}/bin/mount.s3mount", "/sbin/")
    machine.write("/etc/systemd/system/s3mount@.service", (ROOT / "systemd/s3mount@.service").read_text())
    machine.succeed("systemctl", "daemon-reload")
