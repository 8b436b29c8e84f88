"""How far the decisions of one probe can be trusted: chosen on validation rows, measured on test rows."""

from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from probes.analysis.calibration import (
    Calibration,
    CalibrationError,
    Threshold,
    choose_threshold,
    fit_platt,
    measure_calibration_error,
    risk_coverage,
    tabulate_reliability,
)
from probes.analysis.reading import finite
from probes.analysis.shares import Share, measure_share

CellRows = tuple[Tensor, Tensor, Tensor]  # finite scores [n], labels [n] and groups [n] of one cell


class Assessment(NamedTuple):
    """What was chosen on validation rows, and how it does on test rows.

    Attributes:
        calibration: from scores to probabilities, of the validation rows.
        threshold: of the validation rows; None where they allow none, and `left_out` then says why.
        error: calibration error of the test rows.
        reliability: its bins; see `tabulate_reliability`.
        risk: risk by coverage; see `risk_coverage`.
        aurc: area under it.
        false_alarms: share of wrong answers that reach the threshold; None without one.
        caught: share of right answers that do, likewise.
        base_rate: share of label 1.
        n: test rows.
        left_out: why there is no threshold; empty where there is one.
    """

    calibration: Calibration
    threshold: Threshold | None
    error: CalibrationError
    reliability: pd.DataFrame
    risk: pd.DataFrame
    aurc: float
    false_alarms: Share | None
    caught: Share | None
    base_rate: float
    n: int
    left_out: str = ""

    def to_json(self) -> dict[str, Any]:
        """The numbers without the tables, JSON-ready: None for what is not known."""
        parts = {name: getattr(self, name) for name in ("calibration", "threshold", "error", "false_alarms", "caught")}
        found = {
            name: part and {key: finite(value) for key, value in part._asdict().items()} for name, part in parts.items()
        }
        return found | {"aurc": self.aurc, "base_rate": self.base_rate, "n": self.n, "left_out": self.left_out}


def assess(val: CellRows, test: CellRows, fpr: float = 0.05) -> Assessment:
    """Fit `fit_platt` and `choose_threshold` on validation rows, and measure both on test rows.

    Args:
        val: scores [n], labels [n] and groups [n] of the validation rows.
        test: of the test rows, likewise.
        fpr: the false-alarm rate of the threshold.

    Raises:
        ValueError: no rows, or validation rows of one label.

    Example:
        >>> import torch
        >>> scores = torch.linspace(-3, 3, 200, dtype=torch.float64)
        >>> rows = scores, (scores + torch.sin(torch.arange(200)) > 0).long(), torch.arange(200)
        >>> found = assess(rows, rows, fpr=0.1)
        >>> found.n, round(found.false_alarms.value, 2)
        (200, 0.1)
    """
    for split, rows in (("val", val), ("test", test)):
        if not len(rows[0]):
            raise ValueError(f"expected {split} rows with a score, got none; fit with split.{split} above 0")
    calibration = fit_platt(*val)
    threshold, left_out = None, ""
    try:
        threshold = choose_threshold(*val, fpr=fpr)
    except ValueError as error:
        left_out = str(error)
    scores, labels, groups = test
    probability = calibration.probability(scores.double())
    risk = risk_coverage(probability, labels)

    def share_of(label: int) -> Share | None:
        here = labels == label
        return None if threshold is None else measure_share(scores[here] >= threshold.value, groups[here])

    return Assessment(
        calibration=calibration,
        threshold=threshold,
        error=measure_calibration_error(probability, labels, groups),
        reliability=tabulate_reliability(probability, labels, groups=groups),
        risk=risk,
        aurc=float(risk["risk"].to_numpy(float).mean()),
        false_alarms=share_of(0),
        caught=share_of(1),
        base_rate=float(labels.double().mean()),
        n=len(labels),
        left_out=left_out,
    )
