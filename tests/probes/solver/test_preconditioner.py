"""The factored Hessian against the Hessian in float64, and what it does for a fit."""

import numpy as np
import pytest
import torch

from probes.solver import dual_ascent, one_cell, preconditioner
from probes.solver.logistic import fit_logistic
from probes.solver.preconditioner import factored_hessian, solve_factored
from probes.solver.rows import Rows
from tests.probes.solver.test_methods import assert_optimal, made

N, D, HEAVY = 90, 40, (5, 31)
generator = torch.Generator().manual_seed(0)
ACTS = torch.randn(N, D, generator=generator, dtype=torch.float64) + 2
ACTS[:, HEAVY] *= 300
CURVATURE = np.append(torch.rand(N, generator=generator, dtype=torch.float64).numpy() / 4, [0, 0])
PENALTY = np.array([0.0, 3.0, 3.0])


def hessian(rows, curvature):
    """Of the objective by weights and border values, at penalty 3, with numpy from what was given."""
    X = ACTS.to(torch.bfloat16).double().numpy() if rows.X.dtype == np.uint16 else ACTS.numpy()
    X = np.where(rows.zeroed, 0, X - X.mean(0))
    both = np.c_[X, rows.border[:N]]
    return both.T @ (curvature[:N, None] * both) + np.diag(np.append(np.full(D, 3.0), PENALTY))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_its_product_with_itself_is_the_hessian(monkeypatch, dtype):
    monkeypatch.setattr(preconditioner, "ROWS", 32)
    monkeypatch.setattr(preconditioner, "COLUMNS", 16)
    monkeypatch.setattr(preconditioner, "FLAT", 0.0)
    rows = Rows.of(ACTS.to(dtype), standardize=False)
    L = factored_hessian(rows, CURVATURE, 3.0, PENALTY).astype(float)
    H = hessian(rows, CURVATURE)
    scale = np.sqrt(np.outer(H.diagonal(), H.diagonal()))
    np.testing.assert_allclose(L @ L.T / scale, H / scale, atol=2e-6)
    assert not np.triu(L, 1).any()


def test_rows_that_bend_little_count_by_their_mean(monkeypatch):
    monkeypatch.setattr(preconditioner, "FLAT", 0.01)
    curvature = np.where(np.arange(N + 2) % 2, 0.2, 1e-4) * (np.arange(N + 2) < N)
    rows = Rows.of(ACTS.float(), standardize=False)
    L = factored_hessian(rows, curvature, 3.0, PENALTY).astype(float)
    H, few = hessian(rows, curvature), hessian(rows, np.where(curvature > 0.1, curvature, 0))
    np.testing.assert_allclose((L @ L.T)[:D, :D] - few[:D, :D], np.eye(D) * np.trace((H - few)[:D, :D]) / D, atol=2e-5)


@pytest.mark.parametrize("value", [torch.nan, 1e30])
def test_nothing_where_it_cannot_be_factored(value):
    acts = ACTS.float()
    acts[3, 2] = value
    rows = Rows.of(acts, standardize=False)
    assert factored_hessian(rows, CURVATURE, 3.0, np.full(rows.border.shape[1], 3.0)).shape == (0, 0)


def test_solves():
    L = torch.linalg.cholesky(torch.from_numpy(hessian(Rows.of(ACTS.float(), standardize=False), CURVATURE))).numpy()
    x = np.linspace(-1, 1, len(L))
    y = x.copy()
    solve_factored(L.astype(np.float32), y)
    np.testing.assert_allclose(L @ (L.T @ y), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("l2", [1e-3, 1.0])
@pytest.mark.parametrize(("N", "D", "size"), [(800, 520, 522), (520, 800, 0)])
def test_cells_of_many_rows_that_sweeps_leave_far_from_settled_are_solved_with_it(monkeypatch, N, D, size, l2):
    acts, labels = made(1, N, D, decay=2.0)
    acts[..., 7] *= 300
    sizes = set()
    direction = one_cell.direction

    def seen(hessian, *arguments):
        sizes.add(len(hessian.factor))
        return direction(hessian, *arguments)

    monkeypatch.setattr(one_cell, "direction", seen)
    monkeypatch.setattr(dual_ascent, "SWEEPS", 3)
    assert_optimal(fit_logistic(acts, labels, l2=l2), acts, labels, l2)
    assert sizes == {size}


@pytest.mark.parametrize(("stale", "least"), [(40, 2), (1, 1)])
def test_it_is_made_anew_where_curvature_has_moved_on_unless_that_does_not_help(monkeypatch, stale, least):
    random = torch.Generator().manual_seed(1)
    acts = torch.randn(1, 700, 600, generator=random)
    labels = (acts @ torch.randn(600, generator=random) > 0).long()
    monkeypatch.setattr(dual_ascent, "SWEEPS", 3)
    made_of = []
    monkeypatch.setattr(one_cell, "STALE", stale)
    monkeypatch.setattr(one_cell, "factored_hessian", lambda *a: made_of.append(1) or factored_hessian(*a))
    fit = fit_logistic(acts, labels, l2=1e-4)
    monkeypatch.setattr(one_cell, "FAR", np.inf)
    plain = fit_logistic(acts, labels, l2=1e-4)
    assert fit.converged.all()
    torch.testing.assert_close(fit.objective, plain.objective, rtol=1e-8, atol=0)
    assert len(made_of) >= least
    assert len(made_of) == 1 or stale > 1
