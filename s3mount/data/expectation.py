"""What an upload expects of its key: the version it was built on, absence, nothing, or what a look has found.

Synchronous but for the look that settles doubts and the removal. Knows no attempt and no epoch.

There are two doubts, and one answer means different things to them. The etag of an upload that may have landed says
that the bytes as they were are in the bucket: whatever was dropped here comes from there. The base's own etag after a
removal that may have had no effect says only that nothing has changed.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from s3mount.config import Config
from s3mount.data.layers import Layers
from s3mount.data.version import Version
from s3mount.errors import NotFound, NotImplementedByStore, PreconditionFailed
from s3mount.store.base import ABSENT, ALWAYS, Condition, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """Its outcome is unknown. `etag` is of the object, `copied` has its bytes, `undo` is for when it is still there."""

    etag: str
    copied: Version | None
    undo: Callable[[], None]


class Expectation:
    """The condition of one file's next upload."""

    __slots__ = ("_copied", "_found", "_layers", "_overwrites", "_removal", "_replaced", "_uploads", "unconditional")

    def __init__(self, config: Config, layers: Layers) -> None:
        # The mutable state: whether O_TRUNC replaces whatever is there; what a first upload replaces; etags that
        # uploads of unknown outcome would have left, and what was found instead of them; the removal of unknown outcome
        # that may have taken the base away; the metadata of a copy of the base onto itself of unknown outcome.
        self._layers = layers
        self._overwrites = config.conflict == "overwrite"
        self.unconditional = False
        self._replaced = ABSENT
        self._uploads: frozenset[str | None] = frozenset()
        self._removal: Removal | None = None
        self._copied: Mapping[str, str] | None = None
        self._found: Condition | None = None

    @property
    def doubts(self) -> bool:
        """Whether a look is needed before anything is expected."""
        return bool(self._uploads) or self._removal is not None or self._copied is not None

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
        """Whether another client's object may be replaced: O_TRUNC says so, or the user where all bytes are local.

        That is, of a file that was created or cut to nothing. A small append looks like a whole rewrite: the kernel
        reads the page and hands all of it over.
        """
        if self.unconditional or not self._overwrites:
            return self.unconditional
        return not self._layers.content().missing and not self._layers.base_stop

    async def delete(self, store: ObjectStore, base: Version | None, key: str) -> None:
        """Delete what may go with the name, if it is there."""
        condition = self._delete_condition(base, key)
        if condition.absent:
            return
        try:
            await store.delete(key, condition)
        except NotImplementedByStore:
            await store.delete(key)
        except NotFound:
            pass
        except PreconditionFailed:
            log.warning("unlink left an object that another client had changed key=%r", key)

    def _delete_condition(self, base: Version | None, key: str) -> Condition:
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

    def doubt_upload(self, etag: str | None) -> None:
        """An upload that would have left `etag` has an outcome that nobody knows."""
        self._uploads |= {etag}

    def doubt_copy(self, metadata: Mapping[str, str]) -> None:
        """The base may have been copied onto itself, with this metadata and another etag."""
        self._copied = metadata

    def doubt_removal(self, base: Version, undo: Callable[[], None], *, copied: Version | None = None) -> None:
        """The name should have lost `base`, which `copied` has the bytes of, and nobody knows whether it did; `undo` is
        called when it turns out that it did not."""
        self._removal = Removal(base.etag, copied, undo)

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
        """See what requests of unknown outcome have left, and expect that from now on. Whether it is what an upload of
        ours would leave: the layers have it as their base then."""
        while self.doubts:
            asked = self._uploads, self._removal
            try:
                info = await store.head(key)
            except NotFound:
                info = None
            # A reader and a sync may ask at the same time, and more may have come into doubt since.
            if (self._uploads, self._removal) == asked:
                return self._settle(key, info)
        return False

    def _settle(self, key: str, info: ObjectInfo | None) -> bool:
        uploads, removal, copied, base = self._uploads, self._removal, self._copied, self._layers.base
        self._doubtless()
        if info is None:
            if self._wins or removal is not None:
                self._found = ABSENT
            if removal is not None and removal.copied is not None:
                self._layers.base = removal.copied
            return False
        if info.etag in uploads:
            self._layers.adopt(Version(key, info.etag, info.size, info.version_id))
            self.stored()
            return True
        if copied and base is not None and (info.size, dict(info.headers.metadata)) == (base.size, dict(copied)):
            self._layers.base = Version(key, info.etag, info.size, info.version_id)
            return False
        if removal is not None and info.etag == removal.etag:
            removal.undo()
        elif self._wins:
            self._found = Condition(etag=info.etag)
        return False

    def _doubtless(self) -> None:
        self._uploads, self._removal, self._copied = frozenset(), None, None
