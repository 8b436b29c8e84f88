"""How often two positions are the same token: the callback that writes it as a table and a small picture.

Positions that mostly coincide share a column of the heatmap under two names; the map alone does not show that.
"""

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datamodules.card import Card, show_text
from probes.report.style import GREY, INK, STYLE, UNDATED, fit_to_labels
from probes.report.whole_file import whole_file
from probes.settings import Folder

NAME = "coincidence"


class Coincidence(pl.Callback):
    """Writes coincidence.csv and coincidence.png when testing ends; nothing where the card does not know the tokens.

    A row of the table is a position, how many examples have it, and for every position the share of the examples having
    both in which the two are one token. Global rank zero only; every file appears whole or not at all.

    Args:
        folder: where the files go; made if missing.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = Path(folder)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the files."""
        card: Card = pl_module.tested
        if not trainer.is_global_zero or card.coincidence is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shares = table([*map(show_text, card.positions)], card.coincidence)
        with whole_file(self.folder / f"{NAME}.csv") as path:
            counted = shares.copy()
            counted.insert(0, "examples", card.n_valid)
            counted.to_csv(path, float_format="%.6f", lineterminator="\n", index_label="position")
        with whole_file(self.folder / f"{NAME}.png") as path:
            path.write_bytes(render(tuple(map(show_text, card.positions)), card.coincidence, card.n_valid))


@lru_cache(maxsize=8)  # many jobs of a sweep have the same positions of the same answers
def render(
    positions: tuple[str, ...], coincidence: tuple[tuple[float | None, ...], ...], examples: tuple[int, ...]
) -> bytes:
    """The picture as PNG; what it shows is that of a `Card`."""
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        draw(table(positions, coincidence), examples).savefig(content, format="png", metadata=UNDATED["png"])
    return content.getvalue()


def table(positions: Sequence[str], coincidence: Sequence[Sequence[float | None]]) -> pd.DataFrame:
    """Shares ``[T, T]`` by name, NaN where no example has both positions."""
    return pd.DataFrame(
        [[math.nan if share is None else share for share in row] for row in coincidence],
        index=list(positions),
        columns=list(positions),
    )


def draw(shares: pd.DataFrame, examples: Sequence[int]) -> Figure:
    """The table as a figure that pyplot does not know of: a square for each pair, its share in percent where above 0.

    Pairs that no example has are left blank. ``examples [T]`` stand beside the names: how many have each position.
    """
    size = max(1.6, 0.34 * len(shares))
    shares = shares.where(np.tri(len(shares), k=-1, dtype=bool))  # each pair once
    written = shares.map(lambda share: f"{100 * share:.0f}" if share > 0 else "")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size, size), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        sns.heatmap(
            shares,
            ax=axes,
            vmin=-0.1,  # so that a share of nothing is not white, which is for no pair at all
            vmax=1,
            cmap="Greys",
            cbar=False,
            annot=written.to_numpy(),
            fmt="",
            annot_kws={"fontsize": 7},
            linewidths=0.4,
            linecolor="white",
            xticklabels=1,
            yticklabels=1,
        )
        axes.tick_params(labelsize=8, length=2, width=0.6, color=GREY, labelcolor=INK)
        axes.set_xticklabels(axes.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
        names = [f"{name}  ({n:,})" for name, n in zip(shares.index, examples, strict=True)]
        axes.set_yticklabels(names, rotation=0)
        axes.set_title(
            "How often two positions are the same token: % of the examples with both", fontsize=9, color=INK, loc="left"
        )
        fit_to_labels(figure, pad=0.12)
    return figure
