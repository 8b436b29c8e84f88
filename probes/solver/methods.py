"""Which method solves which cells, and what they need: the rows that count, columns centred and scaled.

* *On a CPU*: one cell at a time, by descents (`one_cell`).
* *On a GPU*: the same descents of many cells together (`together`).
* *Twelve or more label sets on at most half as many rows as columns, on a CPU*: Newton steps with directions by
  conjugate gradients over a Gram matrix of the rows (`newton_cg`), swept first where there is no offset.
* *Cells of a few rows or columns, small ones on a GPU, and what rounding keeps the others from solving*: a system
  factored at every step, in float64 (`newton`).
"""

import torch
from torch import Tensor

from probes.solver.batches import room
from probes.solver.cells import GPU_ROWS, Cells
from probes.solver.combinations import Combinations
from probes.solver.gram import gram_matrix, symmetric_product
from probes.solver.gram_ascent import ascend
from probes.solver.inputs import NotFiniteError, has_odd_scale
from probes.solver.newton import Optimum, log_odds, newton
from probes.solver.newton_cg import border, newton_cg
from probes.solver.one_cell import solve_cell
from probes.solver.pairs import bytes_of_pairs
from probes.solver.reasons import BEYOND_FLOAT64
from probes.solver.together import descend_together

FACTORED_ROWS, FACTORED_COLUMNS = 128, 512  # cells with no more rows or no more columns are small, on a GPU
TINY = 8  # with no more rows or no more columns, factoring at every step costs nothing
GRAM_ROWS = 3000  # with more rows, passes over the activations cost less than the products of all their pairs
CPU_ROWS = 32  # taken to float64 at a time, so that they stay in cache
GRAM_SETS = 12  # with fewer label sets, descents cost less than the Gram matrix


def bytes_of_cell(N: int, D: int, K: int, P: int, itemsize: int = 2) -> int:
    """Most bytes that a cell of a batch takes on a GPU, with K label sets for P penalties each."""
    if not _is_large(N, D):
        return 26 * N * D + P * K * factored_bytes(N, D)
    stored = itemsize * N * D
    # Of 4 N D in float32, half goes on without the other cells, then half of that; of all of these there are factors.
    apart = max(16 * D**2, 8 * D**2 + 2 * N * D, 3 * D**2 + 3 * N * D) if N >= D else 3 * N * D
    exact = 24 * min(N, GPU_ROWS) * D  # rows in float64, as they are and without those that do not count
    work = max(stored, 4 * N * D + max(apart, exact))  # at least a copy, to look for the largest number
    return stored + work + K * (bytes_of_pairs(D) + 200 * N + (128 + 16 * P) * D)


def factored_bytes(n: int, D: int) -> int:
    """Most bytes that one problem of a cell takes while its system is factored in float64."""
    return 24 * min(n, D) ** 2 + (0 if n < D else 8 * n * D) + 128 * n + 64 * D


def _is_large(n: int, D: int) -> bool:
    return n > FACTORED_ROWS and D > FACTORED_COLUMNS


