"""What an open file shows after its name has gone: its base, kept for the handles that are left.

Of a version that can be asked for by its id nothing needs keeping, nor of one that no handle can read. A small base is
taken into staging, of which all of them have a share; a larger one is copied on the server by one request, below the
reserved prefix, before the name goes: a copy named by the journal, deleted after the last release, and by the next
start if the daemon dies. Blocks of the former key are not used for the copy: what is read again is fetched again. Where
nothing of this works the name goes all the same, and reads that need the bucket answer ESTALE. Knows layers and the
store; no upload.

A copy whose request failed or was given up may appear after its key was found absent, as long as the server works on
it. Its key is deleted at once and again later, and stays in the journal until the last of these.
"""

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace

import trio

from s3mount.config import MIB, RESERVED
from s3mount.data.blocks import BlockCache
from s3mount.data.journal import Journal
from s3mount.data.layers import Layers
from s3mount.data.staging import Staging
from s3mount.data.version import Version
from s3mount.errors import NotFound, NotImplementedByStore, PreconditionFailed, S3MountError
from s3mount.store.acknowledged import acknowledge
from s3mount.store.base import ObjectStore

log = logging.getLogger(__name__)

STEP_BYTES = MIB
STAGED_MAX_BYTES = 16 * MIB
"""What an unlink may fetch; more would surprise on the bill, and is copied where it lies."""
DELETES_MAX = 8
LATE_SECONDS = 3600.0
"""No server works so long on a request that nobody waits for. The largest CopyObject is 5 GiB."""
LATE_LOOKS_SECONDS = (300.0, LATE_SECONDS - 300.0)
LATE_COPIES_MAX = 1_000
"""Those that are deleted again later; beyond, it is left to the next start."""


def orphans_prefix(prefix: str) -> str:
    """Below it are the copies of a mount of `prefix`."""
    return f"{prefix}{RESERVED}/orphans/"


def _new_name() -> str:
    return secrets.token_hex(16)


class Orphans:
    """The copies that one mount has made for its open files."""

    def __init__(
        self,
        store: ObjectStore,
        journal: Journal,
        nursery: trio.Nursery,
        prefix: str,
        *,
        copy_max_bytes: int,
        staged_max_bytes: int,
        new_name: Callable[[], str] = _new_name,
    ) -> None:
        # The mutable state: the journal's entries of the copies that are there, by key; which of them may appear yet;
        # the bytes of staged bases.
        self._store = store
        self._journal = journal
        self._nursery = nursery
        self._prefix = orphans_prefix(prefix)
        self._new_name = new_name
        self._entries: dict[str, int] = {}
        self._late: set[str] = set()
        self.copy_max_bytes = copy_max_bytes
        self._staged_max_bytes = staged_max_bytes
        self._staged_bytes = 0
        self._deletes = trio.Semaphore(DELETES_MAX)

    def reserve(self, size: int) -> bool:
        """Whether a base of `size` bytes may be staged; it counts until `unreserve`."""
        if size > STAGED_MAX_BYTES or self._staged_bytes + size > self._staged_max_bytes:
            return False
        self._staged_bytes += size
        return True

    def unreserve(self, size: int) -> None:
        self._staged_bytes -= size
        assert self._staged_bytes >= 0

    async def copy(self, base: Version) -> Version:
        """A copy of `base`. Raises what the store answers; nothing is left for good of a copy that failed."""
        key = self._prefix + self._new_name()
        entry = self._entries[key] = self._journal.begin_copy(key)
        try:
            stored = await self._store.copy(base.key, key, source_etag=base.etag, source_size=base.size)
        except (NotFound, PreconditionFailed, NotImplementedByStore):
            del self._entries[key]
            self._journal.strike(entry)
            raise
        except BaseException:
            # Whatever the last answer was: an earlier try of the same request may have its effect yet.
            self._late.add(key)
            if len(self._late) <= LATE_COPIES_MAX:
                self._nursery.start_soon(self._delete_late, key)
            raise
        return Version(key, stored.etag, base.size, stored.version_id)

    def drop(self, key: str) -> None:
        """Delete a copy, in the background; one that cannot be deleted is left to the next start."""
        self._nursery.start_soon(self._delete, key)

    async def drop_all(self) -> None:
        """Delete every copy that is left: nobody can read it any more."""
        async with trio.open_nursery() as nursery:
            for key in list(self._entries):
                nursery.start_soon(self._delete, key)

    async def _delete_late(self, key: str) -> None:
        for seconds in LATE_LOOKS_SECONDS:
            await self._delete(key)
            await trio.sleep(seconds)
        self._late.discard(key)
        await self._delete(key)

    async def _delete(self, key: str) -> None:
        acknowledge()
        try:
            async with self._deletes:
                if key not in self._entries:
                    return
                await self._store.delete(key)
            if key not in self._late:
                entry = self._entries.pop(key, None)
                if entry is not None:
                    self._journal.strike(entry)
        except S3MountError as error:
            log.warning("copy of an unlinked file was not deleted, the next start will key=%r reason=%s", key, error)
        except Exception:
            log.exception("copy of an unlinked file was not deleted by a bug key=%r", key)


