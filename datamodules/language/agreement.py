"""What processes that hold parts of one model agree on, so that all of them go through the same batches."""

import torch
import torch.distributed as dist


def agree_on_failure(failed: bool, device: torch.device) -> bool:
    """Whether any process failed; every process of the default group has to ask.

    Args:
        failed: whether this one did.
        device: of the model, for which the group has a backend: NCCL has none for the CPU.
    """
    return bool(_reduce(int(failed), device, dist.ReduceOp.MAX))


def agree_on_least(number: int, device: torch.device) -> int:
    """The least number that any process gives; every process of the default group has to ask."""
    return _reduce(number, device, dist.ReduceOp.MIN)


def _reduce(number: int, device: torch.device, operation: dist.ReduceOp.RedOpType) -> int:
    if not dist.is_initialized():
        return number
    shared = torch.tensor([number], device=device)
    dist.all_reduce(shared, operation)
    return int(shared.item())
