"""What this machine must have before a mount starts: each check is a function, each failure a StartError of one line.

It asks no store. It changes one thing only: it makes the cache directory. A mount that is there is not touched: whether
it is dead is asked by a child process, because the answer may never come. A dead one of ours stays where it is until
the new one can take its place (`detach_dead`): a start that fails leaves the mountpoint dead, not empty.
"""

import errno
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3mount import allowance, kernel
from s3mount.config import GIB, MIB, Config
from s3mount.errors import StartError

FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")
FUSERMOUNT = "fusermount3"
PROBE_TIMEOUT_SECONDS = 5.0
STAGING_PARTS_MIN = 4
SYMLINKS_MAX = 40
SHORT_LIVED = {
    "tmpfs": "a reboot",
    "ramfs": "a reboot",
    "overlay": "the end of the container",
    "aufs": "the end of the container",
}
"""File systems that do not outlast a machine's memory, or a container, and what ends them."""

_PROBE = """
import os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit(1 if error.errno == int(sys.argv[2]) else 0)
"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a Config may leave open, settled."""

    cache_dir: Path
    staging_limit_bytes: int
    memory_limit_bytes: int
    write_back_limit_bytes: int = 0
    """Without --write-back nobody asks."""
    warnings: tuple[str, ...] = ()
    """What will not do, or not for long; for the log."""
    takes_over: bool = False
    """Whether a dead mount of ours covers the mountpoint."""


def prepare(config: Config) -> Prepared:
    """Make every check, make the cache directory. Raises StartError."""
    check_fusermount()
    check_device(FUSE_DEVICE)
    if config.allow_other:
        check_allow_other(FUSE_CONF, uid=os.geteuid())
    mountpoint = resolved(config.mountpoint)
    takes_over = covered_by_dead(mountpoint)
    if not takes_over:  # what is below a dead mount was looked at when that was made
        check_mountpoint(mountpoint, nonempty=config.nonempty)
    if config.log_file is not None:
        check_outside(config.log_file, mountpoint, option="--log-file")
    cache_dir = config.cache_dir or default_cache_dir(os.environ, uid=os.geteuid())
    check_outside(cache_dir, mountpoint, option="--cache-dir")
    make_cache_dir(cache_dir)
    staging_limit = config.staging_limit_bytes or default_limit(cache_dir, config.part_size_bytes, "--staging-limit")
    write_back_limit = 0
    memory = allowance.memory()
    memory_limit = config.memory_limit_bytes or memory.limit_bytes
    problems = [memory.problem(memory_limit)]
    if config.write_back:
        option = "--write-back-limit"
        write_back_limit = config.write_back_limit_bytes or default_limit(cache_dir, config.part_size_bytes, option)
        problems.append(not_lasting(cache_dir, kernel.mounts()))
    warnings = tuple(problem for problem in problems if problem is not None)
    return Prepared(cache_dir, staging_limit, memory_limit, write_back_limit, warnings, takes_over)


def resolved(mountpoint: Path) -> Path:
    """The path as the mount table spells it, absolute and without symlinks.

    The last component is asked by readlink(2) alone: the kernel answers it for a mount whose daemon is dead or hangs.
    """
    here = mountpoint
    for _ in range(SYMLINKS_MAX):
        here = Path(os.path.realpath(mountpoint.parent)) / mountpoint.name
        try:
            mountpoint = here.parent / os.readlink(here)
        except OSError:
            break
    return here


def check_fusermount() -> None:
    if shutil.which(FUSERMOUNT) is None:
        raise StartError(f"{FUSERMOUNT} is missing: apt-get install fuse3")


def check_device(device: Path) -> None:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        raise StartError(
            f"no permission on {device}: chmod 666 {device}, or in a container --device {device} --cap-add SYS_ADMIN"
        ) from None
    except OSError as cause:
        raise StartError(
            f"{device}: {cause.strerror}: modprobe fuse, or in a container --device {device} --cap-add SYS_ADMIN"
        ) from None


def check_allow_other(conf: Path, *, uid: int) -> None:
    """fusermount3 lets others than root give allow_other only where its file says so."""
    if uid == 0:
        return
    try:
        lines = conf.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    if not any(line.strip() == "user_allow_other" for line in lines):
        raise StartError(f"--allow-other is not permitted: put a line user_allow_other into {conf}, or mount as root")


def covered_by_dead(mountpoint: Path) -> bool:
    """Whether a dead mount of ours is there. Raises StartError for any other FUSE mount: these are left alone."""
    top = kernel.mount_at(mountpoint)
    if top is None or not top.fstype.startswith("fuse"):
        return False
    if not is_dead(mountpoint):
        remedy = "s3mount umount" if top.fstype == kernel.FSTYPE else f"{FUSERMOUNT} -u"
        raise StartError(f"{mountpoint} is already mounted ({top.source}): {remedy} {mountpoint} first")
    if top.fstype != kernel.FSTYPE:
        raise StartError(f"{mountpoint} is a dead mount of {top.fstype}: {FUSERMOUNT} -uz {mountpoint} first")
    return True