class Keeping:
    """What one file needs of its base once its name goes."""

    def __init__(self, orphans: Orphans, staging: Staging, blocks: BlockCache, layers: Layers) -> None:
        # The mutable state: the base as it was, while it may have to be put back; the key of the copy that stands for
        # it; whether this attempt staged it; the bytes reserved for that; whether nothing was kept for nobody reads;
        # whether the file was closed.
        self._orphans = orphans
        self._staging = staging
        self._blocks = blocks
        self._layers = layers
        self.former: Version | None = None
        self._copy: str | None = None
        self._staged = False
        self._reserved_bytes = 0
        self.forgone = False
        self._closed = False

    def begin(self) -> None:
        """The name is about to go."""
        self.former = self._layers.base
        self._staged = self.forgone = False

    async def keep(self, *, readable: bool) -> None:
        """The base stays readable without its name, if it can and a handle may read. Raises no error of the store's."""
        layers = self._layers
        base = self.former
        if base is None or self._over() or not layers.content().kept(layers.base_stop):
            return
        if base.key == self._copy:
            return  # an attempt before this one has done it, and the name had gone
        if self.pin():
            return
        if not readable:
            self.forgone = True
            return
        if await self._stage(base):
            return
        if base.size > self._orphans.copy_max_bytes:
            log.warning("content of an open file goes with its name, it is over --copy-limit key=%r", base.key)
            return
        try:
            copy = await self._orphans.copy(base)
        except (NotFound, PreconditionFailed):
            return  # another client has changed the object: the base went before its name
        except S3MountError as error:
            log.warning("content of an open file goes with its name key=%r reason=%s", base.key, error)
            return
        self._copy, layers.base = copy.key, copy
        if self._over():
            self._drop()

    def pin(self) -> bool:
        """Read the base by its version's id from now on; whether that is known."""
        base = self._layers.base
        if base is None:
            return False
        version_id = base.version_id or self._blocks.version_id(base)
        if version_id is not None:
            self._layers.base = replace(base, version_id=version_id, pinned=True)
        return version_id is not None

    def undo(self) -> None:
        """The name stays: the file is what it was."""
        self.forgone = False
        self._layers.base = self.former
        if self._staged:
            self._unstage()
        if self.former is None or self.former.key != self._copy:
            self._drop()

    def close(self) -> None:
        """Nobody reads any more."""
        self._closed = True
        self._unstage()
        self._drop()

    def _over(self) -> bool:
        """Looked at anew after each wait."""
        return self._closed

    def _drop(self) -> None:
        key, self._copy = self._copy, None
        if key is not None:
            self._orphans.drop(key)

    def _unstage(self) -> None:
        size, self._reserved_bytes = self._reserved_bytes, 0
        self._layers.unstage_base()
        self._orphans.unreserve(size)

    async def _stage(self, base: Version) -> bool:
        """Take what the base still shows into staging; whether there was room for all of it."""
        layers, staging = self._layers, self._staging
        if not self._orphans.reserve(layers.base_stop):
            return False
        self._staged, self._reserved_bytes = True, self._reserved_bytes + layers.base_stop
        buffer = memoryview(bytearray(min(STEP_BYTES, layers.base_stop)))
        position = 0
        while position < layers.base_stop and not self._over():
            stop = min(position + len(buffer), layers.base_stop)
            part = buffer[: stop - position]
            if staging.ready(len(part)):
                try:
                    await self._blocks.read_into(base, position, part)
                except S3MountError as error:
                    log.info("content of an open file was not fetched key=%r reason=%s", base.key, error)
                    break
            if not staging.ready(len(part)):
                break
            if not self._over():
                layers.stage_base(position, part)
            position = stop
        else:
            return True
        self._unstage()
        return False
