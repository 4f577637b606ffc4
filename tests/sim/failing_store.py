"""An ObjectStore before another one that counts calls and lets the Nth go wrong, in one of the ways a store can.

It stands where S3Store stands, so what it raises is what is left after all retries. A crash is the end of the process
that called: the call never comes back and no later call of it begins; whoever waits for `crashed` ends it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeVar, get_args

import trio

from s3mount.errors import AccessDenied, LostReply, StoreError, Unavailable
from s3mount.store.base import (
    ALWAYS,
    Body,
    Condition,
    Headers,
    ObjectInfo,
    ObjectStore,
    Page,
    Part,
    Stored,
    Undeleted,
    Upload,
)
from tests.memory_store import Operation

T = TypeVar("T")
Mode = Literal["fail", "refuse", "down", "lost", "cut", "crash-before", "crash-after"]
"""fail: Unavailable, nothing happened. refuse: AccessDenied, nothing happened. down: as fail, and so is every later
call. lost: the effect, then LostReply. cut: as lost, and every later call is as in down. crash: before or after the
effect."""
MODES: tuple[Mode, ...] = get_args(Mode)
READS: tuple[Operation, ...] = ("head", "get", "get_tags", "list", "has_parts", "list_parts", "list_uploads")
MUTATIONS_ONLY: tuple[Mode, ...] = ("lost", "cut", "crash-after")
"""The modes in which a read would be as in another mode: they count mutations alone."""
LASTING: tuple[Mode, ...] = ("down", "cut")


@dataclass(frozen=True, slots=True)
class Hit:
    """A call that went wrong."""

    number: int
    operation: Operation
    key: str

    def __str__(self) -> str:
        return f"call {self.number}: {self.operation} of {self.key!r}"


class FailingStore:
    """See the module."""

    def __init__(self, inner: ObjectStore) -> None:
        # The mutable state: what is to happen at which call, how many were counted, those that were hit; the uploads
        # that only a later start can abort, for their abort failed or their id was never told.
        self._inner = inner
        self._mode: Mode | None = None
        self._number = 0
        self.count = 0
        self.hits: list[Hit] = []
        self.left_open: set[str] = set()
        self.crashed = trio.Event()

    def __repr__(self) -> str:
        return f"<FailingStore {self._mode or 'well'} at {self._number}, {self.count} calls, {len(self.hits)} hit>"

    @property
    def lasts(self) -> bool:
        """Whether it goes on failing once it has failed, until it is healed."""
        return self._mode in LASTING

    def arm(self, mode: Mode, number: int) -> None:
        """From now on count, and hit call `number`, the first being 1."""
        assert number >= 1
        self._mode, self._number, self.count = mode, number, 0

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self._mode = None

    # ObjectStore.

    @property
    def away(self) -> bool:
        return self._inner.away

    async def head(self, key: str) -> ObjectInfo:
        return await self._perform("head", key, lambda: self._inner.head(key))

    async def get(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        version_id: str | None = None,
        arrived: Callable[[int], None] | None = None,
    ) -> ObjectInfo | None:
        return await self._perform(
            "get",
            key,
            lambda: self._inner.get(
                key,
                start,
                into,
                if_match=if_match,
                if_none_match=if_none_match,
                version_id=version_id,
                arrived=arrived,
            ),
        )

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        return await self._perform(
            "list",
            prefix,
            lambda: self._inner.list_page(
                prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
            ),
        )

    async def tags(self, key: str) -> str:
        return await self._perform("get_tags", key, lambda: self._inner.tags(key))

    async def put(self, key: str, body: Body, headers: Headers, condition: Condition = ALWAYS) -> Stored:
        return await self._perform("put", key, lambda: self._inner.put(key, body, headers, condition))

    async def copy(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        headers: Headers | None = None,
        condition: Condition = ALWAYS,
    ) -> Stored:
        return await self._perform(
            "copy",
            target,
            lambda: self._inner.copy(
                source, target, source_etag=source_etag, source_size=source_size, headers=headers, condition=condition
            ),
        )

    @property
    def keeps_conditions(self) -> bool:
        return self._inner.keeps_conditions

    @property
    def renames(self) -> bool:
        return self._inner.renames

    @property
    def ghosts(self) -> bool:
        return self._inner.ghosts

    async def rename(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        condition: Condition = ALWAYS,
    ) -> None:
        await self._perform(
            "rename",
            target,
            lambda: self._inner.rename(
                source, target, source_etag=source_etag, source_size=source_size, condition=condition
            ),
        )

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        await self._perform("delete", key, lambda: self._inner.delete(key, condition))

    async def delete_many(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        """A failure is told key by key, and never raised."""
        try:
            return await self.delete_batch(versions)
        except StoreError as error:
            return tuple(Undeleted(key, error) for key, _ in versions)

    async def delete_batch(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        return await self._perform("delete_many", versions[0][0], lambda: self._inner.delete_batch(versions))

    async def create_upload(self, key: str, headers: Headers, condition: Condition = ALWAYS) -> Upload:
        return await self._perform("create_upload", key, lambda: self._inner.create_upload(key, headers, condition))

    async def upload_part(self, upload: Upload, number: int, body: Body) -> Part:
        return await self._perform("upload_part", upload.key, lambda: self._inner.upload_part(upload, number, body))

    async def copy_part(
        self, upload: Upload, number: int, source: str, start: int, stop: int, *, source_etag: str
    ) -> Part:
        return await self._perform(
            "copy_part",
            upload.key,
            lambda: self._inner.copy_part(upload, number, source, start, stop, source_etag=source_etag),
        )

    async def complete_upload(self, upload: Upload, parts: Sequence[Part], condition: Condition = ALWAYS) -> Stored:
        return await self._perform(
            "complete_upload", upload.key, lambda: self._inner.complete_upload(upload, parts, condition)
        )

    async def abort_upload(self, upload: Upload) -> None:
        await self._perform("abort_upload", upload.key, lambda: self._inner.abort_upload(upload), aborts=upload.id)

    async def has_parts(self, upload: Upload) -> bool:
        return await self._perform("has_parts", upload.key, lambda: self._inner.has_parts(upload))

    async def list_parts(self, upload: Upload) -> tuple[Part, ...]:
        return await self._perform("list_parts", upload.key, lambda: self._inner.list_parts(upload))

    async def list_uploads(self, prefix: str, *, exactly: bool = False) -> tuple[Upload, ...]:
        return await self._perform("list_uploads", prefix, lambda: self._inner.list_uploads(prefix, exactly=exactly))

    async def settle(self, key: str) -> None:
        await self._inner.settle(key)

    async def settle_below(self, prefix: str) -> None:
        await self._inner.settle_below(prefix)

    # Inside.

    async def _perform(
        self, operation: Operation, key: str, perform: Callable[[], Awaitable[T]], *, aborts: str = ""
    ) -> T:
        if self.crashed.is_set():
            await trio.sleep_forever()
        mode = self._due(operation, key)
        if mode is None:
            return await perform()
        if aborts:
            self.left_open.add(aborts)
        if mode == "crash-before":
            await self._crash()
        if mode == "refuse":
            await trio.lowlevel.checkpoint()
            raise AccessDenied(f"{self.hits[-1]} refused by the test", code="AccessDenied", status=403)
        if mode in ("fail", "down"):
            await trio.lowlevel.checkpoint()
            raise Unavailable(f"{self.hits[-1]} failed by the test", code="InternalError", status=500)
        hit = self.hits[-1]
        result = await perform()
        if isinstance(result, Upload):
            self.left_open.add(result.id)
        if mode == "crash-after":
            await self._crash()
        raise LostReply(f"{hit} had its effect, and the test kept the reply")

    def _due(self, operation: Operation, key: str) -> Mode | None:
        """Count a call; what is to become of it."""
        mode = self._mode
        if mode is None:
            return None
        lasts = mode in LASTING and self.count >= self._number
        if not lasts and mode in MUTATIONS_ONLY and operation in READS:
            return None
        self.count += 1
        if not lasts and self.count != self._number:
            return None
        self.hits.append(Hit(self.count, operation, key))
        return "down" if lasts else mode

    async def _crash(self) -> NoReturn:
        self.crashed.set()
        await trio.sleep_forever()
        raise AssertionError("the process is over")
