"""Area under the ROC curve of every cell at once, and its standard error.

Ties count one half, exactly: the area is a sum of whole numbers, divided once. Scores are compared as they are, on any
scale, and a cell that lacks a class has no area (NaN), not zero.
"""

from torch import Tensor

from probes.analysis.clusters import clustered_variance, weigh
from probes.analysis.placements import place
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
        >>> import torch
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        tensor(0.8750, dtype=torch.float64)
    """
    return place(scores, labels, valid).area()


def auroc_variance(scores: Tensor, labels: Tensor, valid: Tensor | None = None, groups: Tensor | None = None) -> Tensor:
    """Variance of `auroc` over draws of the groups, float64 [..]; arguments and errors are those of `auroc`.

    The placement of an example is the share of the other class that lies below it. The variance is the sample variance
    of the positives' placements over their number, plus that of the negatives' over theirs (DeLong et al. 1988,
    Biometrics 44:837); placements come from sorted scores (Sun & Xu 2014, IEEE Signal Processing Letters 21:1389).
    With groups, [N] integers, whole groups are drawn: deviations are summed within a group (see `influences`).
    NaN where a class has examples of fewer than two groups, and where a valid score is NaN.

    >>> import torch
    >>> auroc_variance(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    tensor(0.0312, dtype=torch.float64)
    """
    return auroc_with_variance(scores, labels, valid, groups)[1]


@full_precision()
def auroc_with_variance(
    scores: Tensor, labels: Tensor, valid: Tensor | None = None, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`auroc` and `auroc_variance`, float64 [..] each, for one sort of the scores.

    >>> import torch
    >>> area, variance = auroc_with_variance(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    >>> area, variance
    (tensor(0.8750, dtype=torch.float64), tensor(0.0312, dtype=torch.float64))
    """
    placed = place(scores, labels, valid)
    return placed.area(), clustered_variance(weigh(placed, groups), groups)
