"""Another client of the mount's bucket, with no file system: it puts and deletes objects while programs use the mount.

Its changes are made to names that no program has open, and only once the bucket holds what the mount has acknowledged:
an empty file is stored just after its last close, a deletion within its batch. What comes then is what two machines
may expect of each other: after the mount's lifetimes its programs see the change.
"""

import os
import time
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

SETTLE_SECONDS = 10.0
LIFETIME_SECONDS = 0.2
"""Of the mount's knowledge: what --metadata-ttl and --negative-ttl say in these runs."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The other client; keys are names below `prefix`."""

    bucket: str
    prefix: str
    s3: Any

    @classmethod
    def at(cls, endpoint_url: str, bucket: str, prefix: str) -> "Elsewhere":
        """With the credentials of the environment."""
        config = botocore.config.Config(s3={"addressing_style": "path"}, proxies={})
        return cls(bucket, prefix, boto3.client("s3", endpoint_url=endpoint_url, config=config))

    def get(self, name: str) -> bytes | None:
        try:
            body: bytes = self.s3.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return body

    def settled(self, name: str, body: bytes | None) -> bool:
        """Whether the bucket comes to hold this."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.get(name) != body:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def put(self, name: str, body: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body)

    def delete(self, name: str) -> None:
        self.s3.delete_object(Bucket=self.bucket, Key=self.prefix + name)


def outlive() -> None:
    """Wait until the mount believes nothing of what it knew."""
    time.sleep(1.5 * LIFETIME_SECONDS)


def replace(path: str, body: bytes) -> None:
    """What a foreign PUT is on a local disk: another file of that name, with the attributes that nobody chose."""
    with open(f"{path}.elsewhere", "wb") as file:
        file.write(body)
        os.fchown(file.fileno(), os.getuid(), os.getgid())
        os.fchmod(file.fileno(), 0o644)
    os.replace(f"{path}.elsewhere", path)
