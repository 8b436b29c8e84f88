"""fit_logistic with offsets: the optimum of the stated objective, by its gradient in numpy and by scipy's minimiser."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from probes.solver.logistic import fit_logistic
from tests.probes.solver.test_logistic import made
from tests.support.simulated_cuda import SimulatedCuda, simulate


def value_and_gradient(point, X, s, offset, l2):
    """The stated objective at (weight, bias), and its gradient; s is 0 in rows that do not count."""
    weight, bias = point[:-1], point[-1]
    margin = s * (X @ weight + bias + offset)
    residual = -s / (1 + np.exp(margin))
    value = (np.logaddexp(0, -margin) * s**2).sum() + l2 / 2 * weight @ weight
    return value, np.append(X.T @ residual + l2 * weight, residual.sum())


def signs(labels, valid):
    return np.where(valid.numpy(), 2 * labels.numpy() - 1.0, 0.0)


# Small cells, primal and dual; large ones with fewer and with more rows than columns.
@pytest.mark.parametrize(("N", "D", "l2"), [(200, 30, 1.0), (60, 90, 0.1), (200, 600, 10.0), (700, 520, 50.0)])
def test_the_gradient_is_zero_and_no_minimiser_does_better(N, D, l2):
    acts, labels = made(2, N, D, noise=3.0)
    offset = 2 * torch.randn(2, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    valid = torch.rand(2, N, generator=torch.Generator().manual_seed(2)) < 0.9
    offset[~valid] = torch.nan  # counts nowhere
    fit = fit_logistic(acts, labels, valid, l2=l2, offset=offset)
    assert fit.converged.all()
    for cell in range(2):
        given = acts[cell].numpy(), signs(labels[cell], valid[cell]), offset[cell].nan_to_num().numpy(), l2
        point = np.append(fit.weight[cell].numpy(), fit.bias[cell].item())
        found, gradient = value_and_gradient(point, *given)
        assert np.linalg.norm(gradient) <= 1.1e-4
        np.testing.assert_allclose(fit.objective[cell].item(), found, rtol=1e-12)
        best = minimize(value_and_gradient, np.zeros(D + 1), given, "L-BFGS-B", jac=True, options={"maxiter": 2000})
        assert found <= best.fun * (1 + 1e-9)


def test_an_offset_of_zero_is_none():
    for N, D in ((100, 20), (200, 600)):
        acts, labels = made(1, N, D)
        plain, shifted = (fit_logistic(acts, labels, l2=5.0, offset=one) for one in (None, torch.zeros(N)))
        torch.testing.assert_close(shifted.weight, plain.weight, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(shifted.bias, plain.bias, rtol=1e-6, atol=1e-9)


def test_a_constant_offset_goes_into_the_intercept():
    acts, labels = made(1, 150, 40)
    plain, shifted = (fit_logistic(acts, labels, offset=one) for one in (None, torch.full((150,), 3.0)))
    torch.testing.assert_close(shifted.weight, plain.weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(shifted.bias, plain.bias - 3, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("N", "D"), [(120, 30), (160, 530)])
def test_label_sets_and_penalties_each_have_theirs(N, D):
    acts, labels = made(2, N, D, noise=3.0)
    sets = torch.stack((labels, 1 - labels.roll(3, 1)))
    offset = torch.randn(2, 1, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    fit = fit_logistic(acts, sets, l2=[1.0, 30.0], standardize=True, offset=offset)
    assert fit.converged.all()
    for k in range(2):
        for p, l2 in enumerate([1.0, 30.0]):
            alone = fit_logistic(acts, sets[k], l2=l2, standardize=True, offset=offset[k])
            torch.testing.assert_close(fit.weight[p, k], alone.weight, rtol=1e-5, atol=1e-8)


def test_offsets_that_do_not_fit_are_told_in_a_line():
    acts, labels = made(1, 20, 3)
    with pytest.raises(ValueError, match=r"offset must broadcast to \[C, N\] = \[1, 20\]"):
        fit_logistic(acts, labels, offset=torch.zeros(19))
    with pytest.raises(ValueError, match="offset must be finite in valid rows"):
        fit_logistic(acts, labels, offset=torch.full((20,), torch.inf))


@pytest.mark.parametrize(("N", "D"), [(60, 40), (160, 530)])
def test_a_device_gives_what_the_cpu_gives(N, D):
    acts, labels = made(3, N, D, noise=3.0)
    sets, offset = torch.stack((labels, 1 - labels)), torch.stack((torch.ones(1, N), torch.linspace(-2, 2, N)[None]))
    on_cpu = fit_logistic(acts, sets, l2=[2.0, 20.0], offset=offset)
    with SimulatedCuda():
        fit = fit_logistic(simulate(acts), simulate(sets), l2=[2.0, 20.0], offset=simulate(offset))
        weight, bias = fit.weight.cpu(), fit.bias.cpu()
    torch.testing.assert_close(weight, on_cpu.weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(bias, on_cpu.bias, rtol=1e-5, atol=1e-6)
