"""What is written down of an operation on its way: it was begun, it is done, it has parted, nothing helps it. Pure.

Each is the meta of a record; `op` is the number of the operation's own record.
"""

from typing import Any

from s3mount.store.base import Stored, Upload

Meta = dict[str, Any]


def begun(op: int) -> Meta:
    """The bucket may have it from now on."""
    return {"begun": op}


def opened(op: int, upload: Upload, part_bytes: int) -> Meta:
    """It goes by parts, in this upload; the parts lie as a grid of such a part size cuts them."""
    return {"begun": op, "upload": upload.id, "part_bytes": part_bytes}


def done(op: int, stored: Stored | None) -> Meta:
    """The bucket has it; of a deletion nothing is left."""
    if stored is None:
        return {"done": op, "etag": None, "modified": None, "version": None}
    return {"done": op, "etag": stored.etag, "modified": stored.last_modified_ns, "version": stored.version_id}


def parted(op: int) -> Meta:
    """The key is another client's; what there was to keep of it lies beside."""
    return {"parted": op}


def parked(op: int, reason: str) -> Meta:
    return {"parked": op, "reason": reason}


def unparked(op: int) -> Meta:
    return {"unparked": op}


def dropped(op: int) -> Meta:
    return {"dropped": op}
