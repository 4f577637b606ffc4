"""The figures of a run and what follows from them: medians, rates, costs. Pure.

The mutable state of a run is here: figures by place, workload and system, one a turn, and who failed at what.
"""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bench.compare.distance import Place
from bench.compare.load import GIB, MIB
from bench.compare.stage import Figures
from bench.compare.workloads import Unit

LIMIT = "boto3"
Cell = tuple[Place, str, str]


def amount_in(unit: Unit, figures: Figures) -> float:
    """What one turn reached, in the workload's unit."""
    span = figures.span
    if unit == "MB/s":
        return span.amount / span.seconds / 1e6
    if unit == "/s":
        return span.amount / span.seconds
    return span.seconds * 1e3 if unit == "ms" else span.seconds


def median(figures: Iterable[float | None]) -> float | None:
    """Of those that are known; None without any."""
    known = [figure for figure in figures if figure is not None]
    return statistics.median(known) if known else None


def quantile(figures: Iterable[float], share: float) -> float:
    """The smallest figure that this share of all do not pass; 0 without any."""
    ordered = sorted(figures)
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Results:
    """All of a run. `units` are those of the workloads, in their order."""

    units: dict[str, Unit]
    figures: dict[Cell, list[Figures]] = field(default_factory=dict)
    failures: dict[Cell, str] = field(default_factory=dict)

    def note(self, cell: Cell, figures: Figures) -> None:
        self.figures.setdefault(cell, []).append(figures)

    def at(self, place: Place) -> "Standing":
        return Standing(self, place)


@dataclass(frozen=True, slots=True)
class Standing:
    """The medians at one place."""

    results: Results
    place: Place

    def turns(self, workload: str, system: str) -> list[Figures]:
        return self.results.figures.get((self.place, workload, system), [])

    def failure(self, workload: str, system: str) -> str:
        return self.results.failures.get((self.place, workload, system), "")

    def value(self, workload: str, system: str) -> float | None:
        unit = self.results.units[workload]
        return median(amount_in(unit, figures) for figures in self.turns(workload, system))

    def of(self, workload: str, system: str, look: Callable[[Figures], float | None]) -> float | None:
        return median(look(figures) for figures in self.turns(workload, system))

    def requests(self, workload: str, system: str, *kinds: str) -> float | None:
        """Of these kinds, or of all."""
        return self.of(
            workload, system, lambda figures: sum(figures.requests[kind] for kind in kinds or figures.requests)
        )

    def cpu(self, workload: str, system: str) -> float | None:
        return self.of(workload, system, lambda figures: figures.cpu_seconds)

    def cpu_per(self, workload: str, system: str, unit: float) -> float | None:
        """CPU-seconds per so many bytes or things."""
        return self.of(
            workload,
            system,
            lambda figures: None if figures.cpu_seconds is None else figures.cpu_seconds * unit / figures.span.amount,
        )

    def cpu_per_gib(self, workload: str, system: str) -> float | None:
        return self.cpu_per(workload, system, GIB)

    def peak_mib(self, workload: str, system: str) -> float | None:
        return self.of(
            workload, system, lambda figures: None if figures.peak_bytes is None else figures.peak_bytes / MIB
        )

    def best(self, workload: str, systems: Iterable[str]) -> float | None:
        """The best median of these systems."""
        known = [value for system in systems if (value := self.value(workload, system)) is not None]
        if not known:
            return None
        return max(known) if self.results.units[workload] in ("MB/s", "/s") else min(known)

    def ratio(self, workload: str, system: str, others: Iterable[str]) -> float | None:
        """How many times better than the best of the others, whether the unit counts up or down."""
        value, best = self.value(workload, system), self.best(workload, others)
        if not value or not best:
            return None
        return value / best if self.results.units[workload] in ("MB/s", "/s") else best / value

    def delays(self, workload: str, system: str) -> list[float]:
        return [delay for figures in self.turns(workload, system) for delay in figures.delays]
