"""From one epoch of a file to one object: PUT, or parts of a plan, or the rest of what was sent ahead.

Knows nothing of what comes before or after the epoch. Before `epoch.publishing` is set nothing of it can be in the
bucket; from then on only the server knows.
"""

from collections.abc import Iterable, Sequence

import trio

from s3mount.data.conflict import Conflict
from s3mount.data.content import Content
from s3mount.data.grid import SendPart
from s3mount.data.layers import Layers
from s3mount.data.plan import CopyPart, Put, Step, is_plain, plan_upload
from s3mount.data.storage import Storage
from s3mount.data.stream import Stream
from s3mount.data.upload import Multipart, put_etag
from s3mount.errors import NotFound, S3MountError, Stale, StoreError
from s3mount.store.base import Body, Condition, Headers, Stored


class Epoch:
    """What one upload is about: `size` bytes of the content, from `start`, which is 0 but for a conflict's copy."""

    __slots__ = (
        "began",
        "condition",
        "content",
        "copies_base",
        "ended",
        "expected_etag",
        "headers",
        "key",
        "multipart",
        "parts_total",
        "publishing",
        "restates",
        "scope",
        "size",
        "start",
        "stream",
    )

    def __init__(
        self,
        key: str,
        content: Content,
        start: int,
        size: int,
        headers: Headers,
        condition: Condition,
        stream: Stream | None,
    ) -> None:
        # The mutable state: whether the server may be asked to copy bytes of the base, which only in a conflict is
        # gone; whether a request that publishes may have been sent, and the etag it would leave; whether it sends no
        # bytes at all; the upload by parts, and how many it will have where that is known.
        self.key = key
        self.content = content
        self.start = start
        self.size = size
        self.headers = headers
        self.condition = condition
        self.stream = stream
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.copies_base = True
        self.publishing = False
        self.expected_etag: str | None = None
        self.restates = False
        self.multipart = None if stream is None else stream.multipart
        self.parts_total: int | None = None
        self.began = trio.current_time()

    @property
    def sent_bytes(self) -> int:
        """What of it the store has, though nobody sees it yet."""
        return 0 if self.multipart is None else sum(part.size for part in self.multipart.parts.values())


def freeze(
    layers: Layers, key: str, headers: Headers, condition: Condition, stream: Stream | None, conflict: Conflict | None
) -> Epoch:
    """The epoch of what the file is now; in a conflict of what its copy holds, under the key of that."""
    size, content = layers.size, layers.freeze()
    start = 0
    if conflict is not None:
        start, size = conflict.range(content, size)
        key = conflict.key
    epoch = Epoch(key, content, start, size, headers, condition, stream)
    base = content.base
    # Of a base that another client has replaced, what the cache or its version id still gives is sent.
    epoch.copies_base = base is not None and not base.pinned and (conflict is None or base.key == key)
    return epoch


async def publish(storage: Storage, epoch: Epoch) -> Stored:
    """Make the object of the epoch. Atomic: what fails before the request that publishes leaves nothing visible."""
    if epoch.stream is not None and await _reaches(storage, epoch, epoch.stream):
        return await _complete_stream(storage, epoch, epoch.stream)
    epoch.stream = epoch.multipart = None
    steps = _plan(storage, epoch)
    if not is_plain(steps) and not storage.learning.known:
        await storage.learning.learn()
        steps = _plan(storage, epoch)
    if isinstance(steps[0], Put):
        async with storage.loader.body(epoch.content, epoch.start, epoch.start + epoch.size) as body:
            return await _put(storage, epoch, body)
    multipart = Multipart(storage.store, storage.nursery, epoch.key, epoch.headers, epoch.condition)
    epoch.multipart, epoch.parts_total = multipart, len(steps)
    try:
        await _send(storage, epoch, multipart, steps)
        return await _complete(epoch, multipart, len(steps))
    finally:
        multipart.abort()  # does nothing after success


def _plan(storage: Storage, epoch: Epoch) -> Sequence[Step]:
    return plan_upload(
        epoch.size,
        epoch.content.kept(epoch.size) if epoch.copies_base else [],
        storage.grid,
        copy_max_bytes=storage.config.copy_max_bytes,
        put_max_bytes=storage.put_max_bytes,
    )


async def _put(storage: Storage, epoch: Epoch, body: Body) -> Stored:
    epoch.publishing = True
    try:
        return await storage.store.put(epoch.key, body, epoch.headers, epoch.condition)
    except (StoreError, trio.Cancelled):
        epoch.expected_etag = put_etag(body)
        raise


async def _complete(epoch: Epoch, multipart: Multipart, count: int) -> Stored:
    epoch.expected_etag = multipart.expected_etag(count)
    epoch.publishing = True
    return await multipart.complete(count)


async def _reaches(storage: Storage, epoch: Epoch, stream: Stream) -> bool:
    """Whether `stream` can hold the whole file; if not it is given up. Raises FileTooBig when bytes go with it."""
    size, flat_stop = epoch.size, stream.grid.part(stream.grid.flat_parts)[1]
    if size > flat_stop:
        if not storage.learning.known:
            # A dozen round trips, during which the parts that lie at the same place in every grid are sent.
            storage.learning.begin()
            await _send(storage, epoch, stream.multipart, list(stream.missing(flat_stop)))
        await storage.learning.learn()
        stream.learn()
    if size <= stream.grid.stop:
        return True
    if stream.dropped:
        raise stream.too_big()
    stream.abort()
    return False


async def _complete_stream(storage: Storage, epoch: Epoch, stream: Stream) -> Stored:
    epoch.parts_total = stream.grid.number_at(epoch.size - 1)
    while True:
        missing: list[Step] = list(stream.missing(epoch.size))
        if missing:
            await _send(storage, epoch, stream.multipart, missing)
        elif stream.in_flight:
            await stream.settle()
        else:
            break
    return await _complete(epoch, stream.multipart, epoch.parts_total)


async def _send(storage: Storage, epoch: Epoch, multipart: Multipart, steps: Iterable[Step]) -> None:
    """Send or copy parts, several at a time; the first failure ends all."""
    todo = iter(steps)
    errors: list[S3MountError] = []

    async def work(scope: trio.CancelScope) -> None:
        for step in todo:
            try:
                await _step(storage, epoch, multipart, step)
            except S3MountError as error:
                errors.append(error)
                scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(storage.config.file_parts_max):
            nursery.start_soon(work, nursery.cancel_scope)
    if errors:
        raise errors[0]


async def _step(storage: Storage, epoch: Epoch, multipart: Multipart, step: Step) -> None:
    if isinstance(step, CopyPart):
        base = epoch.content.base
        assert base is not None
        try:
            await multipart.copy(step.number, base.key, step.start, step.stop, source_etag=base.etag)
        except NotFound as error:
            raise Stale(f"{base.key!r} is gone") from error
    else:
        assert isinstance(step, SendPart)
        async with storage.loader.body(epoch.content, epoch.start + step.start, epoch.start + step.stop) as body:
            await multipart.send(step.number, body)
