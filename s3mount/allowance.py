"""What this machine allows one process: memory, by control groups and by what there is; open files.

It reads /proc and the files of the control groups, and raises the soft limit of open files; it knows no mount and no
option. A container is a control group; so is a systemd unit with MemoryMax. The process is killed when its group has no
more, so the group that allows least decides, be it ours or one above. No state.
"""

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from s3mount import kernel
from s3mount.config import MEMORY_DEFAULT_MAX_BYTES, MEMORY_LEAST_BYTES, MIB, mebibytes

PROC = Path("/proc")
MEMORY_SHARE = 2
"""The default takes one in so many of what is allowed: Python, libraries and the kernel's copies take from the rest."""
OWN_BYTES = 128 * MIB
"""What the process takes beside what `--memory-limit` counts, rounded up (measured: 60 to 110 MiB)."""
OPEN_FILES_MAX = 65_536
"""More than that nothing here uses; some containers allow a thousand million, which is slow for whoever closes all."""
CGROUP_FILES = {"cgroup2": ("memory.max", "memory.high"), "cgroup": ("memory.limit_in_bytes",)}
"""What a group allows; beyond memory.high it is not killed, but slowed down until it is no use."""


@dataclass(frozen=True, slots=True)
class Memory:
    """How much memory the process may take, and who says so."""

    allowed_bytes: int
    allowed_by: str

    @property
    def limit_bytes(self) -> int:
        """What `--memory-limit` is when nobody says it."""
        return min(MEMORY_DEFAULT_MAX_BYTES, max(MEMORY_LEAST_BYTES, self.allowed_bytes // MEMORY_SHARE // MIB * MIB))

    def problem(self, limit_bytes: int) -> str | None:
        """Why the process may be killed with this `--memory-limit`; None: it fits."""
        if limit_bytes + OWN_BYTES <= self.allowed_bytes:
            return None
        return (
            f"--memory-limit {mebibytes(limit_bytes)} and {mebibytes(OWN_BYTES)} for the process itself are more than "
            f"the {mebibytes(self.allowed_bytes)} allowed by {self.allowed_by}: it may be killed; "
            + ("lower the one or raise the other" if limit_bytes > MEMORY_LEAST_BYTES else "raise that")
        )


def memory(proc: Path = PROC) -> Memory:
    """The least of what the machine has and what our control groups allow."""
    found = [Memory(_machine_bytes(proc), "the machine")]
    for group, allowed_bytes in _groups(proc):
        found.append(Memory(allowed_bytes, f"control group {group}"))
    return min(found, key=lambda one: one.allowed_bytes)


def _machine_bytes(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    raise AssertionError("/proc/meminfo without MemTotal")


def _groups(proc: Path) -> Iterator[tuple[str, int]]:
    """Our control group and those above it that allow less than everything, each with what it allows."""
    try:
        own = dict(_own_groups((proc / "self/cgroup").read_text()))
        mounts = kernel.mounts(proc / "self/mountinfo")
    except OSError:
        return
    for mount in mounts:
        if mount.fstype in CGROUP_FILES and mount.fstype in own:
            top = Path(mount.mountpoint)
            group = _seen(top, mount.root, own[mount.fstype])
            while True:
                for name in CGROUP_FILES[mount.fstype]:
                    allowed_bytes = _number(group / name)
                    if allowed_bytes is not None:
                        yield str(group / name), allowed_bytes
                if group == top:
                    break
                group = group.parent


def _own_groups(text: str) -> Iterator[tuple[str, str]]:
    """The kind of hierarchy and our path in it, where it may account for memory (cgroups(7))."""
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif "memory" in controllers.split(","):
            yield "cgroup", path


def _seen(top: Path, root: str, path: str) -> Path:
    """Where our group is below a mount that shows `root` and what is below; the mount itself when it is not: in a
    container the path may be the host's."""
    inside = path
    if root != "/" and (path == root or path.startswith(root + "/")):
        inside = path[len(root) :]
    group = top / inside.lstrip("/")
    return group if ".." not in group.parts and group.is_dir() else top


def _number(path: Path) -> int | None:
    """None: the file is not there, or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one, as far as it is of use; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else OPEN_FILES_MAX
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
