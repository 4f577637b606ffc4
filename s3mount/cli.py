"""The command line: argv in, exit status out; 0, 2 for words that cannot be understood, 1 for everything else.

No logic: options are `settings.py`'s, the machine's state is `preflight.py`'s, the mount is `daemon.py`'s, which is
imported only when a verb needs it, so that help works, and quickly, where libfuse is missing; what a running mount is
asked is `control`'s. A failure is one line on stderr."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import s3mount
from s3mount import fstab, settings, words
from s3mount.config import Config
from s3mount.control import commands, helps, keeping_commands, rescue_commands
from s3mount.errors import S3MountError, StartError, UsageError

USAGE_WIDTH = 33
MOUNT_USAGE, MOUNT_INTERRUPTED, MOUNT_FAILED = 1, 8, 32
"""Exit statuses of mount(8)."""

ABOUT = f"""\
usage: s3mount mount [OPTION]... s3://BUCKET[/PREFIX] MOUNTPOINT
       s3mount umount MOUNTPOINT
       s3mount status [--json] MOUNTPOINT   how a mount is doing
       s3mount stat [--json] PATH           the object behind a path
       s3mount url [--expires TIME] PATH    an address to fetch a file from
       s3mount refresh [--attributes] PATH  forget what is known and look again
       s3mount log-level MOUNTPOINT [LEVEL] how much goes into the log
       s3mount sync [--timeout TIME] MOUNTPOINT   store all that is not stored
       s3mount failed ACTION MOUNTPOINT [PATH]... what could not be stored
       s3mount journal ACTION MOUNTPOINT     what waits with --write-back
       s3mount abort [--force] MOUNTPOINT         free programs that hang
       s3mount healthcheck [--ready] MOUNTPOINT   for containers and probes
       s3mount VERB --help | --version

s3mount {s3mount.__version__} shows an S3 bucket as a directory.
"""

MOUNT_HEAD = """\
usage: s3mount mount [OPTION]... s3://BUCKET[/PREFIX] MOUNTPOINT
Returns when it serves. Sizes as 8MiB, times as 5s, [defaults]. Options win over
variables (S3MOUNT_UMASK=027), variables over the file (umask = "027"). More of
them: --help-writing, --help-names, --help-network, --help-operation
"""

TOPIC_HEAD = """\
usage: s3mount mount [OPTION]... s3://BUCKET[/PREFIX] MOUNTPOINT
{title}; the other options: s3mount mount --help
"""

UMOUNT_HELP = """\
usage: s3mount umount MOUNTPOINT
Unmounts; the daemon ends by itself. What was closed is in the bucket already;
with --write-back it is sent now, for as long as --stop-timeout says.
Refused while a file is open or a process stands in the directory: fuser -vm.
"""

STATUS_HELP = """\
usage: s3mount status [--json] MOUNTPOINT
Shows what a mount is doing: files that are not in the bucket yet, requests by
operation and answer, staging and memory against their limits, hidden keys, what
was found out about the store. It asks the daemon and nobody else, so it works
while the store does not. A path below the mountpoint will do, too.
"""

LOG_LEVEL_HELP = """\
usage: s3mount log-level MOUNTPOINT [LEVEL]
Prints how much a running mount writes into its log, after changing it to LEVEL:
error, warning, info or debug. The signals SIGUSR1 (more) and SIGUSR2 (less) go
one step. The next mount has what --log-level says.
"""

STAT_HELP = """\
usage: s3mount stat [--json] PATH
Shows what a path is in the bucket: key, etag, version, storage class, headers,
metadata, and the attributes as the mount shows them and as they are stored. The
last component of PATH is not followed when it is a link in the mount.
"""

URL_HELP = """\
usage: s3mount url [--expires TIME] PATH
Prints an address from which anybody can fetch the file for TIME (15m; at most
7d) without credentials. If the mount has --public-url it is an address below
that, and if it has --no-sign-request a plain one; these do not end.
"""

REFRESH_HELP = """\
usage: s3mount refresh [--attributes] PATH
Forgets what the mount remembers of PATH and all below it, so that the next look
asks the store: for changes made elsewhere, with a long --metadata-ttl. What was
changed here and is not stored yet stays.
With --attributes it first asks the store for the attributes of every object
below the directory PATH (one request each) and sets right in the bucket which
directories have special ones: for buckets that s3fs or others have written.
"""

EXPIRES_MAX_SECONDS = 7 * 86400.0
HEALTH_MAX_SECONDS = 60.0

Given = Mapping[str, Any]
"""Each word that was given, under the name of its option; of what may be given several times a list."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb that has one path, and options of its own: by flag, whether it has a value. `actions`: the words of which
    one stands before the path, under `action`; `more`: what the paths behind it are called."""

    help: str
    path: str
    run: Callable[[Given], int]
    options: Mapping[str, bool] = field(default_factory=dict)
    actions: Sequence[str] = ()
    more: tuple[str, str] = ("", "")
    """What may follow the path, and how often by argparse's word for it."""


def _umount(given: Given) -> int:
    mountpoint = settings.mountpoint(given["mountpoint"])
    with _libraries():
        from s3mount import daemon
    return daemon.umount(mountpoint)


