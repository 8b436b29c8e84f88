"""Rows, standardised implicitly, and compiled passes over them, against numpy in float64."""

import numpy as np
import pytest
import torch

from probes.solver.passes import Scratch, add_up, apply_factor, evaluate, exponential, gather, multiply, spread
from probes.solver.rows import describe_columns, standardise, store, unpair

N, D = 30, 57  # no multiples of four, and no even number
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
    np.testing.assert_allclose(columns.mean[:D], X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(columns.deviation[:D][others], X.std(0)[others], rtol=1e-10)
    assert columns.deviation[4] == 0
    assert (columns.least[:D] == X.min(0)).all()
    assert (columns.most[:D] == X.max(0)).all()
    assert (columns.mean[D:], columns.deviation[D:]) == (0, 0)  # the one that makes their number even


def test_an_offset_far_above_the_spread_costs_no_digits():
    acts = torch.randn(N, D, generator=torch.Generator().manual_seed(0)).double() * 1e-3 + 1e6
    columns = describe_columns(store(acts), N)
    np.testing.assert_allclose(columns.deviation[:D], acts.numpy().std(0), rtol=1e-6)


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
@pytest.mark.parametrize("n", [2, 3, 4, 5, N])
def test_few_rows_are_described_too(dtype, n):
    acts = made(dtype)[:n]
    stored = store(acts)
    columns, X = describe_columns(stored, n), acts.double().numpy()
    assert len(stored) == max(n, 4)
    np.testing.assert_allclose(columns.mean[:D], X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(columns.deviation[:D], X.std(0) * (X.min(0) < X.max(0)), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_are_read_in_their_place_where_pairs_lie_straight(dtype):
    acts = torch.randn(9, 6).to(dtype)
    assert np.shares_memory(store(acts), acts.view(torch.int16).numpy())
    shifted = torch.randn(55).bfloat16()[1:].view(9, 6)  # two bytes behind a multiple of four
    assert (unpair(store(shifted)) == shifted.view(torch.uint16).numpy()).all()
    assert not np.shares_memory(store(shifted), shifted.view(torch.int16).numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T.contiguous().T, lambda x: x[::2], lambda x: x[:28, 1:]])
@pytest.mark.parametrize("which", [[1], [2, 0], [0, 1, 3], [3, 2, 1, 0]])
def test_passes_are_sums_over_standardised_rows(dtype, view, which):
    acts = view(made(dtype))
    rows, X = rows_of(acts), standardised(acts)
    X = np.pad(X, ((0, 0), (0, X.shape[1] % 2)))
    (n, width), random = X.shape, np.random.default_rng(0)
    several = True if len(which) > 1 else None
    p, z, scratch = random.normal(size=(4, width + 1)), np.full((4, n), np.nan), Scratch.empty(n, width)
    spread(rows, p, np.array(which), z, scratch, several)
    np.testing.assert_allclose(z[which], p[which, :-1] @ X.T + p[which, -1:], rtol=1e-4, atol=1e-4)

    r, g = random.normal(size=(4, n)), np.full((4, width + 1), np.nan)
    gather(rows, r, np.array(which), g, scratch, several)
    np.testing.assert_allclose(g[which], np.c_[r @ X, r.sum(1)][which], rtol=1e-4, atol=2e-4)
    others = [k for k in range(4) if k not in which]
    assert np.isnan(z[others]).all()
    assert np.isnan(g[others]).all()


@pytest.mark.parametrize("which", [[1], [2, 0], [0, 1, 3], [3, 2, 1, 0]])
@pytest.mark.parametrize("width", [4, 10, 36, 58])
def test_a_factor_is_applied(which, width):
    random = np.random.default_rng(0)
    R = np.tril(random.normal(size=(width, width))).astype(np.float32)
    q = random.normal(size=(4, width + 1)).astype(np.float32)
    expected = q.astype(float)
    expected[which, :width] = q[which, :width].astype(float) @ R.T @ R
    apply_factor(R.view(np.complex64), np.array(which), q, Scratch.empty(5, width), True if len(which) > 1 else None)
    np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [4, 27, N])
@pytest.mark.parametrize("scale", [1, 0])
def test_logits_and_gradient_come_from_what_is_stored_in_float64(dtype, n, scale):
    acts = made(dtype)[:n]
    rows, X = rows_of(acts), np.pad(standardised(acts), ((0, 0), (0, 1)))
    random = np.random.default_rng(0)
    u, offset, s = random.normal(size=D + 2), random.normal(size=n), random.normal(size=n)
    u[:-1] *= scale
    s[3] = 0
    z, r, g = np.full(n, np.nan), np.full(n, np.nan), np.full(D + 2, np.nan)
    evaluate(rows, u, offset, s, z, r, g, Scratch.empty(n, D + 1))
    expected = X @ u[:-1] + u[-1] + offset
    residual = -s / (1 + np.exp(np.sign(s) * expected))
    np.testing.assert_allclose(z, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(r, residual, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(g, np.append(X.T @ residual, residual.sum()), rtol=1e-8, atol=1e-9)


def test_the_exponential_is_that_of_numpy():
    x = -np.concatenate((np.linspace(0, 40, 4001), np.logspace(-12, np.log10(700), 4001)))
    np.testing.assert_allclose([exponential(one) for one in x], np.exp(x), rtol=3e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_finite_number_of_sixteen_bits_is_read_exactly(dtype):
    """Where all rows are the same, their columns are described by the numbers that were read."""
    every = torch.arange(2**16).to(torch.uint16).view(dtype)
    every = every[every.isfinite()]
    columns = describe_columns(store(every.expand(5, -1).contiguous()), 5)
    for numbers in (columns.mean, columns.least, columns.most):
        assert (numbers == every.double().numpy()).all()


@pytest.mark.parametrize(("LARGE", "ridge", "coarse"), [(1, 1.0, True), (1, 1e-5, False), (10**6, 1.0, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_cells_are_rounded_for_passes_where_the_penalty_is_strong(dtype, LARGE, ridge, coarse, monkeypatch):
    monkeypatch.setattr("probes.solver.rows.LARGE", LARGE)
    acts = made(dtype)
    stored = store(acts)
    rows = standardise(stored, describe_columns(stored, N), ridge)
    assert rows.is_coarse == coarse
    np.testing.assert_allclose(unpair(rows.X)[:, :D], standardised(acts), rtol=2**-11 if coarse else 1e-5, atol=1e-6)
    assert rows.stored is stored
    assert not rows_of(made(torch.float16)).is_coarse


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_passes_keep_their_digits_whatever_the_size_of_the_factors(dtype, lanes, scale):
    random = np.random.default_rng(0)
    acts = torch.from_numpy(random.normal(size=(64, 58)).clip(-2, 2) * scale).to(dtype)
    pairs, X = store(acts), acts.double().numpy()
    for size in (1e-25, 1e-20, 1e-10, 1.0, 1e10, 1e20):
        factors = (random.normal(size=(4, 58)) * size).astype(np.float32)
        t, expected = np.zeros((4, 64), np.float32), factors.astype(float) @ X.T
        a, b = factors[:, ::2].copy(), factors[:, 1::2].copy()
        multiply(pairs, lanes, a, b, t, False, True if lanes > 1 else None)
        np.testing.assert_allclose(t[:lanes], expected[:lanes], rtol=0, atol=1e-6 * np.abs(expected).max())
        t = (random.normal(size=(4, 64)) * size).astype(np.float32)
        expected = t.astype(float) @ X
        add_up(pairs, lanes, t, a, b, False, True if lanes > 1 else None)
        sums = np.stack((a, b), 2).reshape(4, 58)
        np.testing.assert_allclose(sums[:lanes], expected[:lanes], rtol=0, atol=1e-6 * np.abs(expected).max())


def test_small_numbers_count_where_float32_is_flushed_to_zero(monkeypatch):
    monkeypatch.setattr("probes.solver.rows.LARGE", 1)
    acts, wide = made(torch.float16) * 1e-5, store(made(torch.float32))
    expected = describe_columns(store(acts), N)
    torch.set_flush_denormal(True)
    try:
        found = describe_columns(store(acts), N)
        assert standardise(wide, describe_columns(wide, N), 1.0).is_coarse
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.deviation, expected.deviation, rtol=1e-12)
    assert (found.deviation > 0).sum() == D - 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan, -torch.nan])
def test_infinity_and_nan_show_in_the_mean(bad, dtype):
    acts = torch.ones(N, D, dtype=dtype)
    acts[3, 7] = bad
    assert np.flatnonzero(~np.isfinite(describe_columns(store(acts), N).mean)).tolist() == [7]
