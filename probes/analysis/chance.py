"""What chance reaches: the best AUROC of a map whose labels have nothing to do with the scores.

The best of many cells is above 0.5 by chance alone. The null distribution of the maximum says how far. It needs no
refit: test labels play no part in the fit, so scores stay as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.card import MIN_PER_CLASS
from probes.analysis.clusters import number_groups, sum_by_group
from probes.analysis.draws import split_draws
from probes.analysis.placements import half_wins, place
from probes.solver.precision import full_precision

ROUNDING = 1e-12  # two AUROCs that are equal may differ by this


@dataclass(frozen=True, eq=False)
class Chance:
    """The best cell of a map under chance, and what the cells are worth against it.

    Attributes:
        mean: of the best AUROC under chance.
        q95: its 95% quantile. A cell above it is better than chance, at 5% for the whole map.
        q99: its 99% quantile.
        p_family: [..] float64, the share of null draws, itself counted, whose best cell is at least as good as the
            cell: a p-value that accounts for all cells. NaN in a cell that was left out.
        draws: how many there were.
        exact: whether labels were permuted (each example its own group); otherwise signs of groups were drawn.
    """

    mean: float
    q95: float
    q99: float
    p_family: Tensor
    draws: int
    exact: bool

    def above(self, level: float = 0.05) -> Tensor:
        """Cells that are better than chance, at this level for the whole map: bool [..]."""
        return self.p_family < level


@full_precision()
def null_of_best(
    scores: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    groups: Tensor | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Chance:
    """Draw the best AUROC of the map under chance.

    With each example its own group, labels are permuted among the valid rows of each cell: the test of each cell is
    exact, and so is that of the family where cells share their rows. One random order of the examples serves all cells,
    so that cells with other rows have nearly the same labels. With larger groups, labels of a group belong together and
    a permutation of single labels would make chance look too small. Then AUROC - 1/2 is written as a sum over groups,
    and the groups' contributions get random signs (Hemerik et al. 2020, JRSS B 82:841).

    Args:
        scores: [.., N], any real dtype; fixed. Ties count one half.
        labels: [N], 0 or 1 where valid.
        valid: bool, broadcasts with scores; all by default. Cells with fewer than `MIN_PER_CLASS` valid examples of a
            class are left out, and so are cells with a valid score that is NaN.
        groups: [N] integers, equal for examples of one group; each example its own by default.
        draws: how many; the smallest p-value is 1 / (draws + 1).
        seed: of the draws.

    Raises:
        ValueError: what `auroc` raises; no cell that can be read.

    Example:
        >>> scores, labels = torch.arange(40.0), torch.arange(40) // 20
        >>> chance = null_of_best(scores, labels, draws=99)
        >>> chance.p_family.item(), chance.exact
        (0.01, True)
    """
    if labels.shape != scores.shape[-1:]:
        raise ValueError(f"labels must be [{scores.shape[-1]}], one for each example, got {[*labels.shape]}")
    placed = place(scores, labels, valid)
    counts = placed.positive.sum(-1), placed.negative.sum(-1)
    kept = placed.readable & (torch.minimum(*counts) >= MIN_PER_CLASS)
    if not kept.any():
        raise ValueError(
            f"chance: expected a cell with {MIN_PER_CLASS} valid examples of each class, got none; test on more rows"
        )
    member, label = (placed.positive | placed.negative)[kept], placed.positive[kept]
    # Twice the midrank among the valid examples, less its mean: a whole number.
    wins = half_wins(scores.double().broadcast_to(placed.wins.shape)[kept], member)
    rank = torch.where(member, wins[0] - member.sum(-1, keepdim=True), 0)
    pairs = (2 * counts[0] * counts[1])[kept].double()
    found = torch.where(label, rank, 0).sum(-1) / pairs  # AUROC - 1/2
    numbers = None if groups is None else number_groups(groups, rank)
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the same draws on every device
    if numbers is None or len(numbers) == len(numbers.unique()):
        exact, best = True, _permute(rank, member, label.sum(-1), pairs, draws, generator)
    else:
        exact, best = False, _flip(rank, member, label, pairs, numbers, draws, generator)
    best = best.sort().values
    at_least = len(best) - torch.searchsorted(best, found - ROUNDING)
    p_family = torch.full(kept.shape, torch.nan, dtype=torch.float64, device=scores.device)
    p_family[kept] = (1 + at_least).double() / (1 + draws)
    q95, q99 = (0.5 + best.cpu().quantile(torch.tensor([0.95, 0.99], dtype=torch.float64))).tolist()
    return Chance(0.5 + float(best.mean()), q95, q99, p_family, draws, exact)


def _permute(
    rank: Tensor, member: Tensor, n_positive: Tensor, pairs: Tensor, draws: int, generator: torch.Generator
) -> Tensor:
    """Best AUROC - 1/2 of each draw, float64 [draws], labels permuted.

    Every example gets a random key. Of each set of valid rows, those with the lowest keys are the positives.
    """
    sets, of_cell = member.unique(dim=0, return_inverse=True)
    # Sums of whole numbers up to N^2 / 2: float32 holds them exactly while they are below 2^24.
    exact = torch.float32 if member.shape[-1] ** 2 / 2 < 2**24 else torch.float64
    plan = []
    for number, rows in enumerate(sets):
        cells = of_cell == number
        m, at = int(n_positive[cells][0]), rows.nonzero()[:, 0]
        plan.append((m, at, rank[cells][:, at].T.to(exact).contiguous(), pairs[cells]))
    best = []
    for n in split_draws(draws, max(rank.shape)):
        keys = torch.rand(n, member.shape[-1], dtype=torch.float64, generator=generator).to(rank.device)
        of_sets = []
        for m, at, ranks, of_pairs in plan:
            own = keys[:, at]
            drawn = own <= own.kthvalue(m, dim=-1, keepdim=True).values
            of_sets.append(((drawn.to(exact) @ ranks).double() / of_pairs).amax(-1))
        best.append(torch.stack(of_sets).amax(0))
    return torch.cat(best)


def _flip(
    rank: Tensor,
    member: Tensor,
    label: Tensor,
    pairs: Tensor,
    numbers: Tensor,
    draws: int,
    generator: torch.Generator,
) -> Tensor:
    """Best AUROC - 1/2 of each draw, float64 [draws], by random signs of the groups' contributions."""
    n = member.sum(-1, keepdim=True)
    residual = torch.where(member, label.double() - label.sum(-1, keepdim=True) / n, 0.0)
    score = residual * rank / pairs[:, None]  # sums to AUROC - 1/2
    # A group is part of the mean that its labels are compared with; see `influences`.
    leverage = (1 - sum_by_group(member.long(), numbers) / n).clamp_min(ROUNDING).sqrt()
    # What the cell knows is no noise, and would be summed within groups as if it were. Up to two standard errors it may
    # be noise; taking that away as well gives too many false positives.
    found = score.sum(-1, keepdim=True)
    noise = (sum_by_group(score, numbers) / leverage).square().sum(-1, keepdim=True)
    # 1 - inf is less than 0 as well, and 0 / 0 is that of a cell whose scores are all equal: it knows nothing.
    known = found * (1 - 4 * noise / found.square()).nan_to_num(0.0).clamp_min(0)
    signal = known * residual.square() / residual.square().sum(-1, keepdim=True)
    of_group = sum_by_group(score - signal, numbers) / leverage
    # With each example its own group the variance is that of a permutation, whatever the cell knows.
    variance = of_group.square().sum(-1, keepdim=True)
    of_group = of_group * (1 + signal.square().sum(-1, keepdim=True) / variance.clamp_min(ROUNDING)).sqrt()
    best = []
    for size in split_draws(draws, max(of_group.shape)):
        signs = torch.randint(2, (size, of_group.shape[-1]), generator=generator).to(rank.device)
        best.append(((2 * signs - 1).double() @ of_group.T).amax(-1))
    return torch.cat(best)
