"""The compact form of L-BFGS against its two loops, written out in float64."""

import pytest
import torch

from probes.solver.inverses import Diagonal, Factored
from probes.solver.pairs import Pairs, slots

C, K, D = 2, 3, 30
NONE = torch.tensor(False)  # problems that go along what is remembered


def two_loops(pairs, g, inverse, scaled):
    """Nocedal & Wright 2006, algorithm 7.4, of one problem: pairs (s, y), oldest first."""
    q, alphas = g.clone(), []
    for s, y in reversed(pairs):
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    q = inverse * q
    if scaled and pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ (inverse * y))
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - (y @ q) / (s @ y)) * s
    return -q


@pytest.fixture
def world():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(C, K, D + 1, D + 1, generator=generator, dtype=torch.float64)
    hessian = root @ root.mT / D + torch.eye(D + 1)
    inverse = torch.rand(C, K, D + 1, generator=generator) + 0.5
    return hessian, inverse, generator


def drawn(generator, hessian, few=1.0):
    step = few * torch.randn(C, K, D + 1, generator=generator, dtype=torch.float64)
    return step, (hessian @ step[..., None])[..., 0]


@pytest.mark.parametrize("steps", [0, 1, 5, 23, 24, 25, 60])
def test_a_direction_is_that_of_the_two_loops(world, steps):
    hessian, inverse, generator = world
    pairs, H, taken = Pairs(C, K, D, torch.device("cpu")), Diagonal(inverse), []
    for few in torch.logspace(0, -6, steps).tolist():
        step, change = drawn(generator, hessian, few)
        taken.append((step, change))
        pairs.add(step, change, H)
    g = torch.randn(C, K, D + 1, generator=generator)
    p = pairs.direction(g, H, NONE)
    for c in range(C):
        for k in range(K):
            own = [(s[c, k], y[c, k]) for s, y in taken[-slots(D) :]]
            expected = two_loops(own, g[c, k].double(), inverse[c, k].double(), True)
            torch.testing.assert_close(p[c, k].double(), expected, rtol=2e-4, atol=1e-4 * expected.abs().max().item())


def test_another_rough_inverse_measures_the_pairs_anew(world):
    hessian, inverse, generator = world
    one, other, H = Pairs(C, K, D, torch.device("cpu")), Pairs(C, K, D, torch.device("cpu")), Diagonal(inverse)
    for _ in range(7):
        step = drawn(generator, hessian)
        one.add(*step, Diagonal(torch.ones_like(inverse)))
        other.add(*step, H)
    one.renew(H)
    torch.testing.assert_close(one.YHY, other.YHY, rtol=1e-5, atol=1e-5)


def test_a_step_without_curvature_is_not_remembered_and_displaces_none(world):
    hessian, inverse, generator = world
    pairs, H = Pairs(C, K, D, torch.device("cpu")), Diagonal(inverse)
    for _ in range(slots(D)):
        pairs.add(*drawn(generator, hessian), H)
    before = pairs.SY.clone()
    step, change = drawn(generator, hessian)
    step[0, 1] = 0.0  # a problem that waits
    change[1, 2] *= -1
    step[1, 0, 3] = torch.nan
    pairs.add(step, change, H)
    told = torch.ones(C, K, dtype=torch.bool)
    told[0, 1] = told[1, 2] = told[1, 0] = False
    assert (before == pairs.SY).flatten(2).all(-1).equal(~told)
    g = torch.ones(C, K, D + 1)
    assert pairs.direction(g, H, NONE).isfinite().all()
    p = pairs.direction(g, H, told)  # those that were told go along minus H times g, others by what is remembered
    assert torch.equal(p[told], -H(g)[told])
    assert torch.equal(p[~told], pairs.direction(g, H, NONE)[~told])


def test_some_problems_go_on_alone_and_come_back(world):
    hessian, inverse, generator = world
    pairs, H = Pairs(C, K, D, torch.device("cpu")), Diagonal(inverse)
    for _ in range(30):
        pairs.add(*drawn(generator, hessian), H)
    cells, sets = torch.tensor([1]), torch.tensor([[2, 0]])
    part, of_part = pairs.take(cells, sets), H.take(cells, sets)
    g = torch.randn(C, K, D + 1, generator=generator)
    for _ in range(3):
        step, change = drawn(generator, hessian)
        part.add(step[cells[:, None], sets], change[cells[:, None], sets], of_part)
    expected = part.direction(g[cells[:, None], sets], of_part, NONE)
    others = pairs.direction(g, H, NONE)
    pairs.put(cells, sets, part)
    p = pairs.direction(g, H, NONE)
    torch.testing.assert_close(p[cells[:, None], sets], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(p[0], others[0])
    assert torch.equal(p[1, 1], others[1, 1])


def test_a_factor_is_that_of_the_mean_hessian_of_the_problems_that_move():
    generator = torch.Generator().manual_seed(1)
    X, curvature = torch.randn(C, 50, D, generator=generator), torch.rand(C, K, 50, generator=generator).double()
    ridge = torch.rand(C, 1, D + 1, generator=generator).double()
    moving = torch.tensor([[True, False, True], [False, True, False]])
    H = Factored.of(X, curvature, ridge, moving)
    g = torch.randn(C, K, D + 1, generator=generator)
    pairs = Pairs(C, K, D, torch.device("cpu"))
    p = pairs.direction(g, H, NONE)
    for c in range(C):
        V = curvature[c][moving[c]].mean(0)
        hessian = X[c].double().T @ (V[:, None] * X[c].double()) + ridge[c, 0, :-1].diag()
        for k in range(K):
            expected = -torch.linalg.solve(hessian, g[c, k, :-1].double())
            torch.testing.assert_close(p[c, k, :-1].double(), expected, rtol=1e-4, atol=1e-4)
            assert p[c, k, -1].item() == pytest.approx(-g[c, k, -1].item() / curvature[c, k].sum().item(), rel=1e-5)
