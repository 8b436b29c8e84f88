"""Rough inverses of Hessians for `together`: of the diagonal, or of all of it, factored.

They act on vectors [c, k, m + 1] of k problems in each of c cells, the intercept's number last, in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROWS, COLUMNS = 1024, 1024  # of a product taken at a time


class Diagonal(NamedTuple):
    """The inverse of the diagonal for standardised columns, all of which have the same curvature."""

    inverse: Tensor  # [c, k, m + 1] float32

    @classmethod
    def of(cls, curvature: Tensor, ridge: Tensor) -> "Diagonal":
        """From the curvature of the loss of every row [c, k, n] and the ridge [c, 1, m + 1], float64."""
        return cls((1 / (curvature.sum(-1, keepdim=True) + ridge).clamp(min=1e-300)).float())

    def __call__(self, x: Tensor) -> Tensor:
        """The inverse times x [c, k, m + 1], or [c, k, M, m + 1]."""
        return x * (self.inverse if x.ndim == self.inverse.ndim else self.inverse[..., None, :])

    def take(self, cells: Tensor, sets: Tensor) -> "Diagonal":
        """That of cells [c'] with the label sets sets [c', k'], int64."""
        return Diagonal(self.inverse[cells[:, None], sets])


class Factored(NamedTuple):
    """The inverse of X'VX + ridge, V the mean curvature of a cell's moving problems, and of the intercepts beside it.

    The factor is LL' [c, m, m]: L, or on a GPU its inverse, since it is slow to solve a triangle for one row.
    """

    triangle: Tensor  # [c, m, m] float32
    intercept: Tensor  # [c, k, 1] float32

    @classmethod
    def of(cls, X: Tensor, curvature: Tensor, ridge: Tensor, moving: Tensor) -> "Factored":
        """From the rows X [c, n, m] float32; other arguments as of `Diagonal.of`, and the problems that move [c, k]."""
        count = moving.sum(-1, keepdim=True).clamp(min=1)
        root = ((curvature * moving[..., None]).sum(1) / count).sqrt().float()  # [c, n]
        L = torch.linalg.cholesky_ex(_hessian(X, root, ridge[:, 0, :-1].float()))[0]
        if X.is_cuda:
            one = torch.eye(X.shape[2], dtype=L.dtype, device=L.device)
            L = torch.linalg.solve_triangular(L, one.expand_as(L), upper=False)
        return cls(L, (1 / curvature.sum(-1, keepdim=True).clamp(min=1e-300)).float())

    def __call__(self, x: Tensor) -> Tensor:
        """The inverse times x [c, k, m + 1]."""
        L, w, b = self.triangle, x[..., :-1], x[..., -1:]
        w = w @ L.mT @ L if x.is_cuda else torch.cholesky_solve(w.mT, L).mT
        return torch.cat((w, b * self.intercept), -1)

    def take(self, cells: Tensor, sets: Tensor) -> "Factored":
        """That of cells [c'] with the label sets sets [c', k'], int64."""
        return Factored(self.triangle[cells], self.intercept[cells[:, None], sets])


def _hessian(X: Tensor, root: Tensor, ridge: Tensor) -> Tensor:
    """The lower half of X'VX + ridge [c, m, m] from the root of V [c, n] and the ridge [c, m], all float32."""
    m = X.shape[2]
    H = X.new_zeros(len(X), m, m)
    for rows, of_rows in zip(X.split(ROWS, 1), root.split(ROWS, 1), strict=True):
        A = rows * of_rows[..., None]
        for start in range(0, m, COLUMNS):
            stop = start + COLUMNS
            H[:, start:stop, :stop].baddbmm_(A[..., start:stop].mT, A[..., :stop])  # no more than the lower half
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    rounding = torch.finfo(H.dtype).eps / 4 * diagonal.sum(-1, keepdim=True)  # what is below it may be negative
    diagonal.add_(ridge.maximum(rounding))
    return H