def detach_dead(mountpoint: Path) -> None:
    """Take a dead mount of ours out of the tree, if it is still there; what is mounted next should follow at once, for
    meanwhile the mountpoint looks empty. Raises StartError."""
    if not covered_by_dead(mountpoint):
        return
    problem = kernel.unmount(mountpoint, lazily=True)
    if problem is not None:
        raise StartError(f"{mountpoint} is a dead mount that cannot be detached: {problem}")


def is_dead(mountpoint: Path) -> bool:
    """Whether the mount's daemon is gone: ENOTCONN. One that does not answer in time is not dead.

    Asked by statvfs(2), which always goes to the daemon: stat(2) of a root that died within the lifetime of its
    attributes is answered by the kernel.
    The child is left behind then: a process that waits for a FUSE reply cannot be killed.
    """
    probe = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROBE, os.fspath(mountpoint), str(errno.ENOTCONN)],
        env=kernel.CHILD_ENVIRONMENT,
    )
    try:
        return probe.wait(PROBE_TIMEOUT_SECONDS) == 1
    except subprocess.TimeoutExpired:
        return False


def check_mountpoint(mountpoint: Path, *, nonempty: bool) -> None:
    """A directory, empty unless `nonempty`, that we may mount on."""
    try:
        info = os.stat(mountpoint)
    except FileNotFoundError:
        raise StartError(f"{mountpoint} does not exist: mkdir -p {mountpoint}") from None
    except OSError as cause:
        raise StartError(f"{mountpoint} cannot be used: {cause.strerror}") from None
    if not stat.S_ISDIR(info.st_mode):
        raise StartError(f"{mountpoint} is not a directory")
    # fusermount3's own rule for users: write permission, and in a sticky directory to be its owner.
    if os.geteuid() != 0 and (
        not os.access(mountpoint, os.W_OK) or (info.st_mode & stat.S_ISVTX and info.st_uid != os.geteuid())
    ):
        raise StartError(f"no permission to mount on {mountpoint}: choose a directory of your own, or mount as root")
    if nonempty:
        return
    try:
        with os.scandir(mountpoint) as entries:
            occupied = next(entries, None) is not None
    except OSError as cause:
        raise StartError(f"{mountpoint} cannot be listed: {cause.strerror}") from None
    if occupied:
        raise StartError(f"{mountpoint} is not empty: mount elsewhere, or hide what is in it with --nonempty")


def check_outside(path: Path, mountpoint: Path, *, option: str) -> None:
    """Nothing the daemon itself uses may be behind its own mount."""
    if Path(os.path.realpath(path)).is_relative_to(mountpoint):
        raise StartError(f"{option} {path} is under the mountpoint {mountpoint}: choose a path outside of it")


def default_cache_dir(environ: Mapping[str, str], *, uid: int) -> Path:
    base = environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "s3mount"
    if uid == 0:
        return Path("/var/cache/s3mount")
    home = environ.get("HOME", "") or _home_of(uid)
    if not home.startswith("/"):
        raise StartError("there is no HOME to keep a cache in: give --cache-dir")
    return Path(home) / ".cache" / "s3mount"


def _home_of(uid: int) -> str:
    """By the user database: mount(8) and service managers set no HOME."""
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return ""


def make_cache_dir(path: Path) -> None:
    """A directory of our own that nobody else can look into: made if missing, refused if it is anything else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as cause:
        if path.is_symlink():
            raise StartError(f"--cache-dir {path} is a symbolic link: name the directory itself") from None
        raise StartError(f"--cache-dir {path} cannot be used: {cause.strerror}; choose another") from None
    try:
        info = os.fstat(handle)
    finally:
        os.close(handle)
    if info.st_uid != os.geteuid():
        raise StartError(f"--cache-dir {path} belongs to user {info.st_uid}: choose a directory of your own")
    if stat.S_IMODE(info.st_mode) != 0o700:
        raise StartError(f"--cache-dir {path} has mode {stat.S_IMODE(info.st_mode):04o}: chmod 700 {path}")


def not_lasting(cache_dir: Path, mounts: Sequence[kernel.Mount]) -> str | None:
    """What a journal there would not outlast, in one line; None where it lasts as long as a disk does."""
    info = os.stat(cache_dir)
    device = f"{os.major(info.st_dev)}:{os.minor(info.st_dev)}"
    fstype = next((mount.fstype for mount in reversed(mounts) if mount.device == device), "")
    end = SHORT_LIVED.get(fstype)
    if end is None:
        return None
    return f"--cache-dir {cache_dir} is on {fstype}: {end} loses what --write-back has acknowledged; use a disk"


def default_limit(cache_dir: Path, part_size_bytes: int, option: str) -> int:
    """A tenth of what is free there, at least 1 GiB, at most half of what is free."""
    disk = os.statvfs(cache_dir)
    free = disk.f_bavail * disk.f_frsize
    limit = min(max(free // 10, GIB), free // 2)
    if limit < STAGING_PARTS_MIN * part_size_bytes:
        raise StartError(
            f"only {free // MIB} MiB are free in {cache_dir}: free some, set {option}, or choose another --cache-dir, "
            "which leaves behind what waits in a journal of --write-back here"
        )
    return limit
