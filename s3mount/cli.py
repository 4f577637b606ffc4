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
from s3mount import settings
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
variables (S3MOUNT_UMASK=027), variables over the file (umask = "027").
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


def mount_help() -> str:
    """A screen of 24 lines of 80 columns."""
    return MOUNT_HEAD + "".join(f" {row.usage:<{USAGE_WIDTH}} {row.help}\n" for row in settings.ROWS)


def parser() -> argparse.ArgumentParser:
    """Each flag keeps the word it was given; a flag that was not given is absent from the namespace."""
    top = _Parser(prog="s3mount", description=ABOUT, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"s3mount {s3mount.__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    mount = verbs.add_parser("mount", description=mount_help(), allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for option in settings.options():
        if option.kind is settings.FLAG:
            mount.add_argument(option.flag, dest=option.name, action="store_const", const="true")
        else:
            mount.add_argument(option.flag, dest=option.name)
    for option in settings.POSITIONAL:
        mount.add_argument(option.name, nargs="?")
    umount = verbs.add_parser("umount", description=UMOUNT_HELP, allow_abbrev=False)
    umount.add_argument(settings.MOUNTPOINT_WORD.name)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status."""
    try:
        given = vars(parser().parse_args(argv))
        return _run(given.pop("verb"), given)
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
