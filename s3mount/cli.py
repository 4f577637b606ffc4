"""The command line: argv in, exit status out; 0, 2 for words that cannot be understood, 1 for everything else.

No logic: options are `settings.py`'s, the machine's state is `preflight.py`'s, the mount is `daemon.py`'s, which is
imported only when a verb needs it, so that help works, and quickly, where libfuse is missing. A failure is one line
on stderr."""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import s3mount
from s3mount import settings, words
from s3mount.errors import S3MountError, StartError, UsageError

USAGE_WIDTH = 33

ABOUT = f"""\
usage: s3mount mount [OPTION]... s3://BUCKET[/PREFIX] MOUNTPOINT
       s3mount umount MOUNTPOINT
       s3mount mount --help | umount --help | --version

s3mount {s3mount.__version__} shows an S3 bucket as a directory.
"""

MOUNT_HEAD = """\
usage: s3mount mount [OPTION]... s3://BUCKET[/PREFIX] MOUNTPOINT
Returns when it serves. Sizes as 8MiB, times as 5s, [defaults]. Options win over
variables (S3MOUNT_UMASK=027), variables over the file (umask = "027"). More of
them: s3mount mount --help-writing, --help-names
"""

TOPIC_HEAD = """\
usage: s3mount mount [OPTION]... s3://BUCKET[/PREFIX] MOUNTPOINT
{title}; the other options: s3mount mount --help
"""

UMOUNT_HELP = """\
usage: s3mount umount MOUNTPOINT
Unmounts; the daemon ends by itself. What was closed is in the bucket already.
Refused while a file is open or a process stands in the directory: fuser -vm.
"""


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


def parse(argv: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The verb, and each word given to it under the name of its option. Raises UsageError; SystemExit for help."""
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
    if argv and argv[0] == "umount":
        umount = _Parser(prog="s3mount umount", description=UMOUNT_HELP, allow_abbrev=False)
        umount.add_argument(settings.MOUNTPOINT_WORD.name)
        return "umount", vars(umount.parse_args(argv[1:]))
    top = _Parser(prog="s3mount", description=ABOUT, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"s3mount {s3mount.__version__}")
    top.add_argument("verb", metavar="VERB", choices=("mount", "umount"))
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


def _run(verb: str, given: Mapping[str, str]) -> int:
    if verb == "umount":
        mountpoint = settings.mountpoint(given["mountpoint"])
        with _libraries():
            from s3mount import daemon
        return daemon.umount(mountpoint)
    config = settings.load(given, os.environ)
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


def _complain(error: S3MountError, *, status: int) -> int:
    print(f"s3mount: {' '.join(str(error).split())}", file=sys.stderr)
    return status
