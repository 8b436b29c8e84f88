"""What `fit_logistic` refuses, and in which words."""

from typing import Any

import numpy as np
import pytest
import torch

from probes.solver.logistic import fit_logistic

ACTS, LABELS = torch.randn(2, 6, 3), torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": 0.0}, "l2 must be above 0 and finite, got 0.0"),
        ({"l2": float("nan")}, "l2 must be above 0 and finite, got nan"),
        ({"l2": [1.0, -2.0]}, r"l2 must be above 0 and finite, got \[1.0, -2.0\]"),
        ({"l2": []}, r"l2 must be above 0 and finite, got \[\]"),
        ({"l2": "strong"}, "l2 must be above 0 and finite, got strong"),
        ({"tol": -1.0}, "tol and max_iter must be 0 or more, got -1.0 and 1000"),
        ({"max_iter": -1}, "tol and max_iter must be 0 or more, got 0.0001 and -1"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message) as error:
        fit_logistic(ACTS, LABELS, **change)
    assert "\n" not in str(error.value)


def test_penalties_may_be_numbers_of_any_kind():
    expected = fit_logistic(ACTS, LABELS, l2=2.0).weight
    numbers: list[Any] = [2, torch.tensor(2.0), np.float32(2)]
    for l2 in numbers:
        assert torch.equal(fit_logistic(ACTS, LABELS, l2=l2).weight, expected)
    paths: list[Any] = [(2.0,), np.array([2.0]), torch.tensor([2.0])]
    for path in paths:
        assert torch.equal(fit_logistic(ACTS, LABELS, l2=path).weight, expected[None])
