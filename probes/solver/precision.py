"""Full precision, whatever is set outside and wherever tensors lie: a fit must not change with either."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

DEVICES = ("cpu", "cuda", "mps")
Given = ParamSpec("Given")
Fit = TypeVar("Fit")


def off_mps(fit: Callable[Given, Fit]) -> Callable[Given, Fit]:
    """Compute on the CPU what is given on Apple's GPU, which has no float64, and bring the result back; a decorator.

    The first argument tells the device; results have to be of other dtypes.

        >>> fit = off_mps(fit_logistic)(acts.to("mps"), labels.to("mps"))  # doctest: +SKIP
    """

    @wraps(fit)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Fit:
        device: Any = getattr(args[0] if args else kwargs.get("acts"), "device", None)
        if device is None or device.type != "mps":
            return fit(*args, **kwargs)
        call: Any = fit  # types of what is moved are not followed
        args_here, kwargs_here = tree_map(_bring("cpu"), (args, kwargs))
        return tree_map(_bring(device), call(*args_here, **kwargs_here))

    return wrapped


def _bring(device: Any) -> Callable[[Any], Any]:
    return lambda one: one.to(device) if isinstance(one, Tensor) else one


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch off autocast, TF32 and products of float32 in bfloat16, and restore them in the end; also a decorator.

    Autocast belongs to the thread, the other two to the process: the first thread inside changes them, and the last one
    out restores them.

        >>> with full_precision():  # doctest: +SKIP
        ...     scores = weight @ acts.mT  # in the dtype of its operands
    """
    with _PRODUCTS.exact(), ExitStack() as autocasts:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                autocasts.enter_context(torch.autocast(device, enabled=False))
        yield


class _Products:
    """The settings of the process for products of float32, and how many threads need them exact."""

    def __init__(self) -> None:
        self.lock, self.users, self.outside = threading.Lock(), 0, ExitStack()

    @contextmanager
    def exact(self) -> Iterator[None]:
        with self.lock:
            if not self.users:
                self._set_exact()
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if not self.users:
                    self.outside.close()

    def _set_exact(self) -> None:
        """Set them, and note on `outside` how to restore them."""
        every: Any = torch.backends  # whose attributes are not declared
        of_devices = every.cuda.matmul, every.mkldnn.matmul
        # What is not set for products follows what is set for all of PyTorch, and must go on following it.
        before = ["none" if (own := of.fp32_precision) == every.fp32_precision else own for of in of_devices]
        self.outside.callback(_set_products, of_devices, before)
        _set_products(of_devices, ["ieee", "ieee"])
        # The older setting is kept beside these, and PyTorch refuses to read it where they disagree.
        older = torch.get_float32_matmul_precision()
        if older != "highest":
            self.outside.callback(torch.set_float32_matmul_precision, older)
            torch.set_float32_matmul_precision("highest")


def _set_products(of_devices: tuple, precisions: list[str]) -> None:
    for of, precision in zip(of_devices, precisions, strict=True):
        of.fp32_precision = precision


_PRODUCTS = _Products()
