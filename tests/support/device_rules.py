"""What CUDA refuses and what it waits for, by the names of PyTorch's operations."""

from typing import Any

import torch
from torch import Tensor

BY_INDEX = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}  # their indices may be elsewhere
# Unlike arithmetic, they take no single number from the CPU as a tensor.
STRICT = {"gather", "scatter", "scatter_", "scatter_add", "scatter_add_", "index_select", "index_add", "index_add_"}
STRICT |= {"index_fill", "index_fill_", "cat", "stack", "take_along_dim"}
COPIES = {"_to_copy", "to", "copy_", "copy"}
WAITS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_linalg_check_errors"}
WAITS |= {"_unique", "_unique2", "unique_dim", "unique_consecutive"}  # their results have a shape that depends on data
NO_LAUNCH = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
    "_unsafe_view",
}


def is_cuda(device: Any) -> bool:
    """Whether an argument names a CUDA device."""
    if isinstance(device, str):  # or the name of a function
        return device.partition(":")[0] == "cuda"
    return isinstance(device, torch.device) and device.type == "cuda"


def indexes_by_mask(args: Any) -> bool:
    """Whether one of the indices of an operation is a mask, whose length the CPU has to wait for."""
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1])


def require_one_device(name: str, args: Any, tensors: list[Tensor], on_device: type[Tensor]) -> None:
    """Refuse tensors of two devices, but for single numbers and indices on the CPU; the others are `on_device`."""
    if name in BY_INDEX:
        if not isinstance(args[0], on_device) and any(isinstance(one, on_device) for one in tensors):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        tensors = [args[0], *(one for one in args[2:] if isinstance(one, Tensor))]
    elsewhere = [one for one in tensors if not isinstance(one, on_device) and (one.dim() or name in STRICT)]
    if elsewhere and len(elsewhere) < len(tensors):
        shapes = ", ".join(f"{list(one.shape)} on {one.device}" for one in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got {shapes}")
