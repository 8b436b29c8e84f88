"""Sweeps on a Gram matrix, for problems with label sets, masks and penalties of their own, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.solver import gram_ascent
from probes.solver.gram_ascent import ascend, margin_of


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.3, 4.0, 1e3, 1e9])
@pytest.mark.parametrize("guess", [-50.0, 0.0, 2.0, 30.0, 1e5])
@pytest.mark.parametrize("c", [-1e9, -1e3, -40.0, -1.0, -1e-9, 0.0, 1e-9, 0.7, 35.0, 1e4])
def test_a_row_settles_where_its_coefficient_stands_for_its_margin(rate, c, guess):
    u = margin_of(c, rate, guess)
    a = 1 / (1 + np.exp(np.clip(u, -700, 700)))
    error = (u - rate * a - c) / (1 + rate * a * (1 - a))  # to first order, that of u
    assert error == pytest.approx(0, abs=1e-7 * max(1, abs(u)))


@pytest.fixture
def problems():
    """Centred rows [n, D], a border with one column 400 times the others, and four problems."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(150, 300, generator=generator, dtype=torch.float64)
    heavy = 400 * torch.randn(150, 1, generator=generator, dtype=torch.float64)
    X, heavy = X - X.mean(0), heavy - heavy.mean(0)
    s = torch.where(torch.rand(4, 150, generator=generator) < 0.4, 1.0, -1.0).double()
    s[1] *= torch.rand(150, generator=generator) < 0.7
    return X, torch.cat((torch.ones_like(heavy), heavy), 1), s, torch.tensor([1.0, 1.0, 0.05, 1e3]).double()


def test_every_problem_ends_at_its_own_optimum(problems):
    X, Z, s, l2 = problems
    live = torch.ones(4).bool()
    u, v, error = ascend(X @ X.mT, Z, s, live, l2, torch.zeros(4).double())
    assert (error <= 1e-5).all()
    for j in range(4):
        rows = (s[j] != 0).numpy()
        columns = np.c_[X.numpy(), Z[:, 1:].numpy()]
        model = LogisticRegression(C=1 / l2[j].item(), tol=1e-10, max_iter=1000, solver="newton-cholesky")
        model.fit(columns[rows], s[j].numpy()[rows])
        expected = columns @ model.coef_[0] + np.ravel(model.intercept_)[0]
        logit = (X @ (X.mT @ u[j]) + Z @ v[j]).numpy()
        np.testing.assert_allclose(logit[rows], expected[rows], atol=1e-3 * np.abs(expected).max())
        coefficient = (u[j] * l2[j] * s[j]).numpy()[rows]
        np.testing.assert_allclose(coefficient, 1 / (1 + np.exp((s[j].numpy() * logit)[rows])), atol=1e-4)
        assert (u[j][~torch.from_numpy(rows)] == 0).all()


def test_a_problem_that_is_not_live_stays_where_it_starts(problems):
    X, Z, s, l2 = problems
    u, v, error = ascend(X @ X.mT, Z, s, torch.tensor([True, False, True, True]), l2, torch.full((4,), 0.25).double())
    assert (u[1] == 0).all()
    assert v[1].tolist() == [0.25, 0.0]
    assert error[1] == 0
    assert (u[0] != 0).any()


def test_every_sweep_brings_margins_closer(problems, monkeypatch):
    X, Z, s, l2 = problems
    errors = []
    for sweeps in (1, 3, 6, 9):
        monkeypatch.setattr(gram_ascent, "SWEEPS", sweeps)
        errors.append(ascend(X @ X.mT, Z[:, :1], s, torch.ones(4).bool(), l2, torch.zeros(4).double())[2][0])
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[3] < errors[2] / 2


def test_how_many_rows_go_together_changes_only_their_order(problems, monkeypatch):
    X, Z, s, l2 = problems
    ends = []
    for together in (1, 64, 1000):
        monkeypatch.setattr(gram_ascent, "TOGETHER", together)
        u, v, _ = ascend(X @ X.mT, Z, s, torch.ones(4).bool(), l2, torch.zeros(4).double())
        ends.append(X @ (X.mT @ u.mT) + Z @ v.mT)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-3, atol=1e-3)
