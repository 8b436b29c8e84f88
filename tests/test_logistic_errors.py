"""What `fit_logistic` refuses, and in which words."""

import pytest
import torch

from probes.logistic import fit_logistic

ACTS, LABELS = torch.randn(2, 6, 3), torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acts": ACTS[0]}, r"acts must be floating \[C, N, D\], got torch.float32 \[6, 3\]"),
        ({"acts": ACTS.long()}, r"acts must be floating \[C, N, D\], got torch.int64 \[2, 6, 3\]"),
        ({"acts": ACTS[:0]}, "at least one cell, example and dimension, got C=0, N=6, D=3"),
        ({"acts": ACTS[:, :0]}, "at least one cell, example and dimension, got C=2, N=0, D=3"),
        ({"labels": LABELS[:5]}, r"labels must broadcast to \[C, N\] = \[2, 6\], .* got \[5\]"),
        (
            {"labels": LABELS.expand(3, 6)},
            r"labels must .* \[K, 1, N\] or \[K, C, N\] for K label sets, .* got \[3, 6\]",
        ),
        ({"labels": LABELS * 2 - 1}, "labels must be 0 or 1 where valid, got -1"),
        ({"labels": LABELS + 0.5}, "labels must be 0 or 1 where valid, got 0.5"),
        ({"valid": torch.ones(2, 5, dtype=torch.bool)}, r"valid must broadcast to .* got \[2, 5\]"),
        ({"valid": torch.ones(2, 6)}, "valid must be bool, got torch.float32"),
        ({"l2": 0.0}, "l2 must be above 0 and finite, got 0.0"),
        ({"l2": float("nan")}, "l2 must be above 0 and finite, got nan"),
        ({"tol": -1.0}, "tol and max_iter must be 0 or more, got -1.0 and 100"),
        ({"max_iter": -1}, "tol and max_iter must be 0 or more, got 0.0001 and -1"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"acts": ACTS, "labels": LABELS, **change}
    with pytest.raises(ValueError, match=message) as error:
        fit_logistic(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_valid_row_that_is_not_finite_is_named(bad):
    acts, valid = ACTS.clone(), torch.ones(2, 6, dtype=torch.bool)
    acts[1, 4, 2] = bad
    valid[:, 0] = False
    with pytest.raises(ValueError, match="NaN or infinity in cell 1, row 4;"):
        fit_logistic(acts, LABELS, valid)
    with pytest.raises(ValueError, match="cell 1, row 4;"):
        fit_logistic(acts, torch.ones(6), valid)
    valid[1, 4] = False
    assert fit_logistic(acts, LABELS, valid).converged.all()