def _status(given: Given) -> int:
    return commands.status(given["mountpoint"], as_json="json" in given)


def _stat(given: Given) -> int:
    return commands.stat(given["path"], as_json="json" in given)


def _log_level(given: Given) -> int:
    level = given.get("level")
    if level is not None and level not in words.LOG_LEVELS:
        raise UsageError(f"LEVEL {level!r}: one of {', '.join(words.LOG_LEVELS)}")
    return commands.log_level(given["mountpoint"], level)


def _url(given: Given) -> int:
    word = given.get("expires", "15m")
    seconds = _seconds("expires", word)
    if not 1 <= seconds <= EXPIRES_MAX_SECONDS:
        raise UsageError(f"--expires {word!r}: from 1s to 7d, which is all S3 takes")
    return commands.url(given["path"], expires_seconds=seconds)


def _refresh(given: Given) -> int:
    return commands.refresh(given["path"], attributes="attributes" in given)


def _sync(given: Given) -> int:
    word = given.get("timeout")
    seconds = None if word is None else _seconds("timeout", word)
    return keeping_commands.sync(given["mountpoint"], timeout=word or "", timeout_seconds=seconds)


def _failed(given: Given) -> int:
    action, mountpoint, chosen, as_json = given["action"], given["mountpoint"], given["paths"], "json" in given
    if ("to" in given) != (action == "export"):
        raise UsageError("failed export needs --to DIR, and nothing else takes it; see s3mount failed --help")
    if as_json and action == "export":
        raise UsageError("failed export gives no JSON; see s3mount failed --help")
    if "all" in given and (action != "drop" or chosen):
        raise UsageError("--all is for failed drop, instead of a PATH; see s3mount failed --help")
    if action == "drop":
        if not chosen and "all" not in given:
            raise UsageError("failed drop gives bytes up for good: name a PATH, or --all")
        return keeping_commands.failed_drop(mountpoint, chosen, as_json=as_json, everything="all" in given)
    if action == "export":
        return keeping_commands.failed_export(mountpoint, chosen, to=given["to"])
    if action == "retry":
        return keeping_commands.failed_retry(mountpoint, chosen, as_json=as_json)
    return keeping_commands.failed_list(mountpoint, chosen, as_json=as_json)


def _journal(given: Given) -> int:
    action, as_json = given["action"], "json" in given
    if ("to" in given) != (action == "export"):
        raise UsageError("journal export needs --to DIR, and nothing else takes it; see s3mount journal --help")
    if as_json and action == "export":
        raise UsageError("journal export gives no JSON; see s3mount journal --help")
    with _libraries():
        from s3mount import instance, preflight
        from s3mount.control import journal_commands
    mountpoint = preflight.resolved(settings.mountpoint(given["mountpoint"]))
    cache_dir = settings.cache_dir(given.get("cache_dir"), os.environ)
    if cache_dir is None:
        cache_dir = preflight.default_cache_dir(os.environ, uid=os.geteuid())
    journal = instance.journal_of(mountpoint, preflight.resolved(cache_dir), journal_commands.whose)
    if action == "export":
        return journal_commands.journal_export(journal, to=given["to"])
    return journal_commands.journal_list(journal, as_json=as_json)


def _abort(given: Given) -> int:
    return rescue_commands.abort(given["mountpoint"], force="force" in given)


def _healthcheck(given: Given) -> int:
    word = given.get("timeout", "5s")
    seconds = _seconds("timeout", word)
    if not 0 < seconds <= HEALTH_MAX_SECONDS:
        raise UsageError(f"--timeout {word!r}: more than 0 and up to 60s")
    return rescue_commands.healthcheck(given["mountpoint"], timeout_seconds=seconds, ready="ready" in given)


def _seconds(option: str, word: str) -> float:
    try:
        return words.read_time(word)
    except ValueError as cause:
        raise UsageError(f"--{option} {word!r}: {cause}") from None


VERBS = {
    "umount": Verb(UMOUNT_HELP, "mountpoint", _umount),
    "status": Verb(STATUS_HELP, "mountpoint", _status, {"json": False}),
    "stat": Verb(STAT_HELP, "path", _stat, {"json": False}),
    "url": Verb(URL_HELP, "path", _url, {"expires": True}),
    "log-level": Verb(LOG_LEVEL_HELP, "mountpoint", _log_level, more=("level", "?")),
    "refresh": Verb(REFRESH_HELP, "path", _refresh, {"attributes": False}),
    "sync": Verb(helps.SYNC_HELP, "mountpoint", _sync, {"timeout": True}),
    "failed": Verb(
        helps.FAILED_HELP,
        "mountpoint",
        _failed,
        {"json": False, "all": False, "to": True},
        actions=("list", "retry", "export", "drop"),
        more=("paths", "*"),
    ),
    "journal": Verb(
        helps.JOURNAL_HELP,
        "mountpoint",
        _journal,
        {"json": False, "cache-dir": True, "to": True},
        actions=("list", "export"),
    ),
    "abort": Verb(helps.ABORT_HELP, "mountpoint", _abort, {"force": False}),
    "healthcheck": Verb(helps.HEALTHCHECK_HELP, "mountpoint", _healthcheck, {"timeout": True, "ready": False}),
}
"""All verbs but `mount`, whose options are a table of their own."""


