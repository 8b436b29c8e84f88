"""Descents in one cell: the memory, the factor and what problems of a cell share, against numpy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.solver.lbfgs import Memory, Point, Problem, begin, descend, norm
from probes.solver.logistic import fit_logistic
from probes.solver.one_cell import NO_FACTOR, factor_hessian, solve_cell
from probes.solver.rows import describe_columns, standardise, store


def made(n, D, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(n, D, generator=generator) @ torch.randn(D, D, generator=generator) / D**0.5 + 5
    labels = (acts[:, :5].sum(-1) + torch.randn(n, generator=generator) > 25).long()
    return acts.to(dtype), labels


def problem_of(acts, labels, l2):
    stored = store(acts)
    columns = describe_columns(stored, len(acts))
    rows, D = standardise(stored, columns), acts.shape[1]
    s = np.zeros(len(stored))
    s[: len(acts)] = 2 * labels.numpy() - 1
    problem = Problem(s, np.zeros(len(s)), np.append(np.full(D, l2), 0.0), np.ones(D), columns.mean / columns.deviation)
    point = Point(np.zeros(D + 1), np.empty(len(s)), np.empty(len(s)), np.empty(D + 1))
    begin(rows, problem, point)
    return rows, problem, point


def hessian(acts, point, l2):
    X = acts.double().numpy()
    X = (X - X.mean(0)) / X.std(0)
    p = 1 / (1 + np.exp(-point.z[: len(X)]))
    return X.T @ ((p * (1 - p))[:, None] * X) + l2 * np.eye(X.shape[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("factored", [False, True])
def test_a_descent_ends_where_the_gradient_is_zero_in_float64(dtype, factored):
    acts, labels = made(203, 90, dtype)
    rows, problem, point = problem_of(acts, labels, 3.0)
    factor = factor_hessian(rows, problem, point) if factored else NO_FACTOR
    converged, steps = descend(rows, problem, point, Memory.empty(90), factor, 1e-7, 500)
    X = acts.double().numpy()
    X = (X - X.mean(0)) / X.std(0)
    residual = 1 / (1 + np.exp(-(X @ point.u[:-1] + point.u[-1]))) - labels.numpy()
    assert converged
    assert np.abs(X.T @ residual + 3 * point.u[:-1]).max() < 1e-7
    assert abs(residual.sum()) < 1e-7
    assert norm(problem, point.g) <= 1e-7
    assert steps < (30 if factored else 100)


def test_a_descent_without_steps_left_says_so():
    acts, labels = made(203, 90)
    rows, problem, point = problem_of(acts, labels, 3.0)
    assert descend(rows, problem, point, Memory.empty(90), NO_FACTOR, 1e-7, 4) == (False, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_factor_is_that_of_the_hessian(dtype):
    acts, labels = made(203, 90, dtype)
    before = acts.clone()
    rows, problem, point = problem_of(acts, labels, 3.0)
    descend(rows, problem, point, Memory.empty(90), NO_FACTOR, 1e-2, 50)
    L = factor_hessian(rows, problem, point)
    expected = hessian(acts, point, 3.0)
    assert (np.triu(L, 1) == 0).all()
    np.testing.assert_allclose(L.astype(float) @ L.T, expected, atol=1e-5 * np.abs(expected).max())
    assert torch.equal(acts, before)


def test_what_is_remembered_is_that_of_another_penalty_once_it_is_told():
    """On a quadratic y = H s; with a ridge that is greater by m, y = H s + m s."""
    random = np.random.default_rng(0)
    memory, more = Memory.empty(9), random.random(10)
    H = np.diag(random.random(10) + 1)
    memory.held[0] = 3
    for i in range(3):
        memory.S[i] = random.normal(size=10)
        memory.Y[i] = H @ memory.S[i]
        memory.rho[i] = 1 / (memory.S[i] @ memory.Y[i])
    memory.add_ridge(more)
    for i in range(3):
        y = (H + np.diag(more)) @ memory.S[i]
        np.testing.assert_allclose(memory.Y[i], y, rtol=1e-5)
        assert memory.rho[i] == pytest.approx(1 / (memory.S[i] @ y), rel=1e-5)
    memory.add_ridge(-10 * np.ones(10))  # no curvature of a convex function
    assert memory.held[0] == 0


def test_label_sets_that_share_a_factor_are_those_alone():
    acts, labels = made(300, 40)
    sets = torch.stack([labels.roll(k) for k in range(12)])
    together = fit_logistic(acts[None], sets[:, None], l2=0.5)
    for k in range(12):
        alone = fit_logistic(acts[None], sets[k][None], l2=0.5)
        score = acts @ together.weight[k, 0] - acts @ alone.weight[0]
        assert score.sub(score.mean()).abs().max() < 1e-5 * (acts @ alone.weight[0]).abs().max()
        assert together.objective[k].item() == pytest.approx(alone.objective.item(), rel=1e-7)


@pytest.mark.parametrize(("n", "D"), [(300, 40), (60, 100)])
def test_a_path_of_penalties_is_each_penalty_alone(n, D):
    acts, labels = made(n, D, torch.float64)
    path = [300.0, 30.0, 3.0, 0.3, 0.03]
    fit = fit_logistic(acts[None], labels[None], l2=path)
    assert fit.converged.all()
    for p, l2 in enumerate(path):
        alone = fit_logistic(acts[None], labels[None], l2=l2)
        torch.testing.assert_close(fit.objective[p], alone.objective, rtol=1e-11, atol=0)
        torch.testing.assert_close(fit.weight[p], alone.weight, rtol=1e-5, atol=1e-8)


def best_objective(X, y, l2):
    """scikit-learn's on standardised or centred columns, in float64."""
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=2000, solver="newton-cholesky").fit(X, y)
    margin = (2 * y - 1) * (X @ model.coef_[0] + np.ravel(model.intercept_)[0])
    return np.logaddexp(0, -margin).sum() + l2 / 2 * (model.coef_**2).sum()


