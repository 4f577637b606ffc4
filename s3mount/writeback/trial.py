"""What the sender remembers of one operation between its attempts, and what can become of one."""

from dataclasses import dataclass, field

from s3mount.errors import S3MountError
from s3mount.store.base import Part, Stored, Upload


@dataclass(slots=True, eq=False)
class Trial:
    """The attempts at one operation. Mutable: the one task that sends the operation writes it."""

    earlier: bool = False
    """It was acknowledged by a daemon before this one."""
    doubted: bool = False
    """A request of it may have had its effect: the bucket is looked at before anything else is sent."""
    written: bool = False
    """That it was begun is in the journal."""
    failures: int = 0
    """In a row; those that time may heal."""
    failing_since: float | None = None
    error: S3MountError | None = None
    retry_at: float = 0.0
    goes_on: bool = True
    """Whether the next daemon goes on with an upload by parts; else it aborts it."""
    anew: bool = False
    """The store has refused the parts of an upload once, and all of them were to be sent again."""
    upload: Upload | None = None
    """The upload by parts that is open for it."""
    parts: dict[int, Part] = field(default_factory=dict)

    def failed(self, error: S3MountError, now: float) -> None:
        """What keeps it from the bucket, for those who wait."""
        self.failing_since = now if self.failing_since is None else self.failing_since
        self.error = error


@dataclass(frozen=True, slots=True)
class Landed:
    """The bucket has it; `stored` is None of a deletion."""

    stored: Stored | None


@dataclass(frozen=True, slots=True)
class Parted:
    """The key is another client's, and what was to be kept lies beside."""


Outcome = Landed | Parted
