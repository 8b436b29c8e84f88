"""Rows, standardised implicitly, and compiled passes over them, against numpy in float64."""

import numpy as np
import pytest
import torch

from probes.solver.rows import describe_columns, evaluate, exponential, gather, spread, standardise, store

N, D = 30, 57  # no multiples of four
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def made(dtype, *, offset=3.0):
    """Activations [N, D] with columns of very different scale, and one that is constant."""
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(N, D, generator=generator) + offset * torch.randn(D, generator=generator)
    acts *= torch.logspace(-2, 2, D)
    acts[:, 4] = 7.3
    return acts.to(dtype)


def rows_of(acts):
    stored = store(acts)
    return standardise(stored, describe_columns(stored, len(acts)))


def standardised(acts):
    """The same in float64: [N, D], with zeros in constant columns."""
    X = acts.double().numpy()
    deviation = X.std(0)
    constant = X.min(0) == X.max(0)
    return np.where(constant, 0, (X - X.mean(0)) / np.where(constant, 1, deviation))


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_are_described(dtype):
    acts = made(dtype)
    columns, X = describe_columns(store(acts), N), acts.double().numpy()
    others = np.arange(D) != 4
    np.testing.assert_allclose(columns.mean, X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(columns.deviation[others], X.std(0)[others], rtol=1e-10)
    assert columns.deviation[4] == 0
    assert (columns.least == X.min(0)).all()
    assert (columns.most == X.max(0)).all()


def test_an_offset_far_above_the_spread_costs_no_digits():
    acts = torch.randn(N, D, generator=torch.Generator().manual_seed(0)).double() * 1e-3 + 1e6
    columns = describe_columns(store(acts), N)
    np.testing.assert_allclose(columns.deviation, acts.numpy().std(0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_last_digits_of_a_column_count(dtype):
    """Two numbers that float32 holds side by side near 10,000 are no rounding: nothing was rounded to get there."""
    acts = torch.full((200, 2), 10_000.0, dtype=dtype)
    acts[::2, 1] += 2**-10
    columns = describe_columns(store(acts), 200)
    np.testing.assert_allclose(columns.deviation, [0, 2**-11], rtol=1e-10)


@pytest.mark.parametrize("factor", [1e-20, 1e19])
def test_scales_beyond_float32_are_told(factor):
    acts = torch.randn(N, D, generator=torch.Generator().manual_seed(0)).double()
    assert not describe_columns(store(acts), N).have_odd_scale()
    assert describe_columns(store(acts * factor), N).have_odd_scale()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T.contiguous().T, lambda x: x[::2]])
def test_passes_are_sums_over_standardised_rows(dtype, view):
    acts = view(made(dtype))
    rows, X = rows_of(acts), standardised(acts)
    n, random = len(acts), np.random.default_rng(0)
    assert len(rows.X) % 4 == 0
    p = random.normal(size=D + 1)
    z = np.empty(len(rows.X))
    spread(rows, p, z)
    np.testing.assert_allclose(z[:n], X @ p[:D] + p[D], rtol=1e-4, atol=1e-4)

    r = np.zeros(len(rows.X))
    r[:n] = random.normal(size=n)
    g = np.empty(D + 1)
    gather(rows, r, g)
    np.testing.assert_allclose(g, np.append(X.T @ r[:n], r.sum()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_and_gradient_come_from_what_is_stored_in_float64(dtype):
    acts = made(dtype)
    rows, X = rows_of(acts), standardised(acts)
    random = np.random.default_rng(0)
    u, offset, s = random.normal(size=D + 1), np.zeros(len(rows.X)), np.zeros(len(rows.X))
    offset[:N], s[:N] = random.normal(size=N), random.normal(size=N)
    s[3] = 0
    z, r, g = offset.copy(), np.empty(len(rows.X)), np.empty(D + 1)
    evaluate(rows, u, s, z, r, g)
    expected = X @ u[:D] + u[D] + offset[:N]
    residual = -s[:N] / (1 + np.exp(np.sign(s[:N]) * expected))
    np.testing.assert_allclose(z[:N], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(r[:N], residual, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(g, np.append(X.T @ residual, residual.sum()), rtol=1e-8, atol=1e-9)


def test_the_exponential_is_that_of_numpy():
    x = -np.concatenate((np.linspace(0, 40, 4001), np.logspace(-12, np.log10(700), 4001)))
    np.testing.assert_allclose([exponential(one) for one in x], np.exp(x), rtol=3e-14)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_infinity_and_nan_show_in_the_mean(bad):
    acts = torch.ones(N, D, dtype=torch.bfloat16)
    acts[3, 7] = bad
    assert np.flatnonzero(~np.isfinite(describe_columns(store(acts), N).mean)).tolist() == [7]
