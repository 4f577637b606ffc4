"""Looks at a file whose oracle is not sure, through the mount and with plain boto3."""

import errno
import time
from pathlib import Path

import boto3
import botocore.config

from tests.load.calls import Calls, Wrong
from tests.load.promises import version_of
from tests.load.sheet import Sheet

LOOK_SECONDS = 300.0
"""So long a look is tried again; the store is a bad one, not a dead one."""
AGAIN_SECONDS = 0.2


class Looks:
    """See the module. The store is that of the AWS variables."""

    def __init__(self, root: Path, calls: Calls, bucket: str, prefix: str) -> None:
        self._root = root
        self._calls = calls
        self._bucket, self._prefix = bucket, prefix
        self._store = boto3.session.Session().client(
            "s3",
            config=botocore.config.Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def look(self, sheet: Sheet) -> None:
        """Find out what is there, however often it takes: one of the candidates."""
        deadline = time.monotonic() + LOOK_SECONDS
        while sheet.unsure:
            found, number = self._calls.attempt_of(sheet, "look", (self._root / sheet.name).read_bytes)
            if number in {0, errno.ENOENT}:
                right(sheet.look(found))
            elif time.monotonic() > deadline:
                raise Wrong(f"{sheet.name} cannot be read")
            elif number != errno.EIO:
                time.sleep(AGAIN_SECONDS)

    def in_bucket(self, sheet: Sheet) -> None:
        """A success of a sync means the bucket, now."""
        body = self._store.get_object(Bucket=self._bucket, Key=f"{self._prefix}{sheet.name}")["Body"].read()
        self._calls.counts["object compared"] += 1
        self._calls.bytes_compared += len(body)
        if sheet.now is None or version_of(body) != version_of(sheet.now):
            raise Wrong(f"{sheet.name} is stored as {version_of(body)}, synced was {sheet.shown}")


def right(complaint: str) -> None:
    """Raises Wrong for a complaint."""
    if complaint:
        raise Wrong(complaint)
