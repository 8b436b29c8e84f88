"""Placements: the share of the other class on the right side of each example. The AUROC and its errors follow."""

from typing import NamedTuple

import torch
from torch import Tensor


class Placements(NamedTuple):
    """Where each of N examples stands among those of the other class, in each cell.

    Attributes:
        wins: [.., N] int64, twice the number of examples of the other class that are on the right side of this one
            (below a positive, above a negative) plus the number of ties with it; undefined where not valid.
        positive: [.., N] bool, valid examples with label 1.
        negative: [.., N] bool, valid examples with label 0.
        readable: [..] bool, no valid score is NaN.
    """

    wins: Tensor
    positive: Tensor
    negative: Tensor
    readable: Tensor

    def area(self) -> Tensor:
        """The AUROC, float64 [..]: a sum of whole numbers, divided once. NaN where a class is absent."""
        wins = torch.where(self.positive, self.wins, 0).sum(-1)
        area = wins.double() / (2 * self.positive.sum(-1) * self.negative.sum(-1))  # 0 / 0 is the NaN
        return area.where(self.readable, torch.nan)


def place(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> Placements:
    """Place every example among those of the other class; arguments and errors are those of `auroc`.

    >>> place(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1])).wins.tolist()
    [4, 3, 3, 4]
    """
    scores, positive, negative = _classes(scores, labels, valid)
    over_negative, over_positive = half_wins(scores, negative, positive)
    wins = torch.where(positive, over_negative, 2 * positive.sum(-1, keepdim=True) - over_positive)
    return Placements(wins, positive, negative, ~(scores.isnan() & (positive | negative)).any(-1))


def half_wins(scores: Tensor, *classes: Tensor) -> list[Tensor]:
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
