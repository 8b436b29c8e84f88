"""Memory laid out as safetensors files, so that filling the tensors fills the files."""

import json
import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.language.progress import format_size
from datamodules.stream.memory import measure_free_memory
from datamodules.stream.out_of_memory import pass_over_out_of_memory

KINDS = {torch.bfloat16: "BF16", torch.float32: "F32"}  # as a header names them


class FileBuffers:
    """Lends memory for files that hold one tensor `h` each; what nobody uses any more is lent again.

    Memory that is used for the first time costs more than filling it does: the system hands it out in small pages.

    Example:
        >>> h, files = FileBuffers().lend(2, (3, 4), torch.bfloat16)
        >>> h.shape, [len(file) for file in files]
        (torch.Size([2, 3, 4]), [96, 96])
    """

    def __init__(self) -> None:
        self._lent: list[tuple[Tensor, weakref.ref[np.ndarray]]] = []

    def lend(self, n: int, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, list[memoryview]]:
        """Lend memory for n files, each with a tensor `h` of some shape.

        Raises:
            ValueError: the memory of this machine does not hold them.

        Returns:
            the tensors `[n, *shape]`, to be filled, and the bytes of the n files, which change with them.
        """
        header = _write_header(shape, dtype)
        length = len(header) + math.prod(shape) * dtype.itemsize
        files = self._find(n * length).reshape(n, length)
        files[:, : len(header)] = np.frombuffer(header, np.uint8)
        h = torch.from_numpy(files)[:, len(header) :].view(dtype).unflatten(1, list(shape))
        return h, [file.data for file in files]

    def _find(self, size: int) -> np.ndarray:
        """Memory that is not in use: all that is lent is a view of an array, so that is gone when they are."""
        memory = next((memory for memory, use in self._lent if use() is None and len(memory) >= size), None)
        if memory is None:
            memory = _allocate(size)
        array = memory.numpy()
        others = [(other, use) for other, use in self._lent if use() is not None]
        self._lent = [*others, (memory, weakref.ref(array))]
        return array[:size]


def _allocate(size: int) -> Tensor:
    with pass_over_out_of_memory():
        return torch.empty(size, dtype=torch.uint8)
    raise ValueError(
        f"memory: expected {format_size(size)} for the files of one shard, got {format_size(measure_free_memory())} "
        "free on this machine; free some, or read fewer layers, positions or sites in one run"
    )


def _write_header(shape: Sequence[int], dtype: torch.dtype) -> bytes:
    """Length and header of a file with one tensor, as the safetensors package writes them."""
    end = math.prod(shape) * dtype.itemsize
    tensor = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [0, end]}
    header = json.dumps({"h": tensor}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the tensor starts at a multiple of 8
    return len(header).to_bytes(8, "little") + header
