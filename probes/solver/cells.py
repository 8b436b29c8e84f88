"""The rows of many cells, standardised, and batched products with them: what `rows` is to one cell.

A column j stands for (x - mean) / deviation, and for zero where its deviation is no more than rounding. Vectors of
[D + 1] numbers are of the standardised columns, and of the intercept at their end.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK, GPU_ROWS = 2**18, 128  # numbers taken to float64 at a time on a CPU, so that they stay in cache; rows on a GPU


class Cells(NamedTuple):
    """Standardised rows of c cells."""

    X: Tensor  # [c, n, D] float32, zero in rows that do not count
    stored: Tensor  # [c, n, D] as given, any floating dtype
    used: Tensor | None  # [c, n] bool, rows that count; all where None
    mean: Tensor  # [c, D] float64
    deviation: Tensor  # [c, D] float64, 0 for a constant column

    @classmethod
    def of(cls, stored: Tensor, used: Tensor | None) -> "Cells":
        """Standardise the rows. NaN or infinity in a column makes its mean so."""
        c, n, D = stored.shape
        count = n if used is None else used.sum(1, keepdim=True).clamp(min=1)
        mean, squares = torch.zeros(2, c, D, dtype=torch.float64, device=stored.device)
        for _, part in _chunks(stored, used):
            mean += part.sum(1)
        mean /= count
        X = torch.empty(c, n, D, device=stored.device)
        for some, part in _chunks(stored, used):
            part -= mean[:, None]
            if used is not None:
                part *= used[:, some, None]
            X[:, some] = part
            squares += part.square_().sum(1)
        deviation = (squares / count).sqrt()
        rounding = max(n * torch.finfo(torch.float64).eps, 1e-12) * mean.abs()
        deviation = torch.where(deviation > rounding, deviation, 0.0)
        cells = cls(X, stored, used, mean, deviation)
        X *= cells.unit[:, None]  # which float32 need not hold
        return cells

    @property
    def unit(self) -> Tensor:
        """One over the deviation, [c, D] float64; 0 for a constant column."""
        return torch.where(self.deviation > 0, 1 / self.deviation, 0.0)

    def evaluate(self, u: Tensor, s: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, residuals and gradient of the loss at u [c, k, D + 1], in float64 from the rows as stored.

        s and offset are [c, k, n] float64. Residuals are -s sigmoid(-sign(s) logit), the gradient is ∑ r (x, 1).
        """
        w = u[..., :-1] * self.unit[:, None]
        b = u[..., -1:] - w @ self.mean[..., None]
        z, r, g = torch.empty_like(s), torch.empty_like(s), torch.zeros_like(w)
        for some, part in _chunks(self.stored, self.used):
            z[..., some] = w @ part.mT + b + offset[..., some]
            r[..., some] = residual(z[..., some], s[..., some])
            g += r[..., some] @ part
        total = r.sum(-1, keepdim=True)
        return z, r, torch.cat(((g - total * self.mean[:, None]) * self.unit[:, None], total), -1)


def spread(X: Tensor, p: Tensor) -> Tensor:
    """What directions p [c, k, D + 1] float32 do to the logits: products with the rows X, [c, k, n] float64."""
    return (p[..., :-1] @ X.mT).double() + p[..., -1:]


def gather(X: Tensor, r: Tensor) -> Tensor:
    """The sum of the rows X, each times a number of r [c, k, n] float64: ∑ r (x, 1), [c, k, D + 1] float64."""
    return torch.cat(((r.float() @ X).double(), r.sum(-1, keepdim=True)), -1)


def residual(z: Tensor, s: Tensor) -> Tensor:
    """What logits z leave of the labels: -s sigmoid(-sign(s) z), where s is the weight with the sign of the label."""
    return -s * torch.sigmoid(-s.sign() * z)


def _chunks(stored: Tensor, used: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """The rows in float64, [c, m, D] at a time, zero where they do not count."""
    n, D = stored.shape[1:]
    m = GPU_ROWS if stored.is_cuda else max(8, CHUNK // D)
    for start in range(0, n, m):
        some = slice(start, min(start + m, n))
        part = stored[:, some].to(torch.float64, copy=True)
        yield some, part if used is None else torch.where(used[:, some, None], part, 0.0)
