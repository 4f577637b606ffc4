"""Deletions brought to the bucket, up to a thousand in a request.

Each is conditional on what the bucket is expected to have there. One without expectation that comes late, or from an
earlier daemon, is looked at first: an object that another client has stored since is left alone, as is one whose
condition fails, and that is told.
"""

import logging
from collections.abc import Sequence

import trio

from s3mount.errors import PreconditionFailed, S3MountError
from s3mount.store.base import ALWAYS, Condition, ObjectStore
from s3mount.writeback.delivering import Delivering
from s3mount.writeback.operations import Operation
from s3mount.writeback.recognising import look
from s3mount.writeback.trial import Landed, Outcome, Parted, Trial

log = logging.getLogger(__name__)

BATCH_MAX = 1000
LOOKS_MAX = 16
"""At a time, of one batch."""

Fate = Outcome | S3MountError


class Removing:
    """See the module."""

    def __init__(self, real: ObjectStore, delivering: Delivering) -> None:
        self._real = real
        self._delivering = delivering

    async def remove(self, batch: Sequence[tuple[Operation, Trial]]) -> list[Fate]:
        """What became of each; nothing is raised for one."""
        assert len(batch) <= BATCH_MAX
        fates: dict[Operation, Fate] = {}
        conditions = {operation: operation.condition for operation, _ in batch}
        todo = iter([entry for entry in batch if self._looks_first(*entry)])

        async def work() -> None:
            for operation, trial in todo:
                try:
                    found = await self._expected(operation, trial)
                except S3MountError as error:
                    fates[operation] = error
                    continue
                if isinstance(found, Condition):
                    conditions[operation] = found
                else:
                    fates[operation] = found

        async with trio.open_nursery() as nursery:
            for _ in range(LOOKS_MAX):
                nursery.start_soon(work)
        sent = [operation for operation, _ in batch if operation not in fates]
        await self._send(sent, conditions, fates)
        return [fates[operation] for operation, _ in batch]

    def _looks_first(self, operation: Operation, trial: Trial) -> bool:
        # To delete again what may be deleted already does no harm where it is conditional on the version.
        return operation.condition.etag is None and self._delivering.looks_first(operation, trial)

    async def _expected(self, operation: Operation, trial: Trial) -> Condition | Outcome:
        info = await look(self._real, operation.key)
        marker = operation.condition == ALWAYS and operation.key.endswith("/")
        if info is None:
            # What some stores go on listing when no key is left goes as a marker does, which nobody finds.
            return ALWAYS if marker and self._real.ghosts else Landed(None)
        if marker and not info.size:
            # An empty marker is no content. SeaweedFS gives it a new time with each change below, and answers for one
            # that is not there with an etag that it takes as no condition (measured).
            return ALWAYS
        if operation.condition == ALWAYS and self._delivering.is_older(operation, info):
            return Condition(etag=info.etag)
        return _left_alone(operation)

    async def _send(
        self, operations: list[Operation], conditions: dict[Operation, Condition], fates: dict[Operation, Fate]
    ) -> None:
        sent = [operation for operation in operations if not conditions[operation].absent]
        fates.update((operation, Landed(None)) for operation in operations)
        if not sent:
            return
        try:
            left = await self._real.delete_many([(operation.key, conditions[operation].etag) for operation in sent])
        except S3MountError as error:
            fates.update((operation, error) for operation in sent)
            return
        errors = {undeleted.key: undeleted.error for undeleted in left}
        for operation in sent:
            reason = errors.get(operation.key)
            if isinstance(reason, PreconditionFailed):
                fates[operation] = _left_alone(operation)
            elif reason is not None:
                fates[operation] = reason


def _left_alone(operation: Operation) -> Parted:
    log.warning("deletion left an object that another client had changed key=%r", operation.key)
    return Parted()
