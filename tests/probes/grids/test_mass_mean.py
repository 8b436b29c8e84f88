"""fit_mass_mean against numpy and scikit-learn's linear discriminant analysis."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probes.grids.mass_mean import MassMeanGrid
from probes.solver.mass_mean import fit_mass_mean
from tests.support.cards import make_block, make_card
from tests.support.trainers import quiet_trainer

SHAPES = [(60, 200), (200, 60), (80, 80), (81, 80), (9, 4), (4, 9)]


def made(C, N, D, *, seed=0):
    """Correlated columns of unequal scale, classes of unequal size, and rows that are not valid and hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(C, D, D, generator=generator, dtype=torch.float64) / D**0.5
    acts = torch.randn(C, N, D, generator=generator, dtype=torch.float64) @ mix
    acts = (acts + 3) * torch.logspace(-1, 1.5, D, dtype=torch.float64)
    labels = torch.arange(N) % 3 == 0
    acts[:, labels] += 0.3
    valid = torch.rand(C, N, generator=generator) < 0.8
    valid[:, :4] = True
    acts[~valid] = torch.nan
    return acts, labels.long(), valid


def rows(acts, labels, valid, cell):
    return acts[cell, valid[cell]].numpy(), labels[valid[cell]].numpy()


def lda(X, y):
    """scikit-learn's discriminant with the shrinkage its own Ledoit-Wolf finds within the classes: weight, bias."""
    within = X - np.stack([X[y == 0].mean(0), X[y == 1].mean(0)])[y]
    shrinkage = ledoit_wolf(within, assume_centered=True)[1]
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    return oracle.coef_[0], oracle.intercept_[0], shrinkage


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_plain_is_the_difference_of_the_means_with_the_threshold_halfway(N, D):
    acts, labels, valid = made(3, N, D)
    weight, bias = fit_mass_mean(acts, labels, valid)
    for cell in range(3):
        X, y = rows(acts, labels, valid, cell)
        means = X[y == 0].mean(0), X[y == 1].mean(0)
        np.testing.assert_allclose(weight[cell], means[1] - means[0], rtol=1e-10, atol=1e-12)
        scores = [mean @ weight[cell].numpy() + bias[cell].item() for mean in means]
        assert scores[1] == pytest.approx(-scores[0], rel=1e-9)
        np.testing.assert_allclose(scores[1], weight[cell].square().sum() / 2, rtol=1e-9)


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_balanced_classes_move_the_threshold_to_equal_priors_and_no_direction(N, D):
    acts, labels, valid = made(3, N, D)
    for whiten in (False, True):
        weight, bias = fit_mass_mean(acts, labels, valid, whiten=whiten, class_weight="balanced")
        assert torch.equal(weight, fit_mass_mean(acts, labels, valid, whiten=whiten)[0])
        for cell in range(3):  # the means lie equally far on both sides, as with equal priors in scikit-learn
            X, y = rows(acts, labels, valid, cell)
            scores = [X[y == one].mean(0) @ weight[cell].numpy() + bias[cell].item() for one in (0, 1)]
            assert scores[1] == pytest.approx(-scores[0], rel=1e-9)
            assert scores[1] > 0
    with pytest.raises(ValueError, match='class_weight must be None or "balanced", got 2'):
        fit_mass_mean(acts, labels, valid, class_weight=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_whitened_is_the_discriminant_of_scikit_learn(N, D):
    acts, labels, valid = made(3, N, D)
    weight, bias = fit_mass_mean(acts, labels, valid, whiten=True)
    for cell in range(3):
        X, y = rows(acts, labels, valid, cell)
        expected, intercept, shrinkage = lda(X, y)
        assert 0 < shrinkage < 1
        np.testing.assert_allclose(weight[cell], expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())
        np.testing.assert_allclose(bias[cell], intercept, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("N", [50, 100])
def test_activations_with_a_few_huge_columns_and_offsets(N):
    acts, labels, valid = made(2, N, 60)
    acts[..., :3] *= torch.tensor([30.0, 300.0, 1000.0])
    acts[..., 3] += 1e5
    weight, bias = fit_mass_mean(acts, labels, valid, whiten=True)
    for cell in range(2):
        expected, intercept, _ = lda(*rows(acts, labels, valid, cell))
        np.testing.assert_allclose(weight[cell], expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())
        np.testing.assert_allclose(bias[cell], intercept, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("whiten", [False, True])
def test_narrow_dtypes_give_float32_from_sums_in_float64(dtype, whiten):
    acts, labels, valid = made(2, 70, 90)
    acts = acts.to(dtype)
    weight, bias = fit_mass_mean(acts, labels, valid, whiten)
    assert weight.dtype == bias.dtype == torch.float32
    exact = fit_mass_mean(acts.double(), labels, valid, whiten)
    torch.testing.assert_close(weight, exact[0].float(), rtol=0, atol=0)
    torch.testing.assert_close(bias, exact[1].float(), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1e-12, 1e12, 1e15])
def test_the_scale_of_the_activations_changes_no_score(scale):
    acts, labels, valid = made(1, 30, 50)
    weight, bias = fit_mass_mean(acts * scale, labels, valid, whiten=True)
    expected = fit_mass_mean(acts, labels, valid, whiten=True)
    torch.testing.assert_close(weight * scale, expected[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(bias, expected[1], rtol=1e-9, atol=0)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_cell_of_one_class_is_nan_and_disturbs_no_other(whiten):
    acts, labels, valid = made(3, 40, 20)
    alone = fit_mass_mean(acts[[0, 2]], labels, valid[[0, 2]], whiten)
    valid[1] &= labels == 1
    weight, bias = fit_mass_mean(acts, labels, valid, whiten)
    assert weight[1].isnan().all()
    assert bias[1].isnan()
    assert torch.equal(weight[[0, 2]], alone[0])
    assert torch.equal(bias[[0, 2]], alone[1])
    valid[1] = False
    assert fit_mass_mean(acts, labels, valid, whiten)[1].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("D", [1, 5])
def test_classes_that_do_not_vary_have_nothing_to_whiten(D):
    """One row of each class, and rows that repeat, whose mean is off by a last bit."""
    for acts in (torch.tensor([[[0.1] * D, [0.7] * D]]), torch.tensor([[[0.1] * D, [0.7] * D]]).repeat(1, 7, 1)):
        labels = torch.arange(acts.shape[1]) % 2
        weight, bias = fit_mass_mean(acts.double(), labels, whiten=True)
        torch.testing.assert_close(weight, torch.full((1, D), 0.6).double(), rtol=1e-6, atol=0)
        torch.testing.assert_close(bias, torch.tensor([-0.24 * D]).double(), rtol=1e-6, atol=0)


def test_one_column_is_scaled_by_its_variance():
    acts = torch.tensor([[[0.0], [2.0], [5.0], [9.0], [4.0]]]).double()
    weight, bias = fit_mass_mean(acts, torch.tensor([0, 0, 1, 1, 1]), whiten=True)
    variance = (1 + 1 + 1 + 9 + 4) / 5
    assert weight.item() == pytest.approx((6 - 1) / variance)
    assert bias.item() == pytest.approx(-weight.item() * 3.5 + np.log(3 / 2))


def test_rows_on_one_line_have_a_singular_covariance_but_a_probe():
    """Every row is as far from its mean, so Ledoit and Wolf see no reason to shrink."""
    line = torch.tensor([1.0, 2.0, 2.0]).double()
    acts = torch.stack([line, -line, line + 1, 1 - line])[None]
    weight, _ = fit_mass_mean(acts, torch.tensor([0, 0, 1, 1]), whiten=True)
    assert weight.isfinite().all()
    across = torch.ones(3).double() - line * (5 / 9)  # the part of the difference that has no variance
    torch.testing.assert_close(weight[0] / weight[0].norm(), across / across.norm(), rtol=1e-6, atol=1e-6)


class Blocks(pl.LightningDataModule):
    """The same rows for every split, one block."""

    def __init__(self):
        super().__init__()
        self.acts, self.labels, self.valid = made(6, 60, 5)
        self.card = make_card(width=5)

    def train_dataloader(self):
        return iter([make_block(self.acts, self.labels, self.valid, torch.arange(6))])

    val_dataloader = test_dataloader = train_dataloader


@pytest.mark.parametrize("whiten", [False, True])
def test_the_grid_holds_what_the_function_finds(whiten, tmp_path):
    data, grid = Blocks(), MassMeanGrid(whiten)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(grid, data)
    weight, bias = fit_mass_mean(data.acts, data.labels, data.valid, whiten)
    assert torch.equal(grid.weight[0].detach().flatten(0, 1), weight.float())
    assert torch.equal(grid.bias.detach().flatten(), bias.float())
    assert grid.fitted == {"probe": "mass_mean", "whiten": whiten}
    trainer.save_checkpoint(tmp_path / "probe.ckpt")
    again = MassMeanGrid.load_from_checkpoint(tmp_path / "probe.ckpt")
    assert again.whiten is whiten
    assert torch.equal(again.weight, grid.weight)
