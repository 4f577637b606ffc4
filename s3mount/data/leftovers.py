"""Removal of what this instance has left in the bucket: at the start what an earlier daemon left, later uploads of our
own that may have been opened by a request whose reply never came.

Only what the journal names is touched. An upload whose id is known is aborted, a copy deleted. An upload whose id never
reached us can have no part, as nobody could send one; and a live one of another client soon has one. So it is looked
for once, IDLE_SECONDS after our request can have had its effect, and aborted if it has no part, was initiated in the
time that our request had, by the server's clock, and is the only such one of exactly that key. A copy is deleted once
more when the server cannot be at work on it any more, and stays in the journal until then. Nothing here is waited for
by a program; what fails stays in the journal for the next start.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Literal

import trio

from s3mount.config import Config
from s3mount.data.journal import Entry, Journal
from s3mount.data.orphans import LATE_SECONDS, orphans_prefix
from s3mount.errors import NoSuchUpload, NotFound, NotImplementedByStore, S3MountError
from s3mount.store.abilities import scratch_key
from s3mount.store.base import ObjectStore, Upload

log = logging.getLogger(__name__)

REMOVALS_MAX = 4
"""At a time: programs want the store as well."""
SLACK_NS = 5_000_000_000
"""Clocks disagree by so much, and stores tell whole seconds."""
IDLE_SECONDS = 600.0
"""Who has opened an upload has stored a part of it by then, also over a slow line. What has no part costs nothing."""
OPENING_SECONDS = 1.0
LOOKS_MAX = 1_000
"""Uploads in doubt that are looked for at a time; those beyond are left to the next start."""


def nobody_needs(_upload: Upload) -> bool:
    """Where no upload of an earlier daemon is gone on with."""
    return False


Outcome = Literal["removed", "absent", "kept"]
"""absent: nothing there, or nothing that is known to be ours."""


class Leftovers:
    """See the module; `now_ns` is the clock that the journal's times are by. Uploads in doubt are looked for from its
    creation on. `spares` says which uploads somebody goes on with: they stay in the journal until he is done."""

    def __init__(
        self,
        store: ObjectStore,
        journal: Journal,
        config: Config,
        nursery: trio.Nursery,
        *,
        now_ns: Callable[[], int],
        idle_seconds: float = IDLE_SECONDS,
        spares: Callable[[Upload], bool] = nobody_needs,
    ) -> None:
        # The mutable state: removals under way, by the limit; how many uploads in doubt are looked for.
        self._store = store
        self._journal = journal
        self._nursery = nursery
        self._window_ns = int(config.metadata_deadline_seconds * 1e9) + SLACK_NS
        self._idle_ns = int(idle_seconds * 1e9)
        self._copies_prefixes = (orphans_prefix(config.prefix), scratch_key(config.prefix, ""))
        self._now_ns = now_ns
        self._spares = spares
        self._limit = trio.Semaphore(REMOVALS_MAX)
        self._looks = 0
        journal.on_doubt = self._look_soon

    async def recover(self) -> None:
        """Remove what the journal names from earlier daemons."""
        outcomes: Counter[tuple[str, Outcome]] = Counter()
        reason: Exception | None = None

        async def remove(entry: Entry) -> None:
            nonlocal reason
            outcome, error = await self._remove(entry)
            outcomes[entry.kind, outcome] += 1
            reason = error or reason

        async with trio.open_nursery() as nursery:
            for entry in self._journal.left:
                nursery.start_soon(remove, entry)
        if outcomes:
            kept = outcomes["upload", "kept"] + outcomes["copy", "kept"]
            log.info(
                "leftovers of an earlier run were removed uploads=%d copies=%d absent=%d kept=%d",
                outcomes["upload", "removed"], outcomes["copy", "removed"], outcomes["upload", "absent"], kept,
            )  # fmt: skip
        if reason is not None:
            log.warning("leftovers were not removed, the next start tries again last_reason=%s", reason)

    def _look_soon(self, entry: Entry) -> None:
        if self._looks < LOOKS_MAX:
            self._looks += 1
            self._nursery.start_soon(self._look, entry)

    async def _look(self, entry: Entry) -> None:
        try:
            outcome, error = await self._remove(entry)
        finally:
            self._looks -= 1
        if outcome == "removed":
            log.info("upload opened by a request without a reply was aborted key=%r", entry.key)
        elif error is not None:
            log.warning("upload was not looked for, the next start will key=%r reason=%s", entry.key, error)

    async def _remove(self, entry: Entry) -> tuple[Outcome, Exception | None]:
        """What became of it, and why it was kept."""
        try:
            if entry.kind == "copy":
                return await self._delete(entry), None
            if entry.upload_id is not None:
                upload = Upload(entry.key, entry.upload_id)
                return ("kept" if self._spares(upload) else await self._abort(upload)), None
            return await self._find(entry), None
        except NotImplementedByStore:
            # Nor will it be able to tomorrow.
            self._journal.strike(entry.number)
            return "absent", None
        except S3MountError as error:
            return "kept", error
        except Exception as error:
            log.exception("removal of a leftover met a bug key=%r", entry.key)
            return "kept", error

    async def _delete(self, entry: Entry) -> Outcome:
        assert entry.key.startswith(self._copies_prefixes), entry
        async with self._limit:
            await self._store.delete(entry.key)
        self._nursery.start_soon(self._delete_late, entry)
        return "removed"

    async def _delete_late(self, entry: Entry) -> None:
        """The daemon may have died while the server still made the copy."""
        await trio.sleep(LATE_SECONDS)
        try:
            async with self._limit:
                await self._store.delete(entry.key)
        except S3MountError as error:
            log.warning("copy was not deleted, the next start tries again key=%r reason=%s", entry.key, error)
        except Exception:
            log.exception("removal of a leftover met a bug key=%r", entry.key)
        else:
            self._journal.strike(entry.number)

    async def _abort(self, upload: Upload) -> Outcome:
        async with self._limit:
            await self._store.abort_upload(upload)  # strikes it off: the store tells the journal
        return "removed"

    async def _find(self, entry: Entry) -> Outcome:
        until_ns = entry.at_ns + self._window_ns
        wait_ns = until_ns + self._idle_ns - self._now_ns()
        # No longer than that, should the clock have been set back.
        await trio.sleep(max(0, min(wait_ns, self._window_ns + self._idle_ns)) / 1e9)
        found = [upload for upload in await self._candidates(entry, until_ns) if await self._is_empty(upload)]
        if len(found) == 1:
            async with self._limit:
                await self._store.abort_upload(found[0])
        elif found:
            log.warning(
                "several uploads may be one of ours, none was aborted key=%r uploads=%s",
                entry.key,
                ",".join(upload.id for upload in found),
            )
        self._journal.strike(entry.number)
        return "removed" if len(found) == 1 else "absent"

    async def _is_empty(self, upload: Upload) -> bool:
        """Whether it is there and has no part."""
        try:
            async with self._limit:
                return not await self._store.has_parts(upload)
        except (NoSuchUpload, NotFound):
            return False

    async def _candidates(self, entry: Entry, until_ns: int) -> list[Upload]:
        journal, key = self._journal, entry.key
        listed: tuple[Upload, ...] | None = None
        while listed is None:
            if not journal.opening(key):
                async with self._limit:
                    listed = await self._store.list_uploads(key, exactly=True)
            if journal.opening(key):
                # One that is listed may be the upload whose id we are about to hear.
                listed = None
                await trio.sleep(OPENING_SECONDS)
        return [
            upload
            for upload in listed
            if not journal.knows(key, upload.id)
            and upload.initiated_ns is not None
            and entry.at_ns - SLACK_NS <= upload.initiated_ns <= until_ns
        ]
