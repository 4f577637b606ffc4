"""The demonstration behind scripts/demo: a SeaweedFS server, a bucket, a mount with files in it; and its end.

Everything is below `.demo`: the server's data, its random credentials, the mount's cache and log, the mountpoint. Both
directions may be repeated, and may be repeated after a crash: what is there is asked, not assumed. A process is taken
for ours only when pid and start time are the ones written down.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import boto3

from tests.servers import start_seaweedfs

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".demo"
MOUNTPOINT = STATE / "uploads"
CREDENTIALS = STATE / "credentials"
ENVIRONMENT = STATE / "env"
SERVER = STATE / "server.json"
LOG = STATE / "s3mount.log"
S3MOUNT = Path(sys.executable).with_name("s3mount")
BUCKET = "demo"
STOP_SECONDS = 70.0
"""A little more than s3mount's own --stop-timeout."""


@dataclass(frozen=True, slots=True)
class Running:
    """The server; `started`, its start in ticks since boot, tells it from a later process with the same pid."""

    pid: int
    started: int
    endpoint_url: str
    region: str
    sockets: tuple[str, ...]

    @property
    def alive(self) -> bool:
        return started_at(self.pid) == self.started


def started_at(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None when there is no such process, or a dead one that nobody has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def load() -> Running | None:
    try:
        return Running(**json.loads(SERVER.read_text()))
    except FileNotFoundError:
        return None


def daemons() -> list[int]:
    """The s3mount processes of this demonstration, known by program and mountpoint."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(S3MOUNT) in words and os.fsencode(MOUNTPOINT) in words:
                found.append(int(entry.name))
    return found


def mounted() -> bool:
    wanted = os.fsencode(MOUNTPOINT).replace(b"\\", b"\\134").replace(b" ", b"\\040")
    return any(line.split(b" ")[4] == wanted for line in Path("/proc/self/mountinfo").read_bytes().splitlines())


def wait_until_gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(started_at(pid) is not None for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def end(pids: list[int]) -> None:
    """SIGTERM, and SIGKILL for what does not end in time."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 10.0)):
        for pid in pids:
            if started_at(pid) is not None:
                os.kill(pid, number)
        if wait_until_gone(pids, seconds):
            return
    sys.exit(f"scripts/demo: processes {pids} do not end")


def say(words: str) -> None:
    print(f"== {words}", file=sys.stderr, flush=True)


def environment(server: Running) -> dict[str, str]:
    """For s3mount, boto3 and the aws command; the secret stays in a file of mode 0600."""
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(CREDENTIALS),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_ENDPOINT_URL": server.endpoint_url,
        "AWS_REGION": server.region,
        "NO_PROXY": "127.0.0.1",
    }


def start_server() -> Running:
    server = load()
    if server is not None and server.alive:
        return server
    if mounted() or daemons():
        stop_mount()  # its server is gone: it can only answer errors
    say("starting SeaweedFS")
    process = start_seaweedfs(STATE / "server", outlives_us=True)
    CREDENTIALS.touch(mode=0o600)
    CREDENTIALS.write_text(
        f"[default]\naws_access_key_id = {process.access_key}\naws_secret_access_key = {process.secret_key}\n"
    )
    started = started_at(process.pid)
    assert started is not None, "the server ended as soon as it had answered"
    server = Running(process.pid, started, process.endpoint_url, process.region, process.sockets)
    SERVER.write_text(json.dumps(asdict(server)))
    ENVIRONMENT.write_text("".join(f"export {name}='{value}'\n" for name, value in environment(server).items()))
    return server


def start() -> None:
    STATE.mkdir(mode=0o700, exist_ok=True)
    server = start_server()
    for name in [name for name in os.environ if name.startswith(("AWS_", "S3MOUNT_"))]:
        del os.environ[name]  # of the user's own accounts nothing may leak into the demonstration
    os.environ.update(environment(server))
    client = boto3.client("s3")
    if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)

    if not mounted():
        MOUNTPOINT.mkdir(exist_ok=True)
    if not (mounted() and MOUNTPOINT.is_dir()):  # a dead mount is taken over
        command = [str(S3MOUNT), "mount", f"s3://{BUCKET}", str(MOUNTPOINT)]
        command += ["--endpoint-url", server.endpoint_url, "--cache-dir", str(STATE / "cache"), "--log-file", str(LOG)]
        run(command)
    say("copying files in through the mount")
    folder = MOUNTPOINT / f"visit-{time.strftime('%H%M%S')}-{secrets.token_hex(2)}"
    folder.mkdir()
    run(["cp", "README.md", "CHANGELOG.md", "setup.cfg", str(folder)])
    run(["cp", "-r", "systemd", str(folder)])
    run(["ls", "-l", str(folder), str(folder / "systemd")])
    say(f"the same in the bucket s3://{BUCKET}, asked without the mount")
    prefix = f"{folder.name}/"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        for item in page.get("Contents", []):
            print(f"{item['Size']:>10} {item['LastModified']:%Y-%m-%d %H:%M} {item['Key']}", flush=True)
    shown = Path(os.path.relpath(STATE))
    print(f"""
It stays mounted at {shown}/uploads. Look around, write, edit, delete: it is a directory.
    ls -l {shown}/uploads; df -h {shown}/uploads
    . {shown}/env; aws s3 ls --recursive s3://{BUCKET}      # with any S3 tool, if you have one
    less {shown}/s3mount.log
    scripts/demo --stop                               # takes everything away, the files too""")


def run(command: list[str]) -> None:
    print(f"$ {' '.join(command)}", file=sys.stderr, flush=True)
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status != 0:
        sys.exit(f"scripts/demo: status {status}; the mount's log is {LOG}; scripts/demo --stop cleans up")


def stop_mount() -> None:
    """A mountpoint in use is an answer, not an obstacle to be pulled away: the user decides."""
    pids = daemons()
    if mounted():
        if pids:
            run([str(S3MOUNT), "umount", str(MOUNTPOINT)])
        else:
            run(["fusermount3", "-uz", str(MOUNTPOINT)])
    if not wait_until_gone(pids, STOP_SECONDS):
        end(pids)


def stop() -> None:
    stop_mount()
    server = load()
    if server is not None and server.alive:
        end([server.pid])
    for path in server.sockets if server is not None else ():
        Path(path).unlink(missing_ok=True)
    assert not mounted(), "a mount would be emptied next"
    shutil.rmtree(STATE)
    say("stopped; nothing is left but .venv")


if __name__ == "__main__":
    if sys.argv[1:] == ["--stop"]:
        stop()
    else:
        start()
