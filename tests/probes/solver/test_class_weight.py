"""fit_logistic with class_weight="balanced" against scikit-learn's, in every method, dtype and shape of label sets."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from probes.solver.logistic import REASONS, fit_logistic
from tests.support.simulated_cuda import SimulatedCuda, simulate


def imbalanced(C, N, D, *, positive=0.1, noise=1.0, seed=0, dtype=torch.float64):
    """Gaussian activations [C, N, D] with offsets, and labels [C, N] of which a small share is 1."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(C, N, D, generator=generator, dtype=torch.float64)
    direction = torch.randn(C, D, 1, generator=generator, dtype=torch.float64)
    margin = (acts @ direction)[..., 0] / D**0.5 + noise * torch.randn(C, N, generator=generator, dtype=torch.float64)
    return (acts + 0.5).to(dtype), (margin > margin.quantile(1 - positive, -1, keepdim=True)).long()


def value_and_gradient(point, X, y, c, offset, l2):
    """∑ c log(1 + exp(-s (x·w + b + o))) + l2/2 |w|² at (w, b), and its gradient, in numpy's float64."""
    weight, bias, s = point[:-1], point[-1], 2.0 * y - 1
    margin = s * (X @ weight + bias + offset)
    residual = -s * c / (1 + np.exp(margin))
    value = (c * np.logaddexp(0, -margin)).sum() + l2 / 2 * weight @ weight
    return value, np.append(X.T @ residual + l2 * weight, residual.sum())


def balanced(y):
    """The weight of each row, by scikit-learn's formula."""
    return len(y) / (2 * np.bincount(y, minlength=2)[y])


def assert_optimal(fit, at, X, y, l2, scale=1.0):
    """The probe at an index of the fit: scikit-learn's optimum, no more than 1e-10 above it."""
    X = (X - X.mean(0)) / scale
    model = LogisticRegression(
        C=1 / l2, class_weight="balanced", tol=1e-11, max_iter=10_000, solver="newton-cholesky"
    ).fit(X, y)
    c, best = balanced(y), np.append(model.coef_[0], model.intercept_)
    lowest = value_and_gradient(best, X, y, c, 0.0, l2)[0]
    assert fit.converged[at]
    assert fit.gradient_norm[at] <= 1e-4
    np.testing.assert_allclose(
        fit.objective[at].item(), lowest, rtol=1e-10 if fit.bias.dtype == torch.float64 else 1e-6
    )
    weight = fit.weight[at].double().numpy() * scale
    rtol = 1e-6 if fit.bias.dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(weight, best[:-1], rtol=rtol, atol=rtol * np.abs(best[:-1]).max())


# Small cells, primal and dual; large ones with fewer and with more rows than columns.
@pytest.mark.parametrize(("N", "D"), [(200, 30), (60, 90), (240, 520), (560, 520)])
@pytest.mark.parametrize("standardize", [False, True])
def test_reaches_the_optimum_of_scikit_learn(N, D, standardize):
    acts, labels = imbalanced(2, N, D)
    fit = fit_logistic(acts, labels, l2=[20.0, 0.5], standardize=standardize, class_weight="balanced")
    for p, l2 in enumerate([20.0, 0.5]):
        for cell, (X, y) in enumerate(zip(acts.numpy(), labels.numpy(), strict=True)):
            assert_optimal(fit, (p, cell), X, y, l2, X.std(0) if standardize else 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("N", "D"), [(200, 30), (300, 520)])
def test_narrow_dtypes_reach_the_optimum_of_what_was_stored(N, D, dtype):
    acts, labels = imbalanced(1, N, D, dtype=dtype)
    fit = fit_logistic(acts, labels, l2=5.0, class_weight="balanced")
    assert_optimal(fit, 0, acts[0].double().numpy(), labels[0].numpy(), 5.0)


@pytest.mark.parametrize(("N", "D", "K"), [(150, 20, 3), (260, 520, 2), (260, 520, 6)])  # the last on a Gram matrix
def test_each_label_set_weighs_by_its_own_valid_rows(N, D, K):
    acts, labels = imbalanced(1, N, D)
    generator = torch.Generator().manual_seed(5)
    sets = torch.stack([labels.roll(k, 1) for k in range(K)])
    sets[0] = (torch.rand(1, N, generator=generator) < 0.5).long()
    valid = torch.rand(K, 1, N, generator=generator) < torch.linspace(0.6, 1.0, K)[:, None, None]
    fit = fit_logistic(acts, sets, valid, l2=10.0, class_weight="balanced")
    for k in range(K):
        rows = valid[k, 0]
        assert_optimal(fit, (k, 0), acts[0, rows].numpy(), sets[k, 0, rows].numpy(), 10.0)


