"""Special attributes <-> the user metadata of an object; pure, and no input raises.

Written are the names of s3fs: `mode` (decimal st_mode, type bits included), `uid`, `gid`, `mtime`, `atime`, `ctime`
(seconds, or seconds with exactly nine digits: older s3fs take a shorter fraction for so many nanoseconds), `rdev`,
`xattr` (URL-encoded JSON of names and base64). Read besides:

- rclone: `mtime` in seconds with a fraction of any length;
- geesefs: s3fs's names, and links as empty objects with the escaped target in `--symlink-target`;
- gcsfuse: `gcsfuse_mtime` in RFC 3339, and links as empty objects with `gcsfuse_symlink_target`;
- AWS DataSync, File Gateway, FSx: `file-permissions` (octal, with or without type bits), `file-owner`, `file-group`,
  `file-mtime`, `file-atime` (nanoseconds with the suffix `ns`, milliseconds without).

Numbers of s3fs and geesefs are C's: `0x` is hexadecimal, a leading zero octal. Where two names tell one attribute the
first of this order that can be read counts. A value that cannot be read, or that no stat could carry, says nothing: it
is as if absent, and as foreign metadata it stays. Names are without `x-amz-meta-`, in lower case.
"""

import base64
import binascii
import calendar
import json
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import quote, unquote, unquote_to_bytes

from s3mount.store.base import Headers
from s3mount.store.replies import WRITE_TOKEN, header_lines
from s3mount.vfs.attributes import PLAIN, SECOND_NS, Special

METADATA_MAX_BYTES = 2048 - len(WRITE_TOKEN) - 16
"""What S3 lets an object carry as user metadata, less the token of a creation (`store.requests.new_token`)."""

_TYPES = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK})
_MODE_MAX = 0o177777
_ID_MAX = (1 << 32) - 2
"""The largest user or group; one more is chown's "leave it"."""
_RDEV_MAX = (1 << 32) - 1
_TIME_STOP_NS = 1 << 63
_NAME_MAX_BYTES = 255
_TARGET_MAX_BYTES = 4095
_HEADER_PREFIX = "x-amz-meta-"

_INTEGER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", re.ASCII)
_SECONDS = re.compile(r"([+-]?)([0-9]{1,20})(?:\.([0-9]*))?", re.ASCII)
_TICKS = re.compile(r"([+-]?[0-9]{1,20})(ns)?", re.ASCII)
_OCTAL = re.compile(r"[0-7]{1,8}", re.ASCII)
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)


def special_of(metadata: Mapping[str, str]) -> Special:
    """What an object's user metadata says of its inode. `mode` is permission bits alone when no type is known."""
    if not metadata:
        return PLAIN
    found: dict[str, object] = {}
    for name, (attribute, read) in _READINGS.items():
        text = metadata.get(name)
        if text is not None and attribute not in found:
            value = read(text)
            if value is not None:
                found[attribute] = value
    if not found.get("xattrs", True):
        del found["xattrs"]
    special = Special(**found)  # type: ignore[arg-type]
    if not stat.S_IFMT(special.mode or 0) and link_target_of(metadata) is not None:
        special = replace(special, mode=stat.S_IFLNK | (0o777 if special.mode is None else special.mode))
    return special


def link_target_of(metadata: Mapping[str, str]) -> bytes | None:
    """Where a link of geesefs or gcsfuse points; None: nothing is said here, a link's body is its target."""
    for name, read in _LINKS.items():
        target = read(metadata[name].encode(errors="surrogatepass")) if name in metadata else b""
        if 0 < len(target) <= _TARGET_MAX_BYTES and b"\0" not in target:
            return target
    return None


def metadata_with(metadata: Mapping[str, str], special: Special) -> dict[str, str]:
    """`metadata` saying `special` and nothing else of attributes: foreign metadata stays, and so do the names of other
    conventions that say the same."""
    changed = {name: value for name, value in metadata.items() if not _gainsaid(name, value, special)}
    changed.update(_stated(special))
    return changed


def metadata_bytes(metadata: Mapping[str, str]) -> int:
    """How much of METADATA_MAX_BYTES this takes, names and values as they are sent. ValueError: what no header can
    carry."""
    return sum(len(name) - len(_HEADER_PREFIX) + len(value) for name, value in header_lines(Headers(metadata=metadata)))


def normalized(special: Special, *, mode: int, uid: int, gid: int) -> Special:
    """`special` without what equals a mount's defaults; `mode` is the default's whole st_mode, which lends its type to
    a mode without one."""
    own = special.mode
    if own is not None and not stat.S_IFMT(own):
        own |= stat.S_IFMT(mode)
    return replace(
        special,
        mode=None if own == mode else own,
        uid=None if special.uid == uid else special.uid,
        gid=None if special.gid == gid else special.gid,
        rdev=special.rdev or None,
        xattrs=special.xattrs or None,
    )


def _gainsaid(name: str, value: str, special: Special) -> bool:
    """Whether this says of an attribute what `special` does not."""
    if name in _LINKS:
        return stat.S_IFMT(special.mode or 0) != stat.S_IFLNK and link_target_of({name: value}) is not None
    if name not in _READINGS:
        return False
    attribute, read = _READINGS[name]
    said = read(value)
    return said is not None and said != getattr(special, attribute)


