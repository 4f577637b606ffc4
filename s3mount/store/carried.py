"""What requests carry because an option says so: storage class, encryption, ACL, requester pays, the bucket's owner.

Computed once, from Config, as header lines by operation; it sends nothing. The customer's key (SSE-C) is read here,
once, at start, and shown to nobody: no repr, log line or error has it. No state. Raises StartError.
"""

import base64
import binascii
import hashlib
import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from s3mount.config import Config
from s3mount.errors import StartError

CUSTOMER_KEY_BYTES = 32
KEY_FILE_MAX_BYTES = 1024
KEY_OPTION = "--sse-customer-key-file"

Line = tuple[str, str]
Lines = tuple[Line, ...]

CREATES = ("put", "create_upload", "copy")
"""The operations that decide how the new object is kept."""
COPIES = ("copy", "copy_part")
KEYED = ("put", "create_upload", "upload_part", "copy_part", "complete_upload", "copy", "get", "head")
"""The operations that need the customer's key. S3 asks a completion for it where the upload has a checksum."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The lines each request gets besides its own; both empty when no option asks for any."""

    by_operation: Mapping[str, Lines] = field(repr=False)
    by_others: Lines = field(default=(), repr=False)
    customer_key: bool = False

    def by(self, operation: str) -> Lines:
        return self.by_operation.get(operation, self.by_others)


NOTHING = Carried({})


def carried_by(config: Config) -> Carried:
    """What the options ask for. Reads the key file."""
    everywhere = _everywhere(config)
    path = config.sse_customer_key_file
    key = None if path is None else read_customer_key(path)
    target = _key_lines("x-amz-", key) if key is not None else ()
    source = _key_lines("x-amz-copy-source-", key) if key is not None else ()
    if config.expected_bucket_owner is not None:
        source += (("x-amz-source-expected-bucket-owner", config.expected_bucket_owner),)
    created = _created(config)
    lines = {
        operation: everywhere
        + (created if operation in CREATES else ())
        + (target if operation in KEYED else ())
        + (source if operation in COPIES else ())
        for operation in (*KEYED, *COPIES, *CREATES)
    }
    return Carried(
        {operation: carried for operation, carried in lines.items() if carried != everywhere},
        everywhere,
        customer_key=key is not None,
    )


def _everywhere(config: Config) -> Lines:
    lines: list[Line] = []
    if config.requester_pays:
        lines.append(("x-amz-request-payer", "requester"))
    if config.expected_bucket_owner is not None:
        lines.append(("x-amz-expected-bucket-owner", config.expected_bucket_owner))
    return tuple(lines)


def _created(config: Config) -> Lines:
    wanted = (
        ("x-amz-storage-class", config.storage_class),
        ("x-amz-server-side-encryption", config.sse),
        ("x-amz-server-side-encryption-aws-kms-key-id", config.sse_kms_key_id),
        ("x-amz-acl", config.acl),
    )
    return tuple([(name, value) for name, value in wanted if value is not None])


def _key_lines(start: str, key: bytes) -> Lines:
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    name = f"{start}server-side-encryption-customer-"
    return (
        (f"{name}algorithm", "AES256"),
        (f"{name}key", base64.b64encode(key).decode()),
        (f"{name}key-md5", base64.b64encode(digest).decode()),
    )


def read_customer_key(path: Path) -> bytes:
    """The key in a file that nobody else can read: 32 bytes, or their base64."""
    try:
        # Not blocking: a FIFO would keep the start waiting for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            info = os.fstat(handle)
            content = os.read(handle, KEY_FILE_MAX_BYTES) if stat.S_ISREG(info.st_mode) else b""
        finally:
            os.close(handle)
    except OSError as error:
        raise StartError(f"{KEY_OPTION} {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise StartError(f"{KEY_OPTION} {path} is no file")
    if info.st_mode & 0o077:
        raise StartError(f"{KEY_OPTION} {path} is open to others (mode {stat.S_IMODE(info.st_mode):04o}): chmod 600")
    if len(content) == CUSTOMER_KEY_BYTES:
        return content
    try:
        key = base64.b64decode(content.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != CUSTOMER_KEY_BYTES:
        raise StartError(f"{KEY_OPTION} {path} must hold {CUSTOMER_KEY_BYTES} bytes or their base64, and nothing else")
    return key


def check_secrecy(carried: Carried, origin: str, proxy: str | None) -> None:
    """Refuse to send a customer's key where it can be read on the way."""
    parts = urlsplit(origin)
    if not carried.customer_key or parts.scheme == "https":
        return
    if proxy is not None or not _is_loopback(parts.hostname or ""):
        raise StartError(f"{KEY_OPTION} would send the key readable to {origin}: use an https:// --endpoint-url")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
