"""Products of all pairs of rows."""

import torch
from torch import Tensor

PANEL = 128  # rows taken at a time, at least


def symmetric_product(X: Tensor) -> Tensor:
    """XX' [.., n, n] from X [.., n, D], in its dtype: half of it is computed, the rest mirrored."""
    n = X.shape[-2]
    G = X.new_empty(*X.shape[:-1], n)
    panel = max(PANEL, n // 8) if X.is_cuda else PANEL  # a GPU needs large products to be busy
    for start in range(0, n, panel):
        stop = min(start + panel, n)
        G[..., start:stop, :stop] = X[..., start:stop, :] @ X[..., :stop, :].mT
        G[..., :start, start:stop] = G[..., start:stop, :start].mT
    return G


def gram_matrix(X: Tensor, l2: float) -> Tensor:
    """XX' [.., n, n] in float64 from X [.., n, D].

    Wide products are taken in float32 on the CPU, at half the time, where their rounding is below the penalty and so
    leaves the direction nearly Newton's. The trace bounds the norm of what is rounded.
    """
    rounding = torch.finfo(torch.float32).eps * torch.linalg.vector_norm(X, dim=(-2, -1)).square().amax()
    narrow = X.device.type == "cpu" and X.shape[-1] > 512 and rounding < l2
    return symmetric_product(X.float() if narrow else X).double()
