"""Products in full precision, whatever is set outside: a fit must not change with `trainer.precision`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

DEVICES = ("cpu", "cuda", "mps")


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch off autocast, TF32 and products of float32 in bfloat16, and restore them in the end; also a decorator.

    Autocast belongs to the thread, the other two to the process.

        >>> with full_precision():  # doctest: +SKIP
        ...     scores = weight @ acts.mT  # in the dtype of its operands
    """
    every: Any = torch.backends  # whose attributes are not declared
    of_devices = every.cuda.matmul, every.mkldnn.matmul
    # What is not set for products follows what is set for all of PyTorch, and must go on following it.
    before = ["none" if (own := of.fp32_precision) == every.fp32_precision else own for of in of_devices]
    with ExitStack() as outside:
        outside.callback(_set_products, of_devices, before)
        _set_products(of_devices, ["ieee", "ieee"])
        # The older setting is kept beside these, and PyTorch refuses to read it where they disagree.
        older = torch.get_float32_matmul_precision()
        if older != "highest":
            outside.callback(torch.set_float32_matmul_precision, older)
            torch.set_float32_matmul_precision("highest")
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                outside.enter_context(torch.autocast(device, enabled=False))
        yield


def _set_products(of_devices: tuple, precisions: list[str]) -> None:
    for of, precision in zip(of_devices, precisions, strict=True):
        of.fp32_precision = precision
