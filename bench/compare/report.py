"""The figures of a run as tables, as text and as Markdown. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.compare.load import GIB, MIB
from bench.compare.ours import DISK_SPEED, Own
from bench.compare.results import LIMIT, Standing, quantile
from bench.compare.stage import Figures
from bench.compare.systems import OURS
from bench.compare.targets import Verdict
from bench.compare.workloads import Workload

NONE = "-"
BARS = 40
EDGES_MS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, float("inf"))


@dataclass(frozen=True, slots=True)
class Table:
    """A head and rows of cells; the first column is words, the others are figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def as_text(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        text = [
            "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(each))
            for each in (list(zip(line, widths, strict=True)) for line in lines)
        ]
        return "\n".join([self.title, *(line.rstrip() for line in text), *([self.note] if self.note else [])]) + "\n"

    def as_markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|---" + "|---:" * (len(self.head) - 1) + "|"
        parts = [f"### {self.title}", "", line(self.head), rule, *map(line, self.rows), ""]
        return "\n".join([*parts, *([self.note, ""] if self.note else [])])


def shown(figure: float | None) -> str:
    """Three digits that count."""
    if figure is None:
        return NONE
    if figure >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.3g}" if figure >= 0.001 or figure == 0 else f"{figure:.1g}"


def cell(standing: Standing, workload: str, system: str) -> str:
    """A median, or in one word why there is none; the words are below the table."""
    if standing.failure(workload, system):
        return "hung" if "hung" in standing.failure(workload, system) else "failed"
    return shown(standing.value(workload, system))


def speeds(standing: Standing, workloads: Sequence[Workload], systems: Sequence[str]) -> Table:
    """What was reached, and what s3mount is beside the best of the others and beside boto3."""
    others = [system for system in systems if system != OURS]
    rows = [
        [
            workload.title,
            workload.unit,
            *(cell(standing, workload.name, system) for system in systems),
            cell(standing, workload.name, LIMIT) if workload.limit else NONE,
            _times(standing.ratio(workload.name, OURS, others)),
            _times(standing.ratio(workload.name, OURS, [LIMIT])),
        ]
        for workload in workloads
    ]
    head = ["workload", "unit", *systems, LIMIT, "beside the best", f"beside {LIMIT}"]
    note = "`s` and `ms`: less is better. Beside: how many times better s3mount is; under 1 it is worse."
    return Table(f"Speed, the store {standing.place}", head, rows, note)


def _times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}"


def costs(standing: Standing, workloads: Sequence[Workload], systems: Sequence[str]) -> list[Table]:
    """Requests, CPU and memory of each daemon."""
    looks: list[tuple[str, str, Callable[[str, str], float | None]]] = [
        ("Requests", "Answered by the server during the work; mounting is left out.", standing.requests),
        ("CPU of the daemon, seconds", "User and system time of all its threads during the work.", standing.cpu),
        ("Memory of the daemon, MiB", "The most it had resident during the work.", standing.peak_mib),
    ]
    return [
        Table(
            f"{title}, the store {standing.place}",
            ["workload", *systems],
            [[each.title, *(shown(look(each.name, system)) for system in systems)] for each in workloads],
            note,
        )
        for title, note, look in looks
    ]


def kinds(standing: Standing, workloads: Sequence[Workload]) -> Table:
    """What s3mount asked, by kind."""
    rows = []
    for workload in workloads:
        turns = standing.turns(workload.name, OURS)
        if turns:
            names = sorted({kind for figures in turns for kind in figures.requests})
            counts = {kind: standing.requests(workload.name, OURS, kind) for kind in names}
            said = [f"{kind} {shown(count)}" for kind, count in counts.items() if count]
            rows.append([workload.title, ", ".join(said) or "none"])
    return Table(f"Requests of s3mount by kind, the store {standing.place}", ["workload", "requests"], rows)


def own(standing: Standing, tasks: Sequence[Own]) -> Table:
    """What only s3mount was asked, and what its work costs it by the piece."""
    rows: list[list[str]] = []
    for task in tasks:
        if not standing.turns(task.name, OURS) and not standing.failure(task.name, OURS):
            continue
        value, cpu = standing.value(task.name, OURS), standing.cpu_per_gib(task.name, OURS)
        said = standing.failure(task.name, OURS) or f"{shown(value)} MB/s, {shown(cpu)} CPU-s/GiB"
        requests = standing.requests(task.name, OURS)
        if requests is not None:
            said += f", requests {shown(requests)}"
        disk = standing.of(task.name, OURS, lambda figures: figures.extra.get(DISK_SPEED))
        if disk is not None:
            said += f"; the disk itself {shown(disk)} MB/s" if disk else "; nothing was found in the cache directory"
        rows.append([task.title, said])
    units = standing.results.units
    each: list[tuple[str, str, float, str]] = [
        ("sequential", "CPU per GiB read", GIB, "s"),
        ("write", "CPU per GiB written", GIB, "s"),
        ("small", "CPU per file of 16 KiB read", 1e3, "ms"),
        ("create", "CPU per file of 16 KiB created", 1e3, "ms"),
        ("memory", "CPU per MiB from the daemon's memory", MIB * 1e3, "ms"),
    ]
    for workload, title, scale, unit in each:
        if workload in units:
            rows.append([title, f"{shown(standing.cpu_per(workload, OURS, scale))} {unit}"])
    if "ls" in units:
        rows.append(["CPU per page of ls -l", f"{shown(cpu_per_page_ms(standing))} ms"])
    return Table(f"s3mount alone, the store {standing.place}", ["", "figures"], rows)


def cpu_per_page_ms(standing: Standing) -> float | None:
    """Milliseconds of CPU for each LIST of `ls -l`, names given to the kernel included."""

    def look(figures: Figures) -> float | None:
        pages = figures.requests["LIST"]
        return figures.cpu_seconds * 1e3 / pages if figures.cpu_seconds is not None and pages else None

    return standing.of("ls", OURS, look)


def histogram(delays: Sequence[float]) -> str:
    """How late the loop's tasks were, as bars."""
    lines, below = [], 0.0
    for edge in EDGES_MS:
        share = sum(below <= delay * 1e3 < edge for delay in delays) / len(delays)
        label = f"under {edge:4g} ms" if edge != float("inf") else f"from {below:5g} ms"
        lines.append(f"{label:14} {share:7.2%} {'#' * round(share * BARS)}".rstrip())
        below = edge
    p50, p99 = (quantile(delays, share) * 1e3 for share in (0.5, 0.99))
    lines.append(f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, most {max(delays) * 1e3:.2f} ms, of {len(delays):,} moments")
    return "\n".join(lines)


def verdicts(judged: Sequence[tuple[Standing, Verdict]]) -> Table:
    """The targets, met or not."""
    rows = [
        [
            verdict.target.title,
            str(standing.place),
            f"{verdict.target.demand} {verdict.target.unit}".strip(),
            shown(verdict.figure),
            verdict.word,
        ]
        for standing, verdict in judged
    ]
    return Table("Targets", ["target", "the store", "asked", "reached", ""], rows)


def failures(standing: Standing) -> list[str]:
    """Who could not do what, in words."""
    results = standing.results
    lines = [
        f"{system}, {workload}: {words}"
        for (place, workload, system), words in results.failures.items()
        if place == standing.place
    ]
    lines += [
        f"{system}, {workload}, when it was stopped after its turn: {figures.afterwards}"
        for (place, workload, system), turns in results.figures.items()
        for figures in turns
        if place == standing.place and figures.afterwards
    ]
    return lines
