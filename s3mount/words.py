"""How the value of an option is written: what reads a word as a size, a time, a path, and what shows it again.

It must not know which options there are (`settings.py`), nor what a value is good for (`config.py`). Invariant: a word
that cannot be understood is a ValueError whose message ends the sentence that names where the word stood.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from s3mount.config import GIB, KIB, MIB, RESERVED, S3_KEY_MAX_BYTES, TIB

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("error", "warning", "info", "debug")
S3_TAGS_MAX = 10
S3_TAG_NAME_MAX = 128
S3_TAG_VALUE_MAX = 256
_TAG = re.compile(r"[\w +\-=.:/@]*").fullmatch
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
PORT_MAX = 65_535
ID_MAX = 2**32 - 2
"""The highest uid and gid: the one above means 'leave it alone' to chown."""

_SIZES = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB}
_TIMES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind:
    """How the value of an option is written. `native` are the TOML types taken besides a string."""

    metavar: str
    read: Callable[[str], object]
    show: Callable[[object], str] = str
    native: tuple[type, ...] = ()


def read_size(word: str) -> int:
    """`8MiB` in bytes. Raises ValueError with the end of the sentence."""
    match = _NUMBER.fullmatch(word.strip())
    if match is None or (unit := _SIZES.get(match[2].lower())) is None:
        raise ValueError("a size is written 8MiB, 512KiB, 1GiB, or in bytes")
    size = float(match[1]) * unit
    if size != int(size):
        raise ValueError("a size is a whole number of bytes")
    return int(size) if "." in match[1] else int(match[1]) * unit


def read_time(word: str) -> float:
    """`5s` in seconds."""
    match = _NUMBER.fullmatch(word.strip())
    if match is None or (unit := _TIMES.get(match[2].lower())) is None:
        raise ValueError("a time is written 5s, 500ms, 2m, 1h, or in seconds")
    return float(match[1]) * unit


def read_mode(word: str) -> int:
    if re.fullmatch(r"(0o?)?[0-7]{1,4}", word) is None:
        raise ValueError("a mode is written in octal: 0644")
    return int(word.removeprefix("0o"), 8)


def read_id(word: str) -> int:
    if re.fullmatch(r"[0-9]{1,10}", word) is None or int(word) > ID_MAX:
        raise ValueError("an owner is given as a number: 1000")
    return int(word)


def read_flag(word: str) -> bool:
    lower = word.lower()
    if lower in ("true", "yes", "on", "1"):
        return True
    if lower in ("false", "no", "off", "0"):
        return False
    raise ValueError("true or false")


def read_count(word: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,8}", word) is None:
        raise ValueError("a number from 1")
    return int(word)


def read_tags(word: str) -> str:
    """As x-amz-tagging has them: URL-encoded pairs. What S3 would refuse at the first close is refused here."""
    try:
        pairs = parse_qsl(word, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        raise ValueError("tags are written name=value&name=value, URL-encoded") from None
    names = [name for name, _ in pairs]
    if len(pairs) > S3_TAGS_MAX or len(set(names)) < len(names):
        raise ValueError(f"up to {S3_TAGS_MAX} tags, each name once")
    for name, value in pairs:
        if not 1 <= len(name) <= S3_TAG_NAME_MAX or len(value) > S3_TAG_VALUE_MAX or name.lower().startswith("aws:"):
            raise ValueError("a tag's name has 1 to 128 characters, not aws: at its start, a value up to 256")
        if not (_TAG(name) and _TAG(value)):
            raise ValueError("tags are made of letters, digits, blanks and + - = . _ : / @")
    return urlencode(pairs, quote_via=quote)  # not every store reads + as a blank


def read_encryption(word: str) -> str:
    if word not in ENCRYPTIONS:
        raise ValueError(f"one of {', '.join(ENCRYPTIONS)}")
    return word


def one_of(*words: str) -> Kind:
    """The kind of an option that is one of a few words."""

    def read(word: str) -> str:
        if word.lower() not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return word.lower()

    return Kind("|".join(words), read)


def read_path(word: str) -> Path:
    """Absolute: the daemon leaves the directory it was started in."""
    if not word or "\0" in word:
        raise ValueError("a path")
    return Path(os.path.abspath(os.path.expanduser(word)))


def read_name(word: str) -> str:
    if not word or not word.isprintable() or " " in word:
        raise ValueError("a name without spaces")
    return word


def read_url(word: str) -> str:
    match = re.fullmatch(r"https?://([^/?#\s]+)/?", word)
    if match is None:
        raise ValueError("the store's address, such as http://127.0.0.1:9000 or https://s3.example.com")
    if "@" in match[1]:
        raise ValueError("no credentials in an address: others see it in the list of processes; use AWS_ACCESS_KEY_ID")
    return word.removesuffix("/")


def read_address(word: str) -> tuple[str, int]:
    """`127.0.0.1:9100` or `[::1]:9100` as host and port; port 0: any that is free."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", word, re.ASCII)
    if match is None or int(match[3]) > PORT_MAX:
        raise ValueError("an address is written 127.0.0.1:9100, [::1]:9100, or 0.0.0.0:9100 for all who can reach it")
    return match[1] or match[2], int(match[3])


