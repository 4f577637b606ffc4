"""The contract of an object store: one async Protocol, the frozen values it speaks in.

`s3.S3Store` and the in-memory store of the tests are held to it by one suite (tests/store). Keys are `str` and full:
a store knows nothing of the mount's prefix. Etags are the strings S3 sends, quotes included. Times are nanoseconds
since the epoch, by the server's clock. Every call may raise any class of `errors.StoreError`; those named are the
ones a caller is expected to tell apart. Every call is cancellable; a cancelled or failed mutating call may or may not
have had its effect."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from s3mount.errors import StoreError

Buffer = bytes | bytearray | memoryview
Body = Sequence[Buffer]
"""A body to send: its pieces in order. It is read again from the start when a request is repeated: it must not
change."""

PROVISIONAL = '"s3mount-'
"""How the etags begin of versions that a store answers for before the bucket has them: they outlive no daemon."""

NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Headers:
    """What an object carries besides its bytes; `metadata` without the `x-amz-meta-` prefix, names in lower case.

    `tags` are URL-encoded pairs (`a=1&b=2`). A HEAD or GET tells only how many there are: `ObjectStore.tags` asks.
    """

    content_type: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_METADATA)
    tags: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be true of the key for a mutation to happen: nothing, this etag, or absence."""

    etag: str | None = None
    absent: bool = False

    def __post_init__(self) -> None:
        assert not (self.etag and self.absent)


ALWAYS = Condition()
ABSENT = Condition(absent=True)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a HEAD or GET describes it. `date_ns` is the Date of the reply; `tag_count` 0 when not told."""

    key: str
    size: int
    etag: str
    last_modified_ns: int
    date_ns: int
    headers: Headers = Headers()
    version_id: str | None = None
    storage_class: str | None = None
    tag_count: int = 0


class Listed(NamedTuple):
    """One object as a LIST describes it. A tuple and no dataclass: a frozen one costs five times as much to make."""

    key: str
    size: int
    etag: str
    last_modified_ns: int


@dataclass(frozen=True, slots=True)
class Page:
    """One LIST reply. Objects and prefixes are each in key order; `token` is None on the last page."""

    objects: tuple[Listed, ...]
    prefixes: tuple[str, ...]
    token: str | None
    date_ns: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What a mutation left in the bucket. `last_modified_ns` is the reply's Date unless the store said better."""

    etag: str
    last_modified_ns: int
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that is open. `token` is what recognises our own completion where the etag does not;
    `initiated_ns` is told by a list only."""

    key: str
    id: str
    token: str | None = None
    initiated_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is stored: number from 1, etag as the store answered."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Undeleted:
    """A key that `delete_many` has not deleted, as far as is known, and why."""

    key: str
    error: StoreError


class UploadLog(Protocol):
    """Hears of every multipart upload that a store opens, its own for large copies too. Each call returns at once, and
    what it was told is written down by then; none raises."""

    def begin(self, key: str, now_ns: int) -> int:
        """One is about to be opened, at this time of the server's; the number by which the next call names it."""

    def opened(self, number: int, upload: Upload) -> None:
        """It is open."""

    def refused(self, number: int) -> None:
        """It was not opened."""

    def doubted(self, number: int) -> None:
        """It may have been opened, by a request whose reply never came."""

    def ended(self, upload: Upload) -> None:
        """It is complete or aborted: nothing of it is left."""


class Unlogged:
    """The UploadLog of a store that nobody cleans up after."""

    def begin(self, _key: str, _now_ns: int) -> int:
        return 0

    def opened(self, number: int, upload: Upload) -> None:
        return

    def refused(self, number: int) -> None:
        return

    def doubted(self, number: int) -> None:
        return

    def ended(self, upload: Upload) -> None:
        return


