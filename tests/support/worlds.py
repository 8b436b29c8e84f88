"""Scores with a planted signal, in groups, and what an AUROC and its error are by brute force."""

import torch
from torch import Tensor


def draw_world(
    n_cells: int = 4, sizes: tuple[int, ...] = (1,) * 120, signal: float = 1.0, spread: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [C, N] float64, labels [N] and groups [N]; examples of a group share `spread` of scores and labels."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def draw(*shape: int) -> Tensor:
        of_groups = torch.randn(*shape, len(sizes), dtype=torch.float64, generator=generator)
        return spread * of_groups[..., groups] + torch.randn(*shape, len(groups), generator=generator)

    labels = (draw() > 0).long()
    return 0.5 * draw(1) + draw(n_cells) + signal * labels, labels, groups


def place_by_pairs(scores: Tensor, labels: Tensor) -> Tensor:
    """Every positive against every negative: 1 if it is above, one half if equal."""
    positive, negative = scores[labels == 1][:, None], scores[labels == 0]
    return (positive > negative).double() + 0.5 * (positive == negative)


def resample_groups(scores: Tensor, labels: Tensor, groups: Tensor, draws: int = 2_000, seed: int = 0) -> Tensor:
    """AUROC of bootstrap samples of whole groups, [draws]."""
    n_groups = int(groups.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(n_groups, (draws, n_groups), generator=generator)
    times = torch.zeros(draws, n_groups, dtype=torch.float64)
    times = times.scatter_add_(1, chosen, torch.ones_like(times))[:, groups]
    positive, negative = times[:, labels == 1], times[:, labels == 0]
    wins = ((positive @ place_by_pairs(scores, labels)) * negative).sum(1)
    return wins / (positive.sum(1) * negative.sum(1))
