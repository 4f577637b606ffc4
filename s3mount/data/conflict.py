"""What becomes of local content when another client's object has taken its key: a copy beside it, kept for a while.

Knows how a copy is named, what can be saved of a base that is gone, and how old copies are swept; no request of an
upload is sent here. Each file has its own copy, told by the time and a random number: copies never meet.

What is gone of a base is zeros in a copy, as long as it is not much. Else a few bytes at the end of a large log would
send all of its length at close: then the copy is a cut, of what lies between the local bytes, and its name says where.
"""

import logging
import time
from collections import OrderedDict

from s3mount.config import RESERVED, S3_KEY_MAX_BYTES, S3_OBJECT_MAX_BYTES, Config
from s3mount.data.blocks import BlockCache
from s3mount.data.content import Content
from s3mount.data.layers import Layers
from s3mount.data.staging import Staging
from s3mount.errors import S3MountError, Stale
from s3mount.store.base import ObjectStore

log = logging.getLogger(__name__)

SECOND_NS = 1_000_000_000
CONFLICTS = f"{RESERVED}/conflicts/"
PARTIAL = ".partial"
SUFFIX_MAX_BYTES = len(f".from-{S3_OBJECT_MAX_BYTES}{PARTIAL}")
COPIES_SHOWN_MAX = 100
SWEEP_PAGES_MAX = 10
"""What one start looks at, a thousand copies each; their keys begin with their time, so the oldest come first."""


class Conflict:
    """One file's conflict: it has parted with `origin`, and its content belongs at `key`."""

    __slots__ = ("_name", "_stored", "cut", "error", "key", "origin")

    def __init__(self, prefix: str, origin: str, now_ns: int, token: str) -> None:
        # The mutable state: the key, until it is known whether the copy is partial; whether it is a cut; whether a copy
        # was stored.
        self.origin = origin
        self.key = self._name = copy_key(prefix, origin, now_ns, token)
        self.cut = False
        self.error = Stale(f"{origin!r} was changed by another client")
        self._stored = False

    def salvage(self, layers: Layers, blocks: BlockCache, staging: Staging, *, zeros_max_bytes: int) -> bool:
        """The base cannot be fetched: stage what the cache has of it and call the rest missing. False when nothing of
        the content came from the base, or nothing at all is here."""
        content = layers.content()
        if layers.base is None or not content.kept(layers.size):
            return False
        low, high = 0, layers.size
        if _zeros(layers, blocks, zeros_max_bytes) > zeros_max_bytes:
            local = _local(content, layers.size)
            if local is None:
                return False
            low, high = local
            self.cut = True
        _salvage(layers, blocks, staging, low, high)
        if layers.missing:
            self.key = self._name + PARTIAL
        return True

    def range(self, content: Content, size: int) -> tuple[int, int]:
        """Start and size of what the next copy holds of the content; its name is right afterwards."""
        if not self.cut:
            return 0, size
        start, stop = _local(content, size) or (size, size)
        self.key = f"{self._name}.from-{start}{PARTIAL}"
        return start, stop - start

    def kept(self, start: int, size: int, missing: int) -> None:
        """The copy, `size` bytes from `start` on, was stored."""
        if self._stored:
            log.info("conflict copy was stored again key=%r copy=%r bytes=%d", self.origin, self.key, size)
        else:
            self._stored = True
            log.error(
                "conflict: the object was changed by another client, local content was kept "
                "key=%r copy=%r offset=%d bytes=%d missing_bytes=%d",
                self.origin, self.key, start, size, missing,
            )  # fmt: skip

    def failed(self, reason: S3MountError) -> Stale:
        """The copy could not be stored; what the program is told."""
        log.error(
            "conflict: the object was changed by another client, the copy of local content was not stored "
            "key=%r copy=%r reason=%s",
            self.origin, self.key, reason,
        )  # fmt: skip
        return self.error


