"""Step length along a direction of the logistic objective."""

import torch
from torch import Tensor


def step_length(s: Tensor, logit: Tensor, dlogit: Tensor, slope: Tensor, bend: Tensor, live: Tensor) -> Tensor:
    """Where along the direction the slope of the objective is down to a thousandth: t [c, k], 1 near the optimum.

    s [c, k, n] are weights of the rows with the signs of their labels. The penalty contributes slope + t bend. The
    total slope rises with t from below zero, so its root can be bracketed, by doubling, and approached by Newton steps
    in t, or by halving the bracket where such a step would leave it.
    """
    sign, weight = s.sign(), s.abs()
    residual = -s * torch.sigmoid(-sign * logit)
    start = (residual * dlogit).sum(-1) + slope
    t = torch.ones_like(start)
    low, high = torch.zeros_like(t), torch.full_like(t, torch.inf)
    # Where no logit changes by a hundredth, the objective is a parabola and t = 1: its slope would only show rounding.
    searching = live & ((dlogit * sign).abs().amax(-1) > 1e-2)
    for _ in range(100):
        logit_t = logit + t[..., None] * dlogit
        slope_t = (-s * torch.sigmoid(-sign * logit_t) * dlogit).sum(-1) + slope + t * bend
        searching = searching & (slope_t.abs() > 1e-3 * start.abs())
        if not searching.any():
            break
        low, high = torch.where(slope_t < 0, t, low), torch.where(slope_t < 0, high, t)
        curvature = torch.sigmoid(logit_t) * torch.sigmoid(-logit_t) * weight
        newton = t - slope_t / ((curvature * dlogit.square()).sum(-1) + bend)
        halfway = torch.where(high.isinf(), 2 * t, (low + high) / 2)
        inside = (newton > low) & (newton < high) & (newton < 4 * t)
        t = torch.where(searching, torch.where(inside, newton, halfway), t)
    return t
