"""Area under the ROC curve of every cell at once, and its standard error.

Ties count one half, exactly: the area is a sum of whole numbers, divided once. Scores are compared as they are, on any
scale, and a cell that lacks a class has no area (NaN), not zero.
"""

import torch
from torch import Tensor

from probes.solver.precision import full_precision


def auroc(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Probability that a positive example outscores a negative one, ties counted one half (Mann-Whitney's U over mn).

    Args:
        scores: [.., N], any real dtype; compared in float64. Entries that are not valid may hold anything.
        labels: 0 or 1 where valid, any dtype; broadcasts with scores.
        valid: bool, broadcasts with scores; which examples count. All of them by default.

    Returns:
        float64 [..]; NaN where a class is absent, and where a valid score is NaN.

    Raises:
        ValueError: shapes that do not fit, labels other than 0 and 1, valid that is not bool.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        tensor(0.8750, dtype=torch.float64)
    """
    return auroc_with_variance(scores, labels, valid)[0]


def auroc_variance(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Variance of `auroc` over draws of the examples, float64 [..]; arguments and errors are those of `auroc`.

    The placement of an example is the share of the other class that lies below it. The variance is the sample variance
    of the positives' placements over their number, plus that of the negatives' over theirs (DeLong et al. 1988,
    Biometrics 44:837); placements come from sorted scores (Sun & Xu 2014, IEEE Signal Processing Letters 21:1389).
    NaN where a class has fewer than two examples, and where a valid score is NaN.

    >>> auroc_variance(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    tensor(0.0312, dtype=torch.float64)
    """
    return auroc_with_variance(scores, labels, valid)[1]


@full_precision()
def auroc_with_variance(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`auroc` and `auroc_variance`, float64 [..] each, for one sort of the scores.

    >>> area, variance = auroc_with_variance(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    >>> float(area), float(variance)
    (0.875, 0.03125)
    """
    scores, positive, negative = _classes(scores, labels, valid)
    over_negative, over_positive = _half_wins(scores, negative, positive)
    wins = torch.where(positive, over_negative, 0).sum(-1)
    area = wins.double() / (2 * positive.sum(-1) * negative.sum(-1))  # 0 / 0 is the NaN of an absent class
    variance = _spread(over_negative, positive, negative) + _spread(over_positive, negative, positive)
    readable = _readable(scores, positive | negative)
    return area.where(readable, torch.nan), variance.where(readable, torch.nan)


def _spread(wins: Tensor, members: Tensor, others: Tensor) -> Tensor:
    """Sample variance of the members' placements among the others, over the number of members: [..]."""
    n = members.sum(-1)
    placement = wins.double() / (2 * others.sum(-1, keepdim=True))
    mean = torch.where(members, placement, 0.0).sum(-1) / n
    deviation = torch.where(members, placement - mean[..., None], 0.0)
    return deviation.square().sum(-1) / ((n - 1) * n)  # 0 / 0 is the NaN of a class with fewer than two


def _half_wins(scores: Tensor, *classes: Tensor) -> list[Tensor]:
    """For every score and class, twice the number of its members below plus the number that are equal: int64 [.., N].

    One sort serves all classes: a running count of the members, read where a run of equal scores starts and ends.
    """
    ranked, order = scores.sort(-1)
    number = torch.arange(scores.shape[-1], device=scores.device).expand(scores.shape)
    new = torch.ones_like(ranked, dtype=torch.bool)
    new[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    start = torch.where(new, number, 0).cummax(-1).values
    last = torch.where(new.roll(-1, -1), number, scores.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    wins = []
    for members in classes:
        count = members.gather(-1, order).cumsum(-1)
        below = count.gather(-1, start) - members.gather(-1, order.gather(-1, start)).long()
        wins.append(torch.empty_like(count).scatter_(-1, order, below + count.gather(-1, last)))
    return wins


def _readable(scores: Tensor, counted: Tensor) -> Tensor:
    return ~(scores.isnan() & counted).any(-1)


def _classes(scores: Tensor, labels: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores in float64 and the members of both classes, broadcast to one shape [.., N]."""
    labels = labels.to(scores.device)
    counted = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid.to(scores.device)
    if counted.dtype != torch.bool:
        raise ValueError(f"valid must be bool, got {counted.dtype}; compare it first, as in valid != 0")
    if scores.ndim == 0 or labels.shape[-1:] != scores.shape[-1:]:
        raise ValueError(f"labels must end in the N of scores [.., N], got {[*labels.shape]} for {[*scores.shape]}")
    try:
        scores, labels, counted = torch.broadcast_tensors(scores.double(), labels, counted)
    except RuntimeError:
        shapes = f"scores {[*scores.shape]}, labels {[*labels.shape]}, valid {[*counted.shape]}"
        raise ValueError(f"scores, labels and valid must broadcast to one shape [.., N], got {shapes}") from None
    wrong = labels[counted & (labels != 0) & (labels != 1)]
    if wrong.numel():
        raise ValueError(f"labels must be 0 or 1 where valid, got {wrong[0].item()}")
    return scores.contiguous(), counted & (labels == 1), counted & (labels == 0)
