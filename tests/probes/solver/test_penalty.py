"""Penalties: the rule, held-out log-loss against scikit-learn, the choice, and train rows that are told apart."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from probes.solver.logistic import fit_logistic
from probes.solver.penalty import choose_strongest_of_best, is_separated, list_penalties, mean_log_loss

C, N, D = 3, 120, 40
PATH = [1000.0, 10.0, 0.1]


@pytest.mark.parametrize(
    ("l2", "width", "n_train", "expected"),
    [
        ("by_size", 576, 300, [72.0]),
        ("by_size", 576, 1000, [72.0]),
        ("by_size", 576, 4000, [18.0]),
        ("auto", 576, 900, [288.0, 72.0, 18.0]),
        (0.5, 576, 900, [0.5]),
        ([0.1, 100, 1.0, 1.0], 4096, 9000, [100.0, 1.0, 0.1]),
    ],
)
def test_a_setting_stands_for_penalties_strongest_first(l2, width, n_train, expected):
    assert list_penalties(l2, width, n_train) == pytest.approx(expected)


def test_the_rule_gives_log_odds_a_variance_of_eight():
    """Weights are drawn from the prior of the penalty; columns share directions, as activations do."""
    rng = torch.Generator().manual_seed(0)
    for width in (64, 512):
        mixed = torch.randn(500, width, generator=rng) @ torch.randn(width, width, generator=rng)
        X = (mixed - mixed.mean(0)) / mixed.std(0, correction=0)
        weights = torch.randn(width, 4000, generator=rng) / list_penalties("by_size", width, 500)[0] ** 0.5
        assert float((X @ weights).square().mean()) == pytest.approx(8, rel=0.05)


@pytest.fixture(scope="module")
def problem():
    rng = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.arange(N) % 2, (torch.arange(N) % 3 == 0).long()])  # two targets
    strength = torch.tensor([0.0, 0.15, 1.0])[:, None, None]
    acts = torch.randn(C, N, D, generator=rng) + strength * (2 * labels[0][:, None] - 1)
    valid = torch.rand(2, C, N, generator=rng) < 0.9
    train = torch.arange(N) < 80
    fit = fit_logistic(acts, labels[:, None], valid & train, PATH)
    return acts, labels, valid, train, fit


def test_held_out_log_loss_against_scikit_learn(problem):
    acts, labels, valid, train, fit = problem
    held = valid & ~train
    held[0, 2] = False  # a column that no held-out row has
    acts = acts.clone()
    acts[:, 100] = torch.nan
    held[:, :, 100] = False
    loss = mean_log_loss(acts, labels, held, fit.weight, fit.bias)
    for p, l2 in enumerate(PATH):
        for k in range(2):
            for c in range(C):
                if (k, c) == (0, 2):
                    assert loss[p, k, c].isnan()
                    continue
                X, y, rows = acts[c].double().numpy(), labels[k].numpy(), (valid & train)[k, c].numpy()
                model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(X[rows], y[rows])
                out = held[k, c].numpy()
                expected = log_loss(y[out], model.predict_proba(X[out])[:, 1], labels=[0, 1])
                assert float(loss[p, k, c]) == pytest.approx(expected, abs=1e-5)


def test_the_choice_is_one_for_the_map_and_the_strongest_of_equals():
    nan = torch.nan
    loss = torch.tensor([[[0.5, 0.9, nan], [0.6, 0.6, 0.6]], [[0.7, 0.6, nan], [0.6, 0.6, 0.6]], [[0.7, 0.7, nan]] * 2])
    assert choose_strongest_of_best(loss).tolist() == [1, 0]  # cell 0 by itself likes penalty 0
    assert choose_strongest_of_best(torch.full((3, 1, 2), nan)).tolist() == [0]


def test_train_rows_that_are_told_apart(problem):
    acts, labels, valid, train, fit = problem
    rows = valid & train
    found = is_separated(acts, labels, rows, fit.weight)
    for p in range(len(PATH)):
        for k in range(2):
            for c in range(C):
                of_cell = rows[k, c].numpy()
                scores = (acts[c] @ fit.weight[p, k, c]).numpy()[of_cell]
                assert bool(found[p, k, c]) == (roc_auc_score(labels[k].numpy()[of_cell], scores) == 1)
    assert found[2].any()
    assert not found[0, :, 0].any()


def test_cells_without_a_probe_tell_nothing_apart(problem):
    acts, labels, valid, train, _ = problem
    rows = valid & train
    rows[0, 0] = False
    rows[0, 1] &= labels[0] == 1
    fit = fit_logistic(acts, labels[:, None], rows, [0.1])
    assert np.array_equal(is_separated(acts, labels, rows, fit.weight)[0, 0, :2], [False, False])
    tied = torch.zeros(1, 4, 1)
    assert not is_separated(
        tied, torch.tensor([[0, 1, 0, 1]]), torch.ones(1, 1, 4, dtype=torch.bool), torch.ones(1, 1, 1, 1)
    )
