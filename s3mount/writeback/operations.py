"""What waits for the bucket: operations on keys, what they bring, and where its bytes are. Values and nothing else.

`seq` numbers are the journal's: they grow, and a later operation on a key is the truth about it. An etag that begins
with `PROVISIONAL` is ours: it names a version that the bucket does not have yet, or had under this name when a program
first saw it. Etags in `Condition`s and `Home`s are the bucket's, but where `Operation.after` says otherwise.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from s3mount.errors import S3MountError
from s3mount.store.base import ALWAYS, Condition, Headers

Kind = Literal["put", "delete", "rename", "copy"]
State = Literal["waiting", "begun", "parked", "over"]
"""begun: the bucket may have it, and a crash does not know: it is never joined with another one any more. parked: no
repetition helps; it, and what comes after it on its keys, waits for a person."""


class Place(NamedTuple):
    """Bytes in the journal: the body of one record. `crc` is their CRC-32."""

    segment: int
    offset: int
    size: int
    crc: int


@dataclass(slots=True, eq=False)
class Home:
    """Where the bucket has one version at present: the one thing here that changes, when an operation that moves the
    version lands. Shared by all content that has bytes of it."""

    key: str
    etag: str
    size: int


class Piece(NamedTuple):
    """`[start, stop)` of an object: bytes of a place or of a home from `offset` on, or zeros when both are None."""

    start: int
    stop: int
    place: Place | None
    home: Home | None
    offset: int


Content = tuple[Piece, ...]
"""In order and without gaps; empty for an empty object."""


@dataclass(slots=True, eq=False)
class Operation:
    """One mutation that was acknowledged, or several joined into one.

    put: `key` gets `content` and `headers`. copy: the same from one home, whole, which the store copies by itself;
    `headers` None keeps those it has. rename: as copy, and the home's key (`source`) loses it. delete: `key` goes.
    `etag`, `size`, `at_ns` are what a listing of the mount tells of the key meanwhile. `condition` is what must hold of
    the bucket's object at `key`; with `after` it is instead what that operation, begun before this one came, has left.
    """

    seq: int
    kind: Kind
    key: str
    at_ns: int
    etag: str = ""
    size: int = 0
    headers: Headers | None = None
    content: Content = ()
    source: str | None = None
    condition: Condition = ALWAYS
    after: "Operation | None" = None
    state: State = "waiting"
    error: S3MountError | None = None
    upload_id: str | None = None
    """Of a multipart upload that was opened for it, by this daemon or an earlier one."""
    part_bytes: int = 0
    """The part size of that upload's grid."""
    due_at: float = 0.0
    """When it may be sent, by the loop's clock: --write-back-delay after the first version that it holds."""
    blockers: "set[Operation]" = field(default_factory=set)
    """Operations that have to land before it is sent."""
    dependents: "set[Operation]" = field(default_factory=set)
    ended: bool = False
    """Whether the sender has brought it to its end; what is over without that was joined with another, or dropped."""
    seqs: list[int] = field(default_factory=list)
    """Of all records that are joined in it, its own the last."""
