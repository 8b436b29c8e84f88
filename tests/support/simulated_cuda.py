"""A CUDA device that is simulated on the CPU, so that code for a GPU can be tested without one.

Tensors say that they lie on `cuda:0` and are computed on the CPU. Like the real device it refuses tensors of two
devices in one operation and raises `torch.OutOfMemoryError` where its memory ends; unlike it, everything is counted.
Every operation that is no view counts as one launch, which is close to what PyTorch's own kernels do. Streams and
events have no effect, as every operation is done when the call returns.

What it does not show: kernels that CUDA lacks, the last bits of CUDA's sums, and races between streams.
"""

import threading
import weakref
from collections import Counter
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.device_rules import BY_INDEX, COPIES, NO_LAUNCH, WAITS, indexes_by_mask, is_cuda, require_one_device
from tests.support.simulated_tensor import CPU, CUDA, SimulatedTensor, change_leaves, find_leaves, unwrap

__all__ = ["CUDA", "SimulatedCuda", "SimulatedTensor", "simulate"]


def simulate(tensor: Tensor) -> Tensor:
    """A copy of a CPU tensor on the simulated device; only within `SimulatedCuda`."""
    return tensor.to(CUDA)


class SimulatedCuda:
    """The simulated device; use in a `with` block. A thread of its own has to call `torch.cuda.set_device` first.

    Args:
        memory: bytes of the device; more raises `torch.OutOfMemoryError`. None: without an end.

    Attributes:
        launches: operations that were neither views nor allocations.
        operations: how many launches of each operation, by name.
        synchronisations: how often the CPU had to wait for a result.
        copies: transfers between CPU and device; `copied` is their bytes.
        live: bytes that tensors on the device hold now; `peak` is the most so far.
        streams: how many were made.
        threads: names of the threads that have set their device; `waits` counts synchronisations by thread.
        pinned: how often pinned memory was asked for; copies from the device do not wait if they go there.

    Example:
        >>> with SimulatedCuda() as device:  # doctest: +SKIP
        ...     total = simulate(torch.ones(4)).sum().item()
        >>> total, device.launches, device.synchronisations, device.copied  # doctest: +SKIP
        (4.0, 1, 1, 16)
    """

    def __init__(self, memory: int | None = None) -> None:
        self.memory = memory
        self.launches = self.synchronisations = self.copies = self.copied = self.live = self.peak = self.streams = 0
        self.operations: Counter[str] = Counter()
        self.threads: list[str] = []
        self.waits: Counter[str] = Counter()
        self.pinned = 0
        self._pinned: set[int] = set()  # addresses of that memory
        self._lock = threading.RLock()
        self._held: dict[int, list[int]] = {}  # for each storage: how many tensors share it, and its bytes
        self._thread = threading.get_ident()

    def __enter__(self) -> "SimulatedCuda":
        self._exit = ExitStack()
        stream = SimpleNamespace(
            wait_event=lambda event: None, wait_stream=lambda other: None, synchronize=self._wait,
            record_event=lambda event=None: SimpleNamespace(synchronize=self._wait, query=lambda: True),
        )  # fmt: skip
        self._exit.enter_context(
            mock.patch.multiple(
                torch.cuda,
                _lazy_init=lambda: None,
                set_device=self._set_device,
                current_device=lambda: 0,
                device_count=lambda: 1,
                Stream=lambda *_, **__: self._make_stream(stream),
                current_stream=lambda device=None: stream,
                stream=lambda _: nullcontext(),
                synchronize=lambda device=None: self._wait(),
                empty_cache=lambda: None,
                mem_get_info=lambda device=None: (self.free, self.memory or 2**40),
                memory_allocated=lambda device=None: self.live,
                max_memory_allocated=lambda device=None: self.peak,
                reset_peak_memory_stats=self._reset_peak,
                get_device_name=lambda device=None: "Simulated GPU",
            )
        )
        self._exit.enter_context(_Functions(self))
        self._exit.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit.__exit__(*error)

    @property
    def free(self) -> int:
        """Bytes that are left."""
        return (self.memory or 2**40) - self.live

    def _set_device(self, device: Any) -> None:
        """What `torch.cuda.set_device` is here: each thread sees the device from this call on."""
        self.threads.append(threading.current_thread().name)
        if threading.get_ident() != self._thread and not getattr(_entered, "modes", None):
            _entered.modes = _Functions(self), _Operations(self)  # they end with the thread
            for one in _entered.modes:
                one.__enter__()

    def _reset_peak(self, device: Any = None) -> None:
        self.peak = self.live

    def _make_stream(self, stream: SimpleNamespace) -> SimpleNamespace:
        self.streams += 1
        return stream

    def _wait(self) -> None:
        self.synchronisations += 1
        self.waits[threading.current_thread().name] += 1

    def _pin(self, memory: Tensor) -> Tensor:
        self.pinned += 1
        self._pinned.add(memory.untyped_storage().data_ptr())
        return memory

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, SimulatedTensor) and tensor.untyped_storage().data_ptr() in self._pinned

    def _wrap(self, inner: Tensor) -> SimulatedTensor:
        """A result on the device, counted by its storage as long as a tensor shares it."""
        storage = inner.untyped_storage()
        key, n_bytes = storage._cdata, storage.nbytes()
        with self._lock:
            if key not in self._held and self.memory is not None and self.live + n_bytes > self.memory:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {n_bytes} bytes. GPU 0 has a total capacity of "
                    f"{self.memory} bytes of which {self.free} bytes is free."
                )
            if key not in self._held:
                self._held[key] = [0, n_bytes]
                self.live += n_bytes
                self.peak = max(self.peak, self.live)
            self._held[key][0] += 1
            made = SimulatedTensor(inner)
            weakref.finalize(made, self._drop, key)
        return made

    def _drop(self, key: int) -> None:
        with self._lock:
            self._held[key][0] -= 1
            if not self._held[key][0]:
                self.live -= self._held.pop(key)[1]

    def _count_copy(self, tensor: Tensor, waits: bool) -> None:
        self.copies += 1
        self.copied += tensor.numel() * tensor.element_size()
        if waits:
            self._wait()


