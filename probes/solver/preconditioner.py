"""The Hessian of a cell, factored once in float32 to precondition its last Newton steps.

With more rows than columns the Hessian's eigenvalues can lie so far apart that conjugate gradients take hundreds of
products a step. Solved with a Hessian of about the right curvature first, they take about ten: rounding, and curvature
that changes as the steps close in, only leave them a little more to correct.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from probes.solver.compiled import compiled
from probes.solver.rows import Rows, lengths

ROWS, COLUMNS = 2048, 256  # of products taken at a time
FLAT = 1.5  # rows that add less than so many penalties to the mean eigenvalue, all together, count by that mean alone


def factored_hessian(rows: Rows, curvature: NDArray, l2: float, penalty: NDArray) -> NDArray:
    """Lower triangular L with LL' about [X, Z]'C[X, Z] + diag(l2, penalty), of the centred rows X and the border Z.

    Args:
        rows: the rows of the cell.
        curvature: the diagonal of C, [n] float64, of the loss at each row's logit.
        l2: penalty of the weights.
        penalty: of the border's values, [1 + m] float64.

    Returns:
        [D + 1 + m, D + 1 + m] float32; [0, 0] where rounding leaves nothing that could be factored.
    """
    D, m = rows.X.shape[1], rows.border.shape[1]
    bend = curvature * lengths(rows.X, rows.mean)[0] / D
    order = np.argsort(bend, kind="stable")
    left_out = np.cumsum(bend[order])
    first = int(np.searchsorted(left_out, FLAT * l2))
    bent = torch.from_numpy(np.sort(order[first:]))
    X, Z = torch.from_numpy(rows.X), torch.from_numpy(rows.border)
    X = X.view(torch.bfloat16) if X.dtype == torch.uint16 else X
    mean, root = torch.from_numpy(rows.mean).float(), torch.from_numpy(np.sqrt(curvature))
    H = torch.zeros(D + m, D + m)
    for some in bent.split(ROWS):
        A = torch.cat((X[some].float().sub_(mean), Z[some].float()), 1).mul_(root[some, None].float())
        for start in range(0, D + m, COLUMNS):
            stop = start + COLUMNS
            H[start:stop, :stop].addmm_(A[:, start:stop].T, A[:, :stop])  # what lies below the diagonal is all it takes
    H.diagonal()[:D] += l2 + (left_out[first - 1] if first else 0.0)
    H[D:, D:] = Z.T @ (torch.from_numpy(curvature)[:, None] * Z)  # of every row: what is heavy has no mean to count by
    H.diagonal()[D:] += torch.from_numpy(penalty)
    L, failed = torch.linalg.cholesky_ex(H)
    return np.zeros((0, 0), np.float32) if failed or not L.isfinite().all() else L.contiguous().numpy()


@compiled
def solve_factored(L: NDArray, x: NDArray) -> None:
    """Solve LL'y = x in the place of x, float64; both triangles are read by rows."""
    for i in range(len(x)):
        t = x[i]
        for j in range(i):
            t -= L[i, j] * x[j]
        x[i] = t / L[i, i]
    for i in range(len(x) - 1, -1, -1):
        x[i] /= L[i, i]
        for j in range(i):
            x[j] -= L[i, j] * x[i]
