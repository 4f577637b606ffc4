"""One turn of one workload on one system: a mount made for it, the work in a process of its own, what is measured.

Whatever happens the mount and the process are gone afterwards. What takes too long has hung: the daemon is killed
first, so that whoever waits for its answer can end, and the turn fails in words. The mutable state is the number of
the next mount, and what each system's first mount has left in its cache.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.compare.bucket import BUCKET, Bucket
from bench.compare.load import Load
from bench.compare.systems import System
from bench.mounts import ROOT, Mounted, served

PROBE_SECONDS = 3.0
"""What the first mount of a store tries is over; later ones find it in their cache directory."""
QUIET_SECONDS, QUIET_MAX_SECONDS = 0.2, 5.0
"""A mount that has asked nothing for so long is ready."""
POLL_SECONDS = 0.02
KILL_SECONDS = 20.0


class Failed(Exception):
    """A system could not do it; the message says what it did instead."""


class Hung(Failed):
    """It took longer than anything may take."""


@dataclass(frozen=True, slots=True)
class Span:
    """When the work began and ended, by the machine's monotonic clock, and how much it was: bytes, or things."""

    began: float
    ended: float
    amount: int

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Figures:
    """What one turn has measured. Requests, CPU and memory are the daemon's during the work, and None without one."""

    span: Span
    requests: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    extra: dict[str, float] = field(default_factory=dict)
    delays: tuple[float, ...] = ()
    """Of the event loop, in seconds, where they were looked at."""
    afterwards: str = ""
    """What went wrong after the work, when the daemon was stopped."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a workload does its work: below a mountpoint, or, without one, in the bucket itself."""

    bucket: Bucket
    environment: dict[str, str]
    mount: Mounted | None
    name: str = ""
    """Of what was prepared for this turn."""

    @property
    def load(self) -> Load:
        return self.bucket.load

    def path(self, name: str) -> str:
        assert self.mount is not None
        return str(self.mount.root / name)

    def work(self, worker: str, amount: int, **options: object) -> Span:
        """Run one function of `worker` in a process of its own."""
        target = BUCKET if self.mount is None else str(self.mount.root)
        command = [sys.executable, "-m", "bench.compare.worker", worker, target, json.dumps(options)]
        began, ended = json.loads(self._run(command)[2])
        return Span(began, ended, amount)

    def program(self, *command: str, lines: int) -> Span:
        """Run an ordinary program that has to print so many lines."""
        began, ended, said = self._run(command)
        if said.count(b"\n") != lines:
            raise Failed(f"{command[0]} printed {said.count(bytes([10]))} lines instead of {lines}")
        return Span(began, ended, 1)

    def stored(self, span: Span, shown: Callable[[], bool]) -> Span:
        """The span until the bucket shows what was asked for: as it is, if it does so at the first look."""
        ended = span.ended
        while not shown():
            ended = time.monotonic()
            if ended - span.began > self.load.hung_seconds:
                raise Hung(f"not in the bucket after {self.load.hung_seconds:.0f} s")
            time.sleep(POLL_SECONDS)
        return Span(span.began, ended, span.amount)

    def _run(self, command: Sequence[str]) -> tuple[float, float, bytes]:
        began = time.monotonic()
        process = subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            said, complained = process.communicate(timeout=self.load.hung_seconds)
        except subprocess.TimeoutExpired as error:
            raise Hung(f"hung: not done after {self.load.hung_seconds:.0f} s") from error
        finally:
            if process.poll() is None:
                if self.mount is not None:
                    os.kill(self.mount.pid, signal.SIGKILL)
                process.kill()
                process.communicate(timeout=KILL_SECONDS)
        ended = time.monotonic()
        if process.returncode != 0:
            words = complained.decode(errors="replace").strip().splitlines()
            raise Failed(f"failed: {words[-1][:200] if words else f'exit status {process.returncode}'}")
        return began, ended, said


class Theatre:
    """Makes the mounts of one run, at one place of the store."""

    def __init__(self, bucket: Bucket, work: Path, environment: dict[str, str]) -> None:
        self.bucket, self.work, self.environment = bucket, work, environment
        self._seeds: dict[str, Path] = {}
        self._made = 0

    def meet(self, system: System, try_out: Callable[[Stage], Span] | None = None) -> None:
        """Mount it for the first time, have it try what it has to learn of a store, and keep that. Raises Failed."""
        cache, name = self.work / f"seed-{system.name}", self.bucket.copied() if try_out else ""
        met = False
        try:
            with self.mounted(system, cache) as mount:
                time.sleep(PROBE_SECONDS)
                if try_out is not None:
                    try_out(Stage(self.bucket, self.environment, mount, name))
                met = True
        except Failed:
            if not met:
                raise
        self._seeds[system.name] = cache

    def new_cache(self, system: System) -> Path:
        """A cache directory that has no file's bytes in it."""
        self._made += 1
        cache = self.work / f"cache{self._made}"
        if system.name in self._seeds:
            shutil.copytree(self._seeds[system.name], cache)
        return cache

    @contextmanager
    def mounted(self, system: System, cache: Path, **variables: str) -> Iterator[Mounted]:
        """A mount that works and is quiet; ended with a SIGTERM that it must obey. Raises Failed."""
        self._made += 1
        work = self.work / f"mount{self._made}"
        root, log = work / "mnt", work / "log"
        work.mkdir()
        cache.mkdir(mode=0o700, exist_ok=True)
        command = system.words(
            {
                "bucket": BUCKET,
                "mountpoint": str(root),
                "endpoint": self.environment["AWS_ENDPOINT_URL"],
                "region": self.environment["AWS_DEFAULT_REGION"],
                "cache": str(cache),
                "log": str(log),
            }
        )
        try:
            with served(command, root, log, {**self.environment, **variables}, status=system.ends_with) as mount:
                Stage(self.bucket, self.environment, mount).program("stat", "-c", "%i", str(root), lines=1)
                self._quiet()
                yield mount
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            raise Failed(f"failed: {' '.join(str(error).split())[:300]}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _quiet(self) -> None:
        deadline, before = time.monotonic() + QUIET_MAX_SECONDS, self.bucket.requests()
        while time.monotonic() < deadline:
            time.sleep(QUIET_SECONDS)
            now = self.bucket.requests()
            if now == before:
                return
            before = now

    def measured(self, mount: Mounted | None, name: str, run: Callable[[Stage], Span]) -> Figures:
        """Do it, and say what it has cost."""
        stage = Stage(self.bucket, self.environment, mount, name)
        if mount is None:
            return Figures(run(stage))
        mount.forget_peak()
        requests, cpu = self.bucket.requests(), mount.cpu_seconds()
        span = run(stage)
        cost, peak = mount.cpu_seconds() - cpu, mount.peak_bytes()
        asked = self.bucket.requests()
        asked.subtract(requests)
        return Figures(span, +asked, cost, peak)

    def turn(
        self,
        system: System,
        name: str,
        run: Callable[[Stage], Span],
        *,
        before: Callable[[Stage], Span] | None = None,
    ) -> Figures:
        """One turn on a mount that was made for it; `before` is done first and not measured."""
        cache, figures = self.new_cache(system), None
        try:
            with self.mounted(system, cache) as mount:
                if before is not None:
                    before(Stage(self.bucket, self.environment, mount, name))
                figures = self.measured(mount, name, run)
        except Failed as error:
            if figures is None:
                raise
            return replace(figures, afterwards=str(error))  # s3fs aborts now and then when it is told to stop
        else:
            return figures
        finally:
            shutil.rmtree(cache, ignore_errors=True)
