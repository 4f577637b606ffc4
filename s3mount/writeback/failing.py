"""Which failures pass, when the next attempt is, and whether the store is of use to anybody at present.

What is about one key for good is parked by the sender. All else passes: an outage, credentials that expired, a bucket
that is being made anew. While it lasts one operation at a time finds out whether it is over.
"""

import logging
import random

import trio

from s3mount.errors import (
    BadReply,
    ClockSkew,
    JournalFailed,
    JournalFull,
    LostReply,
    NoSuchBucket,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    S3MountError,
    StoreError,
    Unavailable,
)
from s3mount.writeback.bodies import HomeGone

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 1.0
BACKOFF_MAX_SECONDS = 30.0
CREDENTIAL_CODES = frozenset(
    {
        "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "RequestExpired",
        "SignatureDoesNotMatch", "TokenRefreshRequired", "UnauthorizedAccess", "AccountProblem",
    }
)  # fmt: skip
"""Refusals of who asks, not of what is asked for."""
PASSING = (
    Unavailable, LostReply, BadReply, ClockSkew, NoSuchBucket, NoSuchUpload, PreconditionFailed, NotFound,
    JournalFull, JournalFailed, HomeGone,
)  # fmt: skip

ABOUT_ONE = (NoSuchUpload, PreconditionFailed, NotFound, HomeGone, JournalFull, JournalFailed)


def passes(error: S3MountError) -> bool:
    """Whether the same request may succeed later with nobody doing anything about its key."""
    if isinstance(error, PASSING):
        return True
    return isinstance(error, StoreError) and (error.code in CREDENTIAL_CODES or error.status in (408, 429))


def backoff_seconds(failures: int) -> float:
    """Doubling, with jitter."""
    most = min(BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * 2.0 ** min(failures - 1, 10))
    return most * random.uniform(0.5, 1.0)


class Trouble:
    """Failures since the last success of any operation. The mutable state: how many pauses they have made, until when
    the present one lasts, and whether it was told."""

    def __init__(self) -> None:
        self._pauses = 0
        self.until = 0.0
        self._told = False

    def __bool__(self) -> bool:
        return self._pauses > 0

    def failed(self, error: S3MountError) -> None:
        if isinstance(error, ABOUT_ONE):
            return
        now = trio.current_time()
        of_all = isinstance(error, NoSuchBucket) or (isinstance(error, StoreError) and error.code in CREDENTIAL_CODES)
        if of_all and not self._told:
            self._told = True
            log.error("the bucket takes nothing, what waits is sent when it does reason=%s", error)
        if now >= self.until:
            self._pauses += 1
            self.until = now + backoff_seconds(self._pauses)

    def succeeded(self) -> None:
        if self._told:
            log.warning("the bucket takes what waits again")
        self._pauses, self.until, self._told = 0, 0.0, False
