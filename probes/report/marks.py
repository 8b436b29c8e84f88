"""What is marked on a map: outlines of sets of cells, and crosses."""

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from probes.analysis.block import Block
from probes.report.style import ABOVE_CHANCE, BLOCK, CROSS, DIFFERENT, NEAR_BEST

Segment = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Marks:
    """Sets of cells to mark on a map; each is left out where it is None or empty.

    Attributes:
        block: the dominant block, in a thick outline.
        above_chance: bool ``[L, T]``, cells above the 95% of chance, in a dashed outline.
        near_best: bool ``[L, T]``, cells that cannot be told from the best, in a thin outline.
        short: bool ``[L, T]``, cells whose probe is short of its optimum, with a cross.
        different: bool ``[L, T]``, cells of a difference map whose limits exclude 0, in an outline.

    Example:
        >>> Marks(short=torch.tensor([[False, True]])).short.sum().item()
        1
    """

    block: Block | None = None
    above_chance: Tensor | None = None
    near_best: Tensor | None = None
    short: Tensor | None = None
    different: Tensor | None = None

    def check(self, L: int, T: int) -> None:
        """Raise ValueError where a set is not bool ``[L, T]`` or the block lies outside of the map."""
        for name in ("above_chance", "near_best", "short", "different"):
            mask: Tensor | None = getattr(self, name)
            if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (L, T)):
                raise ValueError(
                    f"marks.{name}: expected bool [layers, positions] = [{L}, {T}], got {mask.dtype} "
                    f"{list(mask.shape)}; mark the cells of the map that is drawn"
                )
        if self.block is not None and (self.block.bottom >= L or self.block.right >= T):
            raise ValueError(
                f"marks.block: expected rows below {L} and columns below {T}, got a block to row {self.block.bottom}, "
                f"column {self.block.right}; find the block of the map that is drawn"
            )


def draw_marks(axes: Axes, marks: Marks, L: int, T: int) -> list[tuple[Artist, str]]:
    """Draw marks on the cells of a map whose axes run from 0 to T and 0 to L.

    Returns:
        A handle and a label for the legend for each kind of mark that was drawn.
    """
    marks.check(L, T)
    legend: list[tuple[Artist, str]] = []
    box = axes.get_window_extent()
    width, height = (72 * side / axes.figure.dpi for side in (box.width, box.height))  # points

    def outline(mask: Tensor, style: dict[str, Any], inset: float, label: str) -> None:
        lines = LineCollection(trace_outline(mask, inset * T / width, inset * L / height), **style, clip_on=False)
        axes.add_collection(lines, autolim=False)
        line = {name: value for name, value in style.items() if name in ("linewidth", "linestyle")}
        legend.append((Patch(facecolor="none", edgecolor=style["colors"], **line), label))

    if marks.above_chance is not None and marks.above_chance.any():
        outline(marks.above_chance, ABOVE_CHANCE, -1.6, "above chance: noise alone stays below in 95% of maps")
    if marks.near_best is not None and marks.near_best.any():
        outline(marks.near_best, NEAR_BEST, 1.9, "cannot be told from the best cell")
    if marks.different is not None and marks.different.any():
        outline(marks.different, DIFFERENT, 0, "differs from 0: 95% for all cells at once")
    if marks.block is not None:
        mask = torch.zeros(L, T, dtype=torch.bool)
        mask[marks.block.top : marks.block.bottom + 1, marks.block.left : marks.block.right + 1] = True
        outline(mask, BLOCK, 0, "dominant block")
        legend.insert(0, legend.pop())
    if marks.short is not None and marks.short.any():
        rows, columns = marks.short.nonzero(as_tuple=True)
        axes.plot((columns + 0.5).tolist(), (rows + 0.5).tolist(), **CROSS, scalex=False, scaley=False)
        legend.append((Line2D([], [], **CROSS), "probe short of its optimum"))
    return legend


def trace_outline(mask: Tensor, inset_x: float = 0.0, inset_y: float = 0.0) -> list[Segment]:
    """Trace the edges between cells inside and outside of a set, not those between two cells of the set.

    Args:
        mask: bool ``[L, T]``; cell (row, column) is the square from (column, row) to (column + 1, row + 1).
        inset_x, inset_y: how far inside of the set to draw, in cells.

    Returns:
        Horizontal and vertical segments, each as long as it can be, as ((x, y), (x, y)).

    Example:
        >>> trace_outline(torch.tensor([[True, True]]))[:2]
        [((0.0, 0.0), (2.0, 0.0)), ((0.0, 1.0), (2.0, 1.0))]
    """
    horizontal = [((a, y), (b, y)) for a, b, y in _trace_rows(mask.tolist(), inset_x, inset_y)]
    vertical = [((x, a), (x, b)) for a, b, x in _trace_rows(mask.T.tolist(), inset_y, inset_x)]
    return horizontal + vertical


def _trace_rows(cells: list[list[bool]], along: float, across: float) -> list[tuple[float, float, float]]:
    """Edges above and below the cells of each row: start, end and height."""
    found = []

    def inside(row: int, column: int) -> bool:
        return 0 <= row < len(cells) and 0 <= column < len(cells[row]) and cells[row][column]

    for row in range(len(cells)):
        for beyond, height in ((row - 1, row + across), (row + 1, row + 1 - across)):
            start = None
            for column in range(len(cells[row]) + 1):
                edge = inside(row, column) and not inside(beyond, column)
                if edge and start is None:
                    start = column
                elif not edge and start is not None:
                    # an inset line ends early at an outer corner, and late at an inner one
                    left = start - along if inside(row, start - 1) else start + along
                    right = column + along if inside(row, column) else column - along
                    found.append((float(left), float(right), float(height)))
                    start = None
    return found
