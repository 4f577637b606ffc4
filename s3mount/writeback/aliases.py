"""What programs go on being told of versions that have landed, for as long as it is remembered. Synchronous.

The bucket's etag and time of such a version differ from those that the mount told while it was pending; programs and
the kernel would see another version of the same bytes. So it goes on being told under its first name. A version that
another client made, be it of the same bytes, is told as it is.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import takewhile

from s3mount.store.base import Headers, Listed, ObjectInfo, Stored

LANDED_MAX = 20_000
SECOND_NS = 1_000_000_000
LATE_NS = 2 * SECOND_NS
"""How much later than the reply's Date a LIST may say that an object was modified, and mean the same version."""


class Gone:
    """There is no object: the bucket will lose the one that it may have."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "GONE"


GONE = Gone()


@dataclass(slots=True)
class _Landed:
    etag: str
    told: Listed
    headers: Headers | None
    stored: Stored
    modified: int | None = None
    """Second of the bucket's Last-Modified, once it was met; a HEAD tells no more than seconds."""


class Aliases:
    """Versions that landed, by key: the latest of each; and keys whose latest operation ended, in that order."""

    def __init__(self) -> None:
        # The mutable state, each bounded by LANDED_MAX, the oldest forgotten first; how many have ended.
        self._landed: OrderedDict[str, _Landed] = OrderedDict()
        self._names: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._ended: OrderedDict[str, tuple[int, Listed | Gone]] = OrderedDict()
        self.ended = 0

    def landed(self, told: Listed, headers: Headers | None, stored: Stored) -> None:
        """A version is in the bucket, that the mount has told as `told`."""
        self._landed[told.key] = _Landed(stored.etag, told, headers, stored)
        self._landed.move_to_end(told.key)
        self.named(told.key, told.etag, stored.etag)
        self._note(told.key, told)
        if len(self._landed) > LANDED_MAX:
            self._landed.popitem(last=False)

    def named(self, key: str, etag: str, real: str) -> None:
        """What was told as `etag` is `real` in the bucket."""
        self._names[key, etag] = real
        if len(self._names) > LANDED_MAX:
            (key, etag), _ = self._names.popitem(last=False)
            if key in self._landed and self._landed[key].told.etag == etag:
                del self._landed[key]

    def gone(self, key: str) -> None:
        """A key was removed from the bucket."""
        self._landed.pop(key, None)
        self._note(key, GONE)

    def forget(self, key: str) -> None:
        """Nothing is known of a key any more."""
        self._landed.pop(key, None)
        self._ended.pop(key, None)

    def real_etag(self, key: str, etag: str) -> str:
        return self._names.get((key, etag), etag)

    def told(self, key: str, etag: str, modified_ns: int) -> tuple[str, int]:
        landed = self._landed.get(key)
        if landed is None or landed.etag != etag:
            return etag, modified_ns
        if landed.modified is None and modified_ns <= landed.stored.last_modified_ns + LATE_NS:
            landed.modified = modified_ns // SECOND_NS
        if landed.modified != modified_ns // SECOND_NS:
            return etag, modified_ns
        return landed.told.etag, landed.told.last_modified_ns

    def info(self, key: str) -> ObjectInfo | None:
        landed = self._landed.get(key)
        if landed is None or landed.headers is None:
            return None
        told, stored = landed.told, landed.stored
        return ObjectInfo(
            key,
            told.size,
            told.etag,
            told.last_modified_ns,
            stored.last_modified_ns,
            landed.headers,
            stored.version_id,
            tag_count=len(landed.headers.tags.split("&")) if landed.headers.tags else 0,
        )

    def headers(self, key: str, etag: str) -> Headers | None:
        """Those of a version in the bucket, if it is the one that landed there last."""
        landed = self._landed.get(key)
        return landed.headers if landed is not None and landed.etag == etag else None

    def since(self, number: int) -> dict[str, Listed | Gone]:
        """What became of the keys whose latest operation ended after so many had."""
        recent = takewhile(lambda item: item[1][0] > number, reversed(self._ended.items()))
        return {key: left for key, (_, left) in recent}

    def _note(self, key: str, left: Listed | Gone) -> None:
        self.ended += 1
        self._ended[key] = self.ended, left
        self._ended.move_to_end(key)
        if len(self._ended) > LANDED_MAX:
            self._ended.popitem(last=False)
