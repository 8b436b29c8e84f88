"""results.png: the maps of many runs as small multiples, on one scale."""

import csv
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.card import show_text
from probes.analysis.wording import digits
from probes.jobs.sweep.damage import tell_damage

PICTURE = "results.png"
MOST = 60  # maps in one picture
ACROSS, BETWEEN = 12.0, 0.5  # inches: of all maps in a line, and between two
TITLE, TICK = 7.5, 6.5  # sizes in points


class Map(NamedTuple):
    """A test map as heatmap.csv holds it: AUC by row and column, NaN where there is none."""

    title: str
    layers: list[str]
    positions: list[str]
    auc: list[list[float]]


def read_map(folder: Path, target: str, title: str) -> Map | None:
    """The test map of a label set, the mean where it was split several times; None where the run has none."""
    for name in ("heatmap_mean.csv", "heatmap.csv"):
        with tell_damage(folder / name):
            if found := _read_map(folder / name, target, title):
                return found
    return None


def _read_map(path: Path, target: str, title: str) -> Map | None:
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if missing := {"target", "split", "layer", "position", "auc"} - {*(table.fieldnames or ())}:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        every = [row for row in table if row["split"] == "test"]
    names = [row["target"] for row in every]
    means = [name for name in names if name.startswith(f"{target}, mean of")]
    named = target if target in names else next(iter(means), None)
    rows = [row for row in every if row["target"] == named]
    if not rows:
        return None
    layers, positions = (list(dict.fromkeys(row[key] for row in rows)) for key in ("layer", "position"))
    values = {(row["layer"], row["position"]): float(row["auc"] or "nan") for row in rows}
    if len(rows) != len(values) or len(rows) != len(layers) * len(positions):
        raise ValueError(f"{len(rows)} rows for {len(layers)} layers and {len(positions)} positions")
    if any(not (0 <= value <= 1 or math.isnan(value)) for value in values.values()):
        raise ValueError("an AUC that is not from 0 to 1")
    return Map(title, layers, positions, [[values[layer, at] for at in positions] for layer in layers])


def draw_results(path: Path, rows: Sequence[Mapping[str, Any]], vmin: float, vmax: float) -> bool:
    """Draw the map of every row that has one, each named by what differs; of very many, the first.

    Args:
        path: of the picture.
        rows: of `tabulate_runs`.
        vmin, vmax: AUC of the lightest and of the darkest colour of all maps.

    Returns:
        Whether there was a map.
    """
    several = len({row.get("target") for row in rows if row.get("target")}) > 1
    maps = []
    for row in rows:
        if row.get("target") is not None:
            name = f"{row['job']}, {row['target']}" if several else str(row["job"])
            best = f"best {digits(row['test_auc'])} ± {digits(row['test_auc_error'])}, mean {digits(row['mean_auc'])}"
            maps.append(read_map(Path(row["folder"]), row["target"], f"{show_text(name)}\n{best}"))
    maps = [one for one in maps if one is not None]
    if maps:
        from probes.report.map_files import save_figure

        save_figure(draw(maps, vmin, vmax), path)
    return bool(maps)


def draw(every_map: Sequence[Map], vmin: float, vmax: float) -> Any:
    """Maps in lines, a cell as wide in each of them; names of columns stand where the map below has others.

    Returns:
        The matplotlib figure; its last axes are the colour bar.
    """
    import matplotlib
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from probes.report.style import CMAP, GREY, INK, STYLE, fit_to_labels

    maps = every_map[:MOST]
    most_positions, most_layers = max(len(one.positions) for one in maps), max(len(one.layers) for one in maps)
    width, height = _limit(most_positions * 0.24, 1.9, 4.5), _limit(most_layers * 0.15, 1.0, 4.5)
    across = min(len(maps), max(1, int(ACROSS / (width + BETWEEN))), max(2, math.ceil(len(maps) ** 0.5)))
    lines = [maps[start : start + across] for start in range(0, len(maps), across)]
    every = np.array([value for one in maps for row in one.auc for value in row])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=200, facecolor="white")  # the unit of places is a map
        FigureCanvasAgg(figure)
        image: Any = None
        top = 0.0  # inches
        for number, line in enumerate(lines):
            below = lines[number + 1] if number + 1 < len(lines) else []
            named = [at >= len(below) or below[at].positions != one.positions for at, one in enumerate(line)]
            titles = [_wrap(one.title, width + BETWEEN - 0.1) for one in line]
            top += (max(title.count("\n") for title in titles) + 1) * TITLE * 1.25 / 72 + 0.08
            for at, (one, title) in enumerate(zip(line, titles, strict=True)):
                left, share = at * (width + BETWEEN) / width, max(len(one.positions) / most_positions, 0.25)
                axes = figure.add_axes((left, -top / height, share, 1))
                image = _draw_map(axes, one, height, named[at], CMAP, vmin, vmax)
                axes.set_title(title, fontsize=TITLE, color=INK, loc="left", pad=3)
                if at == 0:
                    axes.set_ylabel("Layer", fontsize=8, color=INK)
            longest = max([len(name) for at, one in enumerate(line) if named[at] for name in one.positions], default=0)
            top += height + 0.15 + longest * TICK * 0.45 / 72
        first = figure.axes[0].get_position()
        bar = figure.add_axes(((across * (width + BETWEEN) - BETWEEN + 0.15) / width, first.y0, 0.12 / width, 1))
        low, high = bool((every < vmin).any()), bool((every > vmax).any())
        extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
            low, high
        ]
        figure.colorbar(image, cax=bar, extend=extend)
        bar.tick_params(labelsize=7, length=2, width=0.5, color=GREY, labelcolor=INK)
        bar.set_ylabel("test AUC", fontsize=8, color=INK)
        if len(every_map) > len(maps):
            text = f"The first {len(maps)} of {len(every_map)} maps; results.csv has the results of all."
            figure.text(0, (1 - top / height), text, fontsize=8, color=GREY, va="top")
        fit_to_labels(figure, pad=0.12)
    return figure


def _draw_map(axes: Any, one: Map, height: float, named: bool, cmap: str, vmin: float, vmax: float) -> Any:
    import numpy as np
    from matplotlib.patches import Rectangle

    from probes.report.style import GREY, HATCHED, INK

    auc = np.array(one.auc)
    image = axes.imshow(np.ma.masked_invalid(auc), cmap=cmap, vmin=vmin, vmax=vmax, aspect="auto")
    for row, at in zip(*np.isnan(auc).nonzero(), strict=True):
        axes.add_patch(Rectangle((at - 0.5, row - 0.5), 1, 1, **HATCHED))
    rows = range(0, len(one.layers), math.ceil(len(one.layers) * 0.12 / height))
    axes.set_yticks(list(rows), [one.layers[row] for row in rows])
    names = [*map(show_text, one.positions)] if named else [""] * len(one.positions)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(labelsize=TICK, length=1.5, width=0.5, color=GREY, labelcolor=INK, pad=1.5)
    for spine in axes.spines.values():
        spine.set(color="#c4c9d1", linewidth=0.6)
    return image


def _limit(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _wrap(title: str, inches: float) -> str:
    width = int(inches * 72 / (0.6 * TITLE))
    return "\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in title.splitlines())
