"""Cells that once stalled: nearly equal rows in 16 bits, and a few attention sinks that dwarf them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import softplus

from probes.solver.logistic import fit_logistic


def sink_cell(seed, n=300, D=576, sinks=15, spread=0.05, factor=1.0):
    """Rows [1, n, D] bfloat16 a hundredth or so apart, `sinks` of them of norm 20,000; and labels [n]."""
    rng = torch.Generator().manual_seed(seed)
    X = torch.randn(D, generator=rng) + spread * torch.randn(n, D, generator=rng)
    sink = torch.nn.functional.normalize(torch.randn(D, generator=rng), dim=0) * 20_000
    chosen = torch.randperm(n, generator=rng)[:sinks]
    X[chosen] = sink + 20 * torch.randn(sinks, D, generator=rng)
    return (X * factor).bfloat16()[None], (torch.rand(n, generator=rng) < 0.4).long()


def objective_and_gradient(X, y, w, b):
    """Of l2 = 1, in float64, for one cell [n, D]: the objective, and the gradient by (w, b)."""
    X, w, s = X.double(), w.double(), torch.where(y == 1, 1.0, -1.0).double()
    logit = X @ w + b.double()
    residual = -s * torch.sigmoid(-s * logit)
    gradient = torch.cat((X.T @ residual + w, residual.sum()[None]))
    return float(softplus(-s * logit).sum() + w.square().sum() / 2), gradient


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("seed", "spread"), [(1, 0.01), (0, 0.05), (1, 0.05), (0, 0.3), (1, 0.3)])
def test_every_cell_of_the_family_reaches_the_optimum(seed, spread, factor):
    """As low in 16 bits as in float64, whose gradient is checked here; half its square bounds what is left."""
    acts, y = sink_cell(seed, spread=spread, factor=factor)
    fit, exact = fit_logistic(acts, y), fit_logistic(acts.double(), y)
    assert fit.converged.all()
    assert exact.converged.all()
    objective, gradient = objective_and_gradient(acts[0], y, exact.weight[0], exact.bias[0])
    assert float(gradient.norm()) < 2e-3
    assert float(exact.objective) == pytest.approx(objective, rel=1e-9)
    assert float(fit.objective) == pytest.approx(objective, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_optimum_is_scikit_learn_s(seed):
    acts, y = sink_cell(seed)
    X = acts[0].double().numpy()
    U, S, _ = np.linalg.svd(X - X.mean(0), full_matrices=False)  # turned: the same penalty, and small columns
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=500, solver="newton-cholesky").fit(U * S, y.numpy())
    w, b = torch.from_numpy(oracle.coef_[0]), torch.from_numpy(oracle.intercept_)[0]
    best, _ = objective_and_gradient(torch.from_numpy(U * S), y, w, b)
    assert float(fit_logistic(acts, y).objective) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(("n", "sets"), [(900, 1), (200, 6)])
def test_more_rows_than_columns_and_many_label_sets_reach_it_too(n, sets):
    acts, y = sink_cell(3, n=n)
    labels = torch.stack([y.roll(k) for k in range(sets)])
    fit = fit_logistic(acts, labels[:, None])
    alone = fit_logistic(acts.double(), labels[0])
    assert fit.converged.all()
    assert float(fit.objective[0, 0]) == pytest.approx(float(alone.objective), rel=1e-4)


def test_few_steps_are_not_made_worse_by_factoring():
    """With one step allowed, sweeps get further than a factored step from nothing."""
    acts, y = sink_cell(0)
    short = [float(fit_logistic(acts, y, max_iter=steps).objective) for steps in (0, 1, 3, 30, 100)]
    assert short == sorted(short, reverse=True)
    assert short[-1] < short[0]
