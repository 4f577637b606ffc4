"""Deleting many: DeleteObjects over `Requests`, and deletions side by side where that cannot do it.

A key goes alone when XML cannot carry it as it is, when an earlier mutation of it is in doubt, when it has an etag that
the store is not known to keep beside a key, and when the reply to a batch did not tell what became of it: a key that
the reply does not name is not taken for deleted. Where a deletion alone is known not to keep an etag either, nothing is
gained by going alone. The mutable state is what is known of the store.
"""

import base64
import hashlib
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

import trio

from s3mount import errors
from s3mount.config import MIB
from s3mount.store.abilities import Abilities
from s3mount.store.base import ALWAYS, Condition, Undeleted
from s3mount.store.replies import RETRIED_CODES, THROTTLED_CODES, error_of, quoted_etag
from s3mount.store.requests import Requests
from s3mount.store.wire import Sink, SmallBody

log = logging.getLogger(__name__)

KEYS_MAX = 1000
"""What one DeleteObjects takes."""
BATCHES_MAX = 4
ALONE_MAX = 64
"""Deletions side by side; what the store is asked for at the same time has a limit of its own."""
BODY_MAX_BYTES = 8 * MIB
"""A reply that repeats 1,000 keys of 1,024 bytes, each byte of them escaped."""
_UNSAFE = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|^\\s|\\s$")
"""Characters that XML forbids, or that one of two parsers turns into another; blanks that it may strip."""

Version = tuple[str, str | None]


