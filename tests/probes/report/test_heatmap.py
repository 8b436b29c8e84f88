import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.trainer.states import TrainerFn

from datamodules.card import Count
from probes.report.heatmap import Heatmap
from probes.report.map_files import caption, shorten_model, write_heatmap
from probes.report.marks import Marks
from tests.support.cards import make_card
from tests.support.maps import PAPER, a_map, unreadable


def a_module(**maps) -> SimpleNamespace:
    counts = {"train": (800, 400), "val": (1200, 300), "test": (200, 92)}
    card = make_card(range(8), PAPER, model="tiny", dataset="capitals", counts=counts)
    maps = {split: [one] for split, one in maps.items()}
    return SimpleNamespace(maps=maps, tested=card, described="logistic, l2 = 1", fitted={}, analyses=[])


def a_trainer(**changes) -> Any:
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    usual = {"is_global_zero": True, "sanity_checking": False, "state": state, "max_epochs": 1}
    return SimpleNamespace(**(usual | changes))


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
        callback.on_validation_end(a_trainer(max_epochs=2, current_epoch=epoch), a_module(val=a_map(2, 2, seed=epoch)))
        assert not (tmp_path / "heatmap.pdf").exists()
    testing = SimpleNamespace(fn=TrainerFn.TESTING)
    callback.on_test_end(a_trainer(max_epochs=2, current_epoch=2, state=testing), a_module(test=a_map(2, 2, seed=5)))
    first, second = sorted((tmp_path / "epochs").iterdir())
    assert (first.name, second.name) == ("000.png", "001.png")
    assert first.read_bytes() != second.read_bytes()
    assert (tmp_path / "heatmap.pdf").exists()
    callback.on_validation_end(a_trainer(max_epochs=1), a_module(val=a_map(2, 2, seed=1)))
    assert second.read_bytes() == (tmp_path / "heatmap.png").read_bytes()
    assert not (tmp_path / "heatmap.pdf").exists()  # it was of another map


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


