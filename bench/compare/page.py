"""The page of results: what was measured, on what machine, by which command, with the pictures beside it.

It names no host, no user and no directory.
"""

import datetime as dt
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare import report
from bench.compare.chart import draw
from bench.compare.load import GIB, Load
from bench.compare.ours import Own
from bench.compare.results import LIMIT, Standing
from bench.compare.systems import OURS, System
from bench.compare.targets import Verdict
from bench.compare.workloads import Workload
from bench.mounts import ROOT

ABOUT = """\
Written by the command below; nothing here is typed by hand. Each system took {turns} of each workload, one system after
another within one run, and figures are medians. Each turn has a mount that was made for it: nothing is listed, nothing
is cached. Server, daemon and the program that reads or writes share the machine. A turn that changes the bucket ends
when the bucket shows it. Every system has the options listed here, those that its documentation recommends. `{limit}`
is what threads of boto3 reach for the same transfer without a file system: eight for large files, and as many as the
readers or writers otherwise.
"""

SMALLER = "The sizes of this run are `{size}`: the targets speak of a full one."


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, as the report sees it."""

    load: Load
    turns: int
    arguments: Sequence[str]
    workloads: Sequence[Workload]
    own: Sequence[Own]
    systems: Sequence[System]
    versions: dict[str, str]
    standings: Sequence[Standing]
    verdicts: Sequence[tuple[Standing, Verdict]]

    @property
    def names(self) -> list[str]:
        return [system.name for system in self.systems]


def machine() -> str:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024 / GIB
    model = f" ({models[0]})" if models else ""
    return f"{len(models)} cores{model}, {memory:.0f} GiB of memory, Linux {platform.release()}"


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _shown(arguments: Sequence[str]) -> list[str]:
    """The words of the command, but for where its files were put."""
    words = list(arguments)
    while "--work" in words:
        place = words.index("--work")
        del words[place : place + 2]
    return [_bare(word) for word in words]


def _bare(word: str) -> str:
    return Path(word).name if word.startswith(("/", "~")) else word


def tables(run: Run, standing: Standing) -> list[report.Table]:
    """All tables of one place, the speeds first."""
    found = []
    if run.workloads:
        found = [report.speeds(standing, run.workloads, run.names), *report.costs(standing, run.workloads, run.names)]
        found.append(report.kinds(standing, run.workloads))
    if OURS in run.names:
        found.append(report.own(standing, run.own))
    return [table for table in found if table.rows]


def as_text(run: Run) -> str:
    """What the command prints."""
    parts = [f"{system.name}: {run.versions[system.name]}\n  {system.options}" for system in run.systems] + [""]
    for standing in run.standings:
        parts += [table.as_text() for table in tables(run, standing)]
        if delays := standing.delays("loop", OURS):
            parts += [f"Delays of the event loop, the store {standing.place}", report.histogram(delays), ""]
        parts += report.failures(standing)
    if run.verdicts:
        parts.append(report.verdicts(run.verdicts).as_text())
    if run.load.name != "full":
        parts.append(SMALLER.format(size=run.load.name))
    return "\n".join(parts)


def write(run: Run, stem: Path) -> None:
    """Write STEM.md, and a picture for each place beside it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["bench/run", *_shown(run.arguments)])
    parts = ["# Results", "", ABOUT.format(turns="one turn" if run.turns == 1 else f"{run.turns} turns", limit=LIMIT)]
    parts += [
        f"- date: {dt.datetime.now(dt.timezone.utc):%Y-%m-%d}, revision {_revision()}",
        f"- machine: {machine()}, Python {platform.python_version()}",
        f"- server: SeaweedFS, {run.versions['server']}",
        f"- command: `{command}`",
        "",
    ]
    if run.load.name != "full":
        parts += [f"**{SMALLER.format(size=run.load.name)}**", ""]
    if run.verdicts:
        parts += ["## Targets", "", _untitled(report.verdicts(run.verdicts))]
    for standing in run.standings:
        parts += [f"## The store {standing.place}", ""]
        if run.workloads:
            place = standing.place
            suffix = f"-{place.milliseconds}ms" if place.milliseconds else ""
            picture = stem.with_name(f"{stem.name}{suffix}{'-rate' if place.rate else ''}.png")
            draw(standing, run.workloads, run.names, picture)
            parts += [f"![speeds, the store {standing.place}]({picture.name})", ""]
        parts += [table.as_markdown() for table in tables(run, standing)]
        if delays := standing.delays("loop", OURS):
            about = "How late a task of s3mount's event loop was that wanted to run every 2 ms, during a bulk transfer:"
            parts += ["### Delays of the event loop", "", about, "", "```", report.histogram(delays), "```", ""]
        if found := report.failures(standing):
            parts += ["### What failed", "", *(f"- {line}" for line in found), ""]
    parts += ["## The systems and their options", ""]
    for system in run.systems:
        parts += [f"**{system.name}**: {run.versions[system.name]}; {system.about}", ""]
        parts += ["```", system.options, "```", ""]
    stem.with_suffix(".md").write_text("\n".join(parts))


def _untitled(table: report.Table) -> str:
    return table.as_markdown().partition("\n\n")[2]
