"""Directions on a GPU, on a device that is simulated."""

import torch

from probes.solver import methods, newton_cg
from probes.solver.logistic import LogisticFit, fit_logistic
from probes.solver.spaces import Weights
from tests.probes.solver.test_methods import made
from tests.support.simulated_cuda import SimulatedCuda, simulate


def test_a_direction_that_does_not_end_is_cut_off(monkeypatch):
    """Here each may take ten products, where it would take more; the optimum is the same."""
    products: list[int] = []  # of each direction

    def count(self, w, image=Weights.image):
        if products:  # the first image is no part of a direction
            products[-1] += 1
        return image(self, w)

    def record(*given, direction=newton_cg._direction):
        products.append(0)
        return direction(*given)

    monkeypatch.setattr(Weights, "image", count)
    monkeypatch.setattr(newton_cg, "_direction", record)
    monkeypatch.setattr(newton_cg, "GPU_MOST", 10)
    monkeypatch.setattr(methods, "GRAM_ROWS", 600)
    acts, labels = made(2, 800, 520)
    expected = fit_logistic(acts, labels)
    with SimulatedCuda():
        fit = LogisticFit._make(field.cpu() for field in fit_logistic(simulate(acts), simulate(labels)))
    assert max(products) == 10
    assert fit.converged.all()
    torch.testing.assert_close(fit.weight, expected.weight, rtol=1e-4, atol=1e-5)
