"""Fits on a real GPU are those of the CPU, whatever is set outside."""

import os
import warnings
from contextlib import suppress

import pytest
import torch

from probes.analysis.auroc import auroc_with_variance
from probes.solver import methods
from probes.solver.logistic import LogisticFit, fit_logistic
from probes.solver.mass_mean import fit_mass_mean
from tests.probes.solver.test_methods import made

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
if torch.cuda.is_available():  # PyTorch reads it once, at the first product of the process
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Small cells by rows and by columns; descents without a factor, with one, and without one beside many rows.
SIZES = [(60, 600), (300, 40), (640, 1024), (3200, 1024), (3100, 3200)]


def cells(N, D, C=3):
    """Cells of which one has a heavy column, and one, where there are three, is shifted."""
    acts, labels = made(C, N, min(D, 1024), decay=1.0)
    noise = torch.randn(C, N, D - acts.shape[2], generator=torch.Generator().manual_seed(1)).bfloat16()
    acts = torch.cat((acts, noise), -1)
    acts[0, :, 5] *= 100
    acts[-1] += 3
    return acts, labels


def on_cpu(fit):
    assert all(field.is_cuda for field in fit)
    return LogisticFit._make(field.cpu() for field in fit)


def assert_same(fit, expected):
    torch.testing.assert_close(fit.objective, expected.objective, rtol=1e-6, atol=0, equal_nan=True)
    torch.testing.assert_close(fit.weight, expected.weight, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert torch.equal(fit.converged, expected.converged)
    assert torch.equal(fit.reason, expected.reason)


@pytest.mark.parametrize(("N", "D"), SIZES)
def test_a_gpu_agrees_with_the_cpu(N, D):
    acts, labels = cells(N, D)
    labels[1] = 1  # one class only
    assert_same(on_cpu(fit_logistic(acts.cuda(), labels.cuda())), fit_logistic(acts, labels))


@pytest.mark.parametrize(("N", "D"), SIZES[:-1])
def test_label_sets_and_penalties_agree(N, D):
    acts, labels = cells(N, D, C=2)
    sets = torch.stack((labels, 1 - labels.flip(-1), labels.roll(7, -1)))
    valid = torch.rand(3, 2, N, generator=torch.Generator().manual_seed(2)) < 0.9
    given = {"l2": [0.1, 1.0, 100.0], "standardize": True}
    expected = fit_logistic(acts, sets, valid, **given)
    assert_same(on_cpu(fit_logistic(acts.cuda(), sets.cuda(), valid.cuda(), **given)), expected)


@pytest.mark.parametrize(("N", "D"), SIZES)
def test_deterministic_algorithms_are_enough_and_give_the_same_bits_again(N, D):
    acts, labels = (tensor.cuda() for tensor in cells(N, D, C=2))
    fits = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            fits.append(
                (
                    *fit_logistic(acts, labels),
                    *fit_mass_mean(acts[:, :200, :40], labels[:, :200], whiten=True),
                    *auroc_with_variance(acts[..., 0], labels),
                )
            )
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, two) for one, two in zip(*fits, strict=True))


@pytest.mark.parametrize("setting", ["autocast bfloat16", "autocast float16", "TF32", "medium"])
@pytest.mark.parametrize(("N", "D"), SIZES[2:4])
def test_low_precision_from_outside_changes_no_bit(N, D, setting):
    acts, labels = (tensor.cuda() for tensor in cells(N, D, C=2))
    expected = *fit_logistic(acts, labels), *fit_mass_mean(acts[:, :300], labels[:, :300], whiten=True)
    before = torch.backends.cuda.matmul.fp32_precision
    dtype = torch.bfloat16 if "bfloat16" in setting else torch.float16
    try:
        if setting == "TF32":
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        elif setting == "medium":
            torch.set_float32_matmul_precision("medium")
        inside = torch.backends.cuda.matmul.fp32_precision
        with torch.autocast("cuda", dtype, enabled="autocast" in setting):
            found = *fit_logistic(acts, labels), *fit_mass_mean(acts[:, :300], labels[:, :300], whiten=True)
        assert torch.backends.cuda.matmul.fp32_precision == inside
    finally:
        if setting == "medium":
            torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = before
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_a_cell_that_float32_cannot_solve_is_factored_by_itself():
    acts, labels = cells(640, 1024, C=6)
    acts = acts.float()
    expected = fit_logistic(acts, labels)
    acts[2] *= 1e4
    acts[2, ::2] += 3e5
    torch.cuda.reset_peak_memory_stats()
    there = acts.cuda()
    before = torch.cuda.memory_allocated()
    fit = on_cpu(fit_logistic(there, labels.cuda()))
    batch = 6 * methods.bytes_of_cell(640, 1024, 1, 1)
    alone = 16 * 640 * 1024 + methods.factored_bytes(640, 1024)
    assert torch.cuda.max_memory_allocated() - before <= 1.5 * (batch + alone)
    assert fit.reason[2] == fit_logistic(acts[2:3], labels[2:3]).reason[0]
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(fit.objective[others], expected.objective[others], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("N", "D"), SIZES[2:])
def test_the_memory_of_a_batch_is_what_was_reckoned(N, D):
    acts, labels = (tensor.cuda() for tensor in cells(N, D))
    fit_logistic(acts, labels)  # libraries have what they keep
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fit_logistic(acts, labels)
    assert (torch.cuda.max_memory_allocated() - before) / 3 <= 1.2 * methods.bytes_of_cell(N, D, 1, 1)


def test_a_device_that_is_full_leaves_cells_to_the_cpu():
    acts, labels = cells(640, 1024)
    expected = fit_logistic(acts, labels)
    there = acts.cuda(), labels.cuda()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**20) / total)
    held = []  # what PyTorch has kept for large tensors; small ones, such as the results, have memory of their own
    try:
        with suppress(torch.OutOfMemoryError):
            while True:
                held.append(torch.empty(2**20 + 1, dtype=torch.uint8, device="cuda"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit = on_cpu(fit_logistic(*there))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("solving a cell on the CPU" in str(one.message) for one in caught)
    assert_same(fit, expected)
