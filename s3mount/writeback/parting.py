"""What becomes of an operation whose key another client has changed: the other's object stays, our bytes are kept.

A copy lies below the reserved prefix (data.conflict). Its name follows from the operation alone, so that a daemon that
dies in between leaves one copy and not two. Bytes that came from an object that is gone are zeros in it as long as they
are not many, else it holds what lies between the local bytes.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from s3mount.config import Config
from s3mount.data.conflict import PARTIAL, Conflict, CopiesKept
from s3mount.errors import NotFound, PreconditionFailed, S3MountError
from s3mount.store.base import ALWAYS, PROVISIONAL, Condition, ObjectStore
from s3mount.writeback.operations import Content, Home, Operation, Piece
from s3mount.writeback.recognising import look
from s3mount.writeback.resuming import Resuming
from s3mount.writeback.trial import Parted, Trial

log = logging.getLogger(__name__)


class Parting:
    """See the module."""

    def __init__(
        self,
        real: ObjectStore,
        resuming: Resuming,
        config: Config,
        copies_kept: CopiesKept,
        *,
        draw_token: Callable[[], str],
    ) -> None:
        self._real = real
        self._resuming = resuming
        self._config = config
        self._kept = copies_kept
        self._draw_token = draw_token

    async def part(self, operation: Operation) -> Parted:
        """Keep what there is of it beside its key. Raises S3MountError, and nothing is lost by that."""
        conflict = Conflict(self._config.prefix, operation.key, operation.at_ns, self._token(operation))
        try:
            if operation.kind == "put":
                await self._keep_content(operation, conflict)
            else:
                await self._keep_home(operation, conflict)
        except S3MountError as error:
            conflict.failed(error)
            raise
        return Parted()

    def _token(self, operation: Operation) -> str:
        drawn = operation.etag.removeprefix(PROVISIONAL).strip('"')
        return drawn if drawn.replace("-", "").isalnum() else self._draw_token()

    async def _keep_content(self, operation: Operation, conflict: Conflict) -> None:
        """A put's bytes go to the copy."""
        gone = await self._gone(operation.content)
        start, content, missing = _saved(operation.content, gone, self._config.conflict_zeros_max_bytes)
        size = content[-1].stop if content else 0
        if gone and not any(piece.place is not None or piece.home is not None for piece in content):
            log.error("conflict: another client changed the object, nothing of ours was left key=%r", operation.key)
            return
        if gone:
            conflict.key += PARTIAL if not start and size == operation.size else f".from-{start}{PARTIAL}"
        copy = replace(operation, key=conflict.key, content=content, size=size, condition=ALWAYS, state="begun")
        copy.upload_id, copy.part_bytes = None, 0
        beside = Trial(goes_on=False)
        try:
            await self._resuming.send(copy, beside, await self._resuming.steps(copy), ALWAYS)
        except S3MountError:
            await self._resuming.give_up(copy, beside)
            raise
        conflict.kept(start, size, missing)
        self._kept.note(conflict, size)

    async def _keep_home(self, operation: Operation, conflict: Conflict) -> None:
        """The object that should have got the key goes to the copy; of a rename it loses its own."""
        home = operation.content[0].home
        assert home is not None
        there = await look(self._real, home.key)
        if there is None or there.etag != home.etag:
            log.error(
                "conflict: another client changed the object, nothing of ours was left key=%r source=%r",
                operation.key, home.key,
            )  # fmt: skip
            return
        if operation.kind == "copy" and home.key == operation.key:
            return  # the attributes of an object that is as it was
        await self._real.copy(home.key, conflict.key, source_etag=home.etag, headers=operation.headers)
        if operation.kind == "rename":
            try:
                await self._real.delete(home.key, Condition(etag=home.etag))
            except (NotFound, PreconditionFailed):
                pass  # it is in the copy
        conflict.kept(0, home.size, 0)
        self._kept.note(conflict, home.size)

    async def _gone(self, content: Content) -> set[Home]:
        """The homes that are not what they were."""
        gone: set[Home] = set()
        for home in dict.fromkeys(piece.home for piece in content if piece.place is None and piece.home is not None):
            there = await look(self._real, home.key)
            if there is None or there.etag != home.etag:
                gone.add(home)
        return gone


def _saved(content: Content, gone: set[Home], zeros_max_bytes: int) -> tuple[int, Content, int]:
    """Where what can be saved begins, what it is, and how many bytes of it are missing."""
    lost = [piece for piece in content if piece.place is None and piece.home in gone]
    start, stop = 0, content[-1].stop if content else 0
    if sum(piece.stop - piece.start for piece in lost) > zeros_max_bytes:
        local = [piece for piece in content if piece.place is not None]
        start, stop = (local[0].start, local[-1].stop) if local else (stop, stop)
    saved: list[Piece] = []
    missing = 0
    for piece in content:
        if piece.start < start or piece.stop > stop:
            continue
        home = piece.home
        if piece.place is None and home in gone:
            missing += piece.stop - piece.start
            home = None
        saved.append(Piece(piece.start - start, piece.stop - start, piece.place, home, piece.offset))
    return start, tuple(saved), missing
