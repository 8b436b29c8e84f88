"""Beyond the baseline: for every cell, how much better a baseline predicts the label once the probe's score is added.

Works on the record alone: no activations, no refit of the probes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.auc_map import AUCMap
from probes.analysis.clusters import measure_areas
from probes.analysis.paired import Comparison, compare
from probes.analysis.scores import Scores
from probes.solver.precision import full_precision

RIDGE = 1e-3  # penalty on the two standardised weights: nothing beside hundreds of rows, and finite on separable ones
STEPS = 100  # most Newton steps; 5 to 10 suffice


@dataclass(frozen=True, eq=False)
class BeyondBaseline:
    """A probe and a baseline together, in every cell.

    Attributes:
        name: of the baseline.
        together: test AUC of both together, NaN where it cannot be fitted or measured.
        alone: [L, T] float64, test AUC of the baseline alone, on the same rows.
        gain: [L, T] AUC of both less that of the baseline, paired, with error, p, Holm's p and simultaneous limits.
        weight: [L, T, 2] float64, log-odds by one standard deviation of the probe's score, and of the baseline.
        n_fitted: [L, T] int64, validation rows that the weights were fitted on.
    """

    name: str
    together: AUCMap
    alone: Tensor
    gain: Comparison
    weight: Tensor
    n_fitted: Tensor


@full_precision()
def go_beyond_baseline(scores: Scores, baseline: Tensor, name: str = "", k: int = 0) -> BeyondBaseline:
    """Fit in every cell a logistic regression on two numbers, the probe's score and the baseline; measure it on test.

    It is fitted on validation rows, which neither the probe nor the baseline was fitted on. Rows that lack one of the
    two numbers are left out.

    Args:
        scores: the record of the run.
        baseline: [N] float64, for every row of examples.parquet; NaN where there is none.
        name: of the baseline.
        k: number of the target.

    Raises:
        ValueError: no validation rows.

    Example:
        >>> beyond = go_beyond_baseline(scores, baselines.scores[table.best], table.best)  # doctest: +SKIP
        >>> (beyond.gain.lower > 0).sum()  # cells that know more than the baseline  # doctest: +SKIP
    """
    val, test = scores.of("val", k), scores.of("test", k)
    if not len(val.labels):
        raise ValueError("beyond the baseline: expected validation rows to fit two weights on, got none; split.val > 0")
    fitted, together, alone = [], [], []
    for of_val, of_test in zip(val.scores, test.scores, strict=True):  # a layer at a time: [T, n]
        weight, mean, scale = fit_pairs(_pair(of_val, baseline[val.examples]), val.labels)
        pair = _pair(of_test, baseline[test.examples])
        together.append((((pair - mean) / scale) * weight[:, None, 1:]).sum(-1) + weight[:, :1])
        alone.append(pair[..., 1].where(pair[..., 0].isfinite(), torch.nan))
        fitted.append(weight)
    score, only, weight = torch.stack(together), torch.stack(alone), torch.stack(fitted)
    valid = score.isfinite()
    areas = measure_areas(torch.stack((score, only)), test.labels, valid, test.groups)
    card = scores.card
    n, n_positive = valid.sum(-1), (valid & (test.labels == 1)).sum(-1)
    return BeyondBaseline(
        name,
        AUCMap(
            card.targets[k].name, "test", card.layers, card.positions, areas.auc[0], areas.error()[0], n, n_positive
        ),
        areas.auc[1],
        compare(areas.at(0), areas.at(1)),
        weight[..., 1:],
        (val.scores.isfinite() & baseline[val.examples].isfinite()).sum(-1),
    )


def fit_pairs(pairs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logistic regression on two numbers in C cells together, by Newton's method.

    Whole steps converge from zero: with three weights and standardised numbers none overshoots, also on separable,
    collinear and heavy-tailed ones.

    Args:
        pairs: [C, n, 2] float64; a row with a NaN or an infinity does not count in its cell.
        labels: [n], 0 or 1.

    Returns:
        weight [C, 3], the intercept first, of the standardised numbers, NaN in a cell without both classes; their
        mean and standard deviation, [C, 1, 2] each.
    """
    valid = pairs.isfinite().all(-1)
    count = valid.sum(-1)[:, None, None].clamp(min=1)
    kept = valid[..., None]
    mean = pairs.where(kept, 0.0).sum(1, keepdim=True) / count
    centred = (pairs - mean).where(kept, 0.0)
    spread = (centred.square().sum(1, keepdim=True) / count).sqrt()
    scale = spread.where(spread > 1e-12 * mean.abs(), 1.0)
    X = torch.cat((kept.double(), centred / scale), -1)
    sign = (2 * labels.double() - 1) * valid  # [C, n], 0 where a row does not count
    ridge = torch.tensor([0.0, RIDGE, RIDGE], dtype=torch.float64, device=X.device)
    weight = X.new_zeros(len(X), 3)

    for _ in range(STEPS):
        logit = (X @ weight[..., None])[..., 0]
        wrong = torch.sigmoid(-sign * logit)
        slope = -(X.mT @ (sign * wrong)[..., None])[..., 0] + ridge * weight
        curvature = X.mT @ ((wrong * (1 - wrong) * valid)[..., None] * X)
        curvature = curvature + torch.diag(ridge + 1e-12)
        step = torch.linalg.solve_ex(curvature, slope).result
        weight = weight - step
        if not (step.abs() > 1e-9 * weight.abs().clamp(min=1)).any():
            break
    n_positive, n_negative = (sign > 0).sum(-1), (sign < 0).sum(-1)
    both_classes = (n_positive > 0) & (n_negative > 0)
    return weight.where(both_classes[:, None], torch.nan), mean, scale


def _pair(scores: Tensor, baseline: Tensor) -> Tensor:
    """Scores [T, n] beside the baseline [n]: [T, n, 2] float64."""
    return torch.stack((scores.double(), baseline.double().expand(scores.shape)), -1)
