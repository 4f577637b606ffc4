"""The composition root and the life cycle of a mount: wiring, mounting, readiness, the end.

Start: the instance is locked, the bucket checked, deletions that an earlier daemon had acknowledged are finished, the
root is listed; only then is the mountpoint taken, from a dead mount of ours too, and `s3mount mount` returns 0. What an
earlier daemon of the instance has left in the bucket is removed after that, and which conditions the store keeps is
found out, unless the mount is read-only. How it stops is told in `stopping`. A crash leaves the mountpoint dead, not
empty: an empty-looking one lets `rsync --delete` erase a mirror."""

import gc
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pyfuse3
import trio

import s3mount
from s3mount import allowance, draining, garbage, instance, kernel, notify, preflight, turns
from s3mount.background import in_background
from s3mount.config import Config
from s3mount.control import limits
from s3mount.control.keeping import Keeping
from s3mount.control.rescue import Rescue
from s3mount.control.server import attend
from s3mount.control.verbs import Figures, Verbs
from s3mount.data.conflict import CopiesKept, sweep
from s3mount.data.disktier import DiskTier
from s3mount.data.journal import Journal, PaperFile
from s3mount.data.leftovers import Leftovers, nobody_needs
from s3mount.data.piecefiles import PieceFiles
from s3mount.data.removals import Removals, finish
from s3mount.data.storage import Storage
from s3mount.errors import S3MountError, StartError
from s3mount.fuse import Operations, OperationsWithXattrs, invalidate, mount_options
from s3mount.heartbeat import Heartbeat
from s3mount.inside import Inside
from s3mount.stopping import Stopping
from s3mount.store.abilities import as_s3_says
from s3mount.store.base import ObjectStore
from s3mount.store.endpoint import configured_endpoint
from s3mount.store.findings import Findings
from s3mount.store.replies import forget_parsed
from s3mount.store.s3 import S3Store
from s3mount.underway import UnderWay
from s3mount.vfs import attributedb
from s3mount.vfs.attributedb import AttributeDb
from s3mount.vfs.filesystem import FileSystem
from s3mount.vfs.journaled import journaled_of
from s3mount.writeback.opening import Opened, open_write_back
from s3mount.writeback.shelf import waiting

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RECOVER_SECONDS = 20.0
"""How long a start waits for renames that were cut short: less than what starts it waits for us."""
IDLE_TASKS_MIN = 8
"""Request tasks that stay when idle: starting one costs as much as answering a lookup."""


def mount(config: Config) -> int:
    """Mount and serve; the exit status. In the background it returns once the mount serves. Raises StartError,
    UsageError."""
    supervisor = notify.supervisor(os.environ, pid=os.getpid())
    prepared = preflight.prepare(config)
    if config.foreground:
        return _serve(config, prepared, supervisor, ready=lambda: None)
    return in_background(lambda ready: _serve(config, prepared, supervisor, ready=ready))


def umount(mountpoint: Path) -> int:
    """Unmount one of our mounts. Raises StartError with the remedy when it is not ours or in use."""
    path = preflight.resolved(mountpoint)
    found = kernel.mount_at(path)
    if found is None or found.fstype != kernel.FSTYPE:
        raise StartError(f"{path} is not a mountpoint of s3mount: see `findmnt -t {kernel.FSTYPE}`")
    if found.owner not in (None, os.geteuid()) and os.geteuid() != 0:
        raise StartError(f"{path} was mounted by user {found.owner}: only that user and root unmount it")
    problem = kernel.unmount(path)
    if problem is not None:
        raise StartError(f"{path} was not unmounted: {problem}; `fuser -vm {path}` shows who uses it")
    return 0


def _serve(
    config: Config, prepared: preflight.Prepared, supervisor: notify.Supervisor | None, *, ready: Callable[[], None]
) -> int:
    if os.getpid() == 1:  # of a container: the kernel does nothing by default, so that a start could not be stopped
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, _: os._exit(128 + number))
    config = replace(config, endpoint_url=configured_endpoint(config), memory_limit_bytes=prepared.memory_limit_bytes)
    with instance.held(config, prepared.cache_dir) as held:
        inside = Inside(config, fallback=held.log)
        for warning in prepared.warnings:
            log.warning("%s", warning)
        allowance.raise_open_files()
        if not config.write_back:
            instance.check_nothing_waits(held.write_back, waiting)
        try:
            journal, removals = Journal(PaperFile(held.journal)), Removals(PaperFile(held.removals))
        except OSError as error:
            raise StartError(f"the journal cannot be written: {error}; see --cache-dir") from error
        reports = notify.Reports(supervisor, Heartbeat(), foreground=config.foreground)
        owner = instance.owner(held.directory)
        daemon = Daemon(config, held, journal, removals, prepared, ready, reports, owner=owner, inside=inside)
        return trio.run(daemon.run)


