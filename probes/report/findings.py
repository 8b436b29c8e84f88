"""The analysis of a run as people see it: marks and a foot for the picture, lines and a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from datamodules.card import Card, is_control
from probes.analysis.analysis import Analysis
from probes.analysis.auc_map import AUCMap, headline
from probes.analysis.baseline_table import BaselineTable
from probes.analysis.block import find_block
from probes.analysis.wording import digits
from probes.report.marks import Marks


def decorate(
    maps: Sequence[AUCMap], card: Card, analyses: Sequence[Analysis], short: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What `write_heatmap` adds to the test maps: marks, foot and columns.

    Args:
        maps: the K test maps.
        card: of the data.
        analyses: of some or all targets.
        short: cells whose probe is short of its optimum; see `mark`.
    """
    of_target = {analysis.test.target: analysis for analysis in analyses}
    shown = headline(maps, card)
    own = [one for one in shown if not is_control(one.target)]
    return {
        "marks": [mark(one, of_target.get(one.target), short) for one in shown],
        "foot": write_foot(of_target[own[0].target]) if len(own) == 1 and own[0].target in of_target else "",
        "columns": [of_target[one.target].columns() if one.target in of_target else {} for one in maps],
    }


def mark(auc_map: AUCMap, analysis: Analysis | None, short: Sequence[Mapping[str, Any]] = ()) -> Marks:
    """What to mark on a map.

    Args:
        auc_map: that is drawn.
        analysis: of its target; None for the mean of several splits, which has none.
        short: cells whose probe is short of its optimum, each layer, position and perhaps target.
    """
    crossed = torch.zeros(auc_map.auc.shape, dtype=torch.bool)
    for place in short:
        if place.get("target", auc_map.target) == auc_map.target:
            crossed[auc_map.layers.index(place["layer"]), auc_map.positions.index(place["position"])] = True
    chance, limits = (None, None) if analysis is None else (analysis.chance, analysis.limits)
    return Marks(
        block=find_block(auc_map, **({} if analysis is None else analysis.reading)),
        above_chance=chance and chance.above(),
        near_best=limits and limits.near_best,
        short=crossed,
    )


def write_foot(one: Analysis) -> str:
    """Lines below the picture of one map: the best cell, chance, and the baselines."""
    lines = [describe_best(one), describe_chance(one)]
    if one.baselines is not None and one.baselines.rows:
        rows = sorted((row for row in one.baselines.rows if row.auc == row.auc), key=lambda row: -row.auc)
        shown = "; ".join(f"{row.name} {digits(row.auc, 2)} ± {digits(row.error, 2)}" for row in rows)
        lines.append(f"Without a probe (test AUC, the highest first): {shown}.")
        if one.baselines.gain is not None:
            lines.append(one.baselines.describe())
    return "\n".join(line for line in lines if line)


def describe_best(analysis: Analysis) -> str:
    """The best cell, how it was chosen, and how sure it is, in a sentence."""
    if analysis.choice is None:
        return ""
    cell, test = analysis.choice.cell, analysis.test
    place = f"layer {test.layers[cell[0]]}, {test.positions[cell[1]]}"
    how = "chosen on validation rows" if analysis.choice.on == "val" else "chosen on these rows, so too high"
    text = f"Best cell ({how}): {place}, test AUC {digits(float(test.auc[cell]))}"
    if not bool(test.auc_se[cell].isfinite()):
        return f"{text}, without an error: a class is in fewer than two groups."
    text += f" ± {digits(float(test.auc_se[cell]))}"
    if analysis.limits is not None:
        low, high = float(analysis.limits.lower[cell]), float(analysis.limits.upper[cell])
        text += f", {digits(low, 2)} to {digits(high, 2)} with 95% for all cells at once"
        if analysis.limits.near_best is not None:
            near, n = int(analysis.limits.near_best.sum()), int(test.readable().sum())
            text += f"; {near} of {n} cells can't be told from it"
    return text + "."


def describe_chance(analysis: Analysis) -> str:
    """What noise alone reaches, in a sentence."""
    chance = analysis.chance
    if chance is None:
        return ""
    n = int(analysis.test.readable().sum())
    return (
        f"Chance: without any signal the best of {n} cells reaches {digits(chance.mean)} on average, "
        f"{digits(chance.q95)} in 5% of maps and {digits(chance.q99)} in 1%; "
        f"cells above the 5%: {int(chance.above().sum())}."
    )


def print_findings(console: Console, analysis: Analysis) -> None:
    """The analysis of one target: best cell, chance, baselines, and what was left out."""
    for line in (describe_best(analysis), describe_chance(analysis)):
        if line:
            console.print(f"- {line}")
    if (found := analysis.selectivity) is not None and analysis.choice is not None and analysis.choice.on == "val":
        difference, error = (float(part[analysis.choice.cell]) for part in (found.difference, found.error))
        console.print(
            f"- Selectivity of the best cell, its AUC less that for random labels on the same split: "
            f"{digits(difference)} ± {digits(error)}."
        )
    if analysis.baselines is not None and analysis.baselines.rows:
        console.print("", _tabulate(analysis.baselines))
        if analysis.baselines.gain is not None:
            console.print(analysis.baselines.describe())
    if (beyond := analysis.beyond) is not None and analysis.choice is not None:
        difference, error = (float(part[analysis.choice.cell]) for part in (beyond.gain.difference, beyond.gain.error))
        console.print(
            f"The best cell together with {beyond.name}: AUC {digits(difference)} ± {digits(error)} above that alone. "
            f"Cells whose gain is above 0, with 95% for all cells at once: {int((beyond.gain.lower > 0).sum())} of "
            f"{int(beyond.gain.difference.isfinite().sum())}."
        )
    for line in analysis.left_out:
        console.print(line[:1].upper() + line[1:] + ("" if line.endswith(".") else "."), style="dim")


def _tabulate(baselines: BaselineTable) -> Table:
    table = Table(title="Without a probe", title_justify="left", title_style="bold", box=None, header_style="dim")
    table.pad_edge = False
    for column in ("baseline", "test AUC ± SE", "test n", f"{baselines.chosen_on} AUC"):
        table.add_column(column, justify="left" if column == "baseline" else "right", overflow="fold")
    for row in (*baselines.rows, baselines.probe):
        name = f"probe: {row.name}" if row is baselines.probe else row.name
        table.add_row(name, f"{digits(row.auc)} ± {digits(row.error)}", str(row.n), digits(row.auc_chosen))
    return table