def solve(
    acts: Tensor,
    sign: Tensor,
    l2: Tensor,
    tol: float,
    max_iter: int,
    standardize: bool,
    cells: Tensor,
    offset: Tensor | None = None,
    balanced: bool = False,
    factored: bool = False,
) -> tuple[Optimum, Tensor]:
    """Solve c cells with K label sets for P penalties each, all together.

    Args:
        acts: [C, N, D], any floating dtype.
        sign: s of the objective, [K, C, N] in {-1, 0, 1}, any dtype; 0 takes a row out of every sum.
        l2: penalties, [P] float64.
        tol: as in `fit_logistic`.
        max_iter: as in `fit_logistic`.
        standardize: as in `fit_logistic`.
        cells: numbers of the cells, [c] int64.
        offset: [K, C, N] float64, added to the logits; none by default.
        balanced: weigh rows so that both classes of a label set weigh the same, together as much as all its rows.
        factored: factor a system at every step, however large it is.

    Returns:
        The optimum, fields [c, P * K, ..] with the label sets varying fastest, NaN where there is none; and the number
        of the reason, [c, P * K] int64.

    Raises:
        ValueError: NaN or infinity in a row that counts.
    """
    s = sign[:, cells].transpose(0, 1).double()  # [c, K, N]
    rows = (s != 0).any(1).any(0).nonzero()[:, 0]
    s = s[..., rows]
    K, n, P, D = *s.shape[1:], len(l2), acts.shape[2]
    X = acts[int(cells[0])][None] if len(cells) == 1 else acts[cells]  # of one cell, no copy
    if n < acts.shape[1]:
        X = X.index_select(1, rows)
    used = (s != 0).any(1)
    n_positive, n_negative = (s > 0).sum(-1), (s < 0).sum(-1)
    constant = _constant(X, s != 0).expand_as(n_positive)
    odd = _has_odd_scale(X, used)[:, None] & (n_positive > 0) & (n_negative > 0) & ~constant
    live = (n_positive > 0) & (n_negative > 0) & ~constant & ~odd
    if balanced:  # from here on s holds weights; of a class that is absent there is none
        n_label = torch.where(s > 0, n_positive[..., None], n_negative[..., None]).clamp(min=1)
        s = s * (n_positive + n_negative)[..., None].double() / (2 * n_label)
    causes = [n_positive + n_negative == 0, (n_positive == 0) | (n_negative == 0), constant]
    lives, penalties = live.repeat(1, P), l2.repeat_interleave(K)  # label set and penalty: [c, P * K], [P * K]
    if offset is not None:  # of rows that do not count it may be anything
        offset = offset[:, cells].transpose(0, 1)[..., rows].where(s != 0, 0.0)

    large = _is_large(n, D) and not factored
    if large and (X.is_cuda or len(cells) > 1):
        standardised = Cells.of(X, None if used.all() else used)
        finite = bool(standardised.mean.isfinite().all())
        optimum = descend_together(standardised, s, live & finite, l2, tol, max_iter, standardize, offset)
        del standardised  # its memory is free for what is spoilt
    else:
        dtype = torch.float32 if large and X.dtype != torch.float64 else torch.float64
        centred, mean, scale = _centred(X.to(dtype), used, standardize)
        finite = bool(mean.isfinite().all())
        method = _conjugate if large else _factored
        shift = None if offset is None else offset.repeat(1, P, 1)
        optimum = method(centred, mean, s.repeat(1, P, 1), lives & finite, penalties, tol, max_iter, shift)
        optimum = optimum._replace(weight=optimum.weight / scale[:, None])
    if not finite and len(bad := (used & ~X.isfinite().all(-1)).nonzero()):  # a mean is the cheaper test
        cell, row = bad[0].tolist()
        raise NotFiniteError(f"in cell {int(cells[cell])}, row {int(rows[row])}")
    if large:
        spoilt = lives & ~optimum.converged  # steps that were all used up may have zigzagged
        for cell in spoilt.any(1).nonzero()[:, 0].tolist():  # one at a time: float64 takes several times the memory
            of_cell = slice(cell, cell + 1)
            centred, mean, scale = _centred(X[of_cell].double(), used[of_cell], standardize)
            shift = None if offset is None else offset[of_cell].repeat(1, P, 1)
            signs = s[of_cell].repeat(1, P, 1)
            exact = _factored(centred, mean, signs, spoilt[of_cell], penalties, tol, max_iter, shift)
            exact = exact._replace(weight=exact.weight / scale[:, None])
            lower = exact.objective < optimum.objective[of_cell]  # with few steps allowed, the others may be ahead
            better = spoilt[of_cell] & (exact.converged | lower)
            for field, value in zip(optimum, exact, strict=True):
                field[of_cell] = _where(better, value, field[of_cell])

    causes = [cause.repeat(1, P) for cause in causes]
    causes += [~optimum.converged & (optimum.iterations >= max_iter), ~optimum.converged]
    reason = torch.zeros_like(optimum.iterations)
    for code, holds in enumerate(causes, 1):
        reason = torch.where((reason == 0) & holds, code, reason)
    reason = torch.where(odd.repeat(1, P), len(causes) + 1, reason)
    nan = torch.full((), torch.nan, dtype=torch.float64, device=acts.device)
    return Optimum(*(_where(lives, x, nan) if x.is_floating_point() else x for x in optimum)), reason


def solve_alone(
    acts: Tensor,
    sign: Tensor,
    l2: Tensor,
    tol: float,
    max_iter: int,
    standardize: bool,
    offset: Tensor | None = None,
    balanced: bool = False,
    number: int = 0,
) -> tuple[Optimum, Tensor]:
    """Solve one cell on the CPU.

    Arguments are as of `solve`, of the cell alone: acts [N, D], sign and offset [K, N]; `number` is the cell's, for
    messages. So is the result, for one cell.
    """
    K, N = sign.shape

    def solve_together(factored: bool) -> tuple[Optimum, Tensor]:
        C = number + 1  # as if there were others, so that messages give the number
        several = acts.expand(C, -1, -1), sign[:, None].expand(-1, C, -1)
        shift = None if offset is None else offset[:, None].expand(-1, C, -1)
        with torch.no_grad():
            return solve(*several, l2, tol, max_iter, standardize, torch.tensor([number]), shift, balanced, factored)

    if not _one_at_a_time(N, acts.shape[1], K):
        return solve_together(False)
    shift = None if offset is None else offset.numpy()
    optimum, reason = solve_cell(
        acts.detach(), sign.numpy(), l2.numpy(), tol, max_iter, standardize, shift, balanced, number
    )
    stalled = reason == BEYOND_FLOAT64  # rounding has spoilt its directions
    if stalled.any():
        exact, why = solve_together(True)
        better = stalled & (exact.converged | (exact.objective < optimum.objective))
        optimum = Optimum(*(_where(better, new, old) for new, old in zip(exact, optimum, strict=True)))
        reason = torch.where(better, why, reason)
    return optimum, reason