class Daemon:
    """One mount from start to end."""

    def __init__(
        self,
        config: Config,
        held: instance.Instance,
        journal: Journal,
        removals: Removals,
        prepared: preflight.Prepared,
        ready: Callable[[], None],
        reports: notify.Reports,
        *,
        owner: str,
        inside: Inside,
    ) -> None:
        self._config = config
        self._owner = owner
        self._held = held
        self._journal = journal
        self._removals = removals
        self._prepared = prepared
        self._ready = ready
        self._reports = reports
        self._inside = inside
        self._stopping = Stopping(config, inside, reports, terminate=pyfuse3.terminate)
        # The mutable state is the reason why the mount could not start.
        self._failure: StartError | None = None

    async def run(self) -> int:
        """Serve until unmounted or told to stop; the exit status. Raises StartError."""
        async with self._inside.shown(self._reports.heart), trio.open_nursery() as nursery:
            nursery.start_soon(self._reports.heart.run)
            try:
                await self._serve(nursery)
            except StartError as error:  # outside the nursery it would come wrapped in a group
                self._failure = error
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        lost = self._stopping.lost
        for path in sorted(lost):
            log.error("file was lost path=%s", path)
        log.info("stopped source=%s lost=%d", self._config.source, len(lost))
        return 1 if lost else 0

    async def _serve(self, nursery: trio.Nursery) -> None:
        config = self._config
        trio.to_thread.current_default_thread_limiter().total_tokens = config.worker_threads_max
        threads = trio.CapacityLimiter(config.staging_threads_max)
        store = S3Store(config, upload_log=self._journal)
        await nursery.start(store.run)
        await store.check()
        findings = Findings(
            store,
            config,
            self._prepared.cache_dir / "stores",
            begin=self._journal.begin_copy,
            ended=self._journal.strike,
        )
        store.believe(findings.remembered())
        copies_kept = CopiesKept()
        opened = await self._open_write_back(store, findings, copies_kept, nursery)
        front: ObjectStore = store if opened is None else opened.store
        storage = Storage(
            front,
            config,
            nursery,
            staging_dir=self._held.staging,
            staging_limit_bytes=self._prepared.staging_limit_bytes,
            journal=self._journal,
            run_in_thread=partial(trio.to_thread.run_sync, limiter=threads),
            find_out=findings.parts if opened is None else as_s3_says,
            disk=self._disk_tier(nursery),
            copies_kept=copies_kept,
        )
        leftovers = Leftovers(
            front,
            self._journal,
            config,
            nursery,
            now_ns=store.now_ns,
            spares=nobody_needs if opened is None else opened.sender.spares,
        )
        filesystem = FileSystem(
            front,
            storage,
            config,
            nursery,
            removals=self._removals,
            learnt=self._learnt(nursery),
            owner=self._owner,
            journaled=None
            if opened is None
            else journaled_of(opened, config, bytes_max=self._prepared.write_back_limit_bytes),
        )
        if not config.read_only:
            await finish(store, self._removals)  # before anybody can put something else there
            nursery.start_soon(sweep, store, config)
        try:
            await filesystem.start()
        except S3MountError as error:
            raise StartError(f"{config.source} could not be listed: {error}") from error
        if not config.read_only:
            await self._recover(filesystem, nursery)
        # From before the mount exists: a signal in between would leave it dead. SIGHUP is what a closed terminal sends
        # to `--foreground`: it must not cost what was written.
        with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            begun = trio.Event()
            under_way = self._mount(filesystem, begun)
            async with trio.open_nursery() as session:
                session.start_soon(self._stopping.on_signals, signals, filesystem, session.cancel_scope)
                await session.start(self._attend, filesystem, store, storage, findings, under_way, threads)
                session.start_soon(garbage.collect, forget_parsed)
                session.start_soon(self._announce, begun)
                nursery.start_soon(self._reports.run, lambda: str(filesystem.condition))

                async def find_out() -> None:
                    store.believe(await findings.conditions())

                if not config.read_only:
                    nursery.start_soon(leftovers.recover)
                    session.start_soon(find_out)  # it tidies up when cancelled: the store must outlive it
                pyfuse3.trio = turns.for_pyfuse3()  # type: ignore[attr-defined]
                await pyfuse3.main(min_tasks=IDLE_TASKS_MIN, max_tasks=config.requests_max)
                session.cancel_scope.cancel()
            with trio.move_on_at(await self._stopping.last_sync(filesystem)):
                await storage.orphans.drop_all()
            if opened is not None:
                await opened.close()
        pyfuse3.close(unmount=False)

    def _mount(self, filesystem: FileSystem, begun: trio.Event) -> UnderWay:
        """Take the mountpoint; where its requests are seen. Raises StartError. `begun` is set when the kernel asks for
        the first time."""
        config = self._config
        options = mount_options(
            source=config.source,
            allow_other=config.allow_other,
            read_only=config.read_only,
            flags=config.mount_flags,
        )
        try:
            kind = OperationsWithXattrs if config.xattr else Operations
            operations = kind(filesystem, begun.set, self._inside.calls)
            if self._prepared.takes_over:
                preflight.detach_dead(config.mountpoint)
            pyfuse3.init(operations, str(config.mountpoint), options)
        except RuntimeError as error:
            raise StartError(
                f"{config.mountpoint} was not mounted: {error}; is /dev/fuse there and permitted?"
            ) from error
        kernel.become_io_flusher()
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do: later collections need not look at it
        return operations.under_way

    async def _open_write_back(
        self, store: S3Store, findings: Findings, copies_kept: CopiesKept, nursery: trio.Nursery
    ) -> Opened | None:
        """What answers before the bucket has it; None without --write-back. Raises StartError."""
        if not self._config.write_back:
            return None
        return await open_write_back(
            store,
            self._config,
            self._held.write_back,
            nursery,
            outage=store.outage,
            now_ns=store.now_ns,
            limit_bytes=self._prepared.write_back_limit_bytes,
            memory_bytes=self._config.memory_bytes // 8,
            copies_kept=copies_kept,
            find_out=findings.parts,
        )

    def _disk_tier(self, nursery: trio.Nursery) -> DiskTier | None:
        """Blocks that mounts of this host have read; None where none are kept."""
        config = self._config
        if not config.cache_size_max_bytes:
            return None
        files = PieceFiles(
            self._prepared.cache_dir, limit_bytes=config.cache_size_max_bytes, block_bytes=config.block_bytes
        )
        endpoint = config.endpoint_url or "aws"
        tier = DiskTier(files, nursery, endpoint=endpoint, bucket=config.bucket, block_bytes=config.block_bytes)
        nursery.start_soon(tier.look)
        return tier

    async def _announce(self, begun: trio.Event) -> None:
        """Tell that the mount serves; before that raise the kernel's limits, for with its first request it takes back a
        read-ahead raised earlier."""
        config = self._config
        await begun.wait()
        await trio.to_thread.run_sync(
            lambda: kernel.tune(
                config.mountpoint,
                readahead_bytes=config.kernel_readahead_bytes,
                background_max=config.kernel_background_max,
            )
        )
        self._inside.life = "stopping" if self._stopping.begun else "serving"
        log.info("mounted source=%s mountpoint=%s pid=%d", config.source, config.mountpoint, os.getpid())
        await self._reports.ready()
        self._ready()

    def _learnt(self, nursery: trio.Nursery) -> AttributeDb | None:
        """What the mounts of this bucket have learnt of attributes; None where none are shown."""
        config = self._config
        if config.attributes == "never":
            return None
        path = attributedb.path_in(
            self._prepared.cache_dir, endpoint=config.endpoint_url or "aws", bucket=config.bucket
        )
        db = AttributeDb(path)
        nursery.start_soon(db.run)
        return db

    async def _attend(
        self,
        filesystem: FileSystem,
        store: S3Store,
        storage: Storage,
        findings: Findings,
        under_way: UnderWay,
        threads: trio.CapacityLimiter,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Answer on the control socket; `figures` is what `s3mount status` shows."""
        config = self._config
        figures: dict[str, Figures] = {
            "mount": lambda: {
                "source": config.source,
                "mountpoint": str(config.mountpoint),
                "pid": os.getpid(),
                "version": s3mount.__version__,
                "read_only": config.read_only,
            },
            "files": lambda: filesystem.figures,
            "storage": lambda: storage.figures,
            "store": lambda: store.figures,
            "abilities": lambda: asdict(findings.remembered()),
            **self._inside.figures,
            "limits": partial(limits.figures, config, filesystem, storage, store, under_way, staging_threads=threads),
        }
        if filesystem.journaled is not None:
            figures["write_back"] = partial(filesystem.journaled.figures, now_ns=store.now_ns)
        verbs = Verbs(filesystem, store, config, figures=figures, invalidate=invalidate)
        self._inside.tell(verbs.figures)
        keeping = Keeping(filesystem, drain=lambda paths: self._hand_over(filesystem, paths))
        rescue = Rescue(
            store.aborting,
            under_way,
            is_stopping=lambda: filesystem.stopping,
            outage=lambda: store.outage.figure,
        )
        table = {
            **verbs.table(),
            **keeping.table(),
            **rescue.table(),
            "log-level": self._inside.log.level.verb,
        }
        await attend(table, config, task_status=task_status)

    async def _hand_over(self, filesystem: FileSystem, paths: list[str]) -> None:
        """Have the kernel send what it holds of these paths."""
        if not await draining.drain(filesystem, self._config.mountpoint, paths):
            await draining.quiet(filesystem)

    async def _recover(self, filesystem: FileSystem, nursery: trio.Nursery) -> None:
        """Finish renames that were cut short before programs look; a large one goes on behind them."""
        over = trio.Event()

        async def recover() -> None:
            await filesystem.recover()
            over.set()

        nursery.start_soon(recover)
        with trio.move_on_after(RECOVER_SECONDS):
            await over.wait()