class CopiesKept:
    """The copies that conflicts of this run have left, the latest of them by name. The state is the list."""

    def __init__(self) -> None:
        self._count = 0
        self._latest: OrderedDict[Conflict, tuple[str, str, int]] = OrderedDict()

    def note(self, conflict: Conflict, size: int) -> None:
        """The copy of a conflict was stored, for the first time or again."""
        self._count += conflict not in self._latest
        self._latest[conflict] = conflict.origin, conflict.key, size
        if len(self._latest) > COPIES_SHOWN_MAX:
            self._latest.popitem(last=False)

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows."""
        shown = [{"key": origin, "copy": copy, "bytes": size} for origin, copy, size in self._latest.values()]
        return {"count": self._count, "latest": shown}


def copy_key(prefix: str, key: str, now_ns: int, token: str) -> str:
    """Where the content goes that lost `key`; of a path too long for a key its end."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns // SECOND_NS))
    head = f"{prefix}{CONFLICTS}{stamp}-{token}/"
    path = key.removeprefix(prefix).encode()
    room = S3_KEY_MAX_BYTES - len(head.encode()) - SUFFIX_MAX_BYTES
    if len(path) > room:
        path = path[len(path) - max(room, 1) :]
    return head + path.decode(errors="ignore").lstrip("/")


def _salvage(layers: Layers, blocks: BlockCache, staging: Staging, low: int, high: int) -> None:
    """Stage what the cache has of the base between `low` and `high`, and call the rest of the base missing."""
    base = layers.base
    assert base is not None
    missing = list(layers.missing)
    for first, stop in layers.content().kept(layers.size):
        start = first
        while start < stop:
            view = None
            if low <= start < high:
                end = _block_end(start, min(stop, high), blocks.block_bytes)
                view = blocks.peek(base, start, end)
            else:
                end = min(stop, low) if start < low else stop
            if view is not None and staging.ready(end - start):
                layers.write(start, view)
            elif missing and missing[-1][1] == start:
                missing[-1] = (missing[-1][0], end)
            else:
                missing.append((start, end))
            start = end
    layers.missing = tuple(sorted(missing))


def _zeros(layers: Layers, blocks: BlockCache, enough: int) -> int:
    """How many zeros a copy of all of the file would need; counted no further than `enough`."""
    base = layers.base
    assert base is not None
    count = sum(stop - start for start, stop in layers.missing)
    for first, stop in layers.content().kept(layers.size):
        start = first
        while start < stop and count <= enough:
            end = _block_end(start, stop, blocks.block_bytes)
            if blocks.peek(base, start, end) is None:
                count += end - start
            start = end
    return count


def _block_end(start: int, stop: int, block_bytes: int) -> int:
    return min(stop, (start // block_bytes + 1) * block_bytes)


def _local(content: Content, size: int) -> tuple[int, int] | None:
    """From the first staged byte to the last."""
    local = [piece for piece in content.pieces(0, size) if piece.position is not None]
    return (local[0].start, local[-1].stop) if local else None


async def sweep(store: ObjectStore, config: Config) -> None:
    """Delete the copies that are old enough, by the store's clock. Raises nothing: a mount lives without it."""
    root = config.prefix + CONFLICTS
    removed = 0
    token: str | None = None
    try:
        for _ in range(SWEEP_PAGES_MAX):
            page = await store.list_page(root, token=token)
            oldest_ns = page.date_ns - int(config.conflict_keep_seconds * SECOND_NS)
            for listed in page.objects:
                if listed.key.startswith(root) and listed.last_modified_ns < oldest_ns:
                    await store.delete(listed.key)
                    removed += 1
            token = page.token
            if token is None:
                break
    except S3MountError as error:
        log.info("old conflict copies were not removed prefix=%r reason=%s", root, error)
    except Exception:
        log.exception("old conflict copies were not removed because of a bug prefix=%r", root)
    if removed:
        log.info("old conflict copies were removed prefix=%r count=%d", root, removed)
