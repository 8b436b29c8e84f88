import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import PatchCollection, QuadMesh
from matplotlib.text import Text
from PIL import Image
from pytorch_lightning.trainer.states import TrainerFn

from datamodules.card import Count
from probes.analysis.auc_map import AUCMap
from probes.report.heatmap import Heatmap, caption
from probes.report.heatmap import draw as draw_maps
from probes.report.style import NO_AUC
from tests.support.cards import make_card

PAPER = (
    "last_q", "first_answer", "second_answer", "exact_answer_before_first", "exact_answer_first", "exact_answer_last",
    "exact_answer_after_last", "-8", "-7", "-6", "-5", "-4", "-3", "-2", "-1",
)  # fmt: skip

TENSORS = ("auc", "auc_se", "n", "n_positive")


def a_map(L=8, T=15, split="test", seed=0, low=0.5) -> AUCMap:
    generator = torch.Generator().manual_seed(seed)
    auc = low + (1 - low) * torch.rand(L, T, generator=generator, dtype=torch.float64)
    n = torch.full((L, T), 200)
    names = (PAPER + tuple(f"position_{column}" for column in range(T)))[:T]
    return AUCMap("correctness", split, tuple(range(L)), names, auc, auc * 0.05, n, n // 2)


def unreadable(auc_map: AUCMap, *cells) -> AUCMap:
    for cell in cells:
        auc_map.n_positive[cell] = 9
    return auc_map


def a_module(**maps) -> SimpleNamespace:
    counts = {"train": (800, 400), "val": (1200, 300), "test": (200, 92)}
    card = make_card(range(8), PAPER, model="tiny", dataset="capitals", counts=counts)
    maps = {split: [one] for split, one in maps.items()}
    return SimpleNamespace(maps=maps, tested=card, described="logistic, l2 = 1")


def draw(auc_map, title, subtitle):
    return draw_maps([auc_map], title, subtitle)


def a_trainer(**changes) -> Any:
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    usual = {"is_global_zero": True, "sanity_checking": False, "loggers": [], "state": state, "max_epochs": 1}
    return SimpleNamespace(**(usual | changes))


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
    figure = draw(auc_map, f"Where correctness can be read: {name}", f"{name}  ·  n = 200")
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


@pytest.mark.parametrize(("L", "step"), [(1, 1), (12, 1), (13, 2), (32, 2)])
def test_layers_run_down_from_zero(L, step):
    axes = draw(a_map(L, 3), "title", "subtitle").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [str(layer) for layer in range(0, L, step)]
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


def test_caption_says_what_the_map_rests_on():
    title, subtitle = caption(a_module().tested, "logistic, l2 = 1", "val")
    assert title == "Where correctness can be read: capitals"
    assert " ".join(subtitle.split()) == "tiny · resid_post · logistic, l2 = 1 · val split · n = 1,200 · base rate 25%"


def test_caption_of_an_empty_split():
    card = a_module().tested
    [target] = card.targets
    card = replace(card, targets=(replace(target, counts={"test": Count(0, 0)}),))
    assert "base\N{NO-BREAK SPACE}rate\N{NO-BREAK SPACE}none" in caption(card, "mlp", "test")[1]


def test_csv_round_trip_of_both_splits(tmp_path):
    maps = {"test": unreadable(a_map(3, 4, "test", 1), (0, 1)), "val": a_map(3, 4, "val", 2)}
    maps["test"].auc[1, 1] = math.nan
    Heatmap(tmp_path).on_test_end(a_trainer(), a_module(**maps))
    expected = pd.concat([maps["val"].table(), maps["test"].table()], ignore_index=True)
    got = pd.read_csv(tmp_path / "heatmap.csv", dtype={"split": "str", "position": "str"})
    assert list(got.columns) == ["target", "split", "layer", "position", "auc", "auc_se", "n", "n_positive"]
    pd.testing.assert_frame_equal(got, expected, check_dtype=False, rtol=0, atol=5.1e-10)


def test_validation_writes_validation(tmp_path):
    Heatmap(tmp_path / "new" / "folder").on_validation_end(a_trainer(), a_module(val=a_map(2, 2, "val")))
    assert set(pd.read_csv(tmp_path / "new" / "folder" / "heatmap.csv")["split"]) == {"val"}


def test_a_fit_of_several_epochs_keeps_the_map_of_each(tmp_path):
    callback = Heatmap(tmp_path)
    for epoch in range(2):
        callback.on_validation_end(a_trainer(max_epochs=2, current_epoch=epoch), a_module(val=a_map(seed=epoch)))
    testing = SimpleNamespace(fn=TrainerFn.TESTING)
    callback.on_test_end(a_trainer(max_epochs=2, current_epoch=2, state=testing), a_module(test=a_map(seed=5)))
    first, second = sorted((tmp_path / "epochs").iterdir())
    assert (first.name, second.name) == ("000.png", "001.png")
    assert first.read_bytes() != second.read_bytes()
    callback.on_validation_end(a_trainer(max_epochs=1), a_module(val=a_map(seed=1)))
    assert second.read_bytes() == (tmp_path / "heatmap.png").read_bytes()


def test_pictures_are_whole_and_the_same_every_time(tmp_path):
    contents = []
    for name in ("one", "two"):
        module = a_module(test=unreadable(a_map(), (0, 0)))
        Heatmap(tmp_path / name).on_test_end(a_trainer(), module)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert set(contents[0]) == {"heatmap.png", "heatmap.pdf", "heatmap.csv"}  # and nothing temporary
    assert contents[0] == contents[1]
    assert contents[0]["heatmap.pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in contents[0]["heatmap.pdf"]
    with Image.open(tmp_path / "one" / "heatmap.png") as image:
        assert image.info.get("Software") is None
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 1000
    darkest, lightest = (matplotlib.colormaps["Blues"](shade, bytes=True)[:3] for shade in (1.0, 0.0))
    for colour in (darkest, lightest, (255, 255, 255)):
        assert (np.abs(pixels.astype(int) - np.asarray(colour, int)).max(-1) <= 3).any()


def test_only_global_rank_zero_writes_and_not_in_the_sanity_check(tmp_path):
    module = a_module(val=a_map(2, 2, "val"), test=a_map(2, 2))
    callback = Heatmap(tmp_path / "none")
    callback.on_test_end(a_trainer(is_global_zero=False), module)
    callback.on_validation_end(a_trainer(is_global_zero=False), module)
    callback.on_validation_end(a_trainer(sanity_checking=True), module)
    assert not (tmp_path / "none").exists()


def test_loggers_get_the_figure_in_their_own_way(tmp_path):
    seen = {}

    def add_figure(tag, figure, step, close):
        seen["tensorboard"] = (tag, figure.axes[0].get_xlabel(), step, close)

    def log_image(key, images):
        seen["wandb"] = (key, images)

    loggers = [
        SimpleNamespace(experiment=SimpleNamespace(add_figure=add_figure)),
        SimpleNamespace(experiment=SimpleNamespace(), log_image=log_image),
        SimpleNamespace(experiment=SimpleNamespace()),  # as CSVLogger: no images
    ]
    Heatmap(tmp_path).on_test_end(a_trainer(loggers=loggers, global_step=3), a_module(test=a_map(2, 2)))
    assert seen["tensorboard"] == ("heatmap/test", "Token", 3, False)
    assert seen["wandb"] == ("heatmap/test", [str(tmp_path / "heatmap.png")])


def test_a_picture_of_many_maps_stays_below_the_largest_that_can_be_saved(monkeypatch):
    monkeypatch.setattr("probes.report.heatmap.MOST_PIXELS", 600)
    values, counts = torch.full((2, 3), 0.7), torch.full((2, 3), 50)
    maps = [AUCMap(str(k), "test", (0, 1), ("a", "b", "c"), values, values, counts, counts // 2) for k in range(2)]
    figure = draw_maps(maps, "title", "subtitle")
    assert max(figure.get_size_inches()) * figure.dpi == pytest.approx(600)


def test_of_many_label_sets_the_first_eight_are_drawn_and_all_are_in_the_table(tmp_path):
    maps = [replace(a_map(2, 3, seed=k), target=f"label {k}") for k in range(10)]
    card = make_card(range(2), PAPER[:3], names=[one.target for one in maps])
    title, subtitle = caption(card, "logistic", "test")
    assert "label 7, ..." in title
    assert "label 8" not in title
    assert "8\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}10" in subtitle
    module = SimpleNamespace(maps={"test": maps}, tested=card, described="logistic")
    drawn = []
    logger = SimpleNamespace(experiment=SimpleNamespace(add_figure=lambda _, figure, *__, **___: drawn.append(figure)))
    Heatmap(tmp_path).on_test_end(a_trainer(loggers=[logger], global_step=1), module)
    assert len(drawn[0].axes) == 2 * 8  # a map and its colour bar
    assert len(set(pd.read_csv(tmp_path / "heatmap.csv")["target"])) == 10
