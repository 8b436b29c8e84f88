import itertools
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from probes.analysis.block import Block
from probes.report.marks import Marks, draw_marks, trace_outline
from probes.report.style import ABOVE_CHANCE, BLOCK, NEAR_BEST


def edges_of(mask):
    """Unit edges between a cell of a set and a cell outside, by comparing all pairs of neighbours."""
    L, T = mask.shape
    padded = np.pad(mask.numpy(), 1)
    found = set()
    for y, x in itertools.product(range(L + 2), range(T + 2)):
        if x + 1 < T + 2 and padded[y, x] != padded[y, x + 1]:
            found.add(((x, y - 1), (x, y)))
        if y + 1 < L + 2 and padded[y, x] != padded[y + 1, x]:
            found.add(((x - 1, y), (x, y)))
    return found


def unit_edges(segments):
    found = []
    for (x0, y0), (x1, y1) in segments:
        if y0 == y1:
            found += [((x, int(y0)), (x + 1, int(y0))) for x in range(int(x0), int(x1))]
        else:
            found += [((int(x0), y), (int(x0), y + 1)) for y in range(int(y0), int(y1))]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_an_outline_is_every_edge_between_inside_and_outside_once(seed):
    generator = torch.Generator().manual_seed(seed)
    L, T = torch.randint(1, 7, (2,), generator=generator).tolist()
    mask = torch.rand(L, T, generator=generator) < 0.6
    got = unit_edges(trace_outline(mask))
    assert set(got) == edges_of(mask)
    assert len(got) == len(set(got))


def test_a_rectangle_is_four_lines():
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[1:4, 2:5] = True
    assert set(trace_outline(mask)) == {((2, 1), (5, 1)), ((2, 4), (5, 4)), ((2, 1), (2, 4)), ((5, 1), (5, 4))}


def test_an_inset_outline_is_closed_at_outer_and_inner_corners():
    mask = torch.tensor([[True, False], [True, True]])  # an L, whose inner corner is at (1, 1)
    got = trace_outline(mask, 0.1, 0.2)
    expected = [
        ((0.1, 0.2), (0.9, 0.2)), ((0.9, 1.2), (1.9, 1.2)), ((0.1, 1.8), (1.9, 1.8)),
        ((0.1, 0.2), (0.1, 1.8)), ((0.9, 0.2), (0.9, 1.2)), ((1.9, 1.2), (1.9, 1.8)),
    ]  # fmt: skip
    assert sorted(np.round(got, 9).tolist()) == sorted(np.round(expected, 9).tolist())
    ends = [tuple(np.round(end, 9)) for segment in got for end in segment]
    assert all(ends.count(end) == 2 for end in ends)


@pytest.mark.parametrize("inset", [0.1, -0.1])
@pytest.mark.parametrize("seed", range(5))
def test_every_inset_outline_is_closed(seed, inset):
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(seed)) < 0.7
    ends = [tuple(np.round(end, 6)) for segment in trace_outline(mask, inset, inset) for end in segment]
    assert all(ends.count(end) % 2 == 0 for end in ends)


def test_marks_are_drawn_on_their_cells_in_their_own_lines():
    figure = Figure(figsize=(4, 4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 4), ylim=(4, 0))
    above, near, short = (torch.zeros(4, 4, dtype=torch.bool) for _ in range(3))
    above[:, 1:] = True
    near[2, 2] = True
    short[3, 0] = short[1, 2] = True
    block = Block(1, 3, 2, 3, 0.8, 6, 6, 0.4, 0.9, 0.6)

    legend = draw_marks(axes, Marks(block, above, near, short), 4, 4)

    assert len(legend) == 4
    lines: Any = [item for item in axes.collections if isinstance(item, LineCollection)]
    drawn = {float(item.get_linewidths()[0]): item for item in lines}
    styles = (ABOVE_CHANCE, BLOCK, NEAR_BEST)
    boxes = {style["linewidth"]: np.concatenate(drawn[style["linewidth"]].get_segments()) for style in styles}
    points = 4 / (4 * 72)  # of a line, in cells
    for style, (left, top, right, bottom), inset in (
        (BLOCK, (2, 1, 4, 4), 0),
        (NEAR_BEST, (2, 2, 3, 3), 1.9 * points),
        (ABOVE_CHANCE, (1, 0, 4, 4), -1.6 * points),
    ):
        box = boxes[style["linewidth"]]
        np.testing.assert_allclose(box.min(0), (left + inset, top + inset))
        np.testing.assert_allclose(box.max(0), (right - inset, bottom - inset))
    crosses: Any = axes.lines[0]
    assert {(float(x), float(y)) for x, y in crosses.get_xydata()} == {(0.5, 3.5), (2.5, 1.5)}
