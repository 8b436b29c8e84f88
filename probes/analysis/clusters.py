"""Clustered errors: what each example contributes to the error of an AUROC, summed within groups.

Examples of one group, such as questions whose answers name one country, are not independent. An error that ignores this
is too small.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.analysis.placements import Placements, place
from probes.solver.precision import full_precision


@dataclass(frozen=True, eq=False)
class Areas:
    """AUROCs measured on one set of examples, with what each group contributes to their joint errors.

    Attributes:
        auc: [..] float64, NaN where a class is absent.
        influence: [.., G] float64, the influences of each group's examples, summed; NaN where no error can be given.
            The covariance of two AUROCs is the product of their influences, summed over groups.
        freedom: degrees of freedom of the errors: the effective number of groups, N^2 / (sum of squared sizes), less 1.

    Example:
        >>> scores = torch.tensor([[0.1, 0.4, 0.4, 0.8], [0.1, 0.4, 0.3, 0.8]])
        >>> areas = measure_areas(scores, torch.tensor([0, 0, 1, 1]))
        >>> areas.auc.tolist(), areas.freedom
        ([0.875, 0.75], 3.0)
        >>> areas.average(0).error()
        tensor(0.2652, dtype=torch.float64)
    """

    auc: Tensor
    influence: Tensor
    freedom: float

    def error(self) -> Tensor:
        """Standard errors, float64 [..]."""
        return self.influence.square().sum(-1).sqrt()

    def at(self, index: Any) -> "Areas":
        """Some of the AUROCs, by any index of `auc`."""
        return Areas(self.auc[index], self.influence[index], self.freedom)

    def average(self, dim: int) -> "Areas":
        """Mean AUROC over one axis of `auc`, such as the layers of a column; NaN if one of them is."""
        dim = dim % self.auc.ndim
        return Areas(self.auc.mean(dim), self.influence.mean(dim), self.freedom)

    def minus(self, other: "Areas") -> "Areas":
        """Paired differences: `auc` is then a difference of AUROCs. Both must have been measured with the same groups.

        Raises:
            ValueError: other numbers of groups.
        """
        if self.influence.shape[-1] != other.influence.shape[-1]:
            counts = self.influence.shape[-1], other.influence.shape[-1]
            raise ValueError(f"expected AUROCs of the same groups, got {counts[0]} and {counts[1]} groups")
        return Areas(self.auc - other.auc, self.influence - other.influence, min(self.freedom, other.freedom))


@full_precision()
def measure_areas(scores: Tensor, labels: Tensor, valid: Tensor | None = None, groups: Tensor | None = None) -> Areas:
    """AUROC of every cell with the influences of the groups; arguments and errors are those of `influences`."""
    placed = place(scores, labels, valid)
    influence = weigh(placed, groups)
    numbers = None if groups is None else number_groups(groups, influence)
    freedom = count_freedom(placed.positive | placed.negative, numbers)
    return Areas(placed.area(), influence if numbers is None else sum_by_group(influence, numbers), freedom)


def count_freedom(counted: Tensor, numbers: Tensor | None) -> float:
    """Degrees of freedom of the errors on the counted examples, bool [.., N]; see `Areas`."""
    sizes = counted.reshape(-1, counted.shape[-1]).any(0).double()
    if numbers is not None:
        sizes = sum_by_group(sizes, numbers)
    return float(sizes.sum().square() / sizes.square().sum()) - 1


@full_precision()
def influences(scores: Tensor, labels: Tensor, valid: Tensor | None = None, groups: Tensor | None = None) -> Tensor:
    """Influence of each example on the AUROC: how far its placement lies from the mean of its class, over the count.

    Sums over groups, squared and summed, are the clustered variance (`clustered_variance`). The scale of a class with m
    examples, m_g of them in the group, is 1 / sqrt(1 - m_g / m): the sum of a group lies closer to zero than it should,
    since the group is part of the mean (Bell & McCaffrey 2002, Survey Methodology 28:169). With each example its own
    group the result is the variance of DeLong et al. (1988) exactly; with groups of one size it is that of Obuchowski
    (1997, Biometrics 53:567).

    Args:
        scores: [.., N], any real dtype.
        labels: 0 or 1 where valid; broadcasts with scores.
        valid: bool, broadcasts with scores; which examples count. All of them by default.
        groups: [N] integers, equal for examples of one group; each example its own by default.

    Returns:
        float64 [.., N]: 0 where not valid; NaN in a cell where a class has examples of fewer than two groups, or where
        a valid score is NaN.

    Raises:
        ValueError: what `auroc` raises; groups that are not [N] integers.

    Example:
        >>> influences(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        tensor([ 0.0884, -0.0884, -0.0884,  0.0884], dtype=torch.float64)
    """
    return weigh(place(scores, labels, valid), groups)


def weigh(placed: Placements, groups: Tensor | None = None) -> Tensor:
    """`influences` of examples that are already placed, float64 [.., N]."""
    positive, negative = placed.positive, placed.negative
    numbers = None if groups is None else number_groups(groups, positive)
    both = _of_class(placed.wins, positive, negative, numbers) + _of_class(placed.wins, negative, positive, numbers)
    return both.where((placed.readable & both.isfinite().all(-1))[..., None], torch.nan)


def _of_class(wins: Tensor, members: Tensor, others: Tensor, numbers: Tensor | None) -> Tensor:
    """Influence of the members of a class, 0 elsewhere: [.., N]."""
    n = members.sum(-1, keepdim=True)
    placement = wins.double() / (2 * others.sum(-1, keepdim=True))
    mean = torch.where(members, placement, 0.0).sum(-1, keepdim=True) / n
    of_group = 1 if numbers is None else sum_by_group(members.long(), numbers).gather(-1, numbers.expand(wins.shape))
    influence = torch.where(members, placement - mean, 0.0) / (n * (n - of_group)).double().sqrt()
    return torch.where(members & (n == of_group), torch.nan, torch.where(members | (n == 0), influence, 0.0))


def clustered_variance(influence: Tensor, groups: Tensor | None = None) -> Tensor:
    """Variance [..] of the AUROCs whose influences [.., N] were taken with the same groups [N]."""
    if groups is not None:
        influence = sum_by_group(influence, number_groups(groups, influence))
    return influence.square().sum(-1)


def sum_by_group(values: Tensor, numbers: Tensor) -> Tensor:
    """Sum values [.., N] within groups: [.., G], by the numbers [N] of `number_groups`."""
    n_groups = int(numbers.max()) + 1 if len(numbers) else 0
    return values.new_zeros(*values.shape[:-1], n_groups).scatter_add_(-1, numbers.expand(values.shape), values)


def number_groups(groups: Tensor, values: Tensor) -> Tensor:
    """Number the groups [N] of values [.., N] from 0 to G - 1, on the device of the values.

    Raises:
        ValueError: groups that are not [N] integers.
    """
    if groups.shape != values.shape[-1:] or groups.is_floating_point():
        raise ValueError(
            f"groups must be [{values.shape[-1]}] integers, one for each example, got {[*groups.shape]} {groups.dtype}"
        )
    return groups.to(values.device).unique(return_inverse=True)[1]
