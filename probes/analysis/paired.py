"""Paired tests: differences of AUROCs that were measured on the same groups of examples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.band import can_vary, critical_value
from probes.analysis.clusters import Areas
from probes.solver.precision import full_precision


@dataclass(frozen=True, eq=False)
class Comparison:
    """Paired differences of AUROCs, the first less the second.

    Attributes:
        difference: [..] float64, NaN where one of the two has no AUROC.
        error: [..] its clustered standard error.
        p: [..] two-sided p-value, each difference by itself.
        p_holm: [..] the same, corrected for all of them (Holm 1979, Scand. J. Statistics 6:65).
        lower: [..] limits that hold all the differences at once; NaN where too few groups differ, see `can_vary`.
        upper: likewise.
        critical: how many standard errors the limits are away.
    """

    difference: Tensor
    error: Tensor
    p: Tensor
    p_holm: Tensor
    lower: Tensor
    upper: Tensor
    critical: float


@full_precision()
def compare(first: Areas, second: Areas, level: float = 0.95, draws: int = 2_000, seed: int = 0) -> Comparison:
    """Test paired differences of AUROCs (DeLong et al. 1988), with errors that respect groups.

    Both may be maps [L, T], named cells (`areas.at`) or columns (`areas.average(0)`); their shapes broadcast. Each
    AUROC has labels and valid examples of its own: two runs are compared on the same questions, in the same order, with
    the same groups, and each may have answered them in its own way.

    Args:
        first: by `measure_areas`.
        second: by `measure_areas` of the same examples with the same groups.
        level: of the limits.
        draws: for the limits.
        seed: of the draws.

    Raises:
        ValueError: other numbers of groups.

    Example:
        >>> from probes.analysis.clusters import measure_areas
        >>> labels = torch.arange(40) // 20
        >>> areas = measure_areas(torch.stack([torch.arange(40) % 7 + 4 * labels, torch.arange(40) % 9]), labels)
        >>> found = compare(areas.at(0), areas.at(1))
        >>> round(float(found.difference), 3), round(float(found.p), 4)
        (0.392, 0.0002)
    """
    behind = first.minus(second)
    difference, error = behind.auc, behind.error()
    p = two_sided_p(difference, error, behind.freedom)
    critical = critical_value(behind, level, draws, seed)
    reach = (critical * error).where(can_vary(behind) | (error == 0), torch.nan)
    lower, upper = difference - reach, difference + reach
    return Comparison(difference, error, p, correct_by_holm(p), lower, upper, critical)


def two_sided_p(difference: Tensor, error: Tensor, freedom: float) -> Tensor:
    """p-values of differences with estimated errors, by Student's t distribution.

    Tails are those of a normal number, after Hill's (1970, Communications of the ACM 13:617) transformation. A
    difference of 0 without error, such as that of a cell with itself, has p = 1.
    """
    t = (difference / error).abs()
    a = max(freedom, 1.0) - 0.5
    b = 48 * a**2
    z = (a * torch.log1p(t.square() / max(freedom, 1.0))).sqrt()
    z = z + (z**3 + 3 * z) / b - (4 * z**7 + 33 * z**5 + 240 * z**3 + 855 * z) / (10 * b * (b + 0.8 * z**4 + 100))
    p = 2 * torch.special.ndtr(-z)
    return torch.where((difference == 0) & (error == 0), 1.0, torch.where(t.isinf(), 0.0, p))


def correct_by_holm(p: Tensor) -> Tensor:
    """p-values corrected for all of them by Holm's step-down method; NaN does not count and stays.

    >>> correct_by_holm(torch.tensor([0.01, 0.04, 0.03, torch.nan]))
    tensor([0.0300, 0.0600, 0.0600,    nan])
    """
    flat = p.flatten()
    ranked, order = flat.sort()  # NaN comes last
    left = flat.isfinite().sum() - torch.arange(len(flat), device=p.device)
    corrected = (ranked * left).where(left > 0, 0).cummax(0).values.clamp_max(1)
    return torch.empty_like(flat).scatter_(0, order, corrected).where(flat.isfinite(), torch.nan).view(p.shape)
