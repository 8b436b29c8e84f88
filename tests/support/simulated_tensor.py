"""Tensors that say they lie on a CUDA device and are computed on the CPU; `simulated_cuda` is the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")


class SimulatedTensor(Tensor):
    """A tensor that says it lies on `cuda:0`; `inner` is the one that is computed with."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "SimulatedTensor":
        shape = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, dtype=inner.dtype, layout=inner.layout, device=CPU, **shape
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def get_device(self) -> int:
        return 0

    def record_stream(self, stream: Any) -> None:  # type: ignore[override]
        pass

    def __repr__(self, **_: Any) -> str:
        return f"SimulatedTensor({self.inner})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(
            f"{func}: expected a thread in which SimulatedCuda is entered or torch.cuda.set_device called"
        )


def unwrap(one: Any) -> Any:
    """The tensor that is computed with."""
    return one.inner if isinstance(one, SimulatedTensor) else one


def find_leaves(tree: Any) -> list[Any]:
    """What lies in lists, tuples and dictionaries. PyTorch's own `tree_leaves` takes longer than most operations."""
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return [tree]
    return [leaf for branch in tree for leaf in find_leaves(branch)]


def change_leaves(change: Callable[[Any], Any], tree: Any) -> Any:
    """The same lists, tuples and dictionaries with other leaves; named tuples become tuples."""
    if isinstance(tree, list | tuple):
        changed = [change_leaves(change, branch) for branch in tree]
        return changed if isinstance(tree, list) else tuple(changed)
    if isinstance(tree, dict):
        return {key: change_leaves(change, branch) for key, branch in tree.items()}
    return change(tree)
