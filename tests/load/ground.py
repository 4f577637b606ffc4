"""Where a long test happens: a temporary directory with a server, a bucket, mounts and a watchdog, all gone at its end.

A mount that hangs ends the run: the watchdog kills the daemons, frees the mounts, and leaves the stacks in its report.
"""

import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.mounting import Mounted, Place
from tests.e2e.watchdog import Watchdog
from tests.proxy import FaultProxy
from tests.servers import make_bucket, start_seaweedfs

VOLUMES = 4


@dataclass(slots=True)
class Ground:
    """See the module. The mutable state is the list of mounts made."""

    work: Path
    place: Place
    watchdog: Watchdog
    proxy: FaultProxy
    mounts: list[Mounted] = field(default_factory=list)

    def mounted(
        self, name: str, *options: str, place: Place | None = None, proxied: bool = False, cache: Path | None = None
    ) -> Mounted:
        """A mount that is not started yet."""
        work = self.work / name
        work.mkdir()
        if cache is not None:
            options = (*options, f"--cache-dir={cache}")
        endpoint = self.proxy.endpoint_url if proxied else None
        self.mounts.append(Mounted(place or self.place, work, self.watchdog, options, endpoint))
        return self.mounts[-1]


@contextmanager
def ground() -> Iterator[Ground]:
    """All of it for the time of the block, which SIGTERM ends, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="s3mount-soak-"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        server = start_seaweedfs(work / "server", bucket_volumes=VOLUMES)
        stack.callback(server.stop)
        place = Place(server, make_bucket(server, f"soak-{secrets.token_hex(4)}"), "soak/")
        proxy = stack.enter_context(FaultProxy(server.endpoint_url))
        watchdog = Watchdog(work / "watchdog")
        stack.callback(watchdog.stop)
        found = Ground(work, place, watchdog, proxy)
        stack.callback(_free, found)
        yield found


@contextmanager
def programs(running: "Sequence[subprocess.Popen[str]]") -> "Iterator[Sequence[subprocess.Popen[str]]]":
    """Programs that have said that they are ready, and do not outlive the block, however it ends."""
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def _free(ground: Ground) -> None:
    for mounted in ground.mounts:
        mounted.kill()
