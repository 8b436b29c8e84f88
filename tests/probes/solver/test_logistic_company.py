"""What a cell's fit does not depend on: other cells, threads, batches, devices; and that it leaves its input alone."""

import pytest
import torch

from probes.solver import methods
from probes.solver.logistic import fit_logistic
from tests.probes.solver.test_logistic import made


@pytest.mark.parametrize(("N", "D"), [(60, 600), (300, 40)])
def test_same_bits_again_and_in_any_company(N, D):
    acts, labels = made(4, N, D, dtype=torch.float32)
    fit = fit_logistic(acts, labels)
    assert all(torch.equal(a, b) for a, b in zip(fit, fit_logistic(acts, labels), strict=True))
    for cells in ([2], [3, 1], [0, 2, 3]):
        part = fit_logistic(acts[cells], labels[cells])
        assert all(torch.equal(a[cells], b) for a, b in zip(fit, part, strict=True))


@pytest.mark.parametrize(("N", "D"), [(60, 600), (300, 40)])
def test_thread_counts_agree(N, D):
    acts, labels = made(2, N, D)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fit_logistic(acts, labels)
        torch.set_num_threads(2)
        two = fit_logistic(acts, labels)
    finally:
        torch.set_num_threads(before)
    scores = [(acts @ fit.weight[..., None])[..., 0] + fit.bias[:, None] for fit in (one, two)]
    torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("N", "D"), [(50, 90), (90, 30), (640, 530), (530, 640)])
def test_batches_agree_with_single_cells(N, D):
    """What a GPU runs: several cells and label sets in one batch, some of them unfittable, masked or slow."""
    acts, labels = made(3, N, D, noise=0.2)
    acts[1] *= 30
    labels = torch.stack((labels, 1 - labels.flip(-1)))
    labels[1, 2] = 0
    valid = torch.rand(2, 3, N, generator=torch.Generator().manual_seed(4)) < 0.8
    acts[~valid.any(0)] = torch.nan
    alone = fit_logistic(acts, labels, valid)
    sign = torch.where(labels == 1, 1.0, -1.0).double() * valid
    batch, reason = methods.solve(acts, sign, torch.ones(1).double(), 1e-4, 1000, False, torch.arange(3))
    torch.testing.assert_close(alone.objective, batch.objective.T, rtol=1e-10, atol=0, equal_nan=True)
    X = torch.where(valid.any(0)[..., None], acts, 0.0)
    scores = [
        torch.einsum("cnd,kcd->kcn", X, weight) + bias[..., None]
        for weight, bias in ((alone.weight, alone.bias), (batch.weight.transpose(0, 1), batch.bias.T))
    ]
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(alone.converged, batch.converged.T)
    assert torch.equal(alone.reason, reason.T)


def test_inputs_are_left_alone():
    acts, labels = made(2, 30, 40)
    copies = acts.clone(), labels.clone()
    fit_logistic(acts, labels)
    assert torch.equal(acts, copies[0])
    assert torch.equal(labels, copies[1])
