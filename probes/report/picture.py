"""Draws maps as one picture; it writes no file.

The picture keeps the conventions of arXiv 2410.02707 (layers down, tokens across, Blues from 0.5 to 1) so that maps can
be compared by eye.
"""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from datamodules.card import show_text
from probes.analysis.auc_map import AUCMap
from probes.analysis.block import split_columns
from probes.report.marks import Marks, draw_marks
from probes.report.style import CMAP, GREY, HATCHED, INK, NO_AUC, STYLE, VMAX, VMIN, fit_to_labels

MOST_PIXELS = 60_000  # of a side; matplotlib refuses 2^16
FIELD, NO_BREAK = "  ·  ", "\N{NO-BREAK SPACE}"  # between fields of a line; within a field
TICK, COUNT = 8.5, 7.0  # sizes of tick labels and of counts, in points


def draw(
    maps: Sequence[AUCMap],
    title: str,
    subtitle: str,
    marks: Sequence[Marks | None] | None = None,
    foot: str = "",
    vmin: float = VMIN,
    vmax: float = VMAX,
    cmap: str = CMAP,
    quantity: str = "AUC",
) -> Figure:
    """Maps side by side, as a figure that pyplot does not know of, just large enough for every label.

    Colour runs from vmin to vmax; AUC outside has the colour of that end, and then the colour bar ends in an arrow.
    Cells that are not ``readable`` are hatched. A legend below explains hatches and marks. A mean of maps has their
    standard deviation beside it. One map alone has no name above it. Where columns differ in their number of examples
    or in their base rate, these stand above them. A wider gap parts columns that are not neighbours in the text.

    Args:
        maps: those of one grid, ``[L, T]`` each.
        title: one line, wrapped where it is too long.
        subtitle: likewise, smaller and below.
        marks: for each map what to mark on it, or None.
        foot: lines below the map, wrapped where they are too long.
        vmin, vmax: AUC of the first and of the last colour; see `check_colours`.
        cmap: name of the colours.
        quantity: what the maps show, for the colour bar: differences of AUC are maps too.

    Raises:
        ValueError: there are not as many marks as maps, or marks do not fit the map.
    """
    if marks is not None and len(marks) != len(maps):
        raise ValueError(f"marks: expected one for each of {len(maps)} maps, got {len(marks)}; give None for no marks")
    L, T = maps[0].auc.shape
    width, height = _length(T, 0.46, least=3.2, most=12), _length(L, 0.27, least=2.6, most=9.5)
    panels: list[tuple[AUCMap, Any, str, Marks | None]] = []
    for number, one in enumerate(maps):
        panels.append((one, one.auc, one.target, None if marks is None else marks[number]))
        if one.spread == "SD":
            panels.append((one, one.auc_se, "standard deviation", None))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        left = 0.0  # in widths of a map
        legend: dict[str, Artist] = {}
        for number, (one, values, name, marked) in enumerate(panels):
            readable = one.readable().numpy()
            table = pd.DataFrame(values.numpy(), index=list(one.layers), columns=[*map(show_text, one.positions)])
            spread = values is one.auc_se
            shown = table.to_numpy()[readable]
            # axes in inches until fit_to_labels knows how much room their labels take
            axes = figure.add_axes((left, 0, 1, 1))
            bar = figure.add_axes((left + 1 + 0.22 / width, 0, 0.16 / width, 1))
            left += 1 + 1.75 / width
            sns.heatmap(
                table,
                mask=~readable,
                vmin=0 if spread else vmin,
                vmax=max(float(shown.max()), 0.01) if spread and len(shown) else vmax,
                cmap="Greys" if spread else cmap,
                ax=axes,
                cbar_ax=bar,
                cbar_kws={
                    "extend": "neither" if spread else _arrows(shown, vmin, vmax),
                    "extendfrac": 0.12 / height,
                },
                linewidths=0.4 if L * T <= 600 else 0,
                linecolor="white",
                xticklabels=1,
                yticklabels=False,
            )
            _label(axes, bar, "SD of AUC" if spread else quantity, one.layers, 72 * height)
            _part_columns(axes, one.positions, L)
            above = _write_counts(axes, one, 72 * width / T)
            own_name = [(name, 9.5, "bold", INK)] if len(panels) > 1 else []
            header = _wrap_header(title, subtitle, len(panels) * (width + 0.6)) if number == 0 else []
            _write_above(axes, own_name + header, above)
            if marked is not None:
                legend |= {label: handle for handle, label in draw_marks(axes, marked, L, T)}
            if not readable.all():
                _hatch(axes, ~readable)
                legend[NO_AUC] = Patch(**HATCHED)
        _write_below(figure.axes[0], legend, foot, len(panels) * (width + 0.6))
        fit_to_labels(figure, pad=0.15)
        figure.set_dpi(min(figure.dpi, MOST_PIXELS / max(figure.get_size_inches())))
    return figure