@pytest.mark.parametrize("seed", range(60))
def test_any_cell_is_solved_to_its_optimum(seed):
    """Sizes, scales, offsets, masks, penalties and dtypes drawn at random."""
    random = np.random.default_rng(seed)
    n, D = int(random.integers(9, 200)), int(random.integers(9, 120))
    dtype = [torch.float16, torch.bfloat16, torch.float32, torch.float64][seed % 4]
    scale = 10 ** random.uniform(-2, 2) if seed % 4 == 0 else 10 ** random.uniform(-3, 3)
    X = random.normal(size=(n, D)) * 10 ** random.uniform(-1, 1, D) ** random.integers(0, 2)
    X = torch.from_numpy((X + random.integers(0, 2) * random.normal(size=D) * 5) * scale).to(dtype)
    valid = torch.from_numpy(random.random(n) < random.choice([0.7, 1.0]))
    labels = torch.from_numpy((X.double().numpy()[:, 0] / scale + random.normal(size=n) > 0.3).astype(int))
    labels[valid.nonzero()[:2, 0]] = torch.tensor([0, 1])
    standardize, l2 = bool(random.integers(0, 2)), 10 ** random.uniform(-1, 3)
    l2 = l2 if standardize else l2 * scale**2
    fit = fit_logistic(X[None], labels[None], valid[None], l2=l2, standardize=standardize)
    rows = X.double().numpy()[valid.numpy()]
    rows = rows - rows.mean(0)
    deviation = rows.std(0)
    rows = rows / np.where(deviation > 0, deviation, 1) if standardize else rows
    best = best_objective(rows, labels.numpy()[valid.numpy()], l2)
    assert fit.converged.all()
    rounding = 1e-6 if dtype != torch.float64 else 0  # of the objective, returned in float32
    assert abs(fit.objective.item() / best - 1) < 1e-10 + rounding


def test_few_rows_and_one_column():
    acts = torch.tensor([[[0.0], [1.0]]])
    fit = fit_logistic(acts, torch.tensor([[0, 1]]))
    assert fit.converged.all()
    assert fit.weight.item() > 0


def test_numbers_of_cells_are_told_by_their_own_number():
    acts = torch.zeros(20, 12)
    acts[3, 4] = torch.nan
    with pytest.raises(ValueError, match="in cell 7, row 3"):
        solve_cell(acts, np.ones((1, 20)), np.ones(1), 1e-4, 100, number=7)
