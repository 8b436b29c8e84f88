"""Shows the results of many runs: the table in the terminal, results.csv and results.png. `experiment=collect`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.jobs.messages import say
from probes.jobs.sweep.results import RESULTS, find_runs, print_results, tabulate_runs, write_results
from probes.jobs.sweep.results_picture import PICTURE, draw_results
from probes.settings import Area, FinishedRuns, Folder


def collect_runs(runs: Folder | FinishedRuns, folder: Folder, vmin: Area, vmax: Area) -> None:
    """Carry out `experiment=collect`: the table of any runs, in the terminal and in results.csv, and results.png.

    Args:
        runs: folders of runs, or folders that hold some; patterns are expanded.
        folder: where the files go; made if missing.
        vmin, vmax: AUC of the lightest and of the darkest colour.
    """
    rows = tabulate_runs(find_runs([runs] if isinstance(runs, str | Path) else runs))
    Path(folder).mkdir(parents=True, exist_ok=True)
    publish(Path(folder), rows, vmin, vmax)


def publish(folder: Path, rows: Sequence[Mapping[str, Any]], vmin: float, vmax: float) -> None:
    """Write results.csv and results.png into a folder, then print the table, and name them."""
    write_results(folder / RESULTS, rows)
    drawn = draw_results(folder / PICTURE, rows, vmin, vmax)
    print_results(rows)
    say("", folder / RESULTS, *([folder / PICTURE] if drawn else []))
