"""What validation rows choose, and how it does on test rows, held against counts by hand."""

import json

import numpy as np
import pytest
import torch

from probes.analysis.assessment import assess
from probes.analysis.calibration import fit_platt, measure_calibration_error


def draw_rows(n, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(n, generator=generator)
    labels = (torch.rand(n, generator=generator) < scores.sigmoid()).to(torch.uint8)
    return scores, labels, torch.arange(n) // 2


def test_choices_of_validation_rows_are_measured_on_test_rows():
    val, test = draw_rows(200, 0), draw_rows(300, 1)
    found = assess(val, test, fpr=0.1)
    assert found.calibration == fit_platt(*val)
    assert found.threshold is not None
    assert found.false_alarms is not None
    assert found.caught is not None
    scores, labels, groups = test
    reached = scores.double() >= found.threshold.value
    assert found.false_alarms.value == pytest.approx(float(reached[labels == 0].double().mean()))
    assert found.caught.value == pytest.approx(float(reached[labels == 1].double().mean()))
    assert found.error == measure_calibration_error(found.calibration.probability(scores.double()), labels, groups)
    assert found.aurc == pytest.approx(found.risk["risk"].to_numpy().mean())
    assert found.risk["risk"].to_numpy()[-1] == pytest.approx(1 - found.base_rate)
    assert sum(found.reliability["n"].tolist()) == 300
    assert np.all(found.reliability["low"] <= found.reliability["rate"])
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["n"] == 300


def test_a_threshold_that_cannot_be_is_left_out_with_its_reason():
    val, test = draw_rows(60, 0), draw_rows(60, 1)
    found = assess(val, test, fpr=0.01)
    assert found.threshold is None
    assert found.false_alarms is None
    assert found.left_out.startswith("threshold: expected at least 100 validation rows of label 0")
    assert found.to_json()["threshold"] is None


def test_rows_are_needed():
    rows, none = draw_rows(60, 0), draw_rows(0, 0)
    with pytest.raises(ValueError, match=r"expected val rows with a score, got none; fit with split\.val above 0"):
        assess(none, rows)
    with pytest.raises(ValueError, match="expected test rows"):
        assess(rows, none)
