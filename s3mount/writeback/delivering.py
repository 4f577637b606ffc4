"""One operation brought to the bucket: the requests it takes, in their order, and what their answers mean.

A mutation is conditional on what the bucket is expected to have. Without expectation (O_TRUNC, rename over anything) it
is sent as it is within LATE_SECONDS; later, and after a restart, the bucket is looked at first: what another client
has stored since our program acted is newer. After a request of unknown outcome, and after every refusal of a condition,
it is looked at too: what we would leave there is ours.

Raises what does not let it land now; whether that may pass is for others to say. The state is in the `Trial`s. `told`
is how the mount tells a version: one with a name of our own is not another client's, however young.
"""

import logging
from collections.abc import Callable

from s3mount.config import Config
from s3mount.errors import (
    NoSuchUpload,
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    Unavailable,
)
from s3mount.store.base import ABSENT, ALWAYS, Condition, ObjectInfo, ObjectStore, Stored
from s3mount.writeback.bodies import HomeGone
from s3mount.writeback.operations import Home, Operation
from s3mount.writeback.order import FLAG
from s3mount.writeback.parting import Parting
from s3mount.writeback.recognising import Recognising, as_stated, look, same_metadata
from s3mount.writeback.resuming import CopiesRefused, Resuming
from s3mount.writeback.trial import Landed, Outcome, Trial

log = logging.getLogger(__name__)

LATE_SECONDS = 2.0
ROUNDS_MAX = 5
"""So often a condition may be refused although it holds, as two looks say; then it waits."""
SECOND_NS = 1_000_000_000