def _stated(special: Special) -> dict[str, str]:
    stated = {}
    if special.mode is not None:
        assert 0 <= special.mode <= _MODE_MAX, special.mode
        stated["mode"] = str(special.mode)
    for name, number in (("uid", special.uid), ("gid", special.gid), ("rdev", special.rdev)):
        if number is not None:
            stated[name] = str(number)
    for name, time_ns in (("mtime", special.mtime_ns), ("atime", special.atime_ns), ("ctime", special.ctime_ns)):
        if time_ns is not None:
            stated[name] = _seconds_text(time_ns)
    if special.xattrs:
        stated["xattr"] = _xattr_text(special.xattrs)
    return stated


# numbers


def _integer(text: str, maximum: int) -> int | None:
    if not _INTEGER.fullmatch(text):
        return None
    octal = len(text) > 1 and text[0] == "0" and text[1] not in "xX"
    try:
        value = int(text, 8 if octal else 0)
    except ValueError:
        return None
    return value if value <= maximum else None


def _id(text: str) -> int | None:
    return _integer(text, _ID_MAX)


def _rdev(text: str) -> int | None:
    return _integer(text, _RDEV_MAX)


def _mode(text: str) -> int | None:
    return _known_mode(_integer(text, _MODE_MAX))


def _permissions(text: str) -> int | None:
    return _known_mode(int(text, 8)) if _OCTAL.fullmatch(text) else None


def _known_mode(mode: int | None) -> int | None:
    if mode is None or mode > _MODE_MAX:
        return None
    return mode if stat.S_IFMT(mode) in _TYPES else stat.S_IMODE(mode)


# times


def _seconds(text: str) -> int | None:
    match = _SECONDS.fullmatch(text)
    if match is None:
        return None
    sign, whole, fraction = match.groups()
    time_ns = int(whole) * SECOND_NS + _fraction_ns(fraction)
    return _possible(-time_ns if sign == "-" else time_ns)


def _seconds_text(time_ns: int) -> str:
    seconds, rest = divmod(abs(time_ns), SECOND_NS)
    sign = "-" if time_ns < 0 else ""
    return f"{sign}{seconds}.{rest:09d}" if rest else f"{sign}{seconds}"


def _ticks(text: str) -> int | None:
    match = _TICKS.fullmatch(text)
    if match is None:
        return None
    return _possible(int(match[1]) * (1 if match[2] else 1_000_000))


def _rfc3339(text: str) -> int | None:
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    *date, fraction, sign, ahead_hours, ahead_minutes = match.groups()
    year, month, day, hour, minute, second = map(int, date)
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour <= 23 and minute <= 59 and second <= 60 and year):
        return None
    seconds = calendar.timegm((year, month, 1, hour, minute, second)) + (day - 1) * 86_400
    if sign:
        ahead = int(ahead_hours) * 3600 + int(ahead_minutes) * 60
        seconds -= -ahead if sign == "-" else ahead
    return _possible(seconds * SECOND_NS + _fraction_ns(fraction))


def _fraction_ns(digits: str | None) -> int:
    return int(digits[:9].ljust(9, "0")) if digits else 0


def _possible(time_ns: int) -> int | None:
    return time_ns if -_TIME_STOP_NS < time_ns < _TIME_STOP_NS else None


# extended attributes


def _xattrs(text: str) -> Mapping[str, bytes] | None:
    try:
        # s3fs escapes nothing inside its quotes, a newline no more than other characters.
        pairs = json.loads(unquote(text, errors="surrogateescape"), strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, dict):
        return None
    found = {}
    for name, value in pairs.items():
        if isinstance(value, str) and _is_xattr_name(name):
            try:
                found[name] = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                continue
    return found


def _is_xattr_name(name: str) -> bool:
    try:
        raw = name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return 0 < len(raw) <= _NAME_MAX_BYTES and b"\0" not in raw


def _xattr_text(xattrs: Mapping[str, bytes]) -> str:
    pairs = ",".join(f'{_quoted(name)}:"{base64.b64encode(xattrs[name]).decode()}"' for name in sorted(xattrs))
    return quote(f"{{{pairs}}}", safe="/", errors="surrogateescape")


def _quoted(name: str) -> str:
    """As s3fs has it, which knows no escapes; a name that would then not be JSON is one that it cannot read."""
    return json.dumps(name, ensure_ascii=False) if '"' in name or "\\" in name else f'"{name}"'


_READINGS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "mode": ("mode", _mode),
    "uid": ("uid", _id),
    "gid": ("gid", _id),
    "mtime": ("mtime_ns", _seconds),
    "atime": ("atime_ns", _seconds),
    "ctime": ("ctime_ns", _seconds),
    "rdev": ("rdev", _rdev),
    "xattr": ("xattrs", _xattrs),
    "file-permissions": ("mode", _permissions),
    "file-owner": ("uid", _id),
    "file-group": ("gid", _id),
    "file-mtime": ("mtime_ns", _ticks),
    "file-atime": ("atime_ns", _ticks),
    "gcsfuse_mtime": ("mtime_ns", _rfc3339),
}
"""Name of metadata -> attribute of Special and how it is read, None for what says nothing. The first wins."""

_LINKS: Mapping[str, Callable[[bytes], bytes]] = {
    "--symlink-target": unquote_to_bytes,
    "gcsfuse_symlink_target": bytes,
}
