"""results.png: the maps of many runs as small multiples, on one scale."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PICTURE = "results.png"
MOST = 60  # maps in one picture
ACROSS = 12.0  # inches


class Map(NamedTuple):
    """A test map as heatmap.csv holds it: AUC by row and column, NaN where there is none."""

    title: str
    layers: list[str]
    positions: list[str]
    auc: list[list[float]]


def read_map(folder: Path, target: str, title: str) -> Map | None:
    """The test map of a label set, the mean where it was split several times; None where the run has none."""
    for name in ("heatmap_mean.csv", "heatmap.csv"):
        try:
            with (folder / name).open(newline="", encoding="utf-8") as file:
                every = [row for row in csv.DictReader(file) if row["split"] == "test"]
        except OSError:
            continue
        rows = [row for row in every if row["target"] == target]
        if rows:
            layers, positions = (list(dict.fromkeys(row[key] for row in rows)) for key in ("layer", "position"))
            values = {(row["layer"], row["position"]): float(row["auc"] or "nan") for row in rows}
            return Map(title, layers, positions, [[values[layer, at] for at in positions] for layer in layers])
    return None


def draw_results(path: Path, rows: Sequence[Mapping[str, Any]], vmin: float, vmax: float) -> bool:
    """Draw the map of every row that has one, each named by what differs; of very many, the first.

    Args:
        path: of the picture.
        rows: of `tabulate_runs`.
        vmin, vmax: AUC of the lightest and of the darkest colour of all maps.

    Returns:
        Whether there was a map.
    """
    from probes.jobs.results import show

    several = len({row.get("target") for row in rows if row.get("target")}) > 1
    maps = []
    for row in rows:
        if row.get("target") is not None:
            name = f"{row['job']}, {row['target']}" if several else str(row["job"])
            best = f"best {show(row['test_auc'])} ± {show(row['test_auc_error'])}, mean {show(row['mean_auc'])}"
            maps.append(read_map(Path(row["folder"]), row["target"], f"{name}\n{best}"))
    maps = [one for one in maps if one is not None]
    if maps:
        _draw(path, maps[:MOST], len(maps), vmin, vmax)
    return bool(maps)


def _draw(path: Path, maps: Sequence[Map], n_maps: int, vmin: float, vmax: float) -> None:
    import matplotlib
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from probes.report.style import CMAP, GREY, HATCHED, INK, STYLE, fit_to_labels

    widths, heights = [len(one.positions) for one in maps], [len(one.layers) for one in maps]
    width, height = min(max(max(widths) * 0.24, 1.9), 4.5), min(max(max(heights) * 0.15, 1.0), 4.5)
    columns = min(len(maps), max(1, int((ACROSS + 0.5) / (width + 0.5))), max(2, math.ceil(math.sqrt(len(maps)))))
    lines = math.ceil(len(maps) / columns)
    under = 0.07 * max(len(name) for one in maps for name in one.positions) * 0.75 + 0.55  # inches below and above a map
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        image = None
        for number, one in enumerate(maps):
            line, column = divmod(number, columns)
            place = (column * (1 + 0.5 / width), -line * (1 + under / height), 1, 1)
            axes = figure.add_axes(place)
            auc = np.array(one.auc)
            image = axes.imshow(np.ma.masked_invalid(auc), cmap=CMAP, vmin=vmin, vmax=vmax, aspect="auto")
            for row, at in zip(*np.isnan(auc).nonzero(), strict=True):
                axes.add_patch(Rectangle((at - 0.5, row - 0.5), 1, 1, **HATCHED))
            rows = range(0, len(one.layers), math.ceil(len(one.layers) * 0.12 / height))
            axes.set_yticks(list(rows), [one.layers[row] for row in rows])
            # names of columns stand under the last map of each column of maps, and where they differ from the next
            below = number + columns
            named = below >= len(maps) or maps[below].positions != one.positions
            axes.set_xticks(
                range(len(one.positions)), one.positions if named else [], rotation=45, ha="right", rotation_mode="anchor"
            ) if named else axes.set_xticks(range(len(one.positions)), [""] * len(one.positions))
            axes.tick_params(labelsize=6.5, length=1.5, width=0.5, color=GREY, labelcolor=INK, pad=1.5)
            axes.set_title(_wrap(one.title, width), fontsize=7.5, color=INK, loc="left", pad=3)
            for spine in axes.spines.values():
                spine.set(color="#c4c9d1", linewidth=0.6)
            if column == 0:
                axes.set_ylabel("Layer", fontsize=8, color=INK)
        assert image is not None
        right = columns * (1 + 0.5 / width) - 0.35 / width
        bar = figure.add_axes((right, 0, 0.12 / width, 1))
        figure.colorbar(image, cax=bar, extend="both")
        bar.tick_params(labelsize=7, length=2, width=0.5, color=GREY, labelcolor=INK)
        bar.set_ylabel("test AUC", fontsize=8, color=INK)
        if n_maps > len(maps):
            figure.axes[0].annotate(
                f"the first {len(maps)} of {n_maps} maps", (0, 1), (0, 30), xycoords="axes fraction",
                textcoords="offset points", fontsize=8, color=GREY,
            )  # fmt: skip
        fit_to_labels(figure, pad=0.12)
        from probes.report.map_files import save_figure

        assert lines
        save_figure(figure, path)


def _wrap(title: str, inches: float) -> str:
    import textwrap

    width = int(inches * 72 / (0.55 * 7.5))
    return "\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in title.splitlines())
