"""The table of options, and what turns words into a Config: command line over S3MOUNT_* variables over a TOML file.

An option exists once, here: argparse, the environment, the file, the help screen and the test of README's table read
`ROWS`. It must not know what an option is good for: limits and relations are `config.py`'s, the machine's state is
`preflight.py`'s. Invariant: every word that cannot be understood is a UsageError naming where it stood and what would
be right."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from s3mount.config import GIB, KIB, MIB, RESERVED, S3_KEY_MAX_BYTES, TIB, Config
from s3mount.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIABLES = "S3MOUNT_"
LOG_LEVELS = ("error", "warning", "info", "debug")
S3_TAGS_MAX = 10
ID_MAX = 2**32 - 2
"""The highest uid and gid: the one above means 'leave it alone' to chown."""

_SIZES = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB}
_TIMES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)


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
        raise ValueError("a number")
    return int(word)


def read_tags(word: str) -> str:
    """As x-amz-tagging has them: URL-encoded pairs."""
    pairs = parse_qsl(word, keep_blank_values=True, strict_parsing=True, max_num_fields=S3_TAGS_MAX)
    return urlencode(pairs, quote_via=quote)  # not every store reads + as a blank


def one_of(*words: str) -> "Kind":
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


@dataclass(frozen=True, slots=True)
class Kind:
    """How the value of an option is written. `native` are the TOML types taken besides a string."""

    metavar: str
    read: Callable[[str], object]
    show: Callable[[object], str] = str
    native: tuple[type, ...] = ()


SIZE = Kind("SIZE", read_size, show_size, (int,))
TIME = Kind("TIME", read_time, show_time, (int, float))
MODE = Kind("MODE", read_mode, show_mode)
"""No TOML number: 0o644 there is the number 420, which would be read again as octal."""
ID = Kind("ID", read_id, native=(int,))
FLAG = Kind("", read_flag, show_flag, (bool,))
FLAG_WORD = Kind("on|off", read_flag, show_flag, (bool,))
LEVEL = replace(one_of(*LOG_LEVELS), metavar="LEVEL")
COUNT = Kind("N", read_count, native=(int,))
TAGS = Kind("K=V&K=V", read_tags)
ASKED = one_of("auto", "yes", "no")
FILE = Kind("FILE", read_path)
DIR = Kind("DIR", read_path)
NAME = Kind("NAME", read_name)
URL = Kind("URL", read_url)
SOURCE = Kind("s3://BUCKET[/PREFIX]", read_source)


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `--name`, `S3MOUNT_NAME`, `name = ` in the file. `default` is written where Config has no value to
    show."""

    name: str
    kind: Kind
    field: str
    default: str = ""

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def usage(self) -> str:
        return f"{self.flag} {self.kind.metavar}".rstrip()

    @property
    def variable(self) -> str:
        return VARIABLES + self.name.upper().replace("-", "_")

    @property
    def default_words(self) -> str:
        if self.default:
            return self.default
        return self.kind.show(next(field.default for field in fields(Config) if field.name == self.field))


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the help screen, which has no room for one line an option. `{}` in the text take the defaults in
    turn."""

    text: str
    options: tuple[Option, ...]

    @property
    def help(self) -> str:
        return self.text.format(*(option.default_words for option in self.options))

    @property
    def usage(self) -> str:
        return " ".join(option.usage for option in self.options)


CONFIG_FILE = Option("config", FILE, "", "none")
SOURCE_WORD = Option("source", SOURCE, "bucket", "none")
MOUNTPOINT_WORD = Option("mountpoint", DIR, "mountpoint", "none")
POSITIONAL = (SOURCE_WORD, MOUNTPOINT_WORD)

ROWS = (
    Row("a TOML file with any of these [{}]", (CONFIG_FILE,)),
    Row("the store, if it is not AWS [{}]", (Option("endpoint-url", URL, "endpoint_url", "AWS settings"),)),
    Row(
        "[both: {}]",
        (Option("region", NAME, "region", "AWS settings"), Option("profile", NAME, "profile", "AWS settings")),
    ),
    Row("no credentials, for public buckets [{}]", (Option("no-sign-request", FLAG, "no_sign_request"),)),
    Row("[{}]", (Option("force-path-style", FLAG, "force_path_style", "on for custom endpoints"),)),
    Row("refuse every change [{}]", (Option("read-only", FLAG, "read_only"),)),
    Row("let other users in [{}]", (Option("allow-other", FLAG, "allow_other"),)),
    Row("mount over a directory with entries [{}]", (Option("nonempty", FLAG, "nonempty"),)),
    Row("owner of all entries [who mounts]", (Option("uid", ID, "uid", "yours"), Option("gid", ID, "gid", "yours"))),
    Row("permissions [{}, {}]", (Option("file-mode", MODE, "file_mode"), Option("dir-mode", MODE, "dir_mode"))),
    Row("bits taken off both modes [{}]", (Option("umask", MODE, "umask"),)),
    Row("how long a listing is believed [{}]", (Option("metadata-ttl", TIME, "metadata_ttl_seconds"),)),
    Row("how long a name stays absent [{}]", (Option("negative-ttl", TIME, "negative_ttl_seconds"),)),
    Row("[{}]", (Option("cache-dir", DIR, "cache_dir", "~/.cache/s3mount, root: /var/cache/s3mount"),)),
    Row("of multipart uploads, 5MiB to 5GiB [{}]", (Option("part-size", SIZE, "part_size_bytes"),)),
    Row("buffers and caches together [{}]", (Option("memory-limit", SIZE, "memory_limit_bytes"),)),
    Row("disk for unsent bytes [{}]", (Option("staging-limit", SIZE, "staging_limit_bytes", "1/10 of what is free"),)),
    Row("after SIGTERM, then give up [{}]", (Option("stop-timeout", TIME, "stop_timeout_seconds"),)),
    Row(
        "[{}, {}]",
        (
            Option("log-level", LEVEL, "log_level"),
            Option("log-file", FILE, "log_file", "syslog; stderr in foreground"),
        ),
    ),
    Row("stay, do not become a daemon [{}]", (Option("foreground", FLAG, "foreground"),)),
)

WRITING_ROWS = (
    Row("a larger file is refused [{}]", (Option("max-file-size", SIZE, "file_size_max_bytes"),)),
    Row("changed by others meanwhile [{}]", (Option("conflict", one_of("keep", "overwrite"), "conflict"),)),
    Row("how long lost versions stay [{}]", (Option("conflict-keep", TIME, "conflict_keep_seconds"),)),
    Row("O_EXCL is decided at [{}]", (Option("exclusive-create", one_of("close", "open"), "exclusive_create"),)),
    Row("objects over it by parts [{}]", (Option("copy-limit", SIZE, "copy_max_bytes"),)),
    Row("all parts of one size [{}]", (Option("equal-parts", ASKED, "equal_parts"),)),
    Row("edits copy what did not change [{}]", (Option("part-copy", ASKED, "part_copy"),)),
    Row("of an upload [{}]", (Option("parts-max", COUNT, "parts_max", "found out"),)),
    Row("checksums of what is sent [{}]", (Option("upload-checksum", FLAG_WORD, "checksum"),)),
    Row("[{}]", (Option("storage-class", NAME, "storage_class", "the bucket's"),)),
    Row("AES256, aws:kms, aws:kms:dsse [{}]", (Option("sse", NAME, "sse", "the bucket's"),)),
    Row("[{}]", (Option("sse-kms-key-id", NAME, "sse_kms_key_id", "the account's"),)),
    Row("SSE-C: 32 bytes or base64 [{}]", (Option("sse-customer-key-file", FILE, "sse_customer_key_file", "none"),)),
    Row("such as bucket-owner-full-control [{}]", (Option("acl", NAME, "acl", "none"),)),
    Row("of new objects [{}]", (Option("tags", TAGS, "tags", "none"),)),
    Row("pay for requests to others' buckets [{}]", (Option("requester-pays", FLAG, "requester_pays"),)),
    Row("account, else 403 [{}]", (Option("expected-bucket-owner", NAME, "expected_bucket_owner", "any"),)),
)
"""The second screen: how objects are written, for who needs it."""


def options() -> Iterator[Option]:
    """Every option that has a flag, in the order of the help screens."""
    for row in (*ROWS, *WRITING_ROWS):
        yield from row.options


def load(given: Mapping[str, str], environ: Mapping[str, str]) -> Config:
    """The Config for words `given` on the command line, by option name, over the variables, over the file either names.

    Reads that file and nothing else. Raises UsageError.
    """
    words = _from_environment(environ)
    words.update({name: (_where_given(name), word) for name, word in given.items()})
    values: dict[str, object] = {}
    if CONFIG_FILE.name in words:
        path = _read(CONFIG_FILE, *words.pop(CONFIG_FILE.name))
        assert isinstance(path, Path)
        words = _from_file(path) | words
    for option in (*POSITIONAL, *options()):
        if option.name not in words:
            continue
        value = _read(option, *words[option.name])
        if option is SOURCE_WORD:
            assert isinstance(value, tuple)
            values["bucket"], values["prefix"] = value
        else:
            values[option.field] = value
    if "bucket" not in values:
        raise UsageError("say what to mount: s3mount mount s3://BUCKET[/PREFIX] MOUNTPOINT")
    if "mountpoint" not in values:
        raise UsageError("say where to mount it: s3mount mount s3://BUCKET[/PREFIX] MOUNTPOINT")
    return Config(**values)  # type: ignore[arg-type]  # each Kind reads what its field holds: a test builds every option


def mountpoint(word: str) -> Path:
    """The MOUNTPOINT of the command line, absolute. Raises UsageError."""
    path = _read(MOUNTPOINT_WORD, _where_given(MOUNTPOINT_WORD.name), word)
    assert isinstance(path, Path)
    return path


def _where_given(name: str) -> str:
    return name.upper() if any(name == option.name for option in POSITIONAL) else f"--{name}"


def _read(option: Option, where: str, word: str) -> object:
    try:
        return option.kind.read(word)
    except ValueError as cause:
        shown = " ..." if option.kind is URL and "@" in word else f" {word!r}"  # no secret in a message
        raise UsageError(f"{where}{shown}: {cause}") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Option name -> where it stood and the word. An empty variable is one that is not set, as compose files make
    them."""
    known = {option.variable: option for option in (*POSITIONAL, *options())}
    words = {}
    for name, word in environ.items():
        if not name.startswith(VARIABLES) or not word:
            continue
        if name not in known:
            raise UsageError(f"{name}: no such variable{_nearest(name, known)}; unset it")
        words[known[name].name] = (name, word)
    return words


def _from_file(path: Path) -> dict[str, tuple[str, str]]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as cause:
        raise UsageError(f"--config {str(path)!r}: {cause.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise UsageError(f"--config {str(path)!r}: not TOML: {' '.join(str(cause).split())}") from None
    known = {option.name: option for option in (*POSITIONAL, *options()) if option is not CONFIG_FILE}
    words = {}
    for name, value in table.items():
        where = f"{name} in {path}"
        if name not in known:
            raise UsageError(f"{where}: no such option{_nearest(name, known)}")
        words[name] = (where, _word(known[name], where, value))
    return words


def _word(option: Option, where: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if type(value) not in option.kind.native:
        raise UsageError(f'{where}: write it as a string: {option.name} = "..."')
    return str(value).lower()


def _nearest(name: str, known: Mapping[str, Option]) -> str:
    matches = difflib.get_close_matches(name.replace("_", "-") if name.islower() else name, known, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""