_entered = threading.local()


class _Functions(TorchFunctionMode):
    """What Python calls: transfers, and what gives a Python number or an array."""

    def __init__(self, device: SimulatedCuda) -> None:
        super().__init__()
        self.cuda = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args else None
        here = isinstance(first, SimulatedTensor)
        if name == "numpy" and here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if name == "tolist" and here:
            self.cuda._count_copy(first, waits=True)
            return first.inner.tolist()
        if name in ("cpu", "cuda") and isinstance(first, Tensor):
            return self._move(first, CPU if name == "cpu" else CUDA, None, False)
        if name == "to" and isinstance(first, Tensor):
            return self._to(first, list(args[1:]), kwargs)
        if name in ("pin_memory", "is_pinned"):
            return first if name == "pin_memory" else False
        if kwargs.pop("pin_memory", False):
            with torch._C.DisableTorchFunctionSubclass():
                return self.cuda._pin(func(*args, **kwargs))
        if name in ("tensor", "as_tensor", "asarray") and is_cuda(kwargs.get("device")):
            return self._move(func(*args, **(kwargs | {"device": CPU})), CUDA, None, False)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def _to(self, tensor: Tensor, given: list[Any], settings: dict[str, Any]) -> Tensor:
        device, dtype = settings.pop("device", None), settings.pop("dtype", None)
        for one in given[:2]:
            if isinstance(one, Tensor):
                device, dtype = one.device, one.dtype
            elif isinstance(one, torch.dtype):
                dtype = one
            elif isinstance(one, str | int | torch.device) and not isinstance(one, bool):
                device = one
        device = tensor.device if device is None else torch.device(device)
        waits = not settings.get("non_blocking", False)
        return self._move(tensor, device, dtype, waits, settings.get("copy", False))

    def _move(
        self, tensor: Tensor, device: torch.device, dtype: torch.dtype | None, waits: bool, copy: bool = False
    ) -> Tensor:
        here, dtype = isinstance(tensor, SimulatedTensor), dtype or tensor.dtype
        if here == is_cuda(device):
            with torch._C.DisableTorchFunctionSubclass():
                return Tensor.to(tensor, dtype=dtype, copy=copy)
        inner = tensor.inner if isinstance(tensor, SimulatedTensor) else tensor
        self.cuda._count_copy(tensor, waits=waits or here)
        moved = inner.to(dtype, copy=True)
        return moved if here else self.cuda._wrap(moved)


class _Operations(TorchDispatchMode):
    """What PyTorch computes."""

    def __init__(self, device: SimulatedCuda) -> None:
        super().__init__()
        self.cuda = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func._schema.name.split("::")[1]
        tensors = [one for one in find_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = [one for one in tensors if isinstance(one, SimulatedTensor)]
        wanted = next((one for one in [*args, *kwargs.values()] if isinstance(one, torch.device)), None)
        if not there and not is_cuda(wanted):
            return func(*args, **kwargs)
        if name not in COPIES:
            require_one_device(name, args, tensors, SimulatedTensor)
        stays = is_cuda(wanted) if wanted is not None else True
        crosses = (name in COPIES and wanted is not None and stays != bool(there)) or (
            name in ("copy_", "copy") and len(there) < len(tensors)
        )
        if crosses:
            source, behind = tensors[-1], kwargs.get("non_blocking", args[2:3] == (True,))
            pageable = isinstance(source, SimulatedTensor) and not self.cuda._is_pinned(tensors[0])
            self.cuda._count_copy(source, waits=pageable or not behind)
            stays = is_cuda(wanted) if wanted is not None else isinstance(tensors[0], SimulatedTensor)
        elif not func.is_view and name not in NO_LAUNCH:
            self.cuda.launches += 1
            self.cuda.operations[name] += 1
        if name in WAITS or (name in BY_INDEX and indexes_by_mask(args)):
            self.cuda._wait()
        args, kwargs = change_leaves(unwrap, args), change_leaves(unwrap, kwargs)
        kwargs = {key: CPU if is_cuda(value) else value for key, value in kwargs.items() if key != "pin_memory"}
        args = tuple(CPU if is_cuda(one) else one for one in args)
        given = {id(one.inner): one for one in there}
        result = func(*args, **kwargs)

        def wrap(one: Any) -> Any:
            if not isinstance(one, Tensor) or isinstance(one, SimulatedTensor) or not stays:
                return one
            return given[id(one)] if id(one) in given else self.cuda._wrap(one)

        return change_leaves(wrap, result)
