"""Descents in one cell: the memory, the factor and what problems of a cell share, against numpy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.solver.directions import Memory
from probes.solver.ladder import factor_hessian, invert_triangle
from probes.solver.lbfgs import BEGUN, CONVERGED, IDLE, RUNNING, SPENT, Descents, descend
from probes.solver.logistic import fit_logistic
from probes.solver.one_cell import solve_cell
from probes.solver.rows import describe_columns, standardise, store


def made(n, D, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(n, D, generator=generator) @ torch.randn(D, D, generator=generator) / D**0.5 + 5
    labels = (acts[:, :5].sum(-1) + torch.randn(n, generator=generator) > 25).long()
    return acts.to(dtype), labels


def descents_of(acts, label_sets, l2, tol=1e-7, most=500):
    """A descent for every label set, begun at zero."""
    stored = store(acts)
    columns = describe_columns(stored, len(acts))
    rows, D = standardise(stored, columns), acts.shape[1]
    d = Descents.empty(len(label_sets), len(stored), np.ones(D), columns.mean / columns.deviation, (tol, 0, 1e-8, 1e-5))
    for k, labels in enumerate(label_sets):
        d.s[k, : len(acts)] = 2 * labels.numpy() - 1
        d.ridge[k, :D] = l2
    d.state["most"], d.state["status"] = most, BEGUN
    return rows, d


def standardised(acts):
    X = acts.double().numpy()
    return (X - X.mean(0)) / X.std(0)


def hessian(acts, z, l2):
    X = standardised(acts)
    p = 1 / (1 + np.exp(-z))
    return X.T @ ((p * (1 - p))[:, None] * X) + l2 * np.eye(X.shape[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_descents_end_where_the_gradient_is_zero_in_float64(dtype, factored, lanes):
    acts, labels = made(203, 90, dtype)
    label_sets = [labels.roll(50 * k) for k in range(lanes)]
    rows, d = descents_of(acts, label_sets, 3.0)
    descend(rows, d, None, 0, True)
    factor, converged = factor_hessian(rows, d, 0) if factored else None, d.state["status"] < RUNNING
    while not converged.all():
        descend(rows, d, factor, 500, True if lanes > 1 else None)
        converged |= d.state["status"] == CONVERGED
        d.state["status"][converged] = IDLE
    X = standardised(acts)
    for k, y in enumerate(label_sets):
        residual = 1 / (1 + np.exp(-(X @ d.u[k, :-1] + d.u[k, -1]))) - y.numpy()
        assert np.abs(X.T @ residual + 3 * d.u[k, :-1]).max() < 1e-7
        assert abs(residual.sum()) < 1e-7
        assert d.state[k]["size"] <= 1e-7
        assert d.state[k]["steps"] < (30 if factored else 100)


def test_a_descent_without_steps_left_says_so():
    acts, labels = made(203, 90)
    rows, d = descents_of(acts, [labels], 3.0, most=4)
    assert descend(rows, d, None, 100, None) == 4
    assert (d.state[0]["status"], d.state[0]["steps"]) == (SPENT, 4)


def test_steps_that_are_not_taken_at_once_are_taken_later():
    acts, labels = made(203, 90)
    rows, d = descents_of(acts, [labels], 3.0)
    assert descend(rows, d, None, 5, None) == 5
    assert d.state[0]["status"] == RUNNING
    rows, other = descents_of(acts, [labels], 3.0)
    assert descend(rows, d, None, 500, None) + 5 == descend(rows, other, None, 500, None)
    assert (d.u == other.u).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_factor_is_that_of_the_inverse_of_the_hessian(dtype):
    acts, labels = made(203, 90, dtype)
    before = acts.clone()
    rows, d = descents_of(acts, [labels, labels.roll(7)], 3.0, tol=1e-2)
    descend(rows, d, None, 20, True)
    for k in range(2):
        factor = factor_hessian(rows, d, k)
        assert factor is not None
        R = factor.view(np.float32).astype(float)
        expected = np.linalg.inv(hessian(acts, d.z[k], 3.0))
        assert (np.triu(R, 1) == 0).all()
        np.testing.assert_allclose(R.T @ R, expected, atol=1e-5 * np.abs(expected).max())
    assert torch.equal(acts, before)


@pytest.mark.parametrize("m", [1, 128, 129, 300, 515])
def test_a_triangle_is_inverted(m):
    L = torch.randn(m, m, generator=torch.Generator().manual_seed(0)).double().tril() / m**0.5
    L.diagonal().abs_().add_(1)
    R = invert_triangle(L.float())
    torch.testing.assert_close(R.double(), torch.linalg.inv(L), rtol=0, atol=1e-5)
    assert (R.triu(1) == 0).all()


def test_what_is_remembered_is_that_of_another_penalty_once_it_is_told():
    """On a quadratic y = H s; with a ridge that is greater by m, y = H s + m s."""
    random = np.random.default_rng(0)
    memory, more = Memory.empty(2, 9), random.random(10)
    H = np.diag(random.random(10) + 1)
    S, Y, rho = memory.S[1], memory.Y[1], memory.rho[1]
    memory.held[:, 0] = 3
    for i in range(3):
        S[i] = random.normal(size=10)
        Y[i] = H @ S[i]
        rho[i] = 1 / (S[i] @ Y[i])
    memory.add_ridge(1, more)
    for i in range(3):
        y = (H + np.diag(more)) @ S[i]
        np.testing.assert_allclose(Y[i], y, rtol=1e-5)
        assert rho[i] == pytest.approx(1 / (S[i] @ y), rel=1e-5)
    memory.add_ridge(1, -10 * np.ones(10))  # no curvature of a convex function
    assert memory.held[:, 0].tolist() == [3, 0]


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


@pytest.mark.parametrize("seed", range(2, 60, 4))
@pytest.mark.parametrize("K", [1, 5])
def test_cells_whose_passes_are_rounded_end_at_the_same_optimum(seed, K, monkeypatch):
    random = np.random.default_rng(seed)
    acts, labels = made(int(random.integers(30, 250)), int(random.integers(10, 200)), seed=seed)
    acts[:2] *= 10 ** random.uniform(0, 2)  # rows that dwarf the others
    label_sets, l2 = torch.stack([labels.roll(9 * k) for k in range(K)])[:, None], 10 ** random.uniform(-2, 2)
    exact = fit_logistic(acts[None].double(), label_sets, l2=l2, tol=1e-10, standardize=True)
    monkeypatch.setattr("probes.solver.rows.LARGE", 1)
    for dtype in (torch.float32, torch.float64):
        fit = fit_logistic(acts[None].to(dtype), label_sets, l2=l2, standardize=True)
        assert fit.converged.all()
        _, reason = solve_cell(acts.to(dtype), 2.0 * label_sets[:, 0].numpy() - 1, np.array([l2]), 1e-4, 1000, True)
        assert (reason == 0).all()  # without the help of Newton's method
        rounding = 1e-10 if dtype == torch.float64 else 1e-7
        torch.testing.assert_close(fit.objective.double(), exact.objective, rtol=rounding, atol=0)


@pytest.mark.parametrize("K", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_descents_end_below_a_small_tolerance(dtype, K, monkeypatch):
    monkeypatch.setattr("probes.solver.rows.LARGE", 1)
    acts, labels = made(500, 60, dtype)
    s = np.stack([2.0 * labels.roll(50 * k).numpy() - 1 for k in range(K)])
    optimum, reason = solve_cell(acts, s, np.array([100.0]), 1e-8, 1000, True)
    assert (reason == 0).all()
    assert optimum.gradient_norm.max() <= 1e-8
    assert optimum.iterations.max() < 60


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("l2", [1e5, 1e6, 1e7, 1e9, 1e12])
def test_a_strong_penalty_takes_few_steps(dtype, l2):
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(300, 200, generator=generator)
    s = np.where(acts[:, 0] + torch.randn(300, generator=generator) > 1, 1.0, -1.0)[None]
    optimum, reason = solve_cell(acts.to(dtype), s, np.array([l2]), 1e-4, 1000, True)
    assert reason.item() == 0
    assert optimum.iterations.item() <= 8


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


@pytest.mark.parametrize("seed", [66, 105, 274, 275, 325, 418, 601, 611, 621, 752, 764, 792])
def test_scores_are_those_of_the_optimum_whatever_other_label_sets_there_are(seed):
    """Weak penalties, rows that dwarf the others, columns that are nearly the same: the objective hardly curves."""
    random = np.random.default_rng(seed)
    n, D = int(random.integers(20, 400)), int(random.integers(9, 150))
    X = random.normal(size=(n, D)) * 10 ** random.uniform(-1, 1, D) ** random.integers(0, 2)
    X[:3] *= 10 ** random.uniform(1, 3) if random.random() < 0.4 else 1
    X = X[:, :1] + 1e-3 * X if random.random() < 0.3 else X
    acts = torch.from_numpy(X).to([torch.bfloat16, torch.float32][random.integers(2)])
    X = acts.double().numpy()
    X = X - X.mean(0)
    margin = X @ random.normal(size=D)
    margin = margin / margin.std() * (np.arange(5) == 0)[:, None]
    s = np.where(margin + [random.normal(size=n) * 10 ** random.uniform(-2, 0.5) for _ in range(5)] > 0.3, 1.0, -1.0)
    standardize, l2 = bool(random.integers(2)), np.array([10 ** random.uniform(-3, 1)])
    alone, _ = solve_cell(acts, s[:1], l2, 1e-4, 1000, standardize)
    together, _ = solve_cell(acts, s, l2, 1e-4, 1000, standardize)
    best, _ = solve_cell(acts.double(), s[:1], l2, 1e-10, 1000, standardize)
    scores = X @ np.stack([fit.weight[0, 0] for fit in (alone, together, best)]).T
    assert np.abs(scores - scores[:, 2:]).max() <= 1e-7 * np.abs(scores[:, 2]).max()
