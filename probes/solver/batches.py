"""How many cells a GPU solves at once, and what happens where they do not fit."""

import re
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from probes.solver.newton import Optimum

Solved = tuple[Optimum, Tensor]  # as `methods.solve` returns it
SHARE, MOST = 0.5, 2**33  # of the free memory, and in bytes: more at once gains nothing
# Libraries allocate for themselves, and say so in their own words; a handle that cannot be made lacks memory, too.
OUT_OF_MEMORY = re.compile(
    r"out of memory|(BLAS|SOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)|(cublas|cusolverDn|hipblas|hipsolver)Create"
    r"|rocblas_status_memory_error",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device (CUDA, HIP, MPS) has no memory left.

    >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    True
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def room(device: torch.device) -> int:
    """Bytes that one batch of cells may take on a CUDA device: a share of what is free, or kept for PyTorch's reuse."""
    kept = max(0, torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min(int(SHARE * (torch.cuda.mem_get_info(device)[0] + kept)), MOST)


def solve_in_batches(
    solve: Callable[[Tensor], Solved], on_cpu: Callable[[int], Solved], C: int, at_once: int, device: torch.device
) -> list[Solved]:
    """Solve C cells, `at_once` at a time; fewer where memory runs out, and on the CPU what does not fit by itself.

    `solve` takes the numbers of the cells, int64 on the device; `on_cpu` that of one. Either way out warns once.
    """
    solved, done, at_once = [], 0, max(1, at_once)
    warned = set()
    while done < C:
        cells = torch.arange(done, min(done + at_once, C), device=device)
        part, what = _solve_if_it_fits(solve, cells), ""
        if part is None:
            torch.cuda.empty_cache()  # libraries cannot use what PyTorch keeps
            what = "going on with fewer cells at once" if len(cells) > 1 else "solving a cell on the CPU, more slowly"
        if what and what not in warned:
            warnings.warn(f"fit_logistic: out of device memory; {what}", stacklevel=4)
            warned.add(what)
        if part is None and len(cells) > 1:
            at_once = (len(cells) + 1) // 2
            continue
        solved.append(on_cpu(done) if part is None else part)
        done += len(cells)
    return solved


def _solve_if_it_fits(solve: Callable[[Tensor], Solved], cells: Tensor) -> Solved | None:
    """What `solve` returns, or None where memory ran out: only after the `except` is the failed try's memory free."""
    try:
        return solve(cells)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return None
