"""A data version: which bytes a key stands for; and the news that a key stands for others now. Knows no store call."""

from dataclasses import dataclass, field

from s3mount.errors import S3MountError, Stale, StoreError
from s3mount.store.base import ObjectInfo


@dataclass(frozen=True, slots=True)
class Version:
    """One state of one object's bytes. Equal versions have equal bytes. `version_id`, where the bucket keeps versions
    and the id is known, does not make another version of it; `pinned`: the key stands for something else by now, and
    only the id leads to the bytes."""

    key: str
    etag: str
    size: int
    version_id: str | None = field(default=None, compare=False)
    pinned: bool = field(default=False, compare=False)


class Changed(Stale):
    """The object is another version now: `info`, or gone: None."""

    def __init__(self, message: str, info: ObjectInfo | None) -> None:
        super().__init__(message)
        self.info = info


class HalfMoved(S3MountError):
    """A move made `copy`; whether the object is at its former key still, nobody knows, by `reason`."""

    def __init__(self, copy: Version, reason: StoreError) -> None:
        super().__init__(str(reason))
        self.copy = copy
        self.reason = reason
