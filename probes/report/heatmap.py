"""The heatmap: the AUC of every layer and token position as one picture, and the callback that writes it.

The picture keeps the conventions of arXiv 2410.02707 (layers down, tokens across, Blues from 0.5 to 1) so that maps can
be compared by eye.
"""

import math
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
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

from probes.analysis.auc_map import AUCMap

CMAP, VMIN, VMAX = "Blues", 0.5, 1.0
PICTURE = "heatmap.png"
NO_AUC = "no AUC: fewer than 10 examples of a class, or no fit"

INK, GREY = "#1f2933", "#6b7280"
HATCHED = {"facecolor": "#fbfbfa", "edgecolor": "#b9bec6", "hatch": "/////", "linewidth": 0}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the picture is the same everywhere
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a name may hold a dollar sign
    "pdf.fonttype": 42,  # text stays text in the PDF
}
UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class Heatmap(pl.Callback):
    """Writes heatmap.png, heatmap.pdf and heatmap.csv after validation and after test; loggers get the figure.

    The picture is of the split just measured; the CSV holds every map so far, val before test. A fit of several epochs
    also leaves the validation map of each, epochs/000.png and so on. It reads ``maps`` and ``card`` of the module.
    Global rank zero only; every file appears whole or not at all.

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
        figure = draw(pl_module.maps[split], *caption(pl_module.card, pl_module.described, split))
        pictures = [self.folder / f"heatmap.{kind}" for kind in UNDATED]
        if trainer.state.fn == TrainerFn.FITTING and trainer.max_epochs != 1:
            pictures.append(self.folder / "epochs" / f"{trainer.current_epoch:03}.png")
        for picture in pictures:
            kind = picture.suffix[1:]
            picture.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(picture) as path, matplotlib.rc_context(STYLE):
                figure.savefig(path, format=kind, metadata=UNDATED[kind])
        tables = [pl_module.maps[name].table() for name in ("val", "test") if name in pl_module.maps]
        with whole_file(self.folder / "heatmap.csv") as path:
            # nine decimals: two runs can be compared to 1e-6, and the last bits of a float do not change the bytes
            pd.concat(tables).to_csv(path, index=False, float_format="%.9f", lineterminator="\n")
        loggers: list[Any] = trainer.loggers
        for logger in loggers:  # by what a logger can do, so that none of them has to be installed
            if hasattr(logger, "log_image"):
                logger.log_image(key=f"heatmap/{split}", images=[str(self.folder / PICTURE)])
            elif add_figure := getattr(getattr(logger, "experiment", None), "add_figure", None):
                add_figure(f"heatmap/{split}", figure, trainer.global_step, close=False)


def caption(card: dict[str, Any], probe: str, split: str) -> tuple[str, str]:
    """Title and subtitle of a map: what was read and where; model, site, probe, split, its examples and base rate."""
    n, n_positive = card["split"][split]["n"], card["split"][split]["n_positive"]
    base_rate = f"{n_positive / n:.0%}" if n else "none"
    fields = [card["model"], card["site"], probe, f"{split} split", f"n = {n:,}", f"base rate {base_rate}"]
    return (
        f"Where {card['target']} can be read: {card['dataset']}",
        "  ·  ".join(field.replace(" ", "\N{NO-BREAK SPACE}") for field in fields),  # a line breaks between fields
    )


def draw(auc_map: AUCMap, title: str, subtitle: str) -> Figure:
    """The map as a figure that pyplot does not know of, just large enough for every label.

    Colour runs from 0.5 to 1; lower AUC has the lightest colour, and then the colour bar ends in an arrow. Cells that
    are not ``readable`` are hatched, and then a line below says so.

    Args:
        auc_map: the map, ``[L, T]``.
        title: one line, wrapped where it is too long.
        subtitle: likewise, smaller and below.
    """
    L, T = auc_map.auc.shape
    width, height = _length(T, 0.46, least=3.2, most=12), _length(L, 0.27, least=2.6, most=9.5)
    readable = auc_map.readable().numpy()
    auc = pd.DataFrame(auc_map.auc.numpy(), index=list(auc_map.layers), columns=list(auc_map.positions))
    below = bool((auc.to_numpy()[readable] < VMIN).any())

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        # axes in inches until fit_to_labels knows how much room their labels take
        axes = figure.add_axes((0, 0, 1, 1))
        bar = figure.add_axes((1 + 0.22 / width, 0, 0.16 / width, 1))
        sns.heatmap(
            auc,
            mask=~readable,
            vmin=VMIN,
            vmax=VMAX,
            cmap=CMAP,
            ax=axes,
            cbar_ax=bar,
            cbar_kws={"extend": "min" if below else "neither", "extendfrac": 0.12 / height},
            linewidths=0.4 if L * T <= 600 else 0,
            linecolor="white",
            xticklabels=1,
            yticklabels=2 if L > 12 else 1,
        )
        _label(axes, bar)
        _write_header(axes, title, subtitle, width + 0.6)
        if not readable.all():
            _hatch(axes, ~readable)
        fit_to_labels(figure, pad=0.15)
    return figure


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it when the block ends well and removed when it does not."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _length(cells: int, each: float, least: float, most: float) -> float:
    """Inches for ``cells`` cells in a row: ``each`` apiece within bounds, but never too tight for the tick labels."""
    return max(least, min(cells * each, most), cells * 0.16)


def _label(axes: Axes, bar: Axes) -> None:
    axes.set_xlabel("Token", fontsize=10, color=INK, labelpad=6)
    axes.set_ylabel("Layer", fontsize=10, color=INK, labelpad=6)
    axes.tick_params(labelsize=8.5, length=2.5, width=0.6, color=GREY, labelcolor=INK)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.patch.set_edgecolor("#d5d9df")
    bar.set_ylabel("AUC", fontsize=10, color=INK, labelpad=8)
    bar.tick_params(labelsize=8.5, length=2.5, width=0.6, color=GREY, labelcolor=INK)
    for frame in (axes, bar):
        for spine in frame.spines.values():
            spine.set(visible=True, color="#c4c9d1", linewidth=0.6)


def _write_header(axes: Axes, title: str, subtitle: str, inches: float) -> None:
    """Title over subtitle, flush with the left of the map."""
    above = 9.0  # points
    for text, size, weight, color in ((subtitle, 9, "normal", GREY), (title, 12.5, "bold", INK)):
        # 0.55 of the font size is about the width of a character; a header may be wider than a narrow map
        text = textwrap.fill(text, int(max(inches, 6.2) * 72 / (0.55 * size)), break_on_hyphens=False)
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
    """Hatch the cells where ``unreadable [L, T]`` is true, and say below the axis labels what that means."""
    squares = [Rectangle((column, row), 1, 1) for row, column in zip(*unreadable.nonzero(), strict=True)]
    axes.add_collection(PatchCollection(squares, **HATCHED), autolim=False)
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


def fit_to_labels(figure: Figure, pad: float) -> None:
    """Resize the figure to what is drawn plus ``pad`` inches, each axes keeping its size: no label can be cut off."""
    box = figure.get_tightbbox()  # inches
    width, height = (math.ceil((side + 2 * pad) * 100) / 100 for side in box.size)
    old = figure.get_size_inches()
    places = [axes.get_position() for axes in figure.axes]
    figure.set_size_inches(width, height)
    for axes, place in zip(figure.axes, places, strict=True):
        axes.set_position(
            (
                (place.x0 * old[0] - box.x0 + pad) / width,
                (place.y0 * old[1] - box.y0 + pad) / height,
                place.width * old[0] / width,
                place.height * old[1] / height,
            )
        )
