"""The lives of one mount: start, death, clean stop and the next start, each as the daemon has it, without kernel and
boto3.

A mount keeps what its instance's directory keeps: the journals, and the word by which it knows its own intents. A
death is of the whole process at one instant: nothing is sent or written any more, whoever waits for an answer gets
ENOTCONN, requests under way may still have their effect.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import trio

from s3mount.config import Config
from s3mount.data.conflict import sweep
from s3mount.data.journal import Journal
from s3mount.data.leftovers import Leftovers
from s3mount.data.removals import Removals, finish
from s3mount.data.storage import Storage
from s3mount.errors import S3MountError
from s3mount.store.abilities import Abilities, as_s3_says
from s3mount.store.endpoint import Address
from s3mount.store.s3 import S3Store
from s3mount.vfs.filesystem import FileSystem
from tests.memory_store import MemoryStore
from tests.paper import PaperInMemory
from tests.sim.locking_kernel import LockingKernel
from tests.sim.server import Server
from tests.sim.weather import SimulatedWire, Weather
from tests.unit.files import inline

T = TypeVar("T")
AGAIN_SECONDS = 2.0
"""Between two tries to start, as a service manager makes them."""
STOP_SECONDS = 60.0
ADDRESS = Address("http://s3", "s3", "/bucket", "us-east-1", None, Path("/"))


class Dead(Exception):
    """ENOTCONN: the mount is not there, or was not when the answer was due."""


class SimulatedStore(S3Store):
    """The real store on a simulated wire, unsigned."""

    def __init__(self, config: Config, wire: SimulatedWire, journal: Journal, now_ns: Callable[[], int], draw: Random):
        super().__init__(config, clock_ns=now_ns, random=draw, upload_log=journal)
        self._requests.access.address = ADDRESS
        self._requests._metadata_wire = self._requests._bulk_wire = wire  # type: ignore[assignment]  # its stand-in


class Mount:
    """See the module. `number` tells it from the others; `acting` is as of SimulatedWire, with the number first."""

    def __init__(
        self,
        number: int,
        bucket: MemoryStore,
        server: Server,
        weather: Weather,
        config: Config,
        *,
        staging_bytes: int,
        staging: Path,
        abilities: Abilities,
        now_ns: Callable[[], int],
        acting: Callable[[int, bool | None], None],
    ) -> None:
        # The mutable state: the papers, the kernel of the present life and what ends it, the calls that wait for an
        # answer, and how many lives there were.
        self.number = number
        self.weather = weather
        self.kernel: LockingKernel | None = None
        self.lives = 0
        self.stopping = False
        self.serving = trio.Event()
        self.storage: Storage
        self.journal: Journal
        self._bucket = bucket
        self._server = server
        self._config = config
        self._staging_bytes = staging_bytes
        self._staging = staging
        self._abilities = abilities
        self._now_ns = now_ns
        self._acting = acting
        self._journal_paper, self._removals_paper = PaperInMemory(), PaperInMemory()
        self._wire: SimulatedWire
        self._told: list[bytes] = []
        self._over, self._idle = trio.Event(), trio.Event()
        self._calls: set[trio.CancelScope] = set()

    async def live(self, world: trio.Nursery, *, task_status: trio.TaskStatus[None]) -> None:
        """Start, again and again until it succeeds; be served until the end of this life."""
        served = False
        while not served:
            async with trio.open_nursery() as nursery:
                served = await self._start(nursery, world)
                if served:
                    task_status.started()
                    await self._over.wait()
                    # As in the daemon, requests end before what they live on.
                    for scope in self._calls:
                        scope.cancel()
                    if self._calls:
                        await self._idle.wait()
                nursery.cancel_scope.cancel()
            for fd in self.storage.staging._spill._fds.values():
                os.close(fd)
            if not served:
                await trio.sleep(AGAIN_SECONDS)

    async def _start(self, nursery: trio.Nursery, world: trio.Nursery) -> bool:
        config = self._config
        self._wire = SimulatedWire(self._server, self.weather, world, lambda late: self._acting(self.number, late))
        self._wire.told = self._told
        self.journal = Journal(self._journal_paper, clock=trio.current_time)
        removals = Removals(self._removals_paper)
        store = SimulatedStore(config, self._wire, self.journal, self._now_ns, self.weather.draw)
        store.believe(self._abilities)
        self.storage = storage = Storage(
            store,
            config,
            nursery,
            staging_dir=self._staging,
            staging_limit_bytes=self._staging_bytes,
            journal=self.journal,
            run_in_thread=inline,
            find_out=as_s3_says,
            wall_ns=self._now_ns,
            draw_token=lambda: self.weather.draw.randbytes(4).hex(),
        )
        leftovers = Leftovers(store, self.journal, config, nursery, now_ns=store.now_ns)
        owner = f"{self.number:032d}"
        fs = FileSystem(store, storage, config, nursery, removals=removals, wall_ns=self._now_ns, owner=owner)
        await finish(store, removals)
        nursery.start_soon(sweep, store, config)
        try:
            await fs.start()
        except S3MountError:
            return False
        await fs.recover()
        nursery.start_soon(leftovers.recover)
        self.kernel = LockingKernel(fs, self._bucket)
        self._over = trio.Event()
        self.lives += 1
        self.serving.set()
        return True

    async def call(self, act: Callable[[], Awaitable[T]], seconds: float) -> T:
        """A system call. Raises Dead, and TooSlowError when it was not answered in time."""
        if self.kernel is None:
            raise Dead
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                with trio.fail_after(seconds):
                    return await act()
            finally:
                self._calls.discard(scope)
                if not self._calls:
                    self._idle.set()
        raise Dead

    def was_told_of(self, upload_id: str) -> bool:
        """Whether a reply has named it."""
        return any(f"<UploadId>{upload_id}<".encode() in document for document in self._told)

    def die(self) -> None:
        """kill -9."""
        if self.kernel is None:
            return
        self._wire.alive = False
        for paper in ("_journal_paper", "_removals_paper"):
            left = PaperInMemory()
            left.content[:] = getattr(self, paper).content
            setattr(self, paper, left)
        self._end()

    async def stop(self) -> set[str]:
        """SIGTERM; the paths that were lost."""
        kernel = self.kernel
        assert kernel is not None
        fs, until, lost = kernel.fs, trio.current_time() + STOP_SECONDS, set[str]()
        self.stopping = True
        fs.refuse_new_writers()
        for last in (False, True):
            with trio.move_on_at(until if not last else max(until, trio.current_time() + 2.0)):
                lost.update(await fs.sync_all())
            fs.refuse_writes()
        lost.update(fs.paths_not_stored())
        with trio.move_on_at(until):
            await self.storage.orphans.drop_all()
        self._wire.alive = False
        self._end()
        self.stopping = False
        return lost

    def _end(self) -> None:
        self.kernel = None
        self.serving = trio.Event()
        self._idle = trio.Event()
        self._over.set()
