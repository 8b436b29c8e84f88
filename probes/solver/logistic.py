"""Exact L2 logistic regression for many cells at once: every cell, label set and penalty to its own optimum.

The objective is smooth and convex, so a direction that leads down can always be followed to its lowest point, and three
things carry every method to the minimum:

* *The step.* Along the direction the objective is a convex function of one number, and its minimum is found almost
  exactly from the slope: slopes keep their sign near the optimum, where differences of objectives drown in rounding.
* *The origin.* Columns are centred first. The unpenalised intercept absorbs the shift, so the optimum is the same, and
  offsets far larger than the spread cost no digits.
* *The residual.* In the end logits and gradients are those of the activations as stored, in float64; only where many
  label sets share a Gram matrix on a CPU, of their centred columns in float32. Whatever is rounded besides only shapes
  directions: it can cost a step and moves no optimum.

`methods` says which cells are solved how; docs/solver.md tells why it converges and what it costs. On the CPU cells are
dealt to the cores, each solved by one thread, so that no number of cores changes a bit; on a GPU they go in batches.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from probes.solver.batches import Solved, room, solve_in_batches
from probes.solver.inputs import align, require_class_weight
from probes.solver.methods import bytes_of_cell, solve, solve_alone
from probes.solver.newton import Optimum
from probes.solver.precision import full_precision, off_mps
from probes.solver.reasons import REASONS as REASONS


class LogisticFit(NamedTuple):
    """Fitted probes; every field has shape [C, ...], [K, C, ...] with label sets, [P, ...] in front with P penalties.

    weight [C, D] and bias [C] minimise the objective. `objective` is its value there in nats and `gradient_norm` the
    2-norm of its gradient with respect to (weight, bias), both before rounding to the output dtype; `iterations` counts
    steps (int64), of whichever method; `converged` (bool) tells whether the cell met the test stated at `fit_logistic`,
    and `REASONS[reason]` (int64) why not. Floating fields have the dtype of the activations, float32 for 16-bit ones,
    and are NaN for a cell without a valid row, with one class only, whose valid rows are all the same, or whose
    activations are above 1e18 or differ by less than 1e-18: "beyond float32", which holds no weights or scores of that
    size.
    """

    weight: Tensor
    bias: Tensor
    objective: Tensor
    gradient_norm: Tensor
    iterations: Tensor
    converged: Tensor
    reason: Tensor


@off_mps
@full_precision()
def fit_logistic(
    acts: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    l2: float | Sequence[float] = 1.0,
    tol: float = 1e-4,
    max_iter: int = 1000,
    standardize: bool = False,
    offset: Tensor | None = None,
    class_weight: str | None = None,
) -> LogisticFit:
    """Fit one logistic regression per cell: minimise ∑ c log(1 + exp(-s (x·w + b + o))) + l2/2 |w|² over valid rows.

    Here s = 2 label - 1, c is the weight of the row, 1 unless `class_weight` says otherwise, o is its offset, and the
    intercept b is not penalised: without offsets it is scikit-learn's objective with C = 1/l2.

    A cell has converged once the 2-norm of the gradient with respect to (w, b), not divided by the number of rows, is
    at most `tol`; descents go on below it where that costs little, as far as the digits that are returned. Where `tol`
    is below float64's resolution, 1e-12 of the norm at the start (w = 0, b = log-odds of the weights), that takes its
    place.

    A cell that cannot be fitted gets NaN, a reason, and does not touch the others. On the CPU a cell's result does not
    depend, to the last bit, on which other cells are fitted with it, nor on the number of threads.

    Args:
        acts: activations [C, N, D], any floating dtype and strides. Rows that are not valid may hold anything.
        labels: 0 or 1 where valid, any dtype; broadcasts to [C, N], or has label sets in front: [K, 1, N] or [K, C, N].
        valid: bool, shaped like labels; which rows count. All of them by default.
        l2: strength of the penalty, above 0; or several, which share the work.
        tol: largest gradient norm of a converged cell.
        max_iter: most steps a cell may take: 20 to 150 as a rule, or up to 15 where each factors a system.
        standardize: penalise the weights of columns scaled to unit variance over the rows that are valid in any of the
            cell's label sets; the weights returned act on the columns as they are, objective and gradient_norm are
            those of the scaled problem.
        offset: log-odds o that are given for each row, floating, shaped like labels; none by default. The fit then says
            what the activations add to them.
        class_weight: None, or "balanced" as in scikit-learn: among the n valid rows of a label set in a cell, one whose
            class has m rows weighs c = n / (2 m). Both classes then count the same, as if they were equally frequent.
            The scale of `standardize` stays that of all rows alike.

    Returns:
        The fit on the device of acts.

    Raises:
        ValueError: shapes that do not fit, labels other than 0 and 1, NaN or infinity in a valid row, l2 not above 0,
            another class_weight.

    Example:
        >>> acts, labels = torch.randn(480, 1000, 64), torch.arange(1000) < 100
        >>> fit_logistic(acts, labels, l2=10.0, class_weight="balanced").weight.shape
        torch.Size([480, 64])
    """
    labels, valid, offset, has_sets = align(acts, labels, valid, sets_allowed=True, offset=offset)
    has_path = getattr(l2, "ndim", 0) == 1 or (isinstance(l2, Sequence) and not isinstance(l2, str))
    try:
        path = [float(value) for value in (l2 if has_path else [l2])]  # type: ignore[union-attr]
    except (TypeError, ValueError):
        path = []
    if not path or not all(0 < value < float("inf") for value in path):
        raise ValueError(f"l2 must be above 0 and finite, got {l2}; a separable cell has no optimum without a penalty")
    if not (tol >= 0 and max_iter >= 0):
        raise ValueError(f"tol and max_iter must be 0 or more, got {tol} and {max_iter}")
    require_class_weight(class_weight)
    balanced = class_weight == "balanced"
    (K, C, N), P, D = labels.shape, len(path), acts.shape[2]
    sign = torch.where(labels, 1, -1).to(torch.int8) * valid  # s of the objective; 0 takes a row out of every sum
    penalties = torch.tensor(path, dtype=torch.float64, device=acts.device)

    dtype = torch.float64 if acts.dtype == torch.float64 else torch.float32

    def rounded(optimum: Optimum, reason: Tensor) -> Solved:  # at once: in float64, weights of many cells fill a GPU
        fields = (field.to(acts.device, dtype if field.is_floating_point() else field.dtype) for field in optimum)
        return Optimum(*fields), reason.to(acts.device)

    def solve_cells(cells: Tensor) -> Solved:
        with torch.no_grad():
            return rounded(*solve(acts, sign, penalties, tol, max_iter, standardize, cells, offset, balanced))

    def solve_on_cpu(cell: int) -> Solved:
        shift = None if offset is None else offset[:, cell].cpu()
        given = acts[cell].cpu(), sign[:, cell].cpu(), penalties.cpu()
        return rounded(*solve_alone(*given, tol, max_iter, standardize, shift, balanced, cell))

    if acts.is_cuda:
        at_once = room(acts.device) // bytes_of_cell(N, D, K, P, acts.element_size())
        solved = solve_in_batches(solve_cells, solve_on_cpu, C, at_once, acts.device)
    elif (threads := torch.get_num_threads()) == 1:
        solved = [solve_on_cpu(cell) for cell in range(C)]
    else:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            solved = list(pool.map(solve_on_cpu, range(C)))
    fields = [
        torch.cat(parts).transpose(0, 1) for parts in zip(*((*opt, reason) for opt, reason in solved), strict=True)
    ]
    shape = ([P] if has_path else []) + ([K] if has_sets else []) + [C]
    return LogisticFit(*(field.reshape(*shape, *field.shape[2:]) for field in fields))
