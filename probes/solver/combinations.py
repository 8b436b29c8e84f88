"""The space in which `newton_cg` looks for the weights of large cells, and the factors that precondition it there.

Where c cells have k label sets each, a factor serves all label sets of its cell: it is that of their mean curvature.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 128  # rows taken to float64 at a time, so that they stay in cache


class Combinations(NamedTuple):
    """The space of a [c, k, n], which stands for the weights X'a."""

    X: Tensor  # [c, n, D]
    G: Tensor  # [c, n, n], XX'

    def image(self, a: Tensor) -> Tensor:
        """XX'a, [c, k, n]."""
        return a @ self.G

    def dot(self, a: Tensor, b: Tensor, image_b: Tensor) -> Tensor:
        """a'XX'b [c, k], given XX'b."""
        return (a * image_b).sum(-1)

    def weight(self, a: Tensor) -> Tensor:
        """X'a, [c, k, D]."""
        return a @ self.X

    def factor(self, curvature: Tensor, l2: Tensor, active: Tensor) -> "FactoredGram":
        """Factor ridge + SXX'S [c, n, n], S the root of the mean curvature."""
        V, ridge = mean_problem(curvature, l2, active)
        S = V.sqrt()
        B = S.mT * self.G * S
        B.diagonal(dim1=-2, dim2=-1).add_(ridge[..., 0])
        return FactoredGram(self.G, S, torch.linalg.cholesky_ex(B).L, ridge)


class FactoredGram(NamedTuple):
    """The factor of a matrix near the Hessian, in the space of combinations of rows.

    By the Woodbury identity it is (1 - X'S B⁻¹ SX) / ridge with S = √V and B = ridge + SXX'S.
    """

    G: Tensor  # [c, n, n]
    S: Tensor  # [c, 1, n]
    root: Tensor  # [c, n, n], of B
    ridge: Tensor  # [c, 1, 1]

    def solve(self, r: Tensor) -> Tensor:
        """The inverse times r [c, k, n]."""
        return (r - self.S * torch.cholesky_solve((self.S * (r @ self.G)).mT, self.root).mT) / self.ridge


def mean_problem(curvature: Tensor, l2: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Of each cell's active problems the mean curvature [c, 1, n] and the geometric mean of the penalties [c, 1, 1].

    curvature [c, k, n], l2 [k], active [c, k].
    """
    share = (active / active.sum(-1, keepdim=True).clamp(min=1)).to(curvature)[..., None]
    ridge = (l2.log()[:, None] * share).sum(-2, keepdim=True).exp()
    return (curvature * share).sum(-2, keepdim=True), ridge


def logits(w: Tensor, X: Tensor) -> Tensor:
    """Xw in float64, [c, k, n], from w [c, k, D] and X [c, n, D] of any dtype."""
    return torch.cat([w @ rows.double().mT for rows in X.split(CHUNK, 1)], -1)


def sum_of_rows(v: Tensor, X: Tensor) -> Tensor:
    """X'v in float64, [c, k, D], from v [c, k, n] and X [c, n, D] of any dtype."""
    total = v.new_zeros(*v.shape[:-1], X.shape[-1])
    for part, rows in zip(v.split(CHUNK, -1), X.split(CHUNK, 1), strict=True):
        total += part @ rows.double()
    return total
