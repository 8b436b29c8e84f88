import itertools
import math
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, PatchCollection, QuadMesh
from matplotlib.text import Text

from probes.analysis.auc_map import AUCMap
from probes.analysis.block import find_block
from probes.report.marks import Marks
from probes.report.picture import draw as draw_maps
from probes.report.style import NO_AUC
from tests.support.maps import PAPER, a_map, unreadable


def draw(auc_map, title="title", subtitle="subtitle", marks=None, **more):
    return draw_maps([auc_map], title, subtitle, marks and [marks], **more)


def mesh_of(figure) -> Any:
    return next(item for item in figure.axes[0].collections if isinstance(item, QuadMesh))


@pytest.mark.parametrize(
    ("L", "T", "name"),
    [
        *((L, T, "short") for L, T in ((8, 15), (32, 15), (80, 30), (2, 3), (1, 1))),
        (8, 15, "an-organisation/a model with a very long name " * 5),
        (1, 1, "x" * 300),
    ],
)
def test_no_text_is_cut_off(L, T, name):
    auc_map = unreadable(a_map(L, T, low=0.2), (0, 0))
    auc_map.n[:, -1] = 1234
    some = auc_map.auc > 0.5
    figure = draw(
        auc_map,
        f"Where correctness can be read: {name}",
        f"{name}  ·  n = 200",
        Marks(find_block(auc_map), some, some, some),
        foot=f"{name}: a baseline has .790 ± .028, " * 8,
    )
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert {"Token", "Layer", "AUC", NO_AUC, *auc_map.positions} <= {text.get_text() for text in texts}
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text


def test_no_text_is_cut_off_by_long_position_names():
    auc_map = a_map(3, 2)
    auc_map = AUCMap(
        "correctness",
        "test",
        auc_map.layers,
        ("p" * 120, "q" * 80),
        auc_map.auc,
        auc_map.auc_se,
        auc_map.n,
        auc_map.n_positive,
    )
    figure = draw(auc_map, "title", "subtitle")
    figure.canvas.draw()
    for text in figure.axes[0].get_xticklabels():
        box = text.get_window_extent()
        assert min(box.x0, box.y0) >= 0


@pytest.mark.parametrize("L", [8, 32, 80, 200])
def test_layer_numbers_do_not_run_into_each_other(L):
    figure = draw(a_map(L, 4), "title", "subtitle")
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    ("L", "ticks"),
    [
        (1, [0]),
        (12, range(12)),
        (13, range(0, 13, 2)),
        (32, [*range(0, 32, 2), 31]),
        (80, [*range(0, 78, 2), 79]),  # no room for 78
    ],
)
def test_layers_run_down_from_zero_to_the_last(L, ticks):
    axes = draw(a_map(L, 3), "title", "subtitle").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [str(layer) for layer in ticks]
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.get_xticklabels()] == list(PAPER[:3])


def test_colour_is_the_auc_in_blues_from_one_half_to_one():
    auc_map = a_map(2, 2)
    auc_map.auc[:] = torch.tensor([[0.5, 1.0], [0.75, 0.3]])
    mesh = mesh_of(draw(auc_map, "title", "subtitle"))
    mesh.update_scalarmappable()
    expected = matplotlib.colormaps["Blues"]([0.0, 1.0, 0.5, 0.0])  # below 0.5: the lightest
    np.testing.assert_allclose(mesh.get_facecolor(), expected, atol=1e-6)


@pytest.mark.parametrize(("lowest", "extend"), [(0.5, "neither"), (0.49, "min")])
def test_the_colour_bar_has_an_arrow_only_below_one_half(lowest, extend):
    auc_map = unreadable(a_map(2, 3), (1, 1))
    auc_map.auc[0, 0] = lowest
    auc_map.auc[1, 1] = 0.1  # cannot be read, so it has no say
    assert mesh_of(draw(auc_map, "title", "subtitle")).colorbar.extend == extend


def test_unreadable_cells_are_hatched_not_coloured():
    auc_map = unreadable(a_map(4, 5), (1, 2), (3, 0))
    auc_map.auc[2, 4] = math.nan
    figure = draw(auc_map, "title", "subtitle")
    hatched = next(item for item in figure.axes[0].collections if isinstance(item, PatchCollection))
    assert hatched.get_hatch()
    corners = {tuple(np.asarray(path.vertices).min(0).astype(int).tolist()) for path in hatched.get_paths()}
    assert corners == {(2, 1), (0, 3), (4, 2)}  # (column, row)
    coloured = ~np.ma.getmaskarray(mesh_of(figure).get_array())
    assert (coloured == auc_map.readable().numpy()).all()


def test_no_legend_where_every_cell_can_be_read():
    assert draw(a_map(), "title", "subtitle").axes[0].get_legend() is None


def test_a_map_without_a_readable_cell_is_drawn():
    auc_map = a_map(2, 2)
    auc_map.auc[:] = math.nan
    figure = draw(auc_map, "title", "subtitle")
    figure.canvas.draw()
    assert figure.axes[0].get_legend() is not None


def test_drawing_leaves_pyplot_and_its_settings_alone():
    before = dict(matplotlib.rcParams)
    draw(a_map(), "title", "subtitle")
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_names_are_not_mathematics():
    figure = draw(a_map(2, 2), r"costs $5 or \$6$", "$_$")
    figure.canvas.draw()
    assert r"costs $5 or \$6$" in {text.get_text() for text in figure.findobj(Text)}


