"""What an upload expects of its key: the version it was built on, absence, nothing, or what a look has found.

Synchronous but for the look that settles doubts. Knows no attempt and no epoch.
"""

from s3mount.config import Config
from s3mount.data.layers import Layers
from s3mount.data.version import Version
from s3mount.errors import NotFound
from s3mount.store.base import ABSENT, ALWAYS, Condition, ObjectStore


class Expectation:
    """The condition of one file's next upload."""

    __slots__ = (
        "_copied", "_found", "_layers", "_overwrites", "_removed", "_replaced", "doubts", "unconditional",
    )  # fmt: skip

    def __init__(self, config: Config, layers: Layers) -> None:
        # The mutable state: whether O_TRUNC replaces whatever is there; what a first upload replaces; etags that
        # uploads of unknown outcome would have left, and what was found instead of them; whether a removal of unknown
        # outcome may have taken the base away, and the copy a rename had made by then.
        self._layers = layers
        self._overwrites = config.conflict == "overwrite"
        self.unconditional = False
        self._replaced = ABSENT
        self.doubts: set[str | None] = set()
        self._found: Condition | None = None
        self._removed = False
        self._copied: Version | None = None

    @property
    def condition(self) -> Condition:
        """What must hold in the bucket for the next upload."""
        if self._found is not None:
            return self._found
        if self._wins:
            return ALWAYS
        return self._replaced if self._layers.base is None else Condition(etag=self._layers.base.etag)

    @property
    def _wins(self) -> bool:
        """Whether another client's object may be replaced: O_TRUNC says so, or the user where all bytes are local."""
        if self.unconditional or not self._overwrites:
            return self.unconditional
        content = self._layers.content()
        return not content.missing and not content.kept(self._layers.size)

    def delete_condition(self, base: Version | None, key: str) -> Condition:
        """What may be deleted with the name: the base, what a rename came upon, or with O_TRUNC whatever is there;
        absence: nothing."""
        if base is None:
            return self._replaced
        if base.key != key:
            return ABSENT  # a rename of unknown outcome has left the bytes at its target only
        return ALWAYS if self.unconditional else Condition(etag=base.etag)

    def stored(self) -> None:
        """An upload of ours is what the key has."""
        self.unconditional = False
        self._found = None

    def forget(self) -> None:
        """The key is not ours to expect anything of."""
        self._found = None
        self._doubtless()

    def doubt_removal(self, copied: Version | None = None) -> None:
        """The name should have lost its object, which `copied` has the bytes of, and nobody knows whether it did."""
        base = self._layers.base
        if base is not None:
            self.doubts.add(base.etag)
            self._removed, self._copied = True, copied

    def moved(self) -> None:
        """The base has another key, and nobody else's object is there."""
        self._found = None
        self.unconditional = False

    async def take_over(self, store: ObjectStore, key: str) -> None:
        """What `key` has now is what a first upload replaces, as rename(2) does; what comes there later is not."""
        try:
            self._replaced = Condition(etag=(await store.head(key)).etag)
        except NotFound:
            self._replaced = ABSENT

    async def resolve(self, store: ObjectStore, key: str) -> bool:
        """See what uploads of unknown outcome have left, and expect that from now on. Whether it is what one of them
        would leave: the layers have it as their base then."""
        if not self.doubts:
            return False
        try:
            info = await store.head(key)
        except NotFound:
            if self.doubts and (self._wins or self._removed):
                self._found = ABSENT
            if self.doubts and self._copied is not None:
                self._layers.base = self._copied
            self._doubtless()
            return False
        if not self.doubts:
            return False  # a reader and a sync asked at the same time
        ours = info.etag in self.doubts
        if ours:
            self._layers.adopt(Version(key, info.etag, info.size, info.version_id))
            self.stored()
        elif self._wins:
            self._found = Condition(etag=info.etag)
        self._doubtless()
        return ours

    def _doubtless(self) -> None:
        self.doubts.clear()
        self._removed, self._copied = False, None
