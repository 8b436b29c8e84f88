"""When the descents of a cell get a factor, and that each of them comes to its end, beside any others."""

import numpy as np
import pytest
import torch

from probes.solver import ladder
from probes.solver.ladder import ENOUGH, FACTORS, factor_hessian
from probes.solver.lbfgs import BEGUN
from probes.solver.logistic import fit_logistic


def made(seed, n, D, K, *, masked=0.8):
    """Acts [1, n, D] float64 with a few rows that dwarf the others, labels and rows that count [K, 1, n]."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, D)) * 10 ** random.uniform(-2, 2, D)
    X[:3] *= 1000
    labels, valid = random.random((K, 1, n)) < 0.5, random.random((K, 1, n)) < masked
    return torch.from_numpy(X)[None], torch.from_numpy(labels).long(), torch.from_numpy(valid)


@pytest.mark.parametrize("seed", range(3))
def test_label_sets_of_a_hard_cell_end_as_each_does_alone(seed):
    acts, labels, valid = made(seed, 167, 119, 9)
    path = [1e-2, 1e-4]
    together = fit_logistic(acts, labels, valid, l2=path)
    for k in range(9):
        alone = fit_logistic(acts, labels[k], valid[k], l2=path)
        assert torch.equal(together.reason[:, k], alone.reason)
        torch.testing.assert_close(together.objective[:, k], alone.objective, rtol=1e-9, atol=0)


@pytest.fixture
def factors(monkeypatch):
    """Factors as they are made: the descent, the status of each, and whether its residuals are its own."""
    seen = []

    def spy(rows, descents, k):
        own = (np.abs(descents.r[k]) <= np.abs(descents.s[k])).all()
        seen.append((k, descents.state["status"].copy(), own))
        return factor_hessian(rows, descents, k) if spy.works else None

    spy.works = True
    monkeypatch.setattr(ladder, "factor_hessian", spy)
    return seen, spy


def test_a_factor_is_that_of_its_own_label_set(factors):
    """Where all descents end at once as a factor is due, the next label sets have not been computed yet."""
    random = torch.Generator().manual_seed(0)
    acts, labels = torch.randn(1, 120, 100, generator=random), torch.rand(40, 1, 120, generator=random) < 0.5
    valid = torch.rand(40, 1, 120, generator=random) < 0.9
    for most in range(20, 60, 2):
        fit_logistic(acts, labels.long(), valid, l2=0.01, max_iter=most)
    seen, _ = factors
    assert len(seen) > 10
    assert all(own and (status != BEGUN).all() for _, status, own in seen)


def test_a_factor_that_fails_ends_its_own_descent_alone(factors):
    seen, spy = factors
    acts, labels, valid = made(5, 130, 60, 6)
    expected = fit_logistic(acts, labels, valid, l2=1e-2)
    seen.clear()
    spy.works = False
    fit = fit_logistic(acts, labels, valid, l2=1e-2)
    assert len(seen) > 0
    assert len(seen) <= 6  # of every label set once
    assert fit.converged.all()
    torch.testing.assert_close(fit.objective, expected.objective, rtol=1e-9, atol=0)


@pytest.mark.parametrize("K", [1, 6])
def test_a_problem_is_left_to_float64_before_its_steps_are_used_up(K, monkeypatch):
    monkeypatch.setattr(ladder, "factor_hessian", lambda *_: np.zeros((60, 30), np.complex64))  # directions of zero
    acts, labels, valid = made(0, 130, 60, K)
    fit = fit_logistic(acts, labels, valid, l2=1e-2)
    assert fit.converged.all()
    steps = []
    climb = ladder.Ladder._climb

    def spy(self, k):
        steps.append((int(self.descents.state["steps"][k]), int(self.made.max())))
        climb(self, k)

    monkeypatch.setattr(ladder, "factor_hessian", factor_hessian)
    monkeypatch.setattr(ladder.Ladder, "_climb", spy)
    fit_logistic(acts, labels, valid, l2=1e-7, tol=0)
    assert len(steps) >= K
    assert max(most for most, _ in steps) < ENOUGH + ENOUGH // 2
    assert max(factors for _, factors in steps) <= FACTORS


def test_what_an_objective_is_above_its_optimum_is_bounded():
    acts, labels, _ = made(1, 130, 60, 1)
    best = fit_logistic(acts, labels, l2=0.5, tol=1e-10).objective.item()
    for steps in (5, 20, 60):
        found = []
        real = ladder.descend

        def descend(rows, descents, *others, real=real, found=found):
            taken = real(rows, descents, *others)
            found.append((float(descents.state["value"][0]), float(descents.state["excess"][0])))
            return taken

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ladder, "descend", descend)
            fit_logistic(acts, labels, l2=0.5, max_iter=steps)
        value, excess = found[-1]
        assert value - best <= excess * (1 + 1e-6) + 1e-9 * best


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("K", [1, 5])
def test_zeros_of_either_sign_are_the_same(dtype, K):
    acts = torch.zeros(1, 20, 12)
    acts[:, ::2] = -0.0
    valid = torch.ones(K, 1, 20, dtype=torch.bool)
    valid[-1, :, 3:5] = False
    fit = fit_logistic(acts.to(dtype), (torch.arange(20) % 2).expand(K, 1, 20), valid)
    assert fit.weight.isnan().all()
    assert not fit.converged.any()
