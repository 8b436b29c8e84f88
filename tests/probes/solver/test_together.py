"""Many problems together, against each by itself and against scikit-learn; on the CPU, in plain tensors."""

import numpy as np
import pytest
import torch

from probes.solver import together
from probes.solver.cells import Cells, gather, residual, spread
from probes.solver.line_search import search
from probes.solver.one_cell import solve_cell
from probes.solver.together import descend_together
from tests.probes.solver.test_one_cell import best_objective


def made(c, n, D, K, dtype=torch.bfloat16, decay=0.5, seed=0):
    """Activations [c, n, D], steeper from cell to cell, and labels [c, K, n] as -1, 0, 1, noisier from set to set."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(c, n, D, generator=generator) * torch.arange(1, D + 1) ** (
        -decay * torch.arange(c)[:, None, None]
    )
    acts = acts @ torch.randn(D, D, generator=generator) / D**0.5
    acts[..., 3] = 200 * acts[..., 3] + 50
    noise = torch.randn(c, K, n, generator=generator) * torch.logspace(-1, 1, K)[:, None]
    s = (acts[:, None, :, 0] / acts[..., 0].std() + noise).sign()
    s[:, 0, -3:] = 0
    return acts.to(dtype), s.double()


def solved(acts, s, l2, standardize=False, max_iter=1000, offset=None, used=None):
    live, penalties = torch.ones(s.shape[:2], dtype=torch.bool), torch.tensor(l2, dtype=torch.float64)
    return descend_together(Cells.of(acts, used), s, live, penalties, 1e-4, max_iter, standardize, offset)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("n", "D"), [(150, 40), (60, 90)])
def test_problems_together_are_each_alone(n, D, standardize, dtype):
    acts, s = made(3, n, D, 4, dtype)
    l2 = [30.0, 300.0, 0.3]
    optimum = solved(acts, s, l2, standardize)
    assert optimum.converged.all()
    for c in range(3):
        alone, _ = solve_cell(acts[c], s[c].numpy(), np.array(l2), 1e-4, 1000, standardize)
        torch.testing.assert_close(optimum.objective[c], alone.objective[0], rtol=1e-10, atol=0)
        score = (acts[c].double() @ (optimum.weight[c] - alone.weight[0]).T).T + (optimum.bias[c] - alone.bias[0])[
            :, None
        ]
        assert score.abs().max() < 2e-5


@pytest.mark.parametrize("seed", range(12))
def test_the_objective_is_the_least_there_is(seed):
    random = np.random.default_rng(seed)
    n, D, standardize = int(random.integers(20, 150)), int(random.integers(9, 120)), bool(seed % 2)
    acts, s = made(2, n, D, 2, [torch.float32, torch.bfloat16][seed // 2 % 2], decay=random.uniform(0, 1.5), seed=seed)
    l2 = 10 ** random.uniform(-1, 3)
    optimum = solved(acts, s, [l2], standardize)
    assert optimum.converged.all()
    for c in range(2):
        for k in range(2):
            counts = (s[c, k] != 0).numpy()
            rows = acts[c].double().numpy()
            rows = rows - rows.mean(0)
            rows = (rows / rows.std(0) if standardize else rows)[counts]
            best = best_objective(rows, (s[c, k].numpy()[counts] > 0).astype(int), l2)
            assert optimum.objective[c, k].item() <= best * (1 + 1e-10)


def test_factors_save_steps_and_change_no_optimum(monkeypatch):
    acts, s = made(3, 150, 40, 4, decay=1.0)
    monkeypatch.setattr(together, "FACTORS", 0)
    expected = solved(acts, s, [1e-3])
    monkeypatch.undo()
    optimum = solved(acts, s, [1e-3])
    assert together.PRICE[0] < optimum.iterations.max() < expected.iterations.max() / 1.5
    assert optimum.converged.all()
    torch.testing.assert_close(optimum.objective, expected.objective, rtol=1e-10, atol=0)


def test_problems_that_are_done_cost_no_more_steps(monkeypatch):
    """Of the steps taken, most are of the few cells and label sets that are hard."""
    acts, s = made(4, 60, 90, 4, decay=1.0)
    sizes = []

    def count(X, problems, *given, step=together._step):
        sizes.append(problems.s.shape[:2].numel())
        return step(X, problems, *given)

    monkeypatch.setattr(together, "_step", count)
    optimum = solved(acts, s, [0.05])
    assert optimum.converged.all()
    assert sizes[0] == 16
    assert min(sizes) <= 4
    assert optimum.iterations.sum() <= sum(sizes) < 0.8 * 16 * len(sizes)


def test_problems_that_are_not_live_cost_no_step_and_no_factor(monkeypatch):
    acts, s = made(4, 150, 40, 4, decay=1.0)
    live = torch.zeros(4, 4, dtype=torch.bool)
    live[2, 1] = True
    sizes = []

    def count(X, problems, *given, step=together._step):
        sizes.append((len(X), problems.s.shape[1]))
        return step(X, problems, *given)

    monkeypatch.setattr(together, "_step", count)
    penalties = torch.tensor([0.01], dtype=torch.float64)
    optimum = descend_together(Cells.of(acts, None), s, live, penalties, 1e-4, 1000, False)
    assert optimum.converged.equal(live)
    assert len(sizes) == optimum.iterations[2, 1] > together.PRICE[0]
    assert set(sizes) == {(1, 1)}
    assert (optimum.iterations[~live] == 0).all()


def test_rows_that_do_not_count_may_hold_anything():
    acts, s = made(2, 60, 30, 2, torch.float32)
    s[..., -3:] = 0
    spoilt, used = acts.clone(), (s != 0).any(1)
    spoilt[:, -3:] = torch.nan
    optimum = solved(spoilt, s, [1.0], used=used)
    assert all(torch.equal(field, one) for field, one in zip(optimum, solved(acts, s, [1.0], used=used), strict=True))
    without = solved(acts[:, :-3], s[..., :-3], [1.0])
    for field, one in zip(optimum[:3], without[:3], strict=True):  # weight, bias and objective
        torch.testing.assert_close(field, one, rtol=1e-6, atol=1e-6)
    assert torch.equal(optimum.converged, without.converged)


def test_offsets_are_added_to_the_logits():
    acts, s = made(2, 80, 30, 2, torch.float32)
    offset = torch.randn(s.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimum = solved(acts, s, [1.0], offset=offset)
    for c in range(2):
        alone, _ = solve_cell(acts[c], s[c].numpy(), np.ones(1), 1e-4, 1000, offset=offset[c].numpy())
        torch.testing.assert_close(optimum.objective[c], alone.objective[0], rtol=1e-10, atol=0)


def test_a_gradient_below_the_tolerance_is_not_enough_where_the_objective_may_be_far_above(monkeypatch):
    acts, s = made(2, 150, 40, 2)
    monkeypatch.setattr(together, "ANCHORS", 0)  # a descent that ends where it began
    live, penalties = torch.ones(2, 2, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
    optimum = descend_together(Cells.of(acts, None), s, live, penalties, 1e9, 1000, False)
    assert (optimum.gradient_norm < 1e9).all()
    assert not optimum.converged.any()


def test_steps_run_out():
    acts, s = made(2, 150, 40, 2)
    optimum = solved(acts, s, [0.1], max_iter=5)
    assert not optimum.converged.any()
    assert (optimum.iterations == 5).all()
    assert optimum.objective.isfinite().all()


def test_a_direction_that_leads_nowhere_is_given_up(monkeypatch):
    acts, s = made(2, 150, 40, 2)
    monkeypatch.setattr(together, "spread", lambda X, p: torch.full((*p.shape[:2], X.shape[1]), torch.nan).double())
    optimum = solved(acts, s, [0.1])
    assert not optimum.converged.any()
    assert (optimum.iterations == 2).all()  # the second along the gradient
    assert optimum.weight.isfinite().all()


def test_a_column_whose_inverse_deviation_leaves_float32_is_standardised_like_others():
    acts, _ = made(2, 70, 20, 3, torch.float32)
    acts[..., 5] *= 1e-41  # 1 / its deviation is infinite in float32
    X = Cells.of(acts, None).X
    assert X.isfinite().all()
    torch.testing.assert_close(X.std(1, correction=0), torch.ones(2, 20), rtol=1e-3, atol=0)


def test_rows_are_standardised_and_evaluated_in_float64():
    acts, s = made(2, 70, 20, 3)
    cells, X = Cells.of(acts, None), acts.double()
    X = (X - X.mean(1, keepdim=True)) / X.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(cells.X.double(), X, rtol=1e-6, atol=1e-6)
    u, offset = torch.randn(2, 3, 21).double(), torch.randn(2, 3, 70).double()
    z, r, g = cells.evaluate(u, s, offset)
    rows = torch.cat((X, torch.ones(2, 70, 1)), -1)
    torch.testing.assert_close(z, u @ rows.mT + offset, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(r, torch.where(s == 0, 0, torch.sigmoid(z) - (s > 0).double()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(g, r @ rows, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(spread(cells.X, u.float()), u @ rows.mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gather(cells.X, r), r @ rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("share", [0.1, 1e-3])
def test_a_search_ends_where_the_slope_is_down_to_its_share(length, share):
    random = torch.Generator().manual_seed(0)
    s = torch.randn(2, 3, 40, generator=random).double()
    z, dz = (
        5 * torch.randn(2, 3, 40, generator=random).double(),
        length * torch.randn(2, 3, 40, generator=random).double(),
    )
    bend = torch.rand(2, 3, generator=random).double() * length**2
    r = residual(z, s)
    dz *= -(r * dz).sum(-1, keepdim=True).sign()  # downhill
    dz[0, 0] *= -1
    slope = (r * dz).sum(-1)
    t, there, gain = search(s, z, r, dz, slope, bend, torch.ones(2, 3, dtype=torch.bool), share)

    def objective(t):
        at = z + t[..., None] * dz
        return (s.abs() * torch.nn.functional.softplus(-s.sign() * at)).sum(-1) + bend * t * t / 2

    assert t[0, 0] == 0  # uphill
    down = t > 0
    assert down.sum() == 5
    residuals = residual(z + t[..., None] * dz, s)
    torch.testing.assert_close(there[down], residuals[down])
    last = (residuals * dz).sum(-1) + t * bend
    assert (last.abs() <= share * slope.abs() * (1 + 1e-9))[down].all()
    torch.testing.assert_close(gain[down], (objective(0 * t) - objective(t))[down], rtol=0.35, atol=0)
