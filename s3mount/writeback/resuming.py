"""An object sent by parts, over any number of attempts and daemons: what the store has of it is not sent again.

Which upload it goes by, and the part size, is in the journal. After a restart ListParts says what is there. A part
counts if it is as long as the one that is due under its number, and so are all before it that are there: parts grow
with their number, so another cut would have shown. Of an upload with copied parts, whose cut depends on what the store
takes, only the parts from the first one without a gap count: what they hold follows from their sizes alone.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from s3mount.config import MIB, Config
from s3mount.data.grid import Grid, PartRules, SendPart
from s3mount.data.learning import rules_of
from s3mount.data.plan import PUT_PARTS, CopyPart, Put, Step, is_plain, plan_upload
from s3mount.data.syncing import PARTS_REFUSED
from s3mount.errors import (
    BadReply,
    NoSuchUpload,
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    S3MountError,
    StoreError,
)
from s3mount.store.abilities import Abilities
from s3mount.store.base import Condition, Headers, ObjectStore, Part, Stored, Upload
from s3mount.writeback import metas
from s3mount.writeback.bodies import Bodies, HomeGone, Log
from s3mount.writeback.failing import passes
from s3mount.writeback.operations import Home, Operation
from s3mount.writeback.trial import Trial

log = logging.getLogger(__name__)

ABORT_SECONDS = 10.0
PUT_MAX_BYTES = 16 * MIB


class Resuming:
    """See the module; sends the content of puts, whole or by parts."""

    def __init__(
        self, real: ObjectStore, journal: Log, bodies: Bodies, config: Config, rules: Callable[[], Awaitable[PartRules]]
    ) -> None:
        # The mutable state: what the store takes, as far as somebody had to know it, and the grid made last.
        self._real = real
        self._log = journal
        self._bodies = bodies
        self._config = config
        self._find_out = rules
        self._known = "auto" not in (config.equal_parts, config.part_copy) and config.parts_max is not None
        self._rules = rules_of(config, Abilities())
        self._made: Grid | None = None
        part_bytes = config.part_size_bytes
        self._put_max_bytes = max(part_bytes, min(PUT_PARTS * part_bytes, PUT_MAX_BYTES))

    async def steps(self, operation: Operation) -> list[Step]:
        """What its content is sent by. Raises FileTooBig."""
        steps = self._plan(operation)
        if not is_plain(steps) and not self._known:
            self._rules, self._known = await self._find_out(), True
            steps = self._plan(operation)
        return steps

    def _plan(self, operation: Operation) -> list[Step]:
        if operation.size <= self._put_max_bytes:
            return [Put()]
        steps = plan_upload(
            operation.size,
            _kept(operation)[1],
            self._grid(operation.part_bytes or self._config.part_size_bytes),
            copy_max_bytes=self._config.copy_max_bytes,
            put_max_bytes=self._put_max_bytes,
        )
        return list(steps)

    def _grid(self, part_bytes: int) -> Grid:
        """Made once: it takes milliseconds."""
        if self._made is None or (self._made.part_bytes, self._made.rules) != (part_bytes, self._rules):
            self._made = Grid(part_bytes, self._config.file_size_max_bytes, self._rules)
        return self._made

    async def send(self, operation: Operation, trial: Trial, steps: list[Step], condition: Condition) -> Stored:
        """Store the content at its key. Raises HomeGone, and what the store does."""
        headers = operation.headers or Headers()
        if isinstance(steps[0], Put):
            async with self._bodies.body(operation.content, 0, operation.size) as body:
                return await self._real.put(operation.key, body, headers, condition)
        if trial.upload is None and operation.upload_id is not None:
            await self._go_on(operation, trial, steps)
        if trial.upload is None:
            await self._open(operation, trial, headers, condition)
        assert trial.upload is not None
        try:
            await self._send_missing(operation, trial, trial.upload, steps)
            parts = [trial.parts[number] for number in range(1, len(steps) + 1)]
            stored = await self._real.complete_upload(trial.upload, parts, condition)
        except NoSuchUpload:
            self._forget(operation, trial)
            raise
        except StoreError as error:
            if error.code not in PARTS_REFUSED or trial.anew or not trial.goes_on:
                raise
            # A part whose request was given up has landed after its repetition: another upload helps.
            trial.anew = True
            await self.give_up(operation, trial)
            raise NoSuchUpload(str(error), code=error.code, status=error.status) from error
        self._forget(operation, trial)
        return stored

    async def give_up(self, operation: Operation, trial: Trial) -> None:
        """Have the upload that was open for it forgotten."""
        upload = trial.upload
        if upload is None and operation.upload_id is not None:
            upload = Upload(operation.key, operation.upload_id)
        self._forget(operation, trial)
        if upload is not None:
            try:
                await self._real.abort_upload(upload)
            except S3MountError as error:
                log.warning("multipart upload was left behind key=%r upload=%s reason=%s", upload.key, upload.id, error)

    def without_copies(self) -> None:
        """The store has refused to copy a part."""
        self._rules, self._known = replace(self._rules, copies=False), True

    def _forget(self, operation: Operation, trial: Trial) -> None:
        trial.upload = None
        trial.parts.clear()
        operation.upload_id, operation.part_bytes = None, 0

    async def _go_on(self, operation: Operation, trial: Trial, steps: list[Step]) -> None:
        assert operation.upload_id is not None
        upload = Upload(operation.key, operation.upload_id)
        try:
            there = await self._real.list_parts(upload)
        except (NoSuchUpload, NotFound):
            self._forget(operation, trial)
            log.info("upload by parts is unknown to the store, all is sent again key=%r", operation.key)
            return
        except S3MountError as error:
            if passes(error) and not isinstance(error, BadReply):
                raise
            log.info("parts of an upload are not listed, all is sent again key=%r reason=%s", operation.key, error)
            await self.give_up(operation, trial)
            return
        trial.upload = upload
        trial.parts = dict(usable(there, steps))
        log.info(
            "upload by parts goes on key=%r parts=%d of=%d", operation.key, len(trial.parts), len(steps)
        )  # fmt: skip

    async def _open(self, operation: Operation, trial: Trial, headers: Headers, condition: Condition) -> None:
        trial.upload = upload = await self._real.create_upload(operation.key, headers, condition)
        operation.upload_id = upload.id
        operation.part_bytes = operation.part_bytes or self._config.part_size_bytes
        if trial.goes_on:
            await self._log.append(metas.begun_meta(operation), wait=False)

    async def _send_missing(self, operation: Operation, trial: Trial, upload: Upload, steps: list[Step]) -> None:
        todo = iter([step for step in steps if not isinstance(step, Put) and step.number not in trial.parts])
        failures: list[S3MountError] = []

        async def work(scope: trio.CancelScope) -> None:
            for step in todo:
                try:
                    trial.parts[step.number] = await self._part(operation, upload, step)
                except S3MountError as error:
                    failures.append(error)
                    scope.cancel()
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(self._config.file_parts_max, len(steps) - len(trial.parts))):
                nursery.start_soon(work, nursery.cancel_scope)
        if failures:
            raise failures[0]

    async def _part(self, operation: Operation, upload: Upload, step: SendPart | CopyPart) -> Part:
        if isinstance(step, SendPart):
            async with self._bodies.body(operation.content, step.start, step.stop) as body:
                return await self._real.upload_part(upload, step.number, body)
        home, _ = _kept(operation)
        assert home is not None
        try:
            return await self._real.copy_part(
                upload, step.number, home.key, step.start, step.stop, source_etag=home.etag
            )
        except (NotFound, PreconditionFailed) as error:
            raise HomeGone(f"{home.key!r} was changed by another client") from error
        except NotImplementedByStore as error:
            raise CopiesRefused(str(error), code=error.code, status=error.status) from error


class CopiesRefused(NotImplementedByStore):
    """The upload is open, and the store refuses to copy a part into it."""


def usable(there: Sequence[Part], steps: Sequence[Step]) -> list[tuple[int, Part]]:
    """The parts that are what `steps` would send, by number; see the module."""
    due = {step.number: step.stop - step.start for step in steps if not isinstance(step, Put)}
    gapless = any(isinstance(step, CopyPart) for step in steps)
    found: list[tuple[int, Part]] = []
    for part in there:
        if due.get(part.number) != part.size or (gapless and part.number != len(found) + 1):
            break
        found.append((part.number, part))
    return found


def _kept(operation: Operation) -> tuple[Home | None, list[tuple[int, int]]]:
    """The home that most bytes can stay in, and where: at the same place in the object."""
    ranges: dict[Home, list[tuple[int, int]]] = {}
    for piece in operation.content:
        if piece.place is None and piece.home is not None and piece.offset == piece.start:
            ranges.setdefault(piece.home, []).append((piece.start, piece.stop))
    if not ranges:
        return None, []
    home = max(ranges, key=lambda home: sum(stop - start for start, stop in ranges[home]))
    return home, ranges[home]
