"""The steps of the differential test beyond the contents of files: each draws one operation and applies it.

A step takes the driver and keeps nothing itself. `KINDS` names groups of them, with how often each is drawn.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.e2e.callers import CALLERS, ask_as
from tests.e2e.driver import NAMES, Driver
from tests.e2e.elsewhere import Elsewhere, outlive, replace
from tests.e2e.sides import Answer

LINKS = ("link0", "link1")
FIFOS = ("fifo0", "fifo1")
FILE_MODES = (0o644, 0o644, 0o600, 0o640, 0o666, 0o755, 0o000, 0o4755, 0o2750, 0o6777, 0o2767)
DIRECTORY_MODES = (0o755, 0o755, 0o777, 0o1777, 0o2775, 0o700, 0o711)
IDS = (0, 1001, 1002, 2001, -1)
XATTRS = ("user.one", "user.two", "user.\u00e4 name")

Step = Callable[[Driver], None]


def rename_directory(driver: Driver) -> None:
    """Onto nothing, an empty directory, a full one, a file, itself, or what is below it."""
    name = driver.directory()
    target = driver.directory() if driver.draws.random() < 0.9 else driver.name()
    if not driver.apply("rename", name, target).error:
        driver.moved(name, target)


# attributes


def anything(driver: Driver) -> str:
    """A path of any kind: file, link, FIFO, directory, rarely the root."""
    kind = driver.draws.random()
    if kind < 0.6:
        return driver.name()
    if kind < 0.8:
        return driver.directory() if driver.draws.random() < 0.9 else ""
    return special(driver)


def special(driver: Driver) -> str:
    folder = driver.name().rpartition("/")[0]
    return f"{folder}/{driver.draws.choice(FIFOS)}".lstrip("/")


def drawn_mode(driver: Driver, name: str) -> int:
    directory = os.path.isdir(driver.oracle.path(name))
    return driver.draws.choice(DIRECTORY_MODES if directory else FILE_MODES)


def chmod(driver: Driver) -> None:
    name = anything(driver)
    driver.apply("chmod", name, drawn_mode(driver, name))


def fchmod(driver: Driver) -> None:
    if (handle := driver.handle()) is not None:
        directory = stat.S_ISDIR(os.fstat(driver.oracle.fds[handle]).st_mode)
        driver.apply("fchmod", handle, driver.draws.choice(DIRECTORY_MODES if directory else FILE_MODES))


def chown(driver: Driver) -> None:
    driver.apply("chown", anything(driver), driver.draws.choice(IDS), driver.draws.choice(IDS))


def utimens(driver: Driver) -> None:
    """Times before SET_BEFORE_NS, to the nanosecond or of a whole second, before 1970 never."""
    times = [driver.draws.randint(0, 1_500_000_000) * 1_000_000_000 for _ in range(2)]
    if driver.draws.random() < 0.7:
        times = [time + driver.draws.randint(0, 999_999_999) for time in times]
    driver.apply("utimens", anything(driver), *times)


def touch(driver: Driver) -> None:
    driver.apply("touch", driver.name())


def look(driver: Driver) -> None:
    driver.apply("attributes", anything(driver))


def look_at_handle(driver: Driver) -> None:
    if (handle := driver.handle()) is not None:
        driver.apply("handle_attributes", handle)


def symlink(driver: Driver) -> None:
    """To a name beside it, something below, or nothing; never above, where the two sides have different neighbours."""
    target = driver.draws.choice((*NAMES, *LINKS, "e0", "e0/a", "/nonexistent/x", "\u00e4" * 60))
    folder = driver.name().rpartition("/")[0]
    name = f"{folder}/{driver.draws.choice(LINKS)}".lstrip("/") if driver.draws.random() < 0.8 else driver.name()
    driver.apply("symlink", target, name)


def readlink(driver: Driver) -> None:
    driver.apply("readlink", anything(driver))


def mkfifo(driver: Driver) -> None:
    driver.apply("mkfifo", special(driver), driver.draws.choice((0o644, 0o600, 0o666)))


def unlink_special(driver: Driver) -> None:
    driver.apply("unlink", special(driver))


def rename_special(driver: Driver) -> None:
    driver.apply("rename", special(driver), special(driver))


def create_with_mode(driver: Driver) -> None:
    """A new file whose mode is no default, written or left empty."""
    name, data = driver.name(), driver.data() if driver.draws.random() < 0.5 else b""
    driver.apply("write_file", name, data, driver.draws.choice(FILE_MODES[:6]))


def mkdir_with_mode(driver: Driver) -> None:
    driver.apply("mkdir_with", driver.directory(), driver.draws.choice(DIRECTORY_MODES[1:]))


# extended attributes


def setxattr(driver: Driver) -> None:
    flags = driver.draws.choice((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
    value = driver.data()[: driver.draws.randint(0, 60)]
    driver.apply("setxattr", anything(driver), driver.draws.choice(XATTRS), value, flags)


def getxattr(driver: Driver) -> None:
    driver.apply("getxattr", anything(driver), driver.draws.choice(XATTRS))


def listxattr(driver: Driver) -> None:
    driver.apply("listxattr", anything(driver))


def removexattr(driver: Driver) -> None:
    driver.apply("removexattr", anything(driver), driver.draws.choice(XATTRS))


# other users


def as_other_user(driver: Driver) -> None:
    """One operation on names, asked by somebody else; handles stay root's."""
    caller, name = driver.draws.choice(CALLERS), anything(driver)
    file, target = driver.name(), driver.name()
    operation, *arguments = driver.draws.choice(
        (
            ("write_file", file, driver.data(), driver.draws.choice(FILE_MODES[:6])),
            ("append_line", file, b"line of %d\n" % caller.uid),
            ("read_file", file),
            ("truncate", file, driver.draws.randint(0, 3000)),
            ("truncate_open", file, driver.draws.randint(0, 3000)),
            ("open_truncating", file),
            ("listdir", driver.directory()),
            ("attributes", name),
            ("access", name, driver.draws.choice((os.R_OK, os.W_OK, os.X_OK))),
            ("mkdir_with", driver.directory(), driver.draws.choice(DIRECTORY_MODES)),
            ("rmdir", driver.directory()),
            ("unlink", file),
            ("rename", file, target),
            ("symlink", driver.draws.choice(NAMES), f"{file.rpartition('/')[0]}/{LINKS[0]}".lstrip("/")),
            ("mkfifo", special(driver), 0o644),
            ("chmod", name, drawn_mode(driver, name)),
            ("chown", name, driver.draws.choice((*IDS, caller.uid)), driver.draws.choice((*IDS, *caller.groups))),
            ("utimens", name, 1_000_000_000, driver.draws.randint(0, 10**18)),
            ("touch", file),
        )
    )
    if operation == "rename" and os.path.isdir(driver.oracle.path(file)):
        return
    right = ask_as(caller, driver.oracle.root, operation, tuple(arguments))
    driver.note(f"{caller}: {operation}({', '.join(map(repr, arguments))[:200]}) = {right}")
    left = ask_as(caller, driver.mount.root, operation, tuple(arguments))
    if left != right:
        driver.fail(f"{operation} of {caller}: mount {left}, oracle {right}")
    if not right.error and operation == "unlink":
        driver.gone(file)
    if not right.error and operation == "rename":
        driver.moved(file, target)


