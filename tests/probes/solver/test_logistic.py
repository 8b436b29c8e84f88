"""fit_logistic against scikit-learn run to convergence, and what it promises about masks, scales, errors and order."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.solver import gram, methods
from probes.solver.logistic import REASONS, fit_logistic


def made(C, N, D, *, noise=1.5, seed=0, dtype=torch.float64):
    """Gaussian activations [C, N, D] and labels [C, N] that depend on one direction, both classes present."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(C, N, D, generator=generator, dtype=torch.float64)
    direction = torch.randn(C, D, 1, generator=generator, dtype=torch.float64)
    margin = (acts @ direction)[..., 0] / D**0.5 + noise * torch.randn(C, N, generator=generator, dtype=torch.float64)
    return acts.to(dtype), (margin > 0.3).long()


def objective(acts, labels, weight, bias, l2):
    """The stated objective, in numpy's float64."""
    X, s = acts.double().numpy(), 2 * labels.numpy() - 1
    margin = s * (X @ weight.double().numpy() + bias.double().item())
    return np.logaddexp(0, -margin).sum() + l2 / 2 * (weight.double().numpy() ** 2).sum()


def gradient_norm(acts, labels, weight, bias, l2):
    X, y = acts.double().numpy(), labels.numpy()
    residual = 1 / (1 + np.exp(-(X @ weight.double().numpy() + bias.double().item()))) - y
    return np.hypot(np.linalg.norm(X.T @ residual + l2 * weight.double().numpy()), residual.sum())


def oracle(acts, labels, l2, solver="newton-cholesky"):
    """scikit-learn's optimum as (weight, bias, objective)."""
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000, solver=solver)
    model.fit(acts.double().numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_[0]), torch.from_numpy(np.asarray(model.intercept_))[0]
    return weight, bias, objective(acts, labels, weight, bias, l2)


def assert_optimal(fit, acts, labels, l2=1.0, rtol=1e-7, solver="newton-cholesky"):
    """Every cell: objective no more than 1e-9 above the oracle's, weights and bias equal, fields truthful."""
    for cell in range(len(acts)):
        weight, bias, best = oracle(acts[cell], labels[cell], l2, solver)
        assert objective(acts[cell], labels[cell], fit.weight[cell], fit.bias[cell], l2) <= best * (1 + 1e-9)
        scale = weight.abs().max().item()
        torch.testing.assert_close(fit.weight[cell].double(), weight, rtol=rtol, atol=rtol * scale)
        torch.testing.assert_close(fit.bias[cell].double(), bias, rtol=rtol, atol=rtol)
        torch.testing.assert_close(fit.objective[cell].double().item(), best, rtol=1e-6, atol=0)
    assert fit.converged.all()
    assert (fit.gradient_norm <= 1e-4).all()
    assert ((fit.iterations >= 1) & (fit.iterations < 200)).all()


@pytest.mark.parametrize(("N", "D"), [(60, 200), (200, 60), (80, 80), (81, 80), (80, 81), (40, 1)])
@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
def test_reaches_the_optimum_of_scikit_learn(N, D, l2):
    acts, labels = made(3, N, D)
    assert_optimal(fit_logistic(acts, labels, l2=l2), acts, labels, l2)