@pytest.mark.parametrize(
    ("within_fit", "max_epochs", "loggers", "drawn_in_fit"),
    [
        (True, 1, [], True),
        (False, 1, [CSVLogger("logs")], False),
        (False, 1, [CSVLogger("logs"), SimpleNamespace()], True),
        (False, 3, [], True),
    ],
)
def test_the_map_of_a_fit_is_drawn_where_somebody_may_see_it(within_fit, max_epochs, loggers, drawn_in_fit, tmp_path):
    module = a_module(val=a_map(2, 2, "val"))
    trainer = a_trainer(max_epochs=max_epochs, loggers=loggers, current_epoch=0)
    callback = Heatmap(tmp_path, within_fit=within_fit)
    callback.on_validation_end(trainer, module)
    assert (tmp_path / "heatmap.png").exists() == drawn_in_fit
    assert len((tmp_path / "heatmap.csv").read_text().splitlines()) == 5
    module.maps["test"] = [a_map(2, 2)]
    callback.on_test_end(trainer, module)
    assert (tmp_path / "heatmap.png").exists()
    assert (tmp_path / "heatmap.pdf").exists()


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that the callback draws."""
    figures = []

    def draw_and_keep(*given, **named):
        figures.append(write_heatmap(*given, **named))
        return figures[-1]

    monkeypatch.setattr("probes.report.heatmap.write_heatmap", draw_and_keep)
    return figures


def test_of_many_label_sets_the_first_eight_are_drawn_and_all_are_in_the_table(tmp_path, drawn):
    maps = [replace(a_map(2, 3, seed=k), target=f"label {k}") for k in range(10)]
    card = make_card(range(2), PAPER[:3], names=[one.target for one in maps])
    title, subtitle = caption(card, "logistic", "test")
    assert "label 7, ..." in title
    assert "label 8" not in title
    assert "8\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}10" in subtitle
    module = SimpleNamespace(maps={"test": maps}, tested=card, described="logistic", fitted={}, analyses=[])
    Heatmap(tmp_path).on_test_end(a_trainer(), module)
    assert len(drawn[0].axes) == 2 * 8  # a map and its colour bar
    assert len(set(pd.read_csv(tmp_path / "heatmap.csv")["target"])) == 10


@pytest.mark.parametrize(
    ("model", "short"),
    [
        ("probegrid demo model", "probegrid demo model"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "Mistral-7B-Instruct-v0.2"),
        ("Qwen/Qwen2.5-1.5B", "Qwen2.5-1.5B"),  # .5B is not the ending of a file
        ("/tmp/models/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1"),
        ("models/own/", "own"),
        (r"C:\models\own.GGUF", "own"),
        (".gguf", ".gguf"),
    ],
)
def test_a_model_has_a_short_name_in_the_caption(model, short):
    assert shorten_model(model) == short
    card = replace(a_module().tested, model=model)
    assert caption(card, "logistic", "test")[1].split("  ·  ")[0].replace("\N{NO-BREAK SPACE}", " ") == short


@pytest.mark.parametrize(("groups", "said"), [(None, "n = 200"), (61, "n = 200 in 61 groups"), (200, "n = 200")])
def test_caption_says_how_many_groups_the_examples_form(groups, said):
    card = a_module().tested
    [target] = card.targets
    count = SimpleNamespace(n=200, n_positive=92, n_groups=groups)
    card = replace(card, targets=(replace(target, counts={"test": count}),))
    assert caption(card, "mlp", "test")[1].replace("\N{NO-BREAK SPACE}", " ").split("  ·  ")[-2] == said


@pytest.mark.parametrize(
    ("vmin", "vmax"), [(0.8, 0.7), (0.5, 0.5), (-0.1, 1.0), (0.5, 1.5), ("low", 1.0), (None, 1.0), (float("nan"), 1.0)]
)
def test_colours_that_make_no_sense_are_refused_at_once(vmin, vmax):
    with pytest.raises(ValueError, match=r"heatmap.vmin, heatmap.vmax: expected 0 <= vmin < vmax <= 1, got") as caught:
        Heatmap("folder", vmin, vmax)
    assert "\n" not in str(caught.value)


def test_the_callback_passes_its_colours_on_and_outlines_the_block(tmp_path, drawn):
    one = a_map()
    one.auc[:] = 0.6
    one.auc[3:6, 4:6] = 0.9
    Heatmap(tmp_path, 0.4, 0.8).on_test_end(a_trainer(), a_module(test=one))
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dominant block"]
    mesh = next(item for item in axes.collections if item.colorbar is not None)
    assert mesh.get_clim() == (0.4, 0.8)
    assert mesh.colorbar.extend == "max"


def test_a_heatmap_is_written_without_a_trainer_with_more_columns_for_the_test_rows(tmp_path):
    module = a_module(val=a_map(3, 4, "val", 2), test=a_map(3, 4, "test", 1))
    more = {"p_family": torch.rand(3, 4), "near_best": torch.rand(3, 4) < 0.5}
    marks = [Marks(near_best=more["near_best"])]
    figure = write_heatmap(tmp_path, module.maps, module.tested, "logistic", "test", marks, "a foot", columns=[more])
    assert figure is not None
    assert {path.name for path in tmp_path.iterdir()} == {"heatmap.png", "heatmap.pdf", "heatmap.csv"}
    assert "a foot" in {text.get_text() for text in figure.axes[0].texts}
    got = pd.read_csv(tmp_path / "heatmap.csv", dtype={"position": "str"})
    assert list(got.columns)[-2:] == ["p_family", "near_best"]
    test, val = (got.loc[got["split"] == split].reset_index(drop=True) for split in ("test", "val"))
    np.testing.assert_allclose(test["p_family"], more["p_family"].flatten(), atol=1e-9)
    assert test["near_best"].tolist() == more["near_best"].flatten().tolist()
    assert val["p_family"].isna().all()
    assert val["near_best"].isna().all()
    expected = module.maps["val"][0].table()
    pd.testing.assert_frame_equal(val.loc[:, list(expected.columns)], expected, check_dtype=False, atol=1e-9)


def test_columns_that_do_not_fit_are_refused(tmp_path):
    module = a_module(test=a_map(2, 3))
    with pytest.raises(ValueError, match=r"columns.p: expected \[layers, positions\] = \[2, 3\], got \[3, 2\]"):
        write_heatmap(tmp_path, module.maps, module.tested, "", "test", columns=[{"p": torch.ones(3, 2)}])
    with pytest.raises(ValueError, match="columns: expected a dict for each of 1 maps, got 2"):
        write_heatmap(tmp_path, module.maps, module.tested, "", "test", columns=[{}, {}])
    assert not list(tmp_path.iterdir())
