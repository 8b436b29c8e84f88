"""Activations whose scale no probe in float32 can hold give NaN and the reason, not an AUC of one half."""

import pytest
import torch

from probes.analysis.auroc import auroc
from probes.solver.logistic import REASONS, fit_logistic
from probes.solver.mass_mean import fit_mass_mean

ODD = REASONS.index("beyond float32")


def make(N, D, dtype=torch.float64):
    acts, labels = torch.randn(1, N, D, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 2
    acts[0, :, 0] += 3 * labels
    return acts.to(dtype), labels


@pytest.mark.parametrize("shape", [(60, 8), (140, 520)])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("scale", [1e300, 1e200, 1e30, 1e-30, 1e-200, 1e-310])
def test_a_scale_beyond_float32(scale, standardize, shape):
    acts, labels = make(*shape)
    beside = torch.cat([acts, acts * scale])  # the cell beside it is what it is alone
    fit, alone = (
        fit_logistic(beside, labels, standardize=standardize),
        fit_logistic(acts, labels, standardize=standardize),
    )
    assert fit.reason.tolist() == [0, ODD]
    assert fit.weight[1].isnan().all()
    assert fit.bias[1].isnan()
    assert torch.equal(fit.weight[0], alone.weight[0])
    for whiten in (False, True):
        weight, bias = fit_mass_mean(beside, labels, whiten=whiten)
        assert weight[1].isnan().all()
        assert bias.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e30), (torch.float32, 1e-30), (torch.float32, 1e-43), (torch.bfloat16, 1e30),
        (torch.bfloat16, 1e-38), (torch.float64, 1e200),
    ],
)  # fmt: skip
def test_other_dtypes_likewise(dtype, scale):
    acts, labels = make(60, 8)
    fit = fit_logistic((acts * scale).to(dtype), labels)
    assert fit.reason.tolist() == [ODD]
    assert fit.weight.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [2e3, 6e-8])  # the largest and the smallest, denormal, steps of float16
def test_what_float16_holds_is_fitted(scale, dtype):
    acts, labels = make(60, 8)
    acts = (acts * 4 * scale).to(dtype)
    fit = fit_logistic(acts, labels, standardize=True)
    assert fit.reason.tolist() == [0]
    score = (fit.weight.float() @ acts[0].float().T + fit.bias.float()[:, None])[0]
    assert auroc(score[None], labels).item() > 0.95


def test_rows_that_do_not_count_may_have_any_scale():
    acts, labels = make(60, 8)
    acts[0, 50:] *= 1e200
    fit = fit_logistic(acts, labels, torch.arange(60) < 50)
    assert fit.reason.tolist() == [0]
    column = acts.clone()
    column[0, :, 3] = 1e-200 * column[0, :, 3]  # one column of many
    assert fit_logistic(column[:, :50], labels[:50]).reason.tolist() == [0]
