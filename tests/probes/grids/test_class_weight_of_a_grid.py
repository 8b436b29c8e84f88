"""probe.class_weight=balanced in every grid of probes: what is fitted, what chooses a penalty, what people are told."""

from functools import partial

import pytest
import torch
from torch.nn.functional import gelu, softplus
from torch.optim import LBFGS

from probes.grids.logistic import LogisticGrid
from probes.grids.mass_mean import MassMeanGrid
from probes.grids.minibatch import LinearGrid
from probes.grids.mlp import MLPGrid
from probes.solver.logistic import fit_logistic
from probes.solver.penalty import mean_log_loss
from tests.probes.grids.test_minibatch import ROWS, C, Data
from tests.support.trainers import quiet_trainer


def fit(folder, grid, **settings):
    data = Data()
    quiet_trainer(folder, **settings).fit(grid, data)
    return data, data.raw(torch.arange(C), ROWS["train"])


def test_logistic_grids_fit_what_the_solver_fits(tmp_path):
    grid = LogisticGrid(l2=3.0, class_weight="balanced")
    _, train = fit(tmp_path, grid)
    expected = fit_logistic(
        train["acts"], train["labels"], train["valid"], 3.0, standardize=True, class_weight="balanced"
    )
    assert torch.equal(grid.weight[0].flatten(0, 1).nan_to_num(), expected.weight.nan_to_num())
    assert torch.equal(grid.bias[0].flatten().nan_to_num(), expected.bias.nan_to_num())
    assert grid.fitted["class_weight"] == "balanced"
    assert grid.described == "logistic regression, standardised, balanced classes, l2 = 3"


def test_a_penalty_is_chosen_by_the_log_loss_of_both_classes_alike(tmp_path):
    grid = LogisticGrid(l2=[1e4, 10.0], class_weight="balanced")
    data, train = fit(tmp_path, grid)
    fits = fit_logistic(
        train["acts"], train["labels"], train["valid"], [1e4, 10.0], standardize=True, class_weight="balanced"
    )
    val = data.raw(torch.arange(C), ROWS["val"])
    logits = torch.einsum("cnd,pcd->pcn", val["acts"].double(), fits.weight.double()) + fits.bias[..., None]
    y = val["labels"]
    losses = softplus(torch.where(y == 1, -logits, logits))
    expected = [
        torch.stack([losses[:, cell, val["valid"][cell] & (y == one)].mean(-1) for one in (0, 1)]).mean(0)
        for cell in range(C - 1)
    ]
    mean = torch.stack(expected).mean(0)
    told = [one["val_log_loss"] for one in grid.fitted["tried"]]
    assert told == pytest.approx(mean.tolist(), rel=1e-6)


def test_the_mean_log_loss_of_one_class_is_that_of_its_rows():
    acts, labels = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0)), torch.ones(1, 6)
    given = acts, labels, torch.ones(1, 1, 6).bool(), torch.ones(1, 1, 1, 3), torch.zeros(1, 1, 1)
    torch.testing.assert_close(mean_log_loss(*given, balanced=True), mean_log_loss(*given))


@pytest.mark.parametrize("l2", [0.1, 10.0])
def test_the_linear_optimum_by_minibatches_is_that_of_the_exact_fit(l2, tmp_path):
    grid = LinearGrid(l2, partial(LBFGS, max_iter=50, line_search_fn="strong_wolfe"), class_weight="balanced")
    _, train = fit(tmp_path, grid, max_epochs=20, limit_val_batches=0)
    exact = fit_logistic(train["acts"], train["labels"], train["valid"], l2, class_weight="balanced")
    weight, _ = (tensor[0].detach().flatten(0, 1).double() for tensor in grid.tensors().values())
    # Divided by the scale, weights of all columns have one unit.
    torch.testing.assert_close((weight / grid.scale)[:-1], (exact.weight / grid.scale).double()[:-1], rtol=0, atol=1e-3)
    assert grid.fitted == {"probe": "minibatch", "l2": l2, "class_weight": "balanced", "epochs": 20}
    assert grid.described == f"linear by mini-batches, balanced classes, l2 = {l2:g}"


def test_the_loss_of_an_mlp_weighs_both_classes_alike(tmp_path):
    """At its optimum the intercept's gradient is zero: residuals of the two classes, each over its rows, cancel."""
    grid = MLPGrid(3, 10.0, partial(LBFGS, max_iter=40, line_search_fn="strong_wolfe"), class_weight="balanced")
    _, train = fit(tmp_path, grid, max_epochs=4, limit_val_batches=0)
    weight_in, bias_in, weight_out, bias_out = (part[0].detach().flatten(0, 1)[0] for part in grid.tensors().values())
    acts, y = train["acts"][0, train["valid"][0]], train["labels"][train["valid"][0]]
    chance = (gelu(acts @ weight_in.T + bias_in) @ weight_out + bias_out).sigmoid()
    assert float(chance[y == 0].mean()) == pytest.approx(float((1 - chance[y == 1]).mean()), abs=1e-3)
    assert grid.described == "mlp, 3 hidden, balanced classes, l2 = 10"


@pytest.mark.parametrize("grid", [LogisticGrid, MassMeanGrid, LinearGrid, MLPGrid])
def test_other_weights_are_refused_in_a_line(grid):
    with pytest.raises(ValueError, match=r"probe\.class_weight: expected balanced or null, got .equal.; set one"):
        grid(class_weight="equal")
    assert MassMeanGrid(class_weight="balanced").described == "mass mean, balanced classes"
