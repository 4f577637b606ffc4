"""What the kernel is asked about our mount besides FUSE: the mount table, read-ahead, background limits, unmounting.

Nothing here touches the mountpoint itself: the daemon would wait for its own answer. All of it blocks (files under
/proc and /sys, child processes): call it before the loop starts or through a thread."""

import ctypes
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

FSTYPE = "fuse.s3mount"
FUSECTL = Path("/sys/fs/fuse/connections")
PR_SET_IO_FLUSHER = 57
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
CHILD_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
"""What our child processes inherit: no credentials."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo; `device` is major:minor.

    `root` is what of the file system is mounted there: a bind mount shows a part of it. `owner` is the user who mounted
    it, where FUSE tells.
    """

    device: str
    mountpoint: str
    fstype: str
    source: str
    root: str = "/"
    owner: int | None = None


def mounts(table: Path = Path("/proc/self/mountinfo")) -> list[Mount]:
    """The mounts of this process's namespace, oldest first (proc(5))."""
    found = []
    for line in os.fsdecode(table.read_bytes()).splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        owner = re.search(r"\buser_id=(\d+)", rest[2]) if len(rest) > 2 else None
        found.append(
            Mount(
                fields[2],
                _unescaped(fields[4]),
                rest[0],
                _unescaped(rest[1]),
                _unescaped(fields[3]),
                int(owner[1]) if owner is not None else None,
            )
        )
    return found


def mount_at(mountpoint: Path) -> Mount | None:
    """The mount on top at exactly this path; the path's own symlinks are not resolved here."""
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == str(mountpoint)), None)


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def tune(mountpoint: Path, *, readahead_bytes: int, background_max: int) -> None:
    """Raise the mount's read-ahead and its limit of background requests; where that is not permitted one line says so.

    Reads come in 128 KiB otherwise, and 12 WRITEs that wait block every read. congestion_threshold stays. To be called
    once the kernel has its answer to INIT: with that it sets the read-ahead back to 128 KiB."""
    mount = mount_at(mountpoint)
    if mount is None:
        return
    minor = mount.device.partition(":")[2]
    wanted = {
        Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb"): readahead_bytes // 1024,
        FUSECTL / minor / "max_background": background_max,
    }
    set_limits(wanted)


def set_limits(wanted: Mapping[Path, int]) -> None:
    """Write each value to its file; one line says which were refused, and what would help."""
    refused = []
    for path, value in wanted.items():
        try:
            path.write_text(f"{value}\n")
        except FileNotFoundError:
            refused.append(f"{path} is not there; before the next mount: mount -t fusectl none {FUSECTL}")
        except OSError as error:
            refused.append(f"{error.strerror}; as root: echo {value} > {path}")
    if refused:
        log.info("kernel limits were left as they are, higher ones are faster: %s", "; ".join(refused))


def become_io_flusher() -> None:
    """Keep memory reclaim from waiting for us while we write back its pages (prctl(2)); needs CAP_SYS_RESOURCE."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0:
        log.debug("PR_SET_IO_FLUSHER was refused errno=%s", os.strerror(ctypes.get_errno()))


def unmount(mountpoint: Path, *, lazily: bool = False) -> str | None:
    """Unmount; None when done, else what the system said, in one line. `lazily`: out of the tree now, gone when
    unused. Root starts no program for the latter, which would take its time: meanwhile the mountpoint looks empty."""
    if lazily and os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.umount2(os.fsencode(mountpoint), MNT_DETACH | UMOUNT_NOFOLLOW)
        return None if done == 0 else os.strerror(ctypes.get_errno())
    if os.geteuid() == 0 and shutil.which("umount"):
        command = ["umount", "--no-canonicalize", str(mountpoint)]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazily else []), str(mountpoint)]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=CHILD_ENVIRONMENT
        )
    except OSError as error:  # no process or no descriptor is left
        return f"{command[0]} was not started: {error.strerror}"
    if ended.returncode == 0:
        return None
    return " ".join(ended.stderr.split()) or f"{command[0]} ended with status {ended.returncode}"
