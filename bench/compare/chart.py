"""The speeds of one place as a picture: a small chart for each workload, a bar for each system, a line for boto3."""

from collections.abc import Sequence
from pathlib import Path

from bench.compare.report import cell
from bench.compare.results import LIMIT, Standing
from bench.compare.systems import OURS
from bench.compare.workloads import Workload

COLUMNS = 4
OUR_COLOUR, OTHER_COLOURS = "#d9480f", ("#5c7cfa", "#74b816", "#9c36b5", "#1098ad", "#868e96")
LIMIT_COLOUR = "#212529"


def draw(standing: Standing, workloads: Sequence[Workload], systems: Sequence[str], file: Path) -> None:
    """Write the PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = -(-len(workloads) // COLUMNS)
    height = 0.9 + rows * (0.8 + 0.24 * len(systems))
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(4 * COLUMNS, height), squeeze=False)
    others = [system for system in systems if system != OURS]
    colours = {OURS: OUR_COLOUR, **dict(zip(others, OTHER_COLOURS * len(others), strict=False))}
    for number, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if number >= len(workloads):
            continue
        workload = workloads[number]
        here = [
            system
            for system in systems
            if standing.turns(workload.name, system) or standing.failure(workload.name, system)
        ]
        values = [standing.value(workload.name, system) or 0.0 for system in here]
        limit = standing.value(workload.name, LIMIT) if workload.limit else None
        reach = max([*values, limit or 0.0]) or 1.0
        axes.barh(range(len(here)), values, color=[colours[system] for system in here])
        for place, (system, value) in enumerate(zip(here, values, strict=True)):
            label = f"{system} {cell(standing, workload.name, system)}"
            axes.text(value + reach * 0.02, place, label, va="center", fontsize=9)
        if limit is not None:
            axes.axvline(limit, color=LIMIT_COLOUR, linestyle=":", linewidth=1.5)
            axes.text(limit, -0.75, f"{LIMIT} {cell(standing, workload.name, LIMIT)}", ha="center", fontsize=8)
        axes.set_xlim(0, reach * 1.45)
        axes.set_ylim(len(systems) - 0.4, -1.0)
        better = "more is better" if workload.more_is_better else "less is better"
        axes.set_title(f"{workload.title}\n{workload.unit}, {better}", fontsize=10, loc="left")
    figure.suptitle(f"Cold, medians of turns, the store {standing.place}", fontsize=12)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(file, dpi=80)
    plt.close(figure)
