"""Rows as packed for compiled passes, and the passes, against numpy in float64."""

import numpy as np
import pytest
import torch

from probes.solver.rows import Rows, evaluate, lengths, moments, product

N, D = 30, 57  # no multiples of four


def packed(dtype, *, heavy=(), standardize=False):
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(N, D, generator=generator) + 3 * torch.randn(D, generator=generator)
    acts[:, list(heavy)] *= 500
    acts = acts.to(dtype)
    return acts.double().numpy(), Rows.of(acts, standardize)


def widened(rows):
    X = torch.from_numpy(rows.X)
    return (X.view(torch.bfloat16) if rows.X.dtype == np.uint16 else X).double().numpy()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("heavy", [(), (5, 40)])
def test_mean_and_border_are_taken_apart_and_nothing_is_lost(dtype, heavy):
    acts, rows = packed(dtype, heavy=heavy)
    light = np.setdiff1d(np.arange(D), heavy)
    tolerance = 1e-15 if dtype in (torch.bfloat16, torch.float64) else 1e-6  # others are stored centred, in float32
    assert len(rows.X) == 32
    assert set(rows.heavy) == set(heavy)
    np.testing.assert_allclose((widened(rows) - rows.mean)[:N, light], (acts - acts.mean(0))[:, light], atol=1e-6)
    np.testing.assert_allclose(rows.centre, acts.mean(0), rtol=tolerance + 1e-12, atol=tolerance)
    centred = (acts - rows.centre)[:, rows.heavy]
    np.testing.assert_allclose(rows.border[:N], np.c_[np.ones(N), centred], rtol=1e-6)
    assert not rows.border[N:].any()
    assert not widened(rows)[N:].any()
    assert not widened(rows)[:, rows.heavy].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_standardized_columns_have_unit_variance_and_constant_ones_stay(dtype):
    acts = torch.randn(N, D, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, D) + 7.3
    acts[:, 4] = 7.3
    rows = Rows.of(acts.to(dtype), standardize=True)
    X = widened(rows)[:N]
    others = np.arange(D) != 4
    np.testing.assert_allclose(X[:, others].std(0), 1, rtol=1e-5)
    assert np.abs(X[:, 4]).max() < 1e-5
    assert rows.scale[4] == 1
    expected = acts.to(dtype).double().numpy()
    np.testing.assert_allclose(X * rows.scale + rows.centre, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_passes_are_sums_over_rows(dtype):
    _, rows = packed(dtype, heavy=(5,))
    X, raw = widened(rows) - rows.mean, widened(rows)
    n = len(X)
    random = np.random.default_rng(0)
    w, start = random.normal(size=D), random.normal(size=n)
    sign = np.where(random.random(n) < 0.5, 1.0, -1.0) * (np.arange(n) < N)
    s = sign * random.uniform(0.5, 20, n)

    np.testing.assert_allclose(moments(rows.X), (raw.sum(0), (raw**2).sum(0)), rtol=1e-12)
    np.testing.assert_allclose(lengths(rows.X, rows.mean), ((X**2).sum(1), raw @ rows.mean), rtol=1e-12)

    logit, gradient = start.copy(), np.empty(D)
    evaluate(rows.X, rows.mean, w, s, sign, logit, gradient)
    np.testing.assert_allclose(logit, start + X @ w, rtol=1e-12)
    np.testing.assert_allclose(gradient, X.T @ (-s / (1 + np.exp(sign * logit))), rtol=1e-10, atol=1e-12)

    working = np.float64 if dtype == torch.float64 else np.float32
    t, v, curvature = start.copy(), np.empty(D, working), random.random(n) * sign**2
    product(rows.X, rows.mean, w.astype(working), curvature, t, v)
    rtol = 1e-10 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(t, start + X @ w, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(v, X.T @ (curvature * (start + X @ w)), rtol=rtol, atol=10 * rtol)


def test_the_heaviest_columns_go_to_the_border():
    acts = torch.randn(N, 200, generator=torch.Generator().manual_seed(0))
    acts[:, 100:140] *= 100 * torch.arange(1, 41)
    assert set(Rows.of(acts, standardize=False).heavy) == set(range(109, 140))


def test_infinity_and_nan_show_in_the_centre():
    for bad in (torch.inf, torch.nan):
        acts = torch.ones(N, D, dtype=torch.bfloat16)
        acts[3, 7] = bad
        assert np.flatnonzero(~np.isfinite(Rows.of(acts, standardize=False).centre)).tolist() == [7]
