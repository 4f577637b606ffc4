"""The table of options, and what turns words into a Config: command line over S3MOUNT_* variables over a TOML file.

An option exists once, here: argparse, the environment, the file, the help screen and the test of README's table read
`ROWS`. It must not know how a value is written, which is `words.py`'s, nor what an option is good for: limits and
relations are `config.py`'s, the machine's state is `preflight.py`'s. Invariant: every word that cannot be understood is
a UsageError naming where it stood and what would be right."""

import difflib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from s3mount.config import Config
from s3mount.errors import UsageError
from s3mount.words import (
    ADDRESS,
    ASKED,
    COUNT,
    DIR,
    ENCRYPTION,
    FILE,
    FLAG,
    FLAG_WORD,
    FORM,
    ID,
    LEVEL,
    MODE,
    NAME,
    SIZE,
    SOURCE,
    TAGS,
    TIME,
    URL,
    Kind,
    one_of,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIABLES = "S3MOUNT_"


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
    Row("buffers and caches together [{}]", (Option("memory-limit", SIZE, "memory_limit_bytes", "up to 512MiB"),)),
    Row(
        "on disk [{}, {}]",
        (
            Option("staging-limit", SIZE, "staging_limit_bytes", "1/10 of what is free"),
            Option("max-cache-size", SIZE, "cache_size_max_bytes"),
        ),
    ),
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
    Row("close once it is on disk here [{}]", (Option("write-back", FLAG, "write_back"),)),
    Row("of what waits [{}]", (Option("write-back-limit", SIZE, "write_back_limit_bytes", "1/10 of what is free"),)),
    Row("changes that may wait [{}]", (Option("write-back-files", COUNT, "write_back_files_max"),)),
    Row("changes are held for so long [{}]", (Option("write-back-delay", TIME, "write_back_delay_seconds"),)),
    Row("objects over it by parts [{}]", (Option("copy-limit", SIZE, "copy_max_bytes"),)),
    Row("all parts of one size [{}]", (Option("equal-parts", ASKED, "equal_parts"),)),
    Row("edits copy what did not change [{}]", (Option("part-copy", ASKED, "part_copy"),)),
    Row("of an upload [{}]", (Option("parts-max", COUNT, "parts_max", "found out"),)),
    Row("checksums of what is sent [{}]", (Option("upload-checksum", FLAG_WORD, "checksum"),)),
    Row("[{}]", (Option("storage-class", NAME, "storage_class", "the bucket's"),)),
    Row("AES256, aws:kms, aws:kms:dsse [{}]", (Option("sse", ENCRYPTION, "sse", "the bucket's"),)),
    Row("[{}]", (Option("sse-kms-key-id", NAME, "sse_kms_key_id", "the account's"),)),
    Row("SSE-C: 32 bytes or base64 [{}]", (Option("sse-customer-key-file", FILE, "sse_customer_key_file", "none"),)),
    Row("such as bucket-owner-full-control [{}]", (Option("acl", NAME, "acl", "none"),)),
    Row("of new objects [{}]", (Option("tags", TAGS, "tags", "none"),)),
    Row("pay for requests to others' buckets [{}]", (Option("requester-pays", FLAG, "requester_pays"),)),
    Row("account, else 403 [{}]", (Option("expected-bucket-owner", NAME, "expected_bucket_owner", "any"),)),
)
NAMES_ROWS = (
    Row("modes, owners, times [{}]", (Option("attributes", one_of("auto", "always", "never"), "attributes"),)),
    Row("user.* attributes, slow small writes [{}]", (Option("xattr", FLAG, "xattr"),)),
    Row("many deletes are sent together [{}]", (Option("unlink", one_of("batch", "sync"), "unlink"),)),
    Row("objects in a renamed directory [{}]", (Option("rename-limit", COUNT, "rename_objects_max"),)),
    Row("how early a file is fetched ahead [{}]", (Option("neighbour-ttl", TIME, "neighbour_ttl_seconds"),)),
    Row("a CDN's, for `s3mount url` [{}]", (Option("public-url", URL, "public_url", "none"),)),
)
OPERATION_ROWS = (
    Row("metrics and probes over HTTP [{}]", (Option("metrics-address", ADDRESS, "metrics_address", "none"),)),
    Row("lines of the log [{}]", (Option("log-format", FORM, "log_format"),)),
)

NETWORK_ROWS = (
    Row("a small request, retries and all [{}]", (Option("metadata-deadline", TIME, "metadata_deadline_seconds"),)),
    Row("no byte moves: asked again [{}]", (Option("stall-timeout", TIME, "stall_timeout_seconds"),)),
    Row("how long failures are retried [{}]", (Option("retry-timeout", TIME, "retry_seconds"),)),
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A further screen, for who needs it: `s3mount mount --help-NAME`."""

    name: str
    title: str
    rows: tuple[Row, ...]


TOPICS = (
    Topic("writing", "How objects are written", WRITING_ROWS),
    Topic("names", "Names and attributes", NAMES_ROWS),
    Topic("network", "The network", NETWORK_ROWS),
    Topic("operation", "Watching and running a mount", OPERATION_ROWS),
)


def options() -> Iterator[Option]:
    """Every option that has a flag, in the order of the help screens."""
    for row in ROWS:
        yield from row.options
    for topic in TOPICS:
        for row in topic.rows:
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


def cache_dir(word: str | None, environ: Mapping[str, str]) -> Path | None:
    """The --cache-dir of a verb, or the variable's; None without either. Raises UsageError."""
    (option,) = (option for option in options() if option.name == "cache-dir")
    where, chosen = (option.variable, environ.get(option.variable)) if word is None else ("--cache-dir", word)
    if not chosen:
        return None
    path = _read(option, where, chosen)
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
