"""Errors of a whole map: a band that holds all cells at once, and the cells that can't be told from the best."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.clusters import Areas
from probes.analysis.draws import split_draws
from probes.solver.precision import full_precision

FEWEST = 10.0  # effective groups of an error that is drawn again: with fewer, draws divide by nearly nothing
SMALLEST = 1e-6  # variance of a draw whose groups are all alike, where that of the cell is 1


@dataclass(frozen=True, eq=False)
class Band:
    """Simultaneous confidence limits of the AUROCs of a map.

    Attributes:
        lower: [..] float64, in [0, 1]; NaN where a cell has no error.
        upper: likewise.
        critical: how many standard errors, on the scale of log-odds, the limits are away.
        near_best: [..] bool, cells that can't be told from the best cell, itself included; None if no best cell was
            given.
    """

    lower: Tensor
    upper: Tensor
    critical: float
    near_best: Tensor | None


@full_precision()
def band(
    areas: Areas, best: tuple[int, ...] | None = None, level: float = 0.95, draws: int = 2_000, seed: int = 0
) -> Band:
    """Limits that hold the true AUROCs of all cells at once with the probability `level`.

    The critical value is the quantile of the largest of the cells' standardised errors (max-t). Errors are drawn from
    the influences of the groups, each drawn as often as a bootstrap sample of the groups holds it; their standard
    errors are those of the same sample, since with few groups these vary too (bootstrap-t; Cameron, Gelbach & Miller
    2008, Review of Economics and Statistics 90:414). Limits are symmetric in the log-odds of the AUROC, which keeps
    them in [0, 1].

    Args:
        areas: of the map's cells, by `measure_areas`.
        best: index of the best cell in `areas.auc`. It must have been chosen on other rows, such as the validation
            rows: the best cell of the rows at hand is the best by luck as well. Cells are compared with it in pairs,
            one-sided, by the max-t of the paired differences (comparisons with a control, Dunnett 1955).
        level: of the band and of the comparisons, each.
        draws: how many.
        seed: of the draws.

    Raises:
        ValueError: a best cell without an AUROC or an error.

    Example:
        >>> from probes.analysis.clusters import measure_areas
        >>> scores, labels = torch.arange(40.0) % 7, torch.arange(40) // 20
        >>> limits = band(measure_areas(scores + torch.tensor([[0], [9]]) * labels, labels), best=(1,))
        >>> limits.near_best.tolist()
        [False, True]
    """
    area, error = areas.auc, areas.error()
    log_odds = area.logit()
    critical = critical_value(areas, level, draws, seed)
    reach = critical * error / (area * (1 - area))
    known = error.isfinite()
    # At 0 and at 1 the error is 0, and so is the reach.
    lower, upper = (
        torch.where(error > 0, (log_odds + side * reach).sigmoid(), area).where(known, torch.nan) for side in (-1, 1)
    )
    return Band(lower, upper, critical, None if best is None else find_near_best(areas, best, level, draws, seed))


def find_near_best(
    areas: Areas, best: tuple[int, ...], level: float = 0.95, draws: int = 2_000, seed: int = 0
) -> Tensor:
    """Cells that can't be told from the best one, bool [..]; see `band`."""
    chosen = areas.at(best)
    if not bool(chosen.error().isfinite()):
        raise ValueError(f"best: expected a cell with an AUROC and an error, got {best} without; choose another")
    behind = Areas(chosen.auc - areas.auc, chosen.influence - areas.influence, areas.freedom)
    error = behind.error()
    critical = critical_value(behind, level, draws, seed, two_sided=False)
    return (behind.auc <= critical * error) & error.isfinite()


def can_vary(areas: Areas) -> Tensor:
    """Cells whose error comes from enough groups to be drawn again, bool [..].

    Two score sets that rank nearly all examples alike differ in a few groups only. How many there are in effect is
    (sum of squares)^2 / sum of fourth powers of the groups' influences, a third of all groups for normal influences. It
    is to be at least 10, or a twelfth of all groups where these are few.
    """
    squares = areas.influence.square()
    effective = squares.sum(-1).square() / squares.square().sum(-1)
    return effective >= min(FEWEST, squares.shape[-1] / 12)  # False where it is NaN


@full_precision()
def critical_value(areas: Areas, level: float, draws: int, seed: int, two_sided: bool = True) -> float:
    """Quantile of the largest standardised error of the cells that `can_vary`; 0 where there is none."""
    error = areas.error()
    varies = can_vary(areas)
    if not varies.any():
        return 0.0
    unit = (areas.influence[varies] / error[varies][:, None]).T
    squares, n_groups = unit.square(), len(unit)
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the same draws on every device
    largest = []
    for n in split_draws(draws, max(unit.shape)):
        chosen = torch.randint(n_groups, (n, n_groups), generator=generator)
        times = torch.zeros(n, n_groups, dtype=torch.float64).scatter_add_(1, chosen, torch.ones_like(chosen).double())
        times = times.to(unit.device)
        drawn = (times - 1) @ unit
        off = (times @ squares - drawn.square() / n_groups).clamp_min(SMALLEST).sqrt()
        largest.append(((drawn.abs() if two_sided else drawn) / off).amax(-1))
    return float(torch.cat(largest).cpu().quantile(level))
