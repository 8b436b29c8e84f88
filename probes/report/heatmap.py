"""The heatmap: the AUC of every layer and token position as one picture, and the callback that writes it.

The picture keeps the conventions of arXiv 2410.02707 (layers down, tokens across, Blues from 0.5 to 1) so that maps can
be compared by eye.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytorch_lightning as pl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from pytorch_lightning.trainer.states import TrainerFn

from datamodules.card import Card
from probes.analysis.auc_map import AUCMap, headline
from probes.report.style import CMAP, GREY, HATCHED, INK, NO_AUC, STYLE, UNDATED, VMAX, VMIN, fit_to_labels
from probes.report.whole_file import whole_file

PICTURE = "heatmap.png"
MOST_MAPS = 8  # in one picture, and in the terminal
TABLE = "heatmap.csv"
MOST_PIXELS = 60_000  # of a side; matplotlib refuses 2^16


class Heatmap(pl.Callback):
    """Writes heatmap.png, heatmap.pdf and heatmap.csv after validation and after test; loggers get the figure.

    The picture is of the split just measured; the CSV holds every map so far, val before test. A fit of several epochs
    also leaves the validation map of each, epochs/000.png and so on. A label set that was split several times is drawn
    as the mean of its maps beside their standard deviation, which heatmap_mean.csv holds. Of more than eight label sets
    the first eight are drawn. It reads ``maps`` and ``tested`` of the module. Global rank zero only; every file appears
    whole or not at all.

    Args:
        folder: where the files go; made if missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw the validation map, except during the sanity check."""
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw the test map."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        if not trainer.is_global_zero:
            return
        card: Card = pl_module.tested
        maps: dict[str, list[AUCMap]] = pl_module.maps
        figure = draw(headline(maps[split], card)[:MOST_MAPS], *caption(card, pl_module.described, split))
        pictures = [self.folder / f"heatmap.{kind}" for kind in UNDATED]
        if trainer.state.fn == TrainerFn.FITTING and trainer.max_epochs != 1:
            pictures.append(self.folder / "epochs" / f"{trainer.current_epoch:03}.png")
        for picture in pictures:
            kind = picture.suffix[1:]
            picture.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(picture) as path, matplotlib.rc_context(STYLE):
                figure.savefig(path, format=kind, metadata=UNDATED[kind])
        measured = [maps[name] for name in ("val", "test") if name in maps]
        self._write_table(TABLE, [one for of_split in measured for one in of_split])
        averaged = [one for of_split in measured for one in headline(of_split, card) if one.spread == "SD"]
        if averaged:
            self._write_table("heatmap_mean.csv", averaged)
        else:
            (self.folder / "heatmap_mean.csv").unlink(missing_ok=True)  # of an earlier run into the same folder
        loggers: list[Any] = trainer.loggers
        for logger in loggers:  # by what a logger can do, so that none of them has to be installed
            if hasattr(logger, "log_image"):
                logger.log_image(key=f"heatmap/{split}", images=[str(self.folder / PICTURE)])
            elif add_figure := getattr(getattr(logger, "experiment", None), "add_figure", None):
                add_figure(f"heatmap/{split}", figure, trainer.global_step, close=False)

    def _write_table(self, name: str, maps: Sequence[AUCMap]) -> None:
        with whole_file(self.folder / name) as path:
            # nine decimals: two runs can be compared to 1e-6, and the last bits of a float do not change the bytes
            table = pd.concat([one.table() for one in maps])
            table.to_csv(path, index=False, float_format="%.9f", lineterminator="\n")


def caption(card: Card, probe: str, split: str) -> tuple[str, str]:
    """Title and subtitle of a map: what was read and where; model, site, probe, split, its examples and base rate.

    Of several targets the smallest and the largest number of examples are given, and the base rate of all together.
    """
    counts = [target.counts[split] for target in card.targets]
    sizes = sorted({count.n for count in counts})
    n, n_positive = sum(count.n for count in counts), sum(count.n_positive for count in counts)
    fields = [card.model, card.site, probe, f"{split} split"]
    if len(counts) > 1:
        one_label = len({target.label for target in card.targets}) == 1
        fields.append(f"{len(counts)} {'splits' if one_label else 'targets'}")
    labels = list(dict.fromkeys(target.label for target in card.targets))
    if len(labels) > MOST_MAPS:
        fields.append(f"the first {MOST_MAPS} of {len(labels)} label sets are shown")
        labels[MOST_MAPS:] = ["..."]
    fields.append("n = " + " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))))
    fields.append(f"base rate {n_positive / n:.0%}" if n else "base rate none")
    return (
        f"Where {', '.join(labels)} can be read: {card.dataset}",
        "  ·  ".join(field.replace(" ", "\N{NO-BREAK SPACE}") for field in fields),  # a line breaks between fields
    )


def draw(maps: Sequence[AUCMap], title: str, subtitle: str) -> Figure:
    """Maps side by side, as a figure that pyplot does not know of, just large enough for every label.

    Colour runs from 0.5 to 1; lower AUC has the lightest colour, and then the colour bar ends in an arrow. Cells that
    are not ``readable`` are hatched, and then a line below says so. A mean of maps has their standard deviation beside
    it. One map alone has no name above it.

    Args:
        maps: those of one grid, ``[L, T]`` each.
        title: one line, wrapped where it is too long.
        subtitle: likewise, smaller and below.
    """
    L, T = maps[0].auc.shape
    width, height = _length(T, 0.46, least=3.2, most=12), _length(L, 0.27, least=2.6, most=9.5)
    panels = []
    for one in maps:
        panels.append((one, one.auc, one.target))
        if one.spread == "SD":
            panels.append((one, one.auc_se, "standard deviation"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        left = 0.0  # in widths of a map
        hatched = False
        for number, (one, values, name) in enumerate(panels):
            readable = one.readable().numpy()
            table = pd.DataFrame(values.numpy(), index=list(one.layers), columns=list(one.positions))
            spread = values is one.auc_se
            shown = table.to_numpy()[readable]
            below = not spread and bool((shown < VMIN).any())
            # axes in inches until fit_to_labels knows how much room their labels take
            axes = figure.add_axes((left, 0, 1, 1))
            bar = figure.add_axes((left + 1 + 0.22 / width, 0, 0.16 / width, 1))
            left += 1 + 1.75 / width
            sns.heatmap(
                table,
                mask=~readable,
                vmin=0 if spread else VMIN,
                vmax=max(float(shown.max()), 0.01) if spread and len(shown) else VMAX,
                cmap="Greys" if spread else CMAP,
                ax=axes,
                cbar_ax=bar,
                cbar_kws={"extend": "min" if below else "neither", "extendfrac": 0.12 / height},
                linewidths=0.4 if L * T <= 600 else 0,
                linecolor="white",
                xticklabels=1,
                yticklabels=2 if L > 12 else 1,
            )
            _label(axes, bar, "SD of AUC" if spread else "AUC")
            if number == 0:
                _write_header(axes, title, subtitle, len(panels) * (width + 0.6), name if len(panels) > 1 else None)
            else:
                _write_above(axes, [(name, 9.5, "bold", INK)])
            if not readable.all() and not hatched:
                _hatch(axes, ~readable, explain=True)
                hatched = True
            elif not readable.all():
                _hatch(axes, ~readable, explain=False)
        fit_to_labels(figure, pad=0.15)
        figure.set_dpi(min(figure.dpi, MOST_PIXELS / max(figure.get_size_inches())))
    return figure


def _length(cells: int, each: float, least: float, most: float) -> float:
    """Inches for ``cells`` cells in a row: ``each`` apiece within bounds, but never too tight for the tick labels."""
    return max(least, min(cells * each, most), cells * 0.16)


def _label(axes: Axes, bar: Axes, quantity: str) -> None:
    axes.set_xlabel("Token", fontsize=10, color=INK, labelpad=6)
    axes.set_ylabel("Layer", fontsize=10, color=INK, labelpad=6)
    axes.tick_params(labelsize=8.5, length=2.5, width=0.6, color=GREY, labelcolor=INK)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.patch.set_edgecolor("#d5d9df")
    bar.set_ylabel(quantity, fontsize=10, color=INK, labelpad=8)
    bar.tick_params(labelsize=8.5, length=2.5, width=0.6, color=GREY, labelcolor=INK)
    for frame in (axes, bar):
        for spine in frame.spines.values():
            spine.set(visible=True, color="#c4c9d1", linewidth=0.6)


def _write_header(axes: Axes, title: str, subtitle: str, inches: float, name: str | None) -> None:
    """Title over subtitle, flush with the left of the map; below them the map's own name, if any."""
    lines = [] if name is None else [(name, 9.5, "bold", INK)]
    for text, size, weight, color in ((subtitle, 9, "normal", GREY), (title, 12.5, "bold", INK)):
        # 0.55 of the font size is about the width of a character; a header may be wider than a narrow map
        text = textwrap.fill(text, int(max(inches, 6.2) * 72 / (0.55 * size)), break_on_hyphens=False)
        lines.append((text, size, weight, color))
    _write_above(axes, lines)


def _write_above(axes: Axes, lines: Sequence[tuple[str, float, str, str]]) -> None:
    """Write texts above a map, the lowest first: text, size in points, weight and colour of each."""
    above = 9.0  # points
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


def _hatch(axes: Axes, unreadable: Any, explain: bool) -> None:
    """Hatch the cells where ``unreadable [L, T]`` is true, and perhaps say below the axis labels what that means."""
    squares = [Rectangle((column, row), 1, 1) for row, column in zip(*unreadable.nonzero(), strict=True)]
    axes.add_collection(PatchCollection(squares, **HATCHED), autolim=False)
    if not explain:
        return
    drawn = axes.get_tightbbox()
    assert drawn is not None  # None is for invisible axes
    below = axes.transAxes.inverted().transform((0, drawn.y0 - 0.1 * axes.figure.dpi))[1]
    axes.legend(
        handles=[Patch(**HATCHED)],
        labels=[NO_AUC],
        loc="upper left",
        bbox_to_anchor=(0, below),
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        fontsize=8.5,
        labelcolor=GREY,
    )
