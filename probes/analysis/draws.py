"""Random draws: as many at once as memory allows, and how far estimated errors are off."""

import torch
from torch import Tensor

CHUNK_BYTES = 32_000_000


def split_draws(draws: int, width: int) -> list[int]:
    """How many draws of float64 [width] to make at once, so that they take at most `CHUNK_BYTES`.

    >>> split_draws(2_500, width=4_000)
    [1000, 1000, 500]
    """
    size = max(1, CHUNK_BYTES // (8 * width))
    return [min(size, draws - start) for start in range(0, draws, size)]


def draw_relative_errors(draws: int, freedom: float, generator: torch.Generator) -> Tensor:
    """Draw estimated standard errors over the true one, float64 [draws] on the CPU.

    They are roots of chi-squared numbers over their degrees of freedom, from normal ones (Wilson & Hilferty 1931). A
    normal number over one of them is a Student's t.
    """
    spread = 2 / (9 * max(freedom, 1.0))
    normal = torch.randn(draws, dtype=torch.float64, generator=generator)
    return (1 - spread + normal * spread**0.5).clamp_min(0.01) ** 1.5
