"""Sweeps over the rows: each row's own problem, and where they end, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.solver import dual_ascent
from probes.solver.dual_ascent import Ascent, Lengths, margin_of
from probes.solver.rows import Rows, lengths


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.3, 4.0, 1e3, 1e9])
@pytest.mark.parametrize("guess", [-50.0, 0.0, 2.0, 30.0, 1e5])
@pytest.mark.parametrize("c", [-1e9, -1e3, -40.0, -1.0, -1e-9, 0.0, 1e-9, 0.7, 35.0, 1e4])
def test_a_row_settles_where_its_coefficient_stands_for_its_margin(rate, c, guess):
    u = margin_of(c, rate, guess)
    a = 1 / (1 + np.exp(np.clip(u, -700, 700)))
    error = (u - rate * a - c) / (1 + rate * a * (1 - a))  # to first order, that of u
    assert error == pytest.approx(0, abs=1e-7 * max(1, abs(u)))


def made(n, D, *, heavy=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(n, D, generator=generator) + 2 * torch.randn(D, generator=generator)
    s = np.where(
        (acts[:, :9].sum(1) - acts[:, :9].sum(1).mean() + torch.randn(n, generator=generator)) > 0.5, 1.0, -1.0
    )
    if heavy:
        acts[:, 3] *= 400
    return acts.bfloat16(), s


def ascent_of(rows, s):
    return Ascent(rows, Lengths(*lengths(rows.X, rows.mean), float(rows.mean @ rows.mean)), s)


def oracle(acts, s, l2):
    X = acts.double().numpy()
    X = X - X.mean(0)
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=1000, solver="newton-cholesky").fit(X, s)
    return X @ model.coef_[0] + model.intercept_[0], model.coef_[0]


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("l2", [0.1, 1.0, 1e4])
def test_sweeps_end_at_the_optimum(heavy, l2):
    acts, s = made(120, 400, heavy=heavy)
    rows = Rows.of(acts, standardize=False)
    ascent = ascent_of(rows, s)
    w, v, error = ascent.sweep_until_settled(l2, np.zeros(1 + len(rows.heavy)))
    assert error <= 1e-5
    w[rows.heavy] = v[1:]
    logit = (acts.double().numpy() - rows.centre) @ w + v[0]
    expected, weight = oracle(acts, s, l2)
    np.testing.assert_allclose(logit, expected, atol=2e-3 * max(1, np.abs(expected).max()))
    np.testing.assert_allclose(w, weight, atol=2e-3 * np.abs(weight).max())
    np.testing.assert_allclose(ascent.a, 1 / (1 + np.exp(s * logit)), atol=1e-4)


def test_every_sweep_brings_margins_closer(monkeypatch):
    acts, s = made(120, 400)
    errors = []
    for sweeps in (1, 3, 6, 9):
        monkeypatch.setattr(dual_ascent, "SWEEPS", sweeps)
        errors.append(ascent_of(Rows.of(acts, standardize=False), s).sweep_until_settled(1.0, np.zeros(1))[2])
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[3] < errors[2] / 2


def test_rows_that_do_not_count_change_nothing():
    acts, s = made(119, 400)
    s[[3, 50, 51]] = 0
    rows = Rows.of(acts, standardize=False)
    padded = np.append(s, np.zeros(len(rows.X) - len(s)))
    w, v, _ = ascent_of(rows, padded).sweep_until_settled(1.0, np.zeros(1))
    kept = acts[s != 0]
    logit = (acts.double().numpy() - rows.centre)[s != 0] @ w + v[0]
    np.testing.assert_allclose(logit, oracle(kept, s[s != 0], 1.0)[0], atol=2e-3)
