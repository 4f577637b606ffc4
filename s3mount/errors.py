"""Every exception s3mount raises on purpose, each with the errno that a program sees.

    S3MountError                      EIO
    |- UsageError                     a word on the command line, in the environment or in the file: exit status 2
    |- StartError                     the mount cannot start: exit status 1 and one line
    |- ControlError                   a running daemon cannot be asked, or refused: exit status 1 and one line
    |- StoreError                     EIO     what the object store answered, or did not
    |  |- NotFound                    ENOENT  NoSuchKey
    |  |- NoSuchBucket                EIO     the bucket went away under a running mount
    |  |- NoSuchUpload                EIO     completed, aborted or swept
    |  |- AccessDenied                EACCES  403; credentials that expired and did not come back
    |  |- Archived                    EACCES  InvalidObjectState: restore the object first
    |  |- PreconditionFailed          ESTALE  412, and 409 while another conditional write is under way
    |  |- RangeNotSatisfiable         ESTALE  416: the object is shorter than what we knew
    |  |- KeyTooLong                  ENAMETOOLONG
    |  |- BadReply                    EIO     a reply that contradicts itself: cut, wrong length, 200 with an error
    |  |- ClockSkew                   EIO     RequestTimeTooSkewed
    |  |- NotImplementedByStore       EIO     501, or a header or operation the store refuses to know
    |  |- Unavailable                 EIO     5xx, throttling, time-outs, broken connections, after all retries
    |  |- LostReply                   EIO     a mutating request whose outcome nobody knows
    |  |- JournalFull                 ENOSPC  the disk of the write-back journal has no room
    |  |- JournalFailed               EIO     it does not write what it is given
    |- FileSystemError                EIO
       |- NoEntry ENOENT              |- Exists EEXIST           |- NotADirectory ENOTDIR
       |- IsADirectory EISDIR         |- NotEmpty ENOTEMPTY      |- Stale ESTALE
       |- NameTooLong ENAMETOOLONG    |- IllegalName EILSEQ      |- ReadOnly EROFS
       |- NotPermitted EPERM          |- Denied EACCES           |- Invalid EINVAL
       |- Busy EBUSY                  |- BadHandle EBADF         |- NotSupported ENOTSUP
       |- StagingFull ENOSPC          |- FileTooBig EFBIG        |- Lost EIO
       |- MetadataFull ENOSPC         |- TooMany EMFILE         |- NoAttribute ENODATA

`errors` is a leaf: it imports nothing of ours. An exception is translated into an errno in `fuse.py` and nowhere else.
"""

import errno
from typing import ClassVar


class S3MountError(Exception):
    """The root of the tree; `errno` is what a system call answers when it meets one."""

    errno: ClassVar[int] = errno.EIO


def again(error: S3MountError) -> S3MountError:
    """The same error for one more task, caused by it: an exception must not be raised in two."""
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error
    return copied


class UsageError(S3MountError):
    """A word of the user's that cannot be understood; names the option and the remedy. Exit status 2."""

    errno = errno.EINVAL


class StartError(S3MountError):
    """The mount cannot start; one line saying what to do. Exit status 1."""


class ControlError(S3MountError):
    """What the daemon of a mount was asked got no answer, or a refusal; one line. Exit status 1."""


class StoreError(S3MountError):
    """What the store answered. `code` is S3's error code or '' and `status` the HTTP status or 0."""

    def __init__(self, message: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class NotFound(StoreError):
    errno = errno.ENOENT


class NoSuchBucket(StoreError):
    pass


class NoSuchUpload(StoreError):
    pass


class AccessDenied(StoreError):
    errno = errno.EACCES


class Archived(StoreError):
    errno = errno.EACCES


class PreconditionFailed(StoreError):
    errno = errno.ESTALE


class RangeNotSatisfiable(StoreError):
    errno = errno.ESTALE


class KeyTooLong(StoreError):
    errno = errno.ENAMETOOLONG


class BadReply(StoreError):
    pass


class ClockSkew(StoreError):
    pass


class NotImplementedByStore(StoreError):
    pass


class Unavailable(StoreError):
    pass


class LostReply(StoreError):
    pass


class JournalFull(StoreError):
    """The disk of the write-back journal has no room for what was to be acknowledged."""

    errno = errno.ENOSPC


class JournalFailed(StoreError):
    """The disk of the write-back journal failed: nothing was acknowledged."""


class FileSystemError(S3MountError):
    """What the file system itself refuses, before or without asking the store."""


class NoEntry(FileSystemError):
    errno = errno.ENOENT


class Exists(FileSystemError):
    errno = errno.EEXIST


class NotADirectory(FileSystemError):
    errno = errno.ENOTDIR


class IsADirectory(FileSystemError):
    errno = errno.EISDIR


class NotEmpty(FileSystemError):
    errno = errno.ENOTEMPTY


class Stale(FileSystemError):
    errno = errno.ESTALE


class NameTooLong(FileSystemError):
    errno = errno.ENAMETOOLONG


class IllegalName(FileSystemError):
    errno = errno.EILSEQ


class ReadOnly(FileSystemError):
    errno = errno.EROFS


class NotPermitted(FileSystemError):
    errno = errno.EPERM


class Denied(FileSystemError):
    errno = errno.EACCES


class Invalid(FileSystemError):
    errno = errno.EINVAL


class Busy(FileSystemError):
    errno = errno.EBUSY


class BadHandle(FileSystemError):
    errno = errno.EBADF


class NotSupported(FileSystemError):
    errno = errno.ENOTSUP


class StagingFull(FileSystemError):
    errno = errno.ENOSPC


class FileTooBig(FileSystemError):
    errno = errno.EFBIG


class MetadataFull(FileSystemError):
    """Attributes that an object's metadata cannot hold."""

    errno = errno.ENOSPC


class TooMany(FileSystemError):
    """A limit on the number of objects of one operation."""

    errno = errno.EMFILE


class NoAttribute(FileSystemError):
    """No extended attribute of this name."""

    errno = errno.ENODATA


class Lost(FileSystemError):
    """Bytes that were dropped from staging after they were sent, and were asked for again."""
