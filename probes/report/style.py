"""How pictures look: colours, fonts, metadata without dates, and room for every label."""

import math
from typing import Any

from matplotlib.figure import Figure

from datamodules.card import MIN_PER_CLASS

CMAP, VMIN, VMAX = "Blues", 0.5, 1.0
DIVERGING = "RdBu"  # of differences: blue above 0, as the maps are, and red below
NO_AUC = f"no AUC: fewer than {MIN_PER_CLASS} examples of a class, or no fit"

INK, GREY = "#1f2933", "#6b7280"
HATCHED = {"facecolor": "#fbfbfa", "edgecolor": "#b9bec6", "hatch": "/////", "linewidth": 0}
BLOCK: dict[str, Any] = {"colors": "#e8590c", "linewidth": 2.2, "capstyle": "projecting", "zorder": 5}
NEAR_BEST: dict[str, Any] = {"colors": "#ffc53d", "linewidth": 1.1, "capstyle": "projecting", "zorder": 4}
ABOVE_CHANCE: dict[str, Any] = {"colors": INK, "linewidth": 1.0, "linestyle": (0, (3.2, 2.2)), "zorder": 3}
DIFFERENT: dict[str, Any] = {"colors": INK, "linewidth": 1.5, "capstyle": "projecting", "zorder": 4}
CROSS: dict[str, Any] = {"marker": "x", "color": "#e8590c", "markersize": 5, "markeredgewidth": 1.3, "linestyle": ""}
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