@pytest.mark.parametrize(("N", "D"), [(100, 700), (300, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes_give_float32_at_the_optimum_of_what_was_stored(N, D, dtype):
    acts, labels = made(2, N, D, dtype=dtype)
    fit = fit_logistic(acts, labels)
    assert fit.weight.dtype == fit.bias.dtype == fit.objective.dtype == fit.gradient_norm.dtype == torch.float32
    assert_optimal(fit, acts, labels, rtol=1e-6)


@pytest.mark.parametrize(("N", "D"), [(60, 200), (200, 60)])
def test_columns_of_very_different_scale_and_offset(N, D):
    acts, labels = made(2, N, D)
    scale = torch.ones(D, dtype=torch.float64)
    scale[:3] = torch.tensor([30, 300, 1000])
    acts = acts * scale + 20 * scale
    fit = fit_logistic(acts, labels)
    # scikit-learn does not centre, so it is shown the centred columns: the same problem up to the intercept.
    mean = acts.mean(1, keepdim=True)
    centred = fit._replace(bias=fit.bias + (fit.weight * mean[:, 0]).sum(-1))
    assert_optimal(centred, acts - mean, labels, rtol=1e-6)


@pytest.mark.parametrize(("N", "D"), [(30, 100), (200, 20)])
def test_separable_classes(N, D):
    acts, labels = made(2, N, D, noise=0.0)
    for l2 in (1.0, 1e-3):
        assert_optimal(fit_logistic(acts, labels, l2=l2), acts, labels, l2, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1e4, 1e8, 1e10])
@pytest.mark.parametrize(("N", "D"), [(30, 100), (200, 20)])
def test_every_scale_converges_and_is_stationary(N, D, scale):
    """Scaling x by c and l2 by c² is the same problem, which the unit scale solves."""
    acts, labels = made(2, N, D, noise=0.0)
    labels[1, ::7] = 1 - labels[1, ::7]
    fit = fit_logistic(acts * scale, labels, l2=0.5 * scale**2)
    assert fit.converged.all()
    torch.testing.assert_close(fit.weight * scale, fit_logistic(acts, labels, l2=0.5).weight, rtol=1e-7, atol=1e-9)
    unpenalised = fit_logistic(acts * scale, labels, l2=1e-3)
    assert unpenalised.converged.all()
    start = fit_logistic(acts * scale, labels, l2=1e-3, max_iter=0)
    assert (unpenalised.gradient_norm <= 1e-9 * start.gradient_norm).all()


@pytest.mark.parametrize(("seed", "D"), [(2, 60), (9, 60), (5, 3), (9, 3)])
@pytest.mark.parametrize("l2", [1e-6, 1e-2])
def test_heavy_tails_where_full_newton_steps_diverge(seed, D, l2):
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(6, 30, D, generator=generator, dtype=torch.float64)
    acts /= torch.randn(6, 30, 1, generator=generator, dtype=torch.float64) ** 2
    labels = torch.rand(6, 30, generator=generator) < 0.1
    fit, start = fit_logistic(acts, labels, l2=l2), fit_logistic(acts, labels, l2=l2, max_iter=0)
    fittable = labels.any(-1) & ~labels.all(-1)
    assert torch.equal(fit.converged, fittable)
    assert (fit.gradient_norm <= 1e-4 + 1e-12 * start.gradient_norm)[fittable].all()


def test_activations_beyond_float32_touch_no_other_cell():
    acts, labels = made(2, 20, 30)
    acts[0] *= 1e200
    fit = fit_logistic(acts, labels)
    assert fit.converged.tolist() == [False, True]
    assert fit.weight.isfinite().all(-1).tolist() == [False, True]


@pytest.mark.parametrize("D", [1, 5, 300])
def test_duplicate_and_contradictory_rows(D):
    acts, labels = made(1, 40, D)
    acts, labels = acts.repeat(1, 4, 1), labels.repeat(1, 4)
    assert_optimal(fit_logistic(acts, labels), acts, labels)
    labels[:, :40] = 1 - labels[:, :40]
    assert_optimal(fit_logistic(acts, labels), acts, labels)


def test_two_rows_whose_product_rounds_far_above_the_penalty():
    """The system of a Newton step is then singular but for rounding."""
    acts = torch.tensor([[[6.3242e6, -9.9615e6], [6.3082e9, -9.9321e9]]])
    fit = fit_logistic(acts.bfloat16(), torch.tensor([[1, 0]]))
    assert fit.converged.all()
    assert fit.gradient_norm.item() <= 1e-4


@pytest.mark.parametrize("D", [1, 2, 3, 50])
def test_two_examples(D):
    acts = torch.stack((torch.ones(D), 3 * torch.ones(D)))[None].double()
    labels = torch.tensor([[0, 1]])
    assert_optimal(fit_logistic(acts, labels), acts, labels)


@pytest.mark.parametrize("D", [3, 600])
def test_a_hopeless_cell_is_nan_with_a_reason_while_its_neighbours_finish(D):
    acts, labels = made(5, 600, D, dtype=torch.float32)
    acts[0] = 7.3
    labels[1] = 1
    valid = torch.ones(5, 600, dtype=torch.bool)
    valid[2] = False
    acts[3, 0], valid[3, 1:] = 1.0, False
    fit = fit_logistic(acts, labels, valid)
    assert [REASONS[code] for code in fit.reason] == [
        "constant features",
        "one class only",
        "no valid row",
        "one class only",
        "converged",
    ]
    assert fit.weight.isnan().all(-1).tolist() == fit.bias.isnan().tolist() == [True] * 4 + [False]
    assert fit.converged.tolist() == [False] * 4 + [True]
    short = fit_logistic(acts[4:], labels[4:], max_iter=0)
    assert REASONS[short.reason[0]] == "max_iter reached"


def test_a_constant_column_beside_others_has_weight_zero():
    acts, labels = made(1, 40, 3)
    acts[..., 1] = 7.0
    fit = fit_logistic(acts, labels)
    assert fit.weight[0, 1].abs() < 1e-12
    assert_optimal(fit, acts, labels)


@pytest.mark.parametrize(("N", "D"), [(60, 200), (200, 60)])
def test_reports_the_gradient_of_the_stated_objective(N, D):
    acts, labels = made(1, N, D)
    acts += 3
    for steps in range(4):
        fit = fit_logistic(acts, labels, max_iter=steps)
        expected = gradient_norm(acts[0], labels[0], fit.weight[0], fit.bias[0], 1.0)
        torch.testing.assert_close(fit.gradient_norm.item(), expected, rtol=1e-6, atol=0)
        assert fit.iterations.item() == steps
        assert not fit.converged.any()


def test_tolerance_decides_what_has_converged():
    acts, labels = made(12, 200, 20)
    loose, tight = (fit_logistic(3 * acts, labels, tol=tol) for tol in (1e-4, 1e-12))
    assert (loose.converged & tight.converged).all()
    assert (loose.gradient_norm > 1e-10).any()
    assert (tight.gradient_norm < 2e-11).all()
    short = fit_logistic(3 * acts, labels, max_iter=5)
    assert not short.converged.any()
    assert short.weight.isfinite().all()


@pytest.mark.parametrize(("N", "D"), [(80, 150), (150, 20)])
def test_invalid_rows_do_not_exist(N, D):
    acts, labels = made(3, N, D)
    valid = torch.rand(3, N, generator=torch.Generator().manual_seed(1)) < 0.7
    acts[~valid] = torch.nan
    labels[~valid] = 9
    fit = fit_logistic(acts, labels, valid)
    for cell in range(3):
        rows = valid[cell]
        alone = fit._replace(**{name: value[cell : cell + 1] for name, value in fit._asdict().items()})
        assert_optimal(alone, acts[cell : cell + 1, rows], labels[cell : cell + 1, rows])


@pytest.mark.parametrize(("N", "D"), [(60, 150), (150, 30)])
def test_label_sets_share_the_activations(N, D):
    acts, _ = made(2, N, D)
    labels = torch.rand(4, 1, N, generator=torch.Generator().manual_seed(2)) < 0.4
    valid = torch.rand(4, 2, N, generator=torch.Generator().manual_seed(3)) < 0.8
    fit = fit_logistic(acts, labels, valid)
    assert fit.weight.shape == (4, 2, D)
    assert all(field.shape == (4, 2) for field in fit[1:])
    for k in range(4):
        one = fit_logistic(acts, labels[k], valid[k])
        torch.testing.assert_close(fit.weight[k], one.weight, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(fit.objective[k], one.objective)
    assert fit_logistic(acts, labels).weight.shape == (4, 2, D)
    rows_only = fit_logistic(acts, labels[0], valid)
    torch.testing.assert_close(rows_only.weight[0], fit.weight[0])


@pytest.mark.parametrize("D", [5, 100])
def test_a_cell_without_both_classes_is_nan_and_alone_in_it(D):
    acts, labels = made(4, 40, D)
    labels[1] = 1
    valid = torch.ones(4, 40, dtype=torch.bool)
    valid[2] = False
    fit = fit_logistic(acts, labels, valid)
    for cell in (1, 2):
        assert all(field[cell].isnan().all() for field in fit[:4])
        assert not fit.converged[cell]
        assert fit.iterations[cell] == 0
    kept = fit_logistic(acts[[0, 3]], labels[[0, 3]])
    for mixed, clean in zip(fit, kept, strict=True):
        assert torch.equal(mixed[[0, 3]], clean)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_a_float32_gram_does_not_move_the_optimum(monkeypatch, offset):
    acts, labels = made(1, 100, 1024)
    acts += offset
    assert gram.gram_matrix(acts, 1e9).sub(acts @ acts.mT).abs().max() > 0  # it is float32 that is under test
    rounded = fit_logistic(acts, labels)
    monkeypatch.setattr(methods, "gram_matrix", lambda X, l2: X @ X.mT)
    exact = fit_logistic(acts, labels)
    torch.testing.assert_close(rounded.weight, exact.weight, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("N", "D"), [(60, 90), (90, 30), (560, 700)])
def test_standardized_is_the_fit_on_scaled_columns_with_weights_for_the_raw_ones(N, D):
    acts, labels = made(2, N, D)
    acts = 5 + acts * torch.logspace(-2, 2, D, dtype=torch.float64)
    acts[..., 3] = 1.0  # constant: its weight is zero, not NaN
    valid = torch.rand(2, N, generator=torch.Generator().manual_seed(1)) < 0.8
    fit = fit_logistic(acts, labels, valid, standardize=True)
    for cell in range(2):
        X = acts[cell, valid[cell]]
        scale = X.std(0, correction=0)
        scale[3] = 1.0
        scaled = fit_logistic(((X - X.mean(0)) / scale)[None], labels[[cell], valid[cell]][None])
        scores = (X - X.mean(0)) / scale @ scaled.weight[0] + scaled.bias[0]
        torch.testing.assert_close(X @ fit.weight[cell] + fit.bias[cell], scores, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fit.objective[cell], scaled.objective[0], rtol=1e-9, atol=0)
    assert (fit.weight[:, 3] == 0).all()