def read_source(word: str) -> tuple[str, str]:
    """`s3://bucket/a/b` as bucket and prefix; the prefix is empty or ends with '/'."""
    scheme, separator, rest = word.partition("://")
    if not separator or scheme != "s3":
        raise ValueError("write the bucket as s3://BUCKET or s3://BUCKET/PREFIX")
    bucket, _, path = rest.partition("/")
    if _BUCKET.fullmatch(bucket) is None:
        raise ValueError("that is not a bucket's name: write s3://BUCKET or s3://BUCKET/PREFIX")
    if bucket.endswith("--x-s3"):
        raise ValueError("directory buckets (S3 Express) list their keys unordered and cannot be mounted")
    if not path:
        return bucket, ""
    prefix = path.removesuffix("/")
    components = prefix.split("/")
    if any(part in ("", ".", "..") for part in components) or "\0" in prefix:
        raise ValueError("a prefix is made of names: no empty one, no '.' and no '..'")
    if any(part.startswith(RESERVED) for part in components):
        raise ValueError(f"names that start with {RESERVED} are reserved")
    try:
        length = len(prefix.encode())
    except UnicodeEncodeError:
        raise ValueError("a prefix must be UTF-8") from None
    if length >= S3_KEY_MAX_BYTES - 1:
        raise ValueError(f"a prefix that leaves no room for names: keys end at {S3_KEY_MAX_BYTES} bytes")
    return bucket, prefix + "/"


def show_size(value: object) -> str:
    assert isinstance(value, int)
    for unit, words in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if value and value % unit == 0:
            return f"{value // unit}{words}"
    return str(value)


def show_time(value: object) -> str:
    assert isinstance(value, float)
    days = value / 86400
    return f"{value:g}s" if days < 1 or days % 1 else f"{days:g}d"


def show_mode(value: object) -> str:
    assert isinstance(value, int)
    return f"{value:04o}"


def show_flag(value: object) -> str:
    return "on" if value else "off"


SIZE = Kind("SIZE", read_size, show_size, (int,))
TIME = Kind("TIME", read_time, show_time, (int, float))
MODE = Kind("MODE", read_mode, show_mode)
"""No TOML number: 0o644 there is the number 420, which would be read again as octal."""
ID = Kind("ID", read_id, native=(int,))
FLAG = Kind("", read_flag, show_flag, (bool,))
FLAG_WORD = Kind("on|off", read_flag, show_flag, (bool,))
LEVEL = replace(one_of(*LOG_LEVELS), metavar="LEVEL")
FORM = one_of(*LOG_FORMATS)
ADDRESS = Kind("HOST:PORT", read_address)
COUNT = Kind("N", read_count, native=(int,))
TAGS = Kind("K=V&K=V", read_tags)
ENCRYPTION = Kind("KIND", read_encryption)
ASKED = one_of("auto", "yes", "no")
FILE = Kind("FILE", read_path)
DIR = Kind("DIR", read_path)
NAME = Kind("NAME", read_name)
URL = Kind("URL", read_url)
SOURCE = Kind("s3://BUCKET[/PREFIX]", read_source)
