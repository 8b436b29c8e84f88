"""The estimator is one of scikit-learn's, and a cell of a grid."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes import LinearProbe, fit_grid

N, D = 200, 6


WEIGHTS = "class_weight is None or balanced; scikit-learn also has a weight for each class"


@parametrize_with_checks([LinearProbe()], expected_failed_checks=lambda _: {"check_class_weight_classifiers": WEIGHTS})
def test_it_keeps_the_rules_of_scikit_learn(estimator, check):
    check(estimator)


def make_cell():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(N, D))
    return X, (X[:, 0] + generator.normal(size=N) > 0).astype(int)


def test_it_is_scikit_learns_own_regression():
    X, y = make_cell()
    for l2 in (0.5, 20):
        ours = LinearProbe(l2=l2, standardize=False, tol=1e-9).fit(X, y)
        theirs = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=1000).fit(X, y)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
        assert (ours.predict(X) == theirs.predict(X)).all()
    assert ours.coef_.shape == (1, D)


def test_balanced_classes_are_scikit_learns():
    X, y = make_cell()
    y = y & (np.arange(N) % 4 == 0)
    ours = LinearProbe(l2=2.0, standardize=False, tol=1e-9, class_weight="balanced").fit(X, y)
    theirs = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000, class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6)
    constant = LinearProbe(class_weight="balanced").fit(np.ones((N, D)), y)
    np.testing.assert_array_equal(constant.predict_proba(X[:1]), [[0.5, 0.5]])
    other: Any = {0: 1.0, 1: 2.0}
    with pytest.raises(ValueError, match=r'class_weight must be None or "balanced", got \{0: 1.0'):
        LinearProbe(class_weight=other).fit(X, y)


def test_it_is_a_cell_of_a_grid():
    X, y = make_cell()
    acts = torch.from_numpy(X).float()[:, None, None]
    each: list[dict[str, Any]] = [
        {},
        {"l2": 3.0},
        {"l2": 1.0, "standardize": False},
        {"class_weight": "balanced"},
    ]
    for settings in each:
        grid = fit_grid(acts, y, **settings)
        train = torch.tensor([split == "train" for split in grid.examples["split"]])
        probe = LinearProbe(**settings).fit(acts[train, 0, 0], y[train])
        np.testing.assert_array_equal(probe.coef_[0], grid.probes.weight[0, 0, 0])
        np.testing.assert_array_equal(probe.intercept_[0], grid.probes.bias[0, 0, 0])
        rows = grid.scores("test")
        scores = probe.decision_function(acts[rows.examples, 0, 0])
        np.testing.assert_allclose(scores, rows.scores[0, 0], rtol=1e-6)


def test_tensors_of_any_float_dtype():
    X, y = make_cell()
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        tensor = torch.from_numpy(X).to(dtype)
        probe = LinearProbe().fit(tensor, torch.from_numpy(y))
        same = LinearProbe().fit(tensor.double().numpy(), y)
        np.testing.assert_allclose(probe.coef_, same.coef_, atol=1e-5)
        np.testing.assert_allclose(probe.decision_function(tensor), same.decision_function(tensor.double()), atol=1e-4)
    assert cross_val_score(LinearProbe(), torch.from_numpy(X).float(), y, cv=3, scoring="roc_auc").mean() > 0.7


def test_scikit_learns_tools_take_it():
    X, y = make_cell()
    words = np.where(y == 1, "right", "wrong")
    folds = {"cv": GroupKFold(4), "groups": np.arange(N) // 2, "scoring": "roc_auc"}
    assert cross_val_score(LinearProbe(), X, words, **folds).mean() > 0.7
    search = GridSearchCV(make_pipeline(StandardScaler(), LinearProbe()), {"linearprobe__l2": [0.1, 1e4]}, cv=3)
    assert search.fit(X, words).best_params_ == {"linearprobe__l2": 0.1}
    assert list(search.classes_) == ["right", "wrong"]
    copy: Any = clone(LinearProbe(l2=3))
    assert copy.get_params()["l2"] == 3
    three = np.digitize(X[:, 0], [-0.5, 0.5])
    assert OneVsRestClassifier(LinearProbe()).fit(X, three).score(X, three) > 0.5


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"y": np.arange(N) % 3}, "Only binary classification is supported. .* multiclass; take OneVsRestClassifier"),
        ({"y": np.zeros(N)}, "y: expected labels of two classes, got one class, 0"),
        ({"X": torch.zeros(N, 2, D)}, r"X: expected activations \[N, D\] in floats, got torch.float32 \[200, 2, 6\]"),
        ({"X": torch.zeros(3, D)}, r"y: expected \[3\] labels beside X \[3, 6\], got \[200\]"),
        ({"X": torch.full((N, D), torch.nan)}, "acts must be finite in valid rows"),
        ({"l2": "auto"}, "l2: expected a number above 0, or by_size, got 'auto'"),
        ({"l2": -1.0}, "l2"),
        ({"l2": [1, 2]}, r"l2: expected a number above 0, or by_size, got \[1, 2\]; search others"),
    ],
)
def test_what_does_not_fit(changes, line):
    X, y = make_cell()
    given = {"X": X, "y": y} | changes
    with pytest.raises(ValueError, match=line):
        LinearProbe(l2=given.get("l2", 1.0)).fit(given["X"], given["y"])


def test_what_cannot_be_scored():
    X, y = make_cell()
    with pytest.raises(ValueError, match="X: expected finite activations, got NaN or infinity; leave these rows out"):
        LinearProbe().fit(X, y).decision_function(torch.full((2, D), torch.nan))
    with pytest.raises(ValueError, match=r"X: expected \[N, 6\] as in fit, got \[2, 5\]"):
        LinearProbe().fit(X, y).predict(torch.zeros(2, 5))