@dataclass(slots=True)
class Told:
    """What the reply to DeleteObjects says of single keys."""

    deleted: set[str] = field(default_factory=set)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Code and message."""


class Deletions:
    """See the module. `delete` removes one object, as `ObjectStore.delete`."""

    def __init__(self, requests: Requests, delete: Callable[[str, Condition], Awaitable[None]]) -> None:
        self._requests = requests
        self._delete = delete
        self._found = Abilities()
        self._lacking = False

    def believe(self, found: Abilities) -> None:
        """What was found out about the store."""
        if found.delete_many is not None:
            self._found = found
            self._lacking = not found.delete_many

    async def delete_many(self, versions: Sequence[Version]) -> tuple[Undeleted, ...]:
        left: list[Undeleted] = []
        ordered = sorted(versions, key=_rank)
        together = [version for version in ordered if self._fits(*version)]
        if len(together) == 1:  # which costs as much alone, and is repeated by its own rules
            together = []
        batched = {key for key, _ in together}
        alone = [version for version in ordered if version[0] not in batched]
        files = [version for version in alone if not _is_marker(version)]
        markers = [version for version in alone if _is_marker(version)]
        await self._side_by_side(files, left, self._remove)
        chunks = [together[start : start + KEYS_MAX] for start in range(0, len(together), KEYS_MAX)]
        again: list[Version] = []
        limit = trio.Semaphore(BATCHES_MAX)

        async def send(chunk: list[Version]) -> None:
            async with limit:
                again.extend(await self._together(chunk, left))

        async with trio.open_nursery() as nursery:
            for chunk in chunks:
                if not _is_marker(chunk[-1]):
                    nursery.start_soon(send, chunk)
        for chunk in chunks:
            if _is_marker(chunk[-1]):
                await send(chunk)
        await self._side_by_side([version for version in again if not _is_marker(version)], left, self._remove)
        for marker in sorted([*markers, *filter(_is_marker, again)], key=_rank):
            await self._side_by_side([marker], left, self._remove)
        return tuple(left)

    def _fits(self, key: str, etag: str | None) -> bool:
        if self._lacking or _UNSAFE.search(key) is not None or self._requests.doubts(key):
            return False
        return etag is None or bool(self._found.delete_many_if_match) or self._found.delete_if_match is False

    async def _together(self, versions: list[Version], left: list[Undeleted]) -> list[Version]:
        """Send one batch; the keys that have to go alone."""
        keeps = self._found.delete_many_if_match
        sent = versions if keeps else [(key, None) for key, _ in versions]
        try:
            told = await self._send(sent)
        except errors.NotImplementedByStore as error:
            log.info("store does not delete many objects at once, they are deleted one by one reason=%s", error)
            self._lacking = True
            return versions
        except errors.StoreError as error:
            if error.status in (400, 404, 405, 411, 413) and not isinstance(error, errors.NoSuchBucket):
                return versions  # the request as a whole: a key of it may be why
            left += [Undeleted(key, error) for key, _ in versions]
            return []
        alone: list[Version] = []
        refused: dict[str, errors.StoreError] = {}
        for key, etag in versions:
            if key in told.failed:
                code, message = told.failed[key]
                if code in RETRIED_CODES or not code:
                    alone.append((key, etag))
                elif code not in ("NoSuchKey", "NoSuchVersion"):
                    refused[key] = _error_of(key, code, message)
            elif key not in told.deleted:
                alone.append((key, etag))

        async def look(key: str, _etag: str | None) -> None:
            error = refused[key]
            # Gone is what was asked for, and an absent object has no etag that would be the right one.
            if not isinstance(error, errors.PreconditionFailed) or await self._requests.look(key) is not None:
                raise error

        await self._side_by_side([version for version in versions if version[0] in refused], left, look)
        return alone

    async def delete_batch(self, versions: Sequence[Version]) -> tuple[Undeleted, ...]:
        """One DeleteObjects, for whoever finds out what the store makes of it. Raises what it says to all of it."""
        told = await self._send(versions)
        return tuple(Undeleted(key, _error_of(key, *told.failed[key])) for key, _ in versions if key in told.failed)

    async def _send(self, versions: Sequence[Version]) -> Told:
        assert 1 <= len(versions) <= KEYS_MAX
        requests = self._requests
        document = _document(versions)
        digest = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
        # Of the two digests that S3 asks to choose from, the one that every store takes.
        lines = [("content-type", "application/xml"), ("content-md5", digest)]
        order = requests.metadata("delete_many", "POST", None, "delete=", lines, mutating=True)
        order.body = (document,)
        order.stall_seconds = order.deadline_seconds  # a thousand deletions may take long before the first word
        body = SmallBody(BODY_MAX_BYTES)

        def prepare(_order: object) -> Sink:
            body.content.clear()
            return body

        order.prepare = prepare
        try:
            await requests.send(order)
        except BaseException:
            if order.in_doubt:
                for key, _ in versions:
                    requests.doubt(key)
            raise
        told = told_by(body.content)
        if any(code in THROTTLED_CODES for code, _ in told.failed.values()):
            order.limiter.slower(trio.current_time())
        return told

    async def _side_by_side(
        self, versions: list[Version], left: list[Undeleted], act: Callable[[str, str | None], Awaitable[None]]
    ) -> None:
        limit = trio.Semaphore(ALONE_MAX)

        async def one(key: str, etag: str | None) -> None:
            async with limit:
                try:
                    await act(key, etag)
                except errors.StoreError as error:
                    left.append(Undeleted(key, error))

        async with trio.open_nursery() as nursery:
            for key, etag in versions:
                nursery.start_soon(one, key, etag)

    async def _remove(self, key: str, etag: str | None) -> None:
        if etag is None:
            await self._delete(key, ALWAYS)
            return
        try:
            await self._delete(key, Condition(etag=etag))
        except errors.NotImplementedByStore:
            await self._delete(key, ALWAYS)
        except errors.PreconditionFailed:
            if await self._requests.look(key) is not None:
                raise


def _is_marker(version: Version) -> bool:
    return version[0].endswith("/")


def _rank(version: Version) -> int:
    """Files come first, then the markers, the deepest first: SeaweedFS keeps a marker, and says nothing, while keys lie
    below it."""
    return -version[0].count("/") if _is_marker(version) else -sys.maxsize


def _error_of(key: str, code: str, message: str) -> errors.StoreError:
    return error_of(f"DELETE {key!r}", 0, code, message)


def _document(versions: Sequence[Version]) -> bytes:
    lines = "".join([f"<Object><Key>{escape(key)}</Key>{_condition(etag)}</Object>" for key, etag in versions])
    # Not quietly: a reply that names no key says the same as one of somebody who has deleted nothing.
    return f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{lines}<Quiet>false</Quiet></Delete>'.encode()


def _condition(etag: str | None) -> str:
    return "" if etag is None else f"<ETag>{escape(quoted_etag(etag))}</ETag>"


def told_by(document: bytes | bytearray) -> Told:
    """What a DeleteResult tells; nothing where it is none."""
    told = Told()
    text: list[str] = []
    fields: dict[str, str] = {}
    root = ""

    def start(name: str, _attributes: dict[str, str]) -> None:
        nonlocal root
        root = root or name
        text.clear()

    def end(name: str) -> None:
        if name == "Deleted" and "Key" in fields:
            told.deleted.add(fields["Key"])
        elif name == "Error" and "Key" in fields:
            told.failed[fields["Key"]] = fields.get("Code", ""), fields.get("Message", "")
        if name in ("Deleted", "Error"):
            fields.clear()
        else:
            fields[name] = "".join(text)
        text.clear()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(bytes(document).lstrip(), True)
    except (expat.ExpatError, ValueError):
        return Told()
    return told if root == "DeleteResult" else Told()
