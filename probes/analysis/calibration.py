"""From scores to decisions: probabilities, how far they can be trusted, and thresholds.

Scores are those of one cell. Label 1 means right; a false alarm is an example of label 0 whose score reaches the
threshold.
"""

import math
from numbers import Real
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.analysis.clusters import number_groups, sum_by_group
from probes.analysis.shares import LEVEL, measure_share

DRAWS = 1_000  # of noise
MOST_ROWS = 1e12  # that a message asks for
STEPS = 100  # most Newton steps; fewer than 20 are needed


class Calibration(NamedTuple):
    """A line from scores to log-odds.

    Attributes:
        slope: of the log-odds, per unit of the score.
        offset: log-odds at score 0.
        slope_se: standard error, clustered by groups.
        offset_se: likewise.

    Example:
        >>> Calibration(2.0, -1.0, 0.1, 0.1).probability(torch.tensor([0.5, 10.0]))
        tensor([0.5000, 1.0000])
    """

    slope: float
    offset: float
    slope_se: float
    offset_se: float

    def probability(self, scores: Tensor) -> Tensor:
        """Probability of label 1 in (0, 1), of the shape and dtype of the scores."""
        return (scores.double() * self.slope + self.offset).sigmoid().to(scores.dtype)


def fit_platt(scores: Tensor, labels: Tensor, groups: Tensor | None = None) -> Calibration:
    """Platt scaling: a logistic regression of the labels on one score, with errors that respect groups.

    The labels are smoothed as Platt (1999) does, to (n1 + 1) / (n1 + 2) and 1 / (n0 + 2). So the fit exists where the
    score separates the classes, and says no more than n0 and n1 examples can. Errors are those of the sandwich
    H^-1 (sum over groups of u u') H^-1 G / (G - 1) (n - 1) / (n - 2), as statsmodels has them.

    Args:
        scores: [n] finite.
        labels: [n], 0 or 1.
        groups: [n] integers, equal for examples of one group; each example its own by default.

    Raises:
        ValueError: labels of one class, scores that are equal or not finite, other shapes.
    """
    scores, labels = _check(scores, labels)
    counts = [int((labels == label).sum()) for label in (0, 1)]
    if not all(counts):
        raise ValueError(
            f"calibration: expected rows of both labels, got {counts[0]} of label 0 and {counts[1]} of 1; take more "
            "questions, or a larger validation split"
        )
    mean, spread = scores.mean(), scores.std()
    if not spread > 0:
        raise ValueError(f"calibration: expected scores that differ, got {len(scores)} equal ones; choose another cell")
    x = torch.stack((torch.ones_like(scores), (scores - mean) / spread), 1)
    soft = torch.where(labels == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    line = torch.tensor([math.log((counts[1] + 1) / (counts[0] + 1)), 0.0], dtype=torch.float64)

    def loss(line: Tensor) -> Tensor:
        logits = x @ line
        return (torch.nn.functional.softplus(logits) - soft * logits).sum()

    hessian = torch.eye(2, dtype=torch.float64)
    for _ in range(STEPS):
        p = (x @ line).sigmoid()
        gradient, hessian = x.mT @ (p - soft), x.mT @ (x * (p * (1 - p))[:, None])
        step = torch.linalg.solve(hessian, gradient)
        if gradient @ step < 1e-20 * len(scores):
            break
        size = 1.0
        while loss(line - size * step) > loss(line) - 1e-4 * size * (gradient @ step) and size > 1e-10:
            size /= 2
        line = line - size * step
    each = x * (soft - (x @ line).sigmoid())[:, None]  # [n, 2]
    numbers = torch.arange(len(scores)) if groups is None else number_groups(groups, scores)
    sums = sum_by_group(each.mT, numbers)  # [2, G]
    n, G = len(scores), sums.shape[1]
    bread = torch.linalg.inv(hessian)
    correction = G / (G - 1) * (n - 1) / (n - 2) if G > 1 and n > 2 else math.nan
    # From the standardised score to the score itself.
    unfold = torch.tensor([[1.0, -float(mean / spread)], [0.0, float(1 / spread)]], dtype=torch.float64)
    errors = (unfold @ bread @ (sums @ sums.mT) @ bread @ unfold.mT * correction).diagonal().sqrt()
    offset, slope = (unfold @ line).tolist()
    return Calibration(slope, offset, float(errors[1]), float(errors[0]))


def expected_calibration_error(probability: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Mean distance of probability and share of label 1 over bins of equal mass, each weighted by its examples.

    >>> round(expected_calibration_error(torch.tensor([0.2, 0.2, 0.9, 0.9]), torch.tensor([0, 0, 1, 1]), bins=2), 3)
    0.15
    """
    table = tabulate_reliability(probability, labels, bins)
    n, mean, rate = (table[name].to_numpy(np.float64) for name in ("n", "probability", "rate"))
    return float((np.abs(mean - rate) * n).sum() / n.sum())


class CalibrationError(NamedTuple):
    """An expected calibration error.

    Attributes:
        value: as `expected_calibration_error` gives it; noise makes it too high.
        low, high: 95% interval of what it would be without noise.
        chance: the value that probabilities without any error have on average on such rows.
    """

    value: float
    low: float
    high: float
    chance: float


def measure_calibration_error(
    probability: Tensor, labels: Tensor, groups: Tensor | None = None, bins: int = 10
) -> CalibrationError:
    """`expected_calibration_error` with an interval that respects groups.

    Noise of the share of label 1 in each bin is drawn with the covariance of the groups' sums. The interval is the
    basic bootstrap's, which takes the noise's share of the value away; it begins at 0 where 5% of pure noise is as
    large. In simulated draws of 300 to 400 rows it held the true error in about 90%.

    Args:
        probability: [n] in [0, 1].
        labels: [n], 0 or 1.
        groups: [n] integers, equal for examples of one group; each example its own by default.
        bins: of equal mass.
    """
    value = expected_calibration_error(probability, labels, bins)
    probability, labels = _check(probability, labels)
    n, residual = len(labels), labels - probability
    bin_of = torch.empty(n, dtype=torch.int64)
    for number, part in enumerate(_bin(probability, bins)):
        bin_of[part] = number
    members = torch.nn.functional.one_hot(bin_of).double().mT  # [B, n]
    sizes = members.sum(1, keepdim=True)
    gaps = members @ residual / sizes[:, 0]
    scale = (sizes / (sizes - 1)).sqrt().where(sizes > 1, 0)
    deviations = members * (residual - gaps[bin_of]) * scale
    numbers = torch.arange(n) if groups is None else number_groups(torch.as_tensor(groups).cpu(), residual)
    sums = sum_by_group(deviations, numbers)  # [B, G]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(DRAWS, sums.shape[1], generator=generator, dtype=torch.float64) @ sums.mT / n
    pure, drawn = noise.abs().sum(1), (gaps * sizes[:, 0] / n + noise).abs().sum(1)
    tail = (1 - LEVEL) / 2
    low, high = (max(0.0, 2 * value - float(drawn.quantile(q))) for q in (1 - tail, tail))
    return CalibrationError(
        value, low if value > float(pure.quantile(LEVEL)) else 0.0, max(high, value), float(pure.mean())
    )


def tabulate_reliability(
    probability: Tensor, labels: Tensor, bins: int = 10, groups: Tensor | None = None
) -> pd.DataFrame:
    """Reliability in bins of equal mass, a row for each.

    The columns are `n`, mean `probability`, `rate` of label 1, and `low` and `high`, its 95% interval (see
    `measure_share`).
    """
    probability, labels = _check(probability, labels)
    parts = _bin(probability, bins)
    shares = [measure_share(labels[part] == 1, None if groups is None else groups[part]) for part in parts]
    return pd.DataFrame(
        {
            "n": [share.n for share in shares],
            "probability": [float(probability[part].mean()) for part in parts],
            "rate": [share.value for share in shares],
            "low": [share.low for share in shares],
            "high": [share.high for share in shares],
        }
    )


def _bin(probability: Tensor, bins: int) -> list[Tensor]:
    """Row numbers of each bin, lowest probabilities first."""
    return [part for part in probability.argsort(stable=True).tensor_split(bins) if len(part)]


def risk_coverage(probability: Tensor, labels: Tensor) -> pd.DataFrame:
    """The risk of answering only where the probability is highest: `coverage`, `probability`, `risk`, n rows.

    Row i keeps i + 1 of n examples: `coverage` is (i + 1) / n, `probability` the lowest one kept, and `risk` the share
    of label 0 among those kept. Among equal probabilities the order is random, and the risk its mean.

    >>> risk_coverage(torch.tensor([0.9, 0.8, 0.8, 0.1]), torch.tensor([1, 0, 1, 0]))["risk"].round(3).tolist()
    [0.0, 0.25, 0.333, 0.5]
    """
    probability, labels = _check(probability, labels)
    order = probability.argsort(descending=True, stable=True)
    ranked, wrong = probability[order], (labels[order] == 0).double()
    _, block, size = ranked.unique_consecutive(return_inverse=True, return_counts=True)
    share = torch.zeros(len(size), dtype=torch.float64).scatter_add_(0, block, wrong) / size
    kept = torch.arange(1, len(labels) + 1, dtype=torch.float64)
    return pd.DataFrame(
        {
            "coverage": (kept / len(labels)).numpy(),
            "probability": ranked.numpy(),
            "risk": (share[block].cumsum(0) / kept).numpy(),
        }
    )


def aurc(probability: Tensor, labels: Tensor) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages; the lower, the better."""
    return float(risk_coverage(probability, labels)["risk"].to_numpy(np.float64).mean())


class Threshold(NamedTuple):
    """A score from which answers are called right.

    Attributes:
        value: an example is called right where its score is at least this.
        fpr: the false-alarm rate that was asked for.
        low, high: 95% interval of the false-alarm rate that this threshold has on new examples; see `measure_share`.
        n_negative: validation rows of label 0 that it was chosen on.
    """

    value: float
    fpr: float
    low: float
    high: float
    n_negative: int


def choose_threshold(scores: Tensor, labels: Tensor, groups: Tensor | None = None, fpr: float = 0.05) -> Threshold:
    """Choose the lowest threshold whose share of false alarms is at most `fpr` on these rows.

    It is one of the scores: the k-th highest of label 0 with k = floor(n fpr), and where others equal it, the next one
    above them. New examples of label 0 then reach it at a rate that is on average at most k / (n + 1), below `fpr`,
    where examples are exchangeable. In one draw of rows the rate may be higher: `low` and `high` say how far.

    Args:
        scores: [n] finite.
        labels: [n], 0 or 1.
        groups: [n] integers, equal for examples of one group; each example its own by default.
        fpr: in (0, 1).

    Raises:
        ValueError: a rate outside (0, 1); fewer than 1 / fpr rows of label 0, so that no row could be a false alarm.
    """
    scores, labels = _check(scores, labels)
    if not isinstance(fpr, Real) or not 0 < fpr < 1:
        raise ValueError(f"fpr: expected a rate between 0 and 1, got {fpr!r}; choose one, as 0.05")
    negative = scores[labels == 0].sort(descending=True).values
    n = len(negative)
    allowed = math.floor(fpr * n + 1e-9)
    if not allowed:
        needed = 1 / float(fpr)  # infinite for the smallest rates
        rows = f"at least {math.ceil(needed - 1e-9)}" if needed < MOST_ROWS else "more"
        higher = f"a rate of at least 1 / {n}" if n else "another split"
        raise ValueError(
            f"threshold: expected {rows} validation rows of label 0 for a false-alarm rate of {float(fpr)!r}, got {n}; "
            f"take more questions, or {higher}"
        )
    above = scores[scores > negative[allowed]]
    reached = negative[allowed - 1]
    if reached == negative[allowed]:  # ties: the next score of either label
        if not len(above):
            raise ValueError(
                f"threshold: expected scores above those of {n} validation rows of label 0, got none: "
                f"{int((negative == reached).sum())} of them are equal; choose another cell, or a higher rate"
            )
        reached = above.min()
    wrong = labels == 0
    share = measure_share(scores[wrong] >= reached, None if groups is None else torch.as_tensor(groups)[wrong])
    return Threshold(float(reached), fpr, share.low, share.high, n)


def _check(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores in float64 and labels, [n] each."""
    scores, labels = torch.as_tensor(scores), torch.as_tensor(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise ValueError(f"expected scores [n] and labels [n], got {list(scores.shape)} and {list(labels.shape)}")
    if not scores.isfinite().all():
        raise ValueError(f"expected finite scores, got {int((~scores.isfinite()).sum())} that are not; leave them out")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"expected labels 0 and 1, got {np.unique(labels.numpy())[:5].tolist()}")
    return scores.double().cpu(), labels.cpu().long()
