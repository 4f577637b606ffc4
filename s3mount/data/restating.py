"""What an object carries besides its bytes, and other headers for one whose bytes stay: a copy onto itself.

Knows no attempt and no attribute. Such a copy is of exactly one version and atomic: readers find the same bytes before
and after. The etag stays where it is a digest of the whole; it changes where the object was made of parts, or by some
kinds of encryption.
"""

from collections.abc import Awaitable, Callable

from s3mount.data.expectation import Expectation
from s3mount.data.layers import Layers
from s3mount.data.publishing import Epoch
from s3mount.data.version import Version
from s3mount.errors import NotFound, PreconditionFailed, S3MountError, Stale
from s3mount.store.base import Condition, Headers, ObjectStore, Stored


class Carried:
    """The headers of one file."""

    __slots__ = ("before_sending", "due", "headers", "in_bucket")

    def __init__(self, headers: Headers, before_sending: Callable[[], Awaitable[None]]) -> None:
        # The mutable state: what the next upload stores, what was stored last, and whether the object is to have the
        # first although no bytes wait.
        self.headers = self.in_bucket = headers
        self.before_sending = before_sending
        self.due = False

    def change(self, headers: Headers) -> None:
        """The next upload stores these."""
        self.headers = headers
        self.due = False

    def stored(self, headers: Headers) -> None:
        """The object has these."""
        self.in_bucket = headers
        self.due = headers != self.headers

    async def look_again(self) -> None:
        """What had to be in the bucket before may have gone while this was sent."""
        if self.in_bucket.metadata:
            try:
                await self.before_sending()
            except S3MountError:
                self.due = True
                raise


def restating(key: str, layers: Layers, headers: Headers) -> Epoch:
    """The epoch of a copy of the base onto itself: nothing is frozen for it, and only the server can end it."""
    content = layers.content()
    assert content.base is not None
    assert content.base.key == key
    epoch = Epoch(key, content, 0, content.base.size, headers, Condition(etag=content.base.etag), None)
    epoch.publishing = epoch.restates = True
    return epoch


async def restate(store: ObjectStore, layers: Layers, expectation: Expectation, epoch: Epoch) -> Stored:
    """Give the object the epoch's headers. Raises Stale when it is another version."""
    base = epoch.content.base
    assert base is not None
    try:
        stored = await store.copy(
            base.key,
            base.key,
            source_etag=base.etag,
            source_size=base.size,
            headers=epoch.headers,
            condition=epoch.condition,
        )
    except (NotFound, PreconditionFailed) as error:
        raise Stale(f"{base.key!r} is another version now") from error
    except BaseException:
        # Made of parts, or where no etag is a digest: the copy has another.
        expectation.doubt_copy(epoch.headers.metadata)
        raise
    layers.base = Version(base.key, stored.etag, base.size, stored.version_id)
    return stored