# another client of the bucket


@dataclass(frozen=True, slots=True)
class ChangedElsewhere:
    """A step: the other client puts or deletes the object of a name that is not open here, and the oracle follows."""

    elsewhere: Elsewhere

    def __call__(self, driver: Driver) -> None:
        name = driver.name()
        path = driver.oracle.path(name)
        if not os.path.isdir(os.path.dirname(path)) or os.path.islink(path) or os.path.isdir(path):
            return
        if os.path.realpath(path) != os.path.join(os.path.realpath(driver.oracle.root), name):
            return  # a directory on the way is a symbolic link: its name is no part of a key
        driver.close_name(name)
        there = os.path.isfile(path)
        if there:
            with open(driver.mount.path(name), "rb") as file:
                os.fsync(file.fileno())  # what waits for company is stored
        with open(path if there else os.devnull, "rb") as file:
            known = file.read() if there else None
        if not self.elsewhere.settled(name, known):
            driver.fail(f"the bucket does not hold what was acknowledged of {name!r}")
        if there and driver.draws.random() < 0.4:
            driver.note(f"deleted elsewhere: {name!r}")
            self.elsewhere.delete(name)
            os.unlink(path)
        else:
            body = driver.data()
            driver.note(f"put elsewhere: {name!r} of {len(body)} bytes")
            self.elsewhere.put(name, body)
            replace(path, body)
        outlive()
        found, known_now = _read(driver.mount.path(name)), _read(path)
        if found != known_now:
            driver.fail(f"after a change elsewhere of {name!r}: mount {found}, oracle {known_now}")


def _read(path: str) -> Answer:
    try:
        with open(path, "rb") as file:
            return Answer(file.read())
    except OSError as error:
        return Answer(error=error.errno or errno.EIO)


FILES: Mapping[Step, int] = {
    Driver.open: 20,
    Driver.close: 12,
    Driver.dup_and_close: 2,
    Driver.write: 12,
    Driver.pwrite: 14,
    Driver.read: 8,
    Driver.pread: 12,
    Driver.seek: 5,
    Driver.ftruncate: 5,
    Driver.truncate: 3,
    Driver.fsync: 4,
    Driver.fstat: 4,
    Driver.stat: 8,
    Driver.unlink: 5,
    Driver.rename: 8,
    Driver.mkdir: 5,
    Driver.rmdir: 3,
    Driver.listdir: 5,
    Driver.read_file: 8,
    Driver.append_line: 6,
    Driver.map_read: 3,
    Driver.map_write: 4,
}
KINDS: Mapping[str, Mapping[Step, int]] = {
    "files": FILES,
    "directories": {rename_directory: 5},
    "attributes": {
        chmod: 8,
        fchmod: 3,
        chown: 6,
        utimens: 8,
        touch: 2,
        look: 12,
        look_at_handle: 5,
        symlink: 6,
        readlink: 4,
        mkfifo: 3,
        unlink_special: 1,
        rename_special: 2,
        create_with_mode: 4,
        mkdir_with_mode: 3,
    },
    "callers": {as_other_user: 25},
    "xattr": {setxattr: 8, getxattr: 5, listxattr: 3, removexattr: 2},
}
"""`elsewhere` is one more: `ChangedElsewhere`, which is made with the place it changes."""
ELSEWHERE = "elsewhere"
ELSEWHERE_WEIGHT = 2
