"""Where along a direction the logistic objective is least, for many problems."""

import torch
from torch import Tensor

MOST = 60


def search(
    s: Tensor, z: Tensor, r: Tensor, dz: Tensor, slope: Tensor, bend: Tensor, live: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The length t of a step [c, k], residuals there [c, k, n], and about what it gains [c, k].

    The slope is given at the start; the penalty adds t bend to it. With logits z + t dz it rises with t, so its root
    can be bracketed, and is approached by Newton steps in t, or by halving or doubling where these leave the bracket.
    It ends where the slope is down to `share` of the start's. t is 0 where the slope at the start is not below zero.

    Args:
        s: weights of the rows with the signs of their labels, [c, k, n] float64.
        z: logits, shaped alike.
        r: residuals, -s sigmoid(-sign(s) z).
        dz: what the direction does to the logits.
        slope: [c, k] float64.
        bend: [c, k] float64.
        live: [c, k] bool, the problems to search for.
        share: between 0 and 1.
    """
    sign, weight, squares = s.sign(), s.abs(), dz * dz
    against, change = -sign * z, -sign * dz  # margins with the sign reversed
    least = -share * slope
    curvature = (bend_of(r, weight) * squares).sum(-1) + bend
    downhill = live & (slope < 0) & (curvature > 0) & (curvature < torch.inf)
    t = torch.where(downhill, -slope / curvature, 0.0)
    low, high, searching = torch.zeros_like(t), torch.full_like(t, torch.inf), downhill
    there, last = r, slope
    for _ in range(MOST):
        there = -s * torch.sigmoid(torch.addcmul(against, t[..., None], change))
        last = torch.addcmul(slope, t, bend) + ((there - r) * dz).sum(-1)
        searching = searching & (last.abs() > least)
        if not searching.any():
            break
        low, high = torch.where(last < 0, t, low), torch.where(last < 0, high, t)
        newton = t - last / ((bend_of(there, weight) * squares).sum(-1) + bend)
        inside = (newton > low) & (newton < high) & (newton < 8 * t)
        t = torch.where(searching, torch.where(inside, newton, torch.where(high.isinf(), 2 * t, (low + high) / 2)), t)
    t = torch.where(last.abs() < torch.inf, t, 0.0)
    return t, there, -0.5 * t * (slope + last)


def bend_of(r: Tensor, weight: Tensor) -> Tensor:
    """Curvature of the loss of rows that leave r: w p (1 - p) with |r| = w p; 0 where the weight is."""
    size = r.abs()
    return size - size * size / weight.clamp(min=1e-300)
