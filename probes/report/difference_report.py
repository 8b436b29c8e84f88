"""What a comparison found, as people see it: difference.csv, its picture, pairs.csv, and lines for the terminal."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from datamodules.card import Card
from probes.analysis.auc_map import AUCMap
from probes.analysis.differences import DifferenceMap, PairedParts
from probes.analysis.paired import Comparison
from probes.analysis.wording import digits
from probes.report.map_files import save_figure, shorten_model, write_table
from probes.report.marks import Marks
from probes.report.picture import FIELD, NO_BREAK, draw
from probes.report.run_folder import Record
from probes.report.style import DIVERGING, UNDATED

LEAST_RANGE = 0.05  # of the colours: small differences stay pale
MOST_NAME = 30  # characters of a name that sentences repeat


class Captions(NamedTuple):
    """How a comparison is captioned.

    Attributes:
        first: what tells the first side from the second, such as its site.
        second: likewise.
        dataset: of both; empty where they differ.
        common: what else both have in common.
        notes: what people should know beside, a sentence each.
    """

    first: str
    second: str
    dataset: str
    common: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The first side less the second."""
        return f"AUC of {self.first} less AUC of {self.second}" + (f": {self.dataset}" if self.dataset else "")


def name_sides(records: Sequence[Record], chosen: tuple[int, int]) -> Captions:
    """Find what tells two sides apart: their target, model, dataset, site, probe; else the names of their folders.

    Args:
        records: of two runs, or of one.
        chosen: number of the target of each side.
    """
    sides = [_describe(records[min(side, len(records) - 1)], k) for side, k in enumerate(chosen)]
    known = [name for name in sides[0] if name in sides[1]]
    other = [name for name in known if sides[0][name] != sides[1][name]]
    first, second = (", ".join(side[name] for name in other) for side in sides)
    if not other:
        folders = [record.folder.resolve() for record in (records[0], records[-1])]
        alike = folders[0].name == folders[1].name and folders[0] != folders[1]
        first, second = (str(one) if alike else one.name for one in folders)
    dataset = "" if "dataset" in other else sides[0]["dataset"]
    common = tuple(sides[0][name] for name in known if name not in (*other, "dataset", "target"))
    n_targets = max(len({target.label for target in record.scores.card.targets}) for record in records)
    n_splits = max(len(record.scores.card.targets) for record in records)
    notes = ()
    if len(records) == 2 and (n_targets > 1 or n_splits > 1):
        names = [record.scores.card.targets[k].name for record, k in zip(records, chosen, strict=True)]
        shown = " with ".join(dict.fromkeys(names))
        notes = (f"The runs have several targets; {shown} is compared.",)
    return Captions(first, second, dataset, common, notes)


def _describe(record: Record, k: int) -> dict[str, str]:
    card: Card = record.scores.card
    found = {
        "target": card.targets[k].label,
        "model": shorten_model(card.model),
        "dataset": card.dataset,
        "site": card.site,
    }
    described = record.summary.get("described")  # runs of earlier versions do not tell
    return found | ({"probe": str(described)} if described else {})


def write_difference(
    folder: Path, found: DifferenceMap, captions: Captions, best: PairedParts | None = None
) -> list[Path]:
    """Write difference.csv, difference.png and difference.pdf, and return the paths."""
    one = as_map(found)
    shown = one.auc[found.readable].abs()
    reach = max(LEAST_RANGE, math.ceil(float(shown.max()) * 20 - 1e-9) / 20)
    figure = draw(
        [one],
        captions.title,
        subtitle(found, captions),
        [Marks(different=found.above | found.below)],
        "\n".join([*describe(found, captions, best), *_describe_rates(found, captions)]),
        -reach,
        reach,
        DIVERGING,
        "AUC difference",
    )
    table = folder / "difference.csv"
    write_table(table, [tabulate(found)])
    pictures = [folder / f"difference.{kind}" for kind in UNDATED]
    for picture in pictures:
        save_figure(figure, picture)
    return [*pictures, table]


def as_map(found: DifferenceMap) -> AUCMap:
    """The differences as a map to draw."""
    auc, se = (values.where(found.readable, torch.nan) for values in (found.cells.difference, found.cells.error))
    layers, positions = found.matched.layers, found.matched.positions
    return AUCMap("difference", "test", layers, positions, auc, se, found.n, found.n_positive[0])


def tabulate(found: DifferenceMap) -> pd.DataFrame:
    """difference.csv: a row for each cell, layer by layer."""
    layers, positions = found.matched.layers, found.matched.positions
    table = pd.DataFrame(
        {
            "layer": [layer for layer in layers for _ in positions],
            "position": list(positions) * len(layers),
        }
    )
    return table.assign(**_columns(found.auc, found.cells, found.n))


def write_pairs(folder: Path, pairs: PairedParts) -> Path:
    """Write pairs.csv, a row for each pair of named cells or columns, and return the path."""
    names = pd.DataFrame(pairs.names, columns=["first", "second"])
    path = folder / "pairs.csv"
    write_table(path, [names.assign(**_columns(pairs.auc, pairs.found, pairs.n))])
    return path


def _columns(auc: Tensor, found: Comparison, n: Tensor) -> dict[str, object]:
    values = {
        "auc_a": auc[0], "auc_b": auc[1], "difference": found.difference, "error": found.error, "p": found.p,
        "p_holm": found.p_holm, "low": found.lower, "high": found.upper, "n": n,
    }  # fmt: skip
    return {name: value.flatten().numpy() for name, value in values.items()}