class Delivering:
    """See the module."""

    def __init__(
        self,
        real: ObjectStore,
        resuming: Resuming,
        recognising: Recognising,
        parting: Parting,
        config: Config,
        *,
        wall_ns: Callable[[], int],
        told: Callable[[str, str, int], tuple[str, int]],
    ) -> None:
        self._real = real
        self._resuming = resuming
        self._recognising = recognising
        self._parting = parting
        self._overwrites = config.conflict == "overwrite"
        self._wall_ns = wall_ns
        self._told = told

    async def deliver(self, operation: Operation, trial: Trial) -> Outcome:
        """Have the bucket take it. Raises S3MountError."""
        if operation.after is not None:
            return await self._parting.part(operation)  # what it was chained to has parted
        act = {"put": self._put, "copy": self._copy, "rename": self._rename}[operation.kind]
        for _ in range(ROUNDS_MAX):
            try:
                outcome = await act(operation, trial)
            except (PreconditionFailed, NotFound, HomeGone):
                trial.doubted = True
            except CopiesRefused:
                self._resuming.without_copies()
                await self._resuming.give_up(operation, trial)
            except NoSuchUpload as error:
                trial.doubted = True
                log.info("upload by parts was gone, all is sent again key=%r reason=%s", operation.key, error)
            else:
                if operation.upload_id is not None or trial.upload is not None:
                    await self._resuming.give_up(operation, trial)
                return outcome
        raise Unavailable(f"the store refuses what it says it would take: {operation.kind} {operation.key!r}")

    def is_older(self, operation: Operation, info: ObjectInfo) -> bool:
        """Whether what a look has found was there before the operation, or was left by an earlier one of ours."""
        version = info.etag, info.last_modified_ns
        return info.last_modified_ns <= operation.at_ns or self._told(operation.key, *version) != version

    def looks_first(self, operation: Operation, trial: Trial) -> bool:
        """Whether the bucket is looked at before it is sent."""
        late = trial.earlier or self._wall_ns() - operation.at_ns > LATE_SECONDS * SECOND_NS
        return trial.doubted or (operation.condition == ALWAYS and late)

    # put

    async def _put(self, operation: Operation, trial: Trial) -> Outcome:
        condition = operation.condition
        steps = await self._resuming.steps(operation)
        if self.looks_first(operation, trial):
            info = await look(self._real, operation.key)
            if not _is_marker(operation) or (info is not None and info.size):
                doubted = trial.doubted and info is not None and not self._was_there(operation, info)
                if info is not None and doubted and await self._recognising.is_put(operation, info, steps):
                    return Landed(_stored(info))
                expected = self._expected(operation, info)
                if expected is None:
                    return await self._parting.part(operation)
                condition = expected
        trial.doubted = False
        try:
            return Landed(await self._resuming.send(operation, trial, steps, condition))
        except HomeGone:
            return await self._parting.part(operation)

    def _expected(self, operation: Operation, info: ObjectInfo | None) -> Condition | None:
        """The condition to send it on, after a look has found `info`; None: the key is another client's."""
        condition = operation.condition
        if info is None:
            return ABSENT if condition.etag is None or self._wins(operation) else None
        here = Condition(etag=info.etag)
        if condition == here or self._wins(operation) or (condition == ALWAYS and is_sign(operation)):
            return here
        if condition == ALWAYS and self.is_older(operation, info):
            return here
        return None

    def _was_there(self, operation: Operation, info: ObjectInfo) -> bool:
        """Whether it is what an unconditional put was to replace: the bytes may be the same, the attributes are not."""
        return operation.condition == ALWAYS and not same_metadata(info, operation) and self.is_older(operation, info)

    def _wins(self, operation: Operation) -> bool:
        """Whether the user wants the last writer to win: where all bytes are local."""
        return self._overwrites and operation.kind == "put" and all(piece.home is None for piece in operation.content)

    # copy and rename

    async def _copy(self, operation: Operation, trial: Trial) -> Outcome:
        home = home_of(operation)
        condition: Condition | None = operation.condition
        if self.looks_first(operation, trial):
            target = await look(self._real, operation.key)
            if target is not None and trial.doubted and await self._is_copy(operation, home, target):
                return Landed(_stored(target))
            condition = self._expected(operation, target)
            if trial.doubted and (condition is None or await self._is_gone(home)):
                return await self._parting.part(operation)
        if condition is None:
            return await self._parting.part(operation)
        return Landed(
            await self._real.copy(
                home.key, operation.key, source_etag=home.etag, headers=operation.headers, condition=condition
            )
        )

    async def _rename(self, operation: Operation, trial: Trial) -> Outcome:
        home = home_of(operation)
        condition: Condition | None = operation.condition
        if self.looks_first(operation, trial):
            target = await look(self._real, operation.key)
            gone = await self._is_gone(home)
            if target is not None and trial.doubted and await self._is_renamed(operation, home, target, gone):
                await self._remove(home)
                return Landed(_stored(target))
            condition = None if gone else self._expected(operation, target)
        if condition is None:
            return await self._parting.part(operation)
        if self._real.renames and operation.headers is None:
            try:
                await self._real.rename(home.key, operation.key, source_etag=home.etag, condition=condition)
            except NotImplementedByStore:
                if self._real.renames:
                    raise
            else:
                return Landed(Stored(home.etag, operation.at_ns))
        stored = await self._real.copy(
            home.key, operation.key, source_etag=home.etag, headers=operation.headers, condition=condition
        )
        await self._remove(home)
        return Landed(stored)

    async def _remove(self, home: Home) -> None:
        """The source of a rename, if it is still what it was."""
        try:
            await self._real.delete(home.key, Condition(etag=home.etag))
        except NotFound:
            pass
        except PreconditionFailed:
            if await look(self._real, home.key) is not None:
                log.warning("rename left an object that another client had changed key=%r", home.key)

    async def _is_gone(self, home: Home) -> bool:
        info = await look(self._real, home.key)
        return info is None or info.etag != home.etag

    async def _is_renamed(self, operation: Operation, home: Home, target: ObjectInfo, gone: bool) -> bool:
        if target.etag == home.etag and target.size == home.size and gone:
            return same_metadata(target, operation)
        return await self._is_copy(operation, home, target)

    async def _is_copy(self, operation: Operation, home: Home, target: ObjectInfo) -> bool:
        """Whether the target is our copy of the home: as long, with the headers it should have, of the same etag or,
        where copies get etags of their own, no older than the operation."""
        replaced = target.etag == operation.condition.etag
        if target.size != home.size or not (as_stated if replaced else same_metadata)(target, operation):
            return False
        source = await look(self._real, home.key) if operation.headers is None else None
        if source is not None and dict(source.headers.metadata) != dict(target.headers.metadata):
            return False
        if target.etag == home.etag:
            return True
        young = target.last_modified_ns >= operation.at_ns // SECOND_NS * SECOND_NS
        return young and not replaced and ("-" in home.etag or "-" in target.etag)


def is_sign(operation: Operation) -> bool:
    """Whether it is a put of a directory's marker or flag: who makes one as well has made the same, and of a flag's
    attributes the latest count."""
    is_one = operation.key.endswith("/") or f"/{operation.key}".endswith(f"/{FLAG}")
    return operation.kind == "put" and not operation.size and is_one


def home_of(operation: Operation) -> Home:
    """What a copy or a rename is of."""
    home = operation.content[0].home
    assert home is not None
    return home


def _is_marker(operation: Operation) -> bool:
    """A store may answer for a marker that is not there when there are keys below it (SeaweedFS does), and putting one
    once more harms nobody: so it is put, whatever a look has found, but for somebody's bytes."""
    return operation.key.endswith("/") and not operation.size and operation.condition == ALWAYS


def _stored(info: ObjectInfo) -> Stored:
    return Stored(info.etag, info.last_modified_ns, info.version_id)