def test_a_picture_of_many_maps_stays_below_the_largest_that_can_be_saved(monkeypatch):
    monkeypatch.setattr("probes.report.picture.MOST_PIXELS", 600)
    values, counts = torch.full((2, 3), 0.7), torch.full((2, 3), 50)
    maps = [AUCMap(str(k), "test", (0, 1), ("a", "b", "c"), values, values, counts, counts // 2) for k in range(2)]
    figure = draw_maps(maps, "title", "subtitle")
    assert max(figure.get_size_inches()) * figure.dpi == pytest.approx(600)


def counts_above(figure):
    """Texts just above the map by row: the name of the row, then one for each column."""
    rows = {}
    for text in figure.axes[0].texts:
        if text.get_fontsize() == 7:
            rows.setdefault(round(text.xyann[1], 3), []).append(text.get_text())
    return {row[-1]: row[:-1] for row in rows.values()}


def test_counts_stand_above_the_columns_where_they_differ():
    auc_map = a_map(4, 3)
    assert counts_above(draw(auc_map)) == {}
    auc_map.n[:, 1] = 1000
    auc_map.n_positive[:, 1] = 500
    assert counts_above(draw(auc_map)) == {"n": ["200", "1,000", "200"]}  # the base rate is the same
    auc_map.n_positive[:, 1] = 250
    assert counts_above(draw(auc_map)) == {"n": ["200", "1,000", "200"], "base rate": ["50%", "25%", "50%"]}


@pytest.mark.parametrize("T", [15, 40])
def test_counts_do_not_run_into_each_other(T):
    auc_map = a_map(4, T)
    auc_map.n[:, -1] = 1000
    figure = draw(auc_map)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text() in ("200", "1,000")]
    assert len(boxes) == T
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_a_gap_parts_columns_that_are_not_neighbours():
    axes = draw(a_map(4, 15)).axes[0]
    [gaps] = [item for item in axes.collections if isinstance(item, LineCollection)]
    assert [[tuple(point) for point in line] for line in gaps.get_segments()] == [[(3, 0), (3, 4)], [(7, 0), (7, 4)]]


@pytest.mark.parametrize(
    ("vmin", "vmax", "extend"), [(0.4, 0.9, "neither"), (0.6, 0.9, "min"), (0.4, 0.7, "max"), (0.6, 0.7, "both")]
)
def test_colours_of_a_pale_map(vmin, vmax, extend):
    auc_map = a_map(1, 2)
    auc_map.auc[:] = torch.tensor([[0.5, 0.8]])
    mesh = mesh_of(draw(auc_map, vmin=vmin, vmax=vmax))
    assert mesh.colorbar.extend == extend
    mesh.update_scalarmappable()
    shades = [min(max((auc - vmin) / (vmax - vmin), 0.0), 1.0) for auc in (0.5, 0.8)]
    np.testing.assert_allclose(mesh.get_facecolor(), matplotlib.colormaps["Blues"](shades), atol=1e-6)


def test_the_legend_explains_the_marks_that_are_used():
    auc_map, none = unreadable(a_map(4, 5), (3, 0)), torch.zeros(4, 5, dtype=torch.bool)
    block = find_block(auc_map)
    assert block is not None

    def legend(marks):
        key: Any = draw(auc_map, marks=marks).axes[0].get_legend()
        return [text.get_text().split(":")[0] for text in key.get_texts()]

    unread = "no AUC"
    assert legend(Marks(above_chance=none, near_best=none, short=none)) == [unread]
    assert legend(Marks(short=~none)) == ["probe short of its optimum", unread]
    assert legend(Marks(block, ~none, ~none)) == [
        "dominant block", "above chance", "cannot be told from the best cell", unread,
    ]  # fmt: skip


def test_marks_are_for_each_map_and_fit_it():
    with pytest.raises(ValueError, match="marks: expected one for each of 2 maps, got 1"):
        draw_maps([a_map(), a_map()], "title", "subtitle", [Marks()])
    with pytest.raises(ValueError, match=r"marks.short: expected bool \[layers, positions\] = \[8, 15\], got"):
        draw(a_map(), marks=Marks(short=torch.ones(15, 8, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"marks.near_best: expected bool"):
        draw(a_map(), marks=Marks(near_best=torch.ones(8, 15)))
    block = find_block(a_map())
    with pytest.raises(ValueError, match=r"marks.block: expected rows below 2 and columns below 2"):
        draw(a_map(2, 2), marks=Marks(block))


def test_a_foot_keeps_its_lines_and_a_number_with_its_error():
    foot = "first line\n" + "baseline .790 ± .028, " * 20
    figure = draw(a_map(), foot=foot)
    [text] = [text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("first line")]
    assert text.splitlines()[0] == "first line"
    assert len(text.splitlines()) > 2
    assert text.count("\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}") == 20
    assert " ".join(text.split()) == " ".join(foot.split())


def test_a_foot_breaks_between_its_fields():
    fields = [f"the baseline of number {number} has .79" for number in range(12)]
    figure = draw(a_map(), foot="  ·  ".join(fields))
    [text] = [text.get_text() for text in figure.axes[0].texts if "baseline" in text.get_text()]
    lines = text.replace("\N{NO-BREAK SPACE}", " ").splitlines()
    assert len(lines) > 2
    assert [field for line in lines for field in line.strip(" ·").split("  ·  ")] == fields
