"""Products in full precision, whatever is set outside: a fit must not change with `trainer.precision`."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

DEVICES = ("cpu", "cuda", "mps")


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