def check_colours(vmin: float, vmax: float) -> None:
    """Raise ValueError where vmin and vmax are not two AUC, the first below the second.

    >>> check_colours(0.5, 1.0)
    """
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (vmin, vmax))
    if not numbers or not 0 <= vmin < vmax <= 1:
        raise ValueError(
            f"heatmap.vmin, heatmap.vmax: expected 0 <= vmin < vmax <= 1, got {vmin!r} and {vmax!r}; "
            f"the study has {VMIN} and {VMAX}"
        )


def _arrows(shown: Any, vmin: float, vmax: float) -> str:
    """Ends of the colour bar beyond which there is AUC."""
    below, above = bool((shown < vmin).any()), bool((shown > vmax).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def _length(cells: int, each: float, least: float, most: float) -> float:
    """Inches for ``cells`` cells in a row: ``each`` apiece within bounds, but never too tight for the tick labels."""
    return max(least, min(cells * each, most), cells * 0.16)


def _label(axes: Axes, bar: Axes, quantity: str, layers: Sequence[int], points: float) -> None:
    axes.set_xlabel("Token", fontsize=10, color=INK, labelpad=6)
    axes.set_ylabel("Layer", fontsize=10, color=INK, labelpad=6)
    rows = list(range(0, len(layers), 2 if len(layers) > 12 else 1))
    if rows[-1] != len(layers) - 1:  # the last layer too, in place of the one above it where both have no room
        rows = rows[:-1] if points / len(layers) < 1.7 * TICK else rows
        rows.append(len(layers) - 1)
    axes.set_yticks([row + 0.5 for row in rows], [str(layers[row]) for row in rows], rotation=0)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    axes.patch.set_edgecolor("#d5d9df")
    bar.set_ylabel(quantity, fontsize=10, color=INK, labelpad=8)
    for frame in (axes, bar):
        frame.tick_params(labelsize=TICK, length=2.5, width=0.6, color=GREY, labelcolor=INK)
        for spine in frame.spines.values():
            spine.set(visible=True, color="#c4c9d1", linewidth=0.6)


def _part_columns(axes: Axes, positions: Sequence[str], L: int) -> None:
    """A white line between two columns that are known not to be neighbours."""
    runs = split_columns(positions)
    parts = [after.start for before, after in pairwise(runs) if after.start == before.stop]
    axes.vlines(parts, 0, L, colors="white", linewidth=3.2, zorder=2)


def _write_counts(axes: Axes, one: AUCMap, points: float) -> float:
    """Write n and base rate above the columns where they differ, and return the height that is used, in points.

    Args:
        points: width of a column.
    """
    n, n_positive = one.n.amax(0).tolist(), one.n_positive.amax(0).tolist()
    rates = [f"{positive / total:.0%}" if total else "-" for positive, total in zip(n_positive, n, strict=True)]
    rows = [("base rate", rates)] if len(set(rates)) > 1 else []
    rows += [("n", [f"{count:,}" for count in n])] if len(set(n)) > 1 else []
    above = 4.0
    for name, texts in rows:
        longest = max(map(len, texts)) * 0.62 * COUNT
        upright = longest > points - 2
        usual: dict[str, Any] = {"fontsize": COUNT, "color": GREY, "va": "bottom", "annotation_clip": False}
        usual["textcoords"] = "offset points"
        for column, text in enumerate(texts):
            where = (column + 0.5, 1), (0, above)
            axes.annotate(
                text, *where, xycoords=("data", "axes fraction"), ha="center", rotation=90 if upright else 0, **usual
            )
        axes.annotate(name, (0, 1), (-4, above), xycoords="axes fraction", ha="right", **usual)
        above += (longest if upright else COUNT) + 3
    return above + 5


def _wrap(text: str, size: float, inches: float) -> str:
    """Wrap each line, between fields where a line has some; 0.55 of the font size is about the width of a character."""
    width = int(max(inches, 6.2) * 72 / (0.55 * size))  # a text may be wider than a narrow map
    lines = []
    for line in text.replace(" ± ", f"{NO_BREAK}±{NO_BREAK}").splitlines():
        fields = line.split(FIELD)
        if len(fields) > 1:
            line = FIELD.join(field.replace(" ", NO_BREAK) if len(field) < width else field for field in fields)
        lines.append(textwrap.fill(line, width, break_on_hyphens=False))
    return "\n".join(lines)


def _wrap_header(title: str, subtitle: str, inches: float) -> list[tuple[str, float, str, str]]:
    """Title over subtitle, the lower first."""
    return [(_wrap(subtitle, 9, inches), 9, "normal", GREY), (_wrap(title, 12.5, inches), 12.5, "bold", INK)]


def _write_above(axes: Axes, lines: Sequence[tuple[str, float, str, str]], above: float) -> None:
    """Write texts so many points above a map, the lowest first: text, size in points, weight and colour of each."""
    for text, size, weight, color in lines:
        axes.annotate(
            text,
            (0, 1),
            (0, above),
            xycoords="axes fraction",
            textcoords="offset points",
            annotation_clip=False,
            fontsize=size,
            fontweight=weight,
            color=color,
            ha="left",
            va="bottom",
            linespacing=1.25,
        )
        above += (text.count("\n") + 1) * size * 1.25 + 4


def _hatch(axes: Axes, unreadable: Any) -> None:
    """Hatch the cells where ``unreadable [L, T]`` is true."""
    squares = [Rectangle((column, row), 1, 1) for row, column in zip(*unreadable.nonzero(), strict=True)]
    axes.add_collection(PatchCollection(squares, **HATCHED), autolim=False)


def _write_below(axes: Axes, legend: dict[str, Artist], foot: str, inches: float) -> None:
    """A legend under the axis labels, and the foot under it."""
    drawn = axes.get_tightbbox()
    assert drawn is not None  # None is for invisible axes
    below = drawn.y0  # pixels
    if legend:
        key = axes.legend(
            handles=list(legend.values()),
            labels=list(legend),
            loc="upper left",
            bbox_to_anchor=(0, axes.transAxes.inverted().transform((0, below - 0.1 * axes.figure.dpi))[1]),
            borderaxespad=0,
            borderpad=0,
            frameon=False,
            fontsize=8.5,
            labelcolor=GREY,
            ncols=2 if len(legend) > 2 and inches > 6 else 1,
            columnspacing=2.0,
            handlelength=1.8,
            handleheight=0.9,
        )
        below = key.get_window_extent().y0
    if foot.strip():
        axes.annotate(
            _wrap(foot, 8.5, inches),
            (0, axes.transAxes.inverted().transform((0, below - 0.12 * axes.figure.dpi))[1]),
            xycoords="axes fraction",
            annotation_clip=False,
            fontsize=8.5,
            color=GREY,
            ha="left",
            va="top",
            linespacing=1.35,
        )
