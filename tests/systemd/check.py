"""s3mount's service under a booted systemd: scripts/test --systemd [--tree DIR]

A Debian tree is made under a temporary directory, or once and for all under DIR; a machine boots it, s3mount is
installed there as README says, and each function `check_...` is one sentence that must hold. A SeaweedFS server and a
proxy that can black-hole it run beside it. Needs root, systemd-container and debootstrap. Nothing is left behind.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.proxy import FaultProxy, Rule
from tests.servers import Server, boto, make_bucket, start_seaweedfs
from tests.systemd.machine import Machine, MachineError, booted, install, make_tree, remove

BUCKET = "uploads"
UNIT = "s3mount@photos.service"
MOUNTPOINT = "/srv/photos"
WATCHDOG_SECONDS = 8
RESTART_SECONDS = 1
WAIT_SECONDS = 60.0
HOLDER = f"""
import os, signal
handle = os.open("{MOUNTPOINT}/held", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.write(handle, b"held " * 40_000)
signal.pause()
"""


@dataclass(slots=True)
class Bench:
    """What the checks share. The proxy's rules are the mutable state."""

    machine: Machine
    server: Server
    proxy: FaultProxy

    def show(self, name: str, unit: str = UNIT) -> str:
        return self.machine.succeed("systemctl", "show", "--property", name, "--value", unit).strip()

    def systemctl(self, *words: str) -> str:
        return self.machine.succeed("systemctl", *words)

    def state(self) -> tuple[str, str]:
        return self.show("ActiveState"), self.show("Result")

    def mounted(self, mountpoint: str = MOUNTPOINT) -> bool:
        """By the mount table of process 1: a mount that only the service sees is none."""
        found = self.machine.run("findmnt", "--noheadings", "--output", "FSTYPE", "--mountpoint", mountpoint)
        return found.stdout.strip() == "fuse.s3mount"

    def read(self, path: str) -> str:
        done = self.machine.run("cat", path)
        return done.stdout if done.returncode == 0 else done.stderr

    def get(self, key: str) -> bytes:
        body: bytes = boto(self.server).get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def journal(self, unit: str = UNIT) -> str:
        return self.machine.run("journalctl", "--no-pager", "--lines=25", "--unit", unit).stdout

    def fresh(self) -> None:
        """The service runs, counted from now."""
        self.proxy.clear()
        self.machine.run("systemctl", "stop", UNIT)
        self.machine.run("systemctl", "reset-failed", UNIT)
        self.systemctl("start", UNIT)


def eventually(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def check_started_means_mounted(bench: Bench) -> None:
    """`systemctl start` returns when the root was listed and the mount is there, seen by the whole machine; as long as
    the store does not answer the unit is starting and nothing is mounted."""
    bench.proxy.add(Rule(fault="black_hole"))
    bench.systemctl("start", "--no-block", UNIT)
    assert eventually(lambda: bool(bench.proxy.requests("")))
    time.sleep(2)
    assert bench.show("ActiveState") == "activating"
    assert not bench.mounted()
    bench.proxy.clear()
    assert eventually(lambda: bench.show("ActiveState") == "active", 90), bench.journal()
    assert bench.mounted()
    assert bench.read(f"{MOUNTPOINT}/there") == "stored elsewhere"
    bench.systemctl("stop", UNIT)
    assert not bench.mounted()
    bench.systemctl("start", UNIT)
    assert bench.mounted()
    assert bench.read(f"{MOUNTPOINT}/there") == "stored elsewhere"


def check_the_status_line_tells_of_dirty_files(bench: Bench) -> None:
    """`systemctl status` says that everything is in the bucket, and how many files are not."""
    bench.fresh()
    assert eventually(lambda: bench.show("StatusText") == "everything written is in the bucket")
    bench.systemctl("start", "holder")
    assert eventually(lambda: bench.show("StatusText").startswith("1 files not in the bucket yet")), bench.journal()
    bench.systemctl("kill", "--signal=KILL", "holder")
    assert eventually(lambda: bench.show("StatusText") == "everything written is in the bucket")


def check_a_killed_daemon_is_replaced_and_the_mountpoint_works_again(bench: Bench) -> None:
    """kill -9: dead, not empty, then taken over by the next start without help."""
    bench.fresh()
    bench.machine.succeed("sh", "-c", f"echo stored > {MOUNTPOINT}/kept")
    bench.systemctl("kill", "--signal=KILL", "--kill-whom=main", UNIT)
    seen = []

    def works() -> bool:
        seen.append(bench.read(f"{MOUNTPOINT}/kept"))
        return seen[-1] == "stored\n"

    assert eventually(works), seen[-1]
    assert all("not connected" in said or "connection abort" in said for said in seen[:-1]), set(seen)
    assert eventually(lambda: bench.show("ActiveState") == "active")
    assert bench.show("NRestarts") == "1"


def check_an_outage_of_the_store_does_not_trip_the_watchdog(bench: Bench) -> None:
    """The loop runs while requests wait: three times the watchdog's patience without a store, and the same process."""
    bench.fresh()
    pid = bench.show("MainPID")
    bench.proxy.add(Rule(fault="black_hole"))
    bench.machine.run("systemd-run", "--quiet", "--unit=asker", "ls", "-l", f"{MOUNTPOINT}/unknown")
    time.sleep(3 * WATCHDOG_SECONDS)
    assert (bench.show("MainPID"), bench.show("NRestarts")) == (pid, "0")
    bench.proxy.clear()
    assert bench.read(f"{MOUNTPOINT}/there") == "stored elsewhere"


def check_a_process_that_stands_still_is_killed_and_replaced(bench: Bench) -> None:
    """SIGSTOP: the watchdog ends it, the next one takes the mountpoint over."""
    bench.fresh()
    pid = bench.show("MainPID")
    bench.systemctl("kill", "--signal=STOP", "--kill-whom=main", UNIT)
    assert eventually(lambda: bench.show("NRestarts") == "1"), bench.journal()
    assert eventually(lambda: bench.show("ActiveState") == "active")
    assert bench.show("MainPID") != pid
    assert "Watchdog timeout" in bench.journal()
    assert bench.read(f"{MOUNTPOINT}/there") == "stored elsewhere"


def check_a_stop_stores_what_programs_hold(bench: Bench) -> None:
    """`systemctl stop` while a program holds a dirty file: its bytes are in the bucket, the unit ended with success."""
    bench.fresh()
    bench.systemctl("start", "holder")
    assert eventually(lambda: bench.show("StatusText").startswith("1 files not in the bucket yet"))
    began = time.monotonic()
    bench.systemctl("stop", UNIT)
    took = time.monotonic() - began
    bench.systemctl("kill", "--signal=KILL", "holder")
    assert bench.get("held") == b"held " * 40_000
    assert bench.state() == ("inactive", "success"), bench.journal()
    assert not bench.mounted()
    assert took < 20, f"it took {took:.0f} s with a --stop-timeout of 5 s"


def check_a_stop_that_loses_something_fails_and_names_it(bench: Bench) -> None:
    """The store is away for longer than --stop-timeout: the unit has failed, the journal has the path."""
    bench.fresh()
    bench.systemctl("start", "holder")
    assert eventually(lambda: bench.show("StatusText").startswith("1 files not in the bucket yet"))
    bench.proxy.add(Rule(fault="error", status=503, code="ServiceUnavailable"))
    bench.machine.run("systemctl", "stop", UNIT)
    bench.systemctl("kill", "--signal=KILL", "holder")
    assert bench.state() == ("failed", "exit-code"), bench.journal()
    assert "file was lost path=held" in bench.journal()
    bench.proxy.clear()
    time.sleep(3 * RESTART_SECONDS)
    assert bench.show("ActiveState") == "failed", "a stop was asked for"


def check_an_unmount_by_hand_ends_the_unit_with_success(bench: Bench) -> None:
    """`umount` is a stop, too: nothing is restarted."""
    bench.fresh()
    bench.machine.succeed("umount", MOUNTPOINT)
    assert eventually(lambda: bench.state() == ("inactive", "success")), bench.journal()
    time.sleep(3 * RESTART_SECONDS)
    assert bench.state() == ("inactive", "success")


def check_a_wrong_word_fails_once_and_for_all(bench: Bench) -> None:
    """A misspelt option: the reason is in the journal, and nobody tries again."""
    unit = "s3mount@wrong.service"
    bench.machine.write(
        "/etc/s3mount/wrong.toml", 'source = "s3://b"\nmountpoint = "/srv/photos"\npart-siez = "8MiB"\n'
    )
    assert bench.machine.run("systemctl", "start", unit).returncode != 0
    time.sleep(3 * RESTART_SECONDS)
    assert bench.show("ActiveState", unit) == "failed"
    assert (bench.show("NRestarts", unit), bench.show("ExecMainStatus", unit)) == ("0", "2")
    assert "part-siez in /etc/s3mount/wrong.toml: no such option; did you mean part-size?" in bench.journal(unit)


def check_a_line_of_fstab_is_a_unit_of_systemd(bench: Bench) -> None:
    """/etc/fstab: `mount`, `systemctl start srv-table.mount` and `umount` work, with credentials of root's ~/.aws."""
    server, mountpoint = bench.server, "/srv/table"
    keys = f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    bench.machine.write("/root/.aws/credentials", f"[store]\nregion = us-east-1\n{keys}", 0o600)
    bench.machine.write("/etc/s3mount/table.toml", f'endpoint-url = "{server.endpoint_url}"\n')
    options = "_netdev,nofail,noauto,allow_other,uid=33,noexec,profile=store,config=/etc/s3mount/table.toml"
    bench.machine.write("/etc/fstab", f"s3://{BUCKET} {mountpoint} s3mount {options} 0 0\n")
    bench.machine.succeed("mkdir", mountpoint)
    bench.systemctl("daemon-reload")
    bench.machine.succeed("mount", mountpoint)
    assert bench.read(f"{mountpoint}/there") == "stored elsewhere"
    bench.machine.succeed("umount", mountpoint)
    bench.systemctl("start", "srv-table.mount")
    assert bench.mounted(mountpoint)
    assert bench.machine.succeed("stat", "--format=%u", f"{mountpoint}/there") == "33\n"
    bench.systemctl("stop", "srv-table.mount")
    assert not bench.mounted(mountpoint)
    assert bench.show("Result", "srv-table.mount") == "success"


CHECKS: tuple[Callable[[Bench], None], ...] = tuple(
    value for name, value in list(globals().items()) if name.startswith("check_")
)


def prepare(machine: Machine, server: Server, proxy: FaultProxy) -> None:
    """The files that an administrator writes; waits that are shorter than the unit's own."""
    machine.write(
        "/etc/s3mount/photos.toml",
        f'source = "s3://{BUCKET}"\nmountpoint = "{MOUNTPOINT}"\nendpoint-url = "{proxy.endpoint_url}"\n'
        'region = "us-east-1"\nstop-timeout = "5s"\n',
    )
    keys = f"AWS_ACCESS_KEY_ID={server.access_key}\nAWS_SECRET_ACCESS_KEY={server.secret_key}\n"
    machine.write("/etc/s3mount/photos.env", keys, 0o600)
    waits = f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\nRestartSec={RESTART_SECONDS}\n"
    machine.write("/etc/systemd/system/s3mount@.service.d/quick.conf", waits)
    machine.write("/root/hold.py", HOLDER)
    machine.write("/etc/systemd/system/holder.service", "[Service]\nExecStart=python3 /root/hold.py\n")
    machine.succeed("mkdir", "-p", MOUNTPOINT)
    machine.succeed("systemctl", "daemon-reload")


def run(tree: Path, work: Path, wanted: str) -> int:
    """The number of sentences that do not hold."""
    print("== a Debian tree", flush=True)
    make_tree(tree)
    failed = 0
    with ExitStack() as stack:
        server = start_seaweedfs(work / "seaweedfs")
        stack.callback(server.stop)
        make_bucket(server, BUCKET)
        boto(server).put_object(Bucket=BUCKET, Key="there", Body=b"stored elsewhere")
        proxy = stack.enter_context(FaultProxy(server.endpoint_url))
        print("== a machine", flush=True)
        machine = stack.enter_context(booted(tree, work))
        install(machine, work)
        prepare(machine, server, proxy)
        bench = Bench(machine, server, proxy)
        for check in CHECKS:
            if wanted not in check.__name__:
                continue
            began, told = time.monotonic(), "holds"
            try:
                check(bench)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed += 1
                told = f"DOES NOT HOLD: {error}\n{bench.journal()}"
            print(f"{time.monotonic() - began:6.1f} s  {check.__name__[6:].replace('_', ' ')}: {told}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/test --systemd", description=__doc__)
    parser.add_argument("--tree", type=Path, help="where the Debian tree is kept; else it is made and removed")
    parser.add_argument("-k", default="", dest="wanted", help="only checks with this in their name")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("scripts/test --systemd: only root boots a machine", file=sys.stderr)
        return 1
    work = Path(tempfile.mkdtemp(prefix="s3mount-systemd-"))
    try:
        failed = run(given.tree.absolute() if given.tree else work / "tree", work, given.wanted)
    except MachineError as error:
        print(f"scripts/test --systemd: {error}", file=sys.stderr)
        return 1
    finally:
        remove(work)
    print(f"== {'all hold' if not failed else f'{failed} do not hold'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