def subtitle(found: DifferenceMap, captions: Captions) -> str:
    """What both sides have in common; n, groups and base rate of the common questions."""
    matched = found.matched
    m, n_groups = len(matched.groups), len(matched.groups.unique())
    in_groups = f" in {n_groups:,} groups" if n_groups != m else ""
    rates = dict.fromkeys(f"{float(labels.double().mean()):.0%}" for labels in matched.labels)
    rate = f"base rate{'s' * (len(rates) > 1)} {' and '.join(rates)}"
    common = "common " if set(matched.n_tested) != {m} else ""
    fields = [*captions.common, f"n = {m:,} {common}test questions{in_groups}", rate]
    return FIELD.join(field.replace(" ", NO_BREAK) for field in fields)


def describe(found: DifferenceMap, captions: Captions, best: PairedParts | None = None) -> list[str]:
    """What the difference map shows, in sentences with their numbers."""
    cells, readable = found.cells, found.readable
    short = all(len(name) <= MOST_NAME and ", " not in name for name in (captions.first, captions.second))
    first, second = (captions.first, captions.second) if short else ("The first", "the second")
    n, above, below = (int(mask.sum()) for mask in (readable, found.above, found.below))
    if not found.cells.difference[readable].any():
        return [f"The AUC of both is the same in all {n} cells: every difference is 0."]
    lines = [
        f"{first} is higher in {above} of {n} cells and {second} in {below}; the other {n - above - below} can't be "
        "told from 0 (95% for all cells at once)."
    ]
    place = int(cells.difference.abs().where(readable, -1.0).argmax())
    row, column = divmod(place, len(found.matched.positions))
    lines.append(
        f"Largest difference: {_write(cells, (row, column))} in layer {found.matched.layers[row]}, "
        f"{found.matched.positions[column]} ({_write_two(found.auc[:, row, column])}), "
        f"{write_p(cells.p_holm[row, column])} by Holm over {n} cells."
    )
    lines.append(
        f"Mean over all {n} cells: {_write(found.mean, ())} ({_write_two(found.auc[:, readable].mean(1))}), "
        f"{write_p(found.mean.p)}."
    )
    if best is not None:
        where = dict.fromkeys(best.names[0])
        lines.append(
            f"Best cell{'s' * (len(where) > 1)}, chosen on validation rows: {' and '.join(where)}: "
            f"{_write(best.found, 0)} ({_write_two(best.auc[:, 0])}), {write_p(best.found.p[0])}."
        )
    return lines


def _describe_rates(found: DifferenceMap, captions: Captions) -> list[str]:
    """Whose base rates the picture shows above its columns, where they differ and the labels do too."""
    first, second = found.matched.labels
    rates = found.n_positive[0].amax(0) / found.n.amax(0)
    if torch.equal(first, second) or bool((rates == rates[0]).all()):
        return []
    return [f"Base rates above the columns are those of {captions.first}."]


def print_difference(
    console: Console, found: DifferenceMap, captions: Captions, best: PairedParts | None, same: bool
) -> None:
    """The comparison in the terminal: what was compared, a table of the columns, and sentences.

    Args:
        console: to print on.
        found: the differences.
        captions: of the two sides.
        best: the best cell of each side.
        same: whether both sides are one run.
    """
    console.print(captions.title, style="bold")
    console.print(" ".join(subtitle(found, captions).split()), style="dim")
    matched = found.matched
    tested = [f"{n:,}" for n in matched.n_tested]
    if set(matched.n_tested) != {len(matched.groups)}:
        console.print(
            f"{len(matched.groups):,} of {tested[0]} and {tested[1]} test questions are in both and compared.",
            style="dim",
        )
    for note in captions.notes:
        console.print(note, style="dim")
    table = _start_table("Mean AUC over the layers of each position", "position")
    for column, position in enumerate(matched.positions):
        here = found.auc[:, found.readable[:, column], column].mean(1)
        auc = [digits(float(value)) for value in here]
        table.add_row(position, *auc, *_row(found.columns, column), str(int(found.n[:, column].max())))
    console.print("", table, "")
    if same:
        console.print("- Both folders are the same run.")
    for line in describe(found, captions, best):
        console.print(f"- {line}")


def print_pairs(console: Console, pairs: PairedParts, captions: Captions, across: bool) -> None:
    """A table of the named pairs: between the two runs, or within one."""
    title = "Named cells and columns" + (f", {captions.first} less {captions.second}" if across else "")
    table = _start_table(title, "cell or column" if across else "first less second")
    for number, names in enumerate(pairs.names):
        auc = [digits(float(value)) for value in pairs.auc[:, number]]
        name = " less ".join(dict.fromkeys(names))
        table.add_row(name, *auc, *_row(pairs.found, number), str(int(pairs.n[number])))
    console.print("", table)
    n = len(pairs.names)
    console.print(f"p by Holm over {n} comparison{'s' * (n > 1)}, each on the questions that both have.", style="dim")


def _start_table(title: str, name: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    table.add_column(name, overflow="fold")
    for column in ("first", "second", "difference ± SE", "p by Holm", "n"):
        table.add_column(column, justify="right")
    return table


def _row(found: Comparison, place: int) -> list[str]:
    return [_write(found, place), write_p(found.p_holm[place]).removeprefix("p = ").removeprefix("p ")]


def _write(found: Comparison, place: int | tuple[int, ...]) -> str:
    difference, error = (float(values[place]) for values in (found.difference, found.error))
    return f"{'+' if round(difference, 3) > 0 else ''}{digits(difference)} ± {digits(error)}"


def _write_two(auc: Tensor) -> str:
    return " less ".join(digits(float(value)) for value in auc)


def write_p(p: Tensor) -> str:
    """A p-value in three digits.

    >>> write_p(torch.tensor(0.0123)), write_p(torch.tensor(1e-9))
    ('p = .012', 'p < .001')
    """
    return "p < .001" if float(p) < 0.001 else f"p = {digits(float(p))}"
