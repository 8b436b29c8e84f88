"""The map and its reading in the terminal."""

import textwrap
from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

import matplotlib
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from datamodules.card import show_text
from probes.analysis.auc_map import AUCMap
from probes.report.style import CMAP, NO_AUC, VMAX, VMIN

CELL = 5  # characters a cell takes in the terminal
MARGIN = 5  # and the layer number before them: 15 positions make 80 characters, a terminal's usual width
N_PAIRS = 8


def print_map(console: Console, auc_map: AUCMap) -> None:
    """The map as tiles, two digits of AUC each, in as many bands of columns as the width asks for.

    Without colour the digits alone can be read. Long position names are letters here, explained below.
    """
    palette = matplotlib.colormaps[CMAP]
    readable = auc_map.readable()
    names = [show_text(name) for name in auc_map.positions]
    labels = short_labels(names)
    per_band = max(1, (console.width - MARGIN) // CELL)
    for start in range(0, len(labels), per_band):
        band = range(start, min(start + per_band, len(labels)))
        console.print()
        console.print(Text("layer" + "".join(labels[column].center(CELL) for column in band), "bold"))
        for row, layer in enumerate(auc_map.layers):
            line = Text(f"{layer:>{MARGIN - 1}} ")
            for column in band:
                if not readable[row, column]:
                    line.append("··".center(CELL), "dim")
                    continue
                auc = float(auc_map.auc[row, column])
                shade = min(max((auc - VMIN) / (VMAX - VMIN), 0.0), 1.0)
                red, green, blue = (round(255 * part) for part in palette(shade)[:3])
                ink = "#ffffff" if shade > 0.62 else "#1f2933"
                line.append(_digits(auc).center(CELL), Style.parse(f"{ink} on rgb({red},{green},{blue})"))
            console.print(line, soft_wrap=True)
    console.print()
    long = [f"{label} {name}" for label, name in zip(labels, names, strict=True) if label != name]
    legend = " · ".join(entry.replace(" ", "\N{NO-BREAK SPACE}") for entry in long)
    for line in textwrap.wrap(legend, console.width, break_on_hyphens=False):
        console.print(line.replace("\N{NO-BREAK SPACE}", " "), style="dim")
    if not readable.all():
        console.print(f"·· {NO_AUC}", style="dim")


def print_reading(console: Console, reading: dict[str, Any]) -> None:
    """The dict of ``read_map`` as tables and sentences."""
    if not reading["n_readable"]:
        console.print(f"None of the {reading['n_cells']} cells can be read.")
        return
    by_val = reading["chosen_on"] == "val" != reading["split"]
    columns = [f"{reading['split']} AUC ± {reading['spread']}", f"{reading['split']} n"] + ["val AUC"] * by_val
    best = _table("Best cells", "layer", "position", *columns)
    for cell in reading["best_cells"]:
        best.add_row(str(cell["layer"]), cell["position"], *_measured(cell, by_val))
    console.print("", best)
    chosen = "on validation rows" if by_val else f"out of {reading['n_readable']} cells: part of their lead is luck"
    console.print(f"Picked {chosen}.", style="dim")

    rates = [f"{cell['n_positive'] / cell['n']:.0%}" if cell["n"] else "-" for cell in reading["best_layers"]]
    differ = len({rate for rate in rates if rate != "-"}) > 1
    columns += ["base rate"] * differ
    layers = _table("Best layer of each position", "position", "examples", "layer", *columns)
    for cell, rate in zip(reading["best_layers"], rates, strict=True):
        measured = _measured(cell, by_val) + [rate] * differ
        layers.add_row(cell["position"], *map(_dash, (cell["n_valid"], cell["layer"])), *measured)
    console.print("", layers)

    pairs = reading["coincidences"]
    if pairs is None:
        return
    if not pairs:
        console.print("", "No two positions ever fall on one token.", style="dim", sep="\n")
    else:
        coincidences = _table("Positions on one token", "position", "position", "share of examples")
        for pair in pairs[:N_PAIRS]:
            coincidences.add_row(*pair["positions"], f"{pair['share']:.1%}")
        console.print("", coincidences)
        if len(pairs) > N_PAIRS:
            console.print(f"and {len(pairs) - N_PAIRS} more pairs in summary.json", style="dim")


def short_labels(names: Sequence[str]) -> list[str]:
    """A label of at most four characters for every name: the name where that is short enough, else an unused letter."""
    most = CELL - 1
    taken = {name for name in names if len(name) <= most}
    letters = (first + second for first in ("", *ascii_lowercase) for second in ascii_lowercase)
    unused = (letter for letter in letters if letter not in taken)
    return [name if len(name) <= most else next(unused) for name in names]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == "position" else "right", overflow="fold")
    return table


def _auc(cell: dict[str, Any]) -> str:
    if cell["auc"] is None:
        return "-"
    return _digits(cell["auc"], 3) + ("" if cell["auc_se"] is None else f" ± {_digits(cell['auc_se'], 3)}")


def _measured(cell: dict[str, Any], by_val: bool) -> list[str]:
    val = [] if not by_val else ["-" if cell["val_auc"] is None else _digits(cell["val_auc"], 3)]
    return [_auc(cell), _dash(cell["n"]), *val]


def _digits(auc: float, places: int = 2) -> str:
    """So many digits in one character more: .83, and 1.0 for what rounds to one."""
    text = f"{auc:.{places}f}"
    return text[1:] if text.startswith("0") else text[:-1]


def _dash(value: int | None) -> str:
    return "-" if value is None else str(value)