def _one_at_a_time(n: int, D: int, K: int) -> bool:
    """Whether to solve a cell by itself, by descents."""
    return min(n, D) > TINY and (K < GRAM_SETS or n > min(GRAM_ROWS, D // 2) or not _is_large(n, D))


def _conjugate(
    X: Tensor,
    mean: Tensor,
    s: Tensor,
    live: Tensor,
    l2: Tensor,
    tol: float,
    max_iter: int,
    offset: Tensor | None,
) -> Optimum:
    Z, columns = border(X)
    space, start = Combinations(X, symmetric_product(X)), None
    if offset is None:
        u, v, moved = ascend(space.G[0], Z[0], s[0], live[0], l2, log_odds(s[0], live[0]))
        start = u[None], v[None], moved[None]
    return newton_cg(space, Z, columns, mean, s, live, l2, tol, max_iter, start, offset)


def _factored(
    X: Tensor,
    mean: Tensor,
    s: Tensor,
    live: Tensor,
    l2: Tensor,
    tol: float,
    max_iter: int,
    offset: Tensor | None,
) -> Optimum:
    """Newton's method on problems that are live: on the CPU one at a time, since together they fall out of cache."""
    c, n, D = X.shape
    gram = gram_matrix(X, float(l2.min())) if n < D else None
    problems = live.any(0).nonzero()[:, 0]
    at_once = max(1, room(X.device) // (c * factored_bytes(n, D))) if X.is_cuda else 1
    bias, objective, norm = X.new_zeros(3, *live.shape)
    nothing = torch.zeros_like(live)
    solved = Optimum(X.new_zeros(*live.shape, D), bias, objective, norm, nothing.long(), nothing)
    for j in problems.split(at_once):
        shift = None if offset is None else offset[:, j]
        part = newton(X, mean, gram, s[:, j], live[:, j], l2[j], tol, max_iter, shift)
        for field, value in zip(solved, part, strict=True):
            field[:, j] = value
    return solved


def _where(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(chosen.view(*chosen.shape, *[1] * (a.ndim - chosen.ndim)), a, b)


def _constant(X: Tensor, used: Tensor) -> Tensor:
    """Label sets of cells whose used rows [c, K, n] are all the same, bool [c, K]."""
    if bool((used == used[:, :1]).all()):
        used = used[:, :1]
    constant = torch.zeros_like(used.any(-1))
    for k in range(used.shape[1]):
        rows = used[0, k].nonzero()[:2, 0]
        if len(X) == 1 and len(rows) == 2 and (X[0, rows[0]] != X[0, rows[1]]).any():
            continue  # two rows tell, nearly always
        if X.shape[1]:
            chosen = used[:, k, :, None]
            least, most = torch.where(chosen, X, torch.inf).amin(1), torch.where(chosen, X, -torch.inf).amax(1)
            constant[:, k] = (least >= most).all(-1)
    return constant


def _has_odd_scale(X: Tensor, used: Tensor) -> Tensor:
    """Cells whose used rows [c, n] are beyond float32, bool [c]."""
    if not X.shape[1]:
        return used.new_zeros(len(X))
    if bool(used.all()):
        return has_odd_scale(X.amin(1), X.amax(1))
    least, most = (
        torch.where(used[..., None], X, torch.inf).amin(1),
        torch.where(used[..., None], X, -torch.inf).amax(1),
    )
    return has_odd_scale(least, most) & used.any(-1)


def _centred(X: Tensor, used: Tensor, standardize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """X [c, n, D] with columns centred, zero in rows that are not used, and divided by their standard deviation.

    Also what was taken off, divided alike, and the divisor, one unless asked for; both [c, D] float64.
    """
    if not used.all():
        X = torch.where(used[..., None], X, 0.0)
    count = used.sum(1, keepdim=True).clamp(min=1)
    mean = (_sum_rows(X) / count).to(X.dtype)
    X = X - mean[:, None]
    if not used.all():
        X *= used[..., None]
    scale = torch.ones_like(mean, dtype=torch.float64)
    if standardize:
        drift = _sum_rows(X) / count  # the mean was rounded
        spread = (_sum_rows(X.square()) / count - drift.square()).clamp(min=0).sqrt()
        digits = X.shape[1] if X.dtype == torch.float64 else 1
        constant = spread <= digits * torch.finfo(X.dtype).eps * mean.abs()  # but for rounding
        scale = torch.where(constant, 1.0, spread)
        X = torch.where(constant[:, None], 0.0, X / scale[:, None].to(X.dtype))
    return X, mean.double() / scale, scale


def _sum_rows(X: Tensor) -> Tensor:
    """Sums of the columns of X [c, n, D] in float64, [c, D]."""
    if X.is_cuda:
        return X.sum(1, dtype=torch.float64)
    # A few rows at a time: one call that sums in another dtype takes three times as long.
    return torch.stack([some.double().sum(1) for some in X.split(CPU_ROWS, 1)]).sum(0)
