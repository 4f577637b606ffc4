"""One mount's own place on disk: a directory under the cache directory, locked while the mount lives.

An instance is an endpoint, a bucket, a prefix and a mountpoint: two mounts that differ in one of them never share a
directory, and of two that do not, the second finds the lock taken. What an earlier daemon left in the staging log is
of no use: nothing in it was acknowledged. Its journal is read: it names what that daemon has left in the bucket."""

import fcntl
import hashlib
import os
import secrets
import shutil
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from s3mount.config import Config
from s3mount.errors import StartError

OWNER_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Instance:
    """The directory of one mount and what is in it."""

    directory: Path

    @property
    def staging(self) -> Path:
        return self.directory / "staging"

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    @property
    def removals(self) -> Path:
        return self.directory / "removals"

    @property
    def write_back(self) -> Path:
        return self.directory / "write-back"

    @property
    def log(self) -> Path:
        return self.directory / "s3mount.log"


def name(config: Config) -> str:
    """The same for the same endpoint, bucket, prefix and mountpoint; readable at its start."""
    return _name(config.endpoint_url or "aws", config.bucket, config.prefix, config.mountpoint)


def journal_of(mountpoint: Path, cache_dir: Path, whose: Callable[[Path], tuple[str, str, str] | None]) -> Path:
    """The write-back journal of a mount that may be gone, by its mountpoint, or by its instance's directory.

    `whose`: endpoint, bucket and prefix as a journal tells them. Raises StartError, which names those there are."""
    found = []
    for directory in sorted((cache_dir / "instances").glob("*")):
        instance = Instance(directory)
        if mountpoint == directory:
            return instance.write_back
        identity = whose(instance.write_back) if instance.write_back.is_dir() else None
        if identity is not None:
            if _name(*identity, mountpoint) == directory.name:
                return instance.write_back
            found.append(str(directory))
    there = f"; there are: {', '.join(found)}" if found else ""
    raise StartError(f"{mountpoint} has no write-back journal below {cache_dir} (see --cache-dir){there}")


def _name(endpoint: str, bucket: str, prefix: str, mountpoint: Path) -> str:
    identity = "\0".join([endpoint, bucket, prefix, str(mountpoint)])
    return f"{bucket}-{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def owner(directory: Path) -> str:
    """The random word by which an instance knows its own intents in the bucket: two hosts may share names and
    mountpoints, but not this. Drawn once; only the holder of the lock may ask. Raises StartError."""
    path = directory / "owner"
    try:
        return _kept(path) or _drawn(path)
    except OSError as error:
        raise StartError(f"{path} cannot be used: {error}; see --cache-dir") from error


def _kept(path: Path) -> str | None:
    try:
        word = path.read_text(encoding="ascii").strip()
        if len(word) == OWNER_DIGITS and set(word) <= set(string.hexdigits):
            return word
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    return None


def _drawn(path: Path) -> str:
    word = secrets.token_hex(OWNER_DIGITS // 2)
    draft = path.with_suffix(".new")
    draft.write_text(word + "\n", encoding="ascii")
    draft.replace(path)
    return word


def check_nothing_waits(journal: Path, waiting: Callable[[Path], int]) -> None:
    """For a mount without --write-back: what an earlier daemon has acknowledged must not be forgotten, nor overtaken.
    `waiting`: how many changes a journal holds. Raises StartError."""
    count = waiting(journal) if journal.exists() else 0
    if count:
        raise StartError(
            f"{count} changes that --write-back has acknowledged wait in {journal}: mount with --write-back to send "
            "them, or take them out with `s3mount journal export`"
        )


@contextmanager
def held(config: Config, cache_dir: Path) -> Iterator[Instance]:
    """Lock the instance's directory for the time of the block, its staging empty. Raises StartError when it is in
    use."""
    instance = Instance(cache_dir / "instances" / name(config))
    instance.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(instance.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(
                f"another s3mount serves {config.source} at {config.mountpoint}: unmount it first (s3mount umount)"
            ) from error
        shutil.rmtree(instance.staging, ignore_errors=True)
        instance.staging.mkdir(mode=0o700, exist_ok=True)
        yield instance
        shutil.rmtree(instance.staging, ignore_errors=True)
    finally:
        os.close(lock)
