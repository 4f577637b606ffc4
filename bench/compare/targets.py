"""What s3mount is to reach, and whether it did. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.compare.load import MIB
from bench.compare.ours import DISK_SPEED
from bench.compare.results import LIMIT, Results, Standing, quantile
from bench.compare.systems import OURS

PEERS = ("s3fs", "rclone", "rclone-streams")
PAGE_KEYS = 1000
MEMORY_LIMIT_MIB = 512
MEMORY_CONSTANT_MIB = 128
"""The interpreter, its libraries, curl's buffers: what `--memory-limit` does not count."""
AWAY_MILLISECONDS = 20
DISK_MB_PER_SECOND = 1000.0
Where = Literal["here", "away"]


@dataclass(frozen=True, slots=True)
class Target:
    """One demand: a figure that is at least, or at most, something; where the store is when it holds."""

    title: str
    figure: Callable[[Standing], float | None]
    least: float | None = None
    most: float | None = None
    where: Where = "here"
    unit: str = ""
    needs: str = ""
    """The workload it speaks of."""

    @property
    def demand(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"

    def met_by(self, figure: float) -> bool:
        return (self.least is None or figure >= self.least) and (self.most is None or figure <= self.most)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target with what came out; `figure` is None where nothing was measured for it."""

    target: Target
    figure: float | None

    @property
    def word(self) -> str:
        if self.figure is None:
            return "not measured"
        return "pass" if self.target.met_by(self.figure) else "MISSED"


def _times(workload: str, others: Sequence[str], least: float, said: str, *, where: Where = "here") -> Target:
    return Target(
        f"{workload}: times {said}",
        lambda standing: standing.ratio(workload, OURS, others),
        least=least,
        where=where,
        needs=workload,
    )


def _pages(standing: Standing) -> float | None:
    """Milliseconds of CPU per page of the listing."""
    seconds = standing.cpu("ls", OURS)
    pages = standing.requests("ls", OURS, "LIST")
    return seconds * 1e3 / pages if seconds is not None and pages else None


def _scaled(figure: float | None, factor: float) -> float | None:
    return None if figure is None else figure * factor


def _p99(standing: Standing) -> float | None:
    delays = standing.delays("loop", OURS)
    return quantile(delays, 0.99) * 1e3 if delays else None


def _peak(standing: Standing) -> float | None:
    peaks = [standing.peak_mib(workload, OURS) for workload in standing.results.units]
    return max((peak for peak in peaks if peak is not None), default=None)


def _disk(standing: Standing) -> float | None:
    """The speed after a remount over what is asked of it: 1 GB/s, or the disk's own speed if that is less."""
    value = standing.value("remount", OURS)
    own = standing.of("remount", OURS, lambda figures: figures.extra.get(DISK_SPEED))
    if value is None or own is None:
        return None
    return value / min(DISK_MB_PER_SECOND, own or DISK_MB_PER_SECOND)


def _tls(standing: Standing) -> float | None:
    """CPU-seconds per GiB more than without TLS."""
    over, plain = standing.cpu_per_gib("tls", OURS), standing.cpu_per_gib("sequential", OURS)
    return None if over is None or plain is None else over - plain


def _requests(workload: str, *kinds: str) -> Callable[[Standing], float | None]:
    return lambda standing: standing.requests(workload, OURS, *kinds)


BETTER = "the better of s3fs and rclone"
TARGETS = (
    Target(
        "sequential: CPU-seconds per GiB",
        lambda standing: standing.cpu_per_gib("sequential", OURS),
        most=0.9,
        needs="sequential",
    ),
    Target("tls: CPU-seconds per GiB more", _tls, most=0.2, needs="tls"),
    _times("sequential", PEERS, 1.5, BETTER),
    _times("sequential", (LIMIT,), 0.55, "eight boto3 threads"),
    _times("streams", PEERS, 1.5, BETTER),
    _times("streams", (LIMIT,), 0.55, "eight boto3 threads"),
    _times("random", PEERS, 6, BETTER),
    _times("random-16", PEERS, 5, BETTER),
    Target("first-byte: GET requests", _requests("first-byte", "GET"), most=1, needs="first-byte"),
    _times("small", PEERS, 2.7, BETTER),
    _times("small-16", PEERS, 3, BETTER),
    _times("small-16", (LIMIT,), 2, "16 boto3 threads"),
    Target(
        "small: CPU per file",
        lambda standing: standing.cpu_per("small", OURS, 1e3),
        most=0.35,
        unit="ms",
        needs="small",
    ),
    Target("ls: CPU per page of 1,000 keys", _pages, most=8, unit="ms", needs="ls"),
    Target(
        "memory: CPU per MiB",
        lambda standing: standing.cpu_per("memory", OURS, MIB * 1e3),
        most=0.3,
        unit="ms",
        needs="memory",
    ),
    Target(
        "memory: CPU-seconds per GiB",
        lambda standing: standing.cpu_per_gib("memory", OURS),
        most=0.4,
        needs="memory",
    ),
    Target("again: requests", _requests("again"), most=1, needs="again"),
    Target("remount: times 1 GB/s, or the disk's own speed", _disk, least=1, needs="remount"),
    Target("remount: GET requests", _requests("remount", "GET"), most=0, needs="remount"),
    Target("loop: delay at p99", _p99, most=5, unit="ms", needs="loop"),
    Target(
        "memory resident, most of all workloads",
        _peak,
        most=MEMORY_LIMIT_MIB + MEMORY_CONSTANT_MIB,
        unit="MiB",
    ),
    _times("sequential", (LIMIT,), 1.25, "eight boto3 threads", where="away"),
    _times("small", PEERS, 10, BETTER, where="away"),
)


def judged(results: Results, places: Sequence[tuple[Standing, int]]) -> list[tuple[Standing, Verdict]]:
    """The verdicts on all targets that speak of a place and a workload of this run; `places` with their distance."""
    found: list[tuple[Standing, Verdict]] = []
    for standing, milliseconds in places:
        where = {0: "here", AWAY_MILLISECONDS: "away"}.get(milliseconds)
        found += [
            (standing, Verdict(target, target.figure(standing)))
            for target in TARGETS
            if target.where == where and (not target.needs or target.needs in results.units)
        ]
    return found
