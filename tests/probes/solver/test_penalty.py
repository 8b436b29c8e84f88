"""The penalty of every cell, against the same cross-validation done with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from probes.solver.logistic import fit_logistic
from probes.solver.penalty import _folds, fit_chosen

C, N, D = 3, 120, 40
PATH = (0.1, 1.0, 10.0, 100.0, 1000.0)


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(N) // 3
    labels = torch.arange(N) % 2
    strength = torch.tensor([0.0, 0.15, 1.0])[:, None, None]
    acts = torch.randn(C, N, D, generator=generator) + strength * (2 * labels[:, None] - 1)
    acts += 0.7 * torch.randn(C, N // 3, D, generator=generator).repeat_interleave(3, 1)  # what a group shares
    valid = torch.rand(C, N, generator=generator) < 0.9
    return acts, labels, valid, groups


def losses(acts, labels, valid, fold):
    """Held-out log-loss of one cell for every penalty, by scikit-learn."""
    X, y, result = acts.double().numpy(), labels.numpy(), []
    for l2 in PATH:
        total = 0.0
        for k in range(5):
            train, held = (valid & (fold != k)).numpy(), (valid & (fold == k)).numpy()
            if len(set(y[train])) < 2:
                continue  # nothing to fit, so nothing to score
            model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(X[train], y[train])
            total += log_loss(y[held], model.predict_proba(X[held])[:, 1], normalize=False, labels=[0, 1])
        result.append(total)
    return result


def test_every_cell_takes_what_cross_validation_likes_best(problem):
    acts, labels, valid, groups = problem
    fold = _folds(groups)
    fit, penalty = fit_chosen(acts, labels, valid, groups, PATH)
    expected = [PATH[int(np.argmin(losses(acts[c], labels, valid[c], fold)))] for c in range(C)]
    assert penalty.tolist() == expected
    assert len(set(expected)) > 1
    for cell, l2 in enumerate(expected):
        one = fit_logistic(acts[[cell]], labels, valid[[cell]], l2)
        torch.testing.assert_close(fit.weight[cell], one.weight[0], rtol=0, atol=1e-6)


def test_folds_keep_groups_whole_and_are_about_even(problem):
    *_, groups = problem
    fold = _folds(groups)
    assert all(len(set(fold[groups == group].tolist())) == 1 for group in groups.unique())
    assert fold.bincount().tolist() == [24] * 5
    assert torch.equal(fold, _folds(groups * 10 + 7))  # names of groups do not matter


def test_folds_that_cannot_be_scored_are_left_out(problem):
    acts, labels, valid, groups = problem
    few = valid.clone()
    few[0] &= (labels == 0) | (groups == 0)  # one group holds all of a class: its fold has no fit, the others do
    few[1] &= labels == 0
    fit, penalty = fit_chosen(acts, labels, few, groups, PATH)
    assert penalty[0] == PATH[int(np.argmin(losses(acts[0], labels, few[0], _folds(groups))))]
    assert penalty[1].isnan()
    assert fit.weight[1].isnan().all()


def test_fewer_groups_than_folds_are_refused(problem):
    acts, labels, valid, groups = problem
    with pytest.raises(ValueError, match="l2=auto: expected at least 5 groups among the train rows, got 4; set l2"):
        fit_chosen(acts, labels, valid, groups % 4, PATH)
