"""Settings of precision from outside: they change no bit of a fit, and are as they were when it ends."""

from typing import Any

import pytest
import torch

from probes.analysis.auroc import auroc_with_variance
from probes.solver.logistic import fit_logistic
from probes.solver.mass_mean import fit_mass_mean
from probes.solver.precision import full_precision
from tests.probes.solver.test_methods import made

BACKENDS: Any = torch.backends  # whose attributes are not declared
SETTINGS = ["autocast", "medium", "high", "cuda TF32", "everything TF32", "products in bfloat16"]
PLACES = (BACKENDS, BACKENDS.cuda.matmul, BACKENDS.mkldnn, BACKENDS.mkldnn.matmul)


@pytest.fixture(params=SETTINGS)
def low_precision(request):
    """One setting from outside, taken back in the end."""
    before = [place.fp32_precision for place in PLACES]
    if request.param in ("medium", "high"):
        torch.set_float32_matmul_precision(request.param)
    elif request.param == "cuda TF32":
        BACKENDS.cuda.matmul.allow_tf32 = True
    elif request.param == "everything TF32":
        BACKENDS.fp32_precision = "tf32"
    elif request.param == "products in bfloat16":
        BACKENDS.mkldnn.matmul.fp32_precision = "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=request.param == "autocast"):
        yield
    BACKENDS.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for place, precision in zip(PLACES, before, strict=True):
        place.fp32_precision = precision


def settings():
    return [place.fp32_precision for place in PLACES], torch.is_autocast_enabled("cpu")


def fits_of(acts, labels, K):
    """Numbers of every function that is held to full precision, for few label sets or many, small cells and large."""
    return (
        *fit_logistic(acts, labels.expand(K, *labels.shape)),
        *fit_logistic(acts[..., :40], labels),
        *fit_mass_mean(acts, labels, whiten=True),
        *auroc_with_variance(acts[..., 0], labels),
    )


@pytest.fixture(scope="module")
def cells():
    acts, labels = made(2, 280, 560)
    return acts.float(), labels


@pytest.fixture(scope="module")
def expected(cells):
    acts, labels = cells
    return {K: fits_of(acts, labels, K) for K in (1, 7)}


@pytest.mark.parametrize("K", [1, 7])
def test_no_bit_changes(cells, expected, low_precision, K):
    acts, labels = cells
    before = settings()
    assert all(torch.equal(one, two) for one, two in zip(fits_of(acts, labels, K), expected[K], strict=True))
    assert settings() == before


@pytest.fixture(scope="module")
def product(cells):
    return cells[0] @ cells[0].mT


def test_products_are_those_of_full_precision_inside(cells, product, low_precision):
    with full_precision():
        assert torch.equal(cells[0] @ cells[0].mT, product)


def test_settings_are_restored_where_a_fit_raises(cells, low_precision):
    acts, labels = cells
    before = settings()
    for fit in (fit_logistic, fit_mass_mean):
        with pytest.raises(ValueError, match="labels must be 0 or 1"):
            fit(acts, labels + 1)
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        auroc_with_variance(acts[..., 0], labels + 1)
    assert settings() == before


def test_what_follows_a_setting_for_all_goes_on_following_it():
    BACKENDS.mkldnn.matmul.fp32_precision = "none"
    BACKENDS.fp32_precision = "tf32"
    try:
        with full_precision():
            assert BACKENDS.mkldnn.matmul.fp32_precision == "ieee"
        assert BACKENDS.mkldnn.matmul.fp32_precision == "tf32"
    finally:
        BACKENDS.fp32_precision = "none"
    assert BACKENDS.mkldnn.matmul.fp32_precision == "none"


def test_threads_share_the_setting_until_the_last_one_is_out():
    """A thread that leaves takes nothing from one that is still inside, and the setting outside comes back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        first, second = full_precision(), full_precision()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == "highest"
        second.__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
