"""Brings tensors from a GPU to the host, and uses them there, while the GPU goes on with the next batch."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from datamodules.stream.read_ahead import get_copy_stream

Use = Callable[[Mapping[str, Tensor]], None]


@dataclass
class _Buffers:
    """Pinned memory for the tensors of one batch, by name, and the use of what was last copied there."""

    memory: dict[str, Tensor] = field(default_factory=dict)
    used: Future[None] | None = None

    def wait(self) -> None:
        """Wait until the last content is used; raises what that raised."""
        used, self.used = self.used, None
        if used is not None:
            used.result()

    def take(self, name: str, like: Tensor) -> Tensor:
        """Pinned memory for one tensor: what is there, if it is large enough."""
        n_bytes = like.numel() * like.element_size()
        if name not in self.memory or len(self.memory[name]) < n_bytes:
            self.memory[name] = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
        return self.memory[name][:n_bytes].view(like.dtype).view(like.shape)


class HostCopy:
    """Tensors that are on their way to the host.

    Attributes:
        tensors: on the host, filled once the copy is done.
    """

    def __init__(self, tensors: Mapping[str, Tensor], buffers: _Buffers | None = None, copied: Any = None) -> None:
        self.tensors, self._buffers, self._copied = tensors, buffers, copied


class HostCopies:
    """Copies batches of tensors through two pinned buffers in turns.

    Pageable memory, which `cpu()` gives, is filled at a small part of the speed of the bus, and the GPU waits for it.
    Of a model on the CPU, nothing is copied and everything is done at once.

    Example:
        >>> copies, seen = HostCopies(), []
        >>> copies.use(copies.start({"h": torch.ones(2)}), lambda tensors: seen.append(tensors["h"].tolist()))
        >>> copies.finish()
        >>> seen
        [[1.0, 1.0]]
    """

    def __init__(self) -> None:
        self._turns = deque([_Buffers(), _Buffers()])
        self._pool: ThreadPoolExecutor | None = None

    def start(self, tensors: Mapping[str, Tensor]) -> HostCopy:
        """Start to copy contiguous tensors of one device; waits for the use of the batch before the last.

        Raises:
            Exception: what an earlier use raised.
        """
        device = next(iter(tensors.values())).device
        if device.type != "cuda":
            return HostCopy({name: tensor.cpu() for name, tensor in tensors.items()})
        if self._pool is None:
            # A thread starts on device 0, where waiting would make a context of half a gigabyte.
            self._pool = ThreadPoolExecutor(1, "host-copies", torch.cuda.set_device, (device,))
        buffers = self._turns[0]
        buffers.wait()
        self._turns.rotate()
        stream = get_copy_stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        there = {name: buffers.take(name, tensor) for name, tensor in tensors.items()}
        with torch.cuda.stream(stream):
            for name, tensor in tensors.items():
                there[name].copy_(tensor, non_blocking=True)
                tensor.record_stream(stream)  # its memory is not given to the next batch before it is copied
            copied = stream.record_event()
        return HostCopy(there, buffers, copied)

    def use(self, copy: HostCopy, use: Use) -> None:
        """Call `use` with the tensors once they are there: in a thread, one batch after the other, or at once."""
        if copy._buffers is None or self._pool is None:
            use(copy.tensors)
            return
        copy._buffers.used = self._pool.submit(partial(_use, copy, use))

    def finish(self) -> None:
        """Wait until everything is used.

        Raises:
            Exception: what a use raised.
        """
        for buffers in self._turns:
            buffers.wait()


def _use(copy: HostCopy, use: Use) -> None:
    copy._copied.synchronize()
    use(copy.tensors)
