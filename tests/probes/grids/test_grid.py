from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from probes.analysis.auroc import auroc
from probes.grids.logistic import LogisticGrid
from probes.solver.logistic import fit_logistic
from probes.solver.penalty import list_penalties, mean_log_loss
from tests.support.cards import make_block, make_card
from tests.support.streams import Stream
from tests.support.trainers import quiet_trainer

L, T, N, D = 2, 3, 400, 6


class Blocks(pl.LightningDataModule):
    """Cells whose signal grows with their number; the last cell has no valid example of one class."""

    def __init__(self, cells_per_block=4):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.labels = torch.arange(N) % 2
        strength = torch.linspace(0, 1.5, L * T)[:, None, None]
        self.acts = torch.randn(L * T, N, D, generator=rng) + strength * self.labels[:, None]
        self.valid = torch.rand(L * T, N, generator=rng) < 0.9
        self.valid[-1] &= self.labels == 1
        self.rows = {"train": range(0, 240), "val": range(240, 300), "test": range(300, N)}
        self.cells_per_block = cells_per_block
        self.card = make_card(width=D)

    def blocks(self, split):
        rows = list(self.rows[split])
        return [
            make_block(
                self.acts[cells][:, rows], self.labels[rows], self.valid[cells][:, rows], cells, torch.tensor(rows)
            )
            for cells in torch.arange(L * T).split(self.cells_per_block)
        ]

    def train_dataloader(self):
        return Stream(self.blocks("train"))

    def val_dataloader(self):
        return Stream(self.blocks("val"))

    def test_dataloader(self):
        return Stream(self.blocks("test"))


def fit(tmp_path, data, **settings):
    trainer = quiet_trainer(tmp_path)
    given: dict[str, Any] = {"standardize": False} | settings
    grid = LogisticGrid(**given)
    trainer.fit(grid, data)
    trainer.test(grid, data, verbose=False)
    return trainer, grid


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    data = Blocks()
    return (*fit(tmp_path_factory.mktemp("grid"), data, l2=0.5), data)


def test_every_cell_against_scikit_learn(fitted):
    _, grid, data = fitted
    for cell in range(L * T - 1):
        train, test = ([i for i in data.rows[s] if data.valid[cell, i]] for s in ("train", "test"))
        oracle = LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000)
        oracle.fit(data.acts[cell, train].double().numpy(), data.labels[train].numpy())
        at = divmod(cell, T)
        np.testing.assert_allclose(grid.weight[0][at].detach(), oracle.coef_[0], atol=1e-4)
        np.testing.assert_allclose(grid.bias[0][at].detach(), np.ravel(oracle.intercept_)[0], atol=1e-4)
        scores = oracle.decision_function(data.acts[cell, test].double().numpy())
        [test_map] = grid.maps["test"]
        assert test_map.auc[at] == pytest.approx(roc_auc_score(data.labels[test], scores), abs=1e-9)
        assert test_map.n[at] == len(test)
        assert test_map.n_positive[at] == data.labels[test].sum()


def test_a_cell_of_one_class_is_nan_and_disturbs_no_other(fitted):
    _, grid, _ = fitted
    assert grid.weight[0, 1, 2].isnan().all()
    assert grid.bias.isnan().sum() == 1
    assert grid.maps["val"][0].auc.isnan().sum() == grid.maps["test"][0].auc.isnan().sum() == 1


def test_summary_metrics_are_logged(fitted):
    trainer, grid, _ = fitted
    [test_map], [val_map] = grid.maps["test"], grid.maps["val"]
    auc = test_map.auc[test_map.readable()]
    chosen = val_map.auc.nan_to_num(0).argmax()  # not by the test rows
    assert trainer.callback_metrics["test/auc_best"] == pytest.approx(float(test_map.auc.flatten()[chosen]), abs=1e-6)
    assert trainer.callback_metrics["test/auc_mean"] == pytest.approx(float(auc.mean()), abs=1e-6)


