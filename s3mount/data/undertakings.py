"""The intents of one mount in the bucket: written before a directory's move, removed after it, finished by the next
start, or in the background where a move could not end as it should.

Knows no inode. What belongs to others is named and left alone. Attempts in the background have a limit; the next start
goes on from there.
"""

import logging
import secrets
from collections.abc import Callable, Mapping

import trio

from s3mount.data.finishing import finish
from s3mount.data.intents import HEAD_MAX_BYTES, Intent, Phase, Source, decode, decode_head, encode, intents_prefix
from s3mount.errors import BadReply, LostReply, S3MountError
from s3mount.store.base import Headers, Listed, ObjectStore

log = logging.getLogger(__name__)

PLAIN = Headers(content_type="application/x-ndjson")
DELAYS_SECONDS = (1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
"""Before each try in the background."""
INTENTS_MAX = 1_000
"""What one start looks at."""
INTENT_MAX_BYTES = 256 * 1024 * 1024


class Undertakings:
    """See the module. `foreign`: those of others, as the last look saw them. `unfinished`: our own that wait for
    another try."""

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        nursery: trio.Nursery,
        *,
        owner: str,
        host: str,
        now_ns: Callable[[], int],
    ) -> None:
        # The mutable state: what the docstring names; the keys of those that this process has begun and not ended.
        self._store = store
        self._prefix = prefix
        self._root = intents_prefix(prefix)
        self._nursery = nursery
        self._owner = owner
        self._host = host
        self._now_ns = now_ns
        self._begun: set[str] = set()
        self.foreign: tuple[Intent, ...] = ()
        self.unfinished: dict[str, Intent] = {}

    def __repr__(self) -> str:
        return (
            f"<Undertakings {len(self._begun)} begun, {len(self.unfinished)} unfinished, {len(self.foreign)} foreign>"
        )

    # a move

    async def begin(self, former: str, target: str, sources: Mapping[str, Source]) -> Intent:
        """Say what is about to be moved. When this raises nothing will be."""
        self._give_up_on(former, target)
        key = f"{self._root}{self._owner}-{secrets.token_hex(8)}"
        intent = Intent(key, self._owner, self._host, former, target, self._now_ns(), sources=dict(sources))
        self._begun.add(key)
        try:
            await self._write(intent)
        except LostReply:
            self._nursery.start_soon(self._end_later, intent)  # it may be there
            raise
        except S3MountError:
            self._begun.discard(key)
            raise
        return intent

    async def record(self, intent: Intent, sources: Mapping[str, Source], phase: Phase) -> Intent:
        """Say what has become of it."""
        intent = intent.now(phase, self._now_ns(), sources)
        await self._write(intent)
        return intent

    async def end(self, intent: Intent) -> None:
        """Nothing is left to do."""
        try:
            await self._drop(intent)
        except S3MountError as error:
            log.info("intent was not removed yet key=%r reason=%s", intent.key, error)
            self._nursery.start_soon(self._end_later, intent)

    def leave(self, intent: Intent, sources: Mapping[str, Source], phase: Phase) -> None:
        """What is left to do is tried again in the background, and by the next start."""
        intent = intent.now(phase, self._now_ns(), sources)
        self.unfinished[intent.key] = intent
        self._nursery.start_soon(self._finish_later, intent)

    def _give_up_on(self, *prefixes: str) -> None:
        """Programs have gone on where a move was to be undone: what they do now is not to be undone with it."""
        for intent in list(self.unfinished.values()):
            places = (intent.former, intent.target)
            if any(one.startswith(other) or other.startswith(one) for one in prefixes for other in places):
                del self.unfinished[intent.key]
                self._nursery.start_soon(self._end_later, intent)

    # what earlier daemons and others have left

    async def recover(self) -> list[Intent]:
        """Finish our own, and look which there are of others; those finished. Raises nothing: what fails stays for the
        next start."""
        finished = []
        try:
            listed = await self._list()
            foreign = []
            for one in listed:
                if one.key in self._begun:
                    continue
                if one.key.startswith(f"{self._root}{self._owner}-"):
                    finished += await self._take_up(one)
                elif (intent := await self._head(one)) is not None:
                    foreign.append(intent)
                    log.warning(
                        "rename of a directory is under way or was cut short elsewhere host=%s from=%r to=%r key=%r",
                        ascii(intent.host), intent.former, intent.target, one.key,
                    )  # fmt: skip
            self.foreign = tuple(foreign)
        except S3MountError as error:
            log.warning("renames that were cut short were not looked for reason=%s", error)
        except Exception:
            log.exception("renames that were cut short were not finished because of a bug")
        return finished

    async def _take_up(self, listed: Listed) -> list[Intent]:
        intent = await self._read(listed)
        if intent is None:
            return []
        try:
            await self._finish(intent)
        except S3MountError as error:
            log.warning("rename was not finished, it is tried again key=%r reason=%s", intent.key, error)
            self.leave(intent, intent.sources, intent.phase)
            return []
        return [intent]

    async def _finish(self, intent: Intent) -> None:
        outcome = await finish(self._store, intent)
        log.info(
            "rename that was cut short was %s from=%r to=%r moved=%d deleted=%d",
            "undone" if intent.phase == "undoing" else "finished",
            intent.former, intent.target, outcome.moved, outcome.deleted,
        )  # fmt: skip
        if outcome.kept:
            log.warning(
                "rename left what was changed meanwhile where it is from=%r to=%r count=%d example=%r",
                intent.former, intent.target, len(outcome.kept), outcome.kept[0],
            )  # fmt: skip
        await self._drop(intent)

    async def _list(self) -> list[Listed]:
        page = await self._store.list_page(self._root, max_keys=INTENTS_MAX)
        return [listed for listed in page.objects if listed.key.startswith(self._root)]

    async def _read(self, listed: Listed) -> Intent | None:
        try:
            intent = decode(listed.key, await self._fetch(listed, listed.size))
            # Others may write here who may not write elsewhere: what they forge is not done for them.
            for place in (intent.former, intent.target):
                if not place.startswith(self._prefix) or not place.endswith("/") or place == self._prefix:
                    raise ValueError(f"about {place!r}")
            return intent
        except (ValueError, TypeError, S3MountError) as error:
            log.warning("intent of our own cannot be read and is left alone key=%r reason=%s", listed.key, error)
        return None

    async def _head(self, listed: Listed) -> Intent | None:
        try:
            return decode_head(listed.key, await self._fetch(listed, HEAD_MAX_BYTES))
        except (ValueError, TypeError, S3MountError) as error:
            # Its owner is at work on it, or it fails to be read: neither keeps us from finishing our own.
            log.info("object among the intents cannot be read key=%r reason=%s", listed.key, error)
        return None

    async def _fetch(self, listed: Listed, size_max: int) -> bytes:
        size = min(listed.size, size_max)
        if not 0 < size <= INTENT_MAX_BYTES:
            raise ValueError(f"{listed.size} bytes")
        content = bytearray(size)
        info = await self._store.get(listed.key, 0, memoryview(content))
        if info is None or info.size != listed.size:
            raise BadReply(f"{listed.key!r} is {listed.size} bytes in the listing and not when fetched")
        return bytes(content)

    async def _write(self, intent: Intent) -> None:
        await self._store.put(intent.key, (encode(intent),), PLAIN)

    async def _drop(self, intent: Intent) -> None:
        await self._store.delete(intent.key)
        self._begun.discard(intent.key)
        self.unfinished.pop(intent.key, None)

    # the background

    async def _end_later(self, intent: Intent) -> None:
        for delay in DELAYS_SECONDS:
            await trio.sleep(delay)
            try:
                await self._drop(intent)
            except S3MountError as error:
                log.debug("intent was not removed yet key=%r reason=%s", intent.key, error)
            else:
                return
        log.warning("intent was not removed, the next start will key=%r", intent.key)

    async def _finish_later(self, intent: Intent) -> None:
        recorded = False
        for delay in DELAYS_SECONDS:
            await trio.sleep(delay)
            if intent.key not in self.unfinished:
                return
            try:
                if not recorded:
                    await self._write(intent)
                    recorded = True
                await self._finish(intent)
            except S3MountError as error:
                log.info("rename was not finished yet from=%r to=%r reason=%s", intent.former, intent.target, error)
            except Exception:
                log.exception("rename was not finished because of a bug key=%r", intent.key)
                return
            else:
                return
        log.warning("rename was not finished, the next start will from=%r to=%r", intent.former, intent.target)
