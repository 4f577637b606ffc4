"""What mount(8) says to `mount.s3mount`: its arguments, and the options of a line in /etc/fstab, as words of ours.

Options of ours are `settings.py`'s, written with `-` or with `_`. Of mount(8)'s own, those that the kernel must know
are handed on, those for mount(8) and systemd alone are passed over, and those that cannot be kept are said aloud. What
is neither is a UsageError with the nearest name, unless mount(8) was told to be sloppy (-s). Pure, no state.
"""

import difflib
import getopt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s3mount import settings, words
from s3mount.errors import UsageError

USAGE = """\
usage: mount.s3mount s3://BUCKET[/PREFIX] MOUNTPOINT [-sfnv] [-o OPTION,...]
What mount(8) calls for `mount -t s3mount` and for lines of /etc/fstab, when it
finds this program in /sbin. The options are those of s3mount mount, as
allow_other,uid=1000, or in a file: config=/etc/s3mount/photos.toml.
"""

OPPOSITES = {"exec": "noexec", "atime": "noatime", "diratime": "nodiratime", "async": "sync", "nodirsync": "dirsync"}
"""mount(8)'s words for what the kernel does by default, and those that change it, which the kernel is told."""
NOTED = {
    "suid": "no program gets its owner's rights here, for who writes to the bucket would choose them",
    "dev": "no device is opened here, for who writes to the bucket would choose it",
}
ALWAYS = frozenset({"nosuid", "nodev"})
OTHERS = frozenset(
    {"rw", "defaults", "auto", "noauto", "nofail", "fail", "_netdev", "_rnetdev", "comment", "helper", "uhelper"}
    | {"user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup"}
    | {"relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "silent", "loud"}
)
"""For mount(8) and systemd, or without a meaning where reading changes no time."""
OTHERS_PREFIXES = ("x-", "X-")
_OPTION = re.compile(r'(?:[^,"]|"[^"]*")+')


@dataclass(frozen=True, slots=True)
class Request:
    """A call of mount(8). `given`: words by the names of `settings.py`; `flags`: what the kernel is told besides."""

    given: dict[str, str]
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fake: bool = False
    verbose: bool = False


def parse(argv: Sequence[str]) -> Request:
    """Raises UsageError."""
    try:
        switches, operands = getopt.gnu_getopt(list(argv), "sfnvo:t:")
    except getopt.GetoptError as error:
        raise UsageError(f"{error.msg}; see mount.s3mount --help") from None
    if len(operands) != 2:
        raise UsageError("say what to mount and where: mount -t s3mount s3://BUCKET[/PREFIX] MOUNTPOINT")
    given = dict(zip((option.name for option in settings.POSITIONAL), operands, strict=True))
    letters = {switch for switch, _ in switches}
    flags: dict[str, None] = {}
    notes = []
    for name, value in _options([text for switch, text in switches if switch == "-o"]):
        if name == "ro":
            given["read-only"] = "true"
        elif name in OPPOSITES.values():
            flags[name] = None
        elif name in OPPOSITES:
            flags.pop(OPPOSITES[name], None)
        elif name in NOTED:
            notes.append(f"option {name} is not kept: {NOTED[name]}")
        elif name not in ALWAYS | OTHERS and not name.startswith(OTHERS_PREFIXES):
            given.update(_ours(name, value, sloppy="-s" in letters))
        if name == "rw":  # mount(8) says so when nobody has: what the file says stands
            given.pop("read-only", None)
    return Request(given, tuple(flags), tuple(notes), "-f" in letters, "-v" in letters)


def _options(texts: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Names and values; a value with a comma in it stands in double quotes, which mount(8) leaves in their place."""
    for text in texts:
        if text.count('"') % 2:
            raise UsageError(f"-o {text}: a double quote is not closed")
        for option in _OPTION.findall(text):
            name, separator, value = option.partition("=")
            yield name.strip(), value.replace('"', "") if separator else None


def _ours(name: str, value: str | None, *, sloppy: bool) -> dict[str, str]:
    known = {option.name: option for option in settings.options()}
    option = known.get(name.replace("_", "-"))
    if option is None:
        if sloppy:
            return {}
        if name == "remount":
            raise UsageError("a mount of s3mount cannot be changed: unmount it and mount it again")
        candidates = [*known, *(found.replace("-", "_") for found in known), *OTHERS, *ALWAYS, *OPPOSITES, *NOTED]
        close = difflib.get_close_matches(name, [*candidates, *OPPOSITES.values(), "ro"], n=1)
        raise UsageError(f"-o {name}: no such option" + (f"; did you mean {close[0]}?" if close else ""))
    if option.name == "foreground":
        raise UsageError(f"-o {name}: mount(8) would wait for ever; use s3mount mount --foreground")
    if value is None:
        if option.kind is not words.FLAG:
            raise UsageError(f"-o {name}: it needs a value, {name}={option.kind.metavar}")
        value = "true"
    return {option.name: value}