def test_block_size_does_not_change_the_probes(fitted, tmp_path):
    _, grid, _ = fitted
    _, one_by_one = fit(tmp_path, Blocks(cells_per_block=1), l2=0.5)
    torch.testing.assert_close(grid.weight, one_by_one.weight, rtol=0, atol=1e-7, equal_nan=True)
    torch.testing.assert_close(grid.maps["test"][0].auc, one_by_one.maps["test"][0].auc, rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_reloads_without_the_datamodule(fitted, tmp_path):
    trainer, grid, data = fitted
    trainer.save_checkpoint(tmp_path / "probe.ckpt")
    again = LogisticGrid.load_from_checkpoint(tmp_path / "probe.ckpt")
    assert again.card == grid.card
    assert again.l2 == 0.5
    rows = list(data.rows["test"])
    scores = again(data.acts[:, rows], torch.arange(L * T))
    auc = auroc(scores[0], data.labels[rows], data.valid[:, rows]).view(L, T)
    torch.testing.assert_close(auc, grid.maps["test"][0].auc, rtol=0, atol=1e-6, equal_nan=True)


def test_steps_that_run_out_are_told(tmp_path, capsys):
    _, grid = fit(tmp_path, Blocks(), l2=1.0, max_iter=1, tol=1e-9)
    assert grid.fitted["short"] == [
        {"layer": layer, "position": position}
        for layer in (0, 4)
        for position in "abc"
        if (layer, position) != (4, "c")
    ]
    named = "layer 0, position a; layer 0, position b; layer 0, position c and 2 more"
    assert f"5 cells stopped within 1 steps, short of the optimum: {named}" in capsys.readouterr().out


def test_l2_is_checked():
    for l2 in (0.0, -1.0, float("nan"), float("inf"), [], [1.0, -2.0], "best"):
        with pytest.raises(
            ValueError, match=r"probe.l2: expected a number above 0, a list of such, by_size or auto; got"
        ):
            LogisticGrid(l2=l2)  # type: ignore[arg-type]


@pytest.mark.parametrize("l2", ["by_size", "auto"])
def test_a_rule_in_the_size_needs_standardised_columns(l2):
    with pytest.raises(
        ValueError, match=r"probe.l2: expected a number, .* not standardised, got (by_size|auto); set it, as"
    ):
        LogisticGrid(l2=l2, standardize=False)


def test_the_default_is_an_eighth_of_the_width_on_standardised_columns(tmp_path):
    data = Blocks()
    trainer = quiet_trainer(tmp_path)
    grid = LogisticGrid()
    assert grid.described == "logistic regression, standardised, l2 by size"
    trainer.fit(grid, data)
    rows = list(data.rows["train"])
    expected = fit_logistic(data.acts[:, rows], data.labels[rows], data.valid[:, rows], D / 8, standardize=True)
    torch.testing.assert_close(grid.weight[0].flatten(0, 1), expected.weight, rtol=0, atol=1e-6, equal_nan=True)
    assert grid.described == "logistic regression, standardised, l2 = 0.75"
    assert grid.fitted["l2"] == 0.75


@pytest.mark.parametrize("l2", ["auto", [1.0, 1000.0, 1e5]])
def test_one_of_several_penalties_is_chosen_on_the_validation_rows(tmp_path, l2, capsys):
    """For the whole map, by mean log-loss; the probes are those of all train rows, whatever the blocks."""
    data = Blocks()
    _, grid = fit(tmp_path, data, l2=l2, standardize=True)
    path = list_penalties("auto", D, 240) if l2 == "auto" else sorted(l2, reverse=True)
    train, val = list(data.rows["train"]), list(data.rows["val"])
    fits = fit_logistic(data.acts[:, train], data.labels[train], data.valid[:, train], path, standardize=True)
    given = data.acts[:, val], data.labels[None, val], data.valid[None][:, :, val]
    loss = mean_log_loss(*given, fits.weight[:, None], fits.bias[:, None])[:, 0].nanmean(-1)
    best = int(loss.argmin())
    torch.testing.assert_close(grid.weight[0].flatten(0, 1), fits.weight[best], rtol=0, atol=1e-6, equal_nan=True)
    assert grid.fitted["l2"] == path[best]
    tried = {one["l2"]: one["val_log_loss"] for one in grid.fitted["tried"]}
    assert tried == pytest.approx(dict(zip(path, loss.tolist(), strict=True)))
    assert grid.fitted["cells"] == {"converged": 5, "one class only": 1}
    assert grid.described == f"logistic regression, standardised, l2 = {path[best]:.3g} by validation"
    assert f"probe.l2: {path[best]:.3g} of " in capsys.readouterr().out
    _, one_by_one = fit(tmp_path, Blocks(cells_per_block=1), l2=l2, standardize=True)
    assert one_by_one.fitted == grid.fitted


def test_a_choice_needs_validation_rows(tmp_path):
    data = Blocks()
    data.card = make_card(width=D, counts={"val": (0, 0)})
    with pytest.raises(
        ValueError, match=r"^probe.l2: expected validation rows to choose among 3 penalties, got none; set"
    ):
        fit(tmp_path, data, l2="auto", standardize=True)


@pytest.mark.filterwarnings("ignore:.max_epochs. was not set")
@pytest.mark.parametrize("limits", [{"max_epochs": None}, {"max_epochs": 3}, {"max_epochs": -1}, {"min_epochs": 2}])
def test_one_epoch_is_the_fit(tmp_path, limits):
    solved = []
    grid = LogisticGrid()
    grid.solve, solve = lambda block: (solved.append(block["cells"]), solve(block))[1], grid.solve  # type: ignore
    trainer = quiet_trainer(tmp_path, **limits)
    trainer.fit(grid, Blocks())
    assert torch.cat(solved).tolist() == list(range(L * T))
    assert trainer.current_epoch == 1
    assert [one.split for one in grid.maps["val"]] == ["val"]


def test_probes_that_know_their_rows_by_heart_are_told(tmp_path, caplog):
    data = Blocks()
    data.acts = torch.randn(L * T, N, 300, generator=torch.Generator().manual_seed(1))
    data.card = make_card(width=300)
    _, grid = fit(tmp_path, data, l2=1e-3)
    assert grid.fitted["train_auc_1"] == 5
    told = (
        "fit: train AUC is 1 in 5 of 5 cells, so these probes know their train rows by heart; take more questions, or "
    )
    assert (
        told + "standardised columns with the default penalty (probe.standardize=true probe.l2=by_size)" in caplog.text
    )
    caplog.clear()
    fit(tmp_path, data, l2=1e-3, standardize=True)
    assert told + "a stronger penalty (probe.l2=0.01)" in caplog.text
    caplog.clear()
    _, grid = fit(tmp_path, Blocks(), l2=1.0)
    assert grid.fitted["train_auc_1"] == 0
    assert "by heart" not in caplog.text


def test_the_shape_comes_from_the_card():
    grid = LogisticGrid()
    grid._trainer = cast(Any, SimpleNamespace(datamodule=Blocks(), precision="32-true"))
    grid.setup("fit")
    assert grid.weight.shape == (1, L, T, D)
    assert grid.bias.shape == (1, L, T)


def test_a_row_to_be_scored_that_is_not_finite_is_named(tmp_path):
    data = Blocks()
    data.valid[1, 250] = True
    data.acts[1, 250, 2] = torch.nan
    with pytest.raises(ValueError, match=r"at layer 0, position b, example 250 \(a row of examples.parquet\); mark"):
        fit(tmp_path, data, l2=1.0)
