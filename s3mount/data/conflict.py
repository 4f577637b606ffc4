"""What becomes of local content when another client's object has taken its key: a copy beside it, kept for a while.

Knows how a copy is named, what can be saved of a base that is gone, and how old copies are swept; no request of an
upload is sent here. Each file has its own copy, told by the time and a random number: copies never meet.
"""

import logging
import time

from s3mount.config import RESERVED, S3_KEY_MAX_BYTES, Config
from s3mount.data.blocks import BlockCache
from s3mount.data.layers import Layers
from s3mount.data.staging import Staging
from s3mount.errors import S3MountError, Stale
from s3mount.store.base import ObjectStore

log = logging.getLogger(__name__)

SECOND_NS = 1_000_000_000
CONFLICTS = f"{RESERVED}/conflicts/"
PARTIAL = ".partial"
SWEEP_PAGES_MAX = 10
"""What one start looks at, a thousand copies each; their keys begin with their time, so the oldest come first."""


class Conflict:
    """One file's conflict: it has parted with `origin`, and its content belongs at `key`."""

    __slots__ = ("_stored", "error", "key", "origin")

    def __init__(self, prefix: str, origin: str, now_ns: int, token: str) -> None:
        # The mutable state: the key, until it is known whether the copy is partial, and whether a copy was stored.
        self.origin = origin
        self.key = copy_key(prefix, origin, now_ns, token)
        self.error = Stale(f"{origin!r} was changed by another client")
        self._stored = False

    def lacks(self) -> None:
        """Part of the content is nowhere any more; the name of the copy says so."""
        if not self.key.endswith(PARTIAL):
            self.key += PARTIAL

    def kept(self, size: int, missing: int) -> None:
        """The copy was stored."""
        if self._stored:
            log.info("conflict copy was stored again key=%r copy=%r bytes=%d", self.origin, self.key, size)
        else:
            self._stored = True
            log.error(
                "conflict: the object was changed by another client, local content was kept "
                "key=%r copy=%r bytes=%d missing_bytes=%d",
                self.origin, self.key, size, missing,
            )  # fmt: skip

    def failed(self, reason: S3MountError) -> Stale:
        """The copy could not be stored; what the program is told."""
        log.error(
            "conflict: the object was changed by another client, the copy of local content was not stored "
            "key=%r copy=%r reason=%s",
            self.origin, self.key, reason,
        )  # fmt: skip
        return self.error


def copy_key(prefix: str, key: str, now_ns: int, token: str) -> str:
    """Where the content goes that lost `key`; of a path too long for a key its end."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns // SECOND_NS))
    head = f"{prefix}{CONFLICTS}{stamp}-{token}/"
    path = key.removeprefix(prefix).encode()
    room = S3_KEY_MAX_BYTES - len(head.encode()) - len(PARTIAL)
    if len(path) > room:
        path = path[len(path) - max(room, 1) :]
    return head + path.decode(errors="ignore").lstrip("/")


def salvage(layers: Layers, blocks: BlockCache, staging: Staging) -> bool:
    """The base cannot be fetched: stage what the cache has of it and call the rest missing. False when nothing of the
    content came from the base."""
    base = layers.base
    kept = layers.content().kept(layers.size)
    if base is None or not kept:
        return False
    missing = list(layers.missing)
    for first, stop in kept:
        start = first
        while start < stop:
            end = min(stop, (start // blocks.block_bytes + 1) * blocks.block_bytes)
            view = blocks.peek(base, start, end)
            if view is not None and staging.ready(end - start):
                layers.write(start, view)
            elif missing and missing[-1][1] == start:
                missing[-1] = (missing[-1][0], end)
            else:
                missing.append((start, end))
            start = end
    layers.missing = tuple(sorted(missing))
    return True


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
