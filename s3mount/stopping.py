"""How a mount ends: what a signal sets going, what the kernel still holds, the last syncs, and what was lost.

New writers are refused, a child process makes the kernel hand over its dirty pages, every file is synced, writes are
refused, the mountpoint is unmounted; one in use is detached and served until --stop-timeout. So long the journal of
--write-back is sent, too; what waits in it then is not lost. A second signal ends at once. Serving itself is ended by a
callable. The mutable state: by when all must be over, once that has begun, and the paths that were lost.
"""

import logging
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial

import trio

from s3mount import draining, kernel, notify
from s3mount.config import Config
from s3mount.errors import S3MountError
from s3mount.inside import Inside
from s3mount.vfs.filesystem import FileSystem
from s3mount.vfs.keys import escaped

log = logging.getLogger(__name__)

GRACE_SECONDS = 0.5
"""For answers that are on their way when the main loop is ended."""
LAST_SYNC_SECONDS = 2.0
"""What is left for the last look, whatever the stop has taken."""


class Stopping:
    """See the module. `terminate` has the main loop return."""

    def __init__(
        self, config: Config, inside: Inside, reports: notify.Reports, *, terminate: Callable[[], None]
    ) -> None:
        self._config = config
        self._inside = inside
        self._reports = reports
        self._terminate = terminate
        self._by: float | None = None
        self.lost: set[str] = set()

    def __repr__(self) -> str:
        state = "not begun" if self._by is None else f"by {self._by:.1f}"
        return f"<Stopping {state}, {len(self.lost)} lost>"

    @property
    def begun(self) -> bool:
        return self._by is not None

    async def on_signals(self, signals: AsyncIterator[int], filesystem: FileSystem, session: trio.CancelScope) -> None:
        """Stop at the first of them; `session` is cancelled when that could not wait for the kernel to let go."""
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if self._by is not None:
                    log.warning("stopped at once by a second signal signal=%s", signal.Signals(number).name)
                    self._by = trio.current_time()
                    with trio.move_on_after(GRACE_SECONDS):
                        await self._detach()
                    await self._end(filesystem, session)
                    return
                self._by = trio.current_time() + self._config.stop_timeout_seconds
                self._inside.life = "stopping"
                log.info("stopping signal=%s", signal.Signals(number).name)
                nursery.start_soon(self._stop, filesystem, session, self._by)
                nursery.start_soon(partial(self._reports.stopping, seconds=self._config.stop_timeout_seconds))

    async def last_sync(self, filesystem: FileSystem) -> float:
        """Store what a RELEASE that never reached us would have stored: the kernel drops requests at an unmount. Until
        when there is time for more."""
        self._inside.life = "ending"
        await self._reports.stopping(seconds=self._config.stop_timeout_seconds)
        now = trio.current_time()
        by = max(self._by or now + self._config.stop_timeout_seconds, now + LAST_SYNC_SECONDS)
        await self._sync_all(filesystem, by)
        with trio.move_on_at(by):
            await filesystem.settle_all()
        left = None if filesystem.journaled is None else filesystem.journaled.left
        if left is not None:
            log.warning(
                "changes wait in the journal for the next mount with --write-back changes=%d bytes=%d example=%s",
                left.files, left.bytes, escaped(left.example),
            )  # fmt: skip
        return by

    async def _stop(self, filesystem: FileSystem, session: trio.CancelScope, deadline: float) -> None:
        config = self._config
        filesystem.refuse_new_writers()
        paths = filesystem.paths_open_for_writing()
        if paths:
            # Half of the time is kept for the uploads.
            with trio.move_on_after(config.stop_timeout_seconds / 2):
                await self._drain_kernel(filesystem, paths)
                await draining.quiet(filesystem)
        with trio.move_on_at(deadline):
            self.lost.update(await filesystem.sync_all())
        filesystem.refuse_writes()
        await self._sync_all(filesystem, deadline)  # what came meanwhile
        problem = await trio.to_thread.run_sync(lambda: kernel.unmount(config.mountpoint))
        if problem is not None:
            log.info("mountpoint was in use: detached, open files are served until --stop-timeout said=%s", problem)
            await self._detach()
        # The kernel tells the main loop that nobody uses the mount any more; this task is cancelled then.
        with trio.move_on_at(deadline):
            await filesystem.settle_all()
        await trio.sleep_until(deadline)
        await self._end(filesystem, session)

    async def _detach(self) -> None:
        """Out of the tree of directories, whoever uses it."""
        await trio.to_thread.run_sync(
            lambda: kernel.unmount(self._config.mountpoint, lazily=True), abandon_on_cancel=True
        )

    async def _drain_kernel(self, filesystem: FileSystem, paths: list[str]) -> None:
        try:
            await draining.drain(filesystem, self._config.mountpoint, paths)
        except S3MountError as error:
            log.warning("what the kernel holds was not asked for reason=%s", error)

    async def _end(self, filesystem: FileSystem, session: trio.CancelScope) -> None:
        """Stop serving, whoever still waits for an answer."""
        self._terminate()
        await trio.sleep(GRACE_SECONDS)
        self.lost.update(filesystem.paths_not_stored())
        session.cancel()

    async def _sync_all(self, filesystem: FileSystem, deadline: float) -> None:
        """Store every dirty file, in time; what is not stored then is lost."""
        with trio.move_on_at(deadline):
            self.lost.update(await filesystem.sync_all())
        self.lost.update(filesystem.paths_not_stored())
