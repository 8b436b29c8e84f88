"""Reads the next tensor in a background thread while the last one is used.

Memory is reused, because fresh pages cost as much time as the reading. A tensor that is still referenced is never
overwritten.
"""

import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import starmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.stream.store import Starmap

Fill = Callable[[Tensor, Starmap], object]
Job = tuple[tuple[int, ...], Fill]


def count_copies(device: torch.device) -> int:
    """Return how many copies of the largest tensor are in the memory of this machine at most.

    On the CPU one is in use while its successor is ready, and the one after that is being read. For a GPU there are two
    pinned buffers, whose allocator rounds up to a power of two.
    """
    return 4 if device.type == "cuda" else 3


def count_readers(device: torch.device) -> int:
    """Return the number of reading threads: two are enough for CPU memory; a GPU needs more."""
    return min(8 if device.type == "cuda" else 2, len(os.sched_getaffinity(0)))


def read_ahead(jobs: Sequence[Job], dtype: torch.dtype, device: torch.device) -> Generator[Tensor, None, None]:
    """Fill a tensor for each job, in order, one job ahead of the consumer.

    Close it where the loop may be left early, with `contextlib.closing`. The threads end after their current read, and
    nothing waits for them: Python may close the generator in a finaliser, where a Ctrl-C is lost.

    Args:
        jobs: shape of each tensor, and what fills it: called with a contiguous CPU tensor and a `starmap` that spreads
            calls over threads.
        dtype: dtype of all tensors.
        device: device of all tensors.

    Raises:
        Exception: what a job raises, when its tensor is requested.
    """
    n_bytes = max(math.prod(shape) for shape, _ in jobs) * dtype.itemsize
    place = _Pinned(n_bytes, device) if device.type == "cuda" else _Reused(n_bytes, len(jobs))
    n_readers, coming = count_readers(device), deque()
    pool, thread = ThreadPoolExecutor(n_readers, "reader"), ThreadPoolExecutor(1, "read-ahead", place.begin)
    each = starmap if n_readers == 1 else _spread(pool)
    try:
        for shape, fill in jobs:
            coming.append(thread.submit(place.read, shape, dtype, fill, each))
            if len(coming) > 1:
                # Bind no name to the tensor: it would stay alive until the next request.
                yield place.hand_over(coming.popleft().result())
        yield place.hand_over(coming.popleft().result())
    finally:
        for executor in (thread, pool):
            executor.shutdown(wait=False, cancel_futures=True)
        place.close()


def _spread(pool: ThreadPoolExecutor) -> Starmap:
    return lambda call, arguments: pool.map(lambda each: call(*each), arguments)


class _Reused:
    """CPU memory that is reused when no tensor shares it any more."""

    def __init__(self, n_bytes: int, n_uses: int) -> None:
        self.n_bytes, self.n_uses = n_bytes, n_uses
        self.free: list[np.ndarray] = []

    def begin(self) -> None:
        """What the reading thread does first."""

    def read(self, shape: tuple[int, ...], dtype: torch.dtype, fill: Fill, each: Starmap) -> Tensor:
        memory = self.free.pop() if self.free else _allocate(self.n_bytes)
        self.n_uses -= 1
        # Only the storage of the returned tensor, and so every view of it, references this array.
        shared = memory.view()
        weakref.finalize(shared, self._take_back, memory).atexit = False
        acts = _shape(torch.from_numpy(shared), shape, dtype)
        fill(acts, each)
        return acts

    def hand_over(self, acts: Tensor) -> Tensor:
        return acts

    def close(self) -> None:
        self.n_uses = 0
        self.free.clear()

    def _take_back(self, memory: np.ndarray) -> None:
        if len(self.free) < self.n_uses:
            self.free.append(memory)


class _Pinned:
    """Two pinned buffers, each copied to the GPU at once, on a stream of its own.

    The copy runs while the other buffer is filled and while the consumer's stream works; device memory is new for each.
    Every pass over a device uses the same stream: memory that the last pass freed on it is given out again, and that of
    another stream would not be.
    """

    def __init__(self, n_bytes: int, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.n_bytes, self.device = n_bytes, torch.device("cuda", index)
        self.stream = get_copy_stream(self.device)
        self.buffers: deque[tuple[Any, Any]] = deque([(None, None)] * 2)

    def begin(self) -> None:
        # A thread starts on device 0, where the pinned allocator would make a context of half a gigabyte.
        torch.cuda.set_device(self.device)

    def read(self, shape: tuple[int, ...], dtype: torch.dtype, fill: Fill, each: Starmap) -> Any:
        memory, copied = self.buffers.popleft()
        if memory is None:
            # Made by this thread: one made by the consumer under inference_mode could not be filled here.
            memory = torch.empty(self.n_bytes, dtype=torch.uint8, pin_memory=True)
        else:
            copied.synchronize()  # its last content has been copied
        acts = _shape(memory, shape, dtype)
        fill(acts, each)
        with torch.cuda.stream(self.stream):
            there = acts.to(self.device, non_blocking=True)
            copied = self.stream.record_event()
        self.buffers.append((memory, copied))
        return there, copied

    def hand_over(self, copy: tuple[Tensor, torch.cuda.Event]) -> Tensor:
        acts, copied = copy
        consumer = torch.cuda.current_stream(self.device)
        consumer.wait_event(copied)
        acts.record_stream(consumer)  # its memory is not reused before the consumer's work on it is done
        return acts

    def close(self) -> None:
        self.buffers.clear()


@cache
def get_copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device on which copies from and to the host run, one for the whole process.

    >>> get_copy_stream(torch.device("cuda", 0))  # doctest: +SKIP
    <torch.cuda.Stream device=cuda:0 cuda_stream=0x55d0c0>
    """
    return torch.cuda.Stream(device)


def _allocate(n_bytes: int) -> np.ndarray:
    """Memory from numpy, which asks for huge pages: the first touch took a seventh of the time of torch's."""
    memory = np.empty(n_bytes + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:n_bytes]  # as torch aligns its own


def _shape(memory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return memory[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