@pytest.mark.parametrize(("N", "D"), [(60, 90), (300, 520)])
def test_three_examples_of_a_class_and_separable_classes(N, D):
    acts, labels = imbalanced(1, N, D, positive=3 / N, noise=0.0)
    assert labels.sum() == 3
    for l2 in (1.0, 1e-3):
        fit = fit_logistic(acts, labels, l2=l2, class_weight="balanced")
        assert_optimal(fit, 0, acts[0].numpy(), labels[0].numpy(), l2)


@pytest.mark.parametrize(("N", "D"), [(200, 30), (60, 90), (240, 520), (560, 520)])
def test_with_offsets_no_minimiser_does_better(N, D):
    acts, labels = imbalanced(1, N, D)
    offset = torch.randn(1, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fit = fit_logistic(acts, labels, l2=20.0, offset=offset, class_weight="balanced")
    given = acts[0].numpy(), labels[0].numpy(), balanced(labels[0].numpy()), offset[0].numpy(), 20.0
    found, gradient = value_and_gradient(np.append(fit.weight[0].numpy(), fit.bias.item()), *given)
    assert fit.converged
    assert np.linalg.norm(gradient) <= 1.1e-4
    best = minimize(value_and_gradient, np.zeros(D + 1), given, "L-BFGS-B", jac=True, options={"maxiter": 2000})
    assert found <= best.fun * (1 + 1e-10)


@pytest.mark.parametrize(("N", "D", "K"), [(60, 40, 1), (160, 530, 1), (160, 530, 7)])
def test_classes_of_one_size_change_no_bit(N, D, K):
    acts, _ = imbalanced(2, N, D, dtype=torch.bfloat16)
    sets = torch.stack([(torch.arange(N) % 2).roll(k) ^ (torch.arange(N) < 2 * k) for k in range(K)])[:, None]
    assert (sets.sum(-1) == N // 2).all()
    given = {"l2": [1.0, 30.0], "standardize": True}
    plain, weighted = (fit_logistic(acts, sets, **given, class_weight=one) for one in (None, "balanced"))
    for a, b in zip(plain, weighted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("N", "D"), [(60, 40), (160, 530)])
def test_the_bits_depend_on_neither_threads_nor_other_cells(N, D):
    acts, labels = imbalanced(3, N, D, dtype=torch.float32)
    given = {"l2": 3.0, "class_weight": "balanced"}
    threads = torch.get_num_threads()
    try:
        fits = []
        for n in (1, 2):
            torch.set_num_threads(n)
            fits.append(fit_logistic(acts, labels, **given))
    finally:
        torch.set_num_threads(threads)
    alone = fit_logistic(acts[1:2], labels[1:2], **given)
    assert torch.equal(fits[0].weight, fits[1].weight)
    assert torch.equal(fits[0].weight[1:2], alone.weight)
    assert torch.equal(fits[0].bias[1:2], alone.bias)


def test_what_cannot_be_fitted_has_the_same_reasons():
    acts, labels = imbalanced(5, 40, 6)
    valid = torch.ones_like(labels, dtype=torch.bool)
    valid[0] = False
    labels[1] = 1
    acts[2] = 2.5
    acts[3] *= 1e20
    plain, weighted = (fit_logistic(acts, labels, valid, class_weight=one) for one in (None, "balanced"))
    assert torch.equal(plain.reason, weighted.reason)
    assert [REASONS[i] for i in weighted.reason] == [
        "no valid row", "one class only", "constant features", "beyond float32", "converged",
    ]  # fmt: skip
    assert torch.equal(plain.weight.isnan(), weighted.weight.isnan())


@pytest.mark.parametrize(("N", "D"), [(60, 40), (160, 530)])
def test_a_device_gives_what_the_cpu_gives(N, D):
    acts, labels = imbalanced(2, N, D, dtype=torch.float32)
    sets = torch.stack((labels, labels.roll(3, 1)))
    on_cpu = fit_logistic(acts, sets, l2=[2.0, 20.0], class_weight="balanced")
    with SimulatedCuda():
        fit = fit_logistic(simulate(acts), simulate(sets), l2=[2.0, 20.0], class_weight="balanced")
        weight, bias = fit.weight.cpu(), fit.bias.cpu()
    torch.testing.assert_close(weight, on_cpu.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bias, on_cpu.bias, rtol=1e-5, atol=1e-6)


def test_another_class_weight_is_told_in_a_line():
    acts, labels = imbalanced(1, 20, 3)
    for wrong in ("equal", {0: 1, 1: 2}, True):
        with pytest.raises(ValueError, match='class_weight must be None or "balanced", got '):
            fit_logistic(acts, labels, class_weight=wrong)  # type: ignore[arg-type]
