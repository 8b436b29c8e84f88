"""What holds for any cell: its optimum in float64, honest fields, and results that company and order do not move.

Cells are drawn by hypothesis, the same ones in every run: sizes, scales, offsets, attention sinks, masks, label sets,
penalties and dtypes. `PROBEGRID_EXAMPLES=2000` draws as many new ones for each property.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from probes.solver.logistic import REASONS, LogisticFit, fit_logistic
from tests.support.drawn_cells import DTYPES, Drawn, Objective, cells, make_cell

MANY = int(os.environ.get("PROBEGRID_EXAMPLES", "0"))
TOL, RESOLUTION = 1e-4, 1e-12  # of the gradient: the default, and that of float64 as a share of the start
SCORES = 1e-5  # of the largest: where the objective curves least, a share 1e-10 of it moves scores by so much

# Columns around 10,000 of which float32 holds the last few digits only; and a descent that ends early, its gradient
# below the tolerance, where the objective is still 4e-6 above the optimum.
FEW_DIGITS = make_cell(
    25, 70, 25, 1, torch.float32, scale=-3.0, spread=1.0, shift=1e4, large=0, sink=True, noise=1.0, share=0.1,
    repeated=False, with_offset=False, standardize=True, class_weight=None, l2=(0.25,),
)  # fmt: skip
ENDS_EARLY = make_cell(
    1693, 64, 70, 3, torch.bfloat16, scale=1.0, spread=0.0, shift=0.0, large=0, sink=True, noise=1.0, share=0.8,
    repeated=False, with_offset=True, standardize=False, class_weight="balanced", l2=(58.235854, 0.038807, 1.0),
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread_for_the_oracle():
    with threadpool_limits(1, "blas"):
        yield


def examples(most: int) -> settings:
    """So many examples, the same ones in every run; or as many new ones as the environment asks for."""
    return settings(
        max_examples=MANY or most,
        derandomize=not MANY,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink] if MANY else [Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def fit_drawn(cell: Drawn, **changes) -> LogisticFit:
    """Fit a drawn cell: fields [P, K, 1, ..]."""
    given: dict[str, Any] = {"l2": cell.l2} | cell.settings | changes
    return fit_logistic(cell.acts, cell.labels, **given)


def problems(cell: Drawn, fit: LogisticFit) -> Iterator[tuple[int, float, LogisticFit]]:
    """Every label set and penalty: number of the set, penalty, and the fit of it."""
    for p, l2 in enumerate(cell.l2):
        for k in range(len(cell.labels)):
            yield k, l2, LogisticFit(*(field[p, k, 0] for field in fit))


def expected_reason(cell: Drawn, k: int) -> str:
    """Why a label set cannot be fitted; or that it converges, as all others do."""
    used = cell.valid[k, 0]
    labels, rows = cell.labels[k, 0, used], cell.acts[0, used]
    if not len(labels):
        return "no valid row"
    if labels.min() == labels.max():
        return "one class only"
    return "constant features" if (rows == rows[0]).all() else "converged"


def scores_of(cell: Drawn, weight: Tensor, bias: Tensor) -> Tensor:
    """Scores [P, K, N] float64 of weights [P, K, D] and biases [P, K]; 0 where a row does not count."""
    X = cell.acts[0].double().where(cell.valid.any(0)[0][:, None], 0.0)
    mean = X.mean(0)  # so that offsets above the spread cost no digits here
    weight, bias = weight.double(), bias.double()
    return (weight @ (X - mean).T + (bias + weight @ mean)[..., None]).where(cell.valid[:, 0], 0.0)


def assert_same_scores(scores: Tensor, others: Tensor, within: float) -> None:
    """Equal to `within` the largest score of a problem, or 1; NaN at the same places."""
    assert torch.equal(scores.isnan(), others.isnan())
    apart = (scores - others).abs().amax(-1) / scores.abs().amax(-1).clamp(min=1)
    assert apart.nan_to_num(0).max().item() <= within


def assert_same_bits(fit: LogisticFit, other: LogisticFit) -> None:
    """Every field, NaN included."""
    for field, value in zip(fit, other, strict=True):
        assert field.shape == value.shape
        assert field.numpy().tobytes() == value.numpy().tobytes()


@examples(60)
@given(cells())
@example(FEW_DIGITS)
@example(ENDS_EARLY)
def test_every_cell_is_at_its_optimum_or_says_why_not(cell):
    """Objectives are recomputed in float64 from the weights returned, with room for the rounding of these alone."""
    fit = fit_drawn(cell)
    eps = float(torch.finfo(fit.weight.dtype).eps)
    for k, l2, one in problems(cell, fit):
        reason = expected_reason(cell, k)
        assert REASONS[one.reason] == reason
        assert bool(one.converged) == (reason == "converged")
        if not one.converged:
            assert all(field.isnan().all() for field in (one.weight, one.bias, one.objective, one.gradient_norm))
            continue
        problem, w, b = Objective(cell, k, l2), one.weight.double().numpy(), one.bias.item()
        best, below = problem.optimum()
        assert below <= 1e-11 * best  # the oracle has itself converged
        of_value, of_gradient = problem.rounding(w, b, eps)
        assert problem.at(w, b) <= best * (1 + 1e-10) + of_value
        assert one.objective.item() == pytest.approx(best, rel=1e-10 + eps)
        first = np.linalg.norm(problem.gradient(0 * w, problem.log_odds()))
        assert one.gradient_norm.item() <= max(TOL, RESOLUTION * first) * (1 + eps)
        recomputed = np.linalg.norm(problem.gradient(w, b))
        assert recomputed == pytest.approx(one.gradient_norm.item(), rel=eps, abs=of_gradient)


@examples(25)
@given(cells(), st.integers(1, 3), st.integers(1, 3))
def test_other_cells_and_threads_change_no_bit(cell, others, threads):
    alone = fit_drawn(cell)
    company = torch.cat([cell.acts.flip(1) * 0.5**i for i in range(others)])
    acts, before = torch.cat((company[:1], cell.acts, company[1:])), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        fit = fit_drawn(replace(cell, acts=acts.where(cell.valid.any(0)[..., None], torch.nan)))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(alone, LogisticFit(*(field[:, :, 1:2] for field in fit)))


@examples(25)
@given(cells(), st.sampled_from([-1e4, torch.nan, torch.inf]))
def test_rows_that_do_not_count_may_hold_anything(cell, anything):
    acts = cell.acts.where(cell.valid.any(0)[..., None], anything)
    assert_same_bits(fit_drawn(cell), fit_drawn(replace(cell, acts=acts)))


@examples(25)
@given(cells(dtype=torch.float64, K=st.integers(2, 7)))
def test_other_label_sets_move_no_score(cell):
    if cell.standardize:  # by the rows that are valid in any label set, which have to be the same then
        cell = replace(cell, valid=cell.valid[:1].expand_as(cell.valid))
    offset = None if cell.offset is None else cell.offset[:1]
    first = replace(cell, labels=cell.labels[:1], valid=cell.valid[:1], offset=offset)
    fit, alone = fit_drawn(cell), fit_drawn(first)
    assert torch.equal(fit.reason[:, :1], alone.reason)
    scores = scores_of(first, alone.weight[:, :, 0], alone.bias[:, :, 0])
    assert_same_scores(scores, scores_of(first, fit.weight[:, :1, 0], fit.bias[:, :1, 0]), SCORES)


@examples(25)
@given(cells(dtype=torch.float64), st.randoms(use_true_random=False))
def test_order_names_and_counts_move_no_score(cell, random):
    """Columns permute their weights, labels flip their signs, rows may be in any order, and twice at twice the l2."""
    N, D = cell.acts.shape[1:]
    fit = fit_drawn(cell)
    scores = scores_of(cell, fit.weight[:, :, 0], fit.bias[:, :, 0])
    columns = torch.tensor(random.sample(range(D), D))
    rows = torch.tensor(random.sample(range(N), N))
    twice = torch.arange(N).repeat(2)

    def fit_rows(chosen: Tensor, sign: int = 1, **changes) -> Tensor:
        labels = cell.labels if sign == 1 else 1 - cell.labels
        offset = None if cell.offset is None else sign * cell.offset[..., chosen]
        other = fit_drawn(
            replace(cell, acts=cell.acts[:, chosen], labels=labels[..., chosen], valid=cell.valid[..., chosen],
                    offset=offset), **changes,
        )  # fmt: skip
        assert torch.equal(other.reason, fit.reason)
        return sign * scores_of(cell, other.weight[:, :, 0], other.bias[:, :, 0])

    permuted = fit_drawn(replace(cell, acts=cell.acts[..., columns]))
    weight = torch.empty_like(fit.weight)
    weight[..., columns] = permuted.weight
    assert_same_scores(scores, scores_of(cell, weight[:, :, 0], permuted.bias[:, :, 0]), SCORES)
    assert_same_scores(scores, fit_rows(rows), SCORES)
    assert_same_scores(scores, fit_rows(torch.arange(N), sign=-1), SCORES)
    assert_same_scores(scores, fit_rows(twice, l2=[2 * l2 for l2 in cell.l2]), SCORES)


@examples(25)
@given(cells(dtype=st.sampled_from(DTYPES[:3])))
def test_numbers_count_as_stored_whatever_their_dtype(cell):
    """A cell in 16 or 32 bits is the same cell in float64."""
    fit, wide = fit_drawn(cell), fit_drawn(replace(cell, acts=cell.acts.double()))
    assert torch.equal(fit.reason, wide.reason)
    torch.testing.assert_close(fit.objective.double(), wide.objective, rtol=2e-7, atol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_is_scikit_learn(seed):
    random = np.random.default_rng(seed)
    n, D, l2 = (60, 20, 0.5) if seed % 2 else (20, 60, 30.0)
    X, y = random.normal(size=(n, D)), np.arange(n) % 2
    cell = Drawn(
        torch.from_numpy(X)[None], torch.from_numpy(y)[None, None], torch.ones(1, 1, n, dtype=torch.bool), None, (l2,),
        False, None,
    )  # fmt: skip
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=1000, solver="newton-cholesky").fit(X, y)
    problem = Objective(cell, 0, l2)
    value = problem.at(model.coef_[0], float(np.ravel(model.intercept_)[0]))
    best, below = problem.optimum()
    assert best == pytest.approx(value, rel=1e-13)
    assert below <= 1e-13 * best
