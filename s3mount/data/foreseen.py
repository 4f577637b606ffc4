"""Small files fetched whole before they are opened, and what that may prove: the open that follows soon.

Knows versions, not names, nor why they are foreseen. Each is asked for as its open would ask, by the GET of its first
block (a HEAD when it is empty), and the rest of it after that.

*What the answer is good for.* DESIGN section 4 has the open validate, so that it shows what another host closed before.
An answer that was fetched ahead tells of a moment before the open instead: of none before its request was sent. So it
serves one open, of the same version, that comes at most `--neighbour-ttl` (1 s) after the request was sent, and only if
that open is in order itself (`vfs.neighbours` drops it for every other). A file that another host closed in that second
may show what it was before. What is older, was used, or has failed proves nothing: the open asks for itself, with a
condition when the bytes are here. 0 turns all of it off.

Invariants: requests under way and bytes that wait for their opens are bounded, and leave half of the block cache to
readers; nothing is asked for during a pause after a failure.
"""

import logging
from collections import OrderedDict
from math import inf

import trio

from s3mount.data.blocks import BlockCache
from s3mount.data.version import Changed, Version
from s3mount.errors import S3MountError
from s3mount.store.base import ObjectInfo

log = logging.getLogger(__name__)

VERSIONS_MAX = 1024
PAUSE_SECONDS = 5.0
"""A store that has failed to answer is not asked ahead of need for so long."""


class Ask:
    """One version that was asked for at `asked`. `answered`: it is `info` that came, or the news in `changed`."""

    __slots__ = ("answered", "asked", "changed", "info", "over")

    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.over = trio.Event()
        self.answered = False
        self.info: ObjectInfo | None = None
        self.changed: Changed | None = None


class Foreseen:
    """See the module."""

    def __init__(
        self,
        blocks: BlockCache,
        nursery: trio.Nursery,
        *,
        lifetime_seconds: float,
        requests_max: int,
        bytes_max: int,
    ) -> None:
        # The mutable state: versions asked for and not opened since, the one asked for first at the front, and their
        # bytes; requests under way; until when nothing is asked; and the counts. fetched = used + wasted + waiting.
        self._blocks = blocks
        self._nursery = nursery
        self.lifetime_seconds = lifetime_seconds
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self._asks: OrderedDict[Version, Ask] = OrderedDict()
        self._bytes = 0
        self._under_way = 0
        self._paused_until = -inf
        self._fetched = self._used = self._wasted = self._wasted_bytes = 0

    def __repr__(self) -> str:
        return f"<Foreseen {len(self._asks)} versions of {self._bytes} bytes, {self._under_way} under way>"

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows. Wasted: not opened in time."""
        self._let_go(trio.current_time())
        return {
            "fetched": self._fetched,
            "used": self._used,
            "wasted": self._wasted,
            "wasted_bytes": self._wasted_bytes,
        }

    def asked(self, version: Version) -> bool:
        """Whether its open would need no request of its own."""
        ask = self._asks.get(version)
        return ask is not None and trio.current_time() <= ask.asked + self.lifetime_seconds

    def ready(self, version: Version) -> bool:
        """The same, and whether the answer is here."""
        return self.asked(version) and self._asks[version].answered

    def ask(self, version: Version) -> bool:
        """Begin to fetch a version that is not asked for; False when nothing more may be fetched ahead now."""
        now = trio.current_time()
        self._let_go(now)
        block = self._blocks.block_bytes
        if (
            self._under_way >= self._requests_max
            or len(self._asks) >= VERSIONS_MAX
            or self._bytes + version.size > self._bytes_max
            or self._blocks.spare_bytes < max(version.size, block)
            or now < self._paused_until
        ):
            return False
        ask = self._asks[version] = Ask(now)
        self._bytes += version.size
        self._under_way += 1
        self._fetched += 1
        self._nursery.start_soon(self._fetch, version, ask)
        return True

    async def validate(self, version: Version) -> ObjectInfo | None:
        """As BlockCache.validate, without a request if one that was sent ahead can answer."""
        if self._asks:
            ask = self._take(version)
            if ask is not None:
                await ask.over.wait()
                if ask.changed is not None:
                    raise Changed(str(ask.changed), ask.changed.info)
                if ask.answered:
                    return ask.info
        return await self._blocks.validate(version)

    def drop(self, version: Version) -> None:
        """What was asked ahead proves nothing any more."""
        ask = self._asks.pop(version, None)
        if ask is not None:
            self._bytes -= version.size
            self._wasted += 1
            self._wasted_bytes += version.size

    def changed_here(self, key: str) -> None:
        """The key, or the directory of that name, came, went or changed by our own doing: what was asked before that
        tells nothing of what is there now, though it may be the same version again."""
        for version in [version for version in self._asks if f"{version.key}/".startswith(f"{key}/")]:
            self.drop(version)

    def drop_all(self) -> None:
        for version in list(self._asks):
            self.drop(version)

    def _take(self, version: Version) -> Ask | None:
        self._let_go(trio.current_time())
        ask = self._asks.pop(version, None)
        if ask is not None:
            self._bytes -= version.size
            self._used += 1
        return ask

    def _let_go(self, now: float) -> None:
        """Of what is too old for any open; its bytes stay until the block cache needs the room."""
        while self._asks:
            version, ask = next(iter(self._asks.items()))
            if now <= ask.asked + self.lifetime_seconds:
                return
            self.drop(version)

    async def _fetch(self, version: Version, ask: Ask) -> None:
        try:
            ask.info = await self._blocks.validate(version)
            ask.answered = True
            if version.size > self._blocks.block_bytes:
                self._blocks.fetch_ahead(version, 0, version.size)
        except Changed as changed:
            ask.changed = changed
            ask.answered = True
        except S3MountError:
            # Whoever opens the file asks again, and is told.
            self._paused_until = trio.current_time() + PAUSE_SECONDS
        except Exception:
            log.exception("file could not be fetched ahead by a bug key=%r", version.key)
        finally:
            self._under_way -= 1
            ask.over.set()
