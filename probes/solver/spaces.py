"""The two spaces in which `newton_cg` looks for the weights of large cells, and the factors that precondition it there.

Where c cells have k label sets each, a factor serves all label sets of its cell: it is that of their mean curvature.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

CHUNK = 128  # rows taken to float64 at a time, so that they stay in cache
GPU_CHUNK = 1024  # on a GPU, so that they are few
COLUMNS = 1024  # of a product taken at a time


class Weights(NamedTuple):
    """The space of weights w [c, k, D] on the rows X [c, n, D]."""

    X: Tensor

    def image(self, w: Tensor) -> Tensor:
        """Xw: what weights do to the logits, [c, k, n]."""
        return w @ self.X.mT

    def lift(self, v: Tensor) -> Tensor:
        """X'v: the weights that a vector v [c, k, n] over the rows adds up to."""
        return v @ self.X

    def dot(self, u: Tensor, w: Tensor, image_w: Tensor) -> Tensor:
        """Inner product of the weights that u and w stand for, [c, k]."""
        return (u * w).sum(-1)

    def weight(self, w: Tensor) -> Tensor:
        """The weights themselves, [c, k, D]."""
        return w

    def factor(self, curvature: Tensor, l2: Tensor, active: Tensor) -> "Factor":
        """Factor X'VX + ridge [c, D, D] at the mean V of the curvature [c, k, n] of the active problems."""
        V, ridge = mean_problem(curvature, l2, active)
        X, D = self.X, self.X.shape[2]
        H = X.new_zeros(len(X), D, D)
        for rows, of_rows in zip(X.split(GPU_CHUNK, 1), V.sqrt().split(GPU_CHUNK, 2), strict=True):
            A = rows * of_rows.mT
            for start in range(0, D, COLUMNS):
                stop = start + COLUMNS
                H[:, start:stop, :stop].baddbmm_(A[..., start:stop].mT, A[..., :stop])  # no more than the lower half
        diagonal = H.diagonal(dim1=-2, dim2=-1)
        rounding = torch.finfo(H.dtype).eps / 4 * diagonal.sum(-1, keepdim=True)  # what is below it may be negative
        diagonal.add_(ridge[..., 0].clamp(min=rounding))
        return FactoredHessian(Root.of(H))


class Combinations(NamedTuple):
    """The space of a [c, k, n], which stands for the weights X'a; methods as in `Weights`."""

    X: Tensor
    G: Tensor

    def image(self, a: Tensor) -> Tensor:
        """XX'a."""
        return a @ self.G

    def lift(self, v: Tensor) -> Tensor:
        """X'v is what v itself stands for."""
        return v

    def dot(self, a: Tensor, b: Tensor, image_b: Tensor) -> Tensor:
        """a'XX'b."""
        return (a * image_b).sum(-1)

    def weight(self, a: Tensor) -> Tensor:
        """X'a."""
        return a @ self.X

    def factor(self, curvature: Tensor, l2: Tensor, active: Tensor) -> "Factor":
        """Factor ridge + SXX'S [c, n, n], S the root of the mean curvature."""
        V, ridge = mean_problem(curvature, l2, active)
        S = V.sqrt()
        B = S.mT * self.G * S
        B.diagonal(dim1=-2, dim2=-1).add_(ridge[..., 0])
        return FactoredGram(self.G, S, Root.of(B), ridge)


class Factor(Protocol):
    """The inverse of X'VX + ridge, V the mean curvature of the label sets of a cell."""

    def solve(self, r: Tensor) -> Tensor:
        """The inverse times r, both in the space that was factored."""
        ...


class FactoredHessian(NamedTuple):
    """A `Factor` in the space of weights."""

    root: "Root"

    def solve(self, r: Tensor) -> Tensor:
        """The inverse times r [c, k, D]."""
        return self.root.solve(r)


class FactoredGram(NamedTuple):
    """A `Factor` in the space of combinations of rows.

    By the Woodbury identity it is (1 - X'S B⁻¹ SX) / ridge with S = √V and B = ridge + SXX'S.
    """

    G: Tensor
    S: Tensor  # [c, 1, n]
    root: "Root"  # of B
    ridge: Tensor  # [c, 1, 1]

    def solve(self, r: Tensor) -> Tensor:
        """The inverse times r [c, k, n]."""
        return (r - self.S * self.root.solve(self.S * (r @ self.G))) / self.ridge


class Root(NamedTuple):
    """A factored matrix LL' [c, m, m]: L, or on a GPU its inverse, since it is slow to solve a triangle for one row."""

    triangle: Tensor
    inverted: bool

    @classmethod
    def of(cls, matrix: Tensor) -> "Root":
        """Factor it; no more than its lower half is read."""
        L = torch.linalg.cholesky_ex(matrix).L
        if not matrix.is_cuda:
            return cls(L, False)
        one = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
        return cls(torch.linalg.solve_triangular(L, one.expand_as(L), upper=False), True)

    def solve(self, x: Tensor) -> Tensor:
        """The inverse of LL' times every x [c, k, m]."""
        if self.inverted:
            return x @ self.triangle.mT @ self.triangle
        return torch.cholesky_solve(x.mT, self.triangle).mT


def mean_problem(curvature: Tensor, l2: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Of each cell's active problems the mean curvature [c, 1, n] and the geometric mean of the penalties [c, 1, 1].

    curvature [c, k, n], l2 [k], active [c, k].
    """
    share = (active / active.sum(-1, keepdim=True).clamp(min=1)).to(curvature)[..., None]
    ridge = (l2.log()[:, None] * share).sum(-2, keepdim=True).exp()
    return (curvature * share).sum(-2, keepdim=True), ridge


def logits(w: Tensor, X: Tensor) -> Tensor:
    """Xw in float64, [c, k, n], from w [c, k, D] and X [c, n, D] of any dtype."""
    return torch.cat([w @ rows.double().mT for rows in X.split(_chunk(X), 1)], -1)


def sum_of_rows(v: Tensor, X: Tensor) -> Tensor:
    """X'v in float64, [c, k, D], from v [c, k, n] and X [c, n, D] of any dtype."""
    total = v.new_zeros(*v.shape[:-1], X.shape[-1])
    for part, rows in zip(v.split(_chunk(X), -1), X.split(_chunk(X), 1), strict=True):
        total += part @ rows.double()
    return total


def _chunk(X: Tensor) -> int:
    return GPU_CHUNK if X.is_cuda else CHUNK
