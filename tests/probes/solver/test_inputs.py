"""What fits of a block of cells refuse alike, and in which words."""

from functools import partial

import pytest
import torch

from probes.solver.logistic import fit_logistic
from probes.solver.mass_mean import fit_mass_mean

ACTS, LABELS = torch.randn(2, 6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
FITS = [fit_logistic, fit_mass_mean, partial(fit_mass_mean, whiten=True)]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acts": ACTS[0]}, r"acts must be floating \[C, N, D\], got torch.float32 \[6, 3\]"),
        ({"acts": ACTS.long()}, r"acts must be floating \[C, N, D\], got torch.int64 \[2, 6, 3\]"),
        ({"acts": ACTS[:0]}, "at least one cell, example and dimension, got C=0, N=6, D=3"),
        ({"acts": ACTS[:, :0]}, "at least one cell, example and dimension, got C=2, N=0, D=3"),
        ({"labels": LABELS * 2 - 1}, "labels must be 0 or 1 where valid, got -1"),
        ({"labels": LABELS + 0.5}, "labels must be 0 or 1 where valid, got 0.5"),
        ({"valid": torch.ones(2, 5, dtype=torch.bool)}, r"valid must broadcast to .* got \[2, 5\]"),
        ({"valid": torch.ones(2, 6)}, "valid must be bool, got torch.float32"),
    ],
)
def test_mistakes_are_named(fit, change, message):
    with pytest.raises(ValueError, match=message) as error:
        fit(**{"acts": ACTS, "labels": LABELS, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fit", "labels", "message"),
    [
        (fit_logistic, LABELS[:5], r"labels must broadcast to \[C, N\] = \[2, 6\], .* got \[5\]"),
        (
            fit_logistic,
            LABELS.expand(3, 6),
            r"labels must .* \[K, 1, N\] or \[K, C, N\] for K label sets, .* got \[3, 6\]",
        ),
        (fit_mass_mean, LABELS[:5], r"labels must broadcast to \[C, N\] = \[2, 6\], got \[5\]"),
        (fit_mass_mean, LABELS.expand(1, 2, 6), r"labels must broadcast to \[C, N\] = \[2, 6\], got \[1, 2, 6\]"),
    ],
)
def test_only_some_fits_take_label_sets(fit, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        fit(ACTS, labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_valid_row_that_is_not_finite_is_named(fit, bad):
    acts, valid = ACTS.clone(), torch.ones(2, 6, dtype=torch.bool)
    acts[1, 4, 2] = bad
    valid[:, 0] = False
    for labels in (LABELS, torch.ones(6)):
        with pytest.raises(ValueError, match="NaN or infinity in cell 1, row 4;"):
            fit(acts, labels, valid)
    valid[1, 4] = False
    weight, bias = fit(acts, LABELS, valid)[:2]
    assert weight.isfinite().all()
    assert bias.isfinite().all()
