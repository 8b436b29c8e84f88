"""A grid in memory, as a run folder, and back; the commands on finished runs read it."""

import math
import shutil
from dataclasses import replace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

from probes import LinearProbes, fit_grid, load_grid
from probes.report.commands import analyse_run
from probes.report.compare_runs import compare_runs
from tests.probes.python.test_fit_grid import NAMES, make_tensors, run_the_command


@pytest.fixture(scope="module")
def grid():
    return fit_grid(**make_tensors(), **NAMES, targets="truth")


@pytest.fixture(scope="module")
def saved(grid, tmp_path_factory):
    return grid.save(tmp_path_factory.mktemp("runs") / "mine")


def test_a_grid_comes_back_from_its_folder(grid, saved):
    back = load_grid(saved)
    assert repr(back) == repr(grid)
    assert back.best()[:2] == grid.best()[:2]
    assert back.best()[2:4] == pytest.approx(grid.best()[2:4], abs=1e-9)
    for split in ("val", "test"):
        torch.testing.assert_close(back.maps[split][0].auc, grid.maps[split][0].auc, atol=1e-9, rtol=0)
        for ours, theirs in zip(back.scores(split), grid.scores(split), strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert back.examples.equals(grid.examples)
    assert torch.equal(back.probes.weight, grid.probes.weight)
    assert torch.equal(LinearProbes.load(saved).weight, grid.probes.weight)
    again = back.save(saved.parent / "again")
    for name in ("probes.safetensors", "scores.safetensors", "heatmap.csv", "heatmap.png"):
        assert (again / name).read_bytes() == (saved / name).read_bytes(), name


def test_what_it_holds(grid):
    tensors = make_tensors()
    rows = grid.scores("test")
    scores = grid.apply(tensors["acts"])[0][..., rows.examples]
    valid = tensors["valid"][rows.examples].T
    assert torch.equal(rows.scores.isnan(), ~valid.expand(2, -1, -1))
    torch.testing.assert_close(scores.where(valid, torch.nan), rows.scores, equal_nan=True, atol=1e-5, rtol=1e-5)
    assert torch.equal(rows.labels.long(), tensors["labels"][rows.examples])
    direction = grid.direction(layer=8, position="last")
    assert float(direction.norm()) == pytest.approx(1)
    assert int(direction.argmax()) == 0  # where the labels were added
    best = grid.best()
    assert (best.layer, best.position, best.chosen_on, best.target) == (8, "last", "val", "truth")
    assert best.auc == float(grid.map.auc[1, 1])
    assert best.auc_se == float(grid.map.auc_se[1, 1]) > 0
    assert best.val_auc == float(grid.maps["val"][0].auc[1, 1])
    assert f"layer 8, last, test AUC {best.auc:.3f} ± {best.auc_se:.3f}" in repr(grid)
    assert "2 layers x 2 positions, width 6, logistic regression, standardised" in repr(grid)


def test_the_picture_is_that_of_the_run(grid, saved, tmp_path):
    grid.plot(tmp_path / "own.png")
    assert (tmp_path / "own.png").read_bytes() == (saved / "heatmap.png").read_bytes()
    (tmp_path / "shown.png").write_bytes(grid._repr_png_())
    assert matplotlib.image.imread(tmp_path / "shown.png").std() > 0.05
    with pytest.raises(ValueError, match=r"plot: expected a path that ends in .png or .pdf, got a.gif; rename it"):
        grid.plot("a.gif")


def test_commands_on_finished_runs_read_it(saved, tmp_path, capsys):
    before = (saved / "heatmap.csv").read_text()
    analyse_run(str(saved))
    assert (saved / "heatmap.csv").read_text() == before
    assert "Best cell (chosen on validation rows): layer 8, last" in capsys.readouterr().out
    other = fit_grid(**make_tensors(), **NAMES, targets="truth", probe="mass_mean")
    compare_runs([str(saved), str(other.save(tmp_path / "other"))], str(tmp_path / "compared"))
    table = pd.read_csv(tmp_path / "compared/difference.csv")
    theirs = other.map.auc.flatten().numpy()
    np.testing.assert_allclose(table["difference"], load_grid(saved).map.auc.flatten().numpy() - theirs, atol=1e-8)


def test_a_run_of_the_command_line_is_loaded(tmp_path):
    tensors = make_tensors()
    run = run_the_command(tmp_path, tensors, "probe=mlp", "trainer.max_epochs=1", targets=["truth"])
    grid = load_grid(run)
    made = fit_grid(**tensors, **NAMES, targets="truth", probe="mlp", epochs=1)
    torch.testing.assert_close(grid.map.auc, made.map.auc, atol=1e-9, rtol=0)
    assert grid.described == made.described
    with pytest.raises(ValueError, match="expected linear probes, got mlp, 64 hidden"):
        grid.apply(tensors["acts"])
    assert made.tensors.keys() == grid.tensors.keys()


def test_without_validation_rows_the_best_cell_says_so():
    grid = fit_grid(**make_tensors(), val=0)
    assert grid.best().chosen_on == "test"
    assert grid.best().val_auc is None
    assert "chosen on these rows, so too high" in repr(grid)
    for decide in (grid.probes.threshold, grid.probes.calibrate):
        with pytest.raises(ValueError, match=r"expected validation rows .*, got none; fit with val above 0"):
            decide()


def test_a_cell_needs_both_classes():
    tensors = make_tensors()
    few = {name: tensor[:30] for name, tensor in tensors.items()}
    grid = fit_grid(**few)
    assert "best cell: none has enough test rows of both classes" in repr(grid)
    with pytest.raises(ValueError, match="best: expected a cell with enough test rows of both classes, got none"):
        grid.best()
    assert all(math.isfinite(value) for value in grid.seconds.values())


def test_what_is_asked_wrongly(grid, saved, tmp_path):
    for wrong, line in (
        (lambda: grid.best("lie"), "target: expected one of truth; got lie"),
        (lambda: grid.scores("train"), "split: expected val or test, whose rows no probe was fitted on, got 'train'"),
        (lambda: grid.direction(5, "last"), "layer: expected one of 4, 8, got 5"),
        (lambda: grid.apply(torch.zeros(2, 2, 2, 5)), r"acts: expected \[N, 2, 2, 6\]"),
    ):
        with pytest.raises(ValueError, match=line):
            wrong()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/train.log").touch()
    with pytest.raises(ValueError, match=r"save: expected a new folder, got .*full, which holds train.log; choose"):
        grid.save(tmp_path / "full")
    with pytest.raises(ValueError, match=r"save: expected a folder, got the file .*; choose another name"):
        grid.save(saved / "heatmap.csv")
    both = shutil.copytree(saved, tmp_path / "both")
    one_layer = replace(
        grid.record, scores=grid.record.scores[:, :1], card=grid.record.card.choose([4], NAMES["positions"])
    )
    (both / "scores.safetensors").write_bytes(one_layer.to_bytes())
    for load in (load_grid, LinearProbes.load):
        with pytest.raises(ValueError, match=r"got those of 1 x 1 x 2 x 6 of other layers .* of different runs"):
            load(both)
    with pytest.raises(FileNotFoundError, match=r"run: expected the folder of a finished run, got .*absent"):
        load_grid(tmp_path / "absent")
