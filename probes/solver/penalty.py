"""The penalty of a probe: a rule in the width, a choice by held-out log-loss, and the sign that it is too weak."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probes.solver.precision import full_precision

VARIANCE = 8.0  # of the log-odds, before the labels are seen; measured on five data sets: docs/decisions.md
MANY_ROWS = 1000  # from which on the penalty falls with the number of rows
SPREAD = (4.0, 1.0, 0.25)  # of the penalties that `auto` tries, in units of the rule's


def list_penalties(l2: float | Sequence[float] | str, width: int, n_train: int) -> list[float]:
    """The penalties that a setting stands for, strongest first.

    A penalty is the prior that weights are normal with variance 1/l2. On columns of unit variance the log-odds x·w then
    have the variance width / l2, on average over the rows. The rule fixes it: l2 = width / 8 expects log-odds with a
    standard deviation of 2.8, however wide the model is. With more than 1,000 train rows, which also tell of directions
    of little variance, l2 falls as 1,000 / rows.

    Args:
        l2: a number, several, `by_size` for the rule, or `auto` for four times, once and a quarter of the rule's.
        width: number of columns, D.
        n_train: number of train rows.

    >>> list_penalties("by_size", 576, 900), list_penalties([1, 100.0], 576, 900)
    ([72.0], [100.0, 1.0])
    """
    if l2 in ("by_size", "auto"):
        of_rule = width / VARIANCE * MANY_ROWS / max(n_train, MANY_ROWS)
        return [of_rule] if l2 == "by_size" else [share * of_rule for share in SPREAD]
    return sorted({float(value) for value in (l2 if isinstance(l2, Sequence) else [l2])}, reverse=True)


@full_precision()
def mean_log_loss(
    acts: Tensor,
    labels: Tensor,
    valid: Tensor,
    weight: Tensor,
    bias: Tensor,
    offset: Tensor | None = None,
    balanced: bool = False,
) -> Tensor:
    """Mean log-loss of probes over the valid rows, in nats.

    Args:
        acts: [C, N, D], any floating dtype.
        labels: [K, N], 0 or 1 where valid.
        valid: [K, C, N] bool.
        weight: [P, K, C, D], for P penalties.
        bias: [P, K, C].
        offset: [K, N], added to the scores; none by default.
        balanced: take the mean of the two classes' mean losses, or that of the one class which has valid rows.

    Returns:
        [P, K, C] float64; NaN where there is no probe or no valid row.
    """
    sign = torch.where(labels == 1, 1.0, -1.0).double()
    loss = torch.full(bias.shape, torch.nan, dtype=torch.float64, device=bias.device)
    for cell, rows in enumerate(acts):  # one at a time: only one is ever held in float64
        scores = weight[:, :, cell].double() @ rows.double().mT + bias[:, :, cell, None].double()
        scores = scores if offset is None else scores + offset
        losses = softplus(-sign * scores).where(valid[:, cell], torch.nan)
        if balanced:
            losses = torch.stack([losses.where(sign == one, torch.nan).nanmean(-1) for one in (1, -1)], -1)
        loss[:, :, cell] = losses.nanmean(-1)
    return loss


def choose_strongest_of_best(loss: Tensor) -> Tensor:
    """Number of the penalty of least mean loss over the cells: [K] from [P, K, C], strongest penalty first.

    Cells with NaN are left out; of equals the first is taken, also where no cell is left.
    """
    return loss.nanmean(-1).nan_to_num(math.inf).argmin(0)


@full_precision()
def is_separated(acts: Tensor, labels: Tensor, valid: Tensor, weight: Tensor, offset: Tensor | None = None) -> Tensor:
    """Whether a probe puts every valid row of label 1 above every one of label 0, so that their AUC is 1.

    Shapes as for `mean_log_loss`. Returns bool [P, K, C], false where there is no probe.
    """
    positive, separated = labels == 1, torch.zeros(weight.shape[:-1], dtype=torch.bool, device=weight.device)
    for cell, rows in enumerate(acts):
        scores = weight[:, :, cell].float() @ rows.float().mT
        scores = scores if offset is None else scores + offset.float()
        lowest = scores.where(valid[:, cell] & positive, torch.inf).amin(-1)
        highest = scores.where(valid[:, cell] & ~positive, -torch.inf).amax(-1)
        separated[:, :, cell] = (lowest > highest) & weight[:, :, cell, 0].isfinite()
    return separated