class ObjectStore(Protocol):
    """An S3 bucket. Safe for any number of tasks at once; limits and retries are inside."""

    async def head(self, key: str) -> ObjectInfo:
        """Describe one object. Raises NotFound, AccessDenied (a 403 is settled by a LIST: not listed is NotFound)."""

    async def tags(self, key: str) -> str:
        """The tags of an object as `Headers.tags` has them; none where the store knows no tags. Raises NotFound,
        AccessDenied."""

    async def get(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        version_id: str | None = None,
        arrived: Callable[[int], None] | None = None,
    ) -> ObjectInfo | None:
        """Fetch `[start, min(start + len(into), size))` into `into`; None when `if_none_match` still holds.

        The caller knows how much came from the answer's `size`. `arrived(n)` is called as the first n bytes are in
        place. A body cut short is resumed on condition of the etag. Once the call has returned or raised, cancelled
        included, `into` is not touched any more. Raises PreconditionFailed, RangeNotSatisfiable (start > 0 and start
        >= size, also what an empty object answers), NotFound."""

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        """One page of the keys below `prefix` in UTF-8 order; with a delimiter, grouped. Its token is another than the
        one asked with, or BadReply is raised: who reads on until there is none comes to an end."""

    async def put(self, key: str, body: Body, headers: Headers, condition: Condition = ALWAYS) -> Stored:
        """Store an object whole. Atomic. Raises PreconditionFailed, KeyTooLong; LostReply after the last retry."""

    async def copy(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        headers: Headers | None = None,
        condition: Condition = ALWAYS,
    ) -> Stored:
        """Copy on the server, of exactly `source_etag`; `headers` replaces all headers and metadata, None keeps them.

        `source_size`, where the caller knows it, saves a look to a store that answers before it asks.
        Tags come along whatever `headers.tags` says. Objects over `Config.copy_max_bytes` are copied by parts.
        `condition` is about the target.
        Raises NotFound, PreconditionFailed.
        """

    @property
    def keeps_conditions(self) -> bool:
        """Whether the conditions of a PUT are kept, as far as is known; what is lacking is not sent."""

    @property
    def renames(self) -> bool:
        """Whether `rename` may be asked for: it was seen to work, and was not refused since."""

    @property
    def ghosts(self) -> bool:
        """Whether it was seen to list a prefix whose keys are gone, until that is deleted as a marker would be."""

    async def rename(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        condition: Condition = ALWAYS,
    ) -> None:
        """Give exactly `source_etag` another key; etag, headers, tags and Last-Modified stay. Atomic. `condition` is
        about the target. Only where `renames` says so: other stores may take it for a PUT of nothing. Raises NotFound,
        PreconditionFailed; NotImplementedByStore, and `renames` is False from then on."""

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        """Remove an object; a key that is absent is success unless a condition names an etag (then
        PreconditionFailed)."""

    async def delete_many(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        """Remove objects by key, each on condition of the etag where one is given; those it did not remove.

        Nothing is raised for a key; one that is absent is success, with an etag too. An object of another etag is
        answered by PreconditionFailed, a lost reply by LostReply for every key that was asked for. Keys that end with
        '/' go last, the deepest first: some stores keep a marker while keys lie below it."""

    async def delete_batch(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        """One request for up to 1,000 keys as it is, to find out what a store makes of it. Raises what it says to the
        whole."""

    async def create_upload(self, key: str, headers: Headers, condition: Condition = ALWAYS) -> Upload:
        """Open a multipart upload; `condition` is the one it will be completed on."""

    async def upload_part(self, upload: Upload, number: int, body: Body) -> Part:
        """Store part `number`, replacing an earlier one. Raises NoSuchUpload."""

    async def copy_part(
        self, upload: Upload, number: int, source: str, start: int, stop: int, *, source_etag: str
    ) -> Part:
        """Store `[start, stop)` of another object as part `number`. Raises NoSuchUpload, PreconditionFailed."""

    async def complete_upload(self, upload: Upload, parts: Sequence[Part], condition: Condition = ALWAYS) -> Stored:
        """Publish the object. Atomic. Raises PreconditionFailed, NoSuchUpload; our own completion, found after a lost
        reply, is success."""

    async def abort_upload(self, upload: Upload) -> None:
        """Forget an upload and its parts; one that is gone already is success."""

    async def has_parts(self, upload: Upload) -> bool:
        """Whether a part of an open upload is stored. Raises NoSuchUpload."""

    async def list_parts(self, upload: Upload) -> tuple[Part, ...]:
        """The parts of an open upload that are stored, by number. Raises NoSuchUpload."""

    async def list_uploads(self, prefix: str, *, exactly: bool = False) -> tuple[Upload, ...]:
        """All multipart uploads open below `prefix`, or `exactly` those of that key, each with the time of its
        initiation."""

    # what a store does that answers before the bucket has (write-back); all others have nothing to say to it

    @property
    def away(self) -> bool:
        """Whether the bucket is out of reach while changes are acknowledged nevertheless: what was known of it goes on
        being believed. Never of a store that is the bucket itself: there what is old is asked for, or is an error."""

    async def settle(self, key: str) -> None:
        """The bucket has what was acknowledged of this key, as far as it was when this was called: changes that bring
        it and that take it away. Raises what kept one of them from it; Stale when another client's object is there."""

    async def settle_below(self, prefix: str) -> None:
        """The same of all keys that begin with `prefix`, that of a directory among them, and of what was moved from
        there. It waits for them all, whatever becomes of one of them."""