class _Parser(argparse.ArgumentParser):
    """argparse with whole screens for help (the description), and with exceptions for errors."""

    def format_help(self) -> str:
        return self.description or ""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class _TopicHelp(argparse.Action):
    """--help of a further screen; `const` is its topic."""

    def __call__(self, parser: argparse.ArgumentParser, *_args: object, **_options: object) -> NoReturn:
        print(topic_help(self.const), end="")
        parser.exit()


def mount_help() -> str:
    """A screen of 24 lines of 80 columns."""
    return MOUNT_HEAD + _lines(settings.ROWS)


def topic_help(topic: settings.Topic) -> str:
    """One more screen."""
    return TOPIC_HEAD.format(title=topic.title) + _lines(topic.rows)


def _lines(rows: Sequence[settings.Row]) -> str:
    return "".join(f" {row.usage:<{USAGE_WIDTH}} {row.help}\n" for row in rows)


def parse(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The verb, and what was given to it. Raises UsageError; SystemExit for help."""
    if argv and argv[0] == "mount":
        mount = _Parser(prog="s3mount mount", description=mount_help(), allow_abbrev=False)
        for option in settings.options():
            if option.kind is words.FLAG:
                mount.add_argument(option.flag, dest=option.name, action="store_const", const="true")
            else:
                mount.add_argument(option.flag, dest=option.name)
        for option in settings.POSITIONAL:
            mount.add_argument(option.name, nargs="?")
        for topic in settings.TOPICS:
            mount.add_argument(f"--help-{topic.name}", action=_TopicHelp, nargs=0, const=topic)
        given = vars(mount.parse_intermixed_args(argv[1:]))  # options may stand between the two
        return "mount", {name: word for name, word in given.items() if word is not None}
    if argv and argv[0] in VERBS:
        verb = VERBS[argv[0]]
        parser = _Parser(prog=f"s3mount {argv[0]}", description=verb.help, allow_abbrev=False)
        if verb.actions:
            parser.add_argument("action", choices=verb.actions)
        parser.add_argument(verb.path)
        if verb.more[0]:
            parser.add_argument(verb.more[0], nargs=verb.more[1])
        for name, has_value in verb.options.items():
            if has_value:
                parser.add_argument(f"--{name}")
            else:
                parser.add_argument(f"--{name}", action="store_const", const="true")
        parsed = vars(parser.parse_intermixed_args(argv[1:]))
        return argv[0], {name: word for name, word in parsed.items() if word is not None}
    top = _Parser(prog="s3mount", description=ABOUT, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"s3mount {s3mount.__version__}")
    top.add_argument("verb", metavar="VERB", choices=("mount", *VERBS))
    top.parse_args(argv)
    raise UsageError("the verb comes first; see s3mount --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status."""
    try:
        return _run(*parse(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        return _complain(error, status=2)
    except S3MountError as error:
        return _complain(error, status=1)
    except KeyboardInterrupt:
        return _complain(StartError("interrupted"), status=1)


def mount_main(argv: Sequence[str] | None = None) -> int:
    """`mount.s3mount`, as mount(8) calls it; the exit status is one of mount(8)'s."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv:
        print(fstab.USAGE, end="")
        return 0
    try:
        return _mount_as_mount8(fstab.parse(argv))
    except UsageError as error:
        return _complain(error, status=MOUNT_USAGE, program="mount.s3mount")
    except S3MountError as error:
        return _complain(error, status=MOUNT_FAILED, program="mount.s3mount")
    except KeyboardInterrupt:
        return _complain(StartError("interrupted"), status=MOUNT_INTERRUPTED, program="mount.s3mount")


def _mount_as_mount8(request: fstab.Request) -> int:
    config = replace(settings.load(request.given, os.environ), mount_flags=request.flags)
    if config.foreground:
        raise UsageError("foreground: mount(8) would wait for ever; take it out of file and variables")
    for note in request.notes:
        print(f"mount.s3mount: {note}", file=sys.stderr)
    if not request.fake:
        _mount(config)
    if request.verbose:
        print(f"mount.s3mount: {config.source} mounted on {config.mountpoint}")
    return 0


def _run(verb: str, given: Given) -> int:
    if verb in VERBS:
        return VERBS[verb].run(given)
    return _mount(settings.load(given, os.environ))


def _mount(config: Config) -> int:
    with _libraries():
        from s3mount import daemon, preflight
    # The mount table's spelling, for all that follows.
    return daemon.mount(replace(config, mountpoint=preflight.resolved(config.mountpoint)))


@contextmanager
def _libraries() -> Iterator[None]:
    try:
        yield
    except ImportError as cause:
        raise StartError(f"a library is missing: {cause}; install fuse3 and what s3mount requires") from cause


def _complain(error: S3MountError, *, status: int, program: str = "s3mount") -> int:
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    return status
